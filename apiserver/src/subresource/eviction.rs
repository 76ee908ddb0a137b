//! `eviction`: a deletion that disruption budgets may refuse.

use api_types::kinds;
use api_types::selectors::LabelSelector;
use api_types::status::{Cause, Details, Reason, Status};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::StatusCode;
use serde_json::{Value, json};

use super::{Action, Subresource};
use crate::admission::{Operation, Options};
use crate::cache::Stored;
use crate::rest::{
    Answer, Call, DeleteOptions, Reviewed, WriteOptions, admit_body, commit_put, decode, media_type, remove,
    timestamp,
};

pub(super) struct Eviction;

impl Subresource for Eviction {
    const NAME: &'static str = "eviction";
    const ACTION: Action = Action::Do(evict);
}

fn evict(call: Call) -> BoxFuture<'static, Answer> {
    async move {
        let written = WriteOptions::parse(&call.info.query, &call.headers, "CreateOptions")?;
        let mut body = decode(media_type(&call.headers), &call.body)?.value;
        if body["metadata"]["name"].as_str().is_some_and(|n| !n.is_empty() && n != call.info.name) {
            return Err(Status::bad_request("name in URL does not match name in Eviction object"));
        }
        admit_body(&call, Operation::Create, Options::Write(&written), &mut body).await?;
        let dry_run = call.info.query.get_all("dryRun").filter(|v| !v.is_empty());
        let options = DeleteOptions::from_value(&body["deleteOptions"], dry_run)?;
        let pod = call.value_of(&*call.stored()?);
        if !is_disposable(&pod) {
            take_budget(&call, &pod, options.dry_run).await?;
        }
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

fn disrupted(call: &Call, budget: &Value) -> Result<Value, Status> {
    let allowed = budget["status"]["disruptionsAllowed"].as_i64().unwrap_or_default();
    let name = budget["metadata"]["name"].as_str().unwrap_or_default();
    let stale = budget["status"]["observedGeneration"].as_i64().unwrap_or_default()
        < budget["metadata"]["generation"].as_i64().unwrap_or_default();
    if stale || allowed <= 0 {
        let needs = budget["status"]["desiredHealthy"].as_i64().unwrap_or_default();
        let has = budget["status"]["currentHealthy"].as_i64().unwrap_or_default();
        let message = match stale {
            true => format!("The disruption budget {name} is still being processed by the server."),
            false => {
                format!("The disruption budget {name} needs {needs} healthy pods and has {has} currently")
            }
        };
        let cause = Cause { reason: "DisruptionBudget".into(), message, field: String::new() };
        let details = Details { causes: vec![cause], ..Details::default() };
        let text = "Cannot evict pod as it would violate the pod's disruption budget.";
        let status = Status::new(Reason::TooManyRequests, text).with_details(details);
        return Err(if stale { status.retry_after(10) } else { status });
    }
    let mut next = budget.clone();
    next["status"]["disruptionsAllowed"] = json!(allowed - 1);
    next["status"]["disruptedPods"][&call.info.name] = json!(timestamp(call.server.clock.now()));
    Ok(next)
}
