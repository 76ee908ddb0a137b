//! Jobs and cron jobs: templates that end, policies about failures and success, schedules that can be read.

use std::collections::BTreeSet;

use api_types::names;
use api_types::status::FieldError;
use serde_json::Value;

use super::fields::is_same;
use super::{Check, pod_spec};
use crate::strategy::cron_schedule;
use crate::strategy::rules::{
    Errors, immutable, indexed, invalid_all, items, join, not_negative, one_of, selector, text,
};

pub(super) fn job(check: &Check<'_>, errors: &mut Errors) {
    validate_job(&check.new["spec"], "spec", errors);
    match check.old {
        None => errors.extend(validate_selection(check.new)),
        Some(old) => validate_job_change(check.new, old, errors),
    }
}

fn validate_job_change(new: &Value, old: &Value, errors: &mut Errors) {
    let is_indexed = new["spec"]["completionMode"] == "Indexed";
    let fields = [
        "spec.selector",
        "spec.completionMode",
        "spec.podFailurePolicy",
        "spec.backoffLimitPerIndex",
        "spec.managedBy",
        "spec.successPolicy",
    ];
    fields.iter().for_each(|field| immutable(new, old, field, errors));
    let is_scaled = is_indexed && new["spec"]["completions"] == new["spec"]["parallelism"];
    if !is_scaled {
        immutable(new, old, "spec.completions", errors);
    }
    if template_of(new, old) != old["spec"]["template"] {
        errors.push(FieldError::immutable("spec.template", new["spec"]["template"].clone()));
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

pub(super) fn validate_selection(job: &Value) -> Errors {
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

const COUNTS: &[&str] = &[
    "parallelism",
    "completions",
    "activeDeadlineSeconds",
    "backoffLimit",
    "ttlSecondsAfterFinished",
    "backoffLimitPerIndex",
    "maxFailedIndexes",
];
const INDEXES_MAX: i64 = 100_000;
const MANAGER_BYTES_MAX: usize = 63;

fn validate_job(spec: &Value, path: &str, errors: &mut Errors) {
    not_negative(spec, path, COUNTS, errors);
    one_of(spec, path, "completionMode", &["NonIndexed", "Indexed"], errors);
    validate_indexes(spec, path, errors);
    if let Some(manager) = text(spec, "managedBy") {
        let path = join(path, "managedBy");
        invalid_all(names::check_domain_path(manager), &path, manager, errors);
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
    for field in ["podFailurePolicy", "backoffLimitPerIndex"] {
        if policy == "OnFailure" && !spec[field].is_null() {
            let why = format!("only \"Never\" is supported when {field} is specified");
            errors.push(FieldError::invalid(&path, policy, why));
        }
    }
}

fn validate_indexes(spec: &Value, path: &str, errors: &mut Errors) {
    let is_indexed = spec["completionMode"] == "Indexed";
    if is_indexed && spec["completions"].is_null() {
        errors.push(FieldError::required(join(path, "completions"), "when completion mode is Indexed"));
    }
    for field in ["backoffLimitPerIndex", "successPolicy"] {
        if !is_indexed && !spec[field].is_null() {
            let why = "requires indexed completion mode";
            errors.push(FieldError::invalid(join(path, field), spec[field].clone(), why));
        }
    }
    if !spec["maxFailedIndexes"].is_null() && spec["backoffLimitPerIndex"].is_null() {
        let why = "when maxFailedIndexes is specified";
        errors.push(FieldError::required(join(path, "backoffLimitPerIndex"), why));
    }
    let number = |field: &str| spec[field].as_i64().filter(|_| is_indexed);
    if let Some(parallel) = number("parallelism").filter(|count| *count > INDEXES_MAX) {
        let why = format!("must be less than or equal to {INDEXES_MAX} when completion mode is Indexed");
        errors.push(FieldError::invalid(join(path, "parallelism"), parallel, why));
    }
    if let (Some(failed), Some(all)) = (number("maxFailedIndexes"), number("completions"))
        && failed > all
    {
        let why = "must be less than or equal to completions";
        errors.push(FieldError::invalid(join(path, "maxFailedIndexes"), failed, why));
    }
}

const RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;

fn validate_failure_policy(spec: &Value, path: &str, errors: &mut Errors) {
    let policy = &spec["podFailurePolicy"];
    let count = items(&policy["rules"]).len();
    if count > RULES_MAX {
        errors.push(FieldError::too_many(format!("{path}.rules"), count, RULES_MAX));
        return;
    }
    let pod = &spec["template"]["spec"];
    let names: BTreeSet<&str> = ["containers", "initContainers"]
        .iter()
        .flat_map(|list| items(&pod[*list]))
        .filter_map(|container| container["name"].as_str())
        .collect();
    for (path, rule) in indexed(policy, path, "rules") {
        let action = rule["action"].as_str().unwrap_or_default();
        let known = ["Count", "FailIndex", "FailJob", "Ignore"];
        if action.is_empty() {
            errors.push(FieldError::required(
                format!("{path}.action"),
                "valid values: \"Count\", \"FailIndex\", \"FailJob\", \"Ignore\"",
            ));
        } else if !known.contains(&action) {
            errors.push(FieldError::not_supported(format!("{path}.action"), action, &known));
        } else if action == "FailIndex" && spec["backoffLimitPerIndex"].is_null() {
            let why = "requires the backoffLimitPerIndex to be set";
            errors.push(FieldError::invalid(format!("{path}.action"), action, why));
        }
        validate_exit_codes(&rule["onExitCodes"], &names, &format!("{path}.onExitCodes"), errors);
        validate_conditions(rule, &path, errors);
        let why = match (rule["onExitCodes"].is_object(), items(&rule["onPodConditions"]).is_empty()) {
            (true, false) => "specifying both OnExitCodes and OnPodConditions is not supported",
            (false, true) => "specifying one of OnExitCodes and OnPodConditions is required",
            _ => continue,
        };
        errors.push(FieldError::invalid(path, rule.clone(), why));
    }
}

fn validate_exit_codes(codes: &Value, names: &BTreeSet<&str>, path: &str, errors: &mut Errors) {
    if !codes.is_object() {
        return;
    }
    let operator = codes["operator"].as_str().unwrap_or_default();
    if operator.is_empty() {
        errors.push(FieldError::required(format!("{path}.operator"), "valid values: \"In\", \"NotIn\""));
    } else if !matches!(operator, "In" | "NotIn") {
        errors.push(FieldError::not_supported(format!("{path}.operator"), operator, &["In", "NotIn"]));
    }
    if let Some(name) = codes["containerName"].as_str().filter(|name| !names.contains(name)) {
        let why = "must be one of the container or initContainer names in the pod template";
        errors.push(FieldError::invalid(format!("{path}.containerName"), name, why));
    }
    let at = format!("{path}.values");
    let values: Vec<i64> = items(&codes["values"]).iter().filter_map(Value::as_i64).collect();
    if values.is_empty() {
        errors.push(FieldError::invalid(&at, codes["values"].clone(), "at least one value is required"));
    } else if values.len() > EXIT_CODES_MAX {
        errors.push(FieldError::too_many(&at, values.len(), EXIT_CODES_MAX));
    }
    for (index, value) in values.iter().enumerate() {
        if *value == 0 && operator == "In" {
            errors.push(FieldError::invalid(
                format!("{at}[{index}]"),
                0,
                "must not be 0 for the In operator",
            ));
        }
        if values[..index].contains(value) {
            errors.push(FieldError::duplicate(format!("{at}[{index}]"), *value));
        }
    }
    if !values.is_sorted() {
        errors.push(FieldError::invalid(at, codes["values"].clone(), "must be ordered"));
    }
}

fn validate_conditions(rule: &Value, path: &str, errors: &mut Errors) {
    let count = items(&rule["onPodConditions"]).len();
    if count > RULES_MAX {
        errors.push(FieldError::too_many(format!("{path}.onPodConditions"), count, RULES_MAX));
    }
    for (path, condition) in indexed(rule, path, "onPodConditions") {
        let text = |field: &str| condition[field].as_str().unwrap_or_default();
        invalid_all(names::check_label_key(text("type")), &format!("{path}.type"), text("type"), errors);
        match text("status") {
            "" => errors.push(FieldError::required(
                format!("{path}.status"),
                "valid values: \"False\", \"True\", \"Unknown\"",
            )),
            "False" | "True" | "Unknown" => {}
            other => {
                let known = ["False", "True", "Unknown"];
                errors.push(FieldError::not_supported(format!("{path}.status"), other, &known));
            }
        }
    }
}

fn validate_success_policy(spec: &Value, path: &str, errors: &mut Errors) {
    let rules = &spec["successPolicy"];
    let at = format!("{path}.rules");
    match items(&rules["rules"]).len() {
        0 => {
            let why = "at least one rules must be specified when the successPolicy is specified";
            errors.push(FieldError::required(&at, why));
        }
        count if count > RULES_MAX => errors.push(FieldError::too_many(&at, count, RULES_MAX)),
        _ => {}
    }
    let completions = spec["completions"].as_i64().unwrap_or_default();
    for (path, rule) in indexed(rules, path, "rules") {
        let (count, indexes) = (rule["succeededCount"].as_i64(), rule["succeededIndexes"].as_str());
        if count.is_none() && indexes.is_none() {
            let why = "at least one of succeededCount or succeededIndexes must be specified";
            errors.push(FieldError::required(&path, why));
        }
        let listed = indexes.map(|indexes| count_indexes(indexes, completions));
        if let (Some(Err(why)), Some(indexes)) = (&listed, indexes) {
            let why = format!("error parsing succeededIndexes: {why}");
            errors.push(FieldError::invalid(format!("{path}.succeededIndexes"), indexes, why));
        }
        let Some(count) = count else { continue };
        let why = match listed {
            _ if count < 0 => "must be greater than or equal to 0".to_owned(),
            _ if count > completions => {
                format!("must be less than or equal to {completions} (the number of specified completions)")
            }
            Some(Ok(all)) if count > all => {
                format!(
                    "must be less than or equal to {all} (the number of indexes in the specified succeededIndexes field)"
                )
            }
            _ => continue,
        };
        errors.push(FieldError::invalid(format!("{path}.succeededCount"), count, why));
    }
}

/// How many indexes `1,3-5` names, each below `completions` and above the one before.
fn count_indexes(text: &str, completions: i64) -> Result<i64, String> {
    let (mut count, mut last) = (0, -1);
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (first, end) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| {
            text.parse::<i64>().map_err(|_| format!("cannot convert string to integer for index: {text:?}"))
        };
        let (first, end) = (number(first)?, number(end)?);
        if first <= last || end < first {
            return Err(format!("non-increasing order, previous: {last}, current: {first}"));
        }
        if end >= completions {
            return Err(format!("too large index: {end:?}"));
        }
        count += end - first + 1;
        last = end;
    }
    Ok(count)
}

pub(super) fn cron_job(check: &Check<'_>, errors: &mut Errors) {
    let spec = &check.new["spec"];
    validate_schedule(spec, errors);
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
}

fn validate_zone(spec: &Value, errors: &mut Errors) {
    let Some(zone) = spec["timeZone"].as_str() else { return };
    let mut invalid = |why: String| errors.push(FieldError::invalid("spec.timeZone", zone, why));
    if zone.is_empty() {
        return invalid("timeZone must be nil or non-empty string".to_owned());
    }
    let plausible = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '-' | '+');
    if !zone.chars().all(plausible) {
        invalid(format!("unknown time zone {zone}"));
        return;
    }
    if zone.eq_ignore_ascii_case("local") {
        invalid(
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones".to_owned(),
        );
    }
    if zone.parse::<chrono_tz::Tz>().is_err() {
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
            "template": {"metadata": {"labels": {"batch.kubernetes.io/controller-uid": "u"}}, "spec": {
            "containers": [{"name": "c", "image": "i", "imagePullPolicy": "Always", "terminationMessagePolicy": "File"}],
            "restartPolicy": "Never"}}}})
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
        assert_eq!(
            paths("batch", "cronjobs", "", &of("@daily", "local"), None),
            ["spec.timeZone", "spec.timeZone"]
        );
        assert_eq!(paths("batch", "cronjobs", "", &of("@daily", "No/Where"), None), ["spec.timeZone"]);
    }
}
