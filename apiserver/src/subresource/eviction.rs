//! `eviction`: a deletion that disruption budgets may refuse.

use api_types::kinds;
use api_types::selectors::LabelSelector;
use api_types::status::{Cause, Details, Reason, Status};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::StatusCode;
use serde_json::{Value, json};

use super::{Action, Subresource, check_name};
use crate::admission::{Operation, Options};
use crate::cache::Stored;
use crate::rest::{
    Answer, Call, DeleteOptions, Reviewed, WriteOptions, admit_body, commit_put, decode, media_type, remove,
    timestamp, typed,
};

/// Evictions of this version say the same.
const OLDER_VERSION: &str = "policy/v1beta1";

/// The condition of a pod that somebody ends on purpose.
const TARGET: &str = "DisruptionTarget";

pub(super) struct Eviction;

impl Subresource for Eviction {
    const NAME: &'static str = "eviction";
    const ACTION: Action = Action::Do(evict);
}

fn evict(call: Call) -> BoxFuture<'static, Answer> {
    async move {
        let written = WriteOptions::parse(&call.info.query, &call.headers, "CreateOptions")?;
        let mut decoded = decode(media_type(&call.headers), &call.body, "Eviction")?;
        if decoded.value["apiVersion"] == OLDER_VERSION {
            decoded.value["apiVersion"] = json!("policy/v1");
        }
        let mut body = typed::read_part(&call, decoded, "", written.field_validation)?;
        check_name(&call, &body)?;
        admit_body(&call, Operation::Create, Options::Write(&written), &mut body).await?;
        let dry_run = call.info.query.get_all("dryRun").filter(|v| !v.is_empty());
        check_dry_runs(&call, &body["deleteOptions"])?;
        let mut options = DeleteOptions::from_value(&body["deleteOptions"], dry_run)?;
        let pod = call.value_of(&*call.stored()?);
        if !is_disposable(&pod) {
            take_budget(&call, &pod, options.dry_run).await?;
        }
        mark_target(&call, &mut options).await?;
        remove(&call, &call.info.name, &options, Reviewed::Already).await?;
        call.plain(
            StatusCode::CREATED,
            &json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201,
            }),
        )
    }
    .boxed()
}

/// Says in the pod's status why it ends: whoever owns it tells an eviction from a failure by that.
async fn mark_target(call: &Call, options: &mut DeleteOptions) -> Result<(), Status> {
    for _ in 0..call.server.limits.write_attempts_max {
        let stored = call.stored()?;
        let mut pod = call.value_of(&stored);
        options.check_preconditions(call, &pod)?;
        if options.dry_run || !note_target(&mut pod, &timestamp(call.server.clock.now())) {
            return Ok(());
        }
        let Some(written) = commit_put(call, stored.key.clone(), stored.revision, pod).await? else {
            continue;
        };
        if options.resource_version.is_some() {
            let pod: Value = serde_json::from_slice(&written).map_err(Status::internal)?;
            options.resource_version = pod["metadata"]["resourceVersion"].as_str().map(str::to_owned);
        }
        return Ok(());
    }
    Err(Status::modified(&call.kind, &call.info.name))
}

/// Adds the condition of an eviction; whether that changed anything.
fn note_target(pod: &mut Value, now: &str) -> bool {
    let generation = pod["metadata"]["generation"].clone();
    let Some(status) = pod.get_mut("status").and_then(Value::as_object_mut) else { return false };
    let Some(conditions) = status.entry("conditions").or_insert_with(|| json!([])).as_array_mut() else {
        return false;
    };
    let before = conditions.iter().position(|condition| condition["type"] == TARGET);
    let since = before.map(|at| &conditions[at]).filter(|condition| condition["status"] == "True");
    let since = since.map_or_else(|| json!(now), |condition| condition["lastTransitionTime"].clone());
    let mut condition = json!({
        "type": TARGET, "status": "True", "lastProbeTime": null, "lastTransitionTime": since,
        "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting",
    });
    if generation.is_number() {
        condition["observedGeneration"] = generation;
    }
    match before {
        Some(at) if conditions[at] == condition => return false,
        Some(at) => conditions[at] = condition,
        None => conditions.push(condition),
    }
    true
}

/// The request and its content may both ask for a dry run, but not for different ones.
fn check_dry_runs(call: &Call, options: &Value) -> Result<(), Status> {
    let asked: Vec<&str> = call.info.query.get_all("dryRun").filter(|v| !v.is_empty()).collect();
    let content = options["dryRun"].as_array().into_iter().flatten();
    let content: Vec<&str> = content.filter_map(Value::as_str).collect();
    if asked.is_empty() || content.is_empty() || asked == content {
        return Ok(());
    }
    Err(Status::bad_request(format!(
        "Non-matching dry-run options in request and content: [{}] and [{}]",
        asked.join(" "),
        content.join(" ")
    )))
}

/// A pod that has ended, waits for a node, or goes already costs no budget.
fn is_disposable(pod: &Value) -> bool {
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    matches!(phase, "Succeeded" | "Failed" | "Pending") || pod["metadata"]["deletionTimestamp"].is_string()
}

fn is_ready(pod: &Value) -> bool {
    let mut conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// Takes one disruption from the budget that covers the pod, if there is one.
async fn take_budget(call: &Call, pod: &Value, dry_run: bool) -> Result<(), Status> {
    for _ in 0..call.server.limits.write_attempts_max {
        let budgets = budgets_of(call, pod);
        let budget = match budgets.as_slice() {
            [] => return Ok(()),
            [one] => one,
            _ => {
                return Err(Status::unexplained(
                    500,
                    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
                ));
            }
        };
        let value = budget.value();
        let always = value["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow";
        let healthy_enough = value["status"]["currentHealthy"].as_i64()
            >= value["status"]["desiredHealthy"].as_i64()
            && value["status"]["desiredHealthy"].as_i64().is_some_and(|d| d > 0);
        if !is_ready(pod) && (always || healthy_enough) {
            return Ok(());
        }
        let next = disrupted(call, &value)?;
        if dry_run || commit_put(call, budget.key.clone(), budget.revision, next).await?.is_some() {
            return Ok(());
        }
    }
    Err(Status::too_many_requests("the disruption budget is being changed by others", 10))
}

fn budgets_of(call: &Call, pod: &Value) -> Vec<std::sync::Arc<Stored>> {
    let Some(kind) = kinds::find_kind("policy", "v1", "PodDisruptionBudget") else { return Vec::new() };
    let snapshot = call.server.objects.list(&kind.storage, Some(call.namespace()));
    let covers = |budget: &Value| {
        LabelSelector::from_value(&budget["spec"]["selector"]).is_ok_and(|s| s.matches_object(pod))
    };
    snapshot.iter().filter(|b| covers(&b.value())).cloned().collect()
}

/// So many evictions that nobody has confirmed are too many.
const DISRUPTED_PODS_MAX: usize = 2000;

/// The budget after one disruption more.
fn disrupted(call: &Call, budget: &Value) -> Result<Value, Status> {
    let status = &budget["status"];
    let number = |value: &Value| value.as_i64().unwrap_or_default();
    let name = budget["metadata"]["name"].as_str().unwrap_or_default();
    if number(&status["observedGeneration"]) < number(&budget["metadata"]["generation"]) {
        let why = format!("The disruption budget {name} is still being processed by the server.");
        return Err(refused(why).retry_after(10));
    }
    let allowed = number(&status["disruptionsAllowed"]);
    let unconfirmed = status["disruptedPods"].as_object().map_or(0, serde_json::Map::len);
    if allowed < 0 {
        return Err(forbidden(name, "pdb disruptions allowed is negative"));
    }
    if unconfirmed > DISRUPTED_PODS_MAX {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(forbidden(name, why));
    }
    if allowed == 0 {
        return Err(refused(exhausted(name, status)));
    }
    let now = timestamp(call.server.clock.now());
    let mut next = budget.clone();
    next["status"]["disruptionsAllowed"] = json!(allowed - 1);
    if allowed == 1 {
        note_exhaustion(&mut next["status"], &now);
    }
    next["status"]["disruptedPods"][&call.info.name] = json!(now);
    Ok(next)
}

fn refused(why: String) -> Status {
    let cause = Cause { reason: "DisruptionBudget".into(), message: why, field: String::new() };
    let details = Details { causes: vec![cause], ..Details::default() };
    let text = "Cannot evict pod as it would violate the pod's disruption budget.";
    Status::new(Reason::TooManyRequests, text).with_details(details)
}

fn forbidden(name: &str, why: &str) -> Status {
    let text = format!("poddisruptionbudget.policy {name:?} is forbidden: {why}");
    Status::new(Reason::Forbidden, text).with_details(Details {
        name: name.to_owned(),
        group: "policy".to_owned(),
        kind: "poddisruptionbudget".to_owned(),
        ..Details::default()
    })
}

const CONDITION: &str = "DisruptionAllowed";

fn exhausted(name: &str, status: &Value) -> String {
    let mut conditions = status["conditions"].as_array().into_iter().flatten();
    let condition = conditions.find(|condition| condition["type"] == CONDITION);
    let failed = condition.filter(|c| c["status"] == "False" && c["reason"] == "SyncFailed");
    if let Some(failed) = failed {
        let why = failed["message"].as_str().unwrap_or_default();
        return format!(
            "The disruption budget {name} does not allow evicting pods currently because it failed sync: {why}"
        );
    }
    let (needs, has) = (&status["desiredHealthy"], &status["currentHealthy"]);
    let number = |value: &Value| value.as_i64().unwrap_or_default();
    format!(
        "The disruption budget {name} needs {} healthy pods and has {} currently",
        number(needs),
        number(has)
    )
}

/// Says that the last disruption is taken.
fn note_exhaustion(status: &mut Value, now: &str) {
    let generation = status["observedGeneration"].clone();
    let Some(fields) = status.as_object_mut() else { return };
    let list = fields.entry("conditions").or_insert_with(|| json!([]));
    let Some(conditions) = list.as_array_mut() else { return };
    let found = conditions.iter_mut().find(|condition| condition["type"] == CONDITION);
    let since = match &found {
        Some(condition) if condition["status"] == "False" => condition["lastTransitionTime"].clone(),
        _ => json!(now),
    };
    let condition = json!({
        "type": CONDITION, "status": "False", "observedGeneration": generation,
        "lastTransitionTime": since, "reason": "InsufficientPods", "message": "",
    });
    match found {
        Some(found) => *found = condition,
        None => conditions.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_evicted_pod_says_so_once_and_since_when() {
        let mut pod = json!({"metadata": {"generation": 3}, "status": {"conditions": [{"type": "Ready"}]}});
        assert!(note_target(&mut pod, "t1"));
        assert!(!note_target(&mut pod, "t2"));
        let conditions = pod["status"]["conditions"].as_array().unwrap();
        assert_eq!(conditions.len(), 2);
        assert_eq!(
            conditions[1],
            json!({
                "type": "DisruptionTarget", "status": "True", "lastProbeTime": null, "lastTransitionTime": "t1",
                "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting", "observedGeneration": 3,
            })
        );
    }

    #[test]
    fn the_last_disruption_is_noted_once() {
        let mut status = json!({"observedGeneration": 2});
        note_exhaustion(&mut status, "t1");
        note_exhaustion(&mut status, "t2");
        assert_eq!(status["conditions"].as_array().map(Vec::len), Some(1));
        assert_eq!(status["conditions"][0]["lastTransitionTime"], "t1");
        assert_eq!(status["conditions"][0]["reason"], "InsufficientPods");
    }

    #[test]
    fn a_refusal_says_what_is_needed_or_why_nobody_knows() {
        let short = json!({"desiredHealthy": 2, "currentHealthy": 1});
        assert_eq!(
            exhausted("b", &short),
            "The disruption budget b needs 2 healthy pods and has 1 currently"
        );
        let failed = json!({"conditions": [{"type": CONDITION, "status": "False", "reason": "SyncFailed", "message": "no scale"}]});
        assert!(exhausted("b", &failed).ends_with("because it failed sync: no scale"));
    }
}
