//! What several components ask of a pod: is it ready, is it over, what does it need.

use crate::conditions;
use crate::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use std::collections::BTreeMap;

/// Amounts by resource name (`cpu`, `memory`, …).
pub type Resources = BTreeMap<String, Quantity>;

/// Quality of service, by which a node chooses whom to evict first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Qos {
    /// The text of `status.qosClass`.
    pub fn as_str(self) -> &'static str {
        match self {
            Qos::Guaranteed => "Guaranteed",
            Qos::Burstable => "Burstable",
            Qos::BestEffort => "BestEffort",
        }
    }
}

pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("")
}

/// Whether the pod has ended and will never run again.
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

pub fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Whether the pod counts for its controller: neither ended nor being deleted.
pub fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && !is_terminating(pod)
}

pub fn is_ready(pod: &Pod) -> bool {
    conditions::is_true(pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or(&[]), "Ready")
}

pub fn is_bound(pod: &Pod) -> bool {
    node_name(pod).is_some()
}

pub fn node_name(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|n| !n.is_empty())
}

/// Whether an init container stays beside the others: a sidecar.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// What the scheduler must find room for.
pub fn requests(pod: &PodSpec) -> Resources {
    total(pod, |r| &r.requests)
}

/// What the pod may use at most. Resources that some container leaves unlimited count for the others only.
pub fn limits(pod: &PodSpec) -> Resources {
    total(pod, |r| &r.limits)
}

/// What the containers ask for together, whatever the pod as a whole says.
pub fn container_requests(pod: &PodSpec) -> Resources {
    together(pod, |r| &r.requests)
}

/// What the containers may use together, whatever the pod as a whole says.
pub fn container_limits(pod: &PodSpec) -> Resources {
    together(pod, |r| &r.limits)
}

type Amounts = Option<BTreeMap<String, ApiQuantity>>;

/// What the containers have together, then pod-level amounts in their place, and the overhead on top.
fn total(pod: &PodSpec, pick: fn(&ResourceRequirements) -> &Amounts) -> Resources {
    let mut running = together(pod, pick);
    if let Some(whole) = &pod.resources {
        running.extend(read(pick(whole)));
    }
    add(&mut running, read(&pod.overhead));
    running
}

/// The larger of what runs together in the end and what each init container needs while it runs with the
/// sidecars that were started before it.
fn together(pod: &PodSpec, pick: fn(&ResourceRequirements) -> &Amounts) -> Resources {
    let of = |c: &Container| c.resources.as_ref().map(|r| read(pick(r))).unwrap_or_default();
    let mut running = Resources::new();
    pod.containers.iter().for_each(|c| add(&mut running, of(c)));
    let (mut sidecars, mut peak) = (Resources::new(), Resources::new());
    for c in pod.init_containers.iter().flatten() {
        let mut during = of(c);
        if is_sidecar(c) {
            add(&mut running, during.clone());
            add(&mut sidecars, during);
            raise(&mut peak, &sidecars);
        } else {
            add(&mut during, sidecars.clone());
            raise(&mut peak, &during);
        }
    }
    raise(&mut running, &peak);
    running
}

fn read(amounts: &Amounts) -> Resources {
    amounts.iter().flatten().map(|(name, q)| (name.clone(), q.into())).collect()
}

fn add(to: &mut Resources, more: Resources) {
    for (name, amount) in more {
        *to.entry(name).or_default() += amount;
    }
}

fn raise(to: &mut Resources, floor: &Resources) {
    for (name, amount) in floor {
        let at = to.entry(name.clone()).or_default();
        *at = (*at).max(*amount);
    }
}

/// Guaranteed if every container limits CPU and memory and requests just that, BestEffort if none asks for any.
pub fn qos(pod: &PodSpec) -> Qos {
    let containers: Vec<_> = pod.containers.iter().chain(pod.init_containers.iter().flatten()).collect();
    let whole = pod.resources.as_ref().filter(|r| r.requests.is_some() || r.limits.is_some());
    let each: Vec<_> = match whole {
        Some(whole) => vec![class(Some(whole))],
        None => containers.iter().map(|c| class(c.resources.as_ref())).collect(),
    };
    match each.as_slice() {
        all if all.iter().all(|q| *q == Qos::BestEffort) => Qos::BestEffort,
        all if all.iter().all(|q| *q == Qos::Guaranteed) => Qos::Guaranteed,
        _ => Qos::Burstable,
    }
}

fn class(resources: Option<&ResourceRequirements>) -> Qos {
    let Some(resources) = resources else { return Qos::BestEffort };
    let (requests, limits) = (read(&resources.requests), read(&resources.limits));
    let amount = |from: &Resources, name| from.get(name).copied().filter(|q| !q.is_zero());
    let pairs = ["cpu", "memory"].map(|name| (amount(&requests, name), amount(&limits, name)));
    match pairs {
        [(None, None), (None, None)] => Qos::BestEffort,
        pairs if pairs.iter().all(|(r, l)| l.is_some() && (r.is_none() || r == l)) => Qos::Guaranteed,
        _ => Qos::Burstable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use serde_json::{Value, json};

    fn spec(value: Value) -> PodSpec {
        serde_json::from_value(value).unwrap()
    }

    fn container(cpu: &str) -> Value {
        json!({"name": "c", "resources": {"requests": {"cpu": cpu}}})
    }

    fn check(pod: Value, expect: Expect) {
        let sum = requests(&spec(pod));
        let text: Vec<_> = sum.iter().map(|(name, q)| format!("{name}={q}")).collect();
        expect.assert_eq(&text.join(" "));
    }

    #[test]
    fn containers_add_up_and_an_init_container_counts_if_it_needs_more() {
        check(json!({"containers": [container("1"), container("500m")]}), expect!["cpu=1500m"]);
        let pod = json!({"containers": [container("1")], "initContainers": [container("2"), container("3")]});
        check(pod, expect!["cpu=3"]);
    }

    #[test]
    fn sidecars_run_with_everything_after_them() {
        let sidecar =
            json!({"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}});
        let pod = json!({"containers": [container("1")], "initContainers": [sidecar, container("3")],
            "overhead": {"memory": "64Mi"}});
        check(pod, expect!["cpu=4 memory=64Mi"]);
    }

    #[test]
    fn quality_follows_from_requests_and_limits() {
        let of =
            |resources: Value| qos(&spec(json!({"containers": [{"name": "c", "resources": resources}]})));
        let both = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(of(json!({})), Qos::BestEffort);
        assert_eq!(of(json!({"requests": {"cpu": "1"}})), Qos::Burstable);
        assert_eq!(of(json!({"requests": both, "limits": both})), Qos::Guaranteed);
        assert_eq!(of(json!({"requests": {"cpu": "1"}, "limits": both})), Qos::Guaranteed);
        assert_eq!(of(json!({"requests": {"cpu": "500m"}, "limits": both})), Qos::Burstable);
    }
}
