//! Makes schemas out of JSON: of the built-in definitions with their overlay, and of a custom kind's own.

use super::{ListType, Schema, Type, overlay};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// A custom kind's schema that makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct SchemaError {
    pub path: String,
    pub problem: &'static str,
}

/// Makes the schema of a definition and of all that it refers to, each once.
///
/// A definition that contains itself is cut off where it does: what is below is taken as it comes.
pub(super) fn definition(
    name: &str,
    definitions: &Map<String, Value>,
    made: &mut HashMap<String, Schema>,
) -> Option<Schema> {
    if let Some(schema) = made.get(name) {
        return Some(schema.clone());
    }
    let json = definitions.get(name)?;
    made.insert(name.to_owned(), Schema { preserve_unknown: true, ..Schema::default() });
    let facts = overlay::find(name);
    let mut schema = shape(json, definitions, made);
    let mut properties = BTreeMap::new();
    for (field, json) in json["properties"].as_object().into_iter().flatten() {
        let mut child = value(json, definitions, made);
        if let Some(facts) = facts.and_then(|f| f.fields.get(field.as_str())) {
            lay_over(&mut child, facts);
        }
        properties.insert(field.clone(), child);
    }
    let mut required = strings(&json["required"]);
    required.retain(|field| !overlay::is_optional(facts, field));
    schema.required = Arc::new(required);
    schema.written = Arc::new(written(&properties, &schema.required, facts));
    schema.properties = Arc::new(properties);
    schema.definition = name.into();
    schema.atomic = facts.is_some_and(|f| f.atomic);
    if name.ends_with(".Quantity") {
        schema.ty = Type::Quantity;
    }
    made.insert(name.to_owned(), schema.clone());
    Some(schema)
}

/// Go leaves out a list or map only where its field says so, and one that is required never says so.
fn written(
    properties: &BTreeMap<String, Schema>,
    required: &[String],
    facts: Option<&overlay::Definition>,
) -> Vec<String> {
    let said = |name: &str| facts.and_then(|f| f.fields.get(name)).is_some_and(|f| f.written);
    let collection = |schema: &Schema| matches!(schema.ty, Type::List | Type::Map);
    let always =
        |(name, schema): &(&String, &Schema)| said(name) || (required.contains(name) && collection(schema));
    properties.iter().filter(always).map(|(name, _)| name.clone()).collect()
}

fn lay_over(schema: &mut Schema, facts: &overlay::Field) {
    if let Some(list) = &facts.list {
        schema.list = list.clone();
    }
    schema.atomic = (schema.atomic || facts.atomic) && !facts.granular;
    schema.patch = facts.patch.clone();
    schema.pointer = facts.pointer;
    schema.optional = facts.optional;
    schema.default = match (&facts.default, facts.structure) {
        (Some(default), _) => Some(Arc::new(default.clone())),
        (None, true) => Some(Arc::new(Value::Object(Map::new()))),
        (None, false) => None,
    };
}

fn value(json: &Value, definitions: &Map<String, Value>, made: &mut HashMap<String, Schema>) -> Schema {
    match json["$ref"].as_str().and_then(|r| r.strip_prefix("#/components/schemas/")) {
        Some(name) => definition(name, definitions, made).unwrap_or_default(),
        None => shape(json, definitions, made),
    }
}

fn shape(json: &Value, definitions: &Map<String, Value>, made: &mut HashMap<String, Schema>) -> Schema {
    let ty = type_of(json);
    let below = match ty {
        Type::Map => json.get("additionalProperties"),
        Type::List => json.get("items"),
        _ => None,
    };
    Schema {
        ty,
        format: json["format"].as_str().unwrap_or("").into(),
        items: below.map(|b| Arc::new(value(b, definitions, made))),
        preserve_unknown: ty == Type::Any,
        builtin: true,
        ..Schema::default()
    }
}

fn type_of(json: &Value) -> Type {
    if json["x-kubernetes-int-or-string"] == true {
        return Type::IntOrString;
    }
    let has = |key| json.get(key).is_some_and(Value::is_object);
    match json["type"].as_str() {
        Some("object") if has("properties") => Type::Object,
        Some("object") if has("additionalProperties") => Type::Map,
        Some("array") => Type::List,
        Some("string") => Type::String,
        Some("integer") => Type::Integer,
        Some("number") => Type::Number,
        Some("boolean") => Type::Boolean,
        _ => Type::Any,
    }
}

/// The schema of a custom kind. Its metadata is that of every object, whatever the schema says of it.
pub(super) fn custom(json: &Value) -> Result<Schema, SchemaError> {
    let mut schema = custom_value(json, "")?;
    schema.ty = Type::Object;
    schema.properties = Arc::new(with_metadata((*schema.properties).clone()));
    Ok(schema)
}

/// Adds the fields that every object of the API has.
fn with_metadata(mut properties: BTreeMap<String, Schema>) -> BTreeMap<String, Schema> {
    let open = Schema::open();
    for name in ["apiVersion", "kind", "metadata"] {
        properties.extend(open.properties.get(name).map(|s| (name.to_owned(), s.clone())));
    }
    properties
}

fn custom_value(json: &Value, path: &str) -> Result<Schema, SchemaError> {
    let fail = |problem| SchemaError { path: path.to_owned(), problem };
    let is = |key: &str| json[key] == true;
    let mut properties = BTreeMap::new();
    for (name, json) in json["properties"].as_object().into_iter().flatten() {
        properties.insert(name.clone(), custom_value(json, &format!("{path}.{name}"))?);
    }
    let ty = custom_type(json, !properties.is_empty());
    let below = match ty {
        Type::Map => json.get("additionalProperties").filter(|b| b.is_object()),
        Type::List => Some(json.get("items").ok_or(fail("a list needs items"))?),
        _ => None,
    };
    let below = below.map(|b| custom_value(b, &format!("{path}[*]"))).transpose()?;
    let items = match (ty, below) {
        // `additionalProperties: true`
        (Type::Map, None) => Some(Schema { preserve_unknown: true, ..Schema::default() }),
        (_, below) => below,
    };
    let embedded = is("x-kubernetes-embedded-resource");
    Ok(Schema {
        ty,
        format: json["format"].as_str().unwrap_or("").into(),
        properties: Arc::new(if embedded { with_metadata(properties) } else { properties }),
        required: Arc::new(strings(&json["required"])),
        items: items.map(Arc::new),
        list: match json["x-kubernetes-list-type"].as_str() {
            Some("map") => ListType::Map(strings(&json["x-kubernetes-list-map-keys"])),
            Some("set") => ListType::Set,
            _ => ListType::Atomic,
        },
        atomic: json["x-kubernetes-map-type"] == "atomic",
        default: json.get("default").map(|d| Arc::new(d.clone())),
        preserve_unknown: ty == Type::Any || is("x-kubernetes-preserve-unknown-fields"),
        embedded,
        nullable: is("nullable"),
        ..Schema::default()
    })
}

/// Without `type`, fields that are named still have their schemas.
fn custom_type(json: &Value, has_properties: bool) -> Type {
    match (type_of(json), json["type"].as_str()) {
        (Type::Any, Some("object")) if json["additionalProperties"] == true && !has_properties => Type::Map,
        (Type::Any, Some("object")) => Type::Object,
        (Type::Any, None) if has_properties => Type::Object,
        (ty, _) => ty,
    }
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}
