//! `resourceclaim-controller`: makes the ResourceClaims that pods have templates for, and frees them again.
//!
//! # Watches
//! Pods with resource claims, ResourceClaims, ResourceClaimTemplates.
//!
//! # Writes
//! A ResourceClaim for each template that a pod names, owned by the pod, and its name into the pod's status.
//! Takes pods that are done from `reservedFor`; frees the devices of a claim that nobody has reserved, and
//! deletes one that was made for a pod that is done.
//!
//! # Guarantees
//! One claim per pod and entry: one that was made already, but not noted in the pod, is found by its annotation.
//!
//! # Differs from Kubernetes
//! Claims are not reserved for pods that got their node without a scheduler.

use std::collections::BTreeMap;
use std::sync::Arc;

use api_types::pods;
use async_trait::async_trait;
use component_base::client::told;
use k8s_openapi::api::core::v1::{Pod, PodResourceClaimStatus};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimConsumerReference, ResourceClaimTemplate};
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client};
use serde_json::json;

use crate::controller::{Action, Controller, Events, ReconcileError, Setup};
use crate::finalizers::drop_finalizer;
use crate::informers::Informer;
use crate::key::ObjectKey;
use crate::owners::{annotation, controller_of, controller_reference, is_deleting, name_of, uid_of};

const POD_CLAIM_NAME: &str = "resource.kubernetes.io/pod-claim-name";
const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// In front of the name, a key is that of a claim.
const CLAIM: &str = "claim:";
/// Kubernetes cuts what a claim's name is made from to this length.
const BASE_CHARS_MAX: usize = 63 - 5 - 1;

pub(crate) struct ResourceClaims {
    client: Client,
    events: Events,
    pods: Arc<Informer<Pod>>,
    claims: Arc<Informer<ResourceClaim>>,
    templates: Arc<Informer<ResourceClaimTemplate>>,
}

/// What a pod's entry needs.
#[derive(Debug, PartialEq)]
enum Entry {
    /// A claim from the template of this name.
    Make { entry: String, template: String },
    /// This claim was made for it.
    Has(PodResourceClaimStatus),
}

/// The entries of the pod that name templates; `owned` are the claims that the pod owns.
fn plan_pod(pod: &Pod, owned: &[Arc<ResourceClaim>]) -> Vec<Entry> {
    if is_deleting(&pod.metadata) || pods::is_terminal(pod) {
        return Vec::new();
    }
    let entries = pod.spec.iter().flat_map(|spec| spec.resource_claims.iter().flatten());
    let plan = |(name, template): (&String, &String)| {
        let made_for = |claim: &&Arc<ResourceClaim>| {
            annotation(&claim.metadata, POD_CLAIM_NAME) == Some(name) && !is_deleting(&claim.metadata)
        };
        match owned.iter().find(made_for) {
            Some(claim) => Entry::Has(PodResourceClaimStatus {
                name: name.clone(),
                resource_claim_name: claim.metadata.name.clone(),
            }),
            None => Entry::Make { entry: name.clone(), template: template.clone() },
        }
    };
    let named = entries.filter_map(|entry| Some((&entry.name, entry.resource_claim_template_name.as_ref()?)));
    named.map(plan).collect()
}

/// What becomes of a claim.
#[derive(Debug, PartialEq)]
enum Step {
    Keep,
    /// Only these have it still.
    Reserve(Vec<ResourceClaimConsumerReference>),
    /// Nobody has it: free its devices.
    Free,
    /// Its devices are free: let it go when it is being deleted.
    Unprotect,
    /// It was made for a pod that is done.
    Delete,
}

/// Decides about a claim; `is_done` says whether a pod of this name and uid needs it no more.
fn plan_claim(claim: &ResourceClaim, is_done: impl Fn(&str, &str) -> bool) -> Step {
    let status = claim.status.clone().unwrap_or_default();
    let reserved = status.reserved_for.unwrap_or_default();
    let has = |one: &ResourceClaimConsumerReference| {
        let is_pod = one.resource == "pods" && one.api_group.as_deref().unwrap_or_default().is_empty();
        !is_pod || !is_done(&one.name, &one.uid)
    };
    let rest: Vec<_> = reserved.iter().filter(|one| has(one)).cloned().collect();
    let owner = controller_of(&claim.metadata).filter(|owner| owner.kind == "Pod");
    let is_over = owner.is_some_and(|owner| is_done(&owner.name, &owner.uid));
    // Who allocates a claim protects it before: without these one might be taken in between.
    let ends = is_over || is_deleting(&claim.metadata);
    let protected = ends && claim.metadata.finalizers.iter().flatten().any(|one| one == FINALIZER);
    match (rest.is_empty(), status.allocation.is_some()) {
        (false, _) if rest.len() == reserved.len() => Step::Keep,
        (false, _) => Step::Reserve(rest),
        (true, true) if !reserved.is_empty() || is_deleting(&claim.metadata) => Step::Free,
        (true, false) if protected => Step::Unprotect,
        (true, _) if is_over && !is_deleting(&claim.metadata) => Step::Delete,
        (true, false) if !reserved.is_empty() => Step::Reserve(rest),
        _ => Step::Keep,
    }
}

#[async_trait]
impl Controller for ResourceClaims {
    const NAME: &'static str = "resourceclaim-controller";

    fn watches(setup: &Setup<'_>) -> Self {
        let pods = setup.watch(|pod: &Pod| {
            let claims = pod.status.iter().flat_map(|status| status.resource_claim_statuses.iter().flatten());
            let named = claims.filter_map(|claim| claim.resource_claim_name.clone());
            let direct = pod.spec.iter().flat_map(|spec| spec.resource_claims.iter().flatten());
            let direct = direct.filter_map(|entry| entry.resource_claim_name.clone());
            let namespace = pod.metadata.namespace.clone().unwrap_or_default();
            let mut keys: Vec<ObjectKey> =
                named.chain(direct).map(|name| claim_key(&namespace, &name)).collect();
            if pod.spec.as_ref().is_some_and(|spec| spec.resource_claims.is_some()) {
                keys.push(ObjectKey::of(pod));
            }
            keys
        });
        let claims = setup.watch(|claim: &ResourceClaim| {
            let namespace = claim.metadata.namespace.clone().unwrap_or_default();
            let pod = crate::owners::controller_key::<Pod>(&claim.metadata);
            pod.into_iter().chain([claim_key(&namespace, name_of(&claim.metadata))]).collect()
        });
        let waiting = pods.clone();
        let templates = setup.watch(move |template: &ResourceClaimTemplate| {
            let name = template.metadata.name.clone();
            let all = waiting.in_namespace(template.metadata.namespace.as_deref().unwrap_or_default());
            let names = |pod: &&Arc<Pod>| {
                let mut entries = pod.spec.iter().flat_map(|spec| spec.resource_claims.iter().flatten());
                entries.any(|entry| entry.resource_claim_template_name == name)
            };
            all.iter().filter(names).map(|pod| ObjectKey::of(&**pod)).collect()
        });
        Self { client: setup.client.clone(), events: setup.events(), pods, claims, templates }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        match key.name.strip_prefix(CLAIM) {
            Some(name) => self.sync_claim(&ObjectKey::new(&*key.namespace, name)).await?,
            None => self.sync_pod(key).await?,
        }
        Ok(Action::Done)
    }
}

fn claim_key(namespace: &str, name: &str) -> ObjectKey {
    ObjectKey::new(namespace, format!("{CLAIM}{name}"))
}

impl ResourceClaims {
    async fn sync_pod(&self, key: &ObjectKey) -> Result<(), ReconcileError> {
        let Some(pod) = self.pods.get(key) else { return Ok(()) };
        let mut wanted = Vec::new();
        for entry in plan_pod(&pod, &self.claims.owned_by(uid_of(&pod.metadata))) {
            wanted.push(match entry {
                Entry::Has(status) => status,
                Entry::Make { entry, template } => match self.make(&pod, &entry, &template).await {
                    Ok(status) => status,
                    Err(error) => {
                        let message = format!("PodResourceClaim {entry}: {}", told(&error));
                        self.events.warning(&*pod, "FailedResourceClaimCreation", &message);
                        return Err(error);
                    }
                },
            });
        }
        let noted = pod.status.as_ref().and_then(|status| status.resource_claim_statuses.clone());
        if wanted.is_empty() || noted.as_ref() == Some(&wanted) {
            return Ok(());
        }
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let patch =
            json!({"metadata": {"uid": pod.metadata.uid}, "status": {"resourceClaimStatuses": wanted}});
        api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    async fn make(
        &self,
        pod: &Pod,
        entry: &str,
        template: &str,
    ) -> Result<PodResourceClaimStatus, ReconcileError> {
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let found = self.templates.get(&ObjectKey::new(&*namespace, template)).ok_or_else(|| {
            ReconcileError::Again(format!(
                "resource claim template {template:?}: resourceclaimtemplate.resource.k8s.io {template:?} not found"
            ))
        })?;
        let api: Api<ResourceClaim> = Api::namespaced(self.client.clone(), &namespace);
        // The cache may not know yet what was made a moment ago.
        let live = api.list(&kube::api::ListParams::default()).await?;
        let is_it = |claim: &&ResourceClaim| {
            annotation(&claim.metadata, POD_CLAIM_NAME) == Some(entry)
                && controller_of(&claim.metadata).is_some_and(|owner| owner.uid == uid_of(&pod.metadata))
        };
        let name = match live.items.iter().find(is_it) {
            Some(claim) => claim.metadata.name.clone(),
            None => api.create(&PostParams::default(), &claim_for(pod, entry, &found)).await?.metadata.name,
        };
        Ok(PodResourceClaimStatus { name: entry.to_owned(), resource_claim_name: name })
    }

    async fn sync_claim(&self, key: &ObjectKey) -> Result<(), ReconcileError> {
        let Some(claim) = self.claims.get(key) else { return Ok(()) };
        let api: Api<ResourceClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        let of_pods: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let mut living = BTreeMap::new();
        let reserved = claim.status.iter().flat_map(|status| status.reserved_for.iter().flatten());
        let owner = controller_of(&claim.metadata).map(|owner| owner.name.clone());
        for name in reserved.map(|one| one.name.clone()).chain(owner) {
            // That a pod is gone is taken from the server, never from the cache.
            let pod = match self.pods.get(&ObjectKey::new(&*key.namespace, &*name)) {
                Some(pod) => Some(pod),
                None => of_pods.get_opt(&name).await?.map(Arc::new),
            };
            living
                .extend(pod.filter(|pod| !is_done(pod)).map(|pod| (name, uid_of(&pod.metadata).to_owned())));
        }
        let step = plan_claim(&claim, |name, uid| living.get(name).is_none_or(|living| living != uid));
        let status = |status: serde_json::Value| {
            let revision = &claim.metadata.resource_version;
            Patch::Merge(json!({"metadata": {"resourceVersion": revision}, "status": status}))
        };
        match step {
            Step::Keep => {}
            Step::Reserve(rest) => {
                let patch = status(json!({"reservedFor": rest}));
                api.patch_status(&key.name, &PatchParams::default(), &patch).await?;
            }
            Step::Free => {
                let patch = status(json!({"reservedFor": null, "allocation": null}));
                api.patch_status(&key.name, &PatchParams::default(), &patch).await?;
            }
            Step::Unprotect => drop_finalizer(&api, &*claim, FINALIZER).await?,
            Step::Delete => {
                let preconditions = Preconditions { uid: claim.metadata.uid.clone(), resource_version: None };
                let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
                api.delete(&key.name, &params).await?;
            }
        }
        Ok(())
    }
}

/// A pod needs its devices until it has ended, or was deleted before it had a node.
fn is_done(pod: &Pod) -> bool {
    pods::is_terminal(pod) || (is_deleting(&pod.metadata) && !pods::is_bound(pod))
}

fn claim_for(pod: &Pod, entry: &str, template: &ResourceClaimTemplate) -> ResourceClaim {
    let given = template.spec.metadata.clone().unwrap_or_default();
    let mut annotations = given.annotations.unwrap_or_default();
    annotations.insert(POD_CLAIM_NAME.to_owned(), entry.to_owned());
    let base = format!("{}-{entry}", name_of(&pod.metadata));
    let base: String = base.chars().take(BASE_CHARS_MAX).collect();
    ResourceClaim {
        metadata: ObjectMeta {
            generate_name: Some(format!("{base}-")),
            namespace: pod.metadata.namespace.clone(),
            labels: given.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![controller_reference(pod)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.spec.clone(),
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn pod(phase: &str) -> Pod {
        let entries = json!([{"name": "gpu", "resourceClaimTemplateName": "t"}, {"name": "own", "resourceClaimName": "c"}]);
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "spec": {"containers": [], "resourceClaims": entries}, "status": {"phase": phase}}))
        .unwrap()
    }

    fn claim(metadata: Value, status: Value) -> ResourceClaim {
        serde_json::from_value(json!({"metadata": metadata, "spec": {}, "status": status})).unwrap()
    }

    #[test]
    fn an_entry_with_a_template_gets_one_claim() {
        let make = Entry::Make { entry: "gpu".to_owned(), template: "t".to_owned() };
        assert_eq!(plan_pod(&pod("Pending"), &[]), [make]);
        let made = claim(json!({"name": "p-gpu-x", "annotations": {POD_CLAIM_NAME: "gpu"}}), json!({}));
        let has = PodResourceClaimStatus {
            name: "gpu".to_owned(),
            resource_claim_name: Some("p-gpu-x".to_owned()),
        };
        assert_eq!(plan_pod(&pod("Pending"), &[Arc::new(made)]), [Entry::Has(has)]);
        assert!(plan_pod(&pod("Succeeded"), &[]).is_empty());
    }

    #[test]
    fn a_claim_is_named_after_pod_and_entry() {
        let template = serde_json::from_value(json!({"metadata": {}, "spec": {"spec": {}}})).unwrap();
        let made = claim_for(&pod("Pending"), "gpu", &template);
        assert_eq!(made.metadata.generate_name.as_deref(), Some("p-gpu-"));
        assert_eq!(controller_of(&made.metadata).unwrap().uid, "u");
    }

    #[test]
    fn a_claim_is_free_when_the_last_pod_is_done() {
        let consumer = |name: &str| json!({"resource": "pods", "name": name, "uid": name});
        let of = |names: &[&str], allocated: bool| {
            let mut status =
                json!({"reservedFor": names.iter().map(|name| consumer(name)).collect::<Value>()});
            if allocated {
                status["allocation"] = json!({});
            }
            claim(json!({"name": "c"}), status)
        };
        let done = |name: &str, _: &str| name == "done";
        assert_eq!(plan_claim(&of(&["runs"], true), done), Step::Keep);
        let Step::Reserve(rest) = plan_claim(&of(&["runs", "done"], true), done) else { panic!() };
        assert_eq!(rest.len(), 1);
        assert_eq!(plan_claim(&of(&["done"], true), done), Step::Free);
        assert_eq!(plan_claim(&of(&[], true), done), Step::Keep, "who allocated it may still reserve it");
    }

    #[test]
    fn a_free_claim_of_a_done_pod_goes() {
        let owner =
            json!([{"kind": "Pod", "apiVersion": "v1", "name": "done", "uid": "done", "controller": true}]);
        let done = |name: &str, _: &str| name == "done";
        assert_eq!(plan_claim(&claim(json!({"ownerReferences": owner}), json!({})), done), Step::Delete);
        let protected = json!({"ownerReferences": owner, "finalizers": [FINALIZER]});
        assert_eq!(plan_claim(&claim(protected, json!({})), done), Step::Unprotect);
    }
}
