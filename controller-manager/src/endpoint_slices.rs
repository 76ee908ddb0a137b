//! What the controllers that write EndpointSlices have in common: labels, and how ports tell slices apart.

use k8s_openapi::api::discovery::v1::{EndpointPort, EndpointSlice};

use crate::key::ObjectKey;
use crate::owners::label;
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
