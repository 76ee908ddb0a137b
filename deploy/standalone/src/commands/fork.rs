//! `coxswain fork --data-dir A --into B`: a second cluster from the state of a first.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Arg, ArgAction, ArgMatches, Command};

use super::Subcommand;
use crate::host::default_data_dir;
use crate::terminal::say;

/// What signs certificates and service-account tokens.
const AUTHORITY: &[&str] = &["ca.crt", "ca.key", "sa.key"];

/// # Does
/// Makes a data directory with all objects of another one, which may belong to a running cluster. Nothing
/// large is copied: both share the files that are never written again. Certificates are made anew at the
/// fork's first start, unless `--copy-ca` takes the authority along, so that clients of the one are trusted
/// by the other.
pub(super) struct Fork;

#[async_trait::async_trait]
impl Subcommand for Fork {
    const NAME: &'static str = "fork";

    fn command(base: Command) -> Command {
        let value = |name: &'static str, placeholder: &'static str, help: &'static str| {
            Arg::new(name).long(name).value_name(placeholder).help(help)
        };
        base.about("Make a second cluster from the state of a first, running or not")
            .arg(value("data-dir", "DIR", "Of the first, as given to `up`"))
            .arg(value("into", "DIR", "Of the second; missing or empty").required(true))
            .arg(
                Arg::new("copy-ca")
                    .long("copy-ca")
                    .action(ArgAction::SetTrue)
                    .help("Keep the first one's certificate authority and token key"),
            )
    }

    async fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
        let from = matches.get_one::<String>("data-dir").map_or_else(default_data_dir, PathBuf::from);
        let into = PathBuf::from(matches.get_one::<String>("into").context("--into is required")?);
        if std::fs::read_dir(&into).is_ok_and(|mut entries| entries.next().is_some()) {
            bail!("{} is not empty; name a directory that is not there yet", into.display());
        }
        let started = tokio::time::Instant::now();
        let forked = apiserver::fork(&from.join("store"), &into.join("store"))?;
        if matches.get_flag("copy-ca") {
            copy_authority(&from.join("pki"), &into.join("pki"))?;
        }
        say(format_args!(
            "Forked into {} in {:.2} s: {} files shared, {} copied ({:.1} MiB).",
            into.display(),
            started.elapsed().as_secs_f64(),
            forked.linked,
            forked.copied,
            forked.copied_bytes as f64 / f64::from(1 << 20),
        ));
        say(format_args!("Start it with: coxswain up --data-dir {}", into.display()));
        Ok(ExitCode::SUCCESS)
    }
}

fn copy_authority(from: &Path, into: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(into).with_context(|| format!("cannot make {}", into.display()))?;
    for name in AUTHORITY {
        let (old, new) = (from.join(name), into.join(name));
        std::fs::copy(&old, &new).with_context(|| format!("cannot copy {}", old.display()))?;
    }
    Ok(())
}
