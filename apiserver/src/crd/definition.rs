//! What the generic path does differently for definitions of custom kinds.

use api_types::status::{FieldError, Status};
use serde_json::{Value, json};

use super::{FINALIZER, STORAGE, checks, names, status};
use crate::service_ip::Claim;
use crate::strategy::{Context, Strategy, isolate};

pub(crate) struct Definitions;

impl Strategy for Definitions {
    fn prepare_for_create(&self, context: &Context<'_>, new: &mut Value) {
        isolate::for_create(context.kind, new);
        new["status"] = json!({ "acceptedNames": { "kind": "", "plural": "" }, "conditions": [] });
        note_stored_version(new);
    }

    fn prepare_for_update(&self, context: &Context<'_>, new: &mut Value, old: &Value) {
        isolate::for_update(context.kind, context.subresource, new, old);
        note_stored_version(new);
    }

    /// Who gets a name is decided with the write, so that the answer says it already.
    fn assign(&self, context: &Context<'_>, new: &mut Value, _old: Option<&Value>) -> Result<Claim, Status> {
        if !context.subresource.is_empty() {
            return Ok(Claim::default());
        }
        let mut all = context.view.objects(STORAGE, None);
        all.retain(|other| other["metadata"]["name"] != new["metadata"]["name"]);
        let definitions = all.iter().map(|other| &**other).chain([&*new]);
        if let Some(accepted) = names::accept(definitions).last() {
            new["status"] = status::plan(new, accepted, context.now);
        }
        Ok(Claim::default())
    }

    fn validate_create(&self, _context: &Context<'_>, new: &Value) -> Vec<FieldError> {
        let mut errors = named_after_its_resource(new);
        errors.extend(rules(new));
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        if !context.subresource.is_empty() {
            let mut errors = checks::status_names(new);
            errors.extend(checks::stored_versions(new));
            return errors;
        }
        let mut errors = rules(new);
        let mut fixed = vec!["/spec/group", "/spec/names/plural"];
        if names::is_condition(old, "Established") {
            fixed.extend(["/spec/scope", "/spec/names/kind"]);
        }
        for pointer in fixed {
            let at = |object: &Value| object.pointer(pointer).cloned().unwrap_or_default();
            if at(new) != at(old) {
                errors.push(FieldError::immutable(pointer[1..].replace('/', "."), at(new)));
            }
        }
        errors
    }

    /// A definition that is not marked yet waits at least for its objects to be deleted.
    fn holds(&self, object: &Value) -> bool {
        !object["metadata"]["deletionTimestamp"].is_string()
    }

    fn mark_deleted(&self, object: &mut Value) {
        let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
        metadata.shift_remove("deletionGracePeriodSeconds");
        let finalizers = metadata.entry("finalizers").or_insert_with(|| json!([]));
        if let Some(finalizers) = finalizers.as_array_mut().filter(|all| !all.iter().any(|f| f == FINALIZER))
        {
            finalizers.push(FINALIZER.into());
        }
    }

    fn counts_deletion(&self) -> bool {
        false
    }
}

fn named_after_its_resource(new: &Value) -> Vec<FieldError> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let name = text(&new["metadata"]["name"]);
    let wanted = format!("{}.{}", text(&new["spec"]["names"]["plural"]), text(&new["spec"]["group"]));
    match name == wanted {
        true => Vec::new(),
        false => {
            vec![FieldError::invalid("metadata.name", name, "must be spec.names.plural+\".\"+spec.group")]
        }
    }
}

fn rules(new: &Value) -> Vec<FieldError> {
    let mut errors = checks::spec(new);
    errors.extend(checks::stored_versions(new));
    errors.extend(checks::approval(new));
    errors
}

/// Objects may be stored in this version from now on; only their migration takes it back.
fn note_stored_version(definition: &mut Value) {
    let versions = definition["spec"]["versions"].as_array().into_iter().flatten();
    let stored = versions.into_iter().find(|v| v["storage"] == true).map(|v| v["name"].clone());
    let Some(name) = stored else { return };
    if !definition["status"].is_object() {
        definition["status"] = json!({});
    }
    match definition["status"].get_mut("storedVersions").and_then(Value::as_array_mut) {
        Some(known) if known.contains(&name) => {}
        Some(known) => known.push(name),
        None => definition["status"]["storedVersions"] = json!([name]),
    }
}
