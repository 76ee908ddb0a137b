//! Jobs and cron jobs: the selector made from the uid.

use serde_json::{Value, json};

use super::{Context, Strategy, isolate};

pub(super) struct Jobs;

impl Strategy for Jobs {
    fn prepare_for_create(&self, context: &Context<'_>, new: &mut Value) {
        isolate::for_create(context.kind, new);
        if new["spec"]["manualSelector"] != true && new["spec"]["template"].is_object() {
            select_own_pods(new);
        }
    }
}

/// Labels of a job's pods; the short ones are from before they had a prefix.
fn select_own_pods(job: &mut Value) {
    let uid = job["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    let name = job["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let template = &mut job["spec"]["template"];
    if !template["metadata"].is_object() {
        template["metadata"] = json!({});
    }
    if !template["metadata"]["labels"].is_object() {
        template["metadata"]["labels"] = json!({});
    }
    let labels = &mut template["metadata"]["labels"];
    for (key, value) in [
        ("batch.kubernetes.io/controller-uid", &uid),
        ("batch.kubernetes.io/job-name", &name),
        ("controller-uid", &uid),
        ("job-name", &name),
    ] {
        if labels[key].is_null() {
            labels[key] = value.as_str().into();
        }
    }
    let selector = &mut job["spec"]["selector"];
    if !selector.is_object() {
        *selector = json!({});
    }
    if !selector["matchLabels"].is_object() {
        selector["matchLabels"] = json!({});
    }
    let selected = &mut selector["matchLabels"]["batch.kubernetes.io/controller-uid"];
    if selected.is_null() {
        *selected = json!(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> Value {
        json!({"metadata": {"name": "j", "uid": "u"}, "spec": {"template": {"spec": {
            "containers": [{"name": "c", "image": "i"}], "restartPolicy": "Never"}}}})
    }

    #[test]
    fn a_job_selects_the_pods_of_its_uid() {
        let mut job = job();
        select_own_pods(&mut job);
        assert_eq!(
            job["spec"]["selector"]["matchLabels"],
            json!({"batch.kubernetes.io/controller-uid": "u"})
        );
        assert_eq!(job["spec"]["template"]["metadata"]["labels"]["job-name"], "j");
    }
}
