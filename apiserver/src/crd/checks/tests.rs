//! Definitions that are refused, and why.

use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::{approval, spec, stored_versions};

fn definition(spec: Value, schema: Value) -> Value {
    let mut definition = json!({"metadata": {"name": "lamps.x.io"}, "spec": {
        "group": "x.io", "scope": "Namespaced",
        "names": {"plural": "lamps", "singular": "lamp", "kind": "Lamp", "listKind": "LampList"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
    }, "status": {"storedVersions": ["v1"]}});
    for (key, value) in spec.as_object().unwrap() {
        definition["spec"][key] = value.clone();
    }
    definition
}

fn check(given: Value, schema: Value, expect: Expect) {
    let definition = definition(given, schema);
    let errors: Vec<String> = spec(&definition).iter().map(ToString::to_string).collect();
    expect.assert_eq(&errors.join("\n"));
}

fn check_schema(properties: Value, expect: Expect) {
    check(
        json!({}),
        json!({"type": "object", "properties": {"spec": {"type": "object", "properties": properties}}}),
        expect,
    );
}

#[test]
fn a_plain_definition_is_good() {
    check(
        json!({}),
        json!({"type": "object", "properties": {"metadata": {"type": "object"}, "spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}),
        expect![[""]],
    );
}

#[test]
fn names_scope_and_conversion_are_checked() {
    check(
        json!({"scope": "Odd", "group": "nodots", "conversion": {"strategy": "Webhook"}}),
        json!({"type": "object"}),
        expect![[r#"
        spec.group: Invalid value: "nodots": should be a domain with at least one dot
        spec.scope: Unsupported value: "Odd": supported values: "Cluster", "Namespaced"
        spec.conversion.webhookClientConfig: Required value: required when strategy is set to Webhook
        spec.conversion.conversionReviewVersions: Required value"#]],
    );
}

#[test]
fn names_in_the_status_are_names() {
    let definition = json!({"status": {"acceptedNames": {"kind": "Lamp", "plural": "Bad plural"}}});
    let paths: Vec<String> = super::status_names(&definition).into_iter().map(|e| e.path).collect();
    assert_eq!(paths, ["status.acceptedNames.plural"]);
}

#[test]
fn items_of_a_set_are_compared_as_wholes() {
    let set = |item: Value| json!({"s": {"type": "array", "x-kubernetes-list-type": "set", "items": item}});
    check_schema(set(json!({"type": "string"})), expect![[""]]);
    check_schema(set(json!({"type": "object", "x-kubernetes-map-type": "atomic"})), expect![[""]]);
    check_schema(
        set(json!({"type": "object"})),
        expect![[
            r#"spec.validation.openAPIV3Schema.properties[spec].properties[s].items.x-kubernetes-map-type: Invalid value: null: must be atomic as item of a list with x-kubernetes-list-type=set"#
        ]],
    );
}

#[test]
fn a_schema_that_is_not_structural_is_refused() {
    check_schema(
        json!({"a": {}, "l": {"type": "array"}, "n": {"type": "object", "anyOf": [{"properties": {"x": {"minimum": 1}}, "type": "object"}]}}),
        expect![[r#"
        spec.validation.openAPIV3Schema.properties[spec].properties[a].type: Required value: must not be empty for specified object fields
        spec.validation.openAPIV3Schema.properties[spec].properties[l].items: Required value: must be specified
        spec.validation.openAPIV3Schema.properties[spec].properties[n].anyOf[0].type: Forbidden: must be empty to be structural
        spec.validation.openAPIV3Schema.properties[spec].properties[n].properties[x]: Required value: because it is defined in spec.validation.openAPIV3Schema.properties[spec].properties[n].anyOf[0].properties[x]"#]],
    );
    check_schema(
        json!({"port": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}}),
        expect![[""]],
    );
}

#[test]
fn extensions_stand_where_they_mean_something() {
    check_schema(
        json!({
            "l": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k", "z"], "items": {"type": "object", "properties": {"k": {"type": "string"}}}},
            "m": {"type": "string", "x-kubernetes-map-type": "odd"},
            "u": {"type": "array", "uniqueItems": true, "items": {"type": "string"}},
        }),
        expect![[r#"
        spec.validation.openAPIV3Schema.properties[spec].properties[l].x-kubernetes-list-map-keys: Invalid value: ["k","z"]: entries must all be names of item properties
        spec.validation.openAPIV3Schema.properties[spec].properties[l].items.properties[k].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property
        spec.validation.openAPIV3Schema.properties[spec].properties[m].type: Invalid value: "string": must be object if x-kubernetes-map-type is specified
        spec.validation.openAPIV3Schema.properties[spec].properties[m].x-kubernetes-map-type: Unsupported value: "odd": supported values: "atomic", "granular"
        spec.validation.openAPIV3Schema.properties[spec].properties[u].uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic"#]],
    );
}

#[test]
fn defaults_are_of_their_schema() {
    check_schema(
        json!({"a": {"type": "integer", "default": "x"}, "o": {"type": "object", "properties": {"p": {"type": "string"}}, "default": {"q": 1}}}),
        expect![[r#"
        spec.validation.openAPIV3Schema.properties[spec].properties[a].default: Invalid value: "string":  in body must be of type integer: "string"
        spec.validation.openAPIV3Schema.properties[spec].properties[o].default: Invalid value: {"q":1}: must not have unknown fields"#]],
    );
}

#[test]
fn what_versions_do_not_share_is_named_with_its_version() {
    let version = |name: &str, storage: bool, columns: Value| json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": {"type": "object"}}, "additionalPrinterColumns": columns});
    let bad = json!([{"name": "x", "type": "odd", "jsonPath": "spec"}]);
    check(
        json!({"versions": [version("v1", true, bad), version("v2", true, json!([]))]}),
        json!({}),
        expect![[r#"
        spec.versions[0].additionalPrinterColumns[0].type: Invalid value: "odd": must be one of boolean,date,integer,number,string
        spec.versions[0].additionalPrinterColumns[0].JSONPath: Invalid value: "spec": must be a simple json path starting with .
        spec.versions: Invalid value: [{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object"}},"additionalPrinterColumns":[{"name":"x","type":"odd","jsonPath":"spec"}]},{"name":"v2","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object"}},"additionalPrinterColumns":[]}]: must have exactly one version marked as storage version"#]],
    );
}

#[test]
fn a_stored_version_stays_in_the_definition() {
    let mut given = definition(json!({}), json!({"type": "object"}));
    given["status"]["storedVersions"] = json!(["v0"]);
    let paths: Vec<String> = stored_versions(&given).into_iter().map(|e| e.path).collect();
    assert_eq!(paths, ["status.storedVersions", "status.storedVersions[0]"]);
}

#[test]
fn kubernetes_own_groups_need_approval() {
    let mut given = definition(json!({"group": "a.k8s.io"}), json!({"type": "object"}));
    assert_eq!(approval(&given).len(), 1);
    given["metadata"]["annotations"] = json!({"api-approved.kubernetes.io": "https://example.com/1"});
    assert_eq!(approval(&given), []);
}
