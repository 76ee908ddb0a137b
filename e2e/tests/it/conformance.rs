//! What Kubernetes' conformance tests demand of the API alone, walked by hand: a script for each group of them.

use std::process::Command;

use e2e::needs;

use crate::{Up, manifest};

const SCRIPTS: &[&str] = &["api_machinery.py", "auth.py", "network.py", "node.py", "storage.py"];

#[test]
fn the_api_is_what_the_conformance_tests_demand() {
    let test = "the_api_is_what_the_conformance_tests_demand";
    if !needs(test, &["python3", "openssl"]) {
        return;
    }
    let module = Command::new("/usr/bin/python3").args(["-c", "import kubernetes"]).output();
    if !module.is_ok_and(|it| it.status.success()) && !needs(test, &["the Python module kubernetes"]) {
        return;
    }
    let up = Up::start(&["--nodes", "1", "--runtime", "simulated"]);
    for script in SCRIPTS {
        let mut python = Command::new("/usr/bin/python3");
        python.arg(manifest(&format!("e2e/tests/python/{script}"))).env("KUBECONFIG", up.kubeconfig());
        // Compiled modules would be left in the source tree.
        let ended = python.env("PYTHONDONTWRITEBYTECODE", "1").output().expect("python runs");
        let said =
            format!("{}{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
        assert!(ended.status.success() && said.trim_end().ends_with("all good"), "{script}: {said}");
    }
}
