//! What every cluster starts with: namespaces, roles, priority classes, the service `kubernetes`.
//!
//! Runs at each start and creates only what is missing, through the same path as any client's write. What an
//! administrator changed stays changed.

pub(crate) mod flow_control;
pub(crate) mod kubernetes;
mod rbac;

use api_types::status::{Reason, Status};
use futures::stream::{StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};

use self::kubernetes::Advertised;
use crate::service_ip::ServiceCidr;

/// How many creates are on their way at once; the store writes those that wait together.
const CONCURRENCY: usize = 16;

/// Creates what is missing. `create` is a create through the generic path; that something exists already is
/// not an error.
pub(crate) async fn run<F>(
    services: &ServiceCidr,
    mine: &Advertised,
    create: impl Fn(Value) -> F,
) -> Result<(), Status>
where
    F: Future<Output = Result<(), Status>>,
{
    all(namespaces(), &create).await?;
    let mut rest = rbac::objects();
    rest.extend(service_accounts());
    rest.extend(priority_classes());
    rest.push(kubernetes::service(mine));
    rest.push(service_range(services));
    all(rest, &create).await
}

async fn all<F>(objects: Vec<Value>, create: &impl Fn(Value) -> F) -> Result<(), Status>
where
    F: Future<Output = Result<(), Status>>,
{
    let created =
        futures::stream::iter(objects).map(|object| ensure(object, create)).buffer_unordered(CONCURRENCY);
    created.try_collect::<()>().await
}

async fn ensure<F>(object: Value, create: &impl Fn(Value) -> F) -> Result<(), Status>
where
    F: Future<Output = Result<(), Status>>,
{
    match create(object).await {
        Err(status) if status.reason == Reason::AlreadyExists => Ok(()),
        other => other,
    }
}

fn namespaces() -> Vec<Value> {
    let names = ["default", "kube-system", "kube-public", "kube-node-lease"];
    names.map(|name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})).to_vec()
}

/// The controller makes these for every namespace; these two are there before it runs.
fn service_accounts() -> Vec<Value> {
    let account = |namespace| json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": namespace}});
    ["default", "kube-system"].map(account).to_vec()
}

fn priority_classes() -> Vec<Value> {
    let rows = [
        (
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
        (
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
    ];
    let class = |(name, value, description)| {
        json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
            "metadata": {"name": name}, "value": value, "description": description,
        })
    };
    rows.map(class).to_vec()
}

/// The range that addresses of services come from. It is in use from the start, so it is ready.
fn service_range(services: &ServiceCidr) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": [services.to_string()]},
        "status": {"conditions": [{
            "type": "Ready", "status": "True", "reason": "", "message": "Kubernetes Service CIDR is ready",
        }]},
    })
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    fn nowhere() -> Advertised {
        Advertised { service: ServiceCidr::usual().first(), server: None, shared: false }
    }

    #[tokio::test]
    async fn what_exists_already_is_left_alone_and_the_rest_is_created() {
        let made = Mutex::new(Vec::new());
        let create = |object: Value| {
            made.lock().push(object["kind"].as_str().unwrap().to_owned());
            async { Err(Status::new(Reason::AlreadyExists, "exists")) }
        };
        run(&ServiceCidr::usual(), &nowhere(), create).await.unwrap();
        assert_eq!(made.lock().iter().filter(|kind| *kind == "Namespace").count(), 4);
        assert!(made.lock().iter().any(|kind| kind == "Service"));
    }

    #[tokio::test]
    async fn another_failure_ends_the_start() {
        let create = |_| async { Err(Status::internal("disk full")) };
        assert!(run(&ServiceCidr::usual(), &nowhere(), create).await.is_err());
    }
}
