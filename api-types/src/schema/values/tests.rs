//! Values against what custom schemas demand of them, with the texts of Kubernetes.

use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::Rules;

fn check(schema: Value, value: Value, expect: Expect) {
    check_update(schema, value, None, expect);
}

fn check_update(schema: Value, value: Value, old: Option<Value>, expect: Expect) {
    let errors = Rules::compile(&schema).unwrap().check(&value, old.as_ref());
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    expect.assert_eq(&texts.join("\n"));
}

fn lamp(properties: Value) -> Value {
    json!({"type": "object", "properties": {"spec": {"type": "object", "properties": properties}}})
}

#[test]
fn numbers_keep_to_their_range() {
    let schema = lamp(
        json!({"a": {"type": "integer", "minimum": 1, "maximum": 100}, "b": {"type": "number", "multipleOf": 0.5, "minimum": 0, "exclusiveMinimum": true}}),
    );
    check(
        schema.clone(),
        json!({"spec": {"a": 101, "b": 0.7}}),
        expect![[r#"
        spec.a: Invalid value: 101: spec.a in body should be less than or equal to 100
        spec.b: Invalid value: 0.7: spec.b in body should be a multiple of 0.5"#]],
    );
    check(
        schema,
        json!({"spec": {"a": 1.5, "b": 0}}),
        expect![[r#"
        spec.a: Invalid value: "number": spec.a in body must be of type integer: "number"
        <nil>: Invalid value: "": Checked value must be of type integer (default format) in spec.a
        spec.b: Invalid value: 0: spec.b in body should be greater than 0"#]],
    );
}

#[test]
fn the_first_fault_of_a_text_is_told() {
    let schema = lamp(
        json!({"name": {"type": "string", "pattern": "^[a-z]+$", "minLength": 2, "maxLength": 5}, "when": {"type": "string", "format": "date-time"}}),
    );
    check(
        schema.clone(),
        json!({"spec": {"name": "X", "when": "noon"}}),
        expect![[r#"
        spec.name: Invalid value: "X": spec.name in body should be at least 2 chars long
        spec.when: Invalid value: "noon": spec.when in body must be of type date-time: "noon""#]],
    );
    check(
        schema.clone(),
        json!({"spec": {"name": "Upper9"}}),
        expect!["spec.name: Too long: may not be more than 5 bytes"],
    );
    check(
        schema,
        json!({"spec": {"name": "UP"}}),
        expect![[r#"spec.name: Invalid value: "UP": spec.name in body should match '^[a-z]+$'"#]],
    );
}

#[test]
fn lists_choices_and_required_fields_are_checked() {
    let schema = json!({"type": "object", "required": ["spec"], "properties": {"spec": {"type": "object", "required": ["x"], "properties": {
        "tags": {"type": "array", "maxItems": 1, "items": {"type": "string"}},
        "colour": {"type": "string", "enum": ["warm", "cold"]},
        "port": {"x-kubernetes-int-or-string": true},
    }}}});
    check(schema.clone(), json!({}), expect!["spec: Required value"]);
    check(
        schema,
        json!({"spec": {"tags": ["a", 1], "colour": "blue", "port": true}}),
        expect![[r#"
        spec.tags[1]: Invalid value: "integer": spec.tags[1] in body must be of type string: "integer"
        spec.tags: Too many: 2: must have at most 1 items
        spec.colour: Unsupported value: "blue": supported values: "warm", "cold"
        spec.port: Invalid value: "boolean": spec.port in body must be of type integer,string: "boolean"
        spec.x: Required value"#]],
    );
}

#[test]
fn junctors_name_their_schema_and_the_nearest_alternative() {
    let schema = lamp(
        json!({"a": {"type": "object", "oneOf": [{"required": ["x"]}, {"required": ["y"]}], "properties": {"x": {"type": "string"}, "y": {"type": "string"}}}}),
    );
    check(
        schema.clone(),
        json!({"spec": {"a": {"x": "", "y": ""}}}),
        expect![[
            r#"<nil>: Invalid value: "": "spec.a" must validate one and only one schema (oneOf). Found 2 valid alternatives"#
        ]],
    );
    check(
        schema,
        json!({"spec": {"a": {}}}),
        expect![[r#"
        <nil>: Invalid value: "": "spec.a" must validate one and only one schema (oneOf). Found none valid
        spec.a.x: Required value"#]],
    );
    let schema = lamp(
        json!({"a": {"type": "integer", "not": {"enum": [5]}, "allOf": [{"minimum": 3}, {"maximum": 4}]}}),
    );
    check(
        schema,
        json!({"spec": {"a": 5}}),
        expect![[r#"
        spec.a: Invalid value: 5: spec.a in body should be less than or equal to 4
        <nil>: Invalid value: "": "spec.a" must validate all the schemas (allOf)
        <nil>: Invalid value: "": "spec.a" must not validate the schema (not)"#]],
    );
}

#[test]
fn what_an_update_leaves_alone_is_not_held_against_it() {
    let schema = lamp(
        json!({"a": {"type": "integer", "maximum": 1}, "b": {"type": "string"}, "l": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer", "maximum": 1}}}}}),
    );
    let old = json!({"spec": {"a": 9, "l": [{"k": "x", "v": 9}]}});
    check_update(
        schema.clone(),
        json!({"spec": {"a": 9, "b": "new", "l": [{"k": "y", "v": 1}, {"k": "x", "v": 9}]}}),
        Some(old.clone()),
        expect![[""]],
    );
    check_update(
        schema,
        json!({"spec": {"a": 8, "l": [{"k": "x", "v": 8}]}}),
        Some(old),
        expect![[r#"
        spec.a: Invalid value: 8: spec.a in body should be less than or equal to 1
        spec.l[0].v: Invalid value: 8: spec.l[0].v in body should be less than or equal to 1"#]],
    );
}

#[test]
fn null_is_a_value_only_where_it_may_be() {
    let schema = lamp(
        json!({"a": {"type": "string", "nullable": true, "enum": ["x"]}, "b": {"type": "array", "items": {"type": "string"}}}),
    );
    check(
        schema,
        json!({"spec": {"a": null, "b": [null]}}),
        expect![[r#"spec.b[0]: Invalid value: "null": spec.b[0] in body must be of type string: "null""#]],
    );
}
