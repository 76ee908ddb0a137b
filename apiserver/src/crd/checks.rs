//! What a definition must look like, in Kubernetes' order and words.
//!
//! Schemas are looked at from three sides: `structural` (every field says its type outside of junctors),
//! `schema` (what may stand where, extensions), `defaults` (defaults satisfy their own schemas).

mod columns;
mod defaults;
mod rules;
mod schema;
mod structural;

use api_types::names;
use api_types::status::FieldError;
use serde_json::Value;

type Errors = Vec<FieldError>;

/// Rules of `spec` that hold for a new and for a changed definition.
pub(super) fn spec(definition: &Value) -> Errors {
    let spec = &definition["spec"];
    let mut errors = Errors::new();
    group(spec, &mut errors);
    match text(spec, "scope") {
        "" => errors.push(FieldError::required("spec.scope", "")),
        scope if !matches!(scope, "Cluster" | "Namespaced") => {
            errors.push(FieldError::not_supported("spec.scope", scope, &["Cluster", "Namespaced"]));
        }
        _ => {}
    }
    versions(spec, &mut errors);
    for field in ["plural", "singular", "kind", "listKind"] {
        if text(&spec["names"], field).is_empty() {
            errors.push(FieldError::required(format!("spec.names.{field}"), ""));
        }
    }
    accepted_names(&spec["names"], "spec.names", &mut errors);
    if let Some(shared) = Shared::of(spec) {
        shared.check(&mut errors);
    }
    conversion(&spec["conversion"], &mut errors);
    if spec["preserveUnknownFields"] == true {
        let why = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.push(FieldError::invalid("spec.preserveUnknownFields", true, why));
    }
    errors
}

/// `status.storedVersions` against the versions that there are.
pub(super) fn stored_versions(definition: &Value) -> Errors {
    let stored = &definition["status"]["storedVersions"];
    let names: Vec<&str> = items(stored).iter().filter_map(Value::as_str).collect();
    if names.is_empty() {
        let why = "must have at least one stored version";
        return vec![FieldError::invalid("status.storedVersions", stored.clone(), why)];
    }
    let mut errors = Errors::new();
    let mut left: Vec<(usize, &str)> = names.iter().copied().enumerate().collect();
    for version in items(&definition["spec"]["versions"]) {
        let name = text(version, "name");
        let known = left.iter().any(|(_, n)| *n == name);
        if version["storage"] == true && !known {
            let why = format!("must have the storage version {name}");
            errors.push(FieldError::invalid("status.storedVersions", stored.clone(), why));
        }
        left.retain(|(_, n)| *n != name);
    }
    for (i, name) in left {
        let why = format!(
            "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions \
             until a storage migration ensures no data remains persisted in {name} and removes {name} from \
             status.storedVersions"
        );
        errors.push(FieldError::invalid(format!("status.storedVersions[{i}]"), name, why));
    }
    errors
}

/// Groups that belong to Kubernetes itself.
pub(super) fn is_protected(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|own| group == *own || group.strip_suffix(own).is_some_and(|rest| rest.ends_with('.')))
}

/// A definition in a protected group says who approved of it.
pub(super) fn approval(definition: &Value) -> Errors {
    const ANNOTATION: &str = "api-approved.kubernetes.io";
    let path = format!("metadata.annotations[{ANNOTATION}]");
    if !is_protected(text(&definition["spec"], "group")) {
        return Errors::new();
    }
    let given = text(&definition["metadata"]["annotations"], ANNOTATION);
    let is_url = given.split_once("://").is_some_and(|(_, host)| !host.is_empty());
    match given {
        "" => {
            let why = "protected groups must have approval annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111";
            vec![FieldError::required(path, why)]
        }
        given if given.starts_with("unapproved") || is_url => Errors::new(),
        given => {
            let why = "protected groups must have approval annotation \"api-approved.kubernetes.io\" with either a URL or a reason starting with \"unapproved\", see https://github.com/kubernetes/enhancements/pull/1111";
            vec![FieldError::invalid(path, given, why)]
        }
    }
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object[field].as_str().unwrap_or_default()
}

fn items(list: &Value) -> &[Value] {
    list.as_array().map_or(&[], Vec::as_slice)
}

fn label(path: String, name: &str, errors: &mut Errors) {
    let wrong = names::check_dns_1035_label(name);
    if !wrong.is_empty() {
        errors.push(FieldError::invalid(path, name, wrong.join(",")));
    }
}

fn group(spec: &Value, errors: &mut Errors) {
    let group = text(spec, "group");
    let wrong = names::check_dns_subdomain(group);
    if group.is_empty() {
        errors.push(FieldError::required("spec.group", ""));
    } else if !wrong.is_empty() {
        errors.push(FieldError::invalid("spec.group", group, wrong.join(",")));
    } else if !group.contains('.') {
        errors.push(FieldError::invalid("spec.group", group, "should be a domain with at least one dot"));
    }
}

/// The names in the status, which only the server should write.
pub(super) fn status_names(definition: &Value) -> Errors {
    let mut errors = Errors::new();
    accepted_names(&definition["status"]["acceptedNames"], "status.acceptedNames", &mut errors);
    errors
}

fn accepted_names(names: &Value, path: &str, errors: &mut Errors) {
    for field in ["plural", "singular"] {
        let name = text(names, field);
        if !name.is_empty() {
            label(format!("{path}.{field}"), name, errors);
        }
    }
    for field in ["kind", "listKind"] {
        let name = text(names, field);
        let wrong = names::check_dns_1035_label(&name.to_lowercase());
        if !name.is_empty() && !wrong.is_empty() {
            let why = format!("may have mixed case, but should otherwise match: {}", wrong.join(","));
            errors.push(FieldError::invalid(format!("{path}.{field}"), name, why));
        }
    }
    for (i, short) in items(&names["shortNames"]).iter().enumerate() {
        label(format!("{path}.shortNames[{i}]"), short.as_str().unwrap_or_default(), errors);
    }
    let kind = text(names, "kind");
    if !kind.is_empty() && kind == text(names, "listKind") {
        let why = "kind and listKind may not be the same";
        errors.push(FieldError::invalid(format!("{path}.listKind"), kind, why));
    }
    for (i, category) in items(&names["categories"]).iter().enumerate() {
        label(format!("{path}.categories[{i}]"), category.as_str().unwrap_or_default(), errors);
    }
}

/// Kubernetes looks at what all versions have in common as if it stood once, beside the versions.
struct Shared<'a> {
    first: &'a Value,
    schema: bool,
    subresources: bool,
    columns: bool,
    selectable: bool,
}

impl<'a> Shared<'a> {
    fn of(spec: &'a Value) -> Option<Self> {
        let all = items(&spec["versions"]);
        let first = all.first()?;
        let same = |field: &str| all.iter().all(|v| v[field] == first[field]);
        Some(Self {
            first,
            schema: same("schema"),
            subresources: same("subresources"),
            columns: same("additionalPrinterColumns"),
            selectable: same("selectableFields"),
        })
    }

    fn check(&self, errors: &mut Errors) {
        let version = self.first;
        label("spec.version".to_owned(), text(version, "name"), errors);
        if self.schema {
            schema::check(version, "spec.validation", errors);
        }
        if self.subresources {
            columns::subresources(&version["subresources"], "spec.subresources", errors);
        }
        if self.columns {
            columns::all(&version["additionalPrinterColumns"], "spec.additionalPrinterColumns", errors);
        }
        if self.selectable {
            columns::selectable(version, "spec.selectableFields", errors);
        }
    }
}

fn versions(spec: &Value, errors: &mut Errors) {
    let all = items(&spec["versions"]);
    let shared = Shared::of(spec);
    let apart = |is: fn(&Shared<'_>) -> bool| shared.as_ref().is_some_and(|s| !is(s));
    for (i, version) in all.iter().enumerate() {
        if version["schema"]["openAPIV3Schema"].is_null() {
            errors.push(FieldError::required(format!("spec.versions[{i}].schema.openAPIV3Schema"), ""));
        }
    }
    for (i, version) in all.iter().enumerate() {
        let path = format!("spec.versions[{i}]");
        label(format!("{path}.name"), text(version, "name"), errors);
        deprecation(version, &path, errors);
        if apart(|s| s.schema) {
            schema::check(version, &format!("{path}.schema"), errors);
        }
        if apart(|s| s.subresources) {
            columns::subresources(&version["subresources"], &format!("{path}.subresources"), errors);
        }
        if apart(|s| s.columns) {
            let path = format!("{path}.additionalPrinterColumns");
            columns::all(&version["additionalPrinterColumns"], &path, errors);
        }
        if apart(|s| s.selectable) {
            columns::selectable(version, &format!("{path}.selectableFields"), errors);
        }
    }
    let name = |v: &Value| text(v, "name").to_owned();
    if (1..all.len()).any(|i| all[..i].iter().any(|other| name(other) == name(&all[i]))) {
        let why = "must contain unique version names";
        errors.push(FieldError::invalid("spec.versions", spec["versions"].clone(), why));
    }
    if all.iter().filter(|v| v["storage"] == true).count() != 1 {
        let why = "must have exactly one version marked as storage version";
        errors.push(FieldError::invalid("spec.versions", spec["versions"].clone(), why));
    }
}

fn deprecation(version: &Value, path: &str, errors: &mut Errors) {
    const CHARS_MAX: usize = 256;
    let Some(warning) = version["deprecationWarning"].as_str() else { return };
    let mut fail =
        |why: &str| errors.push(FieldError::invalid(format!("{path}.deprecationWarning"), warning, why));
    if version["deprecated"] != true {
        fail("can only be set for deprecated versions");
    }
    if warning.chars().count() > CHARS_MAX {
        fail("must be <= 256 characters long");
    }
    if warning.is_empty() {
        fail("must not be an empty string");
    }
    if warning.chars().any(char::is_control) {
        fail("must only contain printable UTF-8 characters; non-printable character found");
    }
}

fn conversion(conversion: &Value, errors: &mut Errors) {
    let path = "spec.conversion";
    let versions = &conversion["webhook"]["conversionReviewVersions"];
    let client = &conversion["webhook"]["clientConfig"];
    match text(conversion, "strategy") {
        "Webhook" => {
            if client.is_null() {
                let why = "required when strategy is set to Webhook";
                errors.push(FieldError::required(format!("{path}.webhookClientConfig"), why));
            } else {
                webhook_client(client, &format!("{path}.webhookClientConfig"), errors);
            }
            review_versions(versions, &format!("{path}.conversionReviewVersions"), errors);
        }
        "None" | "" => {
            let why = "should not be set when strategy is not set to Webhook";
            if !client.is_null() {
                errors.push(FieldError::forbidden(format!("{path}.webhookClientConfig"), why));
            }
            if !items(versions).is_empty() {
                errors.push(FieldError::forbidden(format!("{path}.conversionReviewVersions"), why));
            }
        }
        other => {
            errors.push(FieldError::not_supported(format!("{path}.strategy"), other, &["None", "Webhook"]));
        }
    }
}

fn webhook_client(client: &Value, path: &str, errors: &mut Errors) {
    let (url, service) = (&client["url"], &client["service"]);
    match (url.is_null(), service.is_null()) {
        (true, true) | (false, false) => {
            errors.push(FieldError::required(path, "exactly one of url or service is required"));
        }
        (false, true) => webhook_url(text(client, "url"), &format!("{path}.url"), errors),
        (true, false) => {
            for field in ["namespace", "name"] {
                if text(service, field).is_empty() {
                    let why = format!("service {field} is required");
                    errors.push(FieldError::required(format!("{path}.service.{field}"), why));
                }
            }
            if let Some(port) = service["port"].as_i64().filter(|p| !(1..=65535).contains(p)) {
                let why = "port is not valid: must be between 1 and 65535, inclusive";
                errors.push(FieldError::invalid(format!("{path}.service.port"), port, why));
            }
            let target = text(service, "path");
            if !target.is_empty() && !target.starts_with('/') {
                let why = "must start with a '/'";
                errors.push(FieldError::invalid(format!("{path}.service.path"), target, why));
            }
        }
    }
}

fn webhook_url(url: &str, path: &str, errors: &mut Errors) {
    let mut fail = |why: &str| errors.push(FieldError::invalid(path, url, why));
    let form = "; desired format: https://host[/path]";
    let Ok(parsed) = url.parse::<http::Uri>() else {
        return errors.push(FieldError::required(path, format!("url must be a valid URL{form}")));
    };
    if parsed.scheme_str() != Some("https") {
        fail(&format!("'https' is the only allowed URL scheme{form}"));
    }
    if parsed.host().unwrap_or_default().is_empty() {
        fail(&format!("host must be specified{form}"));
    }
    if parsed.authority().is_some_and(|a| a.as_str().contains('@')) {
        fail("user information is not permitted in the URL");
    }
    if url.contains('#') {
        fail("fragments are not permitted in the URL");
    }
    if parsed.query().is_some() {
        fail("query parameters are not permitted in the URL");
    }
}

fn review_versions(versions: &Value, path: &str, errors: &mut Errors) {
    let all: Vec<&str> = items(versions).iter().filter_map(Value::as_str).collect();
    if all.is_empty() {
        return errors.push(FieldError::required(path, ""));
    }
    for (i, version) in all.iter().enumerate() {
        if all[..i].contains(version) {
            errors.push(FieldError::invalid(format!("{path}[{i}]"), *version, "duplicate version"));
        } else {
            label(format!("{path}[{i}]"), version, errors);
        }
    }
    if !all.iter().any(|v| matches!(*v, "v1" | "v1beta1")) {
        let why = "must include at least one of v1, v1beta1";
        errors.push(FieldError::invalid(path, versions.clone(), why));
    }
}

#[cfg(test)]
mod tests;
