//! What the controllers that write EndpointSlices have in common: labels, how ports tell slices apart, and the
//! writes.

use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{EndpointPort, EndpointSlice};
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};

use crate::expectations::Expectations;
use crate::informers::Informer;
use crate::key::ObjectKey;
use crate::owners::{is_deleting, label, name_of};
use crate::pod_control::delete_exactly;
use crate::service_pods::TargetPort;

/// The label with the Service's name.
pub(crate) const SERVICE: &str = "kubernetes.io/service-name";
/// The label with who keeps the slice.
pub(crate) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// The label of what belongs to a Service without an address.
pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";

/// The Service that a slice of `manager` belongs to.
pub(crate) fn service_of(slice: &EndpointSlice, manager: &str) -> Option<ObjectKey> {
    if label(&slice.metadata, MANAGED_BY) != Some(manager) {
        return None;
    }
    let namespace = slice.metadata.namespace.clone().unwrap_or_default();
    label(&slice.metadata, SERVICE).map(|name| ObjectKey::new(namespace, name))
}

/// One slice to write.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    Create(Box<EndpointSlice>),
    Update(Box<EndpointSlice>),
    Delete(Arc<EndpointSlice>),
}

/// The slices that one manager keeps, and what it wrote and has not seen yet.
pub(crate) struct Slices {
    manager: &'static str,
    client: Client,
    informer: Arc<Informer<EndpointSlice>>,
    expectations: Expectations,
}

impl Slices {
    pub(crate) fn new(manager: &'static str, client: Client, informer: Arc<Informer<EndpointSlice>>) -> Self {
        Self { manager, client, informer, expectations: Expectations::default() }
    }

    /// The Service's slices that are there to stay; nothing before all that was written is seen.
    pub(crate) fn of(&self, key: &ObjectKey) -> Option<Vec<Arc<EndpointSlice>>> {
        if !self.expectations.are_met(key, &*self.informer) {
            return None;
        }
        let mut slices = self.informer.in_namespace(&key.namespace);
        slices.retain(|slice| {
            service_of(slice, self.manager).as_ref() == Some(key) && !is_deleting(&slice.metadata)
        });
        Some(slices)
    }

    /// The Service is gone.
    pub(crate) fn forget(&self, key: &ObjectKey) {
        self.expectations.forget(key);
    }

    pub(crate) async fn apply(&self, key: &ObjectKey, step: Step) -> Result<(), kube::Error> {
        let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &key.namespace);
        match step {
            Step::Create(slice) => {
                let created = api.create(&PostParams::default(), &slice).await?;
                self.expectations.created(key, &self.informer, &created);
            }
            Step::Update(slice) => {
                let updated = api.replace(name_of(&slice.metadata), &PostParams::default(), &slice).await?;
                self.expectations.created(key, &self.informer, &updated);
            }
            Step::Delete(slice) => {
                delete_exactly(&self.client, &*slice, DeleteParams::default()).await?;
                self.expectations.deleted(key, &*slice);
            }
        }
        Ok(())
    }
}

/// The slices that are there once what was planned was done, named `s-0` and so on.
#[cfg(test)]
pub(crate) fn made(steps: Vec<Step>) -> Vec<Arc<EndpointSlice>> {
    let slice = |(index, step)| match step {
        Step::Create(mut slice) => {
            slice.metadata.name = Some(format!("s-{index}"));
            Arc::new(*slice)
        }
        other => panic!("not a creation: {other:?}"),
    };
    steps.into_iter().enumerate().map(slice).collect()
}

/// Ports as slices write them.
pub(crate) fn written(ports: &[TargetPort]) -> Option<Vec<EndpointPort>> {
    let port = |port: &TargetPort| EndpointPort {
        name: Some(port.name.clone()),
        port: Some(port.number),
        protocol: Some(port.protocol.clone()),
        app_protocol: port.app_protocol.clone(),
    };
    (!ports.is_empty()).then(|| ports.iter().map(port).collect())
}

/// The ports of a slice, in an order that does not depend on who wrote them.
pub(crate) fn ports_key(slice: &EndpointSlice) -> Vec<TargetPort> {
    let port = |port: &EndpointPort| TargetPort {
        name: port.name.clone().unwrap_or_default(),
        number: port.port.unwrap_or(0),
        protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
        app_protocol: port.app_protocol.clone(),
    };
    sorted(slice.ports.iter().flatten().map(port).collect())
}

/// The same of ports that are to be written.
pub(crate) fn sorted(mut ports: Vec<TargetPort>) -> Vec<TargetPort> {
    ports.sort();
    ports
}
