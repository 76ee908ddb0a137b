//! `delete`: removes objects and waits until they are gone.

use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};
use http::Method;
use serde_json::{Value, json};

use super::Verb;
use super::target::{self, Target};
use super::wait::{Awaited, wait_for};
use crate::Io;
use crate::cluster::Cluster;
use crate::error::Error;

/// # Does
/// Deletes by name, selector, file or all of a type, and waits on a watch until each object is gone.
/// # Differs from kubectl
/// Nothing is asked back; `--all` or a selector is needed to delete without a name.
pub(super) struct Delete;

#[async_trait::async_trait]
impl Verb for Delete {
    const NAME: &'static str = "delete";

    fn command(base: Command) -> Command {
        base.about("Delete objects")
            .arg(target::objects_arg())
            .args(target::selector_args())
            .args(target::file_args())
            .arg(Arg::new("all").long("all").action(ArgAction::SetTrue).help("All of the type"))
            .arg(Arg::new("wait").long("wait").value_parser(clap::value_parser!(bool)).default_value("true"))
            .arg(
                Arg::new("timeout")
                    .long("timeout")
                    .value_name("SECONDS")
                    .default_value("300")
                    .value_parser(clap::value_parser!(u64)),
            )
            .arg(
                Arg::new("grace-period")
                    .long("grace-period")
                    .value_parser(clap::value_parser!(i64))
                    .allow_negative_numbers(true),
            )
            .arg(
                Arg::new("force")
                    .long("force")
                    .action(ArgAction::SetTrue)
                    .help("Do not wait for graceful termination"),
            )
            .arg(
                Arg::new("cascade")
                    .long("cascade")
                    .value_parser(["background", "foreground", "orphan"])
                    .default_value("background"),
            )
            .arg(Arg::new("ignore-not-found").long("ignore-not-found").action(ArgAction::SetTrue))
    }

    async fn run(cluster: &Cluster, matches: &ArgMatches, io: &mut Io) -> Result<u8, Error> {
        let targets = chosen(cluster, matches).await?;
        let options = options(matches);
        let mut deleted = Vec::new();
        for target in targets {
            match cluster.write(Method::DELETE, &target.path(), "application/json", &options).await {
                Ok(_) => {
                    writeln!(io.out, "{} deleted", target.named().replacen('/', " \"", 1) + "\"")?;
                    deleted.push(target);
                }
                Err(error) if error.is_not_found() && matches.get_flag("ignore-not-found") => {}
                Err(error) => return Err(error),
            }
        }
        if matches.get_one::<bool>("wait").copied().unwrap_or(true) {
            let limit = Duration::from_secs(matches.get_one::<u64>("timeout").copied().unwrap_or(300));
            for target in &deleted {
                wait_for(cluster, target, &Awaited::Deleted, limit).await?;
            }
        }
        if deleted.is_empty() && !matches.get_flag("ignore-not-found") {
            writeln!(io.out, "No resources found")?;
        }
        Ok(0)
    }
}

fn options(matches: &ArgMatches) -> Value {
    let cascade = match matches.get_one::<String>("cascade").map(String::as_str) {
        Some("foreground") => "Foreground",
        Some("orphan") => "Orphan",
        _ => "Background",
    };
    let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": cascade});
    let grace = matches.get_one::<i64>("grace-period").copied().filter(|seconds| *seconds >= 0);
    if let Some(seconds) = if matches.get_flag("force") { Some(0) } else { grace } {
        options["gracePeriodSeconds"] = json!(seconds);
    }
    options
}

async fn chosen(cluster: &Cluster, matches: &ArgMatches) -> Result<Vec<Target>, Error> {
    let resources = cluster.resources().await?;
    if matches.contains_id("filename") {
        return target::manifests(matches)?
            .iter()
            .map(|m| target::target_of(cluster, &resources, m))
            .collect();
    }
    let mut chosen = Vec::new();
    for target in target::targets(cluster, &resources, matches)? {
        if target.name.is_some() {
            chosen.push(target);
            continue;
        }
        if !matches.get_flag("all") && !["selector", "field-selector"].iter().any(|s| matches.contains_id(s))
        {
            return Err(Error::Usage("name the objects, or use --all, -l or --field-selector".to_owned()));
        }
        let path = target::with_selectors(target.path(), matches).finish();
        for item in target::items(cluster.get(&path, "application/json").await?) {
            let text = |key: &str| item["metadata"][key].as_str().map(str::to_owned);
            chosen.push(Target { name: text("name"), namespace: text("namespace"), ..target.clone() });
        }
    }
    Ok(chosen)
}
