//! Flow schemas and priority levels.

use api_types::names;
use api_types::status::FieldError;
use serde_json::Value;

use super::Check;
use crate::strategy::rules::{Errors, indexed, invalid_all, items, text};

const PRECEDENCE_MAX: i64 = 10_000;

pub(super) fn schema(check: &Check<'_>, errors: &mut Errors) {
    let spec = &check.new["spec"];
    let precedence = spec["matchingPrecedence"].as_i64().unwrap_or_default();
    let is_exempt = check.new["metadata"]["name"] == "exempt";
    let wrong = match precedence {
        ..=0 => Some("must be a positive value".to_owned()),
        1 if !is_exempt => Some("only the schema named 'exempt' may have matchingPrecedence 1".to_owned()),
        PRECEDENCE_MAX.. if precedence > PRECEDENCE_MAX => {
            Some(format!("must not be greater than {PRECEDENCE_MAX}"))
        }
        _ => None,
    };
    errors.extend(wrong.map(|why| FieldError::invalid("spec.matchingPrecedence", precedence, why)));
    for (path, rule) in indexed(spec, "spec", "rules") {
        if items(&rule["resourceRules"]).is_empty() && items(&rule["nonResourceRules"]).is_empty() {
            let why = "at least one of resourceRules and nonResourceRules has to be non-empty";
            errors.push(FieldError::required(&path, why));
        }
        for (path, subject) in indexed(rule, &path, "subjects") {
            validate_subject(subject, &path, errors);
        }
        for (path, rule) in indexed(rule, &path, "resourceRules") {
            validate_resources(rule, &path, errors);
        }
        for (path, rule) in indexed(rule, &path, "nonResourceRules") {
            validate_urls(rule, &path, errors);
        }
    }
}

/// Kinds of subjects and the field that says more of each.
const SUBJECTS: &[(&str, &str)] =
    &[("Group", "group"), ("ServiceAccount", "serviceAccount"), ("User", "user")];

fn validate_subject(subject: &Value, path: &str, errors: &mut Errors) {
    let kind = subject["kind"].as_str().unwrap_or_default();
    let Some((_, own)) = SUBJECTS.iter().find(|(name, _)| *name == kind) else {
        let known: Vec<&str> = SUBJECTS.iter().map(|(name, _)| *name).collect();
        errors.push(FieldError::not_supported(format!("{path}.kind"), kind, &known));
        return;
    };
    for (other, field) in SUBJECTS.iter().filter(|(_, field)| field != own) {
        if !subject[*field].is_null() {
            let why = format!("{field} is forbidden when subject kind is not '{other}'");
            errors.push(FieldError::forbidden(format!("{path}.{field}"), why));
        }
    }
    let (body, path) = (&subject[*own], format!("{path}.{own}"));
    if body.is_null() {
        let why = format!("{own} is required when subject kind is '{kind}'");
        errors.push(FieldError::required(path, why));
        return;
    }
    match text(body, "name") {
        None => errors.push(FieldError::required(format!("{path}.name"), "")),
        Some(name) if kind == "ServiceAccount" && name != "*" => {
            invalid_all(names::check_dns_subdomain(name), &format!("{path}.name"), name, errors);
        }
        Some(_) => {}
    }
    if kind == "ServiceAccount" {
        let path = format!("{path}.namespace");
        match text(body, "namespace") {
            None => errors.push(FieldError::required(path, "must specify namespace for service account")),
            Some(name) => invalid_all(names::check_dns_label(name), &path, name, errors),
        }
    }
}

const VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

fn validate_verbs(rule: &Value, path: &str, errors: &mut Errors) {
    let path = format!("{path}.verbs");
    let verbs = items(&rule["verbs"]);
    if verbs.is_empty() {
        errors.push(FieldError::required(path, "verbs must contain at least one value"));
    } else if !is_alone(rule, "verbs", &path, "verbs", errors)
        && !verbs.iter().all(|verb| verb == "*" || verb.as_str().is_some_and(|verb| VERBS.contains(&verb)))
    {
        errors.push(FieldError::not_supported(path, rule["verbs"].clone(), VERBS));
    }
}

/// Whether the list holds a `*`, which must then be all that it holds.
fn is_alone(rule: &Value, field: &str, path: &str, what: &str, errors: &mut Errors) -> bool {
    let list = items(&rule[field]);
    let has_star = list.iter().any(|item| item == "*");
    if has_star && list.len() > 1 {
        let why = format!("if '*' is present, must not specify other {what}");
        errors.push(FieldError::invalid(path, rule[field].clone(), why));
    }
    has_star
}

fn validate_resources(rule: &Value, path: &str, errors: &mut Errors) {
    validate_verbs(rule, path, errors);
    for (field, what, missing) in [
        ("apiGroups", "api groups", "resource rules must supply at least one api group"),
        ("resources", "resources", "resource rules must supply at least one resource"),
    ] {
        let path = format!("{path}.{field}");
        if items(&rule[field]).is_empty() {
            errors.push(FieldError::required(path, missing));
        } else {
            is_alone(rule, field, &path, what, errors);
        }
    }
    let namespaces = format!("{path}.namespaces");
    if items(&rule["namespaces"]).is_empty() && rule["clusterScope"] != true {
        let why = "resource rules that are not cluster scoped must supply at least one namespace";
        errors.push(FieldError::required(namespaces, why));
    } else if !is_alone(rule, "namespaces", &namespaces, "namespaces", errors) {
        for (path, name) in indexed(rule, path, "namespaces") {
            let name = name.as_str().unwrap_or_default();
            let intro = "each member of this list must be '*' or a DNS-1123 label; ";
            let wrong = names::check_dns_label(name).into_iter().map(|why| format!("{intro}{why}")).collect();
            invalid_all(wrong, &path, name, errors);
        }
    }
}

fn validate_urls(rule: &Value, path: &str, errors: &mut Errors) {
    validate_verbs(rule, path, errors);
    let field = "nonResourceURLs";
    let urls = format!("{path}.{field}");
    if items(&rule[field]).is_empty() {
        errors.push(FieldError::required(urls, "nonResourceURLs must contain at least one value"));
    } else if !is_alone(rule, field, &urls, "non-resource URLs", errors) {
        for (path, url) in indexed(rule, path, field) {
            let url = url.as_str().unwrap_or_default();
            errors.extend(url_problem(url).map(|why| FieldError::invalid(path, url, why)));
        }
    }
}

fn url_problem(url: &str) -> Option<&'static str> {
    let stars = url.matches('*').count();
    match url {
        "" => Some("must not be empty"),
        "/" => None,
        url if !url.starts_with('/') => Some("must start with slash"),
        url if url.contains(' ') => Some("must not contain white-space"),
        url if url.contains("//") => Some("must not contain double slash"),
        url if stars > 1 || (stars == 1 && !url.ends_with("/*")) => {
            Some("wildcard can only do suffix matching")
        }
        _ => None,
    }
}

pub(super) fn conditions(check: &Check<'_>, errors: &mut Errors) {
    let mut seen = Vec::new();
    for (path, condition) in indexed(&check.new["status"], "status", "conditions") {
        if seen.contains(&&condition["type"]) {
            errors.push(FieldError::duplicate(format!("{path}.type"), condition["type"].clone()));
        }
        seen.push(&condition["type"]);
    }
}

pub(super) fn level(check: &Check<'_>, errors: &mut Errors) {
    let spec = &check.new["spec"];
    let kind = spec["type"].as_str().unwrap_or_default();
    let is_exempt = check.new["metadata"]["name"] == "exempt";
    if is_exempt != (kind == "Exempt") {
        let why = "type must be 'Exempt' if and only if name is 'exempt'";
        errors.push(FieldError::invalid("spec.type", kind, why));
    }
    let (limited, exempt) = (&spec["limited"], &spec["exempt"]);
    match kind {
        "Exempt" if !limited.is_null() => {
            let why = "must be nil if the type is not Limited";
            errors.push(FieldError::forbidden("spec.limited", why));
        }
        "Limited" => {
            if !exempt.is_null() {
                let why = "must be nil if the type is Limited";
                errors.push(FieldError::forbidden("spec.exempt", why));
            }
            if limited.is_null() {
                let why = "must not be empty when type is Limited";
                errors.push(FieldError::required("spec.limited", why));
            } else {
                validate_response(&limited["limitResponse"], "spec.limited.limitResponse", errors);
            }
        }
        _ => {}
    }
}

fn validate_response(response: &Value, path: &str, errors: &mut Errors) {
    let queuing = &response["queuing"];
    let path = format!("{path}.queuing");
    match response["type"].as_str() {
        Some("Reject") if !queuing.is_null() => {
            let why = "must be nil if limited.limitResponse.type is not Limited";
            errors.push(FieldError::forbidden(path, why));
        }
        Some("Queue") if queuing.is_null() => {
            let why = "must not be empty if limited.limitResponse.type is Limited";
            errors.push(FieldError::required(path, why));
        }
        Some("Queue") => validate_queuing(queuing, &path, errors),
        _ => {}
    }
}

const QUEUES_MAX: i64 = 10_000_000;
/// Bits of the hash that deals a flow its queues.
const HASH_BITS_MAX: u32 = 60;

fn validate_queuing(queuing: &Value, path: &str, errors: &mut Errors) {
    let number = |field: &str| queuing[field].as_i64().unwrap_or_default();
    let mut invalid = |field: &str, why: String| {
        errors.push(FieldError::invalid(format!("{path}.{field}"), number(field), why));
    };
    // Zero is what an empty field reads as, and the server fills that in.
    if number("queueLengthLimit") < 0 {
        invalid("queueLengthLimit", "must be positive".to_owned());
    }
    let (queues, hand) = (number("queues"), number("handSize"));
    if queues <= 0 {
        invalid("queues", "must be positive".to_owned());
    } else if queues > QUEUES_MAX {
        invalid("queues", format!("must not be greater than {QUEUES_MAX}"));
    }
    if hand <= 0 {
        invalid("handSize", "must be positive".to_owned());
    } else if hand > queues {
        invalid("handSize", format!("should not be greater than queues ({queues})"));
    } else if entropy_bits(queues, hand) > HASH_BITS_MAX {
        invalid(
            "handSize",
            format!(
                "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {HASH_BITS_MAX}"
            ),
        );
    }
}

/// How many bits it takes to tell all hands of this size apart.
fn entropy_bits(deck: i64, hand: i64) -> u32 {
    let hands: f64 = (0..hand.min(64)).map(|dealt| ((deck - dealt) as f64).log2()).sum();
    hands.ceil() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_of_a_path_stands_last() {
        for good in ["/", "/healthz", "/api/*"] {
            assert_eq!(url_problem(good), None, "{good}");
        }
        for bad in ["", "x", "/a b", "//", "/*/a", "/a*"] {
            assert!(url_problem(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn a_hand_fits_into_the_hash() {
        assert!(entropy_bits(128, 6) <= HASH_BITS_MAX);
        assert!(entropy_bits(10_000_000, 10) > HASH_BITS_MAX);
    }
}
