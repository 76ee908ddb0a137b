//! DefaultIngressClass: an Ingress that names no class gets the newest of those that are marked as default.

use api_types::status::Status;
use serde_json::Value;

use super::default_storage_class::newest_marked;
use super::{Plugin, Review};

pub(crate) struct DefaultIngressClass;

const CLASSES: &str = "networking.k8s.io/ingressclasses";
const MARKS: &[&str] = &["ingressclass.kubernetes.io/is-default-class"];
/// Where an Ingress named its class before there was a field.
const OLD_FIELD: &str = "kubernetes.io/ingress.class";

impl Plugin for DefaultIngressClass {
    const NAME: &'static str = "DefaultIngressClass";

    fn admit(review: &mut Review<'_>) -> Result<(), Status> {
        if !review.creates("networking.k8s.io/ingresses") {
            return Ok(());
        }
        let names_class = |ingress: &Value| {
            ingress["spec"]["ingressClassName"].is_string()
                || ingress["metadata"]["annotations"].get(OLD_FIELD).is_some()
        };
        let view = review.view;
        let unnamed = review.new.as_deref_mut().filter(|ingress| !names_class(ingress));
        let Some(ingress) = unnamed else { return Ok(()) };
        if let Some(class) = newest_marked(&view.objects(CLASSES, None), MARKS)
            && ingress["spec"].is_object()
        {
            ingress["spec"]["ingressClassName"] = class.into();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admission::fixture::admit;
    use crate::view::fixture::Fixture;

    #[test]
    fn the_default_is_taken_unless_an_old_annotation_names_a_class() {
        let class = json!({"metadata": {"name": "web",
            "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"}}});
        let create = |annotations: Value| {
            let ingress =
                json!({"metadata": {"name": "i", "namespace": "ns", "annotations": annotations}, "spec": {}});
            let world = Fixture::default().with(CLASSES, class.clone());
            let ingress =
                admit::<DefaultIngressClass>(world, "networking.k8s.io/ingresses", ingress).unwrap();
            ingress["spec"].get("ingressClassName").cloned()
        };
        assert_eq!(create(json!({})), Some(json!("web")));
        assert_eq!(create(json!({"kubernetes.io/ingress.class": "x"})), None);
    }
}
