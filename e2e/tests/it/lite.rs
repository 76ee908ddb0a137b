//! kubectl-lite does its verbs on a cluster of simulated nodes.

use e2e::{Kubectl, binary};

use super::Up;

#[test]
fn kubectl_lite_does_its_verbs() {
    let up = Up::start(&["--nodes", "1", "--runtime", "simulated"]);
    let lite = Kubectl::with_program(&binary("kubectl-lite"), &up.kubeconfig());

    assert!(lite.run(&["version"]).contains("Server Version: v1.36"));
    assert!(lite.run(&["api-resources"]).contains("deployments"));
    assert_eq!(
        lite.run(&["create", "deployment", "web", "--image", "example.test/web", "--replicas", "2"]),
        "deployment.apps/web created\n"
    );
    lite.run(&["rollout", "status", "deploy/web", "--timeout", "60s"]);
    lite.run(&["wait", "deploy/web", "--for", "condition=Available", "--timeout", "60s"]);
    assert_eq!(lite.run(&["get", "pods", "-l", "app=web"]).matches("Running").count(), 2);
    assert_eq!(lite.run(&["scale", "deploy", "web", "--replicas", "1"]), "deployment.apps/web scaled\n");
    assert!(lite.run(&["get", "deploy", "-A", "-o", "wide"]).contains("example.test/web"));
    assert!(lite.run(&["get", "deploy/web", "-o", "yaml"]).contains("kind: Deployment"));
    assert_eq!(lite.run(&["get", "deploy/web", "-o", "name"]), "deployment.apps/web\n");
    let described = lite.run(&["describe", "deploy/web"]);
    assert!(described.contains("ScalingReplicaSet"), "{described}");
    assert_eq!(lite.run(&["run", "one", "--image", "example.test/one"]), "pod/one created\n");
    lite.run(&["wait", "pod/one", "--for", "condition=Ready", "--timeout", "60s"]);
    lite.run(&["logs", "one"]);
    lite.run(&["exec", "one", "--", "true"]);
    let applied = "{apiVersion: v1, kind: ConfigMap, metadata: {name: c}, data: {a: b}}";
    assert_eq!(lite.run_input(&["apply", "-f", "-"], applied), "configmap/c created\n");
    assert_eq!(lite.run_input(&["apply", "-f", "-"], applied), "configmap/c unchanged\n");
    its_extensions_work(&lite);
    it_tells_why(&lite);
    assert_eq!(lite.run(&["delete", "deploy/web", "pod/one"]).lines().count(), 2);

    let unknown = lite.try_run(&["get", "podz"]);
    assert_eq!(
        (unknown.code, unknown.err.as_str()),
        (Some(1), "error: the server doesn't have a resource type \"podz\"; did you mean \"pods\"?\n")
    );
}

/// A pod that finds no node, and a workload that is as wished.
fn it_tells_why(lite: &Kubectl) {
    let large = "{apiVersion: v1, kind: Pod, metadata: {name: large}, spec: {containers: [{name: c, image: \
                 example.test/c, resources: {requests: {cpu: 10k}}}]}}";
    lite.run_input(&["apply", "-f", "-"], large);
    lite.run(&["wait", "pod/large", "--for", "condition=PodScheduled=false", "--timeout", "60s"]);
    let told = lite.run(&["why", "pod", "large"]);
    for part in [
        "PodScheduled is False",
        "NodeResourcesFit refused 1 nodes: Insufficient cpu",
        "Warning FailedScheduling from default-scheduler: 0/1 nodes are available",
        "created by kubernetes-admin (kubectl-lite)",
    ] {
        assert!(told.contains(part), "{part} is not in:\n{told}");
    }
    let told = lite.run(&["why", "deploy/web"]);
    for part in
        ["nothing about it is other than wished", "1 of 1 are as wished", "deployment-controller last looked"]
    {
        assert!(told.contains(part), "{part} is not in:\n{told}");
    }
    lite.run(&["delete", "pod/large"]);
}

/// History, undo, reads of the past, transactions.
fn its_extensions_work(lite: &Kubectl) {
    let changed = "{apiVersion: v1, kind: ConfigMap, metadata: {name: c}, data: {a: z}}";
    lite.run_input(&["apply", "-f", "-"], changed);
    let history = lite.run(&["history", "configmap", "c"]);
    assert!(history.contains(".data.a: \"b\" -> \"z\""), "{history}");
    let created = history.split_whitespace().nth(1).expect("a line has a revision");
    assert!(lite.run(&["get", "cm/c", "--at", created, "-o", "yaml"]).contains("a: b"));
    assert!(lite.run(&["undo", "cm/c"]).starts_with("configmap/c undone revision "));
    assert!(lite.run(&["get", "cm/c", "-o", "yaml"]).contains("a: b"));
    let both = "{apiVersion: v1, kind: ConfigMap, metadata: {name: c}, data: {a: y}}\n---\n\
                {apiVersion: v1, kind: ConfigMap, metadata: {name: d}, data: {a: y}}\n";
    // The manifest would take back what was undone: it is told, and neither object is written.
    let refused = lite.try_input(&["apply", "--atomic", "-f", "-"], both);
    assert!(refused.err.contains(".data.a") && refused.err.contains("Nothing was changed."), "{refused:?}");
    assert!(!lite.try_run(&["get", "cm/d"]).ok);
    let said = lite.run_input(&["apply", "--atomic", "--force-conflicts", "-f", "-"], both);
    assert!(
        said.starts_with("configmap/c configured\n    .data.a: \"b\" -> \"y\"\nconfigmap/d created\n"),
        "{said}"
    );
    let history = lite.run(&["history", "configmap", "d"]);
    assert!(history.contains("together with configmaps/default/c"), "{history}");
    // A controller's write says what it reacted to.
    let history = lite.run(&["history", "deployment", "web"]);
    assert!(history.contains("because of revision"), "{history}");
}
