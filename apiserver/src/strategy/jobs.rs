//! Jobs and cron jobs: the selector made from the uid, a template that stays, schedules that can be read.

use api_types::status::FieldError;
use serde_json::{Value, json};

use super::rules::{Errors, immutable, join, not_negative, one_of, selector, text};
use super::{Context, Strategy, cron_schedule, isolate, pod_spec};

pub(super) struct Jobs;
pub(super) struct CronJobs;

impl Strategy for Jobs {
    fn prepare_for_create(&self, context: &Context<'_>, new: &mut Value) {
        isolate::for_create(context.kind, new);
        if new["spec"]["manualSelector"] != true && new["spec"]["template"].is_object() {
            select_own_pods(new);
        }
    }

    fn validate_create(&self, _context: &Context<'_>, new: &Value) -> Vec<FieldError> {
        let mut errors = Errors::new();
        validate_job(&new["spec"], "spec", &mut errors);
        errors.extend(validate_selection(new));
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Errors::new();
        if !context.subresource.is_empty() {
            return errors;
        }
        validate_job(&new["spec"], "spec", &mut errors);
        let is_indexed = new["spec"]["completionMode"] == "Indexed";
        let fields = [
            "spec.selector",
            "spec.completionMode",
            "spec.podFailurePolicy",
            "spec.backoffLimitPerIndex",
            "spec.managedBy",
        ];
        fields.iter().for_each(|field| immutable(new, old, field, &mut errors));
        let scaled = is_indexed && new["spec"]["completions"] == new["spec"]["parallelism"];
        if !scaled {
            immutable(new, old, "spec.completions", &mut errors);
        }
        if template_of(new, old) != old["spec"]["template"] {
            errors.push(FieldError::immutable("spec.template", new["spec"]["template"].clone()));
        }
        errors
    }
}

/// The new template without what may change while a job waits to be started.
fn template_of(new: &Value, old: &Value) -> Value {
    let mut template = new["spec"]["template"].clone();
    let is_waiting = old["spec"]["suspend"] == true && old["status"]["startTime"].is_null();
    if !is_waiting {
        return template;
    }
    let before = &old["spec"]["template"];
    let mut restore = |part: &str, fields: &[&str]| {
        let Some(object) = template.get_mut(part).and_then(Value::as_object_mut) else { return };
        for field in fields {
            match before[part].get(*field) {
                Some(value) => object.insert((*field).to_owned(), value.clone()),
                None => object.shift_remove(*field),
            };
        }
    };
    restore("spec", &["nodeSelector", "affinity", "tolerations", "schedulingGates"]);
    restore("metadata", &["labels", "annotations"]);
    template
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
    if job["spec"]["selector"].is_null() {
        job["spec"]["selector"] = json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}});
    }
}

fn validate_selection(job: &Value) -> Errors {
    let mut errors = Errors::new();
    let (spec, labels) = (&job["spec"], &job["spec"]["template"]["metadata"]["labels"]);
    selector(&spec["selector"], "spec.selector", &mut errors);
    let own = &job["metadata"]["uid"];
    let wants_own = spec["manualSelector"] != true;
    let selects = &spec["selector"]["matchLabels"]["batch.kubernetes.io/controller-uid"];
    let old_style = &spec["selector"]["matchLabels"]["controller-uid"];
    if wants_own && selects != own && old_style != own {
        let why = "`selector` not auto-generated";
        errors.push(FieldError::invalid("spec.selector", spec["selector"].clone(), why));
    }
    let found = api_types::selectors::LabelSelector::from_value(&spec["selector"])
        .is_ok_and(|s| s.matches_with(|key| labels[key].as_str()));
    let is_labelled = !wants_own || labels["batch.kubernetes.io/controller-uid"] == *own;
    if !found || !is_labelled {
        let why = "`selector` does not match template `labels`";
        errors.push(FieldError::invalid("spec.template.metadata.labels", labels.clone(), why));
    }
    errors
}

fn validate_job(spec: &Value, path: &str, errors: &mut Errors) {
    not_negative(
        spec,
        path,
        &[
            "parallelism",
            "completions",
            "activeDeadlineSeconds",
            "backoffLimit",
            "ttlSecondsAfterFinished",
            "backoffLimitPerIndex",
            "maxFailedIndexes",
        ],
        errors,
    );
    one_of(spec, path, "completionMode", &["Indexed", "NonIndexed"], errors);
    one_of(spec, path, "podReplacementPolicy", &["Failed", "TerminatingOrFailed"], errors);
    let is_indexed = spec["completionMode"] == "Indexed";
    if is_indexed && spec["completions"].is_null() {
        errors.push(FieldError::required(join(path, "completions"), "when completion mode is Indexed"));
    }
    for field in ["backoffLimitPerIndex", "successPolicy"] {
        if !is_indexed && !spec[field].is_null() {
            errors.push(FieldError::invalid(
                join(path, field),
                spec[field].clone(),
                "requires indexed completion mode",
            ));
        }
    }
    if !spec["maxFailedIndexes"].is_null() && spec["backoffLimitPerIndex"].is_null() {
        errors.push(FieldError::required(
            join(path, "backoffLimitPerIndex"),
            "when maxFailedIndexes is specified",
        ));
    }
    if is_indexed && let Some(parallel) = spec["parallelism"].as_i64().filter(|p| *p > 100_000) {
        errors.push(FieldError::invalid(
            join(path, "parallelism"),
            parallel,
            "must be less than or equal to 100000 when completion mode is Indexed",
        ));
    }
    let pod = &spec["template"]["spec"];
    let pod_path = format!("{path}.template.spec");
    pod_spec::validate(pod, &pod_path, errors);
    if matches!(pod["restartPolicy"].as_str(), None | Some("" | "Always")) {
        let why = "valid values: \"OnFailure\", \"Never\"";
        errors.push(FieldError::required(format!("{pod_path}.restartPolicy"), why));
    }
}

impl Strategy for CronJobs {
    fn validate_create(&self, _context: &Context<'_>, new: &Value) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let spec = &new["spec"];
        validate_schedule(spec, &mut errors);
        one_of(spec, "spec", "concurrencyPolicy", &["Allow", "Forbid", "Replace"], &mut errors);
        let numbers = ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"];
        not_negative(spec, "spec", &numbers, &mut errors);
        let job = &spec["jobTemplate"]["spec"];
        validate_job(job, "spec.jobTemplate.spec", &mut errors);
        if !job["selector"].is_null() {
            let why = "`selector` will be auto-generated";
            errors.push(FieldError::invalid("spec.jobTemplate.spec.selector", job["selector"].clone(), why));
        }
        if job["manualSelector"] == true {
            errors.push(FieldError::not_supported(
                "spec.jobTemplate.spec.manualSelector",
                true,
                &["nil", "false"],
            ));
        }
        let name = new["metadata"]["name"].as_str().unwrap_or_default();
        if name.len() > NAME_BYTES_MAX {
            let why = format!("must be no more than {NAME_BYTES_MAX} characters");
            errors.push(FieldError::invalid("metadata.name", name, why));
        }
        errors
    }
}

/// The names of its jobs are this one and a time.
const NAME_BYTES_MAX: usize = 52;

fn validate_schedule(spec: &Value, errors: &mut Errors) {
    match text(spec, "schedule") {
        None => errors.push(FieldError::required("spec.schedule", "")),
        Some(schedule) if schedule.contains("TZ") => {
            let why = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
            errors.push(FieldError::invalid("spec.schedule", schedule, why));
        }
        Some(schedule) => {
            if let Err(why) = cron_schedule::check(schedule) {
                errors.push(FieldError::invalid("spec.schedule", schedule, why));
            }
        }
    }
    let Some(zone) = spec["timeZone"].as_str() else { return };
    let plausible = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '-' | '+');
    if zone.is_empty() {
        errors.push(FieldError::invalid("spec.timeZone", zone, "timeZone must be nil or non-empty string"));
    } else if zone.eq_ignore_ascii_case("local") {
        errors.push(FieldError::invalid(
            "spec.timeZone",
            zone,
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
        ));
    } else {
        if !zone.chars().all(plausible) {
            let why = "timeZone contains characters that no time zone's name has";
            errors.push(FieldError::invalid("spec.timeZone", zone, why));
        }
        if zone.parse::<chrono_tz::Tz>().is_err() {
            errors.push(FieldError::invalid("spec.timeZone", zone, format!("unknown time zone {zone}")));
        }
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
        assert!(validate_selection(&job).is_empty());
    }

    #[test]
    fn the_template_stays_except_for_placement_before_the_start() {
        let mut old = job();
        old["spec"]["suspend"] = json!(true);
        let mut new = old.clone();
        new["spec"]["template"]["spec"]["nodeSelector"] = json!({"a": "b"});
        assert_eq!(template_of(&new, &old), old["spec"]["template"]);
        old["status"] = json!({"startTime": "t"});
        assert_ne!(template_of(&new, &old), old["spec"]["template"]);
    }

    #[test]
    fn a_jobs_pods_end() {
        let mut errors = Errors::new();
        let mut job = job();
        job["spec"]["template"]["spec"]["restartPolicy"] = json!("Always");
        validate_job(&job["spec"], "spec", &mut errors);
        assert_eq!(errors[0].path, "spec.template.spec.restartPolicy");
    }
}
