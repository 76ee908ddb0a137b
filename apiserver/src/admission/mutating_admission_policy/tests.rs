//! Mutating policies on single objects.

use serde_json::json;

use super::*;
use crate::admission::fixture;
use crate::view::fixture::Fixture;

fn world(mutations: Value) -> Fixture {
    let policy = json!({
        "metadata": {"name": "p", "uid": "u", "generation": 1},
        "spec": {
            "matchConstraints": {"resourceRules": [{"apiGroups": ["", "apps"], "apiVersions": ["v1"],
                "operations": ["CREATE"], "resources": ["configmaps", "deployments"]}]},
            "variables": [{"name": "key", "expression": "'k.x/y'"}],
            "matchConditions": [{"name": "c", "expression": "object.metadata.name != 'spared'"}],
            "mutations": mutations,
        },
    });
    let binding = json!({"metadata": {"name": "b"}, "spec": {"policyName": "p"}});
    Fixture::default().with(SORT.policies, policy).with(SORT.bindings, binding)
}

fn json_patch(expression: &str) -> Value {
    json!({"patchType": "JSONPatch", "jsonPatch": {"expression": expression}})
}

fn configuration(expression: &str) -> Value {
    json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}})
}

fn admitted(mutations: Value, storage: &str, object: Value) -> Result<Value, Status> {
    fixture::admit::<MutatingAdmissionPolicy>(world(mutations), storage, object)
}

fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "1"}})
}

#[test]
fn patches_and_configurations_change_the_object_one_after_the_other() {
    let mutations = json!([
        json_patch(
            "[JSONPatch{op: 'add', path: '/data/' + jsonpatch.escapeKey(variables.key), value: object.metadata.name}]"
        ),
        configuration("Object{metadata: Object.metadata{labels: {'size': string(object.data.size())}}}"),
    ]);
    let object = admitted(mutations.clone(), "configmaps", config_map("c")).unwrap();
    assert_eq!(object["data"], json!({"a": "1", "k.x/y": "c"}));
    assert_eq!(object["metadata"], json!({"name": "c", "labels": {"size": "2"}}));
    assert_eq!(admitted(mutations, "configmaps", config_map("spared")), Ok(config_map("spared")));
}

#[test]
fn a_configuration_is_merged_by_the_keys_of_lists() {
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {
        "template": {"spec": {"containers": [{"name": "a", "image": "a:1"}, {"name": "b", "image": "b:1"}]}}}});
    let mutation = |container: &str| {
        let container = format!("Object.spec.template.spec.containers{{name: 'b', {container}}}");
        configuration(&format!(
            "Object{{spec: Object.spec{{template: Object.spec.template{{spec: Object.spec.template.spec{{containers: [{container}]}}}}}}}}"
        ))
    };
    let object = admitted(json!([mutation("image: 'b:2'")]), "apps/deployments", deployment.clone()).unwrap();
    let containers = &object["spec"]["template"]["spec"]["containers"];
    assert_eq!((&containers[0]["image"], &containers[1]["image"]), (&json!("a:1"), &json!("b:2")));
    let refused = admitted(json!([mutation("args: ['x']")]), "apps/deployments", deployment).unwrap_err();
    assert_eq!(refused.message, "deployments.apps \"d\" is forbidden: admission request denied by policy");
    let cause = &refused.details().unwrap().causes[0].message;
    assert_eq!(
        cause,
        "policy 'p' with binding 'b' denied request: error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.template.spec.containers.args"
    );
}

#[test]
fn a_mutation_that_fails_refuses_and_leaves_the_object() {
    let broken = json!([configuration("Object{metadata: Object.metadata{labels: {'a': object.data.none}}}")]);
    let refused = admitted(broken, "configmaps", config_map("c")).unwrap_err();
    assert_eq!(refused.code(), 422);
    let missing = json!([json_patch("[JSONPatch{op: 'remove', path: '/data/none'}]")]);
    assert_eq!(admitted(missing, "configmaps", config_map("c")).unwrap_err().code(), 422);
}
