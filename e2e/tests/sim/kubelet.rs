//! A node: registers, renews its lease, and lets the pods that are bound to it run, end and go, as data.
//!
//! What a pod does stands in its annotations: `sim/runs` (milliseconds until it ends), `sim/fails` (percent),
//! `sim/never-ready`.

use std::collections::BTreeMap;
use std::time::Duration;

use component_base::Shutdown;
use component_base::clock::Clock;
use futures::StreamExt;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions};
use kube::core::ApiResource;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::chance::Chance;
use crate::model::{is_broken, is_ready};

const HEARTBEAT: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(1);

/// One node's agent, from its start to its end; a node that comes back starts a new one.
pub(crate) struct Kubelet {
    pub(crate) name: String,
    pub(crate) client: Client,
    pub(crate) clock: Clock,
    pub(crate) chance: Chance,
    /// The machine was off: what ran on it has ended.
    pub(crate) rebooted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Starting,
    Running,
    /// Runs, and somebody who gave the node up has written that it does not.
    Denied,
    /// Has ended, or serves for ever: nothing to do.
    Still,
    Stopping,
}

struct Local {
    pod: Value,
    state: State,
    due: Option<Instant>,
}

pub(crate) fn resource(api_version: &str, kind: &str, plural: &str) -> ApiResource {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    }
}

impl Kubelet {
    pub(crate) async fn run(self, shutdown: Shutdown) {
        let pods = resource("v1", "Pod", "pods");
        let all = Api::<DynamicObject>::all_with(self.client.clone(), &pods);
        let config = watcher::Config::default().fields(&format!("spec.nodeName={}", self.name));
        let mut changes = std::pin::pin!(watcher(all, config).default_backoff());
        let (mut known, mut listed) = (BTreeMap::<String, Local>::new(), Vec::new());
        let mut beat = Instant::now();
        loop {
            let due = known.values().filter_map(|local| local.due).min().map_or(beat, |due| due.min(beat));
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep_until(due) => {
                    if Instant::now() >= beat {
                        self.beat().await;
                        beat = Instant::now() + HEARTBEAT;
                    }
                    self.act(&mut known).await;
                }
                change = changes.next() => match change {
                    None => return,
                    Some(Err(_)) => {}
                    Some(Ok(watcher::Event::Init)) => listed.clear(),
                    Some(Ok(watcher::Event::InitApply(pod))) => {
                        listed.push(uid_of(&pod));
                        self.see(&mut known, &pod);
                    }
                    Some(Ok(watcher::Event::InitDone)) => known.retain(|uid, _| listed.contains(uid)),
                    Some(Ok(watcher::Event::Apply(pod))) => self.see(&mut known, &pod),
                    Some(Ok(watcher::Event::Delete(pod))) => drop(known.remove(&uid_of(&pod))),
                },
            }
        }
    }

    /// Renews the lease, and puts the status right when somebody has given the node up.
    async fn beat(&self) {
        let name = &self.name;
        let leases = resource("coordination.k8s.io/v1", "Lease", "leases");
        let leases = Api::<DynamicObject>::namespaced_with(self.client.clone(), "kube-node-lease", &leases);
        let spec =
            json!({"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": self.clock.micro_time()});
        let renewal = Patch::Merge(json!({"spec": spec}));
        if let Err(kube::Error::Api(status)) = leases.patch(name, &PatchParams::default(), &renewal).await
            && status.code == 404
        {
            let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": spec});
            drop(leases.create(&PostParams::default(), &object(lease)).await);
        }
        let nodes = Api::<DynamicObject>::all_with(self.client.clone(), &resource("v1", "Node", "nodes"));
        match nodes.get_opt(name).await {
            Ok(None) => drop(nodes.create(&PostParams::default(), &object(self.node())).await),
            Ok(Some(node)) if !is_ready(&node.data) => {
                let status = Patch::Strategic(json!({"status": self.node()["status"]}));
                drop(nodes.patch_status(name, &PatchParams::default(), &status).await);
            }
            Ok(Some(_)) | Err(_) => {}
        }
    }

    fn node(&self) -> Value {
        let now = self.clock.time();
        let condition = |type_: &str, status: &str, reason: &str| json!({"type": type_, "status": status, "reason": reason, "message": "", "lastHeartbeatTime": now, "lastTransitionTime": now});
        let room = json!({"cpu": "8", "memory": "16Gi", "pods": "110"});
        let name = &self.name;
        json!({"apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}},
            "status": {"capacity": room, "allocatable": room, "conditions": [
                condition("MemoryPressure", "False", "KubeletHasSufficientMemory"),
                condition("DiskPressure", "False", "KubeletHasNoDiskPressure"),
                condition("PIDPressure", "False", "KubeletHasSufficientPID"),
                condition("Ready", "True", "KubeletReady")]}})
    }

    /// Takes in what a watch has brought of a pod.
    fn see(&self, known: &mut BTreeMap<String, Local>, pod: &DynamicObject) {
        let value = serde_json::to_value(pod).unwrap_or_default();
        let phase = value["status"]["phase"].as_str().unwrap_or_default().to_owned();
        let ended = matches!(phase.as_str(), "Succeeded" | "Failed");
        let leaving = value["metadata"]["deletionTimestamp"].is_string();
        let local = known.entry(uid_of(pod)).or_insert_with(|| {
            // After a reboot containers are started again, after a restart of the agent they are found running.
            let runs = phase == "Running" && !self.rebooted;
            let (state, after) = match runs {
                true => (State::Running, self.lifetime(&value)),
                false => (State::Starting, Some(self.chance.millis(100..2500))),
            };
            Local { pod: Value::Null, state, due: after.map(|after| Instant::now() + after) }
        });
        local.pod = value;
        if leaving && local.state != State::Stopping {
            (local.state, local.due) = (State::Stopping, Some(Instant::now() + self.chance.millis(1..2000)));
        } else if ended && !leaving {
            (local.state, local.due) = (State::Still, None);
        } else if local.state == State::Running
            && phase == "Running"
            && !is_ready(&local.pod)
            && !is_broken(&local.pod)
        {
            (local.state, local.due) = (State::Denied, Some(Instant::now() + self.chance.millis(50..1000)));
        }
    }

    fn lifetime(&self, pod: &Value) -> Option<Duration> {
        let millis = pod["metadata"]["annotations"]["sim/runs"].as_str()?.parse::<u64>().ok()?;
        Some(self.chance.millis(millis / 2..millis + 1))
    }

    async fn act(&self, known: &mut BTreeMap<String, Local>) {
        let now = Instant::now();
        let due = |local: &Local| local.due.is_some_and(|due| due <= now);
        let ready: Vec<String> =
            known.iter().filter(|(_, local)| due(local)).map(|(uid, _)| uid.clone()).collect();
        for uid in ready {
            let Some(local) = known.get(&uid) else { continue };
            let (state, pod) = (local.state, local.pod.clone());
            let done = match state {
                State::Starting if self.must_fail(&pod) => self.end(&pod, "Failed").await,
                State::Starting | State::Denied => self.start(&pod).await,
                State::Running => self.end(&pod, self.outcome(&pod)).await,
                State::Stopping => self.remove(&pod).await,
                State::Still => Ok(()),
            };
            let Some(local) = known.get_mut(&uid) else { continue };
            match (done, state) {
                (Err(kube::Error::Api(status)), _) if matches!(status.code, 404 | 409) => {
                    drop(known.remove(&uid));
                }
                (Err(_), _) => local.due = Some(Instant::now() + RETRY),
                (Ok(()), State::Denied) => start_of_life(local, self.lifetime(&pod)),
                (Ok(()), State::Starting) if !self.must_fail(&pod) => {
                    start_of_life(local, self.lifetime(&pod));
                }
                (Ok(()), _) => (local.state, local.due) = (State::Still, None),
            }
        }
    }

    /// A pod that ran before the machine went off and is not to be started again.
    fn must_fail(&self, pod: &Value) -> bool {
        pod["status"]["phase"] == "Running" && pod["spec"]["restartPolicy"] != "Always"
    }

    fn outcome(&self, pod: &Value) -> &'static str {
        let percent = pod["metadata"]["annotations"]["sim/fails"].as_str().and_then(|text| text.parse().ok());
        let fails = self.chance.happens(percent.unwrap_or(0.0) / 100.0);
        if fails { "Failed" } else { "Succeeded" }
    }

    async fn start(&self, pod: &Value) -> Result<(), kube::Error> {
        let ready = !is_broken(pod);
        let now = self.clock.time();
        let state = json!({"running": {"startedAt": now}});
        let number = self.chance.number(1..250);
        let status = json!({"phase": "Running", "startTime": now, "hostIP": "10.0.0.1",
            "podIP": format!("10.1.0.{number}"), "conditions": self.conditions(ready),
            "containerStatuses": [self.container(pod, ready, &state)]});
        self.write_status(pod, status).await
    }

    async fn end(&self, pod: &Value, phase: &str) -> Result<(), kube::Error> {
        let now = self.clock.time();
        let code = if phase == "Failed" { 1 } else { 0 };
        let state = json!({"terminated": {"exitCode": code, "finishedAt": now, "startedAt": now, "reason": if code == 0 { "Completed" } else { "Error" }}});
        let status = json!({"phase": phase, "conditions": self.conditions(false),
            "containerStatuses": [self.container(pod, false, &state)]});
        self.write_status(pod, status).await
    }

    /// Ends a pod that is to go, then takes it away for good.
    async fn remove(&self, pod: &Value) -> Result<(), kube::Error> {
        if !matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
            self.end(pod, "Failed").await?;
        }
        let preconditions =
            Preconditions { uid: pod["metadata"]["uid"].as_str().map(str::to_owned), resource_version: None };
        let params =
            DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default().grace_period(0) };
        self.api(pod).delete(name_of(pod), &params).await.map(drop)
    }

    fn conditions(&self, ready: bool) -> Value {
        let (now, status) = (self.clock.time(), if ready { "True" } else { "False" });
        json!([{"type": "Initialized", "status": "True", "lastTransitionTime": now},
            {"type": "ContainersReady", "status": status, "lastTransitionTime": now},
            {"type": "Ready", "status": status, "lastTransitionTime": now}])
    }

    fn container(&self, pod: &Value, ready: bool, state: &Value) -> Value {
        let container = &pod["spec"]["containers"][0];
        json!({"name": container["name"], "image": container["image"], "imageID": "", "ready": ready,
            "started": ready, "restartCount": 0, "state": state})
    }

    async fn write_status(&self, pod: &Value, status: Value) -> Result<(), kube::Error> {
        let patch = Patch::Strategic(json!({"metadata": {"uid": pod["metadata"]["uid"]}, "status": status}));
        self.api(pod).patch_status(name_of(pod), &PatchParams::default(), &patch).await.map(drop)
    }

    fn api(&self, pod: &Value) -> Api<DynamicObject> {
        let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
        Api::namespaced_with(self.client.clone(), namespace, &resource("v1", "Pod", "pods"))
    }
}

fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

fn uid_of(object: &DynamicObject) -> String {
    object.metadata.uid.clone().unwrap_or_default()
}

/// A typed object of a JSON one.
pub(crate) fn object(value: Value) -> DynamicObject {
    serde_json::from_value(value).expect("the simulation writes objects that have a kind")
}

fn start_of_life(local: &mut Local, life: Option<Duration>) {
    (local.state, local.due) = (State::Running, life.map(|life| Instant::now() + life));
}
