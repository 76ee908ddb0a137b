//! Which pods stand behind a Service and at which ports: shared by the two controllers of endpoints.

use std::sync::Arc;

use api_types::pods;
use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::informers::Informer;
use crate::key::ObjectKey;
use crate::owners::{name_of, uid_of};

/// A port as a pod serves it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TargetPort {
    pub name: String,
    pub number: i32,
    pub protocol: String,
    pub app_protocol: Option<String>,
}

/// The Services that select `pod`.
pub(crate) fn services_of(pod: &Pod, services: &Informer<Service>) -> Vec<ObjectKey> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let selecting = services.in_namespace(namespace).into_iter().filter(|service| is_behind(pod, service));
    selecting.map(|service| ObjectKey::of(&*service)).collect()
}

fn is_behind(pod: &Pod, service: &Service) -> bool {
    let Some(selector) = service.spec.as_ref().and_then(|spec| spec.selector.as_ref()) else { return false };
    let labels = pod.metadata.labels.as_ref();
    !selector.is_empty()
        && selector.iter().all(|(name, value)| labels.and_then(|labels| labels.get(name)) == Some(value))
}

/// Whether the controllers of endpoints keep this Service's endpoints.
pub(crate) fn is_selecting(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    let external = spec.is_some_and(|spec| spec.type_.as_deref() == Some("ExternalName"));
    !external && spec.and_then(|spec| spec.selector.as_ref()).is_some_and(|selector| !selector.is_empty())
}

/// The pods behind `service` that have an address and are not finished.
pub(crate) fn pods_behind(service: &Service, pods: &Informer<Pod>) -> Vec<Arc<Pod>> {
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let mut all = pods.in_namespace(namespace);
    all.retain(|pod| is_behind(pod, service) && !pods::is_terminal(pod) && address_of(pod).is_some());
    all
}

/// The pod's address.
pub(crate) fn address_of(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.pod_ip.as_deref().filter(|address| !address.is_empty())
}

/// Whether traffic may go to the pod, or would if it were not terminating.
pub(crate) fn is_serving(pod: &Pod, service: &Service) -> bool {
    let regardless = service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses) == Some(true);
    regardless || pods::is_ready(pod)
}

/// The Service's ports as this pod serves them, in order. Named ports that the pod does not have are left out.
pub(crate) fn ports_of(service: &Service, pod: &Pod) -> Vec<TargetPort> {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
    let mut all: Vec<_> = ports.into_iter().flatten().filter_map(|port| target(port, pod)).collect();
    all.sort();
    all
}

fn target(port: &ServicePort, pod: &Pod) -> Option<TargetPort> {
    let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
    let number = match &port.target_port {
        None => port.port,
        Some(IntOrString::Int(0)) => port.port,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(name)) => named(name, &protocol, pod)?,
    };
    Some(TargetPort {
        name: port.name.clone().unwrap_or_default(),
        number,
        protocol,
        app_protocol: port.app_protocol.clone(),
    })
}

fn named(name: &str, protocol: &str, pod: &Pod) -> Option<i32> {
    let containers = &pod.spec.as_ref()?.containers;
    let mut ports = containers.iter().flat_map(|container| container.ports.iter().flatten());
    ports
        .find(|port| {
            port.name.as_deref() == Some(name) && port.protocol.as_deref().unwrap_or("TCP") == protocol
        })
        .map(|port| port.container_port)
}

/// A reference to the pod, as endpoints carry it.
pub(crate) fn reference_to(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: pod.metadata.namespace.clone(),
        name: Some(name_of(&pod.metadata).to_owned()),
        uid: Some(uid_of(&pod.metadata).to_owned()),
        ..ObjectReference::default()
    }
}

/// The pod's host name in DNS, if it asks for one under this Service.
pub(crate) fn hostname_of(pod: &Pod, service: &Service) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let under_it = spec.subdomain.as_deref() == service.metadata.name.as_deref();
    spec.hostname.clone().filter(|name| under_it && !name.is_empty())
}
