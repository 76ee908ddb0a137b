//! Validating policies on single objects.

use serde_json::json;

use super::*;
use crate::UserInfo;
use crate::admission::{Operation, fixture};
use crate::view::fixture::Fixture;

fn world(spec: Value, binding: Value) -> Fixture {
    let mut policy = json!({
        "metadata": {"name": "p", "uid": "u", "generation": 1},
        "spec": {"matchConstraints": {"resourceRules": [
            {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["configmaps"]}
        ]}},
    });
    let mut bound = json!({
        "metadata": {"name": "b"}, "spec": {"policyName": "p", "validationActions": ["Deny"]},
    });
    for (object, more) in [(&mut policy, spec), (&mut bound, binding)] {
        for (field, value) in more.as_object().unwrap() {
            object["spec"][field] = value.clone();
        }
    }
    Fixture::default()
        .with("namespaces", json!({"metadata": {"name": "n", "labels": {"env": "prod"}}}))
        .with("namespaces", json!({"metadata": {"name": "other"}}))
        .with(SORT.policies, policy)
        .with(SORT.bindings, bound)
}

fn config_map() -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "n"}, "data": {"a": "1"}})
}

/// What is said about the creation of a ConfigMap: the refusal with its code, and the warnings.
fn creation(world: &Fixture) -> (Option<(u16, String)>, Vec<String>) {
    let user = UserInfo::admin();
    let new = Some(config_map());
    fixture::review(world, &user, Operation::Create, "configmaps", "", None, new, |review| {
        let refused = ValidatingAdmissionPolicy::validate(review).err();
        (refused.map(|status| (status.code(), status.message)), review.notes.take_warnings())
    })
}

#[track_caller]
fn refused(spec: Value, code: u16, why: &str) {
    let denied = format!(
        "configmaps \"c\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: {why}"
    );
    assert_eq!(creation(&world(spec, json!({}))).0, Some((code, denied)));
}

#[track_caller]
fn passes(spec: Value, binding: Value) {
    assert_eq!(creation(&world(spec, binding)).0, None);
}

#[test]
fn a_rule_that_does_not_hold_refuses_with_its_message_and_reason() {
    passes(json!({"validations": [{"expression": "object.data.a == '1'"}]}), json!({}));
    refused(
        json!({"validations": [{"expression": "object.data.a == '2'"}]}),
        422,
        "failed expression: object.data.a == '2'",
    );
    refused(
        json!({"validations": [{"expression": "false", "message": "no", "reason": "Forbidden"}]}),
        403,
        "no",
    );
    refused(
        json!({"validations": [{"expression": "false", "message": "no", "messageExpression": "'not ' + object.data.a"}]}),
        422,
        "not 1",
    );
    refused(
        json!({"validations": [{"expression": "false", "message": "no", "messageExpression": "object.data.b"}]}),
        422,
        "no",
    );
}

#[test]
fn a_rule_that_fails_refuses_unless_the_policy_may_fail() {
    let rules = json!([{"expression": "object.data.b == '1'"}]);
    refused(
        json!({"validations": rules}),
        422,
        "expression 'object.data.b == '1'' resulted in error: no such key: b",
    );
    passes(json!({"validations": rules, "failurePolicy": "Ignore"}), json!({}));
}

#[test]
fn expressions_see_the_request_the_namespace_and_who_may_do_what() {
    for expression in [
        "request.operation == 'CREATE' && request.kind.kind == 'ConfigMap' && !has(request.subResource)",
        "request.userInfo.username != '' && request.namespace == 'n' && request.name == 'c'",
        "namespaceObject.metadata.labels['env'] == 'prod' && oldObject == null",
        "authorizer.group('').resource('pods').namespace('n').check('create').allowed()",
        "authorizer.requestResource.check('create').allowed()",
        "!authorizer.serviceAccount('n', 'x').path('/metrics').check('get').allowed()",
    ] {
        passes(json!({"validations": [{"expression": expression}]}), json!({}));
    }
}

#[test]
fn variables_see_those_before_them_and_are_evaluated_only_when_needed() {
    let variables = json!([
        {"name": "a", "expression": "object.data.a"},
        {"name": "b", "expression": "variables.a + variables.a"},
        {"name": "bad", "expression": "object.data.missing"},
    ]);
    passes(
        json!({"variables": variables, "validations": [{"expression": "variables.b == '11'"}]}),
        json!({}),
    );
    refused(
        json!({"variables": variables, "validations": [{"expression": "variables.bad == ''"}]}),
        422,
        "expression 'variables.bad == ''' resulted in error: composited variable \"bad\" fails to evaluate: no such key: missing",
    );
}

#[test]
fn conditions_and_selectors_narrow_a_policy() {
    let rules = json!([{"expression": "false"}]);
    passes(
        json!({"validations": rules, "matchConditions": [{"name": "x", "expression": "object.data.a == '2'"}]}),
        json!({}),
    );
    passes(
        json!({"validations": rules}),
        json!({"matchResources": {"namespaceSelector": {"matchLabels": {"env": "test"}}}}),
    );
    passes(
        json!({"validations": rules}),
        json!({"matchResources": {"excludeResourceRules": [
            {"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["CREATE"], "resources": ["configmaps"]}
        ]}}),
    );
    passes(
        json!({"validations": rules}),
        json!({"matchResources": {"objectSelector": {"matchLabels": {"x": "y"}}}}),
    );
    refused(
        json!({"validations": rules, "matchConditions": [{"name": "x", "expression": "object.data.b == '2'"}]}),
        422,
        "expression 'object.data.b == '2'' resulted in error: no such key: b",
    );
}

#[test]
fn actions_say_whether_a_finding_refuses_or_warns() {
    let world = world(
        json!({"validations": [{"expression": "false", "message": "odd"}]}),
        json!({"validationActions": ["Warn", "Audit"]}),
    );
    let (refused, warnings) = creation(&world);
    assert_eq!(refused, None);
    assert_eq!(warnings, ["Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': odd"]);
}

#[test]
fn parameters_are_found_by_name_or_label_in_the_objects_namespace() {
    let limit = |namespace: &str, max: &str| json!({"metadata": {"name": "limit", "namespace": namespace, "labels": {"l": "x"}}, "data": {"max": max}});
    let spec = json!({
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "validations": [{"expression": "params == null || object.data.a == params.data.max", "message": "over"}],
    });
    let bound = |reference: Value| {
        world(spec.clone(), json!({"paramRef": reference}))
            .with("configmaps", limit("n", "1"))
            .with("configmaps", limit("other", "2"))
    };
    let said = |reference: Value| creation(&bound(reference)).0.map(|(_, why)| why);
    let deny = |name: &str| json!({"name": name, "parameterNotFoundAction": "Deny"});
    assert_eq!(said(deny("limit")), None);
    assert!(said(json!({"name": "limit", "namespace": "other"})).unwrap().ends_with("denied request: over"));
    assert_eq!(said(json!({"selector": {"matchLabels": {"l": "x"}}})), None);
    assert_eq!(said(json!({"name": "none", "parameterNotFoundAction": "Allow"})), None);
    assert!(said(deny("none")).unwrap().ends_with(
        "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"
    ));
}

#[test]
fn policies_do_not_judge_policies() {
    let everything =
        json!([{"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*"]}]);
    let spec =
        json!({"matchConstraints": {"resourceRules": everything}, "validations": [{"expression": "false"}]});
    let world = world(spec, json!({}));
    assert!(creation(&world).0.is_some());
    let user = UserInfo::admin();
    let policy = Some(json!({"metadata": {"name": "p"}}));
    let outcome =
        fixture::review(&world, &user, Operation::Create, SORT.policies, "", None, policy, |review| {
            ValidatingAdmissionPolicy::validate(review)
        });
    assert_eq!(outcome, Ok(()));
}
