//! OpenAPI version 2 of all group versions in one document, made out of the parts of version 3.

use serde_json::{Map, Value, json};

/// The whole document. `definitions` and `paths` are in the form of version 3.
pub(super) fn document(info: Value, definitions: Value, paths: Map<String, Value>) -> Value {
    let paths: Map<String, Value> = paths.into_iter().map(|(path, item)| (path, path_item(item))).collect();
    let mut definitions = definitions;
    if let Some(definitions) = definitions.as_object_mut() {
        definitions.values_mut().for_each(plain);
    }
    json!({ "swagger": "2.0", "info": info, "paths": paths, "definitions": definitions })
}

const METHODS: &[&str] = &["get", "put", "post", "delete", "patch"];

fn path_item(item: Value) -> Value {
    let Value::Object(fields) = item else { return item };
    let turned = fields.into_iter().map(|(key, value)| match key.as_str() {
        "parameters" => (key, parameters(value)),
        method if METHODS.contains(&method) => (key, operation(value)),
        _ => (key, value),
    });
    Value::Object(turned.collect())
}

fn operation(mut operation: Value) -> Value {
    let Some(fields) = operation.as_object_mut() else { return operation };
    let mut all = match fields.shift_remove("parameters").map(parameters) {
        Some(Value::Array(all)) => all,
        _ => Vec::new(),
    };
    if let Some(mut schema) =
        fields.shift_remove("requestBody").and_then(|body| first_schema(&body["content"]))
    {
        plain(&mut schema);
        all.push(json!({ "name": "body", "in": "body", "required": true, "schema": schema }));
    }
    fields.insert("parameters".into(), all.into());
    for response in fields.get_mut("responses").and_then(Value::as_object_mut).into_iter().flatten() {
        let Some(response) = response.1.as_object_mut() else { continue };
        if let Some(mut schema) = response.shift_remove("content").and_then(|content| first_schema(&content))
        {
            plain(&mut schema);
            response.insert("schema".into(), schema);
        }
    }
    operation
}

fn first_schema(content: &Value) -> Option<Value> {
    Some(content.as_object()?.values().next()?.get("schema")?.clone())
}

/// A parameter's type stands beside its name.
fn parameters(parameters: Value) -> Value {
    let Value::Array(all) = parameters else { return parameters };
    let turned = all.into_iter().map(|mut parameter| {
        let schema = parameter.as_object_mut().and_then(|p| p.shift_remove("schema"));
        if let (Some(Value::Object(schema)), Some(fields)) = (schema, parameter.as_object_mut()) {
            fields.extend(schema);
        }
        parameter
    });
    turned.collect()
}

/// Writes a schema as version 2 knows it: references are elsewhere and stand alone, nothing has defaults, and a
/// choice of types is the first of them.
fn plain(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(plain),
        Value::Object(fields) => {
            fields.shift_remove("default");
            if let Some(one) =
                fields.get("allOf").and_then(Value::as_array).and_then(|all| all.first()).cloned()
            {
                fields.shift_remove("allOf");
                fields.extend(one.as_object().cloned().unwrap_or_default());
            }
            if fields.shift_remove("oneOf").is_some() {
                fields.insert("type".into(), "string".into());
            }
            if let Some(Value::String(reference)) = fields.get_mut("$ref") {
                *reference = reference.replace("#/components/schemas/", "#/definitions/");
            }
            for (key, value) in fields.iter_mut() {
                match (key.as_str(), value) {
                    // The names below are fields, whatever they are called.
                    ("properties", Value::Object(properties)) => properties.values_mut().for_each(plain),
                    ("items" | "additionalProperties", below) => plain(below),
                    _ => {}
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_stands_alone_and_nothing_has_defaults() {
        let mut schema = json!({ "type": "object", "properties": {
            "default": { "type": "string", "default": "" },
            "spec": { "description": "d", "allOf": [{ "$ref": "#/components/schemas/a.Spec" }], "default": {} },
        } });
        plain(&mut schema);
        let properties = json!({
            "default": { "type": "string" },
            "spec": { "description": "d", "$ref": "#/definitions/a.Spec" },
        });
        assert_eq!(schema["properties"], properties);
    }

    #[test]
    fn a_body_becomes_a_parameter() {
        let item = json!({ "post": {
            "parameters": [{ "name": "dryRun", "in": "query", "schema": { "type": "string" } }],
            "requestBody": { "content": { "*/*": { "schema": { "$ref": "#/components/schemas/a.B" } } } },
            "responses": { "200": { "description": "OK", "content": {} } },
        } });
        let turned = path_item(item);
        assert_eq!(turned["post"]["parameters"][0]["type"], "string");
        assert_eq!(turned["post"]["parameters"][1]["schema"]["$ref"], "#/definitions/a.B");
    }
}
