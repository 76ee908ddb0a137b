//! `wait`: until a condition holds, seen on a watch.

use std::time::Duration;

use clap::{Arg, ArgMatches, Command};
use futures::StreamExt;
use serde_json::Value;

use super::Verb;
use super::target::{self, Target};
use crate::Io;
use crate::cluster::Cluster;
use crate::error::Error;
use crate::path::Path;

/// # Does
/// Waits on a watch until each named object has a condition, a value at a path, or is gone.
/// # Differs from kubectl
/// `jsonpath` takes plain dotted paths; the timeout is for each object.
pub(super) struct Wait;

/// What is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Awaited {
    Deleted,
    Created,
    Condition { kind: String, status: String },
    Value { pointer: String, text: Option<String> },
}

#[async_trait::async_trait]
impl Verb for Wait {
    const NAME: &'static str = "wait";

    fn command(base: Command) -> Command {
        base.about("Wait until a condition holds")
            .arg(target::objects_arg())
            .args(target::selector_args())
            .arg(
                Arg::new("for")
                    .long("for")
                    .required(true)
                    .value_name("WHAT")
                    .help("delete, create, condition=Ready[=True] or jsonpath='{.status.phase}'=Running"),
            )
            .arg(Arg::new("timeout").long("timeout").default_value("30s").value_name("TIME"))
    }

    async fn run(cluster: &Cluster, matches: &ArgMatches, io: &mut Io) -> Result<u8, Error> {
        let awaited = parse(matches.get_one::<String>("for").map_or("", String::as_str))?;
        let limit = parse_duration(matches.get_one::<String>("timeout").map_or("30s", String::as_str))?;
        let resources = cluster.resources().await?;
        let mut waited = 0;
        for target in target::targets(cluster, &resources, matches)? {
            for target in expand(cluster, target, matches).await? {
                wait_for(cluster, &target, &awaited, limit).await?;
                writeln!(
                    io.out,
                    "{} {}",
                    target.named(),
                    if awaited == Awaited::Deleted { "deleted" } else { "condition met" }
                )?;
                waited += 1;
            }
        }
        match waited {
            0 if awaited != Awaited::Deleted => Err(Error::Usage("no matching resources found".to_owned())),
            _ => Ok(0),
        }
    }
}

async fn expand(cluster: &Cluster, target: Target, matches: &ArgMatches) -> Result<Vec<Target>, Error> {
    if target.name.is_some() {
        return Ok(vec![target]);
    }
    let path = target::with_selectors(target.path(), matches).finish();
    let items = target::items(cluster.get(&path, "application/json").await?);
    Ok(items
        .iter()
        .map(|item| Target {
            name: item["metadata"]["name"].as_str().map(str::to_owned),
            namespace: item["metadata"]["namespace"].as_str().map(str::to_owned),
            resource: target.resource.clone(),
        })
        .collect())
}

/// Waits until `target` is as awaited, for at most `limit`.
///
/// # Errors
/// `TimedOut` after `limit`; NotFound when the object is not there and was not awaited to go or to come.
pub(super) async fn wait_for(
    cluster: &Cluster,
    target: &Target,
    awaited: &Awaited,
    limit: Duration,
) -> Result<(), Error> {
    match tokio::time::timeout(limit, until(cluster, target, awaited)).await {
        Ok(ended) => ended,
        Err(_elapsed) => Err(Error::TimedOut(target.named())),
    }
}

async fn until(cluster: &Cluster, target: &Target, awaited: &Awaited) -> Result<(), Error> {
    let name = target.name.as_deref().unwrap_or_default();
    let collection = target.resource.path(target.namespace.as_deref());
    let by_name = || Path::new(collection.clone()).query("fieldSelector", &format!("metadata.name={name}"));
    // A watch may end at any time: list again and go on from there.
    loop {
        let list = cluster.get(&by_name().finish(), "application/json").await?;
        let revision = list["metadata"]["resourceVersion"].as_str().unwrap_or("0").to_owned();
        let found = target::items(list);
        match (found.first(), awaited) {
            (None, Awaited::Deleted) => return Ok(()),
            (Some(object), awaited) if holds(object, awaited) => return Ok(()),
            (None, Awaited::Condition { .. } | Awaited::Value { .. }) => {
                cluster.get(&target.path(), "application/json").await?;
            }
            _ => {}
        }
        let query = by_name().query("watch", "true").query("resourceVersion", &revision).finish();
        let mut events = cluster.events(&query, "application/json").await?;
        while let Some(event) = events.next().await {
            let event = event?;
            match (event["type"].as_str(), awaited) {
                (Some("ERROR"), _) => break,
                (Some("DELETED"), Awaited::Deleted) => return Ok(()),
                (Some("ADDED" | "MODIFIED"), awaited) if holds(&event["object"], awaited) => return Ok(()),
                _ => {}
            }
        }
    }
}

fn holds(object: &Value, awaited: &Awaited) -> bool {
    match awaited {
        Awaited::Deleted => false,
        Awaited::Created => true,
        Awaited::Condition { kind, status } => {
            let conditions = object["status"]["conditions"].as_array();
            conditions.into_iter().flatten().any(|condition| {
                condition["type"].as_str().is_some_and(|t| t.eq_ignore_ascii_case(kind))
                    && condition["status"].as_str().is_some_and(|s| s.eq_ignore_ascii_case(status))
            })
        }
        Awaited::Value { pointer, text } => match (object.pointer(pointer), text) {
            (Some(Value::String(found)), Some(text)) => found == text,
            (Some(found), Some(text)) => {
                serde_json::from_str::<Value>(text).is_ok_and(|wanted| wanted == *found)
            }
            (found, None) => found.is_some(),
            (None, Some(_)) => false,
        },
    }
}

fn parse(text: &str) -> Result<Awaited, Error> {
    if text.eq_ignore_ascii_case("delete") {
        return Ok(Awaited::Deleted);
    }
    if text.eq_ignore_ascii_case("create") {
        return Ok(Awaited::Created);
    }
    if let Some(condition) = text.strip_prefix("condition=") {
        let (kind, status) = condition.split_once('=').unwrap_or((condition, "True"));
        return Ok(Awaited::Condition { kind: kind.to_owned(), status: status.to_owned() });
    }
    if let Some(quoted) = text.strip_prefix("jsonpath=") {
        let plain = quoted.replace(['\'', '"'], "");
        let (path, wanted) = match plain.split_once("}=") {
            Some((path, wanted)) => (path, Some(wanted.to_owned())),
            None => (plain.as_str(), None),
        };
        let pointer = path.trim_matches(['{', '}', '.']).replace('.', "/");
        return Ok(Awaited::Value { pointer: format!("/{pointer}"), text: wanted });
    }
    Err(Error::Usage(format!(
        "--for \"{text}\": write delete, create, condition=NAME[=STATUS] or jsonpath='{{.path}}'=VALUE"
    )))
}

/// `30s`, `2m`, `1h`, or plain seconds.
pub(super) fn parse_duration(text: &str) -> Result<Duration, Error> {
    let wrong = || Error::Usage(format!("\"{text}\" is no duration: write 30s, 2m or 1h"));
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let count: u64 = digits.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "" | "s" => count,
        "m" => count.saturating_mul(60),
        "h" => count.saturating_mul(3600),
        _ => return Err(wrong()),
    };
    Ok(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_to_wait_for_is_parsed_and_tested() {
        let pod =
            json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        let cases = [
            ("condition=Ready", true),
            ("condition=ready=true", true),
            ("condition=Ready=False", false),
            ("jsonpath='{.status.phase}'=Running", true),
            ("jsonpath={.status.phase}=Failed", false),
            ("jsonpath={.status.podIP}", false),
            ("create", true),
            ("delete", false),
        ];
        for (text, expected) in cases {
            assert_eq!(holds(&pod, &parse(text).expect(text)), expected, "{text}");
        }
    }

    #[test]
    fn durations_have_units() {
        for (text, seconds) in [("5", 5), ("30s", 30), ("2m", 120), ("1h", 3600)] {
            assert_eq!(parse_duration(text).expect(text).as_secs(), seconds);
        }
        assert!(parse_duration("soon").is_err());
    }
}
