//! When what a Service's endpoints follow changed: the annotation by which their delay is measured.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, Utc};
use component_base::clock::moment_of;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::ObjectMeta;
use parking_lot::Mutex;

use crate::key::ObjectKey;
use crate::owners::name_of;
use crate::pods::ready_condition;

/// The annotation with the time of the change that an object reflects.
pub(crate) const LAST_CHANGE: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// The changes that were seen before, by Service.
#[derive(Default)]
pub(crate) struct TriggerTimes {
    known: Mutex<HashMap<ObjectKey, Known>>,
}

#[derive(Default)]
struct Known {
    service: Option<DateTime<Utc>>,
    pods: BTreeMap<String, DateTime<Utc>>,
}

impl TriggerTimes {
    /// Notes what is now, and tells when the first of what is new happened: of a new Service, its creation.
    pub(crate) fn note(&self, service: &Service, pods: &[Arc<Pod>]) -> Option<DateTime<Utc>> {
        let created = service.metadata.creation_timestamp.as_ref().map(moment_of);
        let ready = |pod: &Arc<Pod>| {
            let since = ready_condition(pod)?.last_transition_time.as_ref().map(moment_of)?;
            Some((name_of(&pod.metadata).to_owned(), since))
        };
        let now = Known { service: created, pods: pods.iter().filter_map(ready).collect() };
        let mut known = self.known.lock();
        let Some(before) = known.get(&ObjectKey::of(service)) else {
            known.insert(ObjectKey::of(service), now);
            return created;
        };
        let changed = now.pods.iter().filter(|(name, time)| before.pods.get(*name) < Some(*time));
        let first = changed.map(|(_, time)| *time).chain(created.filter(|_| created > before.service)).min();
        known.insert(ObjectKey::of(service), now);
        first
    }

    /// The Service is gone.
    pub(crate) fn forget(&self, service: &ObjectKey) {
        self.known.lock().remove(service);
    }
}

/// Writes `time` into the annotation, or takes the annotation away.
pub(crate) fn annotate(meta: &mut ObjectMeta, time: Option<DateTime<Utc>>) {
    match time {
        Some(time) => {
            let text = time.to_rfc3339_opts(SecondsFormat::AutoSi, true);
            meta.annotations.get_or_insert_default().insert(LAST_CHANGE.to_owned(), text);
        }
        None => {
            if let Some(annotations) = meta.annotations.as_mut() {
                annotations.remove(LAST_CHANGE);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, ready_at: i64) -> Arc<Pod> {
        let at = DateTime::from_timestamp(ready_at, 0).unwrap().to_rfc3339();
        let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": at});
        let pod = json!({"metadata": {"name": name}, "status": {"conditions": [ready]}});
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn the_first_of_the_new_changes_counts() {
        let meta = json!({"name": "s", "namespace": "ns", "creationTimestamp": "1970-01-01T00:00:05Z"});
        let service: Service = serde_json::from_value(json!({"metadata": meta})).unwrap();
        let times = TriggerTimes::default();
        let note = |pods: &[Arc<Pod>]| times.note(&service, pods).map(|time| time.timestamp());
        assert_eq!(note(&[pod("a", 9)]), Some(5), "a new service counts from its creation");
        assert_eq!(note(&[pod("a", 9)]), None);
        assert_eq!(note(&[pod("a", 20), pod("b", 15)]), Some(15));
        times.forget(&ObjectKey::new("ns", "s"));
        assert_eq!(note(&[pod("a", 30)]), Some(5));
    }

    #[test]
    fn the_annotation_goes_when_nothing_is_known() {
        let mut meta = ObjectMeta::default();
        annotate(&mut meta, DateTime::from_timestamp(1, 0));
        assert_eq!(meta.annotations.clone().unwrap()[LAST_CHANGE], "1970-01-01T00:00:01Z");
        annotate(&mut meta, None);
        assert!(meta.annotations.unwrap().is_empty());
    }
}
