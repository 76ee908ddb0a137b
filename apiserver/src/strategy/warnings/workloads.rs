//! Names that pods take over and cannot all use, jobs too large to be followed, histories without an end.

use api_types::kinds::Kind;
use api_types::names;
use serde_json::Value;

/// Where objects are kept of kinds whose names begin those of pods.
const NAMING: &[&str] =
    &["replicationcontrollers", "apps/deployments", "apps/replicasets", "batch/cronjobs", "batch/jobs"];

/// What is to be said of the name of a new object.
pub(super) fn name(kind: &Kind, new: &Value, warnings: &mut Vec<String>) {
    let used = match kind.storage.as_str() {
        "pods" => "the Pod's hostname",
        storage if NAMING.contains(&storage) => "Pod names and hostnames",
        _ => return,
    };
    let wrong = names::check_dns_label(new["metadata"]["name"].as_str().unwrap_or_default());
    if !wrong.is_empty() {
        warnings.push(format!(
            "metadata.name: this is used in {used}, which can result in surprising behavior; a DNS label is recommended: [{}]",
            wrong.join(" ")
        ));
    }
}

pub(super) fn job(new: &Value, warnings: &mut Vec<String>) {
    many_indexes(&new["spec"], "spec", warnings);
}

pub(super) fn cron_job(new: &Value, warnings: &mut Vec<String>) {
    many_indexes(&new["spec"]["jobTemplate"]["spec"], "spec.jobTemplate.spec", warnings);
}

fn many_indexes(spec: &Value, path: &str, warnings: &mut Vec<String>) {
    let number = |field: &str| spec[field].as_i64().unwrap_or_default();
    let is_large = number("completions") > 100_000 && number("parallelism") > 10_000;
    if spec["completionMode"] == "Indexed" && is_large {
        warnings.push(format!(
            "{path}: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail"
        ));
    }
}

pub(super) fn stateful_set(new: &Value, warnings: &mut Vec<String>) {
    if new["spec"]["revisionHistoryLimit"].as_i64() < Some(0)
        && !new["spec"]["revisionHistoryLimit"].is_null()
    {
        let why = "a negative value retains all historical revisions; a value >= 0 is recommended";
        warnings.push(format!("spec.revisionHistoryLimit: {why}"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_name_that_is_no_label_is_warned_of_where_pods_take_it() {
        for (group, plural, warned) in [("", "pods", 1), ("apps", "deployments", 1), ("", "configmaps", 0)] {
            let kind = api_types::kinds::find_resource(group, "v1", plural).unwrap();
            let mut warnings = Vec::new();
            name(kind, &json!({"metadata": {"name": "a.b"}}), &mut warnings);
            assert_eq!(warnings.len(), warned, "{plural}");
            name(kind, &json!({"metadata": {"name": "a"}}), &mut warnings);
            assert_eq!(warnings.len(), warned, "{plural}");
        }
    }

    #[test]
    fn large_jobs_and_endless_histories_are_warned_of() {
        let mut warnings = Vec::new();
        job(
            &json!({"spec": {"completionMode": "Indexed", "completions": 200_000, "parallelism": 20_000}}),
            &mut warnings,
        );
        stateful_set(&json!({"spec": {"revisionHistoryLimit": -1}}), &mut warnings);
        assert_eq!(warnings.len(), 2);
        job(&json!({"spec": {"completions": 200_000, "parallelism": 20_000}}), &mut warnings);
        stateful_set(&json!({"spec": {}}), &mut warnings);
        assert_eq!(warnings.len(), 2);
    }
}
