//! `why`: why an object is as it is, from all that know something of it, in words.

mod account;
mod findings;

use chrono::{DateTime, Utc};
use clap::{ArgMatches, Command};
use component_base::clock::Clock;
use serde_json::Value;

use super::Verb;
use super::history;
use super::target::{self, Target};
use crate::Io;
use crate::cluster::Cluster;
use crate::error::Error;
use crate::path::Path;

/// Pods that are not ready and told of by themselves; the others are counted.
const PODS_MAX: usize = 5;
/// The newest events and changes that are told.
const EVENTS_MAX: usize = 10;
const CHANGES_MAX: &str = "5";
/// Characters of one line.
const LINE_MAX: usize = 240;

/// # Does
/// Tells of an object what is not as wished, which of its pods are not ready and why, what each controller last
/// did about it, what failed and what it waits for, what the scheduler found, its last events, and its last
/// changes with their causes.
/// # Differs from kubectl
/// Not there.
pub(super) struct Why;

#[async_trait::async_trait]
impl Verb for Why {
    const NAME: &'static str = "why";

    fn command(base: Command) -> Command {
        base.about("Tell why an object is as it is: what it waits for, what was done, what failed")
            .arg(target::objects_arg())
    }

    async fn run(cluster: &Cluster, matches: &ArgMatches, io: &mut Io) -> Result<u8, Error> {
        let resources = cluster.resources().await?;
        let target = target::single(cluster, &resources, matches)?;
        let object = cluster.get(&target.path(), "application/json").await?;
        let now = Clock::system().now();
        let mut sections = vec![(String::new(), findings::of_object(&object, now))];
        if findings::is_pod(&object) {
            sections.push(("The scheduler".to_owned(), decision(cluster, &object, now).await));
        } else {
            sections.push(("Its pods".to_owned(), pods(cluster, &target, &object, now).await));
        }
        sections.push(("The controllers".to_owned(), controllers(cluster, &target, now).await));
        sections.push(("The last events".to_owned(), events(cluster, &object, now).await));
        sections.push(("The last changes, newest first".to_owned(), changes(cluster, &target).await));
        write!(io.out, "{}", page(&heading(&target), &sections))?;
        Ok(0)
    }
}

/// `deployment.apps/web in namespace default`
fn heading(target: &Target) -> String {
    match &target.namespace {
        Some(namespace) => format!("{} in namespace {namespace}", target.named()),
        None => target.named(),
    }
}

/// The sections that have something to say; the first one has no title.
fn page(heading: &str, sections: &[(String, Vec<String>)]) -> String {
    let mut text = format!("{heading}\n");
    for (title, lines) in sections.iter().filter(|(_, lines)| !lines.is_empty()) {
        if !title.is_empty() {
            text.push_str(&format!("\n{title}:\n"));
        }
        lines
            .iter()
            .flat_map(|line| line.lines())
            .for_each(|line| text.push_str(&format!("  {}\n", short(line))));
    }
    text
}

/// The line, or its beginning: `history` and `get -o yaml` show all of it.
fn short(line: &str) -> String {
    match line.char_indices().nth(LINE_MAX) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

/// What could not be asked for is told in its place: the rest is still worth reading.
async fn ask(cluster: &Cluster, path: &str, tell: impl FnOnce(&Value) -> Vec<String>) -> Vec<String> {
    match cluster.get(path, "application/json").await {
        Ok(answer) => tell(&answer),
        Err(error) => vec![format!("not known: {}", error.for_humans())],
    }
}

fn items(list: &Value, field: &str) -> Vec<Value> {
    list[field].as_array().cloned().unwrap_or_default()
}

/// `default/web`, as the components key their records.
fn key(namespace: Option<&str>, name: &str) -> String {
    namespace.map_or_else(|| name.to_owned(), |namespace| format!("{namespace}/{name}"))
}

async fn decision(cluster: &Cluster, pod: &Value, now: DateTime<Utc>) -> Vec<String> {
    if pod["spec"]["nodeName"].is_string() {
        return Vec::new();
    }
    let meta = &pod["metadata"];
    let key = key(meta["namespace"].as_str(), meta["name"].as_str().unwrap_or_default());
    let path = Path::new("/coxswain/v1/decisions").query("pod", &key).finish();
    ask(cluster, &path, |answer| account::of_scheduler(&items(answer, "decisions"), now)).await
}

async fn controllers(cluster: &Cluster, target: &Target, now: DateTime<Utc>) -> Vec<String> {
    let key = key(target.namespace.as_deref(), target.name.as_deref().unwrap_or_default());
    let path = Path::new("/coxswain/v1/why").query("object", &key).query("kind", &target.resource.kind);
    ask(cluster, &path.finish(), |answer| account::of_controllers(&items(answer, "controllers"), now)).await
}

/// The pods that the object selects, which are often where the trouble is.
async fn pods(cluster: &Cluster, target: &Target, object: &Value, now: DateTime<Utc>) -> Vec<String> {
    let (Some(namespace), Some(selector)) = (&target.namespace, findings::selector(object)) else {
        return Vec::new();
    };
    let path = Path::new(format!("/api/v1/namespaces/{namespace}/pods")).query("labelSelector", &selector);
    ask(cluster, &path.finish(), |answer| of_pods(&items(answer, "items"), now)).await
}

fn of_pods(pods: &[Value], now: DateTime<Utc>) -> Vec<String> {
    let troubled: Vec<&Value> = pods.iter().filter(|pod| findings::is_troubled(pod)).collect();
    let mut lines = vec![format!("{} of {} are as wished", pods.len() - troubled.len(), pods.len())];
    for pod in troubled.iter().take(PODS_MAX) {
        lines.push(format!("{}:", pod["metadata"]["name"].as_str().unwrap_or_default()));
        lines.extend(findings::of_object(pod, now).into_iter().map(|line| format!("  {line}")));
    }
    if troubled.len() > PODS_MAX {
        lines.push(format!("and {} more", troubled.len() - PODS_MAX));
    }
    lines
}

async fn events(cluster: &Cluster, object: &Value, now: DateTime<Utc>) -> Vec<String> {
    let meta = &object["metadata"];
    let namespace = meta["namespace"].as_str().unwrap_or("default");
    let uid = meta["uid"].as_str().unwrap_or_default();
    let path = Path::new(format!("/api/v1/namespaces/{namespace}/events"))
        .query("fieldSelector", &format!("involvedObject.uid={uid}"));
    ask(cluster, &path.finish(), |answer| account::of_events(items(answer, "items"), EVENTS_MAX, now)).await
}

async fn changes(cluster: &Cluster, target: &Target) -> Vec<String> {
    let path = Path::new(target.path()).query("history", "true").query("limit", CHANGES_MAX).finish();
    ask(cluster, &path, |answer| items(answer, "items").iter().rev().map(history::told).collect()).await
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    #[test]
    fn only_sections_with_something_to_say_are_shown() {
        let sections = [
            (String::new(), vec!["1 of 3 replicas are ready".to_owned()]),
            ("Its pods".to_owned(), vec![]),
            ("The controllers".to_owned(), vec!["a\n  b".to_owned()]),
        ];
        expect![[r#"
            deployment.apps/web in namespace default
              1 of 3 replicas are ready

            The controllers:
              a
                b
        "#]]
        .assert_eq(&page("deployment.apps/web in namespace default", &sections));
    }

    #[test]
    fn pods_that_are_ready_are_only_counted() {
        let pod = |name: &str, ready: &str| {
            json!({"kind": "Pod", "metadata": {"name": name}, "spec": {"containers": []}, "status": {"phase": "Running",
                "conditions": [{"type": "Ready", "status": ready, "reason": "ContainersNotReady"}]}})
        };
        let lines = of_pods(&[pod("a", "True"), pod("b", "False")], DateTime::UNIX_EPOCH);
        assert_eq!(lines, ["1 of 2 are as wished", "b:", "  Ready is False (ContainersNotReady)"]);
    }
}
