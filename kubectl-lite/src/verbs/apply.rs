//! `apply`: makes objects be as manifests say.

mod atomic;

use clap::{Arg, ArgAction, ArgMatches, Command};
use http::Method;
use serde_json::Value;

use super::Verb;
use super::target::{self, Target};
use crate::Io;
use crate::cluster::{Cluster, FIELD_MANAGER};
use crate::error::Error;
use crate::output::{Format, format_arg};
use crate::path::Path;

/// # Does
/// Server-side apply of every manifest as the field manager `kubectl-lite`. All files are read and every
/// kind is known before the first request, so a broken file changes nothing.
/// # Differs from kubectl
/// Always server-side: no last-applied annotation, conflicts are reported by field, `--force-conflicts` takes them.
/// `--atomic` applies everything in one revision or nothing.
pub(super) struct Apply;

#[async_trait::async_trait]
impl Verb for Apply {
    const NAME: &'static str = "apply";

    fn command(base: Command) -> Command {
        base.about("Make objects be as manifests say (server-side apply)")
            .args(target::file_args())
            .args([format_arg(), dry_run_arg()])
            .arg(
                Arg::new("force-conflicts")
                    .long("force-conflicts")
                    .action(ArgAction::SetTrue)
                    .help("Take over fields that others own"),
            )
            .arg(
                Arg::new("atomic")
                    .long("atomic")
                    .action(ArgAction::SetTrue)
                    .help("All of it in one revision, or nothing"),
            )
    }

    async fn run(cluster: &Cluster, matches: &ArgMatches, io: &mut Io) -> Result<u8, Error> {
        let resources = cluster.resources().await?;
        let mut planned = Vec::new();
        for manifest in target::manifests(matches)? {
            let target = target::target_of(cluster, &resources, &manifest)?;
            if target.name.is_none() {
                return Err(Error::Syntax {
                    file: manifest.source,
                    message: "metadata.name is required".to_owned(),
                });
            }
            planned.push((target, manifest));
        }
        if planned.is_empty() {
            return Err(Error::Usage("nothing to apply: name a file with -f".to_owned()));
        }
        if matches.get_flag("atomic") {
            return atomic::apply(cluster, planned, matches, io).await;
        }
        let mut failed = 0;
        for (target, manifest) in planned {
            match apply(cluster, &target, &manifest.object, matches, io).await {
                Ok(()) => {}
                Err(error @ Error::Write(_)) => return Err(error),
                Err(error) => {
                    failed = 1;
                    writeln!(io.err, "{} ({})", error.for_humans(), manifest.source)?;
                }
            }
        }
        Ok(failed)
    }
}

pub(super) fn dry_run_arg() -> Arg {
    Arg::new("dry-run")
        .long("dry-run")
        .value_parser(["none", "server"])
        .help("server: say what would happen, change nothing")
}

pub(super) fn is_dry_run(matches: &ArgMatches) -> bool {
    matches.get_one::<String>("dry-run").is_some_and(|mode| mode == "server")
}

async fn apply(
    cluster: &Cluster,
    target: &Target,
    object: &Value,
    matches: &ArgMatches,
    io: &mut Io,
) -> Result<(), Error> {
    let before = match cluster.get(&target.path(), "application/json").await {
        Ok(object) => Some(object),
        Err(error) if error.is_not_found() => None,
        Err(error) => return Err(error),
    };
    let force = matches.get_flag("force-conflicts").to_string();
    let dry = is_dry_run(matches);
    let path = Path::new(target.path())
        .query("fieldManager", FIELD_MANAGER)
        .query("force", &force)
        .query_some("dryRun", dry.then_some("All"))
        .finish();
    let after = cluster.write(Method::PATCH, &path, "application/apply-patch+yaml", object).await?;
    let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
    let done = match before {
        None => "created",
        Some(before) if version(&before) == version(&after) && !dry => "unchanged",
        Some(_) => "configured",
    };
    report(&target.clone(), &after, done, dry, Format::of(matches), io)
}

/// `deployment.apps/web created`, or the object in the format that was asked for.
pub(super) fn report(
    target: &Target,
    object: &Value,
    done: &str,
    dry: bool,
    format: Format,
    io: &mut Io,
) -> Result<(), Error> {
    if !matches!(format, Format::Table { .. }) {
        return format.print_object(&mut io.out, &target.resource, object);
    }
    let name = object["metadata"]["name"].as_str().or(target.name.as_deref()).unwrap_or_default();
    let suffix = if dry { " (server dry run)" } else { "" };
    writeln!(io.out, "{} {done}{suffix}", target.resource.named(name))?;
    Ok(())
}
