//! Black-box tests: real programs, the real kubectl, real containers; the public API only.

mod bad_input;
mod bench;
mod conformance;
mod containers;
mod helm;
mod kubectl;
mod lab;
mod library;
mod lite;
mod operator;
mod processes;
mod restart;
mod test_command;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use e2e::{Daemon, Kubectl, binary};

const LIMIT: Duration = Duration::from_secs(120);

/// `coxswain up` in a scratch data directory.
struct Up {
    daemon: Daemon,
    data: tempfile::TempDir,
}

impl Up {
    /// Starts it and waits until all is ready.
    fn start(args: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().expect("a temporary folder"), args)
    }

    fn start_in(data: tempfile::TempDir, args: &[&str]) -> Self {
        let mut command = Command::new(binary("coxswain"));
        command.args(["up", "--listen", "127.0.0.1:0", "--data-dir"]).arg(data.path()).args(args);
        Self::start_with(command, data)
    }

    /// As `start_in`, with the folder named as it is seen from where it lies.
    fn start_beside(data: tempfile::TempDir, args: &[&str]) -> Self {
        let mut command = Command::new(binary("coxswain"));
        let (folder, name) =
            (data.path().parent().expect("a folder"), data.path().file_name().expect("a name"));
        command
            .current_dir(folder)
            .args(["up", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(name)
            .args(args);
        Self::start_with(command, data)
    }

    fn start_with(mut command: Command, data: tempfile::TempDir) -> Self {
        let mut daemon = Daemon::start("coxswain up", &mut command);
        daemon.wait_for("All is ready", LIMIT);
        Self { daemon, data }
    }

    fn kubeconfig(&self) -> PathBuf {
        self.data.path().join("admin.kubeconfig")
    }

    fn kubectl(&self) -> Kubectl {
        Kubectl::new(&self.kubeconfig())
    }
}

fn manifest(path: &str) -> String {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("e2e lies in the workspace");
    root.join(path).display().to_string()
}
