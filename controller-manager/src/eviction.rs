//! Taking pods away for a taint: the condition that says why, the event, the deletion; and since when they wait.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use component_base::clock::Clock;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::json;

use crate::controller::{Action, Events};
use crate::key::ObjectKey;
use crate::owners::{name_of, uid_of};
use crate::pod_control::delete_exactly;

/// What becomes of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// No taint concerns it.
    Untouched,
    /// It tolerates its taints for ever.
    Stay,
    /// It may stay this long.
    StayFor(Duration),
    Evict,
}

impl Verdict {
    /// What is left until `end`, which is never when there is none.
    pub(crate) fn until(end: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Self {
        match end.map(|end| (end - now).to_std()) {
            None => Self::Stay,
            Some(Ok(left)) if !left.is_zero() => Self::StayFor(left),
            Some(_) => Self::Evict,
        }
    }
}

/// A moment and the seconds that somebody tolerates from then on.
pub(crate) fn end_of(since: DateTime<Utc>, seconds: i64) -> DateTime<Utc> {
    let seconds = chrono::Duration::try_seconds(seconds.max(0)).unwrap_or(chrono::Duration::MAX);
    since.checked_add_signed(seconds).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

/// How a kind of taint speaks of what it does.
pub(crate) struct Words {
    /// The reason and the message of the condition.
    pub reason: &'static str,
    pub message: &'static str,
    /// The reason of the events, and their messages.
    pub event: &'static str,
    pub marked: fn(&ObjectKey) -> String,
    pub kept: fn(&ObjectKey) -> String,
}

/// Carries out verdicts about pods.
pub(crate) struct Evictor {
    client: Client,
    clock: Clock,
    events: Events,
    words: Words,
    /// Pods that are to go unless the taints do, by uid, and since when.
    waiting: Mutex<HashMap<ObjectKey, (String, DateTime<Utc>)>>,
}

impl Evictor {
    pub(crate) fn new(client: Client, clock: Clock, events: Events, words: Words) -> Self {
        Self { client, clock, events, words, waiting: Mutex::default() }
    }

    /// Since when this very pod waits; now, if it does not yet.
    pub(crate) fn since(&self, key: &ObjectKey, pod: &Pod, now: DateTime<Utc>) -> DateTime<Utc> {
        let mut waiting = self.waiting.lock();
        if waiting.get(key).is_some_and(|(uid, _)| uid != uid_of(&pod.metadata)) {
            waiting.remove(key);
        }
        waiting.get(key).map_or(now, |(_, since)| *since)
    }

    /// The pod is gone, or has ended.
    pub(crate) fn forget(&self, key: &ObjectKey) {
        self.waiting.lock().remove(key);
    }

    pub(crate) async fn apply(
        &self,
        key: &ObjectKey,
        pod: &Pod,
        verdict: Verdict,
        now: DateTime<Utc>,
    ) -> Result<Action, kube::Error> {
        match verdict {
            Verdict::StayFor(left) => {
                self.waiting.lock().entry(key.clone()).or_insert((uid_of(&pod.metadata).to_owned(), now));
                return Ok(Action::RequeueAfter(left));
            }
            Verdict::Untouched | Verdict::Stay => {
                if self.waiting.lock().remove(key).is_some() {
                    self.events.normal(pod, self.words.event, &(self.words.kept)(key));
                }
            }
            Verdict::Evict => {
                self.evict(key, pod).await?;
                self.forget(key);
            }
        }
        Ok(Action::Done)
    }

    async fn evict(&self, key: &ObjectKey, pod: &Pod) -> Result<(), kube::Error> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let condition = json!({
            "type": "DisruptionTarget", "status": "True", "reason": self.words.reason,
            "message": self.words.message, "lastTransitionTime": self.clock.time(),
        });
        let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
        let name = name_of(&pod.metadata);
        match api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return Ok(()),
            Err(error) => return Err(error),
            Ok(_) => {}
        }
        self.events.normal(pod, self.words.event, &(self.words.marked)(key));
        delete_exactly(&self.client, pod, DeleteParams::default()).await
    }
}
