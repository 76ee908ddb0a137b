//! Amounts of resources as integers: CPU in thousandths, the rest in whole units.
//!
//! Quantities are parsed once, when an object arrives; the cycle only adds and compares integers.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// What scoring assumes of a container that asks for no CPU, in thousandths (as Kubernetes does).
pub(crate) const DEFAULT_MILLI_CPU: i64 = 100;
/// What scoring assumes of a container that asks for no memory, in bytes.
pub(crate) const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

type List = BTreeMap<String, Quantity>;

/// An amount of every resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resources {
    pub(crate) milli_cpu: i64,
    pub(crate) memory: i64,
    pub(crate) ephemeral_storage: i64,
    pub(crate) pods: i64,
    /// Extended resources and huge pages, by name.
    pub(crate) scalar: Vec<(Arc<str>, i64)>,
}

impl Resources {
    /// Reads a resource list; an amount that does not parse counts as none.
    pub(crate) fn from_list(list: Option<&List>) -> Self {
        let amount = |quantity: &Quantity| api_types::quantity::Quantity::parse_or_zero(&quantity.0);
        let mut amounts = Self::default();
        for (name, quantity) in list.into_iter().flatten() {
            match name.as_str() {
                "cpu" => amounts.milli_cpu = amount(quantity).milli(),
                "memory" => amounts.memory = amount(quantity).units(),
                "ephemeral-storage" => amounts.ephemeral_storage = amount(quantity).units(),
                "pods" => amounts.pods = amount(quantity).units(),
                other => amounts.scalar.push((other.into(), amount(quantity).units())),
            }
        }
        amounts
    }

    /// The amount of the extended resource `name`.
    pub(crate) fn scalar(&self, name: &str) -> i64 {
        self.scalar.iter().find(|(known, _)| &**known == name).map_or(0, |(_, amount)| *amount)
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.combine(other, i64::saturating_add);
    }

    pub(crate) fn subtract(&mut self, other: &Self) {
        self.combine(other, i64::saturating_sub);
    }

    /// Raises each amount to at least the other's.
    pub(crate) fn raise_to(&mut self, other: &Self) {
        self.combine(other, std::cmp::Ord::max);
    }

    fn combine(&mut self, other: &Self, by: impl Fn(i64, i64) -> i64) {
        self.milli_cpu = by(self.milli_cpu, other.milli_cpu);
        self.memory = by(self.memory, other.memory);
        self.ephemeral_storage = by(self.ephemeral_storage, other.ephemeral_storage);
        self.pods = by(self.pods, other.pods);
        for (name, amount) in &other.scalar {
            match self.scalar.iter_mut().find(|(known, _)| known == name) {
                Some((_, mine)) => *mine = by(*mine, *amount),
                None => self.scalar.push((name.clone(), by(0, *amount))),
            }
        }
    }

    /// Whether nothing but a place among the pods is asked for.
    pub(crate) fn is_zero(&self) -> bool {
        self.milli_cpu == 0
            && self.memory == 0
            && self.ephemeral_storage == 0
            && self.scalar.iter().all(|(_, amount)| *amount == 0)
    }
}

/// Whether containers that ask for no CPU or memory count as nothing or as the default amounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unset {
    Nothing,
    Defaults,
}

/// What a pod asks of a node, after Kubernetes' rule: the sum over containers and sidecars, or the largest
/// init container with the sidecars started before it, whichever is more; pod-level requests win; plus overhead.
pub(crate) fn pod_requests(spec: &PodSpec, unset: Unset) -> Resources {
    let mut sum = Resources::default();
    for container in &spec.containers {
        sum.add(&container_requests(container, unset));
    }
    let mut sidecars = Resources::default();
    let mut init_peak = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let mut wanted = container_requests(container, unset);
        if container.restart_policy.as_deref() == Some("Always") {
            sum.add(&wanted);
            sidecars.add(&wanted);
            init_peak.raise_to(&sidecars);
        } else {
            wanted.add(&sidecars);
            init_peak.raise_to(&wanted);
        }
    }
    sum.raise_to(&init_peak);
    override_at_pod_level(&mut sum, spec);
    sum.add(&Resources::from_list(spec.overhead.as_ref()));
    sum
}

fn override_at_pod_level(sum: &mut Resources, spec: &PodSpec) {
    let Some(list) = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()) else {
        return;
    };
    let wanted = Resources::from_list(Some(list));
    if list.contains_key("cpu") {
        sum.milli_cpu = wanted.milli_cpu;
    }
    if list.contains_key("memory") {
        sum.memory = wanted.memory;
    }
    for (name, amount) in wanted.scalar {
        sum.scalar.retain(|(known, _)| *known != name);
        sum.scalar.push((name, amount));
    }
}

fn container_requests(container: &Container, unset: Unset) -> Resources {
    let list = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let mut wanted = Resources::from_list(list);
    if unset == Unset::Defaults {
        let missing = |name| list.is_none_or(|list| !list.contains_key(name));
        if missing("cpu") {
            wanted.milli_cpu = DEFAULT_MILLI_CPU;
        }
        if missing("memory") {
            wanted.memory = DEFAULT_MEMORY;
        }
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    #[test]
    fn quantities_become_integers_rounded_up() {
        let spec = pod("a").requests("1.0001", "1.5Ki").request("x.io/y", "100m").build().spec.unwrap();
        let wanted = pod_requests(&spec, Unset::Nothing);
        assert_eq!((wanted.milli_cpu, wanted.memory, wanted.scalar("x.io/y")), (1001, 1536, 1));
    }

    #[test]
    fn init_containers_count_by_their_peak() {
        let spec = pod("a").requests("100m", "1Gi").init("500m", "1Mi").build().spec.unwrap();
        let wanted = pod_requests(&spec, Unset::Nothing);
        assert_eq!((wanted.milli_cpu, wanted.memory), (500, 1 << 30));
    }

    #[test]
    fn sidecars_run_beside_the_containers() {
        let spec = pod("a").requests("100m", "1Gi").sidecar("50m", "1Gi").build().spec.unwrap();
        let wanted = pod_requests(&spec, Unset::Nothing);
        assert_eq!((wanted.milli_cpu, wanted.memory), (150, 2 << 30));
    }

    #[test]
    fn scoring_assumes_defaults_where_nothing_is_asked() {
        let spec = pod("a").build().spec.unwrap();
        let wanted = pod_requests(&spec, Unset::Defaults);
        assert_eq!((wanted.milli_cpu, wanted.memory), (DEFAULT_MILLI_CPU, DEFAULT_MEMORY));
    }
}
