//! The families of a service's cluster addresses, and what it asks of a cluster with addresses of one family.

use api_types::status::FieldError;
use serde_json::{Value, json};

use crate::strategy::rules::{Errors, items};
use crate::strategy::validation::validate_addresses;

/// Writes into the spec what it left open. `family` is that of the cluster's addresses. What is found wrong here ends
/// the write before anything else of it is looked at.
pub(super) fn settle(spec: &mut Value, old: Option<&Value>, family: &str) -> Errors {
    let mut errors = Errors::new();
    if spec["type"] == "ExternalName" {
        return errors;
    }
    let is_free = spec["clusterIP"] == "None" && spec["selector"].as_object().is_none_or(|s| s.is_empty());
    set_policy(spec, old, is_free);
    validate_addresses(spec, &mut errors);
    if !errors.is_empty() {
        return errors;
    }
    if let Some(old) = old {
        check_reduced(spec, old, &mut errors);
    }
    check_single(spec, &mut errors);
    infer(spec, family, &mut errors);
    if !errors.is_empty() {
        return errors;
    }
    match is_free {
        // Its endpoints are somebody else's, who may have addresses that this cluster has not.
        true => complete(spec, family),
        false => require_family(spec, family, &mut errors),
    }
    errors
}

fn set_policy(spec: &mut Value, old: Option<&Value>, is_free: bool) {
    if spec["ipFamilyPolicy"].is_null() {
        let before = old.map(|old| &old["ipFamilyPolicy"]).filter(|policy| !policy.is_null());
        let usual = if is_free { "RequireDualStack" } else { "SingleStack" };
        spec["ipFamilyPolicy"] = before.cloned().unwrap_or_else(|| usual.into());
    }
}

fn families(spec: &Value) -> Vec<&str> {
    items(&spec["ipFamilies"]).iter().filter_map(Value::as_str).collect()
}

/// Who wants one family where there were two has to say so by the policy.
fn check_reduced(spec: &mut Value, old: &Value, errors: &mut Errors) {
    let had_two = families(old).len() == 2;
    if spec["ipFamilyPolicy"] == "SingleStack" {
        let is_repeated = spec["ipFamilies"] == old["ipFamilies"];
        let listed = spec.get_mut("ipFamilies").and_then(Value::as_array_mut);
        listed.filter(|_| is_repeated).into_iter().for_each(|list| list.truncate(1));
    } else if had_two && families(spec).len() == 1 {
        refuse_policy(spec, "must be 'SingleStack' to release the secondary IP family", errors);
    }
}

fn refuse_policy(spec: &Value, why: &str, errors: &mut Errors) {
    errors.push(FieldError::invalid("spec.ipFamilyPolicy", spec["ipFamilyPolicy"].clone(), why));
}

fn check_single(spec: &Value, errors: &mut Errors) {
    if spec["ipFamilyPolicy"] != "SingleStack" {
        return;
    }
    for (field, what) in [("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families")] {
        if items(&spec[field]).len() == 2 {
            let why =
                format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified");
            refuse_policy(spec, &why, errors);
        }
    }
}

/// Addresses that were given say their families.
fn infer(spec: &mut Value, family: &str, errors: &mut Errors) {
    let mut known = items(&spec["ipFamilies"]).to_vec();
    let addresses = items(&spec["clusterIPs"]).to_vec();
    for (index, address) in addresses.iter().filter_map(Value::as_str).enumerate() {
        if address == "None" {
            break;
        }
        let of = if address.contains(':') { "IPv6" } else { "IPv4" };
        match index < known.len() {
            true => {}
            false if of == family => known.push(of.into()),
            false => {
                let why = format!("{of} is not configured on this cluster");
                let path = format!("spec.clusterIPs[{index}]");
                errors.push(FieldError::invalid(path, spec["clusterIPs"].clone(), why));
            }
        }
    }
    if !known.is_empty() {
        spec["ipFamilies"] = known.into();
    }
}

fn complete(spec: &mut Value, family: &str) {
    let mut known = items(&spec["ipFamilies"]).to_vec();
    if known.is_empty() {
        known.push(family.into());
    }
    if known.len() < 2 && spec["ipFamilyPolicy"] != "SingleStack" {
        known.push(if known[0] == "IPv4" { "IPv6" } else { "IPv4" }.into());
    }
    spec["ipFamilies"] = known.into();
}

fn require_family(spec: &mut Value, family: &str, errors: &mut Errors) {
    if spec["ipFamilyPolicy"] == "RequireDualStack" {
        refuse_policy(spec, "this cluster is not configured for dual-stack services", errors);
    }
    for (index, wanted) in families(spec).into_iter().enumerate().filter(|(_, wanted)| *wanted != family) {
        let path = format!("spec.ipFamilies[{index}]");
        errors.push(FieldError::invalid(path, wanted, "not configured on this cluster"));
    }
    if errors.is_empty() && families(spec).is_empty() {
        spec["ipFamilies"] = json!([family]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(spec: Value, old: Option<Value>, expected: Result<Value, &[&str]>) {
        let mut settled = spec.clone();
        settled["type"] = "ClusterIP".into();
        let errors = settle(&mut settled, old.as_ref(), "IPv4");
        let paths: Vec<&str> = errors.iter().map(|e| e.path.as_str()).collect();
        match expected {
            Ok(families) => {
                let found = json!([settled["ipFamilyPolicy"], settled["ipFamilies"]]);
                assert_eq!((found, paths), (families, vec![]), "{spec}");
            }
            Err(expected) => assert_eq!(paths, expected, "{spec}"),
        }
    }

    #[test]
    fn a_cluster_of_one_family_gives_and_refuses() {
        let (one, two) = (json!(["IPv4"]), json!(["IPv4", "IPv6"]));
        check(json!({}), None, Ok(json!(["SingleStack", one])));
        check(json!({"ipFamilyPolicy": "PreferDualStack"}), None, Ok(json!(["PreferDualStack", one])));
        check(json!({"ipFamilyPolicy": "RequireDualStack"}), None, Err(&["spec.ipFamilyPolicy"]));
        check(json!({"ipFamilies": ["IPv6"]}), None, Err(&["spec.ipFamilies[0]"]));
        check(json!({"ipFamilies": two}), None, Err(&["spec.ipFamilyPolicy"]));
        check(
            json!({"ipFamilies": two, "ipFamilyPolicy": "PreferDualStack"}),
            None,
            Err(&["spec.ipFamilies[1]"]),
        );
        let six = json!({"clusterIP": "fd00::1", "clusterIPs": ["fd00::1"]});
        check(six, None, Err(&["spec.clusterIPs[0]"]));
        check(json!({"clusterIPs": ["10.0.0.1"]}), None, Err(&["spec.clusterIPs"]));
    }

    #[test]
    fn a_headless_service_without_a_selector_may_have_both_families() {
        let headless = |more: Value| {
            let mut spec = json!({"clusterIP": "None", "clusterIPs": ["None"]});
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            spec
        };
        let two = json!(["IPv4", "IPv6"]);
        check(headless(json!({})), None, Ok(json!(["RequireDualStack", two])));
        let prefers = json!({"ipFamilyPolicy": "PreferDualStack"});
        check(headless(prefers), None, Ok(json!(["PreferDualStack", two])));
        let single = json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv6"]});
        check(headless(single), None, Ok(json!(["SingleStack", ["IPv6"]])));
        let was = json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": two});
        check(headless(json!({"ipFamilies": ["IPv4"]})), Some(was.clone()), Err(&["spec.ipFamilyPolicy"]));
        let reduced = json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": two});
        check(headless(reduced), Some(was), Ok(json!(["SingleStack", ["IPv4"]])));
        let selects = json!({"selector": {"a": "b"}});
        check(headless(selects), None, Ok(json!(["SingleStack", ["IPv4"]])));
    }
}
