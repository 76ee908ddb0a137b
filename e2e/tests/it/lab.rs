//! The lab of containers, on a real engine of its own: nothing of the machine's engine is used or touched.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use e2e::{Daemon, Kubectl, binary, eventually, needs};

use super::LIMIT;

const PROGRAMS: [&str; 6] =
    ["apiserver", "controller-manager", "scheduler", "nodeagent", "kubectl-lite", "coxswain"];
/// The engine's own bridge; the lab's network comes from the pool.
const ENGINE_ADDRESS: &str = "10.88.73.1/24";
const ENGINE_POOL: &str = "base=10.89.128.0/17,size=24";
const BRIDGE: &str = "cxslab0";

/// A container engine in a folder; dropped, it and everything it made are gone.
struct Engine {
    daemon: Option<Daemon>,
    folder: tempfile::TempDir,
}

impl Engine {
    fn start() -> Self {
        // Not in a temporary folder in memory: images are large.
        let folder = tempfile::Builder::new().prefix("lab-").tempdir_in("/var/tmp").expect("a folder");
        fs::write(folder.path().join("daemon.json"), "{}").expect("written");
        fs::create_dir(folder.path().join("cfg")).expect("made");
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("before the engine closes forwarding");
        let done = |command: &mut Command| assert!(command.status().expect("ip runs").success());
        done(Command::new("ip").args(["link", "add", BRIDGE, "type", "bridge"]));
        done(Command::new("ip").args(["address", "add", ENGINE_ADDRESS, "dev", BRIDGE]));
        done(Command::new("ip").args(["link", "set", BRIDGE, "up"]));
        let path = |name: &str| folder.path().join(name);
        let mut command = Command::new("dockerd");
        command.arg("--config-file").arg(path("daemon.json")).arg("--data-root").arg(path("data"));
        command.arg("--exec-root").arg(path("exec")).arg("--pidfile").arg(path("pid"));
        command.args(["--bridge", BRIDGE, "--default-address-pool", ENGINE_POOL]);
        command.arg("--host").arg(format!("unix://{}", path("socket").display()));
        let mut daemon = Daemon::start("dockerd", &mut command);
        daemon.wait_for("API listen on", LIMIT);
        Self { daemon: Some(daemon), folder }
    }

    fn docker(&self) -> Command {
        let mut docker = Command::new("docker");
        docker.env("DOCKER_HOST", format!("unix://{}", self.folder.path().join("socket").display()));
        docker
    }

    /// Makes the image `name` of a root with busybox and the libraries that the programs load.
    fn import_base(&self, name: &str) {
        let root = self.folder.path().join("root");
        for folder in ["bin", "lib64", "tmp", "etc", "proc", "sys", "dev", "var", "usr/local/bin"] {
            fs::create_dir_all(root.join(folder)).expect("made");
        }
        fs::copy(which("busybox"), root.join("bin/busybox")).expect("copied");
        for applet in ["sh", "sleep", "hostname", "nc", "cat", "true"] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).expect("linked");
        }
        // busybox's own cannot make a read-only bind mount writable.
        let mount = which("mount");
        fs::copy(&mount, root.join("bin/mount")).expect("copied");
        let programs = PROGRAMS.iter().map(|program| binary(program)).chain([mount]);
        for library in programs.flat_map(|program| libraries(&program)) {
            let target = root.join(library.strip_prefix("/").expect("ldd prints full paths"));
            fs::create_dir_all(target.parent().expect("a file has a folder")).expect("made");
            fs::copy(&library, target).expect("copied");
        }
        let mut tar = Command::new("tar");
        let mut tar = tar.arg("-C").arg(&root).args(["-c", "."]).stdout(Stdio::piped()).spawn().expect("tar");
        let archive = tar.stdout.take().expect("piped");
        let path = "ENV PATH=/usr/local/bin:/bin";
        run(self.docker().args(["import", "--change", path, "-", name]).stdin(archive));
        assert!(tar.wait().expect("tar ends").success());
    }

    /// The repository as the lab's build sees it, with stripped programs.
    fn stage(&self) -> PathBuf {
        let staged = self.folder.path().join("repository");
        let programs = staged.join("target/debug");
        fs::create_dir_all(&programs).expect("made");
        fs::create_dir_all(staged.join("deploy/compose")).expect("made");
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("e2e lies in the workspace");
        let lab =
            ["Dockerfile", "compose.yaml", "node-entrypoint.sh"].map(|it| format!("deploy/compose/{it}"));
        for file in lab.iter().map(String::as_str).chain([".dockerignore"]) {
            fs::copy(repository.join(file), staged.join(file)).expect("copied");
        }
        for program in PROGRAMS {
            run(Command::new("strip").arg("-o").arg(programs.join(program)).arg(binary(program)));
        }
        staged.join("deploy/compose/compose.yaml")
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            let containers = self.docker().args(["ps", "--all", "--quiet"]).output();
            let containers = String::from_utf8(containers.expect("docker runs").stdout).expect("ids");
            if !containers.trim().is_empty() {
                let removed =
                    self.docker().args(["rm", "--force", "--volumes"]).args(containers.lines()).status();
                eprintln!("containers of a failed test removed: {removed:?}");
            }
            drop(daemon);
        }
        let removed = Command::new("ip").args(["link", "delete", BRIDGE]).status();
        eprintln!("the engine's bridge removed: {removed:?}");
    }
}

/// The lab; dropped, taken down with everything it keeps.
struct Lab<'a> {
    engine: &'a Engine,
    file: PathBuf,
    port: u16,
}

impl Lab<'_> {
    fn compose(&self, args: &[&str]) -> Command {
        let mut compose = self.engine.docker();
        compose.args(["compose", "--file"]).arg(&self.file).args(args);
        compose.env("PORT", self.port.to_string()).env("BASE", "base").env("PROGRAMS", "target/debug");
        compose
    }
}

impl Drop for Lab<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = self.compose(&["logs", "--tail", "20"]).output().expect("docker runs");
            eprintln!("{}", String::from_utf8_lossy(&logs.stdout));
        }
        let down = self.compose(&["down", "--volumes", "--timeout", "2"]).output().expect("docker runs");
        eprint!("{}", String::from_utf8_lossy(&down.stderr));
    }
}

fn run(command: &mut Command) -> String {
    let ended = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(ended.status.success(), "{command:?}: {}", String::from_utf8_lossy(&ended.stderr));
    String::from_utf8_lossy(&ended.stdout).into_owned()
}

fn which(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").expect("PATH is set");
    std::env::split_paths(&path).map(|it| it.join(program)).find(|it| it.is_file()).expect("asked for before")
}

fn libraries(program: &Path) -> Vec<PathBuf> {
    let said = run(Command::new("ldd").arg(program));
    said.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}

fn compose_is_there() -> bool {
    let asked = Command::new("docker").args(["compose", "version"]).output();
    asked.is_ok_and(|it| it.status.success())
}

#[test]
fn the_lab_has_three_ready_nodes_and_runs_a_deployment_on_them() {
    let test = "the_lab_has_three_ready_nodes_and_runs_a_deployment_on_them";
    if !needs(test, &["root", "dockerd", "docker", "busybox", "strip", "ldd", "tar", "ip"]) {
        return;
    }
    if !compose_is_there() && !needs(test, &["the compose plug-in of docker"]) {
        return;
    }
    let engine = Engine::start();
    engine.import_base("base");
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = free.local_addr().expect("bound").port();
    drop(free);
    let lab = Lab { file: engine.stage(), engine: &engine, port };
    run(&mut lab.compose(&["up", "--build", "--detach"]));

    let kubeconfig = engine.folder.path().join("lab.kubeconfig");
    let target = kubeconfig.display().to_string();
    run(&mut lab.compose(&["cp", "apiserver:/pki/admin.kubeconfig", &target]));
    let lite = Kubectl::with_program(&binary("kubectl-lite"), &kubeconfig);
    eventually("three nodes are ready", LIMIT, || {
        let said = lite.try_run(&["get", "nodes"]);
        let ready = said.out.lines().filter(|line| line.contains(" Ready ")).count();
        if ready == 3 { Ok(()) } else { Err(format!("{}{}", said.out, said.err)) }
    });
    lite.run_input(&["apply", "-f", "-"], DEPLOYMENT);
    eventually("the Deployment is available", LIMIT, || {
        let said = lite.try_run(&["get", "deploy", "web", "-o", "wide"]);
        let state = || format!("{}{}", said.out, lite.try_run(&["describe", "pods"]).out);
        if said.out.contains("3/3") { Ok(()) } else { Err(state()) }
    });
    let pods = lite.run(&["get", "pods", "-o", "wide"]);
    assert!(["node-1", "node-2", "node-3"].iter().all(|node| pods.contains(node)), "{pods}");
    assert!(lite.run(&["logs", "deploy/web"]).contains("is up"));

    let names = lite.run(&["get", "pods", "-o", "name"]);
    let from = names.lines().next().expect("a pod");
    for address in pods.split_whitespace().filter(|word| word.starts_with("10.244.")) {
        let heard = lite.run(&["exec", from, "--", "nc", "-w", "5", address, "8080"]);
        assert!(heard.contains("hello from"), "{from} reaches {address}: {heard}");
    }
    drop(lab);
    assert_eq!(run(engine.docker().args(["ps", "--all", "--quiet"])), "", "no container is left");
    drop(engine);
    let mounts = fs::read_to_string("/proc/mounts").expect("the kernel says");
    assert!(!mounts.contains("/var/tmp/lab-"), "{mounts}");
    assert!(!Path::new("/sys/class/net").join(BRIDGE).exists(), "no link is left");
}

const DEPLOYMENT: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      affinity:
        podAntiAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
            - topologyKey: kubernetes.io/hostname
              labelSelector: {matchLabels: {app: web}}
      containers:
        - name: web
          image: node.local/rootfs
          command:
            - /bin/sh
            - -c
            - |
              echo "$(hostname) is up"
              while true; do echo "hello from $(hostname)" | nc -l -p 8080; done
"#;
