//! The real kubectl, as a user types it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::eventually;

/// A kubectl (or kubectl-lite) bound to one cluster.
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    /// kubectl caches discovery here, apart from the user's own.
    home: tempfile::TempDir,
}

/// How a command ended.
#[derive(Debug)]
pub struct Said {
    pub ok: bool,
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Kubectl {
    /// # Panics
    /// When no temporary folder can be made.
    pub fn new(kubeconfig: &Path) -> Self {
        Self::with_program(Path::new("kubectl"), kubeconfig)
    }

    /// # Panics
    /// When no temporary folder can be made.
    pub fn with_program(program: &Path, kubeconfig: &Path) -> Self {
        let home = tempfile::tempdir().expect("a temporary folder");
        Self { program: program.to_owned(), kubeconfig: kubeconfig.to_owned(), home }
    }

    /// A command to be started by the caller.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).env("KUBECONFIG", &self.kubeconfig).env("HOME", self.home.path());
        command
    }

    /// Runs `kubectl ARGS`.
    ///
    /// # Panics
    /// When the program cannot be run at all.
    pub fn try_run(&self, args: &[&str]) -> Said {
        self.run_command(&mut self.command(args), "")
    }

    /// Runs `kubectl ARGS` with `input` on standard input.
    ///
    /// # Panics
    /// When the program cannot be run at all.
    pub fn try_input(&self, args: &[&str], input: &str) -> Said {
        self.run_command(&mut self.command(args), input)
    }

    fn run_command(&self, command: &mut Command, input: &str) -> Said {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", self.program.display()));
        let mut stdin = child.stdin.take().expect("piped");
        // A command that does not read its input closes it early; its answer tells.
        drop(stdin.write_all(input.as_bytes()));
        drop(stdin);
        let output = child.wait_with_output().expect("a child can be waited for");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Said {
            ok: output.status.success(),
            code: output.status.code(),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }

    /// Runs `kubectl ARGS`, which must succeed, and answers what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn run(&self, args: &[&str]) -> String {
        self.run_input(args, "")
    }

    /// Like [`Kubectl::run`], with `input` on standard input.
    ///
    /// # Panics
    /// When it fails.
    pub fn run_input(&self, args: &[&str], input: &str) -> String {
        let said = self.try_input(args, input);
        assert!(said.ok, "kubectl {}\n{}{}", args.join(" "), said.out, said.err);
        said.out
    }

    /// Runs `kubectl ARGS` until what it prints contains `wanted`.
    ///
    /// # Panics
    /// When that does not come within `limit`.
    pub fn until(&self, args: &[&str], wanted: &str, limit: Duration) -> String {
        eventually(&format!("kubectl {} prints {wanted:?}", args.join(" ")), limit, || {
            let said = self.try_run(args);
            if said.out.contains(wanted) { Ok(said.out) } else { Err(format!("{}{}", said.out, said.err)) }
        })
    }
}
