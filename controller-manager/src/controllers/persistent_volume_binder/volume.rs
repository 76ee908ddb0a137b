//! What a volume needs next. Pure.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use super::{BOUND_BY_CONTROLLER, PROVISIONED_BY, Told};
use crate::owners::{annotation, name_of};

#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// The phase, and why when something went wrong.
    Phase(&'static str, Option<String>),
    /// Let go of the claim; with `true` the volume stays kept for the claim's name.
    Unbind {
        keep_name: bool,
    },
    /// The claim has to be looked at.
    LookAtClaim,
    Tell(Told),
}

/// Decides about the volume; `claim` is the one it refers to, if that exists with the same uid.
pub(super) fn plan(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> Vec<Step> {
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    let spec = volume.spec.as_ref();
    let Some(reference) = spec.and_then(|spec| spec.claim_ref.as_ref()) else {
        return to(phase, "Available");
    };
    let reserved = reference.uid.as_deref().unwrap_or_default().is_empty();
    let name = name_of(&volume.metadata);
    let claimed = |claim: &PersistentVolumeClaim| {
        claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).unwrap_or_default()
    };
    match claim {
        Some(_) if reserved => to(phase, "Available").into_iter().chain([Step::LookAtClaim]).collect(),
        None if reserved => to(phase, "Available"),
        None => release(volume, phase),
        Some(claim) if claimed(claim).is_empty() => vec![Step::LookAtClaim],
        Some(claim) if claimed(claim) == name => to(phase, "Bound"),
        // The claim took another volume. What was made for it goes, what was given is free again.
        Some(_) if annotation(&volume.metadata, PROVISIONED_BY).is_some() && policy(volume) == "Delete" => {
            release(volume, phase)
        }
        Some(_) => {
            vec![Step::Unbind { keep_name: annotation(&volume.metadata, BOUND_BY_CONTROLLER).is_none() }]
        }
    }
}

fn to(phase: &str, wanted: &'static str) -> Vec<Step> {
    if phase == wanted { Vec::new() } else { vec![Step::Phase(wanted, None)] }
}

fn policy(volume: &PersistentVolume) -> &str {
    let policy = volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    policy.unwrap_or("Retain")
}

/// The claim is gone; the reclaim policy says what becomes of the volume.
fn release(volume: &PersistentVolume, phase: &str) -> Vec<Step> {
    let failed = |reason, message: String| {
        vec![Step::Phase("Failed", Some(message.clone())), Step::Tell(Told::warning(reason, message))]
    };
    match (phase, policy(volume)) {
        ("Failed", _) => Vec::new(),
        ("Released", "Recycle") => {
            failed("VolumeFailedRecycle", "No recycler plugin found for the volume!".to_owned())
        }
        // Who made the volume deletes it.
        ("Released", "Delete") if annotation(&volume.metadata, PROVISIONED_BY).is_none() => failed(
            "VolumeFailedDelete",
            format!(
                "error getting deleter volume plugin for volume {:?}: no deletable volume plugin matched",
                name_of(&volume.metadata)
            ),
        ),
        ("Released", _) => Vec::new(),
        _ => vec![Step::Phase("Released", None)],
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn volume(phase: &str, claim_ref: Value, policy: &str, annotations: Value) -> PersistentVolume {
        let spec = json!({"claimRef": claim_ref, "persistentVolumeReclaimPolicy": policy});
        let metadata = json!({"name": "v", "annotations": annotations});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec, "status": {"phase": phase}}))
            .unwrap()
    }

    fn claim(volume: &str) -> PersistentVolumeClaim {
        serde_json::from_value(json!({"metadata": {"name": "c"}, "spec": {"volumeName": volume}})).unwrap()
    }

    fn check(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>, expected: &[&str]) {
        let words = |step: &Step| match step {
            Step::Phase(phase, _) => (*phase).to_owned(),
            Step::Unbind { keep_name } => if *keep_name { "unbind, keep" } else { "unbind" }.to_owned(),
            Step::LookAtClaim => "claim".to_owned(),
            Step::Tell(told) => told.reason.to_owned(),
        };
        assert_eq!(plan(volume, claim).iter().map(words).collect::<Vec<_>>(), expected);
    }

    fn uid() -> Value {
        json!({"namespace": "ns", "name": "c", "uid": "u"})
    }

    #[test]
    fn a_volume_without_a_claim_is_available() {
        check(&volume("Pending", Value::Null, "Retain", json!({})), None, &["Available"]);
        check(&volume("Available", Value::Null, "Retain", json!({})), None, &[]);
        let kept = json!({"namespace": "ns", "name": "c"});
        check(&volume("Pending", kept.clone(), "Retain", json!({})), None, &["Available"]);
        check(&volume("Available", kept, "Retain", json!({})), Some(&claim("")), &["claim"]);
    }

    #[test]
    fn a_volume_is_bound_while_its_claim_names_it() {
        check(&volume("Available", uid(), "Retain", json!({})), Some(&claim("v")), &["Bound"]);
        check(&volume("Bound", uid(), "Retain", json!({})), Some(&claim("v")), &[]);
        check(&volume("Available", uid(), "Retain", json!({})), Some(&claim("")), &["claim"]);
    }

    #[test]
    fn the_policy_says_what_becomes_of_a_released_volume() {
        check(&volume("Bound", uid(), "Retain", json!({})), None, &["Released"]);
        check(&volume("Released", uid(), "Retain", json!({})), None, &[]);
        check(&volume("Released", uid(), "Recycle", json!({})), None, &["Failed", "VolumeFailedRecycle"]);
        check(&volume("Released", uid(), "Delete", json!({})), None, &["Failed", "VolumeFailedDelete"]);
        let made = json!({PROVISIONED_BY: "example.org/disk"});
        check(&volume("Released", uid(), "Delete", made), None, &[]);
        check(&volume("Failed", uid(), "Delete", json!({})), None, &[]);
    }

    #[test]
    fn a_volume_whose_claim_took_another_is_let_go() {
        let other = claim("other");
        let ours = json!({BOUND_BY_CONTROLLER: "yes"});
        check(&volume("Bound", uid(), "Retain", ours), Some(&other), &["unbind"]);
        check(&volume("Bound", uid(), "Retain", json!({})), Some(&other), &["unbind, keep"]);
        let made = json!({PROVISIONED_BY: "example.org/disk"});
        check(&volume("Bound", uid(), "Delete", made), Some(&other), &["Released"]);
    }
}
