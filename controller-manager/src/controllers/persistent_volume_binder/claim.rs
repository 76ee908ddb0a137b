//! What a claim needs next. Pure.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;

use super::matching::{class_of_claim, find, is_bound_to, leaves_class_open, mismatch};
use super::{BIND_COMPLETED, BOUND_BY_CONTROLLER, PROVISIONER, SELECTED_NODE, Told};
use crate::owners::{annotation, name_of};

/// What is known about a claim.
pub(super) struct Observed<'a> {
    pub claim: &'a PersistentVolumeClaim,
    pub volumes: &'a [Arc<PersistentVolume>],
    /// The class that the claim names, if it exists.
    pub class: Option<&'a StorageClass>,
    pub default_class: Option<&'a str>,
    /// The pods that use the claim and have no node, by name.
    pub unscheduled: Vec<String>,
    /// The node of a pod that uses the claim.
    pub node: Option<String>,
}

#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// Write the default class into the claim.
    SetClass(String),
    /// Make the two each other's, as far as they are not.
    Bind(Arc<PersistentVolume>),
    /// Ask the provisioner of this name for a volume, on this node if one is named.
    Provision {
        provisioner: String,
        node: Option<String>,
    },
    Phase(&'static str),
    Tell(Told),
}

pub(super) fn plan(observed: &Observed<'_>) -> Vec<Step> {
    if annotation(&observed.claim.metadata, BIND_COMPLETED).is_some() {
        return plan_bound(observed);
    }
    match wanted_volume(observed.claim) {
        "" => plan_open(observed),
        name => plan_named(observed, name),
    }
}

fn wanted_volume(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default()
}

fn volume_named<'a>(observed: &Observed<'a>, name: &str) -> Option<&'a Arc<PersistentVolume>> {
    observed.volumes.iter().find(|volume| name_of(&volume.metadata) == name)
}

/// The claim was bound once: what is missing now is lost.
fn plan_bound(observed: &Observed<'_>) -> Vec<Step> {
    let lost = |reason, message: &str| {
        vec![Step::Phase("Lost"), Step::Tell(Told::warning(reason, message.to_owned()))]
    };
    let name = wanted_volume(observed.claim);
    let is_lost = observed.claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Lost");
    let steps = match volume_named(observed, name) {
        _ if name.is_empty() => lost(
            "ClaimLost",
            "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!",
        ),
        None => lost("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!"),
        Some(volume) if is_free(volume) || is_bound_to(volume, observed.claim) => {
            return vec![Step::Bind(volume.clone())];
        }
        Some(_) => {
            lost("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
        }
    };
    if is_lost { Vec::new() } else { steps }
}

fn is_free(volume: &PersistentVolume) -> bool {
    volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_none())
}

/// The claim names its volume.
fn plan_named(observed: &Observed<'_>, name: &str) -> Vec<Step> {
    let pending = Step::Phase("Pending");
    let Some(volume) = volume_named(observed, name) else { return vec![pending] };
    if is_free(volume) {
        return match mismatch(volume, observed.claim) {
            None => vec![Step::Bind(volume.clone())],
            Some(why) => {
                let message = format!("Cannot bind to requested volume {name:?}: {why}");
                vec![Step::Tell(Told::warning("VolumeMismatch", message)), pending]
            }
        };
    }
    if is_bound_to(volume, observed.claim) {
        return vec![Step::Bind(volume.clone())];
    }
    let message = format!("volume {name:?} already bound to a different claim.");
    vec![Step::Tell(Told::warning("FailedBinding", message)), pending]
}

/// The claim takes any volume that fits.
fn plan_open(observed: &Observed<'_>) -> Vec<Step> {
    let claim = observed.claim;
    if let Some(class) = observed.default_class.filter(|_| leaves_class_open(claim)) {
        return vec![Step::SetClass(class.to_owned())];
    }
    let mode = observed.class.and_then(|class| class.volume_binding_mode.as_deref());
    let waits = mode == Some("WaitForFirstConsumer");
    let chosen = annotation(&claim.metadata, SELECTED_NODE).map(str::to_owned);
    let node = chosen.clone().or_else(|| observed.node.clone().filter(|_| waits));
    // A scheduler that chose a node and no volume wants one made.
    let only_kept = waits && (node.is_none() || chosen.is_some());
    if let Some(volume) = find(claim, observed.volumes, only_kept) {
        return vec![Step::Bind(volume.clone())];
    }
    let mut steps = vec![Step::Phase("Pending")];
    let class = class_of_claim(claim);
    steps.extend(match (observed.class, class) {
        (Some(_), _) if waits && node.is_none() => vec![Step::Tell(waiting(&observed.unscheduled))],
        (Some(found), _) => provision(found, claim, node.filter(|_| chosen.is_none())),
        (None, "") => {
            let message = "no persistent volumes available for this claim and no storage class is set";
            vec![Step::Tell(Told::normal("FailedBinding", message.to_owned()))]
        }
        (None, class) => {
            let message = format!("storageclass.storage.k8s.io {class:?} not found");
            vec![Step::Tell(Told::warning("ProvisioningFailed", message))]
        }
    });
    steps
}

fn waiting(unscheduled: &[String]) -> Told {
    match unscheduled {
        [] => Told::normal(
            "WaitForFirstConsumer",
            "waiting for first consumer to be created before binding".to_owned(),
        ),
        [one] => Told::normal("WaitForPodScheduled", format!("waiting for pod {one} to be scheduled")),
        more => {
            let names = more.join(",");
            Told::normal("WaitForPodScheduled", format!("waiting for pods {names} to be scheduled"))
        }
    }
}

fn provision(class: &StorageClass, claim: &PersistentVolumeClaim, node: Option<String>) -> Vec<Step> {
    let provisioner = &class.provisioner;
    if provisioner.starts_with("kubernetes.io/") {
        let message = format!("no volume plugin matched name: {provisioner}");
        return vec![Step::Tell(Told::warning("ProvisioningFailed", message))];
    }
    let message = format!(
        "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."
    );
    let asked = annotation(&claim.metadata, PROVISIONER) == Some(provisioner) && node.is_none();
    let ask = (!asked).then(|| Step::Provision { provisioner: provisioner.clone(), node });
    ask.into_iter().chain([Step::Tell(Told::normal("ExternalProvisioning", message))]).collect()
}

/// Whether the binding wrote the volume's name into the claim, and not a user.
pub(super) fn annotations_of_binding(claim: &PersistentVolumeClaim) -> Vec<&'static str> {
    let meta = &claim.metadata;
    let by_us = wanted_volume(claim).is_empty() && annotation(meta, BOUND_BY_CONTROLLER).is_none();
    let new = annotation(meta, BIND_COMPLETED).is_none();
    let names = [(by_us, BOUND_BY_CONTROLLER), (new, BIND_COMPLETED)];
    names.into_iter().filter(|(wanted, _)| *wanted).map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claim(metadata: Value, spec: Value) -> PersistentVolumeClaim {
        let mut all = json!({"name": "c", "namespace": "ns", "uid": "u"});
        all.as_object_mut().unwrap().extend(metadata.as_object().unwrap().clone());
        let mut of = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
        of.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        serde_json::from_value(json!({"metadata": all, "spec": of})).unwrap()
    }

    fn volume(spec: Value) -> Arc<PersistentVolume> {
        let mut of = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}});
        of.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let object = json!({"metadata": {"name": "v"}, "spec": of, "status": {"phase": "Available"}});
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn class(provisioner: &str, mode: &str) -> StorageClass {
        serde_json::from_value(
            json!({"metadata": {"name": "k"}, "provisioner": provisioner, "volumeBindingMode": mode}),
        )
        .unwrap()
    }

    /// The steps in words.
    fn check(observed: &Observed<'_>, expected: &[&str]) {
        let words = |step: &Step| match step {
            Step::SetClass(class) => format!("class {class}"),
            Step::Bind(volume) => format!("bind {}", name_of(&volume.metadata)),
            Step::Provision { provisioner, node } => {
                format!("ask {provisioner} on {}", node.as_deref().unwrap_or("any"))
            }
            Step::Phase(phase) => (*phase).to_owned(),
            Step::Tell(told) => told.reason.to_owned(),
        };
        assert_eq!(plan(observed).iter().map(words).collect::<Vec<_>>(), expected);
    }

    fn observed<'a>(claim: &'a PersistentVolumeClaim, volumes: &'a [Arc<PersistentVolume>]) -> Observed<'a> {
        Observed { claim, volumes, class: None, default_class: None, unscheduled: Vec::new(), node: None }
    }

    #[test]
    fn a_claim_takes_a_free_volume_or_waits_for_one() {
        let claim = claim(json!({}), json!({"storageClassName": ""}));
        check(&observed(&claim, &[volume(json!({}))]), &["bind v"]);
        check(&observed(&claim, &[]), &["Pending", "FailedBinding"]);
    }

    #[test]
    fn a_claim_without_a_class_gets_the_default_when_there_is_one() {
        let open = claim(json!({}), json!({}));
        check(&Observed { default_class: Some("k"), ..observed(&open, &[]) }, &["class k"]);
        let none = claim(json!({}), json!({"storageClassName": ""}));
        check(&Observed { default_class: Some("k"), ..observed(&none, &[]) }, &["Pending", "FailedBinding"]);
    }

    #[test]
    fn a_class_makes_volumes_or_says_why_not() {
        let claim = claim(json!({}), json!({"storageClassName": "k"}));
        let external = class("example.org/disk", "Immediate");
        let asked = ["Pending", "ask example.org/disk on any", "ExternalProvisioning"];
        check(&Observed { class: Some(&external), ..observed(&claim, &[]) }, &asked);
        let none = class("kubernetes.io/no-provisioner", "Immediate");
        check(&Observed { class: Some(&none), ..observed(&claim, &[]) }, &["Pending", "ProvisioningFailed"]);
        check(&observed(&claim, &[]), &["Pending", "ProvisioningFailed"]);
    }

    #[test]
    fn a_class_that_waits_does_nothing_before_a_pod_has_a_node() {
        let volumes = [volume(json!({"storageClassName": "k"}))];
        let late = class("example.org/disk", "WaitForFirstConsumer");
        let open = claim(json!({}), json!({"storageClassName": "k"}));
        let with = |claim, node: Option<&str>, pods: &[&str], expected: &[&str]| {
            let unscheduled = pods.iter().map(|name| (*name).to_owned()).collect();
            let node = node.map(str::to_owned);
            check(&Observed { class: Some(&late), unscheduled, node, ..observed(claim, &volumes) }, expected);
        };
        with(&open, None, &[], &["Pending", "WaitForFirstConsumer"]);
        with(&open, None, &["p"], &["Pending", "WaitForPodScheduled"]);
        with(&open, Some("n1"), &[], &["bind v"]);
        let chosen = json!({"annotations": {SELECTED_NODE: "n1"}});
        let chosen = claim(chosen, json!({"storageClassName": "k"}));
        with(&chosen, None, &[], &["Pending", "ask example.org/disk on any", "ExternalProvisioning"]);
    }

    #[test]
    fn a_named_volume_must_exist_fit_and_be_free() {
        let named = claim(json!({}), json!({"volumeName": "v"}));
        check(&observed(&named, &[]), &["Pending"]);
        check(&observed(&named, &[volume(json!({}))]), &["bind v"]);
        let small = volume(json!({"capacity": {"storage": "1Mi"}}));
        check(&observed(&named, &[small]), &["VolumeMismatch", "Pending"]);
        let taken = volume(json!({"claimRef": {"namespace": "ns", "name": "other", "uid": "x"}}));
        check(&observed(&named, &[taken]), &["FailedBinding", "Pending"]);
    }

    #[test]
    fn a_bound_claim_without_its_volume_is_lost() {
        let meta = || json!({"annotations": {BIND_COMPLETED: "yes"}});
        let bound = claim(meta(), json!({"volumeName": "v"}));
        check(&observed(&bound, &[]), &["Lost", "ClaimLost"]);
        check(&observed(&claim(meta(), json!({})), &[]), &["Lost", "ClaimLost"]);
        let own = volume(json!({"claimRef": {"namespace": "ns", "name": "c", "uid": "u"}}));
        check(&observed(&bound, &[own]), &["bind v"]);
        let others = volume(json!({"claimRef": {"namespace": "ns", "name": "o", "uid": "o"}}));
        check(&observed(&bound, &[others]), &["Lost", "ClaimMisbound"]);
    }
}
