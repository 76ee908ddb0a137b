//! Keeps the objects of priority and fairness: missing defaults come back, the mandatory ones stay as they are,
//! and each FlowSchema says whether the level it leads to exists.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use chrono::SecondsFormat;
use component_base::clock::Clock;
use serde_json::{Value, json};
use tower::ServiceExt as _;
use tracing::debug;

use super::{FlowControl, LEVELS, SCHEMAS};
use crate::bootstrap::flow_control as defaults;
use crate::server::Loopback;

/// Looked at this often even if no request noticed a change.
const INTERVAL: Duration = Duration::from_secs(60);
const PRODUCER: &str = "api-priority-and-fairness-config-producer-v1";
const CONSUMER: &str = "api-priority-and-fairness-config-consumer-v1";
const ROOT: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";

/// Works until it is dropped.
pub(crate) async fn keep(control: Arc<FlowControl>, loopback: Loopback, clock: Clock) {
    loop {
        let now = clock.now().to_rfc3339_opts(SecondsFormat::Secs, true);
        for step in plan(&control, &now) {
            step.run(&loopback).await;
        }
        // Woken by the change or by time, it looks again either way.
        drop(tokio::time::timeout(INTERVAL, control.changed.notified()).await);
    }
}

/// One write.
#[derive(Debug, PartialEq)]
struct Step {
    method: &'static str,
    path: String,
    media: &'static str,
    body: Value,
}

impl Step {
    async fn run(self, loopback: &Loopback) {
        let request = http::Request::builder()
            .method(self.method)
            .uri(&self.path)
            .header(http::header::CONTENT_TYPE, self.media)
            .header(http::header::USER_AGENT, "kube-apiserver/v1.36")
            .body(Body::from(self.body.to_string()));
        let Ok(request) = request else { return };
        let code = loopback.clone().oneshot(request).await.map_or(500, |answer| answer.status().as_u16());
        if code >= 400 {
            debug!(code, path = self.path, "an object of priority and fairness was not written");
        }
    }
}

fn plan(control: &FlowControl, now: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    for wanted in defaults::objects() {
        let (resource, plural) = match wanted["kind"].as_str() {
            Some("FlowSchema") => (SCHEMAS, "flowschemas"),
            _ => (LEVELS, "prioritylevelconfigurations"),
        };
        let name = wanted["metadata"]["name"].as_str().unwrap_or_default();
        match control.view.object(resource, "", name) {
            None => steps.push(Step {
                method: "POST",
                path: format!("{ROOT}/{plural}?fieldManager={PRODUCER}"),
                media: "application/json",
                body: wanted,
            }),
            Some(live) if defaults::is_mandatory(&wanted) && live["spec"] != wanted["spec"] => {
                steps.push(Step {
                    method: "PUT",
                    path: format!("{ROOT}/{plural}/{name}?fieldManager={PRODUCER}"),
                    media: "application/json",
                    body: wanted,
                })
            }
            Some(_) => {}
        }
    }
    let schemas = control.view.objects(SCHEMAS, None);
    steps.extend(schemas.iter().filter_map(|schema| status_step(control, schema, now)));
    steps
}

/// The condition `Dangling`, if it is not there as it should be.
fn status_step(control: &FlowControl, schema: &Value, now: &str) -> Option<Step> {
    let name = schema["metadata"]["name"].as_str()?;
    let level = schema["spec"]["priorityLevelConfiguration"]["name"].as_str().unwrap_or_default();
    let exists = control.view.object(LEVELS, "", level).is_some();
    let (status, reason, end) = match exists {
        true => ("False", "Found", "it exists"),
        false => ("True", "NotFound", "there is no such object"),
    };
    let conditions = schema["status"]["conditions"].as_array();
    let old = conditions.into_iter().flatten().find(|c| c["type"] == "Dangling");
    if old.is_some_and(|old| old["status"] == status && old["reason"] == reason) {
        return None;
    }
    let link = if exists { "and" } else { "but" };
    let message = format!(
        "This FlowSchema references the PriorityLevelConfiguration object named {level:?} {link} {end}"
    );
    Some(Step {
        method: "PATCH",
        path: format!("{ROOT}/flowschemas/{name}/status?fieldManager={CONSUMER}&force=true"),
        media: "application/apply-patch+yaml",
        body: json!({
            "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {"name": name},
            "status": {"conditions": [{
                "type": "Dangling", "status": status, "reason": reason, "message": message,
                "lastTransitionTime": now,
            }]},
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::fixture::Fixture;

    fn steps(world: Fixture) -> Vec<(&'static str, String)> {
        let control = FlowControl::new(Arc::new(world), 600);
        plan(&control, "now").into_iter().map(|step| (step.method, step.path)).collect()
    }

    #[test]
    fn defaults_that_are_missing_are_made() {
        let found = steps(Fixture::default());
        assert_eq!(found.iter().filter(|(method, _)| *method == "POST").count(), 19);
    }

    #[test]
    fn mandatory_objects_are_put_back_and_schemas_say_whether_their_level_exists() {
        let mut world = Fixture::default();
        for object in defaults::objects() {
            let resource = if object["kind"] == "FlowSchema" { SCHEMAS } else { LEVELS };
            world = world.with(resource, object);
        }
        let mut changed = defaults::objects().remove(0);
        assert_eq!(changed["metadata"]["name"], "catch-all");
        changed["spec"]["limited"]["nominalConcurrencyShares"] = json!(99);
        let lost = json!({"metadata": {"name": "lost"}, "spec": {"priorityLevelConfiguration": {"name": "nowhere"}}});
        let found = steps(world.with(LEVELS, changed).with(SCHEMAS, lost));
        let puts: Vec<_> = found.iter().filter(|(method, _)| *method == "PUT").collect();
        assert_eq!(puts.len(), 1, "{found:?}");
        assert!(puts[0].1.contains("prioritylevelconfigurations/catch-all"));
        assert_eq!(found.iter().filter(|(method, _)| *method == "PATCH").count(), 12);
    }
}
