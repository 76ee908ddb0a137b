//! Owner references: who made an object, and who controls it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

/// The one owner that controls the object.
pub fn controller_of(object: &ObjectMeta) -> Option<&OwnerReference> {
    object.owner_references.iter().flatten().find(|o| o.controller == Some(true))
}

/// Whether the object with `uid` controls `object`.
pub fn is_controlled_by(object: &ObjectMeta, uid: &str) -> bool {
    controller_of(object).is_some_and(|o| o.uid == uid)
}

/// The reference that a controller writes into what it makes for `owner`.
pub fn controller_reference(api_version: &str, kind: &str, owner: &ObjectMeta) -> OwnerReference {
    OwnerReference {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        name: owner.name.clone().unwrap_or_default(),
        uid: owner.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_controlling_owner_counts() {
        let owner = ObjectMeta { name: Some("rs".into()), uid: Some("u1".into()), ..Default::default() };
        let reference = controller_reference("apps/v1", "ReplicaSet", &owner);
        let other = OwnerReference { controller: None, uid: "u2".into(), ..reference.clone() };
        let object = ObjectMeta { owner_references: Some(vec![other, reference]), ..Default::default() };
        assert!(is_controlled_by(&object, "u1"));
        assert!(!is_controlled_by(&object, "u2"));
    }
}
