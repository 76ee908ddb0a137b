//! Each daemon as a process of its own forms the same cluster, and any of them may be killed.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use e2e::{Daemon, Kubectl, binary, needs};

use super::LIMIT;

struct Apart {
    folder: tempfile::TempDir,
    server: String,
}

impl Apart {
    fn pki(&self) -> std::path::PathBuf {
        self.folder.path().join("pki")
    }

    fn kubeconfig(&self, who: &str) -> String {
        self.pki().join(format!("{who}.kubeconfig")).display().to_string()
    }

    fn apiserver(&self) -> Daemon {
        let listen = self.server.trim_start_matches("https://");
        let mut command = Command::new(binary("apiserver"));
        command.args(["--listen", listen, "--cert-dir"]).arg(self.pki());
        command.arg("--data-dir").arg(self.folder.path().join("data"));
        Daemon::start("apiserver", &mut command)
    }

    fn component(&self, name: &str) -> Daemon {
        let mut command = Command::new(binary(name));
        command.args(["--kubeconfig", &self.kubeconfig(name)]);
        Daemon::start(name, &mut command)
    }

    fn node(&self, name: &str) -> Daemon {
        let mut command = Command::new(binary("nodeagent"));
        command.args(["--kubeconfig", &self.kubeconfig(name), "--hostname-override", name]);
        command.args(["--container-runtime-endpoint", "simulated", "--port", "0", "--root-dir"]);
        command.arg(self.folder.path().join(name));
        let file = |name: String| self.pki().join(name);
        command.arg("--tls-cert-file").arg(file(format!("{name}.crt")));
        command.arg("--tls-private-key-file").arg(file(format!("{name}.key")));
        command.arg("--client-ca-file").arg(file("ca.crt".to_owned()));
        Daemon::start(name, &mut command)
    }
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound").port()
}

fn certificates(pki: &Path, server: &str) {
    let ended = Command::new(binary("coxswain"))
        .args(["certificates", "--server", server, "--node", "node-1", "--node", "node-2", "--dir"])
        .arg(pki)
        .output()
        .expect("coxswain runs");
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
}

#[test]
fn separate_processes_form_the_same_cluster_and_survive_being_killed() {
    if !needs("separate_processes_form_the_same_cluster_and_survive_being_killed", &["kubectl"]) {
        return;
    }
    let server = format!("https://127.0.0.1:{}", free_port());
    let apart = Apart { folder: tempfile::tempdir().expect("a temporary folder"), server };
    certificates(&apart.pki(), &apart.server);
    let apiserver = apart.apiserver();
    let kubectl = Kubectl::new(&apart.pki().join("admin.kubeconfig"));
    kubectl.until(&["get", "--raw", "/readyz"], "ok", LIMIT);
    let manager = apart.component("controller-manager");
    let _scheduler = apart.component("scheduler");
    let _nodes = [apart.node("node-1"), apart.node("node-2")];
    kubectl.until(&["get", "nodes", "--no-headers"], "node-2", LIMIT);
    kubectl.run(&["wait", "--for=condition=Ready", "nodes", "--all", "--timeout", "60s"]);
    kubectl.run(&["create", "deployment", "web", "--image=example.test/web", "--replicas=3"]);
    kubectl.run(&["rollout", "status", "deploy/web", "--timeout", "60s"]);
    assert!(!kubectl.run(&["logs", "deploy/web"]).is_empty(), "the API server reaches the node agents");

    manager.crash();
    kubectl.run(&["scale", "deploy/web", "--replicas", "5"]);
    let _manager = apart.component("controller-manager");
    apiserver.crash();
    let _apiserver = apart.apiserver();
    kubectl.until(&["get", "--raw", "/readyz"], "ok", LIMIT);
    kubectl.until(
        &["get", "deploy", "web", "-o", "jsonpath={.status.readyReplicas}"],
        "5",
        Duration::from_secs(90),
    );
    assert_eq!(kubectl.run(&["get", "pods", "-o", "name"]).lines().count(), 5, "no pod too many");
}
