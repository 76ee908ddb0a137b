//! The types that a validating policy is written for, and what of its expressions does not fit them: warnings for
//! the policy's status, since at run time everything is dynamic.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::Compiled;
use super::compiled::items;
use crate::cel::Type;
use crate::schema::Schema;

/// How many types a policy is checked against.
const TYPES_MAX: usize = 10;

/// What is wrong with one expression for some types.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    pub field: String,
    pub text: String,
}

/// The resources that a policy's rules name one by one: group, version, plural. Rules with stars name none.
pub fn resources_to_check(spec: &Value) -> Vec<(String, String, String)> {
    let mut found = BTreeSet::new();
    for rule in items(&spec["matchConstraints"]["resourceRules"]) {
        let named = |field: &str| -> BTreeSet<&str> {
            let all: BTreeSet<&str> = items(&rule[field]).filter_map(Value::as_str).collect();
            if all.contains("*") { BTreeSet::new() } else { all }
        };
        for group in named("apiGroups") {
            for version in named("apiVersions") {
                for resource in named("resources").into_iter().filter(|r| !r.contains('/')) {
                    found.insert((group.to_owned(), version.to_owned(), resource.to_owned()));
                }
            }
        }
    }
    found.into_iter().take(TYPES_MAX).collect()
}

/// Checks the validations of a policy against types, each with its name (`apps/v1, Kind=Deployment`).
pub fn type_check(spec: &Value, types: &[(String, Schema)], params: Option<&Schema>) -> Vec<Warning> {
    let params = params.and_then(|schema| Type::of_resource(schema, "params")).unwrap_or(Type::Dyn);
    let mut warnings: Vec<Warning> = Vec::new();
    for (name, schema) in types {
        let Some(object) = Type::of_resource(schema, name) else { continue };
        // Only what the status speaks of: the rules, with the variables that they use.
        let checked = json!({
            "paramKind": spec["paramKind"],
            "variables": spec["variables"],
            "validations": spec["validations"],
        });
        let compiled = Compiled::compile(&checked, object, params.clone(), false);
        let of_rules = |path: &str| path.starts_with("validations");
        for (path, expression) in compiled.errors().into_iter().filter(|(path, _)| of_rules(path)) {
            let why = expression.error().unwrap_or_default();
            let why = why.strip_prefix("compilation failed: ").unwrap_or(why);
            let (field, text) = (format!("spec.{path}"), format!("{name}: {why}"));
            match warnings.iter_mut().find(|warning| warning.field == field) {
                Some(warning) => warning.text = format!("{}\n{text}", warning.text),
                None => warnings.push(Warning { field, text }),
            }
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{kinds, schema};

    fn spec(expression: &str) -> Value {
        json!({
            "matchConstraints": {"resourceRules": [
                {"apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments", "deployments/scale"]},
                {"apiGroups": ["*"], "apiVersions": ["v1"], "resources": ["pods"]},
            ]},
            "variables": [{"name": "n", "expression": "object.spec.replicas"}],
            "validations": [{"expression": expression}],
        })
    }

    fn warnings(expression: &str) -> Vec<String> {
        let kind = kinds::find_kind("apps", "v1", "Deployment").unwrap();
        let types = [("apps/v1, Kind=Deployment".to_owned(), schema::builtin(kind).unwrap())];
        type_check(&spec(expression), &types, None)
            .into_iter()
            .map(|w| format!("{}: {}", w.field, w.text))
            .collect()
    }

    #[test]
    fn only_resources_that_are_named_are_checked() {
        let named = |text: &str| text.to_owned();
        assert_eq!(resources_to_check(&spec("true")), [(named("apps"), named("v1"), named("deployments"))]);
    }

    #[test]
    fn fields_that_a_type_does_not_have_are_told() {
        assert_eq!(warnings("variables.n > 1 && object.metadata.labels.size() > 0"), Vec::<String>::new());
        assert_eq!(
            warnings("object.replicas > 1"),
            [
                "spec.validations[0].expression: apps/v1, Kind=Deployment: ERROR: <input>:1:7: undefined field 'replicas'\n | object.replicas > 1\n | ......^"
            ]
        );
        assert_eq!(warnings("variables.n > 'a'").len(), 1);
    }
}
