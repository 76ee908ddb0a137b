//! `validatingadmissionpolicy-status-controller`: checks the rules of ValidatingAdmissionPolicies against the types
//! that they are written for.
//!
//! # Watches
//! ValidatingAdmissionPolicies, CustomResourceDefinitions.
//!
//! # Writes
//! `status.typeChecking` and `status.observedGeneration`, by server-side apply.
//!
//! # Guarantees
//! Each generation is checked; what has been checked is not written again.
//!
//! # Differs from Kubernetes
//! Nothing known.

use std::sync::Arc;

use api_types::kinds;
use api_types::policy::{Warning, resources_to_check, type_check};
use api_types::schema::{self, Schema};
use async_trait::async_trait;
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::controller::{Action, Controller, ReconcileError, Setup};
use crate::informers::Informer;
use crate::key::ObjectKey;

pub(crate) struct ValidatingAdmissionPolicyStatus {
    client: Client,
    policies: Arc<Informer<ValidatingAdmissionPolicy>>,
    definitions: Arc<Informer<CustomResourceDefinition>>,
}

#[async_trait]
impl Controller for ValidatingAdmissionPolicyStatus {
    const NAME: &'static str = "validatingadmissionpolicy-status-controller";
    const CONCURRENCY: usize = 1;

    fn watches(setup: &Setup<'_>) -> Self {
        let policies = setup.watch(|policy: &ValidatingAdmissionPolicy| vec![ObjectKey::of(policy)]);
        let definitions = setup.read();
        Self { client: setup.client.clone(), policies, definitions }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        let Some(policy) = self.policies.get(key) else { return Ok(Action::Done) };
        let Some(status) = plan(&policy, &self.definitions.all()) else { return Ok(Action::Done) };
        let api: Api<ValidatingAdmissionPolicy> = Api::all(self.client.clone());
        let body = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": key.name}, "status": status,
        });
        let params = PatchParams::apply(Self::NAME).force();
        api.patch_status(&key.name, &params, &Patch::Apply(&body)).await?;
        Ok(Action::Done)
    }
}

/// The status that the policy shall have, if its generation has not been checked yet.
fn plan(policy: &ValidatingAdmissionPolicy, definitions: &[Arc<CustomResourceDefinition>]) -> Option<Value> {
    let generation = policy.metadata.generation.unwrap_or_default();
    let observed = policy.status.as_ref().and_then(|status| status.observed_generation);
    if observed.is_some_and(|observed| observed >= generation) {
        return None;
    }
    let spec = json!(policy.spec);
    let types: Vec<(String, Schema)> = resources_to_check(&spec)
        .into_iter()
        .filter_map(|(group, version, plural)| find(definitions, &group, &version, |n| n.plural == plural))
        .collect();
    let params = &spec["paramKind"];
    let params =
        params["apiVersion"].as_str().zip(params["kind"].as_str()).and_then(|(api_version, kind)| {
            let (group, version) = kinds::split_api_version(api_version);
            find(definitions, group, version, |names| names.kind == kind)
        });
    let warnings = type_check(&spec, &types, params.as_ref().map(|(_, schema)| schema));
    let shown = |warning: Warning| json!({"fieldRef": warning.field, "warning": warning.text});
    let mut checked = json!({});
    if !warnings.is_empty() {
        checked["expressionWarnings"] = warnings.into_iter().map(shown).collect();
    }
    Some(json!({"observedGeneration": generation, "typeChecking": checked}))
}

/// What a resource is called.
struct Names<'n> {
    kind: &'n str,
    plural: &'n str,
}

/// The type of a built-in or custom resource, with its name as messages say it.
fn find(
    definitions: &[Arc<CustomResourceDefinition>],
    group: &str,
    version: &str,
    is_it: impl Fn(Names<'_>) -> bool,
) -> Option<(String, Schema)> {
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let shown = |kind: &str| format!("{api_version}, Kind={kind}");
    let names = |row: &kinds::Kind| is_it(Names { kind: &row.kind, plural: &row.plural });
    let mut rows = kinds::builtin().iter();
    if let Some(row) = rows.find(|row| row.group == group && row.version == version && names(row)) {
        return Some((shown(&row.kind), schema::builtin(row)?));
    }
    let custom = definitions.iter().find(|definition| {
        let spec = &definition.spec;
        spec.group == group && is_it(Names { kind: &spec.names.kind, plural: &spec.names.plural })
    })?;
    let version = custom.spec.versions.iter().find(|v| v.name == version)?;
    let schema = json!(version.schema.as_ref()?.open_api_v3_schema);
    Some((shown(&custom.spec.names.kind), Schema::from_openapi(&schema).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(group: &str, resource: &str, expression: &str) -> ValidatingAdmissionPolicy {
        let policy = json!({"metadata": {"name": "p", "generation": 2}, "spec": {
            "matchConstraints": {"resourceRules": [{"apiGroups": [group], "apiVersions": ["v1"],
                "operations": ["CREATE"], "resources": [resource]}]},
            "validations": [{"expression": expression}]}});
        serde_json::from_value(policy).unwrap()
    }

    fn lamps() -> Arc<CustomResourceDefinition> {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "on": {"type": "boolean"}}}}});
        let definition = json!({"metadata": {"name": "lamps.e.x"}, "spec": {
            "group": "e.x", "scope": "Namespaced", "names": {"plural": "lamps", "kind": "Lamp"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}});
        Arc::new(serde_json::from_value(definition).unwrap())
    }

    fn warning(group: &str, resource: &str, expression: &str) -> Option<String> {
        let status = plan(&policy(group, resource, expression), &[lamps()]).unwrap();
        assert_eq!(status["observedGeneration"], 2);
        status["typeChecking"]["expressionWarnings"][0]["warning"].as_str().map(str::to_owned)
    }

    #[test]
    fn rules_are_checked_against_built_in_and_custom_types() {
        assert_eq!(warning("apps", "deployments", "object.spec.replicas > 1"), None);
        assert!(
            warning("apps", "deployments", "object.spec.nope > 1")
                .unwrap()
                .starts_with("apps/v1, Kind=Deployment: ERROR")
        );
        assert_eq!(warning("e.x", "lamps", "object.spec.on"), None);
        assert!(warning("e.x", "lamps", "object.spec.off").unwrap().starts_with("e.x/v1, Kind=Lamp: ERROR"));
        assert_eq!(warning("none", "things", "object.spec.any"), None);
    }

    #[test]
    fn a_generation_is_checked_once() {
        let mut policy = policy("apps", "deployments", "true");
        policy.status = serde_json::from_value(json!({"observedGeneration": 2})).unwrap();
        assert_eq!(plan(&policy, &[]), None);
    }
}
