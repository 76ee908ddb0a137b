//! The review resources: questions about access, answered and never stored.

use api_types::selectors::{FieldSelector, LabelSelector};
use api_types::status::{FieldError, Status};
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

use super::rbac::Rule;
use super::{Attributes, Authorizers, Decision, Requirement};
use crate::UserInfo;
use crate::authn::Authenticators;
use crate::authn::service_account::{ISSUER, ServiceAccount};

/// Who answers.
pub(crate) struct Reviewers<'a> {
    pub(crate) authorizers: &'a Authorizers,
    pub(crate) authenticators: &'a Authenticators,
    pub(crate) service_accounts: &'a ServiceAccount,
    pub(crate) now: DateTime<Utc>,
}

/// The answered review: the body with its `status`. `namespace` is that of the request's path.
pub(crate) async fn answer(
    reviewers: &Reviewers<'_>,
    kind: &str,
    user: &UserInfo,
    namespace: &str,
    mut body: Value,
) -> Result<Value, Status> {
    let errors = check(kind, namespace, &body);
    if !errors.is_empty() {
        return Err(invalid(kind, errors));
    }
    let status = match kind {
        "SelfSubjectAccessReview" => access(reviewers, user.clone(), &body).await,
        "SubjectAccessReview" | "LocalSubjectAccessReview" => access(reviewers, subject(&body), &body).await,
        "SelfSubjectRulesReview" => rules(reviewers, user, &body)?,
        "SelfSubjectReview" => json!({"userInfo": user_value(user)}),
        "TokenReview" => token(reviewers, &body)?,
        _ => return Err(Status::unknown_resource()),
    };
    if let Some(object) = body.as_object_mut() {
        let metadata = object.entry("metadata").or_insert_with(|| json!({}));
        if metadata.is_null() {
            *metadata = json!({});
        }
        match kind {
            "SelfSubjectReview" => {
                *metadata =
                    json!({"creationTimestamp": reviewers.now.to_rfc3339_opts(SecondsFormat::Secs, true)});
            }
            // Kubernetes answers without the question here.
            "SelfSubjectRulesReview" => {
                *metadata = json!({});
                object.insert("spec".to_owned(), json!({}));
            }
            _ => {
                object.entry("spec").or_insert_with(|| json!({}));
            }
        }
        object.insert("status".to_owned(), status);
    }
    Ok(body)
}

fn invalid(kind: &str, errors: Vec<FieldError>) -> Status {
    Status::invalid_kind("authorization.k8s.io", kind, "", errors)
}

/// What is wrong with a question about access, all of it.
fn check(kind: &str, namespace: &str, body: &Value) -> Vec<FieldError> {
    let spec = &body["spec"];
    let is_local = kind == "LocalSubjectAccessReview";
    if !is_local && !matches!(kind, "SubjectAccessReview" | "SelfSubjectAccessReview") {
        return Vec::new();
    }
    let mut errors = check_subject_matter(spec);
    let is_anonymous = spec["user"].as_str().unwrap_or_default().is_empty()
        && spec["groups"].as_array().is_none_or(Vec::is_empty);
    if kind != "SelfSubjectAccessReview" && is_anonymous {
        let why = "at least one of user or group must be specified";
        errors.push(FieldError::invalid("spec.user", "", why));
    }
    errors.extend(check_selectors(&spec["resourceAttributes"]));
    let said = body["metadata"].as_object().into_iter().flatten();
    let mut said = said.filter(|(_, value)| match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    });
    if said.any(|(field, _)| field != "managedFields" && !(is_local && field == "namespace")) {
        let why = if is_local { "must be empty except for namespace" } else { "must be empty" };
        errors.push(FieldError::invalid("metadata", body["metadata"].clone(), why));
    }
    if is_local {
        errors.extend(check_local(namespace, spec));
    }
    errors
}

fn check_subject_matter(spec: &Value) -> Vec<FieldError> {
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let error = match (resource.is_object(), path.is_object()) {
        (true, true) => {
            let why = "cannot be specified in combination with resourceAttributes";
            FieldError::invalid("spec.nonResourceAttributes", path.clone(), why)
        }
        (false, false) => {
            let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            FieldError::invalid("spec.resourceAttributes", Value::Null, why)
        }
        _ => return Vec::new(),
    };
    vec![error]
}

fn check_local(namespace: &str, spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let asked = spec["resourceAttributes"]["namespace"].as_str().unwrap_or_default();
    if spec["resourceAttributes"].is_object() && asked != namespace {
        let why = "must match metadata.namespace";
        errors.push(FieldError::invalid("spec.resourceAttributes.namespace", asked, why));
    }
    if spec["nonResourceAttributes"].is_object() {
        let why = "disallowed on this kind of request";
        let path = spec["nonResourceAttributes"].clone();
        errors.push(FieldError::invalid("spec.nonResourceAttributes", path, why));
    }
    errors
}

/// Whom a question is about.
fn subject(body: &Value) -> UserInfo {
    let spec = &body["spec"];
    let name = spec["user"].as_str().unwrap_or_default();
    let groups: Vec<&str> =
        spec["groups"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut user = UserInfo::new(name, &groups);
    user.uid = spec["uid"].as_str().unwrap_or_default().to_owned();
    for (key, values) in spec["extra"].as_object().into_iter().flatten() {
        let values = values.as_array().into_iter().flatten().filter_map(Value::as_str);
        // Keys are compared in lower case, as the headers that carry them come.
        user.extra.entry(key.to_lowercase()).or_default().extend(values.map(str::to_owned));
    }
    user
}

async fn access(reviewers: &Reviewers<'_>, user: UserInfo, body: &Value) -> Value {
    let attributes = attributes(user, &body["spec"]);
    let decision = reviewers.authorizers.ask(&attributes).await;
    let mut status = json!({"allowed": matches!(decision, Decision::Allow(_))});
    if matches!(decision, Decision::Deny(_)) {
        status["denied"] = json!(true);
    }
    let reason = decision.reason();
    if !reason.is_empty() {
        status["reason"] = json!(reason);
    }
    status
}

/// What a question, which was checked, is about.
fn attributes(user: UserInfo, spec: &Value) -> Attributes {
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let text = |from: &Value, field: &str| from[field].as_str().unwrap_or_default().to_owned();
    if !resource.is_object() {
        let (verb, path) = (text(path, "verb"), text(path, "path"));
        return Attributes { user, verb, path, ..Attributes::default() };
    }
    Attributes {
        fields: demanded_fields(resource),
        field_requirements: requirements(resource, "fieldSelector"),
        label_requirements: requirements(resource, "labelSelector"),
        user,
        verb: text(resource, "verb"),
        group: text(resource, "group"),
        version: text(resource, "version"),
        resource: text(resource, "resource"),
        subresource: text(resource, "subresource"),
        namespace: text(resource, "namespace"),
        name: text(resource, "name"),
        ..Attributes::default()
    }
}

/// Selectors are either raw or lists of requirements, each of which is whole.
fn check_selectors(resource: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for which in ["fieldSelector", "labelSelector"] {
        let selector = &resource[which];
        if !selector.is_object() {
            continue;
        }
        let path = format!("spec.resourceAttributes.{which}");
        let raw = selector["rawSelector"].as_str().unwrap_or_default();
        let requirements = selector["requirements"].as_array().map_or(&[][..], Vec::as_slice);
        if !raw.is_empty() && !requirements.is_empty() {
            let why = "may not specified at the same time as requirements";
            errors.push(FieldError::invalid(format!("{path}.rawSelector"), raw, why));
        }
        if raw.is_empty() && requirements.is_empty() {
            let why = format!("when {path} is specified, requirements or rawSelector is required");
            errors.push(FieldError::required(format!("{path}.requirements"), why));
        }
        for (index, requirement) in requirements.iter().enumerate() {
            check_requirement(&format!("{path}.requirements[{index}]"), requirement, &mut errors);
        }
    }
    errors
}

fn check_requirement(path: &str, requirement: &Value, errors: &mut Vec<FieldError>) {
    if requirement["key"].as_str().unwrap_or_default().is_empty() {
        errors.push(FieldError::required(format!("{path}.key"), "must be specified"));
    }
    let values = requirement["values"].as_array().map_or(0, Vec::len);
    match requirement["operator"].as_str().unwrap_or_default() {
        "In" | "NotIn" if values == 0 => errors.push(FieldError::required(
            format!("{path}.values"),
            "must be specified when `operator` is 'In' or 'NotIn'",
        )),
        "Exists" | "DoesNotExist" if values > 0 => errors.push(FieldError::forbidden(
            format!("{path}.values"),
            "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
        )),
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        _ => errors.push(FieldError::invalid(
            format!("{path}.operator"),
            requirement["operator"].clone(),
            "not a valid selector operator",
        )),
    }
}

/// The requirements of one of a question's selectors, which was checked.
fn requirements(resource: &Value, which: &str) -> Vec<Requirement> {
    const OPERATORS: [&str; 4] = ["In", "NotIn", "Exists", "DoesNotExist"];
    let selector = &resource[which];
    if let Some(raw) = selector["rawSelector"].as_str().filter(|raw| !raw.is_empty()) {
        // A text that cannot be read is left out: what is asked about is then wider, never narrower.
        return match which {
            "fieldSelector" => {
                FieldSelector::parse(raw).map(|s| Requirement::of_fields(&s)).unwrap_or_default()
            }
            _ => LabelSelector::parse(raw).map(|s| Requirement::of_labels(&s)).unwrap_or_default(),
        };
    }
    let all = selector["requirements"].as_array().into_iter().flatten();
    let read = |one: &Value| {
        let operator = OPERATORS.iter().find(|known| one["operator"] == **known)?;
        let values = one["values"].as_array().into_iter().flatten();
        let values = values.filter_map(Value::as_str).map(str::to_owned).collect();
        Some(Requirement { key: one["key"].as_str()?.to_owned(), operator, values })
    };
    all.filter_map(read).collect()
}

/// The fields that the selector of a question demands to be equal to one value.
fn demanded_fields(resource: &Value) -> Vec<(String, String)> {
    let selector = &resource["fieldSelector"];
    if let Some(raw) = selector["rawSelector"].as_str().filter(|raw| !raw.is_empty()) {
        let parsed = FieldSelector::parse(raw).into_iter().flat_map(|selector| selector.terms);
        return parsed.filter(|term| term.equal).map(|term| (term.path, term.value)).collect();
    }
    let requirements = selector["requirements"].as_array().into_iter().flatten();
    let equal =
        requirements.filter_map(|r| match (r["operator"].as_str()?, r["values"].as_array()?.as_slice()) {
            ("In", [one]) => Some((r["key"].as_str()?.to_owned(), one.as_str()?.to_owned())),
            _ => None,
        });
    equal.collect()
}

fn rules(reviewers: &Reviewers<'_>, user: &UserInfo, body: &Value) -> Result<Value, Status> {
    let namespace = body["spec"]["namespace"].as_str().filter(|n| !n.is_empty());
    let namespace = namespace.ok_or_else(|| Status::bad_request("no namespace on request"))?;
    let mut rules = reviewers.authorizers.rbac().rules_for(user, namespace);
    if crate::authn::is_in(user, crate::authn::MASTERS) {
        rules.insert(0, everything(false));
        rules.insert(0, everything(true));
    }
    let (paths, resources): (Vec<Rule>, Vec<Rule>) =
        rules.into_iter().partition(|rule| !rule.urls.is_empty());
    Ok(json!({
        "incomplete": false,
        "resourceRules": resources.iter().map(resource_rule).collect::<Vec<_>>(),
        "nonResourceRules": paths.iter().map(|r| json!({"verbs": r.verbs, "nonResourceURLs": r.urls})).collect::<Vec<_>>(),
    }))
}

fn everything(of_paths: bool) -> Rule {
    let star = || vec!["*".to_owned()];
    match of_paths {
        true => Rule { verbs: star(), urls: star(), ..Rule::default() },
        false => Rule { verbs: star(), groups: star(), resources: star(), ..Rule::default() },
    }
}

fn resource_rule(rule: &Rule) -> Value {
    let mut value = json!({"verbs": rule.verbs, "apiGroups": rule.groups, "resources": rule.resources});
    if !rule.names.is_empty() {
        value["resourceNames"] = json!(rule.names);
    }
    value
}

fn token(reviewers: &Reviewers<'_>, body: &Value) -> Result<Value, Status> {
    let text = body["spec"]["token"].as_str().unwrap_or_default();
    if text.is_empty() {
        return Err(Status::bad_request("token is required for TokenReview in authentication"));
    }
    let asked: Vec<String> = body["spec"]["audiences"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let audiences = if asked.is_empty() { vec![ISSUER.to_owned()] } else { asked };
    Ok(match reviewers.authenticators.review(reviewers.service_accounts, text, &audiences) {
        Ok((user, audiences)) => {
            json!({"authenticated": true, "user": user_value(&user), "audiences": audiences})
        }
        Err(why) => json!({"user": {}, "error": why}),
    })
}

/// A user as `authentication.k8s.io/v1` UserInfo.
pub(crate) fn user_value(user: &UserInfo) -> Value {
    let mut value = json!({"username": user.name});
    if !user.uid.is_empty() {
        value["uid"] = json!(user.uid);
    }
    if !user.groups.is_empty() {
        value["groups"] = json!(user.groups);
    }
    if !user.extra.is_empty() {
        value["extra"] = json!(user.extra);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(resource: Value) -> Vec<String> {
        check_selectors(&resource).into_iter().map(|e| e.path).collect()
    }

    #[test]
    fn a_selector_of_a_question_is_raw_or_a_list_of_whole_requirements() {
        assert!(paths(json!({"verb": "list"})).is_empty());
        assert_eq!(
            paths(json!({"fieldSelector": {}})),
            ["spec.resourceAttributes.fieldSelector.requirements"]
        );
        assert_eq!(
            paths(
                json!({"labelSelector": {"rawSelector": "a=b", "requirements": [{"key": "a", "operator": "In"}]}})
            ),
            [
                "spec.resourceAttributes.labelSelector.rawSelector",
                "spec.resourceAttributes.labelSelector.requirements[0].values"
            ]
        );
    }

    #[test]
    fn what_a_field_selector_demands_is_known_in_both_forms() {
        let wanted = [("spec.nodeName".to_owned(), "n1".to_owned())];
        let raw = json!({"fieldSelector": {"rawSelector": "spec.nodeName=n1"}});
        let list = json!({"fieldSelector": {"requirements": [{"key": "spec.nodeName", "operator": "In", "values": ["n1"]}]}});
        assert_eq!(demanded_fields(&raw), wanted);
        assert_eq!(demanded_fields(&list), wanted);
    }
}
