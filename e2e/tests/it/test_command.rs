//! `coxswain test -- COMMAND`: a fresh cluster for one command.

use std::process::Command;

use e2e::{binary, needs};

#[test]
fn the_command_gets_a_cluster_and_its_exit_code_is_passed_on() {
    if !needs("the_command_gets_a_cluster_and_its_exit_code_is_passed_on", &["kubectl"]) {
        return;
    }
    let script = "kubectl create deployment web --image=example.test/web --replicas=2 \
        && kubectl rollout status deploy/web --timeout=60s && kubectl get nodes -o name && exit 7";
    let ended = Command::new(binary("coxswain"))
        .args(["test", "--", "sh", "-c", script])
        .output()
        .expect("coxswain runs");
    let out = String::from_utf8_lossy(&ended.stdout);
    assert_eq!(ended.status.code(), Some(7), "{out}{}", String::from_utf8_lossy(&ended.stderr));
    assert!(out.contains("successfully rolled out"), "{out}");
    assert_eq!(out.matches("node/node-").count(), 2, "{out}");
}

#[test]
fn many_clusters_run_in_one_process() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let start = || coxswain::Cluster::start(coxswain::Options::default());
        let (a, b, c) = tokio::try_join!(start(), start(), start()).expect("three clusters");
        let names = |cluster: &coxswain::Cluster| {
            let namespaces: kube::Api<k8s_openapi::api::core::v1::Namespace> = kube::Api::all(cluster.client());
            async move { namespaces.list(&kube::api::ListParams::default()).await.expect("a list").items.len() }
        };
        for cluster in [&a, &b, &c] {
            assert!(names(cluster).await >= 4, "each has its own namespaces");
        }
        futures::join!(a.stop(), b.stop(), c.stop());
    });
}
