//! The real kubectl, over TLS, with the kubeconfig that the server makes.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use apiserver::Config;
use component_base::Shutdown;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

struct Kubectl {
    config: std::path::PathBuf,
    home: tempfile::TempDir,
}

impl Kubectl {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.args(args).env("KUBECONFIG", &self.config).env("HOME", self.home.path());
        command.env("EDITOR", "sed -i s/first/second/").stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Runs it and gives what it printed; fails with all of it if it fails.
    async fn run(&self, args: &[&str]) -> String {
        let output = tokio::time::timeout(Duration::from_secs(30), self.command(args).output()).await;
        let output = output.unwrap_or_else(|_| panic!("kubectl {args:?} did not end")).unwrap();
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "kubectl {args:?}: {said}");
        said
    }

    async fn apply(&self, manifest: &str) -> String {
        let path = self.home.path().join("manifest.yaml");
        std::fs::write(&path, manifest).unwrap();
        self.run(&["apply", "-f", path.to_str().unwrap()]).await
    }
}

fn is_installed() -> bool {
    std::env::var_os("PATH")
        .is_some_and(|p| std::env::split_paths(&p).any(|d| Path::new(&d).join("kubectl").exists()))
}

const MANIFEST: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {key: first}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: i}]}
";

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_works_as_against_any_cluster() {
    assert!(is_installed() || std::env::var_os("CI").is_none(), "kubectl must be installed in CI");
    if !is_installed() {
        eprintln!("NOT RUN: kubectl is not installed");
        return;
    }
    component_base::client::install_crypto_provider();
    let data = tempfile::tempdir().unwrap();
    let shutdown = Shutdown::new();
    let config = Config { pki_dir: Some(data.path().join("pki")), ..Config::listening_locally(0) };
    let running = apiserver::start(config, shutdown.clone()).await.unwrap();
    let kubectl =
        Kubectl { config: data.path().join("admin.kubeconfig"), home: tempfile::tempdir().unwrap() };
    reads(&kubectl).await;
    writes(&kubectl).await;
    generators(&kubectl).await;
    watches(&kubectl).await;
    shutdown.cancel();
    running.stopped().await;
}

async fn reads(kubectl: &Kubectl) {
    assert!(kubectl.run(&["version"]).await.contains("v1.36"));
    assert!(kubectl.run(&["api-resources"]).await.contains("deployments"));
    assert!(kubectl.run(&["get", "ns"]).await.contains("kube-system"));
    assert!(kubectl.run(&["get", "clusterroles", "-o", "name"]).await.contains("system:node"));
    assert!(kubectl.run(&["explain", "deployment.spec.replicas"]).await.contains("replicas"));
    assert!(kubectl.run(&["explain", "pods", "--recursive"]).await.contains("containers"));
    assert_eq!(kubectl.run(&["auth", "can-i", "create", "pods"]).await.trim(), "yes");
    assert!(kubectl.run(&["auth", "whoami"]).await.contains("kubernetes-admin"));
}

async fn writes(kubectl: &Kubectl) {
    assert!(kubectl.apply(MANIFEST).await.contains("configmap/settings created"));
    assert!(kubectl.apply(MANIFEST).await.contains("deployment.apps/web unchanged"));
    assert!(kubectl.apply(&MANIFEST.replace("image: i", "image: j")).await.contains("web configured"));
    kubectl.run(&["edit", "configmap", "settings"]).await;
    assert_eq!(kubectl.run(&["get", "cm", "settings", "-o", "jsonpath={.data.key}"]).await, "second");
    kubectl.run(&["label", "cm", "settings", "tier=front"]).await;
    assert!(kubectl.run(&["get", "cm", "-l", "tier=front", "-o", "wide"]).await.contains("settings"));
    kubectl.run(&["scale", "deployment/web", "--replicas=3"]).await;
    assert!(kubectl.run(&["get", "deploy", "web"]).await.contains("0/3"));
    assert!(kubectl.run(&["get", "deploy", "web", "-o", "yaml"]).await.contains("replicas: 3"));
    kubectl.run(&["set", "image", "deployment/web", "c=k"]).await;
    kubectl.run(&["rollout", "restart", "deployment/web"]).await;
    kubectl.run(&["patch", "deploy", "web", "-p", r#"{"spec":{"paused":true}}"#]).await;
    assert!(kubectl.run(&["describe", "deploy", "web"]).await.contains("3 desired"));
    assert!(
        kubectl
            .run(&["delete", "deploy", "web", "--cascade=orphan", "--wait=false"])
            .await
            .contains("deleted")
    );
}

/// These send protobuf.
async fn generators(kubectl: &Kubectl) {
    kubectl.run(&["create", "namespace", "made"]).await;
    kubectl.run(&["create", "secret", "generic", "s", "--from-literal=user=me"]).await;
    assert_eq!(kubectl.run(&["get", "secret", "s", "-o", "jsonpath={.data.user}"]).await, "bWU=");
    kubectl.run(&["create", "deployment", "made", "--image=nginx", "--replicas=2", "--port=80"]).await;
    assert!(kubectl.run(&["get", "deploy", "made", "-o", "wide"]).await.contains("nginx"));
    kubectl.run(&["expose", "deployment", "made", "--port=80"]).await;
    kubectl.run(&["run", "single", "--image=nginx"]).await;
    kubectl.run(&["create", "job", "once", "--image=busybox"]).await;
    kubectl.run(&["create", "cronjob", "often", "--image=busybox", "--schedule=*/5 * * * *"]).await;
    kubectl.run(&["create", "role", "reader", "--verb=get", "--resource=pods"]).await;
    kubectl.run(&["create", "rolebinding", "reads", "--role=reader", "--user=jane"]).await;
    assert_eq!(kubectl.run(&["auth", "can-i", "get", "pods", "--as=jane"]).await.trim(), "yes");
    assert!(kubectl.run(&["get", "all"]).await.contains("deployment.apps/made"));
    kubectl.run(&["delete", "pod", "single", "--wait=false"]).await;
}

async fn watches(kubectl: &Kubectl) {
    let mut command = kubectl.command(&["get", "configmaps", "-w", "--no-headers"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let limit = Duration::from_secs(20);
    let first = tokio::time::timeout(limit, lines.next_line()).await.unwrap().unwrap().unwrap();
    assert!(first.starts_with("settings"), "{first}");
    kubectl.run(&["create", "configmap", "seen", "--from-literal=a=b"]).await;
    let second = tokio::time::timeout(limit, lines.next_line()).await.unwrap().unwrap().unwrap();
    assert!(second.starts_with("seen"), "{second}");
    child.kill().await.unwrap();
}
