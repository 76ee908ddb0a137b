//! Publishes the built-in schemas as an OpenAPI v3 document has them, for `kubectl explain` and `apply`.

use super::{ListType, overlay, roots};
use serde_json::{Map, Value, json};

/// The `components.schemas` of a group's version: its kinds, the bodies of their subresources (group, version and
/// kind), their lists and all that they refer to.
pub fn openapi_v3(group: &str, version: &str, bodies: &[(&str, &str, &str)]) -> Value {
    schemas_of(|root| {
        (root.group, root.version) == (group, version)
            || (root.kind.is_empty() && !is_discovery(root))
            || bodies.contains(&(root.group, root.version, root.kind))
    })
}

/// The schemas of discovery's own documents.
pub fn openapi_discovery() -> Value {
    schemas_of(is_discovery)
}

fn is_discovery(root: &roots::Root) -> bool {
    let definition = root.definition();
    root.kind.is_empty() && [".APIGroupList", ".APIVersions"].iter().any(|name| definition.ends_with(name))
}

/// The definitions of all built-in kinds in the form of version 3.
pub fn openapi_definitions() -> Value {
    schemas_of(|_| true)
}

fn schemas_of(own: impl Fn(&roots::Root) -> bool) -> Value {
    let mut generator = roots::generator();
    let own = |root: &&roots::Root| own(root);
    roots::ROOTS.iter().filter(own).for_each(|r| r.add(&mut generator));
    let mut schemas: Vec<(String, Value)> = generator.take_definitions(false).into_iter().collect();
    schemas.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, schema) in &mut schemas {
        publish(name, schema);
    }
    let mut schemas: Map<String, Value> = schemas.into_iter().collect();
    for root in roots::ROOTS.iter().filter(|r| !r.kind.is_empty()).filter(own) {
        let definition = root.definition();
        if root.listed {
            schemas.insert(format!("{definition}List"), list_of(root.kind, &definition));
            name_kind(&mut schemas, &format!("{definition}List"), root, &format!("{}List", root.kind));
        }
        name_kind(&mut schemas, &definition, root, root.kind);
    }
    Value::Object(schemas)
}

/// Lists are generic in k8s-openapi and have no schema there.
fn list_of(kind: &str, definition: &str) -> Value {
    let refer = |name: &str| json!([{"$ref": format!("#/components/schemas/{name}")}]);
    let text = |description: &str| json!({"type": "string", "description": description});
    json!({
        "description": format!("{kind}List is a list of {kind} objects."),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": text("APIVersion defines the versioned schema of this representation of an object."),
            "items": {
                "description": format!("The {kind} objects."),
                "type": "array",
                "items": {"allOf": refer(definition), "default": {}},
            },
            "kind": text("Kind is a string value representing the REST resource this object represents."),
            "metadata": {
                "description": "Standard list metadata.",
                "allOf": refer("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta"),
                "default": {},
            },
        },
    })
}

fn name_kind(schemas: &mut Map<String, Value>, definition: &str, root: &roots::Root, kind: &str) {
    if let Some(Value::Object(schema)) = schemas.get_mut(definition) {
        let names = json!([{"group": root.group, "version": root.version, "kind": kind}]);
        schema.insert("x-kubernetes-group-version-kind".into(), names);
    }
}

fn publish(name: &str, schema: &mut Value) {
    let facts = overlay::find(name);
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        for (field, property) in properties {
            refer(property);
            if let Some(facts) = facts.and_then(|f| f.fields.get(field.as_str())) {
                extend(property, facts);
            }
        }
    }
    match schema {
        Value::Object(schema) if schema.contains_key("x-kubernetes-int-or-string") => {
            schema.shift_remove("x-kubernetes-int-or-string");
            let numbers = if name.ends_with(".Quantity") { "number" } else { "integer" };
            schema.insert("oneOf".into(), json!([{"type": "string"}, {"type": numbers}]));
            if numbers == "integer" {
                schema.insert("format".into(), "int-or-string".into());
            }
        }
        Value::Object(schema) if facts.is_some_and(|f| f.atomic) => {
            schema.insert("x-kubernetes-map-type".into(), "atomic".into());
        }
        _ => {}
    }
    // k8s-openapi demands metadata, Kubernetes does not.
    if let Some(Value::Array(required)) = schema.get_mut("required") {
        let is_optional = |field: &Value| field.as_str().is_some_and(|f| overlay::is_optional(facts, f));
        required.retain(|field| field != "metadata" && !is_optional(field));
        if required.is_empty() {
            schema.as_object_mut().into_iter().for_each(|s| drop(s.remove("required")));
        }
    }
}

/// A reference with a description of its own is written with `allOf`, because siblings of `$ref` are ignored.
fn refer(property: &mut Value) {
    if let Value::Object(fields) = property
        && fields.len() > 1
        && let Some(reference) = fields.remove("$ref")
    {
        fields.insert("allOf".into(), json!([{"$ref": reference}]));
    }
}

fn extend(property: &mut Value, facts: &overlay::Field) {
    let Value::Object(property) = property else { return };
    let is_list = property.get("type").is_some_and(|t| t == "array");
    let mut put = |key: &str, value: Value| drop(property.insert(key.to_owned(), value));
    match &facts.list {
        Some(ListType::Atomic) if !is_list => put("x-kubernetes-map-type", "atomic".into()),
        Some(ListType::Atomic) => put("x-kubernetes-list-type", "atomic".into()),
        Some(ListType::Set) => put("x-kubernetes-list-type", "set".into()),
        Some(ListType::Map(keys)) => {
            put("x-kubernetes-list-type", "map".into());
            put("x-kubernetes-list-map-keys", keys.clone().into());
        }
        None => {}
    }
    if facts.granular {
        put("x-kubernetes-map-type", "granular".into());
    }
    let strategy: Vec<_> = [(facts.patch.merge, "merge"), (facts.patch.retain_keys, "retainKeys")]
        .into_iter()
        .filter_map(|(set, name)| set.then_some(name))
        .collect();
    if !strategy.is_empty() {
        put("x-kubernetes-patch-strategy", strategy.join(",").into());
    }
    if let Some(key) = &facts.patch.merge_key {
        put("x-kubernetes-patch-merge-key", key.clone().into());
    }
    match (&facts.default, facts.structure) {
        (Some(default), _) => put("default", default.clone()),
        (None, true) => put("default", json!({})),
        (None, false) => {}
    }
}
