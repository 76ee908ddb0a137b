//! The command line of `coxswain`: a file and a row per command.

mod certificates;
mod fork;
mod image;
mod test;
mod up;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{ArgMatches, Command};
use component_base::flags::{ConfigFileError, with_config_file};
use futures::future::BoxFuture;

/// One command.
#[async_trait::async_trait]
trait Subcommand {
    const NAME: &'static str;
    /// Whether `--config FILE` stands in for flags.
    const READS_CONFIG_FILE: bool = false;
    fn command(base: Command) -> Command;
    async fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode>;
}

struct Row {
    name: &'static str,
    reads_config_file: bool,
    command: fn() -> Command,
    run: for<'a> fn(&'a ArgMatches) -> BoxFuture<'a, anyhow::Result<ExitCode>>,
}

const fn def<S: Subcommand>() -> Row {
    Row {
        name: S::NAME,
        reads_config_file: S::READS_CONFIG_FILE,
        command: || S::command(Command::new(S::NAME)),
        run: |matches| S::run(matches),
    }
}

static COMMANDS: &[Row] = &[
    def::<up::Up>(),
    def::<test::Test>(),
    def::<image::Image>(),
    def::<fork::Fork>(),
    def::<certificates::Certificates>(),
];

/// Reads the command line, runs the command, prints an error with its causes.
pub fn main() -> ExitCode {
    let base = Command::new("coxswain")
        .about("A Kubernetes cluster in one process")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true);
    let args = match arguments() {
        Ok(args) => args,
        Err(error) => return fail(&error.into()),
    };
    let matches =
        COMMANDS.iter().fold(base, |base, row| base.subcommand((row.command)())).get_matches_from(args);
    let Some((name, sub)) = matches.subcommand() else { return ExitCode::FAILURE };
    let Some(row) = COMMANDS.iter().find(|row| row.name == name) else { return ExitCode::FAILURE };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on((row.run)(sub));
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    match ended {
        Ok(code) => code,
        Err(error) => fail(&error),
    }
}

/// The command line, with what a config file adds if the command reads one.
fn arguments() -> Result<Vec<OsString>, ConfigFileError> {
    let args: Vec<OsString> = std::env::args_os().collect();
    match args.get(1).and_then(|name| COMMANDS.iter().find(|row| name == row.name)) {
        Some(row) if row.reads_config_file => with_config_file(args),
        _ => Ok(args),
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}
