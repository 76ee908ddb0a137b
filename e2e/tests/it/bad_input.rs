//! What is wrong is said, with its place; nothing ends, nothing is half done.

use std::process::Command;

use e2e::{Kubectl, binary};

use super::Up;

#[test]
fn wrong_manifests_name_the_fault_and_change_nothing() {
    let up = Up::start(&["--nodes", "0", "--runtime", "simulated"]);
    let lite = Kubectl::with_program(&binary("kubectl-lite"), &up.kubeconfig());
    let cases = [
        ("kind: A\nspec:\n  a: [1\nb: 2\n", "line 4 column 2"),
        ("{apiVersion: v1, kind: ConfigMap, metadata: {name: x}, dat: {}}", "dat"),
        (
            "{apiVersion: apps/v1, kind: Deployment, metadata: {name: x}, spec: {replicas: many}}",
            "spec.replicas",
        ),
        ("{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {}}", "spec.containers"),
        ("{apiVersion: apps/v1, kind: Deploymnt, metadata: {name: x}}", "near: Deployment (apps/v1)"),
        ("{apiVersion: v1, kind: ConfigMap, metadata: {name: Not_A_Name}}", "metadata.name"),
    ];
    for (text, named) in cases {
        let said = lite.try_input(&["create", "-f", "-"], text);
        assert!(!said.ok && said.err.contains(named), "{text}\nsaid: {}{}", said.out, said.err);
    }
    assert_eq!(lite.run(&["get", "cm", "-o", "name"]), "configmap/kube-root-ca.crt\n");
}

#[test]
fn a_stale_update_conflicts() {
    let up = Up::start(&["--nodes", "0", "--runtime", "simulated"]);
    let kubectl = up.kubectl();
    kubectl.run(&["create", "configmap", "c", "--from-literal=a=1"]);
    let stale = kubectl.run(&["get", "cm", "c", "-o", "yaml"]);
    kubectl.run(&["patch", "cm", "c", "-p", "{\"data\":{\"a\":\"2\"}}"]);
    let said = kubectl.try_input(&["replace", "-f", "-"], &stale);
    assert!(
        said.err.contains("(Conflict)") && said.err.contains("the object has been modified"),
        "{}",
        said.err
    );
}

#[test]
fn a_foreign_data_directory_is_refused_untouched() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = folder.path().join("store");
    std::fs::create_dir(&store).expect("a folder");
    std::fs::write(store.join("precious.txt"), "mine").expect("a file");
    let ended = Command::new(binary("coxswain"))
        .args(["up", "--nodes", "0", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(folder.path())
        .output()
        .expect("coxswain runs");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success(), "{said}");
    assert!(said.contains(&store.display().to_string()), "{said}");
    assert_eq!(std::fs::read_to_string(store.join("precious.txt")).expect("still there"), "mine");
    assert_eq!(std::fs::read_dir(&store).expect("a folder").count(), 1);
}

#[test]
fn a_second_server_says_who_holds_the_data() {
    let up = Up::start(&["--nodes", "0", "--runtime", "simulated"]);
    let second = Command::new(binary("coxswain"))
        .args(["up", "--nodes", "0", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(up.data.path())
        .output()
        .expect("coxswain runs");
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(!second.status.success(), "{said}");
    assert!(said.contains(&up.daemon.pid().to_string()), "{said}");
}
