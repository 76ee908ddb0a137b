//! Definitions of custom kinds in their beta, where what is said of one version today could be said of all.

use serde_json::{Map, Value, json};

/// What stood beside the versions and stands in each of them now.
const OF_VERSIONS: &[(&str, &str)] = &[
    ("validation", "schema"),
    ("subresources", "subresources"),
    ("additionalPrinterColumns", "additionalPrinterColumns"),
];

pub(super) fn store(object: &mut Value) {
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let prunes = spec.shift_remove("preserveUnknownFields") == Some(json!(false));
    let name = spec.shift_remove("version");
    if spec.get("versions").and_then(Value::as_array).is_none_or(Vec::is_empty)
        && let Some(name) = name
    {
        spec.insert("versions".to_owned(), json!([{ "name": name, "served": true, "storage": true }]));
    }
    for (old, new) in OF_VERSIONS {
        let Some(common) = spec.shift_remove(*old).filter(|common| !common.is_null()) else { continue };
        for version in versions(spec) {
            version.entry(*new).or_insert_with(|| common.clone());
        }
    }
    versions(spec).for_each(|version| store_version(version, prunes));
    store_conversion(spec);
}

fn versions(spec: &mut Map<String, Value>) -> impl Iterator<Item = &mut Map<String, Value>> {
    spec.get_mut("versions")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
}

/// Every version has a schema now, and one that kept what it does not know has to say so.
fn store_version(version: &mut Map<String, Value>, prunes: bool) {
    let schema = version.entry("schema").or_insert_with(|| json!({}));
    if schema.get("openAPIV3Schema").is_none_or(|schema| !schema.is_object()) {
        *schema = json!({ "openAPIV3Schema": { "x-kubernetes-preserve-unknown-fields": true } });
    }
    if let Some(root) = schema.get_mut("openAPIV3Schema").and_then(Value::as_object_mut) {
        root.entry("type").or_insert_with(|| json!("object"));
        if !prunes {
            root.entry("x-kubernetes-preserve-unknown-fields").or_insert_with(|| json!(true));
        }
    }
    columns(version, "JSONPath", "jsonPath");
}

fn columns(version: &mut Map<String, Value>, from: &str, to: &str) {
    let columns = version.get_mut("additionalPrinterColumns").and_then(Value::as_array_mut);
    for column in columns.into_iter().flatten().filter_map(Value::as_object_mut) {
        if let Some(path) = column.shift_remove(from) {
            column.insert(to.to_owned(), path);
        }
    }
}

const WEBHOOK: &[(&str, &str)] =
    &[("webhookClientConfig", "clientConfig"), ("conversionReviewVersions", "conversionReviewVersions")];

fn store_conversion(spec: &mut Map<String, Value>) {
    let Some(conversion) = spec.get_mut("conversion").and_then(Value::as_object_mut) else { return };
    let mut webhook = Map::new();
    for (old, new) in WEBHOOK {
        webhook.extend(conversion.shift_remove(*old).map(|value| ((*new).to_owned(), value)));
    }
    if webhook.contains_key("clientConfig") {
        conversion.insert("webhook".to_owned(), Value::Object(webhook));
    }
}

pub(super) fn show(object: &mut Value) {
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let first = versions(spec).find_map(|version| version.get("name").cloned());
    versions(spec).for_each(|version| columns(version, "jsonPath", "JSONPath"));
    spec.extend(first.map(|name| ("version".to_owned(), name)));
    spec.insert("preserveUnknownFields".to_owned(), json!(false));
    let Some(conversion) = spec.get_mut("conversion").and_then(Value::as_object_mut) else { return };
    if let Some(Value::Object(mut webhook)) = conversion.shift_remove("webhook") {
        for (old, new) in WEBHOOK {
            conversion.extend(webhook.shift_remove(*new).map(|value| ((*old).to_owned(), value)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_of_all_versions_is_said_of_each() {
        let mut object = json!({ "spec": {
            "group": "example.com", "version": "v1", "subresources": { "status": {} },
            "additionalPrinterColumns": [{ "name": "On", "type": "string", "JSONPath": ".spec.on" }],
        } });
        store(&mut object);
        let version = &object["spec"]["versions"][0];
        assert_eq!(version["name"], "v1");
        assert_eq!(version["subresources"], json!({ "status": {} }));
        assert_eq!(version["additionalPrinterColumns"][0]["jsonPath"], ".spec.on");
        let schema = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
        assert_eq!(version["schema"]["openAPIV3Schema"], schema);
        assert!(object["spec"].get("version").is_none());
    }
}
