//! The benchmark's scenarios of workloads come to their end on simulated nodes, at a small size.

use std::process::Command;

use e2e::binary;

use super::Up;

#[test]
fn workload_scenarios_measure_a_small_cluster() {
    let up = Up::start(&["--nodes", "2", "--runtime", "simulated"]);
    let mut bench = Command::new(binary("bench"));
    bench.arg("--kubeconfig").arg(up.kubeconfig()).args(["--pid", &up.daemon.pid().to_string()]);
    bench.args(["--scenario", "rollout,fleet,jobs,rest", "--replicas", "20", "--deployments", "10"]);
    bench.args(["--jobs", "5", "--completions", "4", "--rest-replicas", "2", "--rest-seconds", "1"]);
    let ran = bench.args(["--wait-seconds", "100"]).output().expect("it runs");
    let (said, complained) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{complained}\n{said}");
    for part in [
        "Deployment of 20, made until all are available",
        "Deployment of 20, rolled over, requests",
        "Deployment of 20, deleted until the last pod is gone",
        "10 Deployments of 3 at once, until all are available",
        "5 Jobs of 4 at once, until all are complete, CPU per 1,000 pods",
        "at rest with 10 Deployments and 20 pods, resident",
    ] {
        assert!(said.contains(part), "{part} is not in:\n{said}");
    }
}
