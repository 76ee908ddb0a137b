//! Amounts of resources: which names resources may have where, and which amounts are whole.

use api_types::names;
use api_types::quantity::Quantity;
use api_types::quota::SHORT_NAMES;
use api_types::status::FieldError;
use serde_json::Value;

use crate::strategy::rules::{Errors, invalid_all};

pub(super) fn quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => Quantity::parse(text).ok(),
        Value::Number(number) => Quantity::parse(&number.to_string()).ok(),
        _ => None,
    }
}

/// The amount as it is printed in messages.
pub(super) fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Counts, which have no fractions.
fn is_whole(name: &str) -> bool {
    SHORT_NAMES.contains(&name) || matches!(name, "services.loadbalancers" | "services.nodeports")
}

const QUOTAS: &[&str] = &[
    "cpu",
    "ephemeral-storage",
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
    "requests.storage",
];

const NOT_STANDARD: &str = "must be a standard resource type or fully qualified";

pub(super) fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

fn is_quota_huge_page(name: &str) -> bool {
    is_huge_page(name.strip_prefix("requests.").unwrap_or(name))
}

/// Whether quotas know this name without a domain.
pub(super) fn is_quota(name: &str) -> bool {
    QUOTAS.contains(&name) || is_whole(name) || is_quota_huge_page(name)
}

fn is_standard(name: &str) -> bool {
    is_quota(name) || name == "storage"
}

/// Named by a domain that is not Kubernetes' own.
pub(super) fn is_extended(name: &str) -> bool {
    let native = !name.contains('/') || name.contains("kubernetes.io/");
    !native && !name.starts_with("requests.")
}

/// Whether more of it may be promised than there is.
pub(super) fn is_overcommittable(name: &str) -> bool {
    (!name.contains('/') || name.contains("kubernetes.io/")) && !is_huge_page(name)
}

/// A resource's name anywhere.
pub(super) fn check_name(name: &str, path: &str, errors: &mut Errors) {
    let before = errors.len();
    invalid_all(names::check_label_key(name), path, name, errors);
    if errors.len() == before && !name.contains('/') && !is_standard(name) {
        errors.push(FieldError::invalid(path, name, NOT_STANDARD));
    }
}

/// A resource's name in a container.
pub(super) fn check_container_name(name: &str, path: &str, errors: &mut Errors) {
    check_name(name, path, errors);
    let is_container = matches!(name, "cpu" | "memory" | "ephemeral-storage") || is_huge_page(name);
    if !name.contains('/') && !is_container {
        errors.push(FieldError::invalid(path, name, "must be a standard resource for containers"));
    } else if name.contains('/') && !name.contains("kubernetes.io/") && name.starts_with("requests.") {
        errors.push(FieldError::invalid(path, name, "doesn't follow extended resource name standard"));
    }
}

/// A resource's name in a quota.
pub(super) fn check_quota_name(name: &str, path: &str, errors: &mut Errors) {
    check_name(name, path, errors);
    if !name.contains('/') && !is_quota(name) {
        errors.push(FieldError::invalid(path, name, "must be a standard resource for quota"));
    }
}

/// Not negative, and whole where parts make no sense.
pub(super) fn check_amount(name: &str, value: &Value, path: &str, errors: &mut Errors) {
    let Some(amount) = quantity(value) else { return };
    if amount.is_negative() {
        errors.push(FieldError::invalid(path, shown(value), "must be greater than or equal to 0"));
    }
    if (is_whole(name) || is_extended(name)) && amount.milli() % 1000 != 0 {
        errors.push(FieldError::invalid(path, shown(value), "must be an integer"));
    }
}

/// Whole pages, where a resource is pages of a size.
pub(super) fn check_pages(name: &str, value: &Value, path: &str, errors: &mut Errors) {
    let Some(size) = name.strip_prefix("hugepages-") else { return };
    let Some(amount) = quantity(value) else { return };
    let page = Quantity::parse(size).map_or(0, |page| page.milli());
    if page <= 0 || page % 1000 != 0 || amount.milli() % page != 0 {
        let why = format!("{} is not positive integer multiple of {name}", shown(value));
        errors.push(FieldError::invalid(path, shown(value), why));
    }
}

/// A resource's name for a pod as a whole.
pub(super) fn check_pod_name(name: &str, path: &str, errors: &mut Errors) {
    let before = errors.len();
    check_name(name, path, errors);
    if errors.len() == before && !matches!(name, "cpu" | "memory") && !is_huge_page(name) {
        errors.push(FieldError::not_supported(path, name, &["cpu", "hugepages-", "memory"]));
    }
}

/// Each entry of a map of amounts with its path.
pub(super) fn amounts<'a>(list: &'a Value, path: &str) -> impl Iterator<Item = (String, &'a str, &'a Value)> {
    let path = path.to_owned();
    list.as_object()
        .into_iter()
        .flatten()
        .map(move |(name, value)| (format!("{path}[{name}]"), name.as_str(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(check: impl Fn(&mut Errors)) -> usize {
        let mut errors = Errors::new();
        check(&mut errors);
        errors.len()
    }

    #[test]
    fn names_without_a_domain_are_known_ones() {
        assert_eq!(count(|e| check_container_name("cpu", "p", e)), 0);
        assert_eq!(count(|e| check_container_name("example.com/gpu", "p", e)), 0);
        assert_eq!(count(|e| check_container_name("bananas", "p", e)), 2);
        assert_eq!(count(|e| check_container_name("pods", "p", e)), 1);
        assert_eq!(count(|e| check_quota_name("bananas", "p", e)), 2);
        assert_eq!(count(|e| check_quota_name("count/widgets.example.com", "p", e)), 0);
        assert_eq!(count(|e| check_quota_name("requests.hugepages-2Mi", "p", e)), 0);
    }

    #[test]
    fn things_come_in_whole_numbers() {
        assert_eq!(count(|e| check_amount("pods", &"1.5".into(), "p", e)), 1);
        assert_eq!(count(|e| check_amount("cpu", &"1.5".into(), "p", e)), 0);
        assert_eq!(count(|e| check_amount("example.com/gpu", &"500m".into(), "p", e)), 1);
        assert_eq!(count(|e| check_amount("cpu", &"-1".into(), "p", e)), 1);
    }
}
