//! The command line: one file per verb under `verbs/`, one path to the server under `cluster`.
//!
//! Resource names come from the server's discovery, tables from the server's own printing, so that a
//! custom resource is as good as a built-in one and nothing here knows a kind's columns.

mod cluster;
mod error;
mod manifests;
mod output;
mod path;
mod resources;
mod verbs;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Command;

pub use error::Error;
pub use manifests::{Manifest, parse as parse_manifests, read_manifests};
pub use resources::near_kinds;

/// Where a command writes. Tests pass buffers of their own.
pub struct Io {
    pub out: Box<dyn Write + Send>,
    pub err: Box<dyn Write + Send>,
}

impl Io {
    /// The process's own streams.
    pub fn standard() -> Self {
        Self { out: Box::new(io::stdout()), err: Box::new(io::stderr()) }
    }
}

/// The whole command line: global flags and a subcommand per verb.
pub fn command() -> Command {
    let base = Command::new("kubectl-lite")
        .about("Controls a Kubernetes cluster: the verbs used every day, in one small program")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .args(cluster::global_args());
    verbs::VERBS.iter().fold(base, |command, verb| command.subcommand((verb.command)()))
}

/// Runs one command line and says how it ended: 0 done, 1 failed, or the exit code of what `exec` ran.
pub async fn run(args: impl IntoIterator<Item = OsString>, mut io: Io) -> ExitCode {
    let matches = match command().try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(error) => return usage(&error, &mut io),
    };
    let Some((name, sub)) = matches.subcommand() else { return ExitCode::FAILURE };
    let Some(verb) = verbs::VERBS.iter().find(|verb| verb.name == name) else { return ExitCode::FAILURE };
    let ended = match cluster::Cluster::connect(sub).await {
        Ok(cluster) => (verb.run)(&cluster, sub, &mut io).await,
        Err(error) => Err(error),
    };
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(Error::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            // When standard error is gone too there is nobody left to tell.
            drop(writeln!(io.err, "{}", error.for_humans()));
            ExitCode::FAILURE
        }
    }
}

fn usage(error: &clap::Error, io: &mut Io) -> ExitCode {
    let stream = if error.use_stderr() { &mut io.err } else { &mut io.out };
    drop(write!(stream, "{error}"));
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1))
}
