//! `rollout`: how far a change of a workload has come, and doing it again.

use clap::{Arg, ArgMatches, Command};
use futures::StreamExt;
use http::Method;
use serde_json::{Value, json};

use super::Verb;
use super::target::{self, Target};
use super::wait::parse_duration;
use crate::Io;
use crate::cluster::Cluster;
use crate::error::Error;
use crate::path::Path;

/// # Does
/// `status` follows a rollout on a watch until it is complete or has failed; `restart` makes new pods.
/// # Differs from kubectl
/// `undo`, `history`, `pause` and `resume` are not there.
pub(super) struct Rollout;

#[async_trait::async_trait]
impl Verb for Rollout {
    const NAME: &'static str = "rollout";

    fn command(base: Command) -> Command {
        base.about("Follow or restart a rollout")
            .subcommand_required(true)
            .subcommand(
                Command::new("status")
                    .about("Follow a rollout until it is complete")
                    .arg(target::objects_arg())
                    .arg(Arg::new("timeout").long("timeout").default_value("0s").help("0s: no limit")),
            )
            .subcommand(Command::new("restart").about("Replace all pods").arg(target::objects_arg()))
    }

    async fn run(cluster: &Cluster, matches: &ArgMatches, io: &mut Io) -> Result<u8, Error> {
        let resources = cluster.resources().await?;
        match matches.subcommand() {
            Some(("restart", sub)) => restart(cluster, &target::single(cluster, &resources, sub)?, io).await,
            Some((_, sub)) => {
                let target = target::single(cluster, &resources, sub)?;
                let limit = parse_duration(sub.get_one::<String>("timeout").map_or("0s", String::as_str))?;
                if limit.is_zero() {
                    return status(cluster, &target, io).await;
                }
                tokio::time::timeout(limit, status(cluster, &target, io))
                    .await
                    .unwrap_or_else(|_elapsed| Err(Error::TimedOut(target.named())))
            }
            None => Err(Error::Usage("say what: status or restart".to_owned())),
        }
    }
}

async fn restart(cluster: &Cluster, target: &Target, io: &mut Io) -> Result<u8, Error> {
    let now = component_base::clock::Clock::system().now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    let annotations = json!({"kubectl.kubernetes.io/restartedAt": now});
    let patch = json!({"spec": {"template": {"metadata": {"annotations": annotations}}}});
    cluster.write(Method::PATCH, &target.path(), "application/merge-patch+json", &patch).await?;
    writeln!(io.out, "{} restarted", target.named())?;
    Ok(0)
}

/// Where a rollout stands.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    Waiting(String),
    Complete(String),
    Failed(String),
}

async fn status(cluster: &Cluster, target: &Target, io: &mut Io) -> Result<u8, Error> {
    let mut last = String::new();
    loop {
        let mut object = cluster.get(&target.path(), "application/json").await?;
        let query = Path::new(target.resource.path(target.namespace.as_deref()))
            .query("fieldSelector", &format!("metadata.name={}", target.name.as_deref().unwrap_or_default()))
            .query("watch", "true")
            .query("resourceVersion", object["metadata"]["resourceVersion"].as_str().unwrap_or("0"))
            .finish();
        let mut events = cluster.events(&query, "application/json").await?;
        loop {
            match progress(&target.resource.kind, &object) {
                Progress::Complete(text) => {
                    writeln!(io.out, "{text}")?;
                    return Ok(0);
                }
                Progress::Failed(text) => return Err(Error::Usage(text)),
                Progress::Waiting(text) => {
                    if text != last {
                        writeln!(io.out, "{text}")?;
                        io.out.flush()?;
                    }
                    last = text;
                }
            }
            let Some(event) = events.next().await else { break };
            let event = event?;
            match event["type"].as_str() {
                Some("ERROR") => break,
                Some("DELETED") => return Err(Error::Usage("object has been deleted".to_owned())),
                _ => object = event["object"].clone(),
            }
        }
    }
}

/// The rule of kubectl's status viewers: counts of the newest generation against what is wanted.
fn progress(kind: &str, object: &Value) -> Progress {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let status = |field: &str| object["status"][field].as_i64().unwrap_or(0);
    let what = kind.to_lowercase();
    if status("observedGeneration") < object["metadata"]["generation"].as_i64().unwrap_or(0) {
        return Progress::Waiting(format!("Waiting for {what} spec update to be observed..."));
    }
    let conditions = object["status"]["conditions"].as_array();
    let exceeded =
        conditions.into_iter().flatten().any(|condition| condition["reason"] == "ProgressDeadlineExceeded");
    if exceeded {
        return Progress::Failed(format!("{what} \"{name}\" exceeded its progress deadline"));
    }
    let (wanted, updated, available) = if kind == "DaemonSet" {
        (status("desiredNumberScheduled"), status("updatedNumberScheduled"), status("numberAvailable"))
    } else {
        (
            object["spec"]["replicas"].as_i64().unwrap_or(1),
            status("updatedReplicas"),
            status("availableReplicas"),
        )
    };
    let waiting = |text: String| {
        Progress::Waiting(format!("Waiting for {what} \"{name}\" rollout to finish: {text}..."))
    };
    if updated < wanted {
        return waiting(format!("{updated} out of {wanted} new replicas have been updated"));
    }
    if kind != "DaemonSet" && status("replicas") > updated {
        return waiting(format!("{} old replicas are pending termination", status("replicas") - updated));
    }
    if available < wanted {
        return waiting(format!("{available} of {wanted} updated replicas are available"));
    }
    Progress::Complete(format!("{what} \"{name}\" successfully rolled out"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(updated: i64, total: i64, available: i64) -> Value {
        json!({"metadata": {"name": "web", "generation": 2}, "spec": {"replicas": 3}, "status":
            {"observedGeneration": 2, "updatedReplicas": updated, "replicas": total, "availableReplicas": available}})
    }

    #[test]
    fn a_rollout_passes_its_stages() {
        let said = |object: &Value| match progress("Deployment", object) {
            Progress::Waiting(text) | Progress::Complete(text) | Progress::Failed(text) => text,
        };
        let wait = "Waiting for deployment \"web\" rollout to finish: ";
        assert_eq!(said(&deployment(1, 3, 3)), format!("{wait}1 out of 3 new replicas have been updated..."));
        assert_eq!(said(&deployment(3, 4, 3)), format!("{wait}1 old replicas are pending termination..."));
        assert_eq!(said(&deployment(3, 3, 2)), format!("{wait}2 of 3 updated replicas are available..."));
        assert_eq!(said(&deployment(3, 3, 3)), "deployment \"web\" successfully rolled out");
    }
}
