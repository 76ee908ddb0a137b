//! The fields of `metadata` that belong to the server: names, uid, times, generation, deletion.

use api_types::kinds::{Kind, find_kind, split_api_version};
use api_types::names;
use api_types::patch::same_but;
use api_types::status::{FieldError, Status};
use chrono::{DateTime, SecondsFormat, Utc};
use component_base::random::Random;
use serde_json::{Value, json};

/// A time as `metav1.Time` writes it.
pub(crate) fn timestamp(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// A body that says of which object it is, is of no other of the same name, nor of one that is not there.
pub(super) fn check_uid(
    kind: &Kind,
    name: &str,
    current: Option<&Value>,
    body: &Value,
) -> Result<(), Status> {
    let wanted = body["metadata"]["uid"].as_str().unwrap_or_default();
    let actual = current.and_then(|object| object["metadata"]["uid"].as_str()).unwrap_or_default();
    if wanted.is_empty() || wanted == actual {
        return Ok(());
    }
    let why = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {actual}");
    Err(Status::conflict(kind, name, why))
}

/// Drops owners that stand in an object twice, and says so.
pub(super) fn unite_owners(object: &mut Value) -> Option<String> {
    let owners = object.pointer_mut("/metadata/ownerReferences")?.as_array_mut()?;
    let (mut kept, mut repeated) = (Vec::with_capacity(owners.len()), Vec::new());
    for owner in owners.drain(..) {
        match kept.contains(&owner) {
            true => repeated.push(owner["uid"].as_str().unwrap_or_default().to_owned()),
            false => kept.push(owner),
        }
    }
    *owners = kept;
    (!repeated.is_empty()).then(|| {
        format!(
            ".metadata.ownerReferences contains duplicate entries; API server dedups owner references in 1.20+, \
             and may reject such requests as early as 1.24; please fix your requests; \
             duplicate UID(s) observed: {}",
            repeated.join(", ")
        )
    })
}

/// Fills in and checks type and namespace of a body against the path, and that it has the name there, if one is.
pub(super) fn check_identity(
    kind: &Kind,
    namespace: &str,
    name: &str,
    object: &mut Value,
) -> Result<(), Status> {
    check_type(kind, object)?;
    if object.get("metadata").is_none_or(Value::is_null) {
        object["metadata"] = json!({});
    }
    let metadata = object["metadata"].as_object_mut().ok_or_else(|| {
        Status::undecodable(
            kind,
            "json: cannot unmarshal into Go struct field .metadata of type v1.ObjectMeta",
        )
    })?;
    let given = metadata.get("namespace").and_then(Value::as_str).unwrap_or_default().to_owned();
    match (kind.is_namespaced(), given.as_str()) {
        (false, _) => {
            metadata.shift_remove("namespace");
        }
        (true, "") => {
            metadata.insert("namespace".into(), json!(namespace));
        }
        (true, given) if given != namespace => {
            let why = "the namespace of the provided object does not match the namespace sent on the request";
            return Err(Status::bad_request(why));
        }
        (true, _) => {}
    }
    let given = metadata.get("name").and_then(Value::as_str).unwrap_or_default();
    match (name, given) {
        ("", _) => {}
        (name, "") => {
            return Err(Status::bad_request(format!(
                "the name of the object ({name} based on URL) was undeterminable: name must be provided"
            )));
        }
        (name, given) if name != given => {
            return Err(Status::bad_request(format!(
                "the name of the object ({given}) does not match the name on the URL ({name})"
            )));
        }
        _ => {}
    }
    Ok(())
}

pub(super) fn check_type(kind: &Kind, object: &mut Value) -> Result<(), Status> {
    if !object.is_object() {
        return Err(Status::undecodable(kind, "the body is not an object"));
    }
    let version = object["apiVersion"].as_str().unwrap_or_default().to_owned();
    let name = object["kind"].as_str().unwrap_or_default().to_owned();
    let is_other_version = !version.is_empty() && version != kind.api_version();
    let is_other_kind = !name.is_empty() && name != kind.kind;
    match (is_other_version, is_other_kind) {
        (false, false) => {}
        // Objects of custom kinds can be read whatever they say they are.
        (false, true) if kind.custom.is_some() => return Err(wrong_kind(kind, &name, object)),
        (true, _) if kind.custom.is_some() => return Err(wrong_version(kind, &version)),
        _ => return Err(other_type(kind, &version, &name)),
    }
    object["kind"] = json!(kind.kind);
    object["apiVersion"] = json!(kind.api_version());
    Ok(())
}

fn wrong_kind(kind: &Kind, name: &str, object: &Value) -> Status {
    let wrong = FieldError::invalid("kind", name, format!("must be {}", kind.kind));
    let object_name = object["metadata"]["name"].as_str().unwrap_or_default();
    Status::invalid_kind(&kind.group, name, object_name, vec![wrong])
}

fn wrong_version(kind: &Kind, version: &str) -> Status {
    Status::bad_request(format!(
        "the API version in the data ({version}) does not match the expected API version ({})",
        kind.api_version()
    ))
}

/// A body of another type; what it leaves unsaid is that of the type which is expected.
fn other_type(kind: &Kind, version: &str, name: &str) -> Status {
    let expected = kind.api_version();
    let version = if version.is_empty() { expected.as_str() } else { version };
    let name = if name.is_empty() { kind.kind.as_str() } else { name };
    let (group, short) = split_api_version(version);
    let wanted = &kind.kind;
    let why = match find_kind(group, short, name) {
        Some(known) if known.storage == kind.storage => return wrong_version(kind, version),
        Some(_) => {
            let package = kind.definition.rsplit('.').nth(2).unwrap_or_default();
            format!("converting ({short}.{name}) to ({package}.{wanted}): unknown conversion")
        }
        None => format!(
            "no kind {name:?} is registered for version {version:?} in scheme \"pkg/api/legacyscheme/scheme.go:30\""
        ),
    };
    Status::bad_request(format!("{name} in version {short:?} cannot be handled as a {wanted}: {why}"))
}

/// Stamps a new object: uid, time, and a name where only a prefix was given.
pub(super) fn stamp(
    kind: &Kind,
    object: &mut Value,
    now: DateTime<Utc>,
    random: &Random,
) -> Result<(), Status> {
    let metadata = &mut object["metadata"];
    if metadata["resourceVersion"].as_str().is_some_and(|v| !v.is_empty() && v != "0") {
        return Err(Status::bad_request("resourceVersion should not be set on objects to be created"));
    }
    if metadata["name"].as_str().unwrap_or_default().is_empty() {
        let prefix = metadata["generateName"].as_str().unwrap_or_default();
        if prefix.is_empty() {
            let missing = FieldError::required("metadata.name", "name or generateName is required");
            return Err(Status::invalid(kind, "", vec![missing]));
        }
        metadata["name"] = json!(names::generate(prefix, std::array::from_fn(|_| random.letter())));
    }
    let fields = metadata.as_object_mut().expect("check_identity made it an object");
    for field in ["resourceVersion", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        fields.shift_remove(field);
    }
    fields.insert("uid".into(), json!(random.uuid().to_string()));
    fields.insert("creationTimestamp".into(), json!(timestamp(now)));
    Ok(())
}

/// Keeps the server's fields as they were. What a write of the whole object says of its identity and its end where
/// they were otherwise is left for the rules to refuse.
pub(super) fn carry_over(old: &Value, new: &mut Value, is_main: bool) {
    const KEPT: &[&str] = &["creationTimestamp", "generation", "resourceVersion", "selfLink"];
    const DECIDED: &[&str] = &["uid", "deletionTimestamp", "deletionGracePeriodSeconds"];
    let before = &old["metadata"];
    let fields = new["metadata"].as_object_mut().expect("check_identity made it an object");
    let is_said = |value: &Value| !value.is_null() && value != "";
    let is_decided = |field: &str| {
        let ends = field == "deletionTimestamp" && before.get(field).is_some();
        ends || !is_main || !fields.get(field).is_some_and(is_said)
    };
    let decided: Vec<&str> = DECIDED.iter().copied().filter(|field| is_decided(field)).collect();
    for field in KEPT.iter().chain(&decided) {
        match before.get(field) {
            Some(value) => {
                fields.insert((*field).into(), value.clone());
            }
            None => {
                fields.shift_remove(*field);
            }
        }
    }
    for field in ["labels", "annotations", "finalizers", "ownerReferences"] {
        if fields.get(field).is_some_and(is_empty) {
            fields.shift_remove(field);
        }
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// An object that is being deleted takes no new finalizers.
pub(super) fn check_finalizers(old: &Value, new: &Value) -> Option<FieldError> {
    if !is_deleting(old) {
        return None;
    }
    let before = finalizers(old);
    let added: Vec<_> = finalizers(new).into_iter().filter(|f| !before.contains(f)).collect();
    (!added.is_empty()).then(|| {
        let listed = added.iter().map(|f| format!("{f:?}")).collect::<Vec<_>>().join(", ");
        FieldError::forbidden(
            "metadata.finalizers",
            format!(
                "no new finalizers can be added if the object is being deleted, \
                 found new finalizers []string{{{listed}}}"
            ),
        )
    })
}

pub(super) fn finalizers(object: &Value) -> Vec<&str> {
    object["metadata"]["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

pub(super) fn is_deleting(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

/// Whether two states are the same but for the times at which managers wrote. A generation counts changes and is
/// none itself: what a client took away, admission may have put back after it was counted.
pub(super) fn is_unchanged(old: &Value, new: &Value) -> bool {
    let (Value::Object(old), Value::Object(new)) = (old, new) else { return old == new };
    let [old_metadata, new_metadata] = [old, new].map(|object| object.get("metadata"));
    same_but(old, new, &["metadata"])
        && match (old_metadata, new_metadata) {
            (Some(Value::Object(old)), Some(Value::Object(new))) => {
                same_but(old, new, &["resourceVersion", "generation", "managedFields"])
                    && are_owners_unchanged(old.get("managedFields"), new.get("managedFields"))
            }
            (old, new) => old == new,
        }
}

fn are_owners_unchanged(old: Option<&Value>, new: Option<&Value>) -> bool {
    let [old, new] = [old, new].map(|owners| owners.and_then(Value::as_array).map_or(&[][..], Vec::as_slice));
    old.len() == new.len()
        && old.iter().zip(new).all(|pair| match pair {
            (Value::Object(old), Value::Object(new)) => same_but(old, new, &["time"]),
            (old, new) => old == new,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_keeps_what_is_the_servers_and_leaves_what_is_to_be_refused() {
        let old =
            json!({"metadata": {"name": "a", "uid": "1", "creationTimestamp": "then", "generation": 2}});
        let ending = json!({"metadata": {"name": "a", "uid": "1", "deletionTimestamp": "soon", "deletionGracePeriodSeconds": 3}});
        for (old, said, is_main, expected) in [
            (&old, json!({}), true, old["metadata"].clone()),
            (
                &old,
                json!({"uid": "2", "creationTimestamp": "now", "generation": 9, "generateName": "a-"}),
                true,
                json!({"name": "a", "uid": "2", "creationTimestamp": "then", "generation": 2, "generateName": "a-"}),
            ),
            (&old, json!({"uid": "2", "deletionTimestamp": "now"}), false, old["metadata"].clone()),
            (
                &ending,
                json!({"uid": "", "deletionTimestamp": "now", "deletionGracePeriodSeconds": 9}),
                true,
                json!({"name": "a", "uid": "1", "deletionTimestamp": "soon", "deletionGracePeriodSeconds": 9}),
            ),
            (&ending, json!({"deletionTimestamp": null}), true, ending["metadata"].clone()),
        ] {
            let mut new = json!({"metadata": said});
            new["metadata"]["name"] = json!("a");
            carry_over(old, &mut new, is_main);
            assert_eq!(new["metadata"], expected, "{said}");
        }
    }

    #[test]
    fn a_body_of_another_uid_conflicts_also_with_nothing() {
        let kind = find_kind("", "v1", "ConfigMap").unwrap();
        let current = json!({"metadata": {"uid": "1"}});
        for (uid, current, fits) in [
            ("", None, true),
            ("1", None, false),
            ("", Some(&current), true),
            ("1", Some(&current), true),
            ("2", Some(&current), false),
        ] {
            let body = json!({"metadata": {"uid": uid}});
            let checked = check_uid(kind, "a", current, &body);
            assert_eq!(checked.err().map(|status| status.code()), (!fits).then_some(409), "{uid}");
        }
    }

    #[test]
    fn an_owner_that_stands_twice_stands_once_and_is_told() {
        let owner = |name: &str| json!({"name": name, "uid": "1"});
        let mut object = json!({"metadata": {"ownerReferences": [owner("a"), owner("b"), owner("a")]}});
        let told = unite_owners(&mut object).unwrap_or_default();
        assert!(told.ends_with("duplicate UID(s) observed: 1"), "{told}");
        assert_eq!(object["metadata"]["ownerReferences"], json!([owner("a"), owner("b")]));
        assert_eq!(unite_owners(&mut object), None);
    }
}
