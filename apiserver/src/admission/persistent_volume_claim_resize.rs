//! PersistentVolumeClaimResize: a claim grows only when it is bound and its class can make volumes grow.

use api_types::quantity::Quantity;
use api_types::status::Status;
use serde_json::Value;

use super::{Operation, Plugin, Review};

pub(crate) struct PersistentVolumeClaimResize;

impl Plugin for PersistentVolumeClaimResize {
    const NAME: &'static str = "PersistentVolumeClaimResize";

    fn validate(review: &Review<'_>) -> Result<(), Status> {
        let updates = review.operation == Operation::Update && review.is_of("persistentvolumeclaims");
        let (Some(new), Some(old), true) = (review.new.as_deref(), review.old, updates) else {
            return Ok(());
        };
        if size(new) <= size(old) {
            return Ok(());
        }
        if old["status"]["phase"] != "Bound" {
            return Err(review.forbidden("Only bound persistent volume claims can be expanded"));
        }
        if !class_expands(review, new, old) {
            return Err(review.forbidden(
                "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
            ));
        }
        Ok(())
    }
}

fn size(claim: &Value) -> Quantity {
    let text = claim["spec"]["resources"]["requests"]["storage"].as_str();
    Quantity::parse_or_zero(text.unwrap_or_default())
}

fn class_expands(review: &Review<'_>, new: &Value, old: &Value) -> bool {
    let class = |claim: &Value| claim["spec"]["storageClassName"].as_str().unwrap_or_default().to_owned();
    let name = class(new);
    if name.is_empty() || name != class(old) {
        return false;
    }
    let class = review.view.object("storage.k8s.io/storageclasses", "", &name);
    class.is_some_and(|class| class["allowVolumeExpansion"] == true)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::UserInfo;
    use crate::admission::fixture::review;
    use crate::view::fixture::Fixture;

    fn grows(phase: &str, expands: bool) -> bool {
        let class = json!({"metadata": {"name": "disk"}, "allowVolumeExpansion": expands});
        let world = Fixture::default().with("storage.k8s.io/storageclasses", class);
        let claim = |size: &str| {
            json!({"metadata": {"name": "c", "namespace": "ns"}, "status": {"phase": phase},
                "spec": {"storageClassName": "disk", "resources": {"requests": {"storage": size}}}})
        };
        let (user, old, new) = (UserInfo::admin(), claim("1Gi"), Some(claim("2Gi")));
        review(&world, &user, Operation::Update, "persistentvolumeclaims", "", Some(&old), new, |review| {
            PersistentVolumeClaimResize::validate(review).is_ok()
        })
    }

    #[test]
    fn only_a_bound_claim_of_a_class_that_expands_grows() {
        assert!(grows("Bound", true));
        assert!(!grows("Pending", true));
        assert!(!grows("Bound", false));
    }
}
