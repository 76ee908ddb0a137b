//! What the generic path does differently for objects of custom kinds: their author says what is valid.

use api_types::kinds::Custom;
use api_types::schema::{ListType, Schema, Type};
use api_types::status::{FieldError, FieldReason};
use serde_json::Value;

use crate::strategy::{Context, Strategy, isolate, metadata};

pub(crate) struct CustomObjects;

impl Strategy for CustomObjects {
    fn prepare_for_update(&self, context: &Context<'_>, new: &mut Value, old: &Value) {
        isolate::for_update(context.kind, context.subresource, new, old);
    }

    fn validate_create(&self, context: &Context<'_>, new: &Value) -> Vec<FieldError> {
        context.kind.custom.as_ref().map(|custom| check(custom, new, None)).unwrap_or_default()
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        context.kind.custom.as_ref().map(|custom| check(custom, new, Some(old))).unwrap_or_default()
    }
}

fn check(custom: &Custom, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let version = custom.version();
    let mut errors = version.rules.check(new, old);
    errors.extend(scale_numbers(custom, new));
    let mut walk = Walk { errors: Vec::new() };
    walk.value(&version.schema, "", new, old, true);
    errors.extend(walk.errors);
    if version.validations.is_empty() {
        return errors;
    }
    match blocks_rules(&errors) {
        true => errors.push(FieldError::invalid("<nil>", Value::Null, UNCHECKED)),
        false => errors.extend(version.validations.check(new, old)),
    }
    errors
}

const UNCHECKED: &str = "some validation rules were not checked because the object was invalid; \
    correct the existing errors to complete validation";

/// The numbers that the scale subresource shows must be ones that it can show.
fn scale_numbers(custom: &Custom, object: &Value) -> Vec<FieldError> {
    let Some(scale) = &custom.version().scale else { return Vec::new() };
    let mut errors = Vec::new();
    for path in [&scale.spec_replicas, &scale.status_replicas] {
        let pointer = path.replace('.', "/");
        let Some(number) = object.pointer(&pointer).and_then(Value::as_i64) else { continue };
        if number < 0 {
            errors.push(FieldError::invalid(path.as_str(), number, "should be a non-negative integer"));
        } else if number > i64::from(i32::MAX) {
            let why = format!("should be less than or equal to {}", i32::MAX);
            errors.push(FieldError::invalid(path.as_str(), number, why));
        }
    }
    errors
}

/// Whether CEL rules can be asked: Kubernetes does not run them on an object whose shape is wrong.
fn blocks_rules(errors: &[FieldError]) -> bool {
    errors.iter().any(|e| {
        matches!(
            e.reason,
            FieldReason::NotSupported
                | FieldReason::Required
                | FieldReason::TooLong
                | FieldReason::TooMany
                | FieldReason::TypeInvalid
        )
    })
}

/// Checks what is not a matter of single values: objects within objects, and lists whose items must differ.
struct Walk {
    errors: Vec<FieldError>,
}

impl Walk {
    fn value(&mut self, schema: &Schema, path: &str, value: &Value, old: Option<&Value>, root: bool) {
        if old == Some(value) {
            return;
        }
        match value {
            Value::Object(fields) => {
                if schema.embedded {
                    self.embedded(path, value);
                }
                for (key, value) in fields {
                    let metadata = (root || schema.embedded) && key == "metadata";
                    let below = if schema.ty == Type::Any { None } else { schema.child(key) };
                    if let (Some(below), false) = (below, metadata) {
                        self.value(below, &join(path, key), value, old.and_then(|o| o.get(key)), false);
                    }
                }
            }
            Value::Array(items) => {
                self.duplicates(schema, path, items, old);
                for (i, item) in items.iter().enumerate() {
                    if let Some(below) = schema.item() {
                        self.value(below, &format!("{path}[{i}]"), item, None, false);
                    }
                }
            }
            _ => {}
        }
    }

    /// An object within an object has its type and metadata in order.
    fn embedded(&mut self, path: &str, object: &Value) {
        for field in ["apiVersion", "kind"] {
            if object[field].as_str().unwrap_or_default().is_empty() {
                self.errors.push(FieldError::required(join(path, field), "must not be empty"));
            }
        }
        let mut errors = Vec::new();
        metadata::check_labels("metadata.labels", &object["metadata"]["labels"], &mut errors);
        if let Some(name) = object["metadata"]["name"].as_str().filter(|n| !n.is_empty()) {
            let wrong = api_types::names::check_path_segment(name).into_iter();
            errors.extend(wrong.map(|why| FieldError::invalid("metadata.name", name, why)));
        }
        self.errors.extend(errors.into_iter().map(|e| FieldError { path: join(path, &e.path), ..e }));
    }

    fn duplicates(&mut self, schema: &Schema, path: &str, items: &[Value], old: Option<&Value>) {
        let keyed = |item: &Value| -> Value {
            match &schema.list {
                ListType::Map(keys) => {
                    let pair = |key: &String| Some((key.clone(), item.get(key)?.clone()));
                    keys.iter().filter_map(pair).collect::<serde_json::Map<_, _>>().into()
                }
                _ => item.clone(),
            }
        };
        if schema.list == ListType::Atomic {
            return;
        }
        let repeats = |items: &[Value]| -> Vec<(usize, Value)> {
            let keys: Vec<Value> = items.iter().map(keyed).collect();
            (0..keys.len()).filter(|i| keys[..*i].contains(&keys[*i])).map(|i| (i, keys[i].clone())).collect()
        };
        // A list that had repeats before may go on having them.
        if old.and_then(Value::as_array).is_some_and(|before| !repeats(before).is_empty()) {
            return;
        }
        let found = repeats(items).into_iter();
        self.errors.extend(found.map(|(i, key)| FieldError::duplicate(format!("{path}[{i}]"), key)));
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}
