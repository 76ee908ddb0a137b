//! Kinds with a rule or two: config maps, secrets, slices of endpoints, budgets, priority classes, events.

use std::collections::BTreeSet;
use std::net::IpAddr;

use api_types::names;
use api_types::status::FieldError;
use serde_json::Value;

use super::metadata::NameRule;
use super::rules::{Errors, immutable, indexed, invalid_all, items, one_of, required, text};
use super::{Context, Strategy};

pub(super) struct ConfigMaps;
pub(super) struct Secrets;
pub(super) struct EndpointSlices;
pub(super) struct Endpoints;
pub(super) struct DisruptionBudgets;
pub(super) struct PriorityClasses;
pub(super) struct Events;
pub(super) struct ServiceAccounts;

/// An object of this kind may carry this many bytes.
const DATA_BYTES_MAX: usize = 1024 * 1024;

fn validate_keys(object: &Value, fields: &[&str], errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    let mut bytes = 0;
    for field in fields {
        for (key, value) in object[*field].as_object().into_iter().flatten() {
            let path = format!("{field}[{key}]");
            invalid_all(names::check_config_key(key), &path, key, errors);
            bytes += value.as_str().map_or(0, str::len);
            if !seen.insert(key.as_str()) {
                let why = format!("duplicate of key present in {}", fields[0]);
                errors.push(FieldError::invalid(format!("{}[{key}]", fields[0]), key.as_str(), why));
            }
        }
    }
    if bytes > DATA_BYTES_MAX {
        errors.push(FieldError::too_long("", DATA_BYTES_MAX));
    }
}

/// An immutable object stays as it is, and stays immutable.
fn validate_immutable(new: &Value, old: &Value, fields: &[&str], errors: &mut Errors) {
    if old["immutable"] != true {
        return;
    }
    let why = "field is immutable when `immutable` is set";
    if new["immutable"] != true {
        errors.push(FieldError::forbidden("immutable", why));
    }
    for field in fields.iter().filter(|field| new[**field] != old[**field]) {
        errors.push(FieldError::forbidden(*field, why));
    }
}

impl Strategy for ConfigMaps {
    fn validate_create(&self, _context: &Context<'_>, new: &Value) -> Vec<FieldError> {
        let mut errors = Errors::new();
        validate_keys(new, &["data", "binaryData"], &mut errors);
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate_create(context, new);
        validate_immutable(new, old, &["data", "binaryData"], &mut errors);
        errors
    }
}

/// Secret types and the keys they must have.
const SECRET_KEYS: &[(&str, &[&str])] = &[
    ("kubernetes.io/dockerconfigjson", &[".dockerconfigjson"]),
    ("kubernetes.io/dockercfg", &[".dockercfg"]),
    ("kubernetes.io/ssh-auth", &["ssh-privatekey"]),
    ("kubernetes.io/tls", &["tls.crt", "tls.key"]),
];

impl Strategy for Secrets {
    fn prepare_for_create(&self, context: &Context<'_>, new: &mut Value) {
        super::isolate::for_create(context.kind, new);
        fold_string_data(new);
    }

    fn prepare_for_update(&self, context: &Context<'_>, new: &mut Value, old: &Value) {
        fold_string_data(new);
        super::isolate::for_update(context.kind, context.subresource, new, old);
    }

    fn validate_create(&self, _context: &Context<'_>, new: &Value) -> Vec<FieldError> {
        let mut errors = Errors::new();
        validate_keys(new, &["data"], &mut errors);
        let wanted =
            SECRET_KEYS.iter().find(|(kind, _)| new["type"] == *kind).map_or(&[][..], |(_, keys)| keys);
        for key in wanted.iter().filter(|key| new["data"][**key].is_null()) {
            errors.push(FieldError::required(format!("data[{key}]"), ""));
        }
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate_create(context, new);
        immutable(new, old, "type", &mut errors);
        validate_immutable(new, old, &["data"], &mut errors);
        errors
    }
}

/// `stringData` is for writing only: it becomes `data`.
fn fold_string_data(secret: &mut Value) {
    use base64::Engine;
    let Some(texts) = secret.as_object_mut().and_then(|s| s.shift_remove("stringData")) else { return };
    for (key, value) in texts.as_object().into_iter().flatten() {
        if !secret["data"].is_object() {
            secret["data"] = serde_json::json!({});
        }
        let encoded = base64::engine::general_purpose::STANDARD.encode(value.as_str().unwrap_or_default());
        secret["data"][key] = encoded.into();
    }
}

impl Strategy for EndpointSlices {
    fn validate_create(&self, _context: &Context<'_>, new: &Value) -> Vec<FieldError> {
        let mut errors = Errors::new();
        required(new, "", "addressType", &mut errors);
        if text(new, "addressType").is_some() {
            one_of(new, "", "addressType", &["FQDN", "IPv4", "IPv6"], &mut errors);
        }
        for (path, endpoint) in indexed(new, "", "endpoints") {
            validate_addresses(new, endpoint, &path, &mut errors);
            if let Some(node) = text(endpoint, "nodeName") {
                invalid_all(names::check_dns_subdomain(node), &format!("{path}.nodeName"), node, &mut errors);
            }
        }
        let mut seen = BTreeSet::new();
        for (path, port) in indexed(new, "", "ports") {
            let name = port["name"].as_str().unwrap_or_default();
            if !seen.insert(name) {
                errors.push(FieldError::duplicate(format!("{path}.name"), name));
            }
            one_of(port, &path, "protocol", &["SCTP", "TCP", "UDP"], &mut errors);
        }
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate_create(context, new);
        immutable(new, old, "addressType", &mut errors);
        errors
    }
}

const ADDRESSES_MAX: usize = 100;

fn validate_addresses(slice: &Value, endpoint: &Value, path: &str, errors: &mut Errors) {
    let path = format!("{path}.addresses");
    let known = matches!(slice["addressType"].as_str(), Some("IPv4" | "IPv6"));
    let addresses = items(&endpoint["addresses"]);
    if addresses.is_empty() {
        errors.push(FieldError::required(&path, "must contain at least 1 address"));
    }
    if addresses.len() > ADDRESSES_MAX {
        errors.push(FieldError::invalid(
            &path,
            addresses.len(),
            format!("must have at most {ADDRESSES_MAX} addresses"),
        ));
        return;
    }
    let wants_v4 = slice["addressType"] == "IPv4";
    if !known {
        return;
    }
    for (index, address) in addresses.iter().filter_map(Value::as_str).enumerate() {
        let path = format!("{path}[{index}]");
        match address.parse::<IpAddr>() {
            Ok(ip) if ip.is_ipv4() != wants_v4 => {
                let why =
                    if wants_v4 { "must be a valid IPv4 address" } else { "must be a valid IPv6 address" };
                errors.push(FieldError::invalid(path, address, why));
            }
            Ok(ip) if ip.is_loopback() || ip.is_unspecified() => {
                errors.push(FieldError::invalid(
                    path,
                    address,
                    "may not be in the loopback range (127.0.0.0/8, ::1/128)",
                ));
            }
            Ok(_) => {}
            Err(_) => errors.push(FieldError::invalid(
                path,
                address,
                "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            )),
        }
    }
}

impl Strategy for Endpoints {
    fn allows_create_on_update(&self) -> bool {
        true
    }
}

impl Strategy for DisruptionBudgets {
    fn allows_unconditional_update(&self) -> bool {
        false
    }
}

/// Values above this are the cluster's own.
const USER_PRIORITY_MAX: i64 = 1_000_000_000;

impl Strategy for PriorityClasses {
    fn validate_create(&self, _context: &Context<'_>, new: &Value) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let name = new["metadata"]["name"].as_str().unwrap_or_default();
        let value = new["value"].as_i64().unwrap_or(0);
        let known = [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];
        if name.starts_with("system-") {
            if !known.contains(&(name, value)) {
                let why = "priority class names with 'system-' prefix are reserved for system use only";
                errors.push(FieldError::forbidden(
                    "metadata.name",
                    format!("{why}. error: {name} is not a known system priority class"),
                ));
            }
        } else if value > USER_PRIORITY_MAX {
            let why = format!("maximum allowed value of a user defined priority is {USER_PRIORITY_MAX}");
            errors.push(FieldError::forbidden("value", why));
        }
        one_of(new, "", "preemptionPolicy", &["Never", "PreemptLowerPriority"], &mut errors);
        errors
    }

    fn validate_update(&self, _context: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Errors::new();
        if new["value"] != old["value"] {
            errors.push(FieldError::forbidden("value", "may not be changed in an update."));
        }
        immutable(new, old, "preemptionPolicy", &mut errors);
        errors
    }
}

impl Strategy for Events {
    fn validate_create(&self, context: &Context<'_>, new: &Value) -> Vec<FieldError> {
        let mut errors = Errors::new();
        if context.kind.group == "events.k8s.io" {
            validate_reported(new, &mut errors);
        }
        let involved =
            if new["involvedObject"].is_object() { &new["involvedObject"] } else { &new["regarding"] };
        let (of, own) = (
            involved["namespace"].as_str().unwrap_or_default(),
            new["metadata"]["namespace"].as_str().unwrap_or_default(),
        );
        let fits = match of {
            "" => matches!(own, "default" | "kube-system"),
            of => of == own,
        };
        if !fits {
            errors.push(FieldError::invalid(
                "involvedObject.namespace",
                of,
                "does not match event.namespace",
            ));
        }
        errors
    }

    fn validate_update(&self, _context: &Context<'_>, _new: &Value, _old: &Value) -> Vec<FieldError> {
        // Series are counted by updates of events that were written under older rules.
        Vec::new()
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }
}

/// Rules of the newer group of events.
fn validate_reported(event: &Value, errors: &mut Errors) {
    for field in ["eventTime", "reason", "action", "reportingInstance"] {
        required(event, "", field, errors);
    }
    match text(event, "reportingController") {
        None => errors.push(FieldError::required("reportingController", "")),
        Some(name) => invalid_all(names::check_label_key(name), "reportingController", name, errors),
    }
    let kind = event["type"].as_str().unwrap_or_default();
    if !matches!(kind, "Normal" | "Warning") {
        errors.push(FieldError::invalid("type", kind, format!("has invalid value: {kind}")));
    }
    const NOTE_BYTES_MAX: usize = 1024;
    if let Some(note) = text(event, "note").filter(|note| note.len() > NOTE_BYTES_MAX) {
        errors.push(FieldError::invalid("message", note, format!("can have at most {NOTE_BYTES_MAX} bytes")));
    }
    if let Some(count) = event["deprecatedCount"].as_i64().filter(|count| *count != 0) {
        errors.push(FieldError::invalid("count", count, "needs to be unset"));
    }
}

impl Strategy for ServiceAccounts {
    fn name_rule(&self) -> NameRule {
        NameRule::Subdomain
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_of_config_maps_are_file_names() {
        for (object, expected) in [
            (json!({"data": {"a.b": ""}}), vec![]),
            (json!({"data": {"bad key": ""}}), vec!["data[bad key]"]),
            (json!({"data": {"a": ""}, "binaryData": {"a": ""}}), vec!["data[a]"]),
        ] {
            let mut errors = Errors::new();
            validate_keys(&object, &["data", "binaryData"], &mut errors);
            assert_eq!(errors.iter().map(|e| e.path.as_str()).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn string_data_becomes_data() {
        let mut secret = json!({"data": {"a": "eA=="}, "stringData": {"b": "x"}});
        fold_string_data(&mut secret);
        assert_eq!(secret, json!({"data": {"a": "eA==", "b": "eA=="}}));
    }

    #[test]
    fn immutable_objects_stay() {
        let old = json!({"immutable": true, "data": {"a": "1"}});
        let mut errors = Errors::new();
        validate_immutable(&json!({"data": {"a": "2"}}), &old, &["data"], &mut errors);
        assert_eq!(errors.iter().map(|e| e.path.as_str()).collect::<Vec<_>>(), ["immutable", "data"]);
    }
}
