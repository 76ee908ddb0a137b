//! `podFailurePolicy` and `successPolicy`: what a failed pod means, and when enough has succeeded. Pure.

use k8s_openapi::api::batch::v1::{
    PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule, SuccessPolicy,
};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};

use super::indexes::Indexes;
use crate::owners::name_of;

/// What the policy makes of a failed pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It counts, as without a policy.
    Count,
    /// It does not count.
    Ignore,
    /// Its index is not tried again.
    FailIndex,
    /// The whole job fails, for this reason.
    FailJob(String),
}

/// What `policy` says of a failed pod; the first rule that matches counts.
pub(super) fn judge(policy: Option<&PodFailurePolicy>, pod: &Pod) -> Verdict {
    let (Some(policy), Some(status)) = (policy, pod.status.as_ref()) else { return Verdict::Count };
    let mut rules = policy.rules.iter().enumerate();
    rules.find_map(|(at, rule)| matched(rule, at, pod, status)).unwrap_or(Verdict::Count)
}

fn matched(rule: &PodFailurePolicyRule, at: usize, pod: &Pod, status: &PodStatus) -> Option<Verdict> {
    let (namespace, name) = (pod.metadata.namespace.as_deref().unwrap_or_default(), name_of(&pod.metadata));
    let why = if let Some(codes) = &rule.on_exit_codes {
        let (container, code) = failed_container(status, codes)?;
        format!("Container {container} for pod {namespace}/{name} failed with exit code {code}")
    } else {
        let patterns = rule.on_pod_conditions.as_deref().unwrap_or_default();
        let fits = |type_: &str, state: &str| {
            patterns.iter().any(|one| one.type_ == type_ && one.status.as_deref().unwrap_or("True") == state)
        };
        let condition = status.conditions.iter().flatten().find(|one| fits(&one.type_, &one.status))?;
        format!("Pod {namespace}/{name} has condition {}", condition.type_)
    };
    match rule.action.as_str() {
        "Ignore" => Some(Verdict::Ignore),
        "Count" => Some(Verdict::Count),
        "FailIndex" => Some(Verdict::FailIndex),
        "FailJob" => Some(Verdict::FailJob(format!("{why} matching FailJob rule at index {at}"))),
        _ => None,
    }
}

/// The first container that ended with a code the requirement means; zero never fails.
fn failed_container<'a>(
    status: &'a PodStatus,
    codes: &PodFailurePolicyOnExitCodesRequirement,
) -> Option<(&'a str, i32)> {
    let named = |one: &&ContainerStatus| codes.container_name.as_ref().is_none_or(|name| *name == one.name);
    let meant = |code: i32| match codes.operator.as_str() {
        "In" => codes.values.contains(&code),
        "NotIn" => !codes.values.contains(&code),
        _ => false,
    };
    let main = status.container_statuses.iter().flatten();
    let all = main.chain(status.init_container_statuses.iter().flatten());
    all.filter(named)
        .filter_map(|one| Some((one.name.as_str(), one.state.as_ref()?.terminated.as_ref()?.exit_code)))
        .find(|(_, code)| *code != 0 && meant(*code))
}

/// Whether `done` is enough, and which rule says so.
pub(super) fn success(policy: Option<&SuccessPolicy>, done: &Indexes, completions: i32) -> Option<String> {
    let policy = policy.filter(|_| !done.is_empty())?;
    let at = policy.rules.iter().position(|rule| {
        let Some(text) = &rule.succeeded_indexes else {
            return rule.succeeded_count.is_some_and(|count| done.count() >= count);
        };
        let wanted = Indexes::parse(text, completions);
        let shared = wanted.count_shared(done);
        let all = shared == wanted.count();
        !wanted.is_empty() && (all || rule.succeeded_count.is_some_and(|count| shared >= count))
    })?;
    Some(format!("Matched rules at index {at}"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(rules: Value, status: Value, expected: Verdict) {
        let policy: PodFailurePolicy = serde_json::from_value(json!({ "rules": rules })).unwrap();
        let meta = json!({"name": "p", "namespace": "ns"});
        let pod: Pod = serde_json::from_value(json!({"metadata": meta, "status": status})).unwrap();
        assert_eq!(judge(Some(&policy), &pod), expected);
    }

    fn ended(container: &str, code: i32) -> Value {
        let state = json!({"terminated": {"exitCode": code}});
        let one = json!({"name": container, "ready": false, "restartCount": 0, "image": "", "imageID": "", "state": state});
        json!({"phase": "Failed", "containerStatuses": [one]})
    }

    fn codes(action: &str, operator: &str, values: &[i32]) -> Value {
        json!({"action": action, "onExitCodes": {"operator": operator, "values": values}})
    }

    #[test]
    fn an_exit_code_fails_the_job_and_the_message_says_which() {
        let why = "Container c for pod ns/p failed with exit code 3 matching FailJob rule at index 1";
        let rules = json!([codes("Ignore", "In", &[9]), codes("FailJob", "In", &[3])]);
        check(rules, ended("c", 3), Verdict::FailJob(why.to_owned()));
    }

    #[test]
    fn the_first_rule_that_matches_counts() {
        let rules = json!([codes("Count", "NotIn", &[1]), codes("FailJob", "In", &[3])]);
        check(rules, ended("c", 3), Verdict::Count);
    }

    #[test]
    fn an_exit_with_zero_matches_no_rule() {
        check(json!([codes("Ignore", "NotIn", &[1])]), ended("c", 0), Verdict::Count);
    }

    #[test]
    fn a_rule_for_another_container_does_not_match() {
        let mut rule = codes("FailIndex", "In", &[3]);
        rule["onExitCodes"]["containerName"] = json!("other");
        check(json!([rule]), ended("c", 3), Verdict::Count);
        rule["onExitCodes"]["containerName"] = json!("c");
        check(json!([rule]), ended("c", 3), Verdict::FailIndex);
    }

    #[test]
    fn a_pod_condition_is_ignored_or_fails_the_job() {
        let pattern = json!([{"type": "DisruptionTarget", "status": "True"}]);
        let status =
            json!({"phase": "Failed", "conditions": [{"type": "DisruptionTarget", "status": "True"}]});
        let rule = |action: &str| json!([{"action": action, "onPodConditions": pattern}]);
        check(rule("Ignore"), status.clone(), Verdict::Ignore);
        let why = "Pod ns/p has condition DisruptionTarget matching FailJob rule at index 0";
        check(rule("FailJob"), status, Verdict::FailJob(why.to_owned()));
        check(rule("Ignore"), json!({"phase": "Failed"}), Verdict::Count);
    }

    fn check_success(rules: Value, done: &str, expected: Option<&str>) {
        let policy: SuccessPolicy = serde_json::from_value(json!({ "rules": rules })).unwrap();
        assert_eq!(success(Some(&policy), &Indexes::parse(done, 10), 10).as_deref(), expected);
    }

    #[test]
    fn all_indexes_of_a_rule_or_its_count_are_enough() {
        check_success(json!([{"succeededIndexes": "0-2"}]), "0-2", Some("Matched rules at index 0"));
        check_success(json!([{"succeededIndexes": "0-2"}]), "0-1", None);
        check_success(
            json!([{"succeededIndexes": "9"}, {"succeededIndexes": "0-4", "succeededCount": 2}]),
            "3-5",
            Some("Matched rules at index 1"),
        );
        check_success(json!([{"succeededCount": 3}]), "1-2", None);
        check_success(json!([{"succeededCount": 2}]), "1-2", Some("Matched rules at index 0"));
    }
}
