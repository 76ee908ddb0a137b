//! Requests for certificates: who asked is what the server saw, the request never changes, and approvals and
//! certificates are written through doors of their own.

use api_types::names;
use api_types::status::FieldError;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::SecondsFormat;
use serde_json::{Value, json};

use super::metadata::NameRule;
use super::rules::{Errors, indexed, items};
use super::{Context, Strategy, isolate};
use crate::authz::review::user_value;

pub(super) struct SigningRequests;

const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
const EXPIRATION_SECONDS_MIN: i64 = 600;

impl Strategy for SigningRequests {
    fn prepare_for_create(&self, context: &Context<'_>, new: &mut Value) {
        isolate::for_create(context.kind, new);
        let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) else { return };
        for field in ["username", "uid", "groups", "extra"] {
            spec.shift_remove(field);
        }
        if let Value::Object(user) = user_value(context.user) {
            spec.extend(user);
        }
        new["status"] = json!({});
    }

    fn prepare_for_update(&self, context: &Context<'_>, new: &mut Value, old: &Value) {
        isolate::for_update(context.kind, context.subresource, new, old);
        new["spec"] = old["spec"].clone();
        if context.subresource.is_empty() {
            return;
        }
        if context.subresource == "status" {
            ["Approved", "Denied"].iter().for_each(|kind| keep_conditions(new, old, kind));
        }
        stamp_conditions(context, new, old);
    }

    fn validate_create(&self, _context: &Context<'_>, new: &Value) -> Vec<FieldError> {
        let mut errors = Errors::new();
        validate_spec(&new["spec"], &mut errors);
        validate_conditions(new, &mut errors);
        if let Err(why) = check_certificates(&new["status"]["certificate"]) {
            errors.push(FieldError::invalid("status.certificate", "<certificate data>", why));
        }
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate_create(context, new);
        validate_doors(context.subresource, new, old, &mut errors);
        errors
    }

    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }
}

fn conditions(object: &Value) -> &[Value] {
    items(&object["status"]["conditions"])
}

fn of_type<'a>(object: &'a Value, kind: &str) -> Vec<&'a Value> {
    conditions(object).iter().filter(|c| c["type"] == kind).collect()
}

/// Puts the old conditions of this type in the place of the new ones, if there are as many.
fn keep_conditions(new: &mut Value, old: &Value, kind: &str) {
    let kept: Vec<Value> = of_type(old, kind).into_iter().cloned().collect();
    let Some(list) = new.pointer_mut("/status/conditions").and_then(Value::as_array_mut) else { return };
    let mut places: Vec<&mut Value> = list.iter_mut().filter(|c| c["type"] == kind).collect();
    if places.len() == kept.len() {
        places.iter_mut().zip(kept).for_each(|(place, kept)| **place = kept);
    }
}

fn stamp_conditions(context: &Context<'_>, new: &mut Value, old: &Value) {
    let now = json!(context.now.to_rfc3339_opts(SecondsFormat::Secs, true));
    let Some(list) = new.pointer_mut("/status/conditions").and_then(Value::as_array_mut) else { return };
    for condition in list.iter_mut().filter(|c| c.is_object()) {
        if condition["lastUpdateTime"].is_null() {
            condition["lastUpdateTime"] = now.clone();
        }
        if condition["lastTransitionTime"].is_null() {
            let before = conditions(old).iter().find(|c| {
                c["type"] == condition["type"]
                    && c["status"] == condition["status"]
                    && !c["lastTransitionTime"].is_null()
            });
            condition["lastTransitionTime"] = before.map_or(now.clone(), |c| c["lastTransitionTime"].clone());
        }
    }
}

fn validate_spec(spec: &Value, errors: &mut Errors) {
    let request = spec["request"].as_str().unwrap_or_default();
    if let Err(why) = check_request(request) {
        errors.push(FieldError::invalid("spec.request", request, why));
    }
    if items(&spec["usages"]).is_empty() {
        errors.push(FieldError::required("spec.usages", ""));
    }
    let mut seen = std::collections::BTreeSet::new();
    for (path, usage) in indexed(spec, "spec", "usages") {
        let usage = usage.as_str().unwrap_or_default();
        if !USAGES.contains(&usage) {
            errors.push(FieldError::not_supported(&path, usage, USAGES));
        }
        if !seen.insert(usage) {
            errors.push(FieldError::duplicate(path, usage));
        }
    }
    validate_signer(spec["signerName"].as_str().unwrap_or_default(), errors);
    if let Some(seconds) = spec["expirationSeconds"].as_i64().filter(|s| *s < EXPIRATION_SECONDS_MIN) {
        let why = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.push(FieldError::invalid("spec.expirationSeconds", seconds, why));
    }
}

fn check_request(request: &str) -> Result<(), String> {
    let wrong = || "PEM block type must be CERTIFICATE REQUEST".to_owned();
    let pem = BASE64.decode(request).map_err(|_| wrong())?;
    let (_, block) = x509_parser::pem::parse_x509_pem(&pem).map_err(|_| wrong())?;
    if block.label != "CERTIFICATE REQUEST" {
        return Err(wrong());
    }
    use x509_parser::prelude::FromDer;
    match x509_parser::certification_request::X509CertificationRequest::from_der(&block.contents) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// `domain/path`, both of DNS labels.
fn validate_signer(name: &str, errors: &mut Errors) {
    const PATH: &str = "spec.signerName";
    if name.is_empty() {
        return errors.push(FieldError::required(PATH, ""));
    }
    if name == "kubernetes.io/legacy-unknown" {
        let why = "the legacy signerName is not allowed via this API version";
        return errors.push(FieldError::invalid(PATH, name, why));
    }
    let [domain, path] = name.split('/').collect::<Vec<_>>()[..] else {
        let why = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        return errors.push(FieldError::invalid(PATH, name, why));
    };
    for label in domain.split('.') {
        for wrong in names::check_dns_label(label) {
            errors.push(FieldError::invalid(PATH, domain, format!("validating label {label:?}: {wrong}")));
        }
    }
    if !domain.contains('.') {
        let why = "should be a domain with at least two segments separated by dots";
        errors.push(FieldError::invalid(PATH, domain, why));
    }
    for label in path.split('.') {
        for wrong in names::check_dns_subdomain(label) {
            errors.push(FieldError::invalid(PATH, path, format!("validating label {label:?}: {wrong}")));
        }
    }
}

fn validate_conditions(object: &Value, errors: &mut Errors) {
    let mut seen = std::collections::BTreeSet::new();
    for (path, condition) in indexed(&object["status"], "status", "conditions") {
        let text = |field: &str| condition[field].as_str().unwrap_or_default();
        let (kind, status) = (text("type"), text("status"));
        if kind.is_empty() {
            errors.push(FieldError::required(format!("{path}.type"), ""));
        }
        let supported: &[&str] = match kind {
            "Approved" | "Denied" | "Failed" => &["True"],
            _ => &["True", "False", "Unknown"],
        };
        if status.is_empty() {
            errors.push(FieldError::required(format!("{path}.status"), ""));
        } else if !supported.contains(&status) {
            errors.push(FieldError::not_supported(format!("{path}.status"), status, supported));
        }
        if !seen.insert(kind) {
            errors.push(FieldError::duplicate(format!("{path}.type"), kind));
        }
    }
    if seen.contains("Approved") && seen.contains("Denied") {
        let why = "Approved and Denied conditions are mutually exclusive";
        errors.push(FieldError::invalid("status.conditions", Value::Null, why));
    }
}

/// PEM, one certificate a block.
fn check_certificates(certificate: &Value) -> Result<(), String> {
    let Some(text) = certificate.as_str().filter(|t| !t.is_empty()) else { return Ok(()) };
    let none = || "must contain at least one CERTIFICATE PEM block".to_owned();
    let pem = BASE64.decode(text).map_err(|_| none())?;
    let mut blocks = 0;
    for block in x509_parser::pem::Pem::iter_from_buffer(&pem) {
        let Ok(block) = block else { break };
        if block.label != "CERTIFICATE" {
            return Err(format!("only CERTIFICATE PEM blocks are allowed, found {:?}", block.label));
        }
        block.parse_x509().map_err(|e| e.to_string())?;
        blocks += 1;
    }
    if blocks == 0 { Err(none()) } else { Ok(()) }
}

/// Approvals are written through `approval`, certificates through `status`, and neither is taken back.
fn validate_doors(subresource: &str, new: &Value, old: &Value, errors: &mut Errors) {
    const PATH: &str = "status.conditions";
    for kind in ["Approved", "Denied", "Failed"] {
        let (before, after) = (of_type(old, kind), of_type(new, kind));
        let approves = kind != "Failed";
        let why = match before.len().cmp(&after.len()) {
            std::cmp::Ordering::Greater => format!("updates may not remove a condition of type {kind:?}"),
            _ if !approves || subresource == "approval" => continue,
            std::cmp::Ordering::Less => format!("updates may not add a condition of type {kind:?}"),
            std::cmp::Ordering::Equal if before != after => {
                format!("updates may not modify a condition of type {kind:?}")
            }
            std::cmp::Ordering::Equal => continue,
        };
        errors.push(FieldError::forbidden(PATH, why));
    }
    let (before, after) = (&old["status"]["certificate"], &new["status"]["certificate"]);
    match (before == after, subresource, before.is_null()) {
        (true, _, _) | (false, "status", true) => {}
        (false, "status", false) => errors.push(FieldError::forbidden(
            "status.certificate",
            "updates may not modify existing certificate content",
        )),
        _ => errors
            .push(FieldError::forbidden("status.certificate", "updates may not set certificate content")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service_ip::ServiceAddresses;

    fn request() -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
        BASE64.encode(csr.pem().unwrap())
    }

    fn with_context<T>(subresource: &str, ask: impl FnOnce(&Context<'_>) -> T) -> T {
        let kind = api_types::kinds::find_resource("certificates.k8s.io", "v1", "certificatesigningrequests");
        let services = ServiceAddresses::new("10.96.0.0/16".parse().unwrap());
        ask(&Context { subresource, ..Context::fixture(kind.unwrap(), &services) })
    }

    fn paths(errors: Vec<FieldError>) -> Vec<String> {
        errors.into_iter().map(|e| e.path).collect()
    }

    #[test]
    fn who_asks_is_what_the_server_saw() {
        let mut new = json!({"spec": {"username": "root", "extra": {"a": ["b"]}, "request": request()}});
        with_context("", |context| SigningRequests.prepare_for_create(context, &mut new));
        assert_eq!(new["spec"]["username"], "kubernetes-admin");
        assert_eq!(new["spec"]["groups"], json!(["system:masters", "system:authenticated"]));
        assert!(new["spec"].get("extra").is_none());
    }

    #[test]
    fn a_bad_request_names_each_field() {
        let new = json!({"spec": {"request": "eA==", "signerName": "short", "usages": ["nap", "nap"], "expirationSeconds": 5}});
        let found = with_context("", |context| SigningRequests.validate_create(context, &new));
        assert_eq!(
            paths(found),
            [
                "spec.request",
                "spec.usages[0]",
                "spec.usages[1]",
                "spec.usages[1]",
                "spec.signerName",
                "spec.expirationSeconds"
            ]
        );
    }

    #[test]
    fn an_approval_stays_and_comes_only_through_its_door() {
        let spec = json!({"request": request(), "signerName": "example.com/a", "usages": ["client auth"]});
        let plain = json!({"spec": spec});
        let approved =
            json!({"spec": spec, "status": {"conditions": [{"type": "Approved", "status": "True"}]}});
        let check = |door: &str, new: &Value, old: &Value| {
            paths(with_context(door, |context| SigningRequests.validate_update(context, new, old)))
        };
        assert_eq!(check("status", &approved, &plain), ["status.conditions"]);
        assert!(check("approval", &approved, &plain).is_empty());
        assert_eq!(check("approval", &plain, &approved), ["status.conditions"]);
    }

    #[test]
    fn a_certificate_must_be_one() {
        let data = |text: &str| json!(BASE64.encode(text));
        assert!(check_certificates(&data("not a cert")).is_err());
        let pair = rcgen::generate_simple_self_signed(vec!["a".to_owned()]).unwrap();
        assert!(check_certificates(&data(&pair.cert.pem())).is_ok());
    }
}
