//! The tour in real containers: processes, logs, terminals, limits, and nothing left behind.

use std::time::Duration;

use e2e::needs;

use super::{LIMIT, Up, manifest};

/// What a node could leave on this machine.
fn traces(data: &std::path::Path) -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let data = data.display().to_string();
    let mounts: Vec<String> =
        read("/proc/self/mountinfo").lines().filter(|line| line.contains(&data)).map(str::to_owned).collect();
    let processes: Vec<String> = std::fs::read_dir("/proc")
        .expect("/proc is there")
        .filter_map(Result::ok)
        .map(|entry| read(&entry.path().join("cmdline").display().to_string()).replace('\0', " "))
        .filter(|line| line.contains(&data))
        .collect();
    [mounts, processes].concat().join("\n")
}

/// Routes to the pods of the three nodes, 10.244.0.0/24 to 10.244.2.0/24, as the kernel's table writes them.
fn pod_routes() -> usize {
    let table = std::fs::read_to_string("/proc/net/route").expect("/proc is there");
    table
        .lines()
        .filter(|line| ["0000F40A", "0001F40A", "0002F40A"].iter().any(|net| line.contains(net)))
        .count()
}

#[test]
fn the_tour_runs_real_processes_and_leaves_nothing() {
    if !needs("the_tour_runs_real_processes_and_leaves_nothing", &["kubectl", "root"]) {
        return;
    }
    let up = Up::start(&["--nodes", "3", "--apply", &manifest("deploy/examples/tour")]);
    let kubectl = up.kubectl();
    assert_eq!(pod_routes(), 3, "each node has its network");
    let nodes = kubectl.run(&["get", "nodes", "--no-headers"]);
    assert_eq!(nodes.matches(" Ready ").count(), 3, "{nodes}");

    let processes = kubectl.run(&[
        "exec",
        "deploy/web",
        "--",
        "sh",
        "-c",
        "echo $$; hostname; ls /proc | grep -c '^[0-9]'",
    ]);
    let mut lines = processes.lines();
    assert!(
        lines.next().expect("a pid").parse::<u32>().expect("a number") < 1000,
        "a pid namespace of its own"
    );
    assert!(lines.next().expect("a host name").starts_with("web-"), "{processes}");
    assert!(kubectl.run(&["logs", "deploy/web"]).contains("is up"));
    assert_eq!(kubectl.run(&["exec", "database-1", "--", "cat", "/data/name"]), "I am database-1\n");
    assert_eq!(kubectl.run(&["logs", "job/sum"]), "42\n");
    assert_eq!(kubectl.try_run(&["exec", "deploy/web", "--", "sh", "-c", "exit 3"]).code, Some(3));
    assert_eq!(
        kubectl.run_input(&["exec", "-i", "deploy/web", "--", "cat"], "through and back"),
        "through and back"
    );

    kubectl.run(&["run", "lost", "--image=127.0.0.1:1/none:1"]);
    kubectl.until(&["get", "pod", "lost"], "ErrImagePull", LIMIT);
    kubectl.until(&["get", "pod", "lost"], "ImagePullBackOff", LIMIT);
    kubectl.run(&["delete", "pod", "lost", "--timeout", "60s"]);

    let Up { daemon, data } = up;
    assert!(daemon.stop(Duration::from_secs(60)).success());
    assert_eq!(traces(data.path()), "");
    assert_eq!(pod_routes(), 0, "no network link is left");

    let up = Up::start_beside(data, &["--nodes", "3"]);
    let kubectl = up.kubectl();
    kubectl.run(&["rollout", "status", "deploy/web", "--timeout", "60s"]);
    kubectl.run(&["rollout", "status", "statefulset/database", "--timeout", "60s"]);
    assert_eq!(kubectl.run(&["exec", "database-1", "--", "cat", "/data/name"]), "I am database-1\n");
    let Up { daemon, data } = up;
    assert!(daemon.stop(Duration::from_secs(60)).success());
    assert_eq!(traces(data.path()), "");
}
