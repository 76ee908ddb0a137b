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
        let mut amounts = Self::default();
        for (name, quantity) in list.into_iter().flatten() {
            match name.as_str() {
                "cpu" => amounts.milli_cpu = scaled(&quantity.0, 3).unwrap_or(0),
                "memory" => amounts.memory = scaled(&quantity.0, 0).unwrap_or(0),
                "ephemeral-storage" => amounts.ephemeral_storage = scaled(&quantity.0, 0).unwrap_or(0),
                "pods" => amounts.pods = scaled(&quantity.0, 0).unwrap_or(0),
                other => amounts.scalar.push((other.into(), scaled(&quantity.0, 0).unwrap_or(0))),
            }
        }
        amounts
    }

    /// The amount of the extended resource `name`.
    pub(crate) fn scalar(&self, name: &str) -> i64 {
        self.scalar.iter().find(|(known, _)| &**known == name).map_or(0, |(_, amount)| *amount)
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.combine(other, |mine, theirs| mine + theirs);
    }

    pub(crate) fn subtract(&mut self, other: &Self) {
        self.combine(other, |mine, theirs| mine - theirs);
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

/// The quantity times ten to the power of `decimals`, rounded up; beyond `i64` it is `i64`'s limit.
fn scaled(text: &str, decimals: u32) -> Option<i64> {
    let text = text.trim();
    let (negative, text) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{fraction}");
    let mantissa: i128 = digits.parse().ok()?;
    let (binary, decimal) = exponent_of(suffix)?;
    let power = decimal + i32::try_from(decimals).ok()? - i32::try_from(fraction.len()).ok()?;
    let raised = mantissa.checked_mul(1_i128.checked_shl(binary)?);
    let value = match (raised, u32::try_from(power)) {
        (None, _) => i128::MAX,
        (Some(raised), Ok(up)) => {
            10_i128.checked_pow(up).and_then(|ten| raised.checked_mul(ten)).unwrap_or(i128::MAX)
        }
        (Some(raised), Err(_)) => divide_up(raised, power.unsigned_abs()),
    };
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    Some(if negative { -value } else { value })
}

fn divide_up(value: i128, tens: u32) -> i128 {
    let Some(divisor) = 10_i128.checked_pow(tens) else { return i128::from(value != 0) };
    (value / divisor) + i128::from(value % divisor != 0)
}

/// The powers of two and of ten that a suffix stands for.
fn exponent_of(suffix: &str) -> Option<(u32, i32)> {
    Some(match suffix {
        "" => (0, 0),
        "n" => (0, -9),
        "u" => (0, -6),
        "m" => (0, -3),
        "k" => (0, 3),
        "M" => (0, 6),
        "G" => (0, 9),
        "T" => (0, 12),
        "P" => (0, 15),
        "E" => (0, 18),
        "Ki" => (10, 0),
        "Mi" => (20, 0),
        "Gi" => (30, 0),
        "Ti" => (40, 0),
        "Pi" => (50, 0),
        "Ei" => (60, 0),
        other => (0, other.strip_prefix(['e', 'E'])?.parse().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    #[test]
    fn quantities_become_integers_rounded_up() {
        let cases = [
            ("1", 3, 1000),
            ("100m", 3, 100),
            ("1.5", 3, 1500),
            ("0.0001", 3, 1),
            ("1Gi", 0, 1 << 30),
            ("1.5Ki", 0, 1536),
            ("2k", 0, 2000),
            ("1e3", 0, 1000),
            ("100m", 0, 1),
            ("-5", 0, -5),
            ("99999999E", 0, i64::MAX),
        ];
        for (text, decimals, wanted) in cases {
            assert_eq!(scaled(text, decimals), Some(wanted), "{text}");
        }
        assert_eq!(scaled("many", 0), None);
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
