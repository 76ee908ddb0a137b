//! Defaults must be what their own schema allows, and hold nothing that would be dropped at once.

use api_types::schema::Schema;
use api_types::schema::values::Rules;
use api_types::status::FieldError;
use serde_json::Value;

use super::Errors;

/// What is wrong with the defaults in a structural schema.
pub(super) fn check(schema: &Value, path: &str) -> Errors {
    let mut errors = Errors::new();
    below(schema, path, &mut errors);
    errors
}

fn below(schema: &Value, path: &str, errors: &mut Errors) {
    if let Some(default) = schema.get("default").filter(|d| !d.is_null()) {
        one(schema, default, &format!("{path}.default"), errors);
    }
    if let Some(item) = schema.get("items").filter(|i| i.is_object()) {
        below(item, &format!("{path}.items"), errors);
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        below(property, &format!("{path}.properties[{name}]"), errors);
    }
    if let Some(additional) = schema.get("additionalProperties").filter(|a| a.is_object()) {
        below(additional, &format!("{path}.additionalProperties"), errors);
    }
}

fn one(schema: &Value, default: &Value, path: &str, errors: &mut Errors) {
    // The schema as that of a field, since at the root it would have metadata.
    let wrapped = serde_json::json!({ "type": "object", "properties": { "value": schema } });
    if let Ok(compiled) = Schema::from_openapi(&wrapped) {
        let mut pruned = serde_json::json!({ "value": default });
        compiled.prune(&mut pruned);
        if pruned["value"] != *default {
            errors.push(FieldError::invalid(path, default.clone(), "must not have unknown fields"));
        }
    }
    let Ok(rules) = Rules::compile(schema) else { return };
    errors.extend(rules.check(default, None).into_iter().map(|e| FieldError {
        path: match e.path.as_str() {
            "" | "<nil>" => path.to_owned(),
            below => format!("{path}.{below}"),
        },
        ..e
    }));
}
