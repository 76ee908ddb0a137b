//! Pods that were marked to be disrupted and still run two minutes later: the mark is taken back.

use std::sync::Arc;
use std::time::Duration;

use api_types::{conditions, pods};
use chrono::{DateTime, Utc};
use component_base::clock::{Clock, moment_of};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use crate::controller::{Action, Setup};
use crate::informers::Informer;
use crate::key::ObjectKey;

/// How long a pod may be marked without going.
const STALE_AFTER: Duration = Duration::from_secs(120);
/// What the key of a pod begins with among the keys of budgets, which have no slash.
const PREFIX: &str = "pods/";

/// The part of the controller that looks after pods.
pub(super) struct StaleTargets {
    client: Client,
    clock: Clock,
    pods: Arc<Informer<Pod>>,
}

/// The key of the pod that `key` stands for.
pub(super) fn pod_key(key: &ObjectKey) -> Option<ObjectKey> {
    Some(ObjectKey::new(&key.namespace, key.name.strip_prefix(PREFIX)?))
}

/// When the mark on the pod is stale; `None` without a mark that can be.
fn stale_in(pod: &Pod, now: DateTime<Utc>) -> Option<Duration> {
    if pods::is_terminating(pod) || pods::is_terminal(pod) {
        return None;
    }
    let all = pod.status.as_ref()?.conditions.as_deref()?;
    let mark = conditions::find(all, "DisruptionTarget").filter(|mark| mark.status == "True")?;
    if mark.reason.as_deref() == Some("TerminationByKubelet") {
        return None;
    }
    let since = mark.last_transition_time.as_ref().map_or(DateTime::UNIX_EPOCH, moment_of);
    let age = (now - since).to_std().unwrap_or(Duration::ZERO);
    Some(STALE_AFTER.saturating_sub(age))
}

impl StaleTargets {
    /// Queues pods that are marked.
    pub(super) fn watch(setup: &Setup<'_>, pods: &Arc<Informer<Pod>>) -> Self {
        let (queue, clock) = (setup.queue.clone(), setup.clock);
        pods.subscribe(move |change| {
            let Some(pod) = change.new else { return };
            if let Some(wait) = stale_in(pod, clock.now()) {
                let ObjectKey { namespace, name } = ObjectKey::of(&**pod);
                queue.add_after(ObjectKey::new(namespace, format!("{PREFIX}{name}")), wait);
            }
        });
        Self { client: setup.client.clone(), clock, pods: pods.clone() }
    }

    /// Takes the mark back when it is stale.
    pub(super) async fn reconcile(&self, key: &ObjectKey) -> Result<Action, kube::Error> {
        let Some(pod) = self.pods.get(key) else { return Ok(Action::Done) };
        match stale_in(&pod, self.clock.now()) {
            None => Ok(Action::Done),
            Some(left) if !left.is_zero() => Ok(Action::RequeueAfter(left)),
            Some(_) => {
                let mark = json!({
                    "type": "DisruptionTarget", "status": "False", "reason": null, "message": null,
                    "lastTransitionTime": self.clock.time(),
                });
                let meta = json!({"uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version});
                let patch = Patch::Strategic(json!({"metadata": meta, "status": {"conditions": [mark]}}));
                let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
                match api.patch_status(&key.name, &PatchParams::default(), &patch).await {
                    Err(kube::Error::Api(status)) if status.code == 404 => Ok(Action::Done),
                    result => result.map(|_| Action::Done),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn check(reason: &str, status: &str, phase: &str, expected: Option<u64>) {
        let mark = json!({"type": "DisruptionTarget", "status": status, "reason": reason,
                          "lastTransitionTime": "1970-01-01T00:00:00Z"});
        let pod: Value = json!({"metadata": {}, "status": {"phase": phase, "conditions": [mark]}});
        let now = DateTime::UNIX_EPOCH + chrono::Duration::seconds(90);
        let left = stale_in(&serde_json::from_value(pod).unwrap(), now);
        assert_eq!(left.map(|left| left.as_secs()), expected);
    }

    #[test]
    fn a_mark_is_stale_after_two_minutes() {
        check("EvictionByEvictionAPI", "True", "Running", Some(30));
    }

    #[test]
    fn marks_of_the_node_agent_and_of_finished_pods_stay() {
        check("TerminationByKubelet", "True", "Running", None);
        check("EvictionByEvictionAPI", "True", "Failed", None);
        check("EvictionByEvictionAPI", "False", "Running", None);
    }

    #[test]
    fn the_key_of_a_pod_is_none_of_a_budget() {
        assert_eq!(pod_key(&ObjectKey::new("ns", "pods/a")), Some(ObjectKey::new("ns", "a")));
        assert_eq!(pod_key(&ObjectKey::new("ns", "a")), None);
    }
}
