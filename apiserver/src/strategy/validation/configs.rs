//! Config maps and secrets: keys that can be file names, a size that fits, and what may never change again.

use std::collections::BTreeSet;

use api_types::names;
use api_types::status::FieldError;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;

use super::Check;
use super::fields::is_same;
use crate::strategy::rules::{Errors, invalid_all};

/// An object of these kinds may carry this many bytes.
const DATA_BYTES_MAX: usize = 1024 * 1024;

pub(super) fn config_map(check: &Check<'_>, errors: &mut Errors) {
    // The whole object is too long, which Kubernetes writes as a path without a name.
    validate_keys(check.new, &[("data", false), ("binaryData", true)], "[]", errors);
    validate_immutable(check, &["data", "binaryData"], errors);
}

/// Fields with keys, and whether their values are bytes in base64.
fn validate_keys(object: &Value, fields: &[(&str, bool)], whole: &str, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    let mut bytes = 0;
    for (field, is_base64) in fields {
        for (key, value) in object[*field].as_object().into_iter().flatten() {
            invalid_all(names::check_config_key(key), &format!("{field}[{key}]"), key, errors);
            let length = value.as_str().map_or(0, str::len);
            bytes += if *is_base64 { length / 4 * 3 } else { length };
            if !seen.insert(key.as_str()) {
                let why = format!("duplicate of key present in {field}");
                errors.push(FieldError::invalid(format!("{}[{key}]", fields[0].0), key.as_str(), why));
            }
        }
    }
    if bytes > DATA_BYTES_MAX {
        errors.push(FieldError::too_long(whole, DATA_BYTES_MAX));
    }
}

/// An immutable object stays as it is, and stays immutable.
fn validate_immutable(check: &Check<'_>, fields: &[&str], errors: &mut Errors) {
    let Some(old) = check.old.filter(|old| old["immutable"] == true) else { return };
    let why = "field is immutable when `immutable` is set";
    if check.new["immutable"] != true {
        errors.push(FieldError::forbidden("immutable", why));
    }
    for field in fields.iter().filter(|field| !is_same(&check.new[**field], &old[**field])) {
        errors.push(FieldError::forbidden(*field, why));
    }
}

/// Secret types and the keys they must have.
const KEYS: &[(&str, &[&str])] = &[
    ("kubernetes.io/dockerconfigjson", &[".dockerconfigjson"]),
    ("kubernetes.io/dockercfg", &[".dockercfg"]),
    ("kubernetes.io/ssh-auth", &["ssh-privatekey"]),
    ("kubernetes.io/tls", &["tls.crt", "tls.key"]),
];

pub(super) fn secret(check: &Check<'_>, errors: &mut Errors) {
    validate_keys(check.new, &[("data", true)], "data", errors);
    let (kind, data) = (check.new["type"].as_str().unwrap_or_default(), &check.new["data"]);
    let wanted = KEYS.iter().find(|(known, _)| kind == *known).map_or(&[][..], |(_, keys)| keys);
    let is_missing = |key: &str| data[key].is_null() || (key == "ssh-privatekey" && data[key] == "");
    for key in wanted.iter().filter(|key| is_missing(key)) {
        errors.push(FieldError::required(format!("data[{key}]"), ""));
    }
    match kind {
        "kubernetes.io/service-account-token" => {
            let name = "kubernetes.io/service-account.name";
            if check.new["metadata"]["annotations"][name].as_str().is_none_or(str::is_empty) {
                errors.push(FieldError::required(format!("metadata.annotations[{name}]"), ""));
            }
        }
        "kubernetes.io/basic-auth" if data["username"].is_null() && data["password"].is_null() => {
            for key in ["username", "password"] {
                errors.push(FieldError::required(format!("data[{key}]"), ""));
            }
        }
        "kubernetes.io/dockerconfigjson" | "kubernetes.io/dockercfg" => check_json(data, wanted, errors),
        _ => {}
    }
    if check.old.is_some_and(|old| old["type"] != check.new["type"]) {
        errors.push(FieldError::immutable("type", check.new["type"].clone()));
    }
    validate_immutable(check, &["data"], errors);
}

fn check_json(data: &Value, keys: &[&str], errors: &mut Errors) {
    for key in keys {
        let Some(bytes) = data[*key].as_str().and_then(|text| BASE64.decode(text).ok()) else { continue };
        if let Err(why) = serde_json::from_slice::<Option<serde_json::Map<String, Value>>>(&bytes) {
            let shown = "<secret contents redacted>";
            errors.push(FieldError::invalid(format!("data[{key}]"), shown, why.to_string()));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::paths;
    use super::*;

    #[test]
    fn keys_of_config_maps_are_file_names_and_stand_once() {
        for (object, expected) in [
            (json!({"data": {"a.b": ""}}), vec![]),
            (json!({"data": {"bad key": ""}}), vec!["data[bad key]"]),
            (json!({"data": {"a": ""}, "binaryData": {"a": ""}}), vec!["data[a]"]),
            (json!({"data": {"a": "x".repeat(DATA_BYTES_MAX + 1)}}), vec!["[]"]),
        ] {
            assert_eq!(paths("", "configmaps", "", &object, None), expected);
        }
    }

    #[test]
    fn immutable_objects_stay() {
        let old = json!({"immutable": true, "data": {"a": "1"}});
        let new = json!({"data": {"a": "2"}});
        assert_eq!(paths("", "configmaps", "", &new, Some(&old)), ["immutable", "data"]);
        assert!(paths("", "configmaps", "", &old, Some(&old)).is_empty());
    }

    #[test]
    fn a_secrets_type_says_what_it_holds() {
        let of =
            |kind: &str, data: Value| paths("", "secrets", "", &json!({"type": kind, "data": data}), None);
        assert!(of("Opaque", json!({})).is_empty());
        assert_eq!(of("kubernetes.io/tls", json!({})), ["data[tls.crt]", "data[tls.key]"]);
        assert_eq!(of("kubernetes.io/basic-auth", json!({})), ["data[username]", "data[password]"]);
        assert_eq!(of("kubernetes.io/dockercfg", json!({".dockercfg": "eA=="})), ["data[.dockercfg]"]);
        assert_eq!(of("kubernetes.io/service-account-token", json!({})).len(), 1);
        let old = json!({"type": "Opaque"});
        assert_eq!(paths("", "secrets", "", &json!({"type": "b"}), Some(&old)), ["type"]);
    }
}
