//! Checks of `metadata`, the same for every kind but for how a name may look.

use api_types::kinds::Kind;
use api_types::names;
use api_types::status::FieldError;
use serde_json::Value;

/// How names of a kind are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NameRule {
    /// Lower case letters, digits, `-` and `.`; most kinds.
    Subdomain,
    /// Without dots: namespaces, services, stateful sets.
    Label,
    /// Anything that fits in a path: RBAC kinds.
    PathSegment,
}

impl NameRule {
    fn check(self, name: &str) -> Vec<String> {
        match self {
            NameRule::Subdomain => names::check_dns_subdomain(name),
            NameRule::Label => names::check_dns_label(name),
            NameRule::PathSegment => names::check_path_segment(name),
        }
    }
}

/// What is wrong with the metadata of an object that is about to be stored; its name is already generated.
pub(crate) fn validate(kind: &Kind, rule: NameRule, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let metadata = &object["metadata"];
    check_name(rule, metadata, &mut errors);
    check_namespace(kind, metadata, &mut errors);
    if let Some(generation) = metadata["generation"].as_i64().filter(|number| *number < 0) {
        let why = "must be greater than or equal to 0";
        errors.push(FieldError::invalid("metadata.generation", generation, why));
    }
    check_labels("metadata.labels", &metadata["labels"], &mut errors);
    check_annotations("metadata.annotations", &metadata["annotations"], &mut errors);
    check_owners(&metadata["ownerReferences"], &mut errors);
    check_finalizers(&metadata["finalizers"], &mut errors);
    errors
}

fn check_name(rule: NameRule, metadata: &Value, errors: &mut Vec<FieldError>) {
    if let Some(prefix) = metadata["generateName"].as_str().filter(|p| !p.is_empty()) {
        // A prefix may end where a name may not: the suffix follows.
        let masked = match prefix.strip_suffix('-') {
            Some(start) => format!("{start}a"),
            None => prefix.to_owned(),
        };
        let wrong = rule.check(&masked).into_iter();
        errors.extend(wrong.map(|why| FieldError::invalid("metadata.generateName", prefix, why)));
    }
    match metadata["name"].as_str().filter(|n| !n.is_empty()) {
        None => errors.push(FieldError::required("metadata.name", "name or generateName is required")),
        Some(name) => {
            let wrong = rule.check(name).into_iter();
            errors.extend(wrong.map(|why| FieldError::invalid("metadata.name", name, why)));
        }
    }
}

fn check_namespace(kind: &Kind, metadata: &Value, errors: &mut Vec<FieldError>) {
    let namespace = metadata["namespace"].as_str().unwrap_or_default();
    match (kind.is_namespaced(), namespace.is_empty()) {
        (true, true) => errors.push(FieldError::required("metadata.namespace", "")),
        (true, false) => {
            let wrong = names::check_dns_label(namespace).into_iter();
            errors.extend(wrong.map(|why| FieldError::invalid("metadata.namespace", namespace, why)));
        }
        (false, false) => {
            errors.push(FieldError::forbidden("metadata.namespace", "not allowed on this type"))
        }
        (false, true) => {}
    }
}

/// Keys and values of a label map at `path`.
pub(crate) fn check_labels(path: &str, labels: &Value, errors: &mut Vec<FieldError>) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        errors.extend(
            names::check_label_key(key).into_iter().map(|why| FieldError::invalid(path, key.as_str(), why)),
        );
        let text = value.as_str().unwrap_or_default();
        errors.extend(
            names::check_label_value(text).into_iter().map(|why| FieldError::invalid(path, text, why)),
        );
    }
}

/// All annotations of an object together may have this many bytes.
const ANNOTATION_BYTES_MAX: usize = 256 * 1024;

pub(super) fn check_annotations(path: &str, annotations: &Value, errors: &mut Vec<FieldError>) {
    let mut bytes = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        let wrong = names::check_label_key(&key.to_lowercase()).into_iter();
        errors.extend(wrong.map(|why| FieldError::invalid(path, key.as_str(), why)));
        bytes += key.len() + value.as_str().map_or(0, str::len);
    }
    if bytes > ANNOTATION_BYTES_MAX {
        errors.push(FieldError::too_long(path, ANNOTATION_BYTES_MAX));
    }
}

fn check_owners(owners: &Value, errors: &mut Vec<FieldError>) {
    let mut controllers = Vec::new();
    for owner in owners.as_array().into_iter().flatten() {
        for (field, message) in [
            ("apiVersion", "version must not be empty"),
            ("kind", "must not be empty"),
            ("name", "must not be empty"),
            ("uid", "must not be empty"),
        ] {
            let given = owner[field].as_str().unwrap_or_default();
            let said = if field == "apiVersion" { version_in(given) } else { given };
            if said.is_empty() {
                errors.push(FieldError::invalid(format!("metadata.ownerReferences.{field}"), given, message));
            }
        }
        if owner["apiVersion"] == "v1" && owner["kind"] == "Event" {
            let why = "/v1, Kind=Event is disallowed from being an owner";
            errors.push(FieldError::invalid("metadata.ownerReferences", owner.clone(), why));
        }
        if owner["controller"] == true {
            let text = |field: &str| owner[field].as_str().unwrap_or_default();
            controllers.push(format!("{}/{}", text("kind"), text("name")));
        }
    }
    if let [first, second, ..] = controllers.as_slice() {
        errors.push(FieldError::invalid(
            "metadata.ownerReferences",
            owners.clone(),
            format!(
                "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {second}"
            ),
        ));
    }
}

/// The version in `version` or `group/version`; nothing in what is neither.
fn version_in(api_version: &str) -> &str {
    match api_version.split('/').collect::<Vec<_>>()[..] {
        [version] | [_, version] => version,
        _ => "",
    }
}

/// Finalizers that the server itself knows; all others need a domain.
const STANDARD_FINALIZERS: &[&str] = &["orphan", "foregroundDeletion", "kubernetes"];

fn check_finalizers(finalizers: &Value, errors: &mut Vec<FieldError>) {
    let (mut orphan, mut foreground) = (false, false);
    for (index, finalizer) in finalizers.as_array().into_iter().flatten().enumerate() {
        let name = finalizer.as_str().unwrap_or_default();
        orphan |= name == "orphan";
        foreground |= name == "foregroundDeletion";
        let wrong = names::check_label_key(name);
        if !wrong.is_empty() {
            errors.extend(wrong.into_iter().map(|why| FieldError::invalid("metadata.finalizers", name, why)));
        } else if !name.contains('/') && !STANDARD_FINALIZERS.contains(&name) {
            errors.push(FieldError::invalid(
                format!("metadata.finalizers[{index}]"),
                name,
                "name is neither a standard finalizer name nor is it fully qualified",
            ));
        }
    }
    if orphan && foreground {
        errors.push(FieldError::invalid(
            "metadata.finalizers",
            finalizers.clone(),
            "finalizer orphan and foregroundDeletion cannot be both set",
        ));
    }
}

/// What a change of an object says again: labels, annotations and owners are looked at when an object is read, when
/// it is compared with what it was, and by the rules of its kind, and each time what is wrong is a cause.
pub(crate) fn validate_again(object: &Value) -> Vec<FieldError> {
    let (mut errors, metadata) = (Vec::new(), &object["metadata"]);
    check_labels("metadata.labels", &metadata["labels"], &mut errors);
    check_annotations("metadata.annotations", &metadata["annotations"], &mut errors);
    check_owners(&metadata["ownerReferences"], &mut errors);
    errors
}

/// What of the metadata an update may not change. The server has already put back what it owns.
pub(crate) fn validate_update(kind: &Kind, new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for field in ["name", "namespace"] {
        if field == "namespace" && !kind.is_namespaced() {
            continue;
        }
        if new["metadata"][field] != old["metadata"][field] {
            errors.push(FieldError::immutable(format!("metadata.{field}"), new["metadata"][field].clone()));
        }
    }
    // Looked at when the object is compared with what it was, and again by the rules of its kind.
    for field in ["uid", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let (before, now) = (&old["metadata"][field], &new["metadata"][field]);
        if before != now {
            let error = FieldError::immutable(format!("metadata.{field}"), now.clone());
            errors.extend([error.clone(), error]);
        }
    }
    if !old["metadata"]["deletionTimestamp"].is_null() {
        let kept =
            |name: &&Value| old["metadata"]["finalizers"].as_array().is_some_and(|all| all.contains(name));
        let added: Vec<&Value> =
            new["metadata"]["finalizers"].as_array().into_iter().flatten().filter(|f| !kept(f)).collect();
        if !added.is_empty() {
            let names: Vec<&str> = added.iter().filter_map(|a| a.as_str()).collect();
            errors.push(FieldError::forbidden(
                "metadata.finalizers",
                format!("no new finalizers can be added if the object is being deleted, found new finalizers {names:?}"),
            ));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn errors(metadata: Value) -> Vec<String> {
        let kind = api_types::kinds::find_resource("", "v1", "configmaps").unwrap();
        validate(kind, NameRule::Subdomain, &json!({"metadata": metadata}))
            .iter()
            .map(|e| e.path.clone())
            .collect()
    }

    #[test]
    fn a_good_object_has_no_errors() {
        assert!(errors(json!({"name": "a.b", "namespace": "n", "labels": {"x.io/y": "z"}})).is_empty());
    }

    #[test]
    fn each_broken_part_is_named() {
        assert_eq!(errors(json!({"namespace": "n"})), ["metadata.name"]);
        assert_eq!(errors(json!({"name": "A", "namespace": "n"})), ["metadata.name"]);
        assert_eq!(
            errors(json!({"name": "a", "namespace": "n", "labels": {"bad key": ""}})),
            ["metadata.labels"]
        );
        assert_eq!(
            errors(json!({"name": "a", "namespace": "n", "finalizers": ["x"]})),
            ["metadata.finalizers[0]"]
        );
        assert_eq!(
            errors(json!({"name": "a", "namespace": "n", "finalizers": ["orphan", "foregroundDeletion"]})),
            ["metadata.finalizers"]
        );
    }

    #[test]
    fn an_owner_is_of_a_version() {
        let owned = |version: &str| {
            let owner = json!({"apiVersion": version, "kind": "A", "name": "a", "uid": "u"});
            errors(json!({"name": "a", "namespace": "n", "ownerReferences": [owner]}))
        };
        assert!(owned("apps/v1").is_empty());
        for odd in ["", "apps/", "a/b/c"] {
            assert_eq!(owned(odd), ["metadata.ownerReferences.apiVersion"], "{odd}");
        }
    }

    #[test]
    fn no_finalizer_is_added_to_a_dying_object() {
        let kind = api_types::kinds::find_resource("", "v1", "configmaps").unwrap();
        let old = json!({"metadata": {"name": "a", "deletionTimestamp": "t", "finalizers": ["x/y"]}});
        let mut new = old.clone();
        assert!(validate_update(kind, &new, &old).is_empty());
        new["metadata"]["finalizers"] = json!(["x/y", "x/z"]);
        assert_eq!(validate_update(kind, &new, &old)[0].path, "metadata.finalizers");
    }
}
