//! `logs`: what containers printed.

use clap::{Arg, ArgAction, ArgMatches, Command};
use futures::{AsyncReadExt, StreamExt};
use serde_json::Value;

use super::Verb;
use super::target::{self, Target};
use crate::Io;
use crate::cluster::Cluster;
use crate::error::Error;
use crate::path::Path;

/// # Does
/// Prints a container's log; with `-f` goes on until it ends. A workload name means its first pod.
/// # Differs from kubectl
/// With `-l` or `--all-containers` logs come one after another, each under its pod's name with `--prefix`.
pub(super) struct Logs;

#[async_trait::async_trait]
impl Verb for Logs {
    const NAME: &'static str = "logs";

    fn command(base: Command) -> Command {
        let flag = |name: &'static str, help: &'static str| {
            Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
        };
        base.about("Print a container's log")
            .arg(target::objects_arg())
            .arg(Arg::new("selector").short('l').long("selector").value_name("QUERY"))
            .arg(Arg::new("container").short('c').long("container").value_name("NAME"))
            .arg(flag("follow", "Go on until the container ends").short('f'))
            .arg(flag("previous", "Of the container's last run").short('p'))
            .arg(flag("timestamps", "With each line's time"))
            .arg(flag("all-containers", "Of all containers of the pod"))
            .arg(flag("prefix", "With the pod's and container's name before each line"))
            .arg(
                Arg::new("tail")
                    .long("tail")
                    .value_parser(clap::value_parser!(i64))
                    .allow_negative_numbers(true),
            )
            .arg(Arg::new("since").long("since").value_name("TIME").help("As 30s, 2m, 1h"))
    }

    async fn run(cluster: &Cluster, matches: &ArgMatches, io: &mut Io) -> Result<u8, Error> {
        for pod in pods(cluster, matches).await? {
            for container in containers(&pod, matches) {
                stream(cluster, &pod, container.as_deref(), matches, io).await?;
            }
        }
        Ok(0)
    }
}

async fn pods(cluster: &Cluster, matches: &ArgMatches) -> Result<Vec<Value>, Error> {
    let collection = format!("/api/v1/namespaces/{}/pods", cluster.namespace);
    if let Some(selector) = matches.get_one::<String>("selector") {
        let path = Path::new(collection).query("labelSelector", selector).finish();
        return Ok(target::items(cluster.get(&path, "application/json").await?));
    }
    let words: Vec<&String> = matches.get_many::<String>("objects").into_iter().flatten().collect();
    match words.as_slice() {
        [name] if !name.contains('/') => {
            Ok(vec![cluster.get(&format!("{collection}/{name}"), "application/json").await?])
        }
        _ => {
            let resources = cluster.resources().await?;
            Ok(vec![pod_of(cluster, &target::single(cluster, &resources, matches)?).await?])
        }
    }
}

/// The pod itself, or the first pod that a workload's selector matches.
pub(super) async fn pod_of(cluster: &Cluster, target: &Target) -> Result<Value, Error> {
    let object = cluster.get(&target.path(), "application/json").await?;
    if target.resource.plural == "pods" {
        return Ok(object);
    }
    let selector = &object["spec"]["selector"];
    let labels = selector.get("matchLabels").unwrap_or(selector);
    let query: Vec<String> = labels
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    if query.is_empty() {
        return Err(Error::Usage(format!("{} has no selector: name a pod", target.named())));
    }
    let namespace = target.namespace.as_deref().unwrap_or(&cluster.namespace);
    let path = Path::new(format!("/api/v1/namespaces/{namespace}/pods"))
        .query("labelSelector", &query.join(","))
        .finish();
    let found = target::items(cluster.get(&path, "application/json").await?);
    found.into_iter().next().ok_or_else(|| Error::Usage(format!("{} has no pods", target.named())))
}

fn containers(pod: &Value, matches: &ArgMatches) -> Vec<Option<String>> {
    if !matches.get_flag("all-containers") {
        return vec![matches.get_one::<String>("container").cloned().or_else(|| default_container(pod))];
    }
    ["initContainers", "containers"]
        .iter()
        .flat_map(|list| pod["spec"][*list].as_array().into_iter().flatten())
        .map(|container| container["name"].as_str().map(str::to_owned))
        .collect()
}

/// The container that the pod's annotation names, or its first.
pub(super) fn default_container(pod: &Value) -> Option<String> {
    let annotated = pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"].as_str();
    annotated.or(pod["spec"]["containers"][0]["name"].as_str()).map(str::to_owned)
}

async fn stream(
    cluster: &Cluster,
    pod: &Value,
    container: Option<&str>,
    matches: &ArgMatches,
    io: &mut Io,
) -> Result<(), Error> {
    let text = |key: &str| pod["metadata"][key].as_str().unwrap_or_default();
    let on = |name: &str| matches.get_flag(name).then_some("true");
    let tail = matches.get_one::<i64>("tail").filter(|lines| **lines >= 0).map(i64::to_string);
    let since = match matches.get_one::<String>("since") {
        Some(since) => Some(super::wait::parse_duration(since)?.as_secs().to_string()),
        None => None,
    };
    let path = Path::new(format!("/api/v1/namespaces/{}/pods/{}/log", text("namespace"), text("name")))
        .query_some("container", container)
        .query_some("follow", on("follow"))
        .query_some("previous", on("previous"))
        .query_some("timestamps", on("timestamps"))
        .query_some("tailLines", tail.as_deref())
        .query_some("sinceSeconds", since.as_deref())
        .finish();
    if matches.get_flag("prefix") {
        let prefix = format!("[pod/{}/{}] ", text("name"), container.unwrap_or_default());
        let mut lines = Box::pin(cluster.lines(&path, "*/*").await?);
        while let Some(line) = lines.next().await {
            writeln!(io.out, "{prefix}{}", line?)?;
        }
        return Ok(());
    }
    let request = http::Request::get(path).body(Vec::new()).map_err(Error::BuildRequest)?;
    let mut reader = Box::pin(cluster.client.request_stream(request).await?);
    let mut chunk = vec![0; 16 * 1024];
    loop {
        match reader.read(&mut chunk).await? {
            0 => return Ok(()),
            count => {
                io.out.write_all(&chunk[..count])?;
                io.out.flush()?;
            }
        }
    }
}
