//! helm takes a chart with hooks, a test and a custom resource through its life.

use std::process::Command;

use e2e::{Kubectl, needs};

use super::{LIMIT, Up, manifest};

/// helm with a home of its own, bound to the cluster of `up`.
struct Helm(Kubectl);

impl Helm {
    fn new(up: &Up) -> Self {
        Self(Kubectl::with_program("helm".as_ref(), &up.kubeconfig()))
    }

    fn run(&self, args: &[&str]) -> String {
        self.0.run(args)
    }
}

#[test]
fn a_chart_with_hooks_and_custom_resources_lives_its_life() {
    if !needs("a_chart_with_hooks_and_custom_resources_lives_its_life", &["helm", "kubectl"]) {
        return;
    }
    let up = Up::start(&["--nodes", "2", "--runtime", "simulated"]);
    let (helm, kubectl) = (Helm::new(&up), up.kubectl());
    let chart = manifest("e2e/tests/charts/shop");
    let shown = |args: &[&str]| kubectl.run(args).trim().to_owned();
    let replicas = || shown(&["get", "deploy", "shop-web", "-o", "jsonpath={.status.readyReplicas}"]);

    let installed = helm.run(&["install", "shop", &chart, "--wait", "--timeout", "60s"]);
    assert!(installed.contains("STATUS: deployed") && installed.contains("shop is open."), "{installed}");
    assert_eq!(replicas(), "2");
    assert!(shown(&["get", "cm", "shop-installed", "-o", "jsonpath={.data.revision}"]).contains('1'));
    let coupon = shown(&["get", "cpn", "shop-welcome"]);
    assert!(coupon.contains("PERCENT") && coupon.contains("10"), "{coupon}");
    assert_eq!(shown(&["get", "coupon", "shop-welcome", "-o", "jsonpath={.spec.once}"]), "true");
    assert_eq!(shown(&["get", "jobs", "-o", "name"]), "", "a hook that succeeded is deleted");

    let upgraded = helm.run(&[
        "upgrade",
        "shop",
        &chart,
        "--set",
        "replicas=3,greeting=welcome,tag=2",
        "--wait",
        "--timeout",
        "60s",
    ]);
    assert!(upgraded.contains("REVISION: 2"), "{upgraded}");
    assert_eq!(replicas(), "3");
    assert_eq!(shown(&["get", "cm", "shop-config", "-o", "jsonpath={.data.greeting}"]), "welcome");
    let tested = helm.run(&["test", "shop", "--timeout", "60s"]);
    assert!(tested.contains("Succeeded"), "{tested}");

    helm.run(&["rollback", "shop", "1", "--wait", "--timeout", "60s"]);
    assert_eq!(shown(&["get", "cm", "shop-config", "-o", "jsonpath={.data.greeting}"]), "hello");
    let image = "jsonpath={.spec.template.spec.containers[0].image}";
    assert_eq!(shown(&["get", "deploy", "shop-web", "-o", image]), "example.test/web:1");
    let history = helm.run(&["history", "shop"]);
    assert!(history.contains("Rollback to 1"), "{history}");

    helm.run(&["uninstall", "shop", "--wait", "--timeout", "60s"]);
    kubectl.until(&["get", "deploy,svc,pods", "-l", "app=shop", "-o", "name"], "", LIMIT);
    let gone = kubectl.try_run(&["get", "cpn", "shop-welcome"]);
    assert!(!gone.ok && gone.err.contains("NotFound"), "{gone:?}");
    assert!(shown(&["get", "crd", "-o", "name"]).contains("coupons.shop.example.test"), "helm keeps CRDs");
}

#[test]
fn the_python_client_watches_and_finds_kinds_by_name() {
    let test = "the_python_client_watches_and_finds_kinds_by_name";
    if !needs(test, &["python3", "kubectl"]) {
        return;
    }
    let module = Command::new("/usr/bin/python3").args(["-c", "import kubernetes"]).output();
    if !module.is_ok_and(|it| it.status.success()) && !needs(test, &["the Python module kubernetes"]) {
        return;
    }
    let up = Up::start(&["--nodes", "1", "--runtime", "simulated"]);
    let mut python = Command::new("/usr/bin/python3");
    python.arg(manifest("e2e/tests/python/clients.py")).env("KUBECONFIG", up.kubeconfig());
    let ended = python.output().expect("python runs");
    let said =
        format!("{}{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert!(ended.status.success(), "{said}");
    assert!(said.trim_end().ends_with("all good"), "{said}");
}
