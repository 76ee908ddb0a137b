//! DefaultStorageClass: a claim that names no class gets the newest of those that are marked as default.

use api_types::status::Status;
use serde_json::Value;

use super::{Plugin, Review};

pub(crate) struct DefaultStorageClass;

const CLASSES: &str = "storage.k8s.io/storageclasses";
const MARKS: &[&str] =
    &["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
/// Where a claim named its class before there was a field.
const OLD_FIELD: &str = "volume.beta.kubernetes.io/storage-class";

impl Plugin for DefaultStorageClass {
    const NAME: &'static str = "DefaultStorageClass";

    fn admit(review: &mut Review<'_>) -> Result<(), Status> {
        if !review.creates("persistentvolumeclaims") {
            return Ok(());
        }
        let names_class = |claim: &Value| {
            claim["spec"]["storageClassName"].is_string()
                || claim["metadata"]["annotations"].get(OLD_FIELD).is_some()
        };
        let view = review.view;
        let Some(claim) = review.new.as_deref_mut().filter(|claim| !names_class(claim)) else {
            return Ok(());
        };
        let classes = view.objects(CLASSES, None);
        if let Some(class) = newest_marked(&classes, MARKS)
            && claim["spec"].is_object()
        {
            claim["spec"]["storageClassName"] = class.into();
        }
        Ok(())
    }
}

/// The name of the newest object with one of the annotations set to `true`; of equally old ones the first.
pub(super) fn newest_marked(objects: &[std::sync::Arc<Value>], marks: &[&str]) -> Option<String> {
    let is_marked = |object: &&std::sync::Arc<Value>| {
        marks.iter().any(|mark| object["metadata"]["annotations"][*mark] == "true")
    };
    let name = |object: &Value| object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let made =
        |object: &Value| object["metadata"]["creationTimestamp"].as_str().unwrap_or_default().to_owned();
    let newest = objects
        .iter()
        .filter(is_marked)
        .max_by(|a, b| made(a).cmp(&made(b)).then_with(|| name(b).cmp(&name(a))))?;
    Some(name(newest))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admission::fixture::admit;
    use crate::view::fixture::Fixture;

    fn class_of(spec: Value) -> Value {
        let class = |name: &str, made: &str, mark: &str| {
            json!({"metadata": {"name": name, "creationTimestamp": made,
                "annotations": {"storageclass.kubernetes.io/is-default-class": mark}}})
        };
        let world = Fixture::default()
            .with(CLASSES, class("old", "2020-01-01T00:00:00Z", "true"))
            .with(CLASSES, class("b", "2021-01-01T00:00:00Z", "true"))
            .with(CLASSES, class("a", "2021-01-01T00:00:00Z", "true"))
            .with(CLASSES, class("other", "2022-01-01T00:00:00Z", "false"));
        let claim = json!({"metadata": {"name": "c", "namespace": "ns"}, "spec": spec});
        let claim = admit::<DefaultStorageClass>(world, "persistentvolumeclaims", claim).unwrap();
        claim["spec"]["storageClassName"].clone()
    }

    #[test]
    fn the_newest_default_is_taken_unless_the_claim_says_otherwise() {
        assert_eq!(class_of(json!({})), "a");
        assert_eq!(class_of(json!({"storageClassName": ""})), "");
    }
}
