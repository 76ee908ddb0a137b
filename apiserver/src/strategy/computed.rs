//! Kinds of which nothing is kept: their objects are found out when somebody asks.

use chrono::{DateTime, TimeDelta, Utc};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use crate::node_metrics;
use crate::rest::Call;
use crate::view::View;

/// Finds the objects that a call is about: all, or that of the name.
type Find = for<'a> fn(&'a Call, &'a str) -> BoxFuture<'a, Vec<Value>>;

static ROWS: &[(&str, Find)] = &[
    ("componentstatuses", |call, _| {
        async { component_statuses(&*call.server.view, call.server.clock.now()) }.boxed()
    }),
    ("nodes.metrics.k8s.io", node_metrics::of_nodes),
    ("pods.metrics.k8s.io", node_metrics::of_pods),
];

/// The objects of a computed kind, without type names.
pub(crate) async fn objects(call: &Call, name: &str) -> Vec<Value> {
    let group_resource = call.kind.group_resource();
    match ROWS.iter().find(|(resource, _)| *resource == group_resource) {
        Some((_, find)) => find(call, name).await,
        None => Vec::new(),
    }
}

/// Components that elect a leader, and the lease by which they show that they live.
const COMPONENTS: &[(&str, &str)] =
    &[("controller-manager", "kube-controller-manager"), ("scheduler", "kube-scheduler")];

/// The store is healthy where this can be asked; the others are as long as one of them renews its lease.
fn component_statuses(view: &dyn View, now: DateTime<Utc>) -> Vec<Value> {
    let mut found = Vec::new();
    for (name, lease) in COMPONENTS {
        let lease = view.object("coordination.k8s.io/leases", "kube-system", lease);
        let problem = match &lease {
            None => Some("no lease found".to_owned()),
            Some(lease) if is_renewed(lease, now) => None,
            Some(_) => Some("the lease is not renewed".to_owned()),
        };
        found.push(component(name, problem));
    }
    found.push(component("etcd-0", None));
    found
}

fn is_renewed(lease: &Value, now: DateTime<Utc>) -> bool {
    let renewed = lease["spec"]["renewTime"].as_str().and_then(|t| DateTime::parse_from_rfc3339(t).ok());
    let seconds = lease["spec"]["leaseDurationSeconds"].as_i64().unwrap_or(0);
    let valid = TimeDelta::try_seconds(seconds).unwrap_or_default();
    renewed.is_some_and(|renewed| now.signed_duration_since(renewed) <= valid)
}

fn component(name: &str, problem: Option<String>) -> Value {
    let condition = match problem {
        None => json!({ "type": "Healthy", "status": "True", "message": "ok" }),
        Some(error) => {
            json!({ "type": "Healthy", "status": "False", "message": error, "error": error })
        }
    };
    json!({ "metadata": { "name": name }, "conditions": [condition] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_that_has_run_out_shows_nobody() {
        let lease =
            json!({ "spec": { "renewTime": "2026-01-01T00:00:00.000000Z", "leaseDurationSeconds": 15 } });
        let at = |text: &str| DateTime::parse_from_rfc3339(text).unwrap().to_utc();
        assert!(is_renewed(&lease, at("2026-01-01T00:00:10Z")));
        assert!(!is_renewed(&lease, at("2026-01-01T00:00:16Z")));
    }
}
