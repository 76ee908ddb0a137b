//! StorageObjectInUseProtection: volumes and claims get a finalizer, so that they stay while something uses
//! them.

use api_types::status::Status;
use serde_json::json;

use super::{Plugin, Review};

pub(crate) struct StorageObjectInUseProtection;

const FINALIZERS: &[(&str, &str)] = &[
    ("persistentvolumes", "kubernetes.io/pv-protection"),
    ("persistentvolumeclaims", "kubernetes.io/pvc-protection"),
    ("storage.k8s.io/volumeattributesclasses", "kubernetes.io/vac-protection"),
];

impl Plugin for StorageObjectInUseProtection {
    const NAME: &'static str = "StorageObjectInUseProtection";

    fn admit(review: &mut Review<'_>) -> Result<(), Status> {
        let Some((_, finalizer)) = FINALIZERS.iter().find(|(storage, _)| review.creates(storage)) else {
            return Ok(());
        };
        let Some(object) = review.new.as_deref_mut() else { return Ok(()) };
        if !object["metadata"].is_object() {
            return Ok(());
        }
        if !object["metadata"]["finalizers"].is_array() {
            object["metadata"]["finalizers"] = json!([]);
        }
        if let Some(finalizers) = object["metadata"]["finalizers"].as_array_mut()
            && !finalizers.iter().any(|known| known == finalizer)
        {
            finalizers.push(json!(finalizer));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::admission::fixture::admit;
    use crate::view::fixture::Fixture;

    #[test]
    fn a_claim_is_protected_once() {
        let claim = json!({"metadata": {"name": "c", "namespace": "ns", "finalizers": ["a.example/b"]}});
        let create = |claim: Value| {
            admit::<StorageObjectInUseProtection>(Fixture::default(), "persistentvolumeclaims", claim)
                .unwrap()
        };
        let once = create(claim);
        assert_eq!(once["metadata"]["finalizers"], json!(["a.example/b", "kubernetes.io/pvc-protection"]));
        assert_eq!(create(once.clone()), once);
    }
}
