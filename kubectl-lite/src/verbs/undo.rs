//! `undo`: takes one change of an object back.

use clap::{Arg, ArgAction, ArgMatches, Command};
use http::Method;
use serde_json::{Value, json};

use super::apply::{dry_run_arg, is_dry_run, report};
use super::{Verb, target};
use crate::Io;
use crate::cluster::{Cluster, FIELD_MANAGER};
use crate::error::Error;
use crate::output::{Format, format_arg};
use crate::path::Path;

/// # Does
/// Sets the fields that one revision changed back to what they were, and leaves all others as they are now.
/// Fields that were changed again since are told and nothing is changed, unless `--force`.
/// # Differs from kubectl
/// Not there; `rollout undo` goes back to an older pod template as a whole.
pub(super) struct Undo;

#[async_trait::async_trait]
impl Verb for Undo {
    const NAME: &'static str = "undo";

    fn command(base: Command) -> Command {
        base.about("Take one change of an object back (see history)")
            .args([target::objects_arg(), format_arg(), dry_run_arg()])
            .arg(
                Arg::new("revision")
                    .long("revision")
                    .value_name("REVISION")
                    .help("The change to take back (default: the newest)"),
            )
            .arg(
                Arg::new("force")
                    .long("force")
                    .action(ArgAction::SetTrue)
                    .help("Also fields that were changed again since"),
            )
    }

    async fn run(cluster: &Cluster, matches: &ArgMatches, io: &mut Io) -> Result<u8, Error> {
        let resources = cluster.resources().await?;
        let target = target::single(cluster, &resources, matches)?;
        let revision = match matches.get_one::<String>("revision") {
            Some(revision) => revision.clone(),
            None => newest(cluster, &target).await?,
        };
        let force = matches.get_flag("force").to_string();
        let dry = is_dry_run(matches);
        let path = Path::new(target.path())
            .query("undo", &revision)
            .query("fieldManager", FIELD_MANAGER)
            .query("force", &force)
            .query_some("dryRun", dry.then_some("All"))
            .finish();
        match cluster.write(Method::PATCH, &path, "application/merge-patch+json", &json!({})).await {
            Ok(object) => {
                let done = format!("undone revision {revision}");
                report(&target, &object, &done, dry, Format::of(matches), io)?;
                Ok(0)
            }
            Err(error) => {
                writeln!(io.err, "{}", error.for_humans())?;
                let details = error.status().and_then(|status| status.details.as_ref());
                for cause in details.into_iter().flat_map(|details| &details.causes) {
                    writeln!(io.err, "    {}: {}", cause.field, cause.message)?;
                }
                Ok(1)
            }
        }
    }
}

async fn newest(cluster: &Cluster, target: &target::Target) -> Result<String, Error> {
    let path = Path::new(target.path()).query("history", "true").query("limit", "1").finish();
    let history = cluster.get(&path, "application/json").await?;
    let newest = history["items"].as_array().and_then(|items| items.last());
    let revision = newest.and_then(|item: &Value| item["revision"].as_str());
    revision.map(str::to_owned).ok_or_else(|| Error::Usage("nothing is known of its history".to_owned()))
}
