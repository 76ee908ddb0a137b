//! The engine on the objects that clients really send.

use super::*;
use crate::kinds::find_kind;
use expect_test::{Expect, expect};
use serde_json::json;

fn schema(api_version: &str, kind: &str) -> Schema {
    let (group, version) = crate::kinds::split_api_version(api_version);
    builtin(find_kind(group, version, kind).unwrap()).unwrap()
}

fn check(kind: &str, object: Value, expect: Expect) {
    let (api_version, kind) = kind.rsplit_once('/').unwrap();
    let found = schema(api_version, kind).check(&object);
    let unknown = found.unknown().map(|u| format!("unknown field {u:?}"));
    let lines: Vec<_> = found.type_errors.iter().map(ToString::to_string).chain(unknown).collect();
    expect.assert_eq(&lines.join("\n"));
}

#[test]
fn every_kind_has_a_schema() {
    for kind in crate::kinds::builtin() {
        let schema = builtin(kind).unwrap_or_else(|| panic!("{} has no schema", kind.kind));
        assert!(schema.properties.contains_key("metadata"), "{}", kind.kind);
    }
}

#[test]
fn values_that_cannot_be_converted_are_told_in_the_words_of_the_conversion() {
    let schema = builtin(crate::kinds::find_kind("apps", "v1", "Deployment").unwrap()).unwrap();
    let told = |spec: Value| {
        let found = schema.check(&json!({ "spec": spec }));
        found.type_errors.iter().map(|error| error.conversion().to_owned()).collect::<Vec<_>>()
    };
    let of_pod = |spec: Value| told(json!({"template": {"spec": spec}}));
    assert_eq!(of_pod(json!({"containers": "x"})), ["cannot restore slice from string"]);
    assert_eq!(of_pod(json!({"nodeSelector": []})), ["cannot restore map from slice"]);
    assert_eq!(of_pod(json!({"nodeName": 1})), ["cannot convert int64 to string"]);
    assert_eq!(told(json!({"template": true})), ["cannot restore struct from: bool"]);
    assert_eq!(
        told(json!({"replicas": "x", "paused": 1})),
        ["unrecognized type: int32", "unrecognized type: bool"]
    );
}

#[test]
fn wrong_types_are_told_as_kubernetes_tells_them() {
    check(
        "apps/v1/Deployment",
        json!({"spec": {"replicas": "three"}}),
        expect![
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"
        ],
    );
    check(
        "apps/v1/Deployment",
        json!({"spec": {"template": {"spec": {"containers": {}}}}}),
        expect![
            "json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container"
        ],
    );
    check(
        "v1/Service",
        json!({"spec": {"ports": [{"port": 80.5, "targetPort": []}]}}),
        expect![[r#"
        json: cannot unmarshal number 80.5 into Go struct field ServicePort.spec.ports.port of type int32
        json: cannot unmarshal array into Go struct field ServicePort.spec.ports.targetPort of type int32"#]],
    );
    check(
        "v1/Pod",
        json!({"spec": {"hostNetwork": "yes"}, "metadata": {"labels": {"a": 1}}}),
        expect![[r#"
            json: cannot unmarshal string into Go struct field PodSpec.spec.hostNetwork of type bool
            json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string"#]],
    );
    check("v1/Secret", json!({"data": {"a": "text!"}}), expect!["illegal base64 data at input byte 4"]);
    let lots = json!({"spec": {"containers": [{"resources": {"limits": {"cpu": "lots", "memory": 1}}}]}});
    check(
        "v1/Pod",
        lots,
        expect![
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
        ],
    );
}

#[test]
fn unknown_fields_are_named_with_their_path() {
    let object =
        json!({"spec": {"template": {"spec": {"containers": [{"imagee": "x"}]}}, "replicsa": 1}, "extra": 1});
    check(
        "apps/v1/Deployment",
        object,
        expect![[r#"
        unknown field "spec.template.spec.containers[0].imagee"
        unknown field "spec.replicsa"
        unknown field "extra""#]],
    );
}

#[test]
fn what_kubectl_sends_is_understood() {
    let object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"creationTimestamp": null, "name": "a"},
        "spec": {"strategy": {}, "template": {"metadata": {"creationTimestamp": null}, "spec": {"containers": []}}}, "status": {}});
    check("apps/v1/Deployment", object, expect![[""]]);
    check("rbac.authorization.k8s.io/v1/Role", json!({"metadata": {"name": "r"}}), expect![[""]]);
    check("rbac.authorization.k8s.io/v1/Role", json!({"rules": null}), expect![[""]]);
}

#[test]
fn objects_are_kept_without_nulls_and_with_canonical_quantities() {
    let mut object = json!({"metadata": {"creationTimestamp": null, "labels": {}, "annotations": {"a": "b"}},
        "spec": {"containers": [{"name": "c", "command": [], "securityContext": {},
            "resources": {"requests": {"cpu": 0.5, "memory": "1024Mi"}}}], "nodeSelector": null}, "other": 1});
    schema("v1", "Pod").normalize(&mut object);
    expect![[r#"{"metadata":{"annotations":{"a":"b"}},"spec":{"containers":[{"name":"c","securityContext":{},"resources":{"requests":{"cpu":"500m","memory":"1Gi"}}}]}}"#]].assert_eq(&object.to_string());
}

#[test]
fn times_are_kept_in_universal_time_and_as_exact_as_their_type() {
    let normalized = |api_version: &str, kind: &str, mut object: Value| {
        schema(api_version, kind).normalize(&mut object);
        object
    };
    for (written, kept) in [
        ("2026-01-01T02:00:00+02:00", "2026-01-01T00:00:00Z"),
        ("2026-01-01T00:00:00.9Z", "2026-01-01T00:00:00Z"),
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
    ] {
        let event = normalized("v1", "Event", json!({"firstTimestamp": written}));
        assert_eq!(event["firstTimestamp"], kept);
    }
    for (written, kept) in [
        ("2026-01-01T02:00:00.123456+02:00", "2026-01-01T00:00:00.123456Z"),
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00.000000Z"),
    ] {
        let lease = normalized("coordination.k8s.io/v1", "Lease", json!({"spec": {"renewTime": written}}));
        assert_eq!(lease["spec"]["renewTime"], kept);
    }
}

#[test]
fn lists_know_their_keys() {
    let container = |field: &str| {
        let pod = schema("v1", "Pod");
        let spec = pod.child("spec").unwrap();
        spec.child("containers").unwrap().item().unwrap().child(field).unwrap().clone()
    };
    assert_eq!(container("ports").list, ListType::Map(vec!["containerPort".into(), "protocol".into()]));
    assert_eq!(container("ports").item().unwrap().default_of("protocol"), Some(&json!("TCP")));
    assert_eq!(container("args").list, ListType::Atomic);
    assert_eq!(container("env").patch.merge_key.as_deref(), Some("name"));
}

#[test]
fn published_schemas_name_their_kinds_and_strategies() {
    let schemas = openapi_v3("apps", "v1", &[]);
    let ports = &schemas["io.k8s.api.core.v1.Container"]["properties"]["ports"];
    assert_eq!(ports["x-kubernetes-patch-merge-key"], "containerPort");
    let gvk = |name: &str| schemas[name]["x-kubernetes-group-version-kind"].to_string();
    expect![[r#"[{"group":"apps","version":"v1","kind":"Deployment"}]"#]]
        .assert_eq(&gvk("io.k8s.api.apps.v1.Deployment"));
    expect![[r#"[{"group":"apps","version":"v1","kind":"DeploymentList"}]"#]]
        .assert_eq(&gvk("io.k8s.api.apps.v1.DeploymentList"));
    let spec = &schemas["io.k8s.api.apps.v1.Deployment"]["properties"]["spec"];
    expect![[r##"{"description":"Specification of the desired behavior of the Deployment.","allOf":[{"$ref":"#/components/schemas/io.k8s.api.apps.v1.DeploymentSpec"}],"default":{}}"##]].assert_eq(&spec.to_string());
    expect![[r#"[{"type":"string"},{"type":"integer"}]"#]]
        .assert_eq(&schemas["io.k8s.apimachinery.pkg.util.intstr.IntOrString"]["oneOf"].to_string());
}

#[test]
fn custom_schemas_use_the_same_engine() {
    let widget = json!({"type": "object", "properties": {"spec": {"type": "object", "required": ["size"], "properties": {
        "size": {"type": "integer", "default": 3},
        "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
            "items": {"type": "object", "properties": {"name": {"type": "string"}}}},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    }}}});
    let schema = Schema::from_openapi(&widget).unwrap();
    let mut object =
        json!({"metadata": {"name": "a"}, "spec": {"ports": [{"name": "x", "no": 1}], "free": {"y": 1}}});
    assert_eq!(schema.check(&object).unknown().collect::<Vec<_>>(), ["spec.ports[0].no"]);
    schema.prune(&mut object);
    schema.default_fields(&mut object);
    expect![[r#"{"metadata":{"name":"a"},"spec":{"ports":[{"name":"x"}],"free":{"y":1},"size":3}}"#]]
        .assert_eq(&object.to_string());
    let found = schema.check(&json!({"spec": {"size": "big"}}));
    expect![[r#"spec.size: Invalid value: "string": spec.size in body must be of type integer: "string""#]]
        .assert_eq(&found.type_errors[0].to_field_error().to_string());
}

#[test]
fn what_a_strict_reader_refuses_is_told_in_the_order_of_the_document() {
    let object = json!({"spec": {"replicsa": 1, "replicas": 2, "template": {"spec": {"containers": [
        {"name": "a", "imagee": "x", "image": "y"}]}}}});
    let repeated = ["spec.replicas", "spec.replicsa", "spec.template.spec.containers[0].image"];
    let found = schema("apps/v1", "Deployment").check_repeated(&object, &repeated.map(str::to_owned));
    let told: Vec<String> = found.strict.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "unknown field \"spec.replicsa\"",
            "duplicate field \"spec.replicas\"",
            "unknown field \"spec.template.spec.containers[0].imagee\"",
            "duplicate field \"spec.template.spec.containers[0].image\"",
        ]
    );
}

#[test]
fn unknown_fields_of_a_custom_kind_are_found_wherever_its_schema_says_what_there_is() {
    let known = json!({"type": "object", "properties": {"a": {"type": "string"}}});
    let schema = Schema::from_openapi(&json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "list": {"type": "array", "items": known},
        "map": {"type": "object", "additionalProperties": known},
        "island": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"known": known}},
        "inner": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"spec": known}},
        "any": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true},
        "port": {"x-kubernetes-int-or-string": true},
        "empty": {"type": "object"},
    }}}}))
    .unwrap();
    let object = json!({
        "apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "x", "odd": 1, "labels": {"odd": "y"}},
        "spec": {
            "list": [{"a": "1"}, {"a": "2", "odd": {"deep": 1}}],
            "map": {"one": {"odd": 1}, "two": {"a": "1"}},
            "island": {"odd": {"deep": 1}, "known": {"a": "1", "odd": 1}},
            "inner": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "y", "odd": 1}, "spec": {"a": "1", "odd": 1}, "odd": 1},
            "any": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "z"}, "odd": {"deep": 1}},
            "port": 1,
            "empty": {"odd": 1},
        },
        "odd": 1,
    });
    let mut unknown: Vec<String> = schema.check(&object).unknown().map(str::to_owned).collect();
    unknown.sort();
    assert_eq!(
        unknown,
        [
            "metadata.odd",
            "odd",
            "spec.empty.odd",
            "spec.inner.metadata.odd",
            "spec.inner.odd",
            "spec.inner.spec.odd",
            "spec.island.known.odd",
            "spec.list[1].odd",
            "spec.map.one.odd",
        ]
    );
}
