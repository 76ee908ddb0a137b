//! A line on the terminal for each object that comes up, from watches.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use futures::{AsyncBufReadExt as _, StreamExt as _, stream::SelectAll};
use http::Request;
use kubectl_lite::Manifest;
use serde_json::Value;

use crate::terminal::say;

/// Applies manifests and follows what becomes of them.
pub(crate) struct Progress {
    client: kube::Client,
    /// Label → what it still waits for; ready objects are not here any more.
    waiting: BTreeMap<String, String>,
}

/// Where one object is in the API.
struct Place {
    label: String,
    collection: String,
    name: String,
}

impl Progress {
    pub(crate) fn new(client: kube::Client) -> Self {
        Self { client, waiting: BTreeMap::new() }
    }

    /// What was not ready when the time ran out.
    pub(crate) fn waiting_for(&self) -> String {
        let all: Vec<String> =
            self.waiting.iter().map(|(label, state)| format!("{label}: {state}")).collect();
        format!("still waiting for {}", all.join(", "))
    }

    /// Waits until every node is Ready.
    pub(crate) async fn nodes(&mut self, names: &[String]) -> anyhow::Result<()> {
        let place = |name: &String| Place {
            label: format!("node/{name}"),
            collection: "/api/v1/nodes".to_owned(),
            name: name.clone(),
        };
        self.follow(names.iter().map(place).collect()).await
    }

    /// Applies each manifest (server-side apply) and waits until all are ready.
    pub(crate) async fn apply(&mut self, manifests: &[Manifest]) -> anyhow::Result<()> {
        // Every kind is known before the first write, so that a slip in one manifest changes nothing.
        let places =
            manifests.iter().map(|manifest| self.place(manifest)).collect::<anyhow::Result<Vec<_>>>()?;
        for (manifest, place) in manifests.iter().zip(&places) {
            let path = format!("{}/{}?fieldManager=coxswain&force=true", place.collection, place.name);
            let request = Request::patch(path)
                .header("content-type", "application/apply-patch+yaml")
                .body(manifest.object.to_string().into_bytes())?;
            self.client
                .request::<Value>(request)
                .await
                .with_context(|| format!("{} ({}) was refused", place.label, manifest.source))?;
            say(format_args!("  {:<32} applied", place.label));
        }
        self.follow(places).await
    }

    fn place(&self, manifest: &Manifest) -> anyhow::Result<Place> {
        let (api_version, kind) =
            manifest.type_meta().map_err(|error| anyhow::anyhow!("{}", error.for_humans()))?;
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let Some(row) = api_types::kinds::find_kind(group, version, kind) else {
            let served = api_types::kinds::builtin().iter().map(|row| (row.kind.clone(), row.api_version()));
            let near = kubectl_lite::near_kinds(kind, served);
            bail!("{}: no matches for kind \"{kind}\" in version \"{api_version}\"{near}", manifest.source);
        };
        let text = |pointer: &str| manifest.object.pointer(pointer).and_then(Value::as_str);
        let name = text("/metadata/name")
            .with_context(|| format!("{}: {kind} has no metadata.name", manifest.source))?;
        let root = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{api_version}") };
        let collection = if row.is_namespaced() {
            format!("{root}/namespaces/{}/{}", text("/metadata/namespace").unwrap_or("default"), row.plural)
        } else {
            format!("{root}/{}", row.plural)
        };
        Ok(Place { label: format!("{}/{name}", row.singular), collection, name: name.to_owned() })
    }

    async fn follow(&mut self, places: Vec<Place>) -> anyhow::Result<()> {
        let mut events = SelectAll::new();
        for place in &places {
            self.waiting.insert(place.label.clone(), "not seen yet".to_owned());
            let path = format!(
                "{}?watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan&fieldSelector=metadata.name%3D{}",
                place.collection, place.name
            );
            let stream = self.client.request_stream(Request::get(path).body(Vec::new())?).await?;
            let label = place.label.clone();
            events.push(Box::pin(stream).lines().map(move |line| (label.clone(), line)));
        }
        while !self.waiting.is_empty() {
            let Some((label, line)) = events.next().await else {
                bail!("the watches ended; {}", self.waiting_for())
            };
            let event: Value = serde_json::from_str(&line?)?;
            match event["type"].as_str() {
                Some("ADDED" | "MODIFIED") => self.note(&label, &event["object"]),
                Some("ERROR") => bail!("the watch of {label} failed: {}", event["object"]["message"]),
                _ => {}
            }
        }
        Ok(())
    }

    fn note(&mut self, label: &str, object: &Value) {
        let Some(before) = self.waiting.get_mut(label) else { return };
        match state(object) {
            State::Ready(text) => {
                say(format_args!("  {label:<32} {text}"));
                self.waiting.remove(label);
            }
            State::Waiting(text) if *before != text => {
                say(format_args!("  {label:<32} {text}"));
                *before = text;
            }
            State::Waiting(_) => {}
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Waiting(String),
    Ready(String),
}

/// How far an object has come, by the conventions that workloads share: wanted and ready counts, or a
/// condition that says it is done. An object without either is ready when it is there.
fn state(object: &Value) -> State {
    let status = &object["status"];
    let count = |field: &str| status[field].as_i64();
    let condition = |kind: &str| {
        let all = status["conditions"].as_array();
        all.into_iter().flatten().any(|found| found["type"] == kind && found["status"] == "True")
    };
    let counted = |ready: i64, wanted: i64| {
        let text = format!("{ready}/{wanted} ready");
        if ready >= wanted { State::Ready(text) } else { State::Waiting(text) }
    };
    match object["kind"].as_str().unwrap_or_default() {
        "Deployment" | "StatefulSet" | "ReplicaSet" => {
            counted(count("readyReplicas").unwrap_or(0), object["spec"]["replicas"].as_i64().unwrap_or(1))
        }
        "DaemonSet" => match count("desiredNumberScheduled") {
            Some(wanted) if wanted > 0 => counted(count("numberReady").unwrap_or(0), wanted),
            _ => State::Waiting("waiting for nodes".to_owned()),
        },
        "Job" if condition("Complete") => State::Ready("complete".to_owned()),
        "Job" => State::Waiting(format!(
            "{}/{} succeeded",
            count("succeeded").unwrap_or(0),
            object["spec"]["completions"].as_i64().unwrap_or(1)
        )),
        "CronJob" => match status["lastScheduleTime"].as_str() {
            Some(at) => State::Ready(format!("fired at {at}")),
            None => State::Waiting(format!(
                "waits for {}",
                object["spec"]["schedule"].as_str().unwrap_or_default()
            )),
        },
        "Node" | "Pod" if condition("Ready") => State::Ready("ready".to_owned()),
        "Node" | "Pod" => State::Waiting("not ready yet".to_owned()),
        _ => State::Ready("there".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_kind_of_object_says_when_it_is_ready() {
        let cases = [
            (
                json!({"kind": "Deployment", "spec": {"replicas": 3}, "status": {"readyReplicas": 2}}),
                State::Waiting("2/3 ready".to_owned()),
            ),
            (
                json!({"kind": "StatefulSet", "spec": {"replicas": 2}, "status": {"readyReplicas": 2}}),
                State::Ready("2/2 ready".to_owned()),
            ),
            (
                json!({"kind": "DaemonSet", "status": {"desiredNumberScheduled": 0}}),
                State::Waiting("waiting for nodes".to_owned()),
            ),
            (
                json!({"kind": "Job", "spec": {"completions": 3}, "status": {"succeeded": 1}}),
                State::Waiting("1/3 succeeded".to_owned()),
            ),
            (
                json!({"kind": "Job", "status": {"conditions": [{"type": "Complete", "status": "True"}]}}),
                State::Ready("complete".to_owned()),
            ),
            (
                json!({"kind": "Node", "status": {"conditions": [{"type": "Ready", "status": "False"}]}}),
                State::Waiting("not ready yet".to_owned()),
            ),
            (json!({"kind": "Service"}), State::Ready("there".to_owned())),
        ];
        for (object, expected) in cases {
            assert_eq!(state(&object), expected, "{object}");
        }
    }
}
