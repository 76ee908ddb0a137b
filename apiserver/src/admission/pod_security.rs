//! PodSecurity: pods keep to the Pod Security Standard that their namespace's labels name; what would make
//! pods that do not is warned of.

mod baseline;
mod checks;
mod policy;
mod restricted;

use std::collections::BTreeMap;

use api_types::status::Status;
use serde_json::Value;

use self::checks::{Subject, Violations};
use self::policy::{Bound, Level, Policy};
use super::{Operation, Plugin, Review};

pub(crate) struct PodSecurity;

/// Where each kind that makes pods keeps their template.
const TEMPLATES: &[(&str, &str)] = &[
    ("apps/daemonsets", "/spec/template"),
    ("apps/deployments", "/spec/template"),
    ("apps/replicasets", "/spec/template"),
    ("apps/statefulsets", "/spec/template"),
    ("batch/cronjobs", "/spec/jobTemplate/spec/template"),
    ("batch/jobs", "/spec/template"),
    ("podtemplates", "/template"),
    ("replicationcontrollers", "/spec/template"),
];

/// Subresources of pods that change nothing that a standard speaks of.
const IGNORED: &[&str] = &["exec", "attach", "binding", "eviction", "log", "portforward", "proxy", "status"];

/// How many pods a change of a namespace's labels is checked against.
const PODS_MAX: usize = 3000;

impl Plugin for PodSecurity {
    const NAME: &'static str = "PodSecurity";

    fn validate(review: &Review<'_>) -> Result<(), Status> {
        let writes = matches!(review.operation, Operation::Create | Operation::Update);
        let Some(new) = review.new.as_deref().filter(|_| writes) else { return Ok(()) };
        let storage = review.kind.storage.as_str();
        if storage == "pods" && !IGNORED.contains(&review.subresource) {
            return check_pod(review, new);
        }
        if !review.subresource.is_empty() {
            return Ok(());
        }
        if storage == "namespaces" {
            return check_namespace(review, new);
        }
        if let Some((_, path)) = TEMPLATES.iter().find(|(owner, _)| *owner == storage) {
            warn_of_template(review, new.pointer(path));
        }
        Ok(())
    }
}

fn policy_of(review: &Review<'_>) -> Option<Policy> {
    let namespace = review.view.object("namespaces", "", review.namespace)?;
    Some(Policy::of(&namespace["metadata"]["labels"]).0)
}

fn check_pod(review: &Review<'_>, pod: &Value) -> Result<(), Status> {
    let Some(policy) = policy_of(review).filter(|policy| !policy.is_privileged()) else { return Ok(()) };
    if review.old.is_some_and(|old| !is_significant(pod, old)) {
        return Ok(());
    }
    let subject = Subject { metadata: &pod["metadata"], spec: &pod["spec"] };
    let enforced = checks::evaluate(&policy.enforce, &subject);
    review.notes.annotate("pod-security.kubernetes.io/enforce-policy", policy.enforce.to_string());
    note_audit(review, &policy, &subject);
    if !enforced.is_empty() {
        let (bound, detail) = (policy.enforce.to_string(), enforced.detail());
        return Err(review.forbidden(&format!("violates PodSecurity {bound:?}: {detail}")));
    }
    warn(review, &policy, &subject);
    Ok(())
}

/// What makes pods is not refused: its pods will be, one by one. Its author hears of it here.
fn warn_of_template(review: &Review<'_>, template: Option<&Value>) {
    let Some(template) = template.filter(|template| template.is_object()) else { return };
    let Some(policy) = policy_of(review) else { return };
    let subject = Subject { metadata: &template["metadata"], spec: &template["spec"] };
    note_audit(review, &policy, &subject);
    warn(review, &policy, &subject);
}

fn note_audit(review: &Review<'_>, policy: &Policy, subject: &Subject<'_>) {
    if let Some(text) = would_violate(&policy.audit, subject) {
        review.notes.annotate("pod-security.kubernetes.io/audit-violations", text);
    }
}

fn warn(review: &Review<'_>, policy: &Policy, subject: &Subject<'_>) {
    if let Some(text) = would_violate(&policy.warn, subject) {
        review.notes.warn(text);
    }
}

fn would_violate(bound: &Bound, subject: &Subject<'_>) -> Option<String> {
    let violations = checks::evaluate(bound, subject);
    let text = || format!("would violate PodSecurity {:?}: {}", bound.to_string(), violations.detail());
    (!violations.is_empty()).then(text)
}

/// Whether an update of a pod changes what a standard speaks of: images, and the annotations that were once
/// what fields are now.
fn is_significant(new: &Value, old: &Value) -> bool {
    const PREFIXES: &[&str] = &[
        "seccomp.security.alpha.kubernetes.io/pod",
        "container.seccomp.security.alpha.kubernetes.io/",
        "container.apparmor.security.beta.kubernetes.io/",
    ];
    let spoken_of = |pod: &Value| -> Vec<(String, Value)> {
        let annotations = pod["metadata"]["annotations"].as_object().into_iter().flatten();
        let kept = annotations.filter(|(key, _)| PREFIXES.iter().any(|prefix| key.starts_with(prefix)));
        kept.map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    let images = |pod: &Value| -> Vec<(Value, Value)> {
        let spec = &pod["spec"];
        let image = |container: &Value| (container["name"].clone(), container["image"].clone());
        checks::LISTS
            .iter()
            .flat_map(|list| spec[*list].as_array().into_iter().flatten().map(image))
            .collect()
    };
    images(new) != images(old) || spoken_of(new) != spoken_of(old)
}

fn check_namespace(review: &Review<'_>, new: &Value) -> Result<(), Status> {
    let (policy, errors) = Policy::of(&new["metadata"]["labels"]);
    let (old_policy, old_errors) = match review.old {
        Some(old) => Policy::of(&old["metadata"]["labels"]),
        None => (Policy::default(), Vec::new()),
    };
    if !errors.is_empty() && errors != old_errors {
        return Err(Status::invalid(review.kind, review.name, errors));
    }
    let (enforce, before) = (&policy.enforce, &old_policy.enforce);
    let relaxed = enforce.version == before.version && enforce.level <= before.level;
    if review.old.is_some() && enforce != before && enforce.level != Level::Privileged && !relaxed {
        warn_of_pods(review, enforce);
    }
    Ok(())
}

/// Pods that are there already go on; that they would not be let in again is said.
fn warn_of_pods(review: &Review<'_>, enforce: &Bound) {
    let pods = review.view.objects("pods", Some(review.name));
    let mut by_reason: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for pod in pods.iter().take(PODS_MAX) {
        let subject = Subject { metadata: &pod["metadata"], spec: &pod["spec"] };
        let violations: Violations = checks::evaluate(enforce, &subject);
        if !violations.is_empty() {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            by_reason.entry(violations.reasons()).or_default().push(name);
        }
    }
    if pods.len() > PODS_MAX {
        review.notes.warn(format!(
            "new PodSecurity enforce level only checked against the first {PODS_MAX} of {} existing pods",
            pods.len()
        ));
    }
    if by_reason.is_empty() {
        return;
    }
    let (namespace, bound) = (review.name, enforce.to_string());
    review.notes.warn(format!(
        "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level {bound:?}"
    ));
    let mut lines: Vec<String> = by_reason.iter().map(|(reasons, names)| line(reasons, names)).collect();
    lines.sort();
    lines.into_iter().for_each(|line| review.notes.warn(line));
}

fn line(reasons: &str, names: &[String]) -> String {
    let first = names.iter().min().map_or("", String::as_str);
    match names.len() {
        1 => format!("{first}: {reasons}"),
        2 => format!("{first} (and 1 other pod): {reasons}"),
        many => format!("{first} (and {} other pods): {reasons}", many - 1),
    }
}

#[cfg(test)]
mod tests;
