//! Jobs and cron jobs: templates that end, policies about failures and success, schedules that can be read.

use api_types::cron::Schedule;
use api_types::names;
use api_types::selectors::LabelSelector;
use api_types::status::FieldError;
use serde_json::Value;

use super::fields::is_same;
use super::job_policies::{validate_failure_policy, validate_success_policy};
use super::{Check, pod_spec};
use crate::strategy::rules::{
    Errors, check_domain_path, immutable, join, not_negative, one_of, selector, text,
};

/// As in Kubernetes, a changed job is checked as a new one and then once more as a change.
pub(super) fn job(check: &Check<'_>, errors: &mut Errors) {
    validate_own_labels(check.new, check.old, errors);
    validate_whole(check.new, errors);
    validate_host_names(check.new, errors);
    if let Some(old) = check.old {
        validate_whole(check.new, errors);
        validate_job_change(check.new, old, errors);
    }
}

fn validate_whole(job: &Value, errors: &mut Errors) {
    let spec = &job["spec"];
    validate_job(spec, "spec", errors);
    match spec["selector"].is_object() {
        true => selector(&spec["selector"], "spec.selector", errors),
        false => errors.push(FieldError::required("spec.selector", "")),
    }
    let labels = &spec["template"]["metadata"]["labels"];
    let found = LabelSelector::from_value(&spec["selector"])
        .is_ok_and(|selector| selector.matches_with(|key| labels[key].as_str()));
    if !found {
        let why = "`selector` does not match template `labels`";
        errors.push(FieldError::invalid("spec.template.metadata.labels", labels.clone(), why));
    }
}

/// A job that selects its own pods labels them with its uid and name, and selects nothing else.
fn validate_own_labels(job: &Value, old: Option<&Value>, errors: &mut Errors) {
    let spec = &job["spec"];
    if spec["manualSelector"] == true || !spec["selector"].is_object() {
        return;
    }
    // Jobs from before the labels had a prefix go on without.
    let had = |key: &str| old.is_none_or(|old| !old["spec"]["template"]["metadata"]["labels"][key].is_null());
    let is_prefixed = had("batch.kubernetes.io/job-name") && had("batch.kubernetes.io/controller-uid");
    let (uid, name) = (&job["metadata"]["uid"], &job["metadata"]["name"]);
    let expected: Vec<(&str, &Value)> = [
        ("controller-uid", uid),
        ("job-name", name),
        ("batch.kubernetes.io/controller-uid", uid),
        ("batch.kubernetes.io/job-name", name),
    ]
    .into_iter()
    .filter(|(key, _)| is_prefixed || !key.contains('/'))
    .collect();
    let labels = &spec["template"]["metadata"]["labels"];
    for (key, value) in &expected {
        let (path, why) = (
            format!("spec.template.metadata.labels[{key}]"),
            format!("must be '{}'", value.as_str().unwrap_or_default()),
        );
        if labels[*key].is_null() {
            errors.push(FieldError::required(path, why));
        } else if labels[*key] != **value {
            errors.push(FieldError::invalid(path, labels.clone(), why));
        }
    }
    let generated = |key: &str| expected.iter().find(|(k, _)| *k == key).and_then(|(_, v)| v.as_str());
    if LabelSelector::from_value(&spec["selector"]).is_ok_and(|selector| !selector.matches_with(generated)) {
        let why = "`selector` not auto-generated";
        errors.push(FieldError::invalid("spec.selector", spec["selector"].clone(), why));
    }
}

/// The pods of an indexed job are called by its name and their index.
fn validate_host_names(job: &Value, errors: &mut Errors) {
    let completions = job["spec"]["completions"].as_i64().unwrap_or_default();
    if job["spec"]["completionMode"] != "Indexed" || completions <= 0 {
        return;
    }
    let name = job["metadata"]["name"].as_str().unwrap_or_default();
    let last = format!("{name}-{}", completions - 1);
    if !names::check_dns_label(&last).is_empty() {
        let why = format!("will not able to create pod with invalid DNS label: {last}");
        errors.push(FieldError::invalid("metadata.name", name, why));
    }
}

fn validate_job_change(new: &Value, old: &Value, errors: &mut Errors) {
    validate_completions(new, old, errors);
    immutable(new, old, "spec.selector", errors);
    if without_placement(new, old) != without_placement(old, old) {
        errors.push(FieldError::immutable("spec.template", new["spec"]["template"].clone()));
    }
    for field in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"]
    {
        immutable(new, old, &format!("spec.{field}"), errors);
    }
}

/// An indexed job grows and shrinks by its completions and its parallelism together.
fn validate_completions(new: &Value, old: &Value, errors: &mut Errors) {
    let spec = &new["spec"];
    if spec["completionMode"] != "Indexed" {
        return immutable(new, old, "spec.completions", errors);
    }
    let completions = &spec["completions"];
    if completions == &old["spec"]["completions"] || completions.is_null() {
        return;
    }
    if completions != &spec["parallelism"] {
        let why = "can only be modified in tandem with spec.parallelism";
        errors.push(FieldError::invalid("spec.completions", completions.clone(), why));
    }
}

/// The template without what may change while a job is suspended and none of its pods runs.
fn without_placement(job: &Value, old: &Value) -> Value {
    let mut template = job["spec"]["template"].clone();
    let is_idle = old["status"]["active"].as_i64().unwrap_or_default() == 0;
    if old["spec"]["suspend"] != true || !is_idle {
        return template;
    }
    for list in ["containers", "initContainers"] {
        let containers = template.pointer_mut(&format!("/spec/{list}")).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten().filter_map(Value::as_object_mut) {
            container.shift_remove("resources");
        }
    }
    let mut remove = |part: &str, fields: &[&str]| {
        let Some(object) = template.pointer_mut(part).and_then(Value::as_object_mut) else { return };
        object.retain(|field, _| !fields.contains(&field.as_str()));
    };
    remove("/spec", &["nodeSelector", "tolerations", "schedulingGates"]);
    remove("/spec/affinity", &["nodeAffinity"]);
    remove("/metadata", &["labels", "annotations"]);
    let spec = template.get_mut("spec").and_then(Value::as_object_mut);
    if let Some(spec) = spec.filter(|spec| spec.get("affinity").is_some_and(is_empty_object)) {
        spec.shift_remove("affinity");
    }
    if template.get("metadata").is_some_and(is_empty_object)
        && let Some(template) = template.as_object_mut()
    {
        template.shift_remove("metadata");
    }
    template
}

fn is_empty_object(value: &Value) -> bool {
    value.as_object().is_some_and(serde_json::Map::is_empty)
}

const COUNTS: &[&str] = &[
    "parallelism",
    "completions",
    "activeDeadlineSeconds",
    "backoffLimit",
    "ttlSecondsAfterFinished",
    "backoffLimitPerIndex",
    "maxFailedIndexes",
];
const MANAGER_BYTES_MAX: usize = 63;

fn validate_job(spec: &Value, path: &str, errors: &mut Errors) {
    not_negative(spec, path, COUNTS, errors);
    one_of(spec, path, "completionMode", &["NonIndexed", "Indexed"], errors);
    validate_indexes(spec, path, errors);
    if let Some(manager) = spec["managedBy"].as_str() {
        let path = join(path, "managedBy");
        match manager {
            "" => errors.push(FieldError::required(&path, "")),
            _ => check_domain_path(manager, &path, errors),
        }
        if manager.len() > MANAGER_BYTES_MAX {
            errors.push(FieldError::too_long(path, MANAGER_BYTES_MAX));
        }
    }
    let has_policy = spec["podFailurePolicy"].is_object();
    let known: &[&str] = if has_policy { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
    one_of(spec, path, "podReplacementPolicy", known, errors);
    if has_policy {
        validate_failure_policy(spec, &join(path, "podFailurePolicy"), errors);
    }
    if spec["successPolicy"].is_object() && spec["completionMode"] == "Indexed" {
        validate_success_policy(spec, &join(path, "successPolicy"), errors);
    }
    pod_spec::validate_template(&spec["template"], &format!("{path}.template"), errors);
    validate_restarts(spec, path, errors);
}

fn validate_restarts(spec: &Value, path: &str, errors: &mut Errors) {
    let path = format!("{path}.template.spec.restartPolicy");
    let policy = spec["template"]["spec"]["restartPolicy"].as_str().unwrap_or_default();
    match policy {
        "" | "Always" => errors.push(FieldError::required(&path, "valid values: \"OnFailure\", \"Never\"")),
        "OnFailure" | "Never" => {}
        other => errors.push(FieldError::not_supported(&path, other, &["OnFailure", "Never"])),
    }
    if policy == "OnFailure" && !spec["podFailurePolicy"].is_null() {
        let why = "only \"Never\" is supported when podFailurePolicy is specified";
        errors.push(FieldError::invalid(&path, policy, why));
    }
}

fn validate_indexes(spec: &Value, path: &str, errors: &mut Errors) {
    let is_indexed = spec["completionMode"] == "Indexed";
    if is_indexed && spec["completions"].is_null() {
        errors.push(FieldError::required(join(path, "completions"), "when completion mode is Indexed"));
    }
    let is_plain = matches!(spec["completionMode"].as_str(), None | Some("NonIndexed"));
    for field in ["backoffLimitPerIndex", "maxFailedIndexes", "successPolicy"] {
        if (is_plain || (!is_indexed && field == "successPolicy")) && !spec[field].is_null() {
            let why = "requires indexed completion mode";
            errors.push(FieldError::invalid(join(path, field), spec[field].clone(), why));
        }
    }
    if !spec["maxFailedIndexes"].is_null() && spec["backoffLimitPerIndex"].is_null() {
        let why = "when maxFailedIndexes is specified";
        errors.push(FieldError::required(join(path, "backoffLimitPerIndex"), why));
    }
    if is_indexed {
        validate_sizes(spec, path, errors);
    }
}

/// The status of an indexed job lists its indexes: there are only so many of them.
fn validate_sizes(spec: &Value, path: &str, errors: &mut Errors) {
    const INDEXES_MAX: i64 = 100_000;
    const WITH_MANY_MAX: i64 = 10_000;
    let number = |field: &str| spec[field].as_i64();
    let mut too_many = |field: &str, why: String| {
        errors.push(FieldError::invalid(join(path, field), spec[field].clone(), why));
    };
    let (parallel, failed) = (number("parallelism"), number("maxFailedIndexes"));
    if parallel > Some(INDEXES_MAX) {
        let why = format!("must be less than or equal to {INDEXES_MAX} when completion mode is Indexed");
        too_many("parallelism", why);
    }
    let completions = number("completions");
    if completions.is_some() && failed > completions {
        too_many("maxFailedIndexes", "must be less than or equal to completions".to_owned());
    }
    if failed > Some(INDEXES_MAX) {
        too_many("maxFailedIndexes", format!("must be less than or equal to {INDEXES_MAX}"));
    }
    if completions <= Some(INDEXES_MAX) || spec["backoffLimitPerIndex"].is_null() {
        return;
    }
    for (field, count) in [("parallelism", parallel), ("maxFailedIndexes", failed)] {
        if count > Some(WITH_MANY_MAX) {
            too_many(
                field,
                format!(
                    "must be less than or equal to {WITH_MANY_MAX} when completions are above {INDEXES_MAX} and used with backoff limit per index"
                ),
            );
        }
    }
    if failed.is_none() {
        let why = format!("must be specified when completions is above {INDEXES_MAX}");
        errors.push(FieldError::required(join(path, "maxFailedIndexes"), why));
    }
}

pub(super) fn cron_job(check: &Check<'_>, errors: &mut Errors) {
    let spec = &check.new["spec"];
    validate_schedule(spec, check.old.map(|old| &old["spec"]), errors);
    let old_zone = check.old.map(|old| &old["spec"]["timeZone"]);
    if !old_zone.is_some_and(|old| is_same(old, &spec["timeZone"])) {
        validate_zone(spec, errors);
    }
    one_of(spec, "spec", "concurrencyPolicy", &["Allow", "Forbid", "Replace"], errors);
    let numbers = ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"];
    not_negative(spec, "spec", &numbers, errors);
    let job = &spec["jobTemplate"]["spec"];
    validate_job(job, "spec.jobTemplate.spec", errors);
    if !job["selector"].is_null() {
        let why = "`selector` will be auto-generated";
        errors.push(FieldError::invalid("spec.jobTemplate.spec.selector", job["selector"].clone(), why));
    }
    if job["manualSelector"] == true {
        let path = "spec.jobTemplate.spec.manualSelector";
        errors.push(FieldError::not_supported(path, true, &["nil", "false"]));
    }
    let name = check.new["metadata"]["name"].as_str().unwrap_or_default();
    if check.old.is_none() && name.len() > NAME_BYTES_MAX {
        let why = format!("must be no more than {NAME_BYTES_MAX} characters");
        errors.push(FieldError::invalid("metadata.name", name, why));
    }
}

/// The names of its jobs are this one and a time.
const NAME_BYTES_MAX: usize = 52;

fn validate_schedule(spec: &Value, old: Option<&Value>, errors: &mut Errors) {
    let Some(schedule) = text(spec, "schedule") else {
        errors.push(FieldError::required("spec.schedule", ""));
        return;
    };
    if let Err(why) = without_zone(schedule).and_then(Schedule::parse) {
        errors.push(FieldError::invalid("spec.schedule", schedule, why));
    }
    let had_zone = old.is_some_and(|old| old["schedule"].as_str().is_some_and(|s| s.contains("TZ")));
    let why = match (schedule.contains("TZ"), had_zone) {
        (true, false) => "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
        (true, true) if !spec["timeZone"].is_null() => {
            "cannot use both timeZone field and TZ or CRON_TZ in schedule"
        }
        _ => return,
    };
    errors.push(FieldError::invalid("spec.schedule", schedule, why));
}

/// What follows the time zone, which may come first.
fn without_zone(schedule: &str) -> Result<&str, String> {
    let zoned = schedule.trim().strip_prefix("TZ=").or_else(|| schedule.trim().strip_prefix("CRON_TZ="));
    let Some(zoned) = zoned else { return Ok(schedule) };
    let (zone, rest) = zoned.split_once(' ').unwrap_or((zoned, ""));
    match zone.parse::<chrono_tz::Tz>() {
        Ok(_) => Ok(rest),
        Err(_) => Err(format!("provided bad location {zone}: unknown time zone {zone}")),
    }
}

fn validate_zone(spec: &Value, errors: &mut Errors) {
    let Some(zone) = spec["timeZone"].as_str() else { return };
    let mut invalid = |why: String| errors.push(FieldError::invalid("spec.timeZone", zone, why));
    if zone.is_empty() {
        return invalid("timeZone must be nil or non-empty string".to_owned());
    }
    let plausible = |part: &str| {
        (1..=14).contains(&part.len())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+'))
            && !part.starts_with('-')
            && !matches!(part, "." | "..")
    };
    if !zone.split('/').all(plausible) {
        invalid(format!("unknown time zone {zone}"));
        return;
    }
    if zone.eq_ignore_ascii_case("local") {
        invalid(
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones".to_owned(),
        );
    }
    if zone != "Local" && zone.parse::<chrono_tz::Tz>().is_err() {
        invalid(format!("unknown time zone {zone}"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::paths;
    use super::*;

    fn job() -> Value {
        json!({"metadata": {"name": "j", "uid": "u"}, "spec": {
            "selector": {"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}},
            "template": {"metadata": {"labels": {"batch.kubernetes.io/controller-uid": "u", "controller-uid": "u",
                "batch.kubernetes.io/job-name": "j", "job-name": "j"}}, "spec": {
            "containers": [{"name": "c", "image": "i", "imagePullPolicy": "Always", "terminationMessagePolicy": "File"}],
            "restartPolicy": "Never"}}}})
    }

    #[test]
    fn the_template_stays_except_for_placement_and_resources_while_suspended() {
        let mut old = job();
        old["spec"]["suspend"] = json!(true);
        let mut new = old.clone();
        new["spec"]["template"]["spec"]["nodeSelector"] = json!({"a": "b"});
        assert_eq!(without_placement(&new, &old), without_placement(&old, &old));
        new["spec"]["template"]["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "1"}});
        old["status"] = json!({"startTime": "t"});
        assert_eq!(without_placement(&new, &old), without_placement(&old, &old));
        old["status"] = json!({"active": 1});
        assert_ne!(without_placement(&new, &old), without_placement(&old, &old));
    }

    #[test]
    fn a_jobs_mistakes_are_named_by_their_path() {
        let codes = |codes: Value| json!({"podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": codes}]}});
        let at = "podFailurePolicy.rules[0]";
        let cases = [
            (json!({}), vec![]),
            (json!({"parallelism": -1}), vec!["parallelism".to_owned()]),
            (json!({"completionMode": "Odd"}), vec!["completionMode".into()]),
            (json!({"completionMode": "Indexed"}), vec!["completions".into()]),
            (json!({"backoffLimitPerIndex": 1}), vec!["backoffLimitPerIndex".into()]),
            (json!({"managedBy": "me"}), vec!["managedBy".into()]),
            (json!({"podReplacementPolicy": "Odd"}), vec!["podReplacementPolicy".into()]),
            (json!({"podFailurePolicy": {"rules": [{"action": "FailJob"}]}}), vec![at.into()]),
            (codes(json!({"operator": "In", "values": [1]})), vec![]),
            (codes(json!({"operator": "In", "values": []})), vec![format!("{at}.onExitCodes.values")]),
            (codes(json!({"operator": "In", "values": [0, 1]})), vec![format!("{at}.onExitCodes.values[0]")]),
            (codes(json!({"operator": "In", "values": [2, 1]})), vec![format!("{at}.onExitCodes.values")]),
            (codes(json!({"operator": "Odd", "values": [1]})), vec![format!("{at}.onExitCodes.operator")]),
            (
                codes(json!({"operator": "In", "values": [1], "containerName": "no"})),
                vec![format!("{at}.onExitCodes.containerName")],
            ),
            (
                json!({"completionMode": "Indexed", "completions": 3, "successPolicy": {"rules": []}}),
                vec!["successPolicy.rules".into()],
            ),
            (
                json!({"completionMode": "Indexed", "completions": 3, "successPolicy": {"rules": [{"succeededCount": 4}]}}),
                vec!["successPolicy.rules[0].succeededCount".into()],
            ),
            (
                json!({"completionMode": "Indexed", "completions": 3, "successPolicy": {"rules": [{"succeededIndexes": "2-5"}]}}),
                vec!["successPolicy.rules[0].succeededIndexes".into()],
            ),
        ];
        for (extra, expected) in cases {
            let mut job = job();
            job["spec"].as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            let expected: Vec<String> = expected.iter().map(|path| format!("spec.{path}")).collect();
            assert_eq!(paths("batch", "jobs", "", &job, None), expected, "{extra}");
        }
    }

    #[test]
    fn a_jobs_pods_end() {
        let mut job = job();
        job["spec"]["template"]["spec"]["restartPolicy"] = json!("Always");
        assert_eq!(paths("batch", "jobs", "", &job, None), ["spec.template.spec.restartPolicy"]);
    }

    #[test]
    fn a_cron_job_has_a_schedule_and_a_zone() {
        let of = |schedule: &str, zone: &str| {
            let template = job()["spec"]["template"].clone();
            json!({"metadata": {"name": "c"}, "spec": {"schedule": schedule, "timeZone": zone, "jobTemplate": {"spec": {"template": template}}}})
        };
        assert!(paths("batch", "cronjobs", "", &of("@daily", "Europe/Oslo"), None).is_empty());
        assert_eq!(paths("batch", "cronjobs", "", &of("x", "Europe/Oslo"), None), ["spec.schedule"]);
        let zoned = of("TZ=Europe/Oslo 0 0 * * *", "Europe/Oslo");
        assert_eq!(paths("batch", "cronjobs", "", &zoned, None), ["spec.schedule"]);
        assert_eq!(
            paths("batch", "cronjobs", "", &of("@daily", "local"), None),
            ["spec.timeZone", "spec.timeZone"]
        );
        assert_eq!(paths("batch", "cronjobs", "", &of("@daily", "No/Where"), None), ["spec.timeZone"]);
    }

    #[test]
    fn a_job_keeps_its_own_labels() {
        let mut changed = job();
        changed["spec"]["template"]["metadata"]["labels"]["job-name"] = json!("other");
        assert_eq!(paths("batch", "jobs", "", &changed, None), ["spec.template.metadata.labels[job-name]"]);
        changed["spec"]["selector"]["matchLabels"]["a"] = json!("b");
        assert_eq!(
            paths("batch", "jobs", "", &changed, None),
            ["spec.template.metadata.labels[job-name]", "spec.selector", "spec.template.metadata.labels"]
        );
    }

    #[test]
    fn a_changed_job_is_checked_as_a_new_one_and_as_a_change() {
        let mut changed = job();
        changed["spec"]["parallelism"] = json!(-1);
        changed["spec"]["completions"] = json!(3);
        assert_eq!(
            paths("batch", "jobs", "", &changed, Some(&job())),
            ["spec.parallelism", "spec.parallelism", "spec.completions"]
        );
    }

    #[test]
    fn an_indexed_job_is_scaled_in_tandem_and_names_hosts() {
        let indexed = |completions: i64, parallelism: i64| {
            let mut job = job();
            job["spec"]["completionMode"] = json!("Indexed");
            job["spec"]["completions"] = json!(completions);
            job["spec"]["parallelism"] = json!(parallelism);
            job
        };
        let old = indexed(2, 2);
        assert!(paths("batch", "jobs", "", &indexed(3, 3), Some(&old)).is_empty());
        assert_eq!(paths("batch", "jobs", "", &indexed(3, 2), Some(&old)), ["spec.completions"]);
        let mut long = indexed(2, 2);
        for pointer in [
            "/metadata/name",
            "/spec/template/metadata/labels/job-name",
            "/spec/template/metadata/labels/batch.kubernetes.io~1job-name",
        ] {
            *long.pointer_mut(pointer).unwrap() = json!("j".repeat(62));
        }
        assert_eq!(paths("batch", "jobs", "", &long, None), ["metadata.name"]);
    }
}
