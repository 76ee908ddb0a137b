//! The embedded runtime with real processes. Needs root and `/bin/busybox` (Debian: busybox-static).

#![allow(clippy::unwrap_used, reason = "everything here is a test")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use component_base::Shutdown;
use component_base::clock::Clock;
use component_base::supervise::Tasks;
use nodeagent::runtime::conformance::Suite;
use nodeagent::runtime::oci::{OciConfig, OciRuntime};
use nodeagent::runtime::{
    ContainerConfig, ContainerEventKind, ContainerState, ExecRequest, IpConfig, NetworkMode, Resources,
    Runtime, SandboxConfig, Streams, TerminalSize,
};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

mod cri;
mod registry;

const IMAGE: &str = "localhost/busybox:test";
const LIMIT: Duration = Duration::from_secs(60);

/// True if the test can run; a loud word if not, and a failure where it must.
fn possible(what: &str, there: bool) -> bool {
    if !there {
        eprintln!("SKIPPED: this test needs {what}");
        assert!(
            std::env::var_os("CI").is_none_or(|ci| ci != "true"),
            "in CI this test must run: {what} is missing"
        );
    }
    there
}

fn ready() -> bool {
    possible("root", nix::unistd::geteuid().is_root())
        && possible("/bin/busybox (package busybox-static)", Path::new("/bin/busybox").exists())
}

/// A docker-save archive of one layer with busybox and its applets.
fn busybox_archive(path: &Path, reference: &str, cmd: &[&str]) {
    let mut layer = tar::Builder::new(Vec::new());
    for folder in ["bin", "etc", "tmp", "proc", "sys", "dev"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o755);
        header.set_size(0);
        layer.append_data(&mut header, format!("{folder}/"), std::io::empty()).unwrap();
    }
    append(&mut layer, "bin/busybox", &std::fs::read("/bin/busybox").unwrap(), 0o755);
    append(&mut layer, "etc/passwd", b"root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n", 0o644);
    for applet in [
        "sh", "sleep", "cat", "echo", "true", "false", "id", "hostname", "ls", "stty", "wget", "nc", "ip",
        "ps",
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        layer.append_link(&mut header, format!("bin/{applet}"), "busybox").unwrap();
    }
    let layer = layer.into_inner().unwrap();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "config": { "Cmd": cmd, "Env": ["PATH=/bin", "FROM=image"] },
        "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
    });
    let manifest =
        serde_json::json!([{ "Config": "config.json", "RepoTags": [reference], "Layers": ["layer.tar"] }]);
    let mut archive = tar::Builder::new(std::fs::File::create(path).unwrap());
    append(&mut archive, "config.json", config.to_string().as_bytes(), 0o644);
    append(&mut archive, "layer.tar", &layer, 0o644);
    append(&mut archive, "manifest.json", manifest.to_string().as_bytes(), 0o644);
    archive.finish().unwrap();
}

fn append<W: std::io::Write>(archive: &mut tar::Builder<W>, name: &str, data: &[u8], mode: u32) {
    let mut header = tar::Header::new_gnu();
    header.set_size(data.len() as u64);
    header.set_mode(mode);
    archive.append_data(&mut header, name, data).unwrap();
}

fn digest(data: &[u8]) -> String {
    Sha256::digest(data).iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

/// A runtime in a folder of its own, whose shims are the binary that only is one.
struct Node {
    runtime: Arc<OciRuntime>,
    folder: tempfile::TempDir,
    shutdown: Shutdown,
}

impl Node {
    async fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("cxs").tempdir_in("/var/tmp").unwrap();
        let archive = folder.path().join("busybox.tar");
        busybox_archive(&archive, IMAGE, &["/bin/sh"]);
        let shutdown = Shutdown::new();
        let runtime = open(folder.path(), &shutdown, |_| {}).await;
        assert_eq!(runtime.images().load(&archive).unwrap(), [IMAGE]);
        Self { runtime, folder, shutdown }
    }

    /// As after a crash of the agent: nothing is told to anybody.
    async fn restart(&mut self) {
        self.shutdown.cancel();
        self.shutdown = Shutdown::new();
        self.runtime = open(self.folder.path(), &self.shutdown, |_| {}).await;
    }

    fn sandbox(&self, name: &str) -> SandboxConfig {
        SandboxConfig {
            namespace: "test".into(),
            name: name.into(),
            uid: format!("{name}-{}", self.folder.path().file_name().unwrap().to_str().unwrap()),
            hostname: name.into(),
            log_dir: self.folder.path().join("logs").join(name),
            cgroup_parent: format!(
                "/cxstest/pod-{name}-{}",
                self.folder.path().file_name().unwrap().to_str().unwrap()
            ),
            ..SandboxConfig::default()
        }
    }

    async fn run(&self, sandbox: &str, config: ContainerConfig) -> String {
        let id = self.runtime.create_container(sandbox, &config).await.unwrap();
        self.runtime.start_container(&id).await.unwrap();
        id
    }

    async fn stop(self) {
        self.runtime.clean_up().await.unwrap();
        self.shutdown.cancel();
        assert_left_nothing(self.folder.path());
    }
}

/// After a failed test, too, nothing of it may run on.
impl Drop for Node {
    fn drop(&mut self) {
        for (pid, _) in processes_of(self.folder.path()) {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL).ok();
        }
        for pid in contained_in(self.folder.path()) {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL).ok();
        }
    }
}

/// Processes in cgroups that name the folder.
fn contained_in(folder: &Path) -> Vec<i32> {
    let name = folder.file_name().unwrap().to_str().unwrap();
    let named = |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().contains(name);
    let list = |path: PathBuf| std::fs::read_dir(path).into_iter().flatten().flatten();
    let roots = list("/sys/fs/cgroup".into()).map(|entry| entry.path().join("cxstest")).collect::<Vec<_>>();
    let pods = roots.into_iter().chain(["/sys/fs/cgroup/cxstest".into()]).flat_map(list).filter(named);
    let containers = pods.flat_map(|pod| list(pod.path()));
    let text =
        containers.map(|it| std::fs::read_to_string(it.path().join("cgroup.procs")).unwrap_or_default());
    text.collect::<String>().lines().filter_map(|line| line.parse().ok()).collect()
}

/// Processes whose command names the folder.
fn processes_of(folder: &Path) -> Vec<(i32, String)> {
    let name = folder.file_name().unwrap().to_str().unwrap();
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let numbered = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let command = |pid: i32| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        (pid, String::from_utf8_lossy(&command).replace('\0', " "))
    };
    numbered.map(command).filter(|(_, command)| command.contains(name)).collect()
}

async fn open(folder: &Path, shutdown: &Shutdown, change: impl FnOnce(&mut OciConfig)) -> Arc<OciRuntime> {
    let mut config = OciConfig::new(folder);
    config.program = PathBuf::from(env!("CARGO_BIN_EXE_shim"));
    change(&mut config);
    OciRuntime::open(config, Clock::system(), Tasks::new(shutdown.clone())).await.unwrap()
}

/// No mount, no cgroup, no process of this folder.
fn assert_left_nothing(folder: &Path) {
    let name = folder.file_name().unwrap().to_str().unwrap();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(name), "{mounts}");
    let processes = processes_of(folder);
    assert!(processes.is_empty(), "{processes:?}");
    for controller in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let left = std::fs::read_dir(controller.path().join("cxstest")).into_iter().flatten().flatten();
        for cgroup in left {
            assert!(!cgroup.path().to_string_lossy().contains(name), "{}", cgroup.path().display());
        }
    }
}

fn container(name: &str, script: &str) -> ContainerConfig {
    ContainerConfig {
        name: name.into(),
        image: IMAGE.into(),
        command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        log_path: format!("{name}/0.log").into(),
        ..ContainerConfig::default()
    }
}

async fn exited(runtime: &Arc<OciRuntime>, id: &str) -> nodeagent::runtime::Container {
    let mut events = runtime.events();
    let wait = async {
        loop {
            let found = runtime.container_status(id).await.unwrap();
            if found.state == ContainerState::Exited {
                return found;
            }
            events.recv().await.unwrap();
        }
    };
    tokio::time::timeout(LIMIT, wait).await.expect("the container exits")
}

async fn sh(runtime: &Arc<OciRuntime>, id: &str, script: &str) -> String {
    let command = ["sh", "-c", script].map(str::to_owned);
    let output = runtime.exec_sync(id, &command, LIMIT).await.unwrap();
    assert_eq!(output.exit_code, 0, "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_passes() {
    if !ready() {
        return;
    }
    let node = Node::start().await;
    let suite = Suite {
        image: IMAGE.into(),
        missing_image: "localhost:1/nobody/has:this".into(),
        log_dir: node.folder.path().join("logs"),
        simulated: false,
        stdin_ends: true,
        network: NetworkMode::Isolated,
    };
    suite.run(&node.runtime).await.unwrap();
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_a_pod_share_network_ipc_and_uts_but_not_processes_and_files() {
    if !ready() {
        return;
    }
    let node = Node::start().await;
    let sandbox = node.runtime.run_sandbox(&node.sandbox("shared")).await.unwrap();
    let one = node.run(&sandbox, container("one", "sleep 1000")).await;
    let two = node.run(&sandbox, container("two", "sleep 1000")).await;
    for namespace in ["net", "ipc", "uts"] {
        let script = format!("ls -l /proc/self/ns/{namespace} | cat");
        let end = |text: String| text.rsplit(' ').next().unwrap().to_owned();
        let (of_one, of_two) =
            (sh(&node.runtime, &one, &script).await, sh(&node.runtime, &two, &script).await);
        assert_eq!(end(of_one.clone()), end(of_two), "{namespace}");
        let own = std::fs::read_link(format!("/proc/self/ns/{namespace}")).unwrap();
        assert_ne!(end(of_one), own.to_str().unwrap(), "{namespace} is not the node's");
    }
    assert_eq!(sh(&node.runtime, &one, "hostname; cat /etc/hostname").await, "shared\nshared");
    assert_eq!(
        sh(&node.runtime, &one, "echo $$ >/dev/shm/x; echo mine >/own; cat /proc/1/comm").await,
        "sleep"
    );
    assert_ne!(sh(&node.runtime, &two, "cat /dev/shm/x; test ! -e /own").await, "");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_agent_finds_its_containers_running_and_sees_them_end() {
    if !ready() {
        return;
    }
    let mut node = Node::start().await;
    let sandbox = node.runtime.run_sandbox(&node.sandbox("adopted")).await.unwrap();
    let id = node.run(&sandbox, container("main", "trap 'exit 9' TERM; >/up; sleep 1000 & wait")).await;
    sh(&node.runtime, &id, "until test -e /up; do :; done").await;
    let before = node.runtime.container_status(&id).await.unwrap();
    node.restart().await;
    let after = node.runtime.container_status(&id).await.unwrap();
    assert_eq!((after.state, after.pid), (ContainerState::Running, before.pid));
    let mut events = node.runtime.events();
    node.runtime.stop_container(&id, LIMIT).await.unwrap();
    assert_eq!(events.recv().await.unwrap().kind, ContainerEventKind::Exited);
    let ended = node.runtime.container_status(&id).await.unwrap();
    assert_eq!((ended.exit_code, ended.reason.as_str()), (Some(9), "Error"));
    node.restart().await;
    assert_eq!(node.runtime.container_status(&id).await.unwrap().exit_code, Some(9));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn output_arrives_in_the_cri_log_format() {
    if !ready() {
        return;
    }
    let node = Node::start().await;
    let sandbox = node.runtime.run_sandbox(&node.sandbox("logs")).await.unwrap();
    let id = node.run(&sandbox, container("main", "echo out; echo err >&2; printf end")).await;
    let ended = exited(&node.runtime, &id).await;
    assert_eq!((ended.exit_code, ended.reason.as_str()), (Some(0), "Completed"));
    let log = std::fs::read_to_string(ended.log_path.unwrap()).unwrap();
    let mut lines: Vec<_> = log.lines().map(|line| line.split_once(' ').unwrap().1).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["stderr F err", "stdout F out", "stdout P end"]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_memory_is_an_oom_kill() {
    if !ready() {
        return;
    }
    let node = Node::start().await;
    let sandbox = node.runtime.run_sandbox(&node.sandbox("oom")).await.unwrap();
    let resources = Resources { memory_limit_bytes: Some(16 << 20), ..Resources::default() };
    let script = "x=0123456789abcdef; while true; do x=$x$x; done";
    let id = node.run(&sandbox, ContainerConfig { resources, ..container("main", script) }).await;
    let ended = exited(&node.runtime, &id).await;
    assert_eq!((ended.exit_code, ended.reason.as_str()), (Some(137), "OOMKilled"));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_not_there_is_an_error_and_a_record() {
    if !ready() {
        return;
    }
    let node = Node::start().await;
    let sandbox = node.runtime.run_sandbox(&node.sandbox("missing")).await.unwrap();
    let config = ContainerConfig { command: vec!["/bin/nothing".into()], ..container("main", "") };
    let id = node.runtime.create_container(&sandbox, &config).await.unwrap();
    let error = node.runtime.start_container(&id).await.unwrap_err().to_string();
    assert!(error.contains("nothing"), "{error}");
    let ended = node.runtime.container_status(&id).await.unwrap();
    assert_eq!((ended.exit_code, ended.reason.as_str()), (Some(128), "ContainerCannotRun"));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_has_a_size_and_a_prompt() {
    if !ready() {
        return;
    }
    let node = Node::start().await;
    let sandbox = node.runtime.run_sandbox(&node.sandbox("tty")).await.unwrap();
    let id = node.run(&sandbox, container("main", "sleep 1000")).await;
    let (mut typed, stdin) = tokio::io::duplex(1024);
    let (stdout, mut shown) = tokio::io::duplex(64 * 1024);
    let (sizes, resize) = tokio::sync::mpsc::channel(1);
    sizes.send(TerminalSize { width: 77, height: 33 }).await.unwrap();
    let streams = Streams {
        stdin: Some(Box::new(stdin)),
        stdout: Some(Box::new(stdout)),
        stderr: None,
        resize: Some(resize),
    };
    let request = ExecRequest { command: vec!["/bin/sh".into()], tty: true };
    let talk = async {
        let mut seen = String::new();
        let mut bytes = [0; 1024];
        typed.write_all(b"until stty size | cat | busybox grep '33 77'; do :; done; exit 5\n").await.unwrap();
        while let Ok(count @ 1..) = shown.read(&mut bytes).await {
            seen.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
        seen
    };
    let both = async { tokio::join!(node.runtime.exec(&id, &request, streams), talk) };
    let (code, seen) = tokio::time::timeout(LIMIT, both).await.expect("the shell ends");
    assert_eq!(code.unwrap(), 5, "{seen}");
    assert!(seen.contains("33 77\r\n"), "{seen}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attach_reads_and_writes_the_main_process() {
    if !ready() {
        return;
    }
    let node = Node::start().await;
    let sandbox = node.runtime.run_sandbox(&node.sandbox("attach")).await.unwrap();
    let config = ContainerConfig { stdin: true, stdin_once: true, ..container("main", "cat; echo done") };
    let id = node.run(&sandbox, config).await;
    let (stdout, mut shown) = tokio::io::duplex(1024);
    let streams = Streams {
        stdin: Some(Box::new(std::io::Cursor::new(b"typed\n".to_vec()))),
        stdout: Some(Box::new(stdout)),
        ..Streams::default()
    };
    let mut seen = String::new();
    let both = async { tokio::join!(node.runtime.attach(&id, streams), shown.read_to_string(&mut seen)) };
    let (attached, read) = tokio::time::timeout(LIMIT, both).await.expect("attach ends with the container");
    attached.unwrap();
    read.unwrap();
    assert_eq!(seen, "typed\ndone\n");
    assert_eq!(exited(&node.runtime, &id).await.exit_code, Some(0));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nodes_own_filesystem_is_read_only_below_and_private_above() {
    if !ready() {
        return;
    }
    let node = Node::start().await;
    let shutdown = Shutdown::new();
    let folder = tempfile::Builder::new().prefix("cxs").tempdir_in("/var/tmp").unwrap();
    let runtime = open(folder.path(), &shutdown, |config| config.node_rootfs = true).await;
    let config = SandboxConfig { log_dir: folder.path().join("logs"), ..node.sandbox("rootfs") };
    let sandbox = runtime.run_sandbox(&config).await.unwrap();
    let script = format!(
        "test ! -e {} && echo mine > /etc/cxs-test && cat /etc/cxs-test && ls /proc/self/status && ps -e 2>/dev/null | wc -l",
        folder.path().display()
    );
    let config = ContainerConfig { image: "node.local/rootfs".into(), ..container("main", &script) };
    let id = runtime.create_container(&sandbox, &config).await.unwrap();
    runtime.start_container(&id).await.unwrap();
    let ended = exited(&runtime, &id).await;
    let log = std::fs::read_to_string(ended.log_path.unwrap()).unwrap();
    assert_eq!(ended.exit_code, Some(0), "{log}");
    assert!(log.contains("F mine"), "{log}");
    assert!(!Path::new("/etc/cxs-test").exists(), "the node is unchanged");
    runtime.clean_up().await.unwrap();
    shutdown.cancel();
    assert_left_nothing(folder.path());
    node.stop().await;
}

async fn from_node(address: &str) -> Option<String> {
    let mut said = String::new();
    tokio::net::TcpStream::connect(address).await.ok()?.read_to_string(&mut said).await.ok()?;
    Some(said)
}

async fn by_port_forward(runtime: &Arc<OciRuntime>, sandbox: &str) -> Option<String> {
    let (mut near, far) = tokio::io::duplex(1024);
    let mut said = String::new();
    let (forwarded, _) =
        tokio::join!(runtime.port_forward(sandbox, 8080, Box::new(far)), near.read_to_string(&mut said));
    forwarded.ok().map(|()| said)
}

/// The server serves one connection at a time and listens anew after each.
async fn said_once_listening<F: Future<Output = Option<String>>>(ask: impl Fn() -> F) -> String {
    let wait = async {
        loop {
            if let Some(said) = ask().await.filter(|said| !said.is_empty()) {
                return said;
            }
        }
    };
    tokio::time::timeout(LIMIT, wait).await.expect("the pod answers")
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_two_nodes_reach_each_other_and_nothing_stays() {
    if !ready() {
        return;
    }
    let node = Node::start().await;
    let shutdown = Shutdown::new();
    let mut runtimes = Vec::new();
    for number in [1, 2] {
        let folder = node.folder.path().join(format!("node{number}"));
        let runtime = open(&folder, &shutdown, |_| {}).await;
        runtime.images().load(&node.folder.path().join("busybox.tar")).unwrap();
        runtimes.push(runtime);
    }
    let mut containers = Vec::new();
    for (number, runtime) in [1_u8, 2].iter().zip(&runtimes) {
        let address = IpConfig {
            address: [10, 213, *number, 7].into(),
            prefix_len: 24,
            gateway: [10, 213, *number, 1].into(),
        };
        let name = format!("net{number}");
        let config = SandboxConfig { network: NetworkMode::Pod(address.clone()), ..node.sandbox(&name) };
        let sandbox = runtime.run_sandbox(&config).await.unwrap();
        assert_eq!(runtime.sandbox_status(&sandbox).await.unwrap().ips, [address.address]);
        let config = container("main", "while true; do nc -l -p 8080 -e hostname; done");
        let id = runtime.create_container(&sandbox, &config).await.unwrap();
        runtime.start_container(&id).await.unwrap();
        containers.push((sandbox, id));
    }
    let ask = "until nc 10.213.1.7 8080; do :; done";
    assert_eq!(sh(&runtimes[1], &containers[1].1, ask).await, "net1", "from the other node's pod");
    assert_eq!(
        sh(&runtimes[0], &containers[0].1, "ip route | busybox head -n1").await,
        "default via 10.213.1.1 dev eth0"
    );
    assert_eq!(said_once_listening(|| from_node("10.213.2.7:8080")).await, "net2\n", "from the node");
    let forwarded = || by_port_forward(&runtimes[1], &containers[1].0);
    assert_eq!(said_once_listening(forwarded).await, "net2\n", "by a port-forward");
    for runtime in &runtimes {
        runtime.clean_up().await.unwrap();
    }
    shutdown.cancel();
    let addresses = std::fs::read_to_string("/proc/net/fib_trie").unwrap();
    assert!(!addresses.contains("10.213."), "the bridges are gone: {addresses}");
    node.stop().await;
}
