//! Starts shims and hears their reports.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::runtime::{Result, RuntimeError};
use crate::shim::{ARGUMENT, Report, SHIM_LOG_FILE};

/// How long a shim may take to report.
const REPORT_LIMIT: Duration = Duration::from_secs(60);

/// A shim with the pipes to it. Dropping it leaves the process alone.
pub(super) struct Shim {
    pub(super) child: Child,
    pub(super) stdin: ChildStdin,
    pub(super) stdout: BufReader<ChildStdout>,
}

/// Runs `PROGRAM shim WHAT PLAN`; what it says on stderr goes to a file in `folder`.
pub(super) fn spawn(program: &Path, what: &str, plan: &OsStr, folder: &Path) -> Result<Shim> {
    let doing = || format!("starting {} shim {what}", program.display());
    let log = std::fs::OpenOptions::new().create(true).append(true).open(folder.join(SHIM_LOG_FILE));
    let mut child = Command::new(program)
        .arg(ARGUMENT)
        .arg(what)
        .arg(plan)
        .env("RUST_BACKTRACE", "0")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log.map_err(RuntimeError::io(doing()))?)
        .spawn()
        .map_err(RuntimeError::io(doing()))?;
    match (child.stdin.take(), child.stdout.take()) {
        (Some(stdin), Some(stdout)) => Ok(Shim { child, stdin, stdout: BufReader::new(stdout) }),
        _ => Err(RuntimeError::Failed { doing: doing(), message: "it has no pipes".into() }),
    }
}

/// The process a shim reports, or why there is none.
pub(super) async fn report(out: &mut (impl AsyncBufRead + Unpin), doing: &str, folder: &Path) -> Result<i32> {
    let mut line = String::new();
    let read = tokio::time::timeout(REPORT_LIMIT, out.read_line(&mut line)).await;
    read.map_err(|_| RuntimeError::TimedOut { doing: doing.to_owned(), limit: REPORT_LIMIT })?
        .map_err(RuntimeError::io(doing))?;
    match serde_json::from_str(&line) {
        Ok(Report::Ready { pid }) => Ok(pid),
        Ok(Report::Failed { message }) => Err(RuntimeError::Failed { doing: doing.to_owned(), message }),
        Err(_) => {
            let said = std::fs::read_to_string(folder.join(SHIM_LOG_FILE)).unwrap_or_default();
            let last = said.lines().last().unwrap_or("it ended without a word").to_owned();
            Err(RuntimeError::Failed { doing: doing.to_owned(), message: last })
        }
    }
}
