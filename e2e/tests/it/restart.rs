//! What was acknowledged is there after a clean stop and after a crash; the cluster goes on converging.

use std::time::Duration;

use super::{LIMIT, Up};

const SIMULATED: &[&str] = &["--nodes", "2", "--runtime", "simulated"];

#[test]
fn objects_survive_a_stop_and_a_crash() {
    let up = Up::start(SIMULATED);
    let kubectl = up.kubectl();
    kubectl.run(&["create", "deployment", "web", "--image=example.test/web", "--replicas=4"]);
    kubectl.run(&["rollout", "status", "deploy/web", "--timeout", "60s"]);
    let uid = kubectl.run(&["get", "deploy", "web", "-o", "jsonpath={.metadata.uid}"]);

    let Up { daemon, data } = up;
    assert!(daemon.stop(Duration::from_secs(60)).success());
    let up = Up::start_in(data, SIMULATED);
    let kubectl = up.kubectl();
    assert_eq!(kubectl.run(&["get", "deploy", "web", "-o", "jsonpath={.metadata.uid}"]), uid);
    kubectl.run(&["scale", "deploy/web", "--replicas", "6"]);

    let Up { daemon, data } = up;
    daemon.crash();
    let up = Up::start_in(data, SIMULATED);
    let kubectl = up.kubectl();
    assert_eq!(kubectl.run(&["get", "deploy", "web", "-o", "jsonpath={.spec.replicas}"]), "6");
    kubectl.until(&["get", "deploy", "web", "-o", "jsonpath={.status.readyReplicas}"], "6", LIMIT);
    assert_eq!(kubectl.run(&["get", "pods", "-o", "name"]).lines().count(), 6, "no pod too many");
}
