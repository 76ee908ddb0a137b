//! The programs of this workspace as processes of their own.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::eventually;

/// The path of a program of this workspace, built with the profile of this test.
///
/// # Panics
/// When it cannot be built.
pub fn binary(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(build).join(name)
}

/// `cargo test` does not build the plain programs of other packages, so this does, once.
fn build() -> PathBuf {
    let this = std::env::current_exe().expect("this program has a path");
    let folder = this.parent().and_then(Path::parent).expect("target/PROFILE/deps/NAME").to_owned();
    let target = folder.parent().expect("target/PROFILE");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--workspace", "--bins", "--target-dir"]).arg(target);
    if folder.ends_with("release") {
        cargo.arg("--release");
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("e2e lies in the workspace");
    let status = cargo.current_dir(root).status().expect("cargo runs");
    assert!(status.success(), "the programs do not build");
    folder
}

/// Whether a test can run: `true` when everything it needs is there. Otherwise says so loudly, and fails in CI.
///
/// # Panics
/// In CI (`CI` is set) when something is missing.
pub fn needs(test: &str, tools: &[&str]) -> bool {
    let missing: Vec<&str> = tools.iter().copied().filter(|tool| !is_there(tool)).collect();
    if missing.is_empty() {
        return true;
    }
    let said = format!("{test} needs {}", missing.join(", "));
    assert!(std::env::var_os("CI").is_none(), "{said}");
    eprintln!("\n!!! NOT RUN: {said}\n");
    false
}

fn is_there(tool: &str) -> bool {
    if tool == "root" {
        return nix::unistd::geteuid().is_root();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(tool).is_file())
}

/// A running program. Dropped, it is stopped: SIGTERM, then SIGKILL.
pub struct Daemon {
    child: Child,
    name: String,
    output: Arc<Mutex<String>>,
}

impl Daemon {
    /// Starts `command`; its output is kept for messages of failure.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(name: &str, command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let output = Arc::new(Mutex::new(String::new()));
        collect(child.stdout.take().expect("piped"), &output);
        collect(child.stderr.take().expect("piped"), &output);
        Self { child, name: name.to_owned(), output }
    }

    /// Everything it has printed so far.
    pub fn output(&self) -> String {
        self.output.lock().expect("no reader panics").clone()
    }

    /// Waits until it has printed `text`.
    ///
    /// # Panics
    /// When it ends before, or the limit runs out.
    pub fn wait_for(&mut self, text: &str, limit: Duration) {
        let output = Arc::clone(&self.output);
        let child = &mut self.child;
        let what = format!("{} prints {text:?}", self.name);
        eventually(&what, limit, || {
            let said = output.lock().expect("no reader panics").clone();
            if said.contains(text) {
                return Ok(());
            }
            let ended = child.try_wait().expect("a child can be asked");
            assert!(ended.is_none(), "{what}: it ended: {ended:?}\n{said}");
            Err(said)
        });
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("a running child takes signals");
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("process ids are small"))
    }

    /// Asks it to stop as Ctrl-C does and waits for its end.
    ///
    /// # Panics
    /// When it does not end within `limit`.
    pub fn stop(mut self, limit: Duration) -> ExitStatus {
        self.signal(Signal::SIGINT);
        let output = Arc::clone(&self.output);
        let child = &mut self.child;
        eventually("it ends", limit, || {
            let ended = child.try_wait().expect("a child can be asked");
            ended.ok_or_else(|| output.lock().expect("no reader panics").clone())
        })
    }

    /// Ends it as a crash would.
    pub fn crash(mut self) {
        self.signal(Signal::SIGKILL);
        self.child.wait().expect("a child can be waited for");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        self.signal(Signal::SIGTERM);
        for _ in 0..200 {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        eprintln!("{} did not stop; it printed:\n{}", self.name, self.output());
        self.child.kill().expect("a running child can be killed");
        self.child.wait().expect("a child can be waited for");
    }
}

fn collect(from: impl Read + Send + 'static, output: &Arc<Mutex<String>>) {
    let output = Arc::clone(output);
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let mut kept = output.lock().expect("no reader panics");
            kept.push_str(&line);
            kept.push('\n');
        }
    });
}
