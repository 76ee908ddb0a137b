//! What is allowed and still most likely a mistake: said in `Warning` headers, once a write is sure to be valid.
//!
//! One row per resource; the texts are those of Kubernetes.

mod pods;
mod services;
mod workloads;

use api_types::kinds::Kind;
use serde_json::Value;

type Warn = fn(&Value, &mut Vec<String>);

/// Resources as stored, and where pods' templates stand in them; empty for a pod itself.
const TEMPLATES: &[(&str, &str)] = &[
    ("pods", ""),
    ("podtemplates", "template"),
    ("replicationcontrollers", "spec.template"),
    ("apps/daemonsets", "spec.template"),
    ("apps/deployments", "spec.template"),
    ("apps/replicasets", "spec.template"),
    ("apps/statefulsets", "spec.template"),
    ("batch/cronjobs", "spec.jobTemplate.spec.template"),
    ("batch/jobs", "spec.template"),
];

static ROWS: &[(&str, Warn)] = &[
    ("apps/statefulsets", workloads::stateful_set),
    ("batch/cronjobs", workloads::cron_job),
    ("batch/jobs", workloads::job),
    ("endpoints", services::endpoints),
    ("networking.k8s.io/ingresses", services::ingress),
    ("persistentvolumeclaims", services::claim),
    ("persistentvolumes", services::volume),
    ("services", services::service),
    ("storage.k8s.io/storageclasses", services::storage_class),
];

/// What a client is to be told of an object that it writes. A change that leaves a template as it was is not
/// warned of again.
pub(super) fn of(kind: &Kind, subresource: &str, new: &Value, old: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    // As in Kubernetes, nothing is said of pods that change: programs change them, and often.
    let is_changed_pod = kind.storage == "pods" && old.is_some();
    if matches!(subresource, "status" | "scale" | "binding") || is_changed_pod {
        return warnings;
    }
    if old.is_none() {
        workloads::name(kind, new, &mut warnings);
    }
    if let Some((_, path)) = TEMPLATES.iter().find(|(storage, _)| kind.storage == *storage) {
        let template = at(new, path);
        let is_changed = old.is_none_or(|old| at(old, path) != template);
        if template.is_object() && is_changed {
            pods::warn(template, path, &mut warnings);
        }
    }
    if let Some((_, warn)) = ROWS.iter().find(|(storage, _)| kind.storage == *storage) {
        warn(new, &mut warnings);
    }
    warnings
}

fn at<'a>(object: &'a Value, path: &str) -> &'a Value {
    path.split('.').filter(|step| !step.is_empty()).fold(object, |value, step| &value[step])
}
