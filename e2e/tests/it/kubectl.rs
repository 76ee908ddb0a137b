//! The real kubectl drives a cluster of simulated nodes through everything it is used for daily.

use e2e::needs;

use super::{LIMIT, Up};

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  replicas: 3
  selector:
    matchLabels: {app: web}
  template:
    metadata:
      labels: {app: web}
    spec:
      containers:
        - name: web
          image: example.test/web:1
          ports: [{containerPort: 80}]
"#;

#[test]
fn kubectl_works_unchanged() {
    if !needs("kubectl_works_unchanged", &["kubectl"]) {
        return;
    }
    let up = Up::start(&["--nodes", "2", "--runtime", "simulated"]);
    let kubectl = up.kubectl();

    assert!(kubectl.run(&["version"]).contains("Server Version: v1.36"));
    let resources = kubectl.run(&["api-resources"]);
    assert!(resources.contains("deployments") && resources.contains("deploy"), "{resources}");
    assert!(kubectl.run(&["get", "nodes"]).contains("Ready"));
    assert_eq!(kubectl.run(&["auth", "can-i", "create", "pods"]).trim(), "yes");
    assert!(kubectl.run(&["explain", "deployment.spec.strategy"]).contains("rollingUpdate"));

    assert_eq!(kubectl.run_input(&["apply", "-f", "-"], WEB), "deployment.apps/web created\n");
    assert_eq!(kubectl.run_input(&["apply", "-f", "-"], WEB), "deployment.apps/web unchanged\n");
    kubectl.run(&["rollout", "status", "deploy/web", "--timeout", "60s"]);
    kubectl.run(&["wait", "--for=condition=Available", "deploy/web", "--timeout", "60s"]);
    let pods = kubectl.run(&["get", "pods", "-o", "wide"]);
    assert_eq!(pods.matches("Running").count(), 3, "{pods}");
    let phases = kubectl.run(&["get", "pods", "-o", "jsonpath={.items[*].status.phase}"]);
    assert_eq!(phases, "Running Running Running");
    assert!(kubectl.run(&["get", "all"]).contains("replicaset.apps/web-"));
    assert!(kubectl.run(&["get", "deploy", "web", "-o", "yaml"]).contains("image: example.test/web:1"));
    assert!(kubectl.run(&["get", "deploy", "web", "-o", "json"]).contains("\"kind\": \"Deployment\""));
    let described = kubectl.run(&["describe", "deploy", "web"]);
    assert!(described.contains("ScalingReplicaSet"), "{described}");

    kubectl.run(&["scale", "deploy/web", "--replicas", "5"]);
    kubectl.run(&["rollout", "status", "deploy/web", "--timeout", "60s"]);
    kubectl.run(&["set", "image", "deploy/web", "web=example.test/web:2"]);
    kubectl.run(&["rollout", "status", "deploy/web", "--timeout", "60s"]);
    let history = kubectl.run(&["rollout", "history", "deploy/web"]);
    assert!(history.contains('1') && history.contains('2'), "{history}");
    kubectl.run(&["rollout", "undo", "deploy/web"]);
    kubectl.run(&["rollout", "status", "deploy/web", "--timeout", "60s"]);
    assert!(kubectl.run(&["get", "deploy", "web", "-o", "yaml"]).contains("image: example.test/web:1"));
    kubectl.run(&["rollout", "restart", "deploy/web"]);
    kubectl.run(&["rollout", "status", "deploy/web", "--timeout", "60s"]);

    kubectl.run(&["label", "deploy/web", "tier=front"]);
    assert!(
        kubectl.run(&["get", "deploy", "-l", "tier=front", "-o", "name"]).contains("deployment.apps/web")
    );
    let mut edit = kubectl.command(&["edit", "deploy/web"]);
    let edited = edit.env("EDITOR", "sed -i s/tier:.front/tier:\\ back/").output().expect("kubectl runs");
    assert!(edited.status.success(), "{}", String::from_utf8_lossy(&edited.stderr));
    assert!(kubectl.run(&["get", "deploy", "-l", "tier=back", "-o", "name"]).contains("deployment.apps/web"));

    assert!(!kubectl.run(&["logs", "deploy/web"]).is_empty());
    kubectl.run(&["exec", "deploy/web", "--", "true"]);
    kubectl.run(&["delete", "deploy/web", "--timeout", "60s"]);
    kubectl.until(&["get", "pods", "--no-headers", "--ignore-not-found", "-o", "name"], "", LIMIT);
}

#[test]
fn kubectl_creates_what_its_generators_make() {
    if !needs("kubectl_creates_what_its_generators_make", &["kubectl"]) {
        return;
    }
    let up = Up::start(&["--nodes", "1", "--runtime", "simulated"]);
    let kubectl = up.kubectl();
    for args in [
        &["create", "namespace", "shop"][..],
        &["create", "deployment", "a", "--image=example.test/a"],
        &["create", "configmap", "c", "--from-literal=k=v"],
        &["create", "secret", "generic", "s", "--from-literal=k=v"],
        &["create", "serviceaccount", "robot"],
        &["create", "role", "reader", "--verb=get", "--resource=pods"],
        &["create", "rolebinding", "robot-reads", "--role=reader", "--serviceaccount=default:robot"],
        &["create", "clusterrole", "nodes", "--verb=list", "--resource=nodes"],
        &["create", "job", "j", "--image=example.test/j"],
        &["create", "cronjob", "cj", "--image=example.test/j", "--schedule=*/5 * * * *"],
        &["create", "service", "clusterip", "svc", "--tcp=80:80"],
        &["create", "priorityclass", "high", "--value=1000"],
        &["create", "poddisruptionbudget", "p", "--selector=app=a", "--min-available=1"],
        &["run", "one", "--image=example.test/one"],
    ] {
        kubectl.run(args);
    }
    assert_eq!(
        kubectl.run(&["auth", "can-i", "get", "pods", "--as=system:serviceaccount:default:robot"]).trim(),
        "yes"
    );
    let denied =
        kubectl.try_run(&["auth", "can-i", "delete", "pods", "--as=system:serviceaccount:default:robot"]);
    assert_eq!(denied.out.trim(), "no");
    kubectl.run(&["delete", "namespace", "shop", "--timeout", "60s"]);
}
