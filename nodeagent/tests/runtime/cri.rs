//! The CRI client against a containerd of its own: private folders, private socket, no pod network.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use component_base::Shutdown;
use component_base::clock::Clock;
use component_base::supervise::Tasks;
use nodeagent::runtime::conformance::Suite;
use nodeagent::runtime::cri::CriRuntime;
use nodeagent::runtime::{
    ContainerConfig, ContainerState, NetworkMode, Runtime, SandboxConfig, SandboxFilter, SandboxState,
};

use super::{IMAGE, LIMIT, busybox_archive, possible};

struct Containerd {
    process: Child,
    folder: tempfile::TempDir,
}

impl Containerd {
    fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("cxs").tempdir_in("/var/tmp").unwrap();
        let at = folder.path().display();
        let config = format!(
            "version = 2\nroot = \"{at}/root\"\nstate = \"{at}/state\"\n[grpc]\naddress = \"{at}/socket\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"{IMAGE}\"\nrestrict_oom_score_adj = true\n\
             [plugins.\"io.containerd.grpc.v1.cri\".cni]\nconf_dir = \"{at}/cni\"\n"
        );
        std::fs::write(folder.path().join("config.toml"), config).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let process = Command::new("containerd")
            .arg("-c")
            .arg(folder.path().join("config.toml"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { process, folder }
    }

    fn ctr(&self, arguments: &[&str]) -> bool {
        let socket = self.folder.path().join("socket");
        let mut command = Command::new("ctr");
        command.arg("-a").arg(socket).args(["-n", "k8s.io"]).args(arguments);
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // A containerd that has gone is as good.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

async fn exited(runtime: &Arc<CriRuntime>, id: &str) -> nodeagent::runtime::Container {
    let wait = async {
        loop {
            let found = runtime.container_status(id).await.unwrap();
            if found.state == ContainerState::Exited {
                return found;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, wait).await.expect("the container exits")
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_runs_containers_over_cri() {
    let there = Path::new("/usr/bin/containerd").exists() && Path::new("/bin/busybox").exists();
    if !possible("root", nix::unistd::geteuid().is_root())
        || !possible("containerd, runc and busybox-static", there)
    {
        return;
    }
    let containerd = Containerd::start();
    let archive = containerd.folder.path().join("busybox.tar");
    busybox_archive(&archive, IMAGE, &["/bin/sleep", "1000000"]);
    let shutdown = Shutdown::new();
    let endpoint = format!("unix://{}/socket", containerd.folder.path().display());
    let tasks = Tasks::new(shutdown.clone());
    let runtime = CriRuntime::connect(&endpoint, Clock::system(), &tasks).unwrap();
    let answers = async {
        while runtime.version().await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, answers).await.expect("containerd answers");
    assert!(containerd.ctr(&["images", "import", archive.to_str().unwrap()]), "the image is imported");
    assert_eq!(runtime.version().await.unwrap().name, "containerd");
    assert!(runtime.image_status(IMAGE).await.unwrap().is_some());
    let config = SandboxConfig {
        namespace: "test".into(),
        name: "cri".into(),
        uid: "cri-1".into(),
        network: NetworkMode::Host,
        log_dir: containerd.folder.path().join("logs"),
        cgroup_parent: "/cxstest-cri".into(),
        ..SandboxConfig::default()
    };
    let sandbox = runtime.run_sandbox(&config).await.unwrap();
    let filter = SandboxFilter { pod_uid: Some("cri-1".into()), ..SandboxFilter::default() };
    assert_eq!(runtime.list_sandboxes(&filter).await.unwrap()[0].state, SandboxState::Ready);
    let container = |name: &str, script: &str| ContainerConfig {
        name: name.into(),
        image: IMAGE.into(),
        command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        log_path: format!("{name}.log").into(),
        ..ContainerConfig::default()
    };
    let short = runtime.create_container(&sandbox, &container("short", "echo hello; exit 3")).await.unwrap();
    runtime.start_container(&short).await.unwrap();
    let ended = exited(&runtime, &short).await;
    assert_eq!((ended.exit_code, ended.sandbox.as_str()), (Some(3), sandbox.as_str()));
    assert!(std::fs::read_to_string(ended.log_path.unwrap()).unwrap().ends_with("stdout F hello\n"));
    let long = runtime.create_container(&sandbox, &container("long", "sleep 1000")).await.unwrap();
    runtime.start_container(&long).await.unwrap();
    let command = ["sh", "-c", "echo a; exit 7"].map(str::to_owned);
    let output = runtime.exec_sync(&long, &command, LIMIT).await.unwrap();
    assert_eq!((output.stdout.as_slice(), output.exit_code), (b"a\n".as_slice(), 7));
    runtime.stop_container(&long, Duration::ZERO).await.unwrap();
    runtime.stop_container(&long, Duration::ZERO).await.unwrap();
    runtime.remove_sandbox(&sandbox).await.unwrap();
    runtime.remove_sandbox(&sandbox).await.unwrap();
    assert!(runtime.list_sandboxes(&filter).await.unwrap().is_empty());
    assert!(runtime.container_status(&long).await.unwrap_err().is_not_found());
    let left = Path::new("/sys/fs/cgroup/memory/cxstest-cri").exists()
        || Path::new("/sys/fs/cgroup/cxstest-cri").exists();
    assert!(!left, "the pod's cgroup is gone");
    let suite = Suite {
        image: IMAGE.into(),
        missing_image: "localhost:1/nobody/has:this".into(),
        log_dir: containerd.folder.path().join("logs"),
        simulated: false,
        stdin_ends: false,
        network: NetworkMode::Host,
    };
    suite.run(&runtime).await.unwrap();
    shutdown.cancel();
}
