//! DefaultBinder: binds through the pod's binding subresource.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;
use kube::Resource;
use kube::api::PostParams;
use serde_json::json;

use crate::framework::{Attaching, Bind, BindError, Bound, Plugin};
use crate::pod::PodInfo;

/// # Decides
/// Binds every pod: `POST …/pods/NAME/binding` with the pod's uid as a precondition, so that another pod of
/// the same name is never bound in its place.
/// # Wakes on
/// Nothing.
/// # Differs
/// No.
pub(crate) struct DefaultBinder;

impl Plugin for DefaultBinder {
    const NAME: &'static str = "DefaultBinder";

    fn new() -> Self {
        Self
    }

    fn attach(self: Arc<Self>, points: &mut Attaching<'_>) {
        points.bind(self);
    }
}

#[async_trait]
impl Bind for DefaultBinder {
    async fn bind(&self, client: &kube::Client, pod: &PodInfo, node: &str) -> Result<Bound, BindError> {
        let binding = json!({
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": pod.name, "namespace": pod.namespace, "uid": &*pod.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        let url = Pod::url_path(&(), Some(&pod.namespace));
        let request = kube::core::Request::new(url)
            .create_subresource(
                "binding",
                &pod.name,
                &PostParams::default(),
                binding.to_string().into_bytes(),
            )
            .map_err(BindError::Build)?;
        match client.request_text(request).await {
            Ok(_) => Ok(Bound::Done),
            Err(kube::Error::Api(status)) if status.code == 404 => Err(BindError::Gone),
            Err(error) => Err(BindError::Request(error)),
        }
    }
}
