//! The quality-of-service class of a pod and what follows from it: cgroup parent, OOM score, cgroup limits.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::runtime::Resources;

type Amounts = BTreeMap<String, Quantity>;

/// `status.qosClass`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Qos {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }

    /// The class by the CPU and memory of all containers, as in Kubernetes' "Pod Quality of Service Classes".
    pub(crate) fn of(spec: &PodSpec) -> Self {
        let all: Vec<&Container> =
            spec.containers.iter().chain(spec.init_containers.iter().flatten()).collect();
        let asks = |it: &&Container| {
            it.resources.as_ref().is_some_and(|res| {
                let amounts = res.requests.iter().chain(res.limits.iter());
                amounts.flatten().any(|(name, amount)| is_compute(name) && value(amount) > 0.0)
            })
        };
        match (all.iter().any(asks), all.iter().all(|it| is_guaranteed(it))) {
            (false, _) => Self::BestEffort,
            (true, true) => Self::Guaranteed,
            (true, false) => Self::Burstable,
        }
    }

    /// The pod's cgroup below the root of cgroups.
    pub(crate) fn cgroup_parent(self, uid: &str) -> String {
        match self {
            Self::Guaranteed => format!("/kubepods/pod{uid}"),
            Self::Burstable => format!("/kubepods/burstable/pod{uid}"),
            Self::BestEffort => format!("/kubepods/besteffort/pod{uid}"),
        }
    }
}

fn is_compute(name: &str) -> bool {
    matches!(name, "cpu" | "memory")
}

fn is_guaranteed(container: &Container) -> bool {
    let Some(res) = &container.resources else { return false };
    ["cpu", "memory"].iter().all(|name| {
        let limit = amount(res.limits.as_ref(), name);
        let request = amount(res.requests.as_ref(), name);
        limit.is_some_and(|it| it > 0.0) && (request.is_none() || request == limit)
    })
}

fn amount(of: Option<&Amounts>, name: &str) -> Option<f64> {
    of?.get(name).map(value)
}

/// A quantity as a number, precise enough for cgroup limits; 0 if it is none (the API server refuses those).
pub(crate) fn value(quantity: &Quantity) -> f64 {
    let text = quantity.0.trim();
    let split = text.find(|c: char| !(c.is_ascii_digit() || "+-.".contains(c))).unwrap_or(text.len());
    let (digits, suffix) = text.split_at(split);
    let number: f64 = digits.parse().unwrap_or(0.0);
    number * factor(suffix)
}

fn factor(suffix: &str) -> f64 {
    match suffix {
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1024f64.powi(2),
        "Gi" => 1024f64.powi(3),
        "Ti" => 1024f64.powi(4),
        "Pi" => 1024f64.powi(5),
        "Ei" => 1024f64.powi(6),
        exponent => {
            exponent.get(1..).and_then(|digits| digits.parse().ok()).map_or(1.0, |e: i32| 10f64.powi(e))
        }
    }
}

/// The cgroup limits of one container: shares from the CPU request, quota from its limit.
pub(crate) fn container_resources(spec: &PodSpec, container: &Container, node_memory: u64) -> Resources {
    let none = ResourceRequirements::default();
    let res = container.resources.as_ref().unwrap_or(&none);
    let cpu_limit = amount(res.limits.as_ref(), "cpu").filter(|it| *it > 0.0);
    let cpu_request = amount(res.requests.as_ref(), "cpu").or(cpu_limit).unwrap_or(0.0);
    let memory_limit = amount(res.limits.as_ref(), "memory").filter(|it| *it > 0.0);
    let memory_request = amount(res.requests.as_ref(), "memory").or(memory_limit).unwrap_or(0.0);
    let period = 100_000u64;
    Resources {
        cpu_shares: Some(((cpu_request * 1024.0) as u64).clamp(2, 262_144)),
        cpu_quota_us: cpu_limit.map(|cores| ((cores * period as f64) as i64).max(1000)),
        cpu_period_us: cpu_limit.map(|_| period),
        memory_limit_bytes: memory_limit.map(|bytes| bytes as i64),
        oom_score_adj: Some(oom_score_adj(Qos::of(spec), memory_request, node_memory)),
    }
}

fn oom_score_adj(qos: Qos, memory_request: f64, node_memory: u64) -> i32 {
    match qos {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable if node_memory == 0 => 999,
        Qos::Burstable => {
            // Whole numbers, rounded as Kubernetes rounds.
            let share = (1000.0 * memory_request / node_memory as f64).floor();
            (1000.0 - share).clamp(2.0, 999.0) as i32
        }
    }
}

/// The limits of the whole pod, if every container has one.
pub(crate) fn pod_resources(spec: &PodSpec) -> Resources {
    let sum = |name: &str, limits: bool| -> Option<f64> {
        spec.containers
            .iter()
            .map(|it| {
                let res = it.resources.as_ref()?;
                amount(if limits { res.limits.as_ref() } else { res.requests.as_ref() }, name)
            })
            .sum()
    };
    let request = sum("cpu", false).or_else(|| sum("cpu", true)).unwrap_or(0.0);
    let limit = sum("cpu", true).filter(|it| *it > 0.0);
    Resources {
        cpu_shares: Some(((request * 1024.0) as u64).clamp(2, 262_144)),
        cpu_quota_us: limit.map(|cores| ((cores * 100_000.0) as i64).max(1000)),
        cpu_period_us: limit.map(|_| 100_000),
        memory_limit_bytes: sum("memory", true).filter(|it| *it > 0.0).map(|bytes| bytes as i64),
        oom_score_adj: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: serde_json::Value) -> PodSpec {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn no_requests_are_best_effort() {
        assert_eq!(Qos::of(&spec(serde_json::json!({"containers": [{"name": "a"}]}))), Qos::BestEffort);
    }

    #[test]
    fn equal_requests_and_limits_are_guaranteed() {
        let res = serde_json::json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m"}});
        let pod = spec(serde_json::json!({"containers": [{"name": "a", "resources": res}]}));
        assert_eq!(Qos::of(&pod), Qos::Guaranteed);
    }

    #[test]
    fn one_container_without_limits_is_burstable() {
        let res = serde_json::json!({"limits": {"cpu": "1", "memory": "1Gi"}});
        let pod = spec(serde_json::json!({"containers": [{"name": "a", "resources": res}, {"name": "b"}]}));
        assert_eq!(Qos::of(&pod), Qos::Burstable);
    }

    #[test]
    fn cpu_becomes_shares_and_quota() {
        let res =
            serde_json::json!({"limits": {"cpu": "500m", "memory": "64Mi"}, "requests": {"cpu": "250m"}});
        let pod = spec(serde_json::json!({"containers": [{"name": "a", "resources": res}]}));
        let resources = container_resources(&pod, &pod.containers[0], 1 << 30);
        assert_eq!(resources.cpu_shares, Some(256));
        assert_eq!(resources.cpu_quota_us, Some(50_000));
        assert_eq!(resources.memory_limit_bytes, Some(64 << 20));
        assert_eq!(resources.oom_score_adj, Some(938));
    }
}
