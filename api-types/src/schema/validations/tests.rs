//! Rules of custom schemas on objects, with the texts of what they refuse.

use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::{Limits, Validations, check_costs};
use crate::schema::Schema;

fn compile(openapi: &Value) -> Validations {
    let (rules, errors) = Validations::compile(&Schema::from_openapi(openapi).unwrap(), openapi);
    assert!(errors.is_empty(), "{errors:?}");
    rules
}

fn lamp() -> Value {
    json!({"type": "object", "properties": {"spec": {"type": "object",
        "x-kubernetes-validations": [
            {"rule": "self.min <= self.max", "message": "min must not pass max"},
            {"rule": "self.max < 100", "messageExpression": "self.max > 150 ? 'far too large' : 'too large'", "reason": "FieldValueForbidden", "fieldPath": ".max"},
        ],
        "properties": {
            "min": {"type": "integer"}, "max": {"type": "integer"},
            "name": {"type": "string", "maxLength": 50, "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "name is fixed"}, {"rule": "self.startsWith('n-')"}]},
            "opt": {"type": "string", "maxLength": 10, "x-kubernetes-validations": [{"rule": "oldSelf.hasValue() ? self == oldSelf.value() : self == 'first'", "optionalOldSelf": true}]},
        },
    }}})
}

fn check(value: Value, old: Option<Value>, expect: Expect) {
    let errors = compile(&lamp()).check(&value, old.as_ref());
    expect.assert_eq(&errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
}

#[test]
fn broken_rules_are_told_with_their_messages() {
    check(
        json!({"spec": {"min": 300, "max": 200, "name": "bad", "opt": "second"}}),
        None,
        expect![[r#"
        spec: Invalid value: min must not pass max
        spec.max: Forbidden: far too large
        spec.name: Invalid value: "bad": failed rule: self.startsWith('n-')
        spec.opt: Invalid value: "second": failed rule: oldSelf.hasValue() ? self == oldSelf.value() : self == 'first'"#]],
    );
}

#[test]
fn a_rule_without_a_value_says_why() {
    check(
        json!({"spec": {"min": 1}}),
        None,
        expect![[r#"
        spec: Invalid value: "object": no such key: max evaluating rule: min must not pass max
        spec: Invalid value: "object": no such key: max evaluating rule: self.max < 100"#]],
    );
}

#[test]
fn an_update_answers_for_what_it_changes() {
    let old = json!({"spec": {"min": 9, "max": 2, "name": "bad", "opt": "x"}});
    check(old.clone(), Some(old.clone()), expect![[""]]);
    check(
        json!({"spec": {"min": 1, "max": 2, "name": "n-b", "opt": "y"}}),
        Some(old),
        expect![[r#"
        spec.name: Invalid value: "n-b": name is fixed
        spec.opt: Invalid value: "y": failed rule: oldSelf.hasValue() ? self == oldSelf.value() : self == 'first'"#]],
    );
}

#[test]
fn a_rule_over_unbounded_lists_costs_too_much() {
    let openapi = |bound: Value| json!({"type": "object", "properties": {"l": {"type": "array", "maxItems": bound, "items": {"type": "string", "maxLength": 10}, "x-kubernetes-validations": [{"rule": "self.all(a, self.all(b, a == b))"}]}}});
    let costs = |openapi: Value| check_costs(&compile(&openapi), &openapi, Limits::default()).len();
    assert_eq!(costs(openapi(json!(10))), 0);
    assert!(costs(openapi(Value::Null)) > 0);
}
