//! Which pods stand behind a Service, at which addresses and ports: shared by the controllers of endpoints.

use std::net::IpAddr;
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
    all.retain(|pod| is_behind(pod, service) && !pods::is_terminal(pod) && !ips_of(pod).is_empty());
    all
}

/// A version of the internet protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) fn of(address: &IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// As `addressType` and `ipFamilies` write it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// The families that a Service serves, the first one first. One that does not say is taken by its address;
/// without one, it may be either.
pub(crate) fn families_of(service: &Service) -> Vec<Family> {
    let spec = service.spec.as_ref();
    let named = spec.and_then(|spec| spec.ip_families.as_deref()).unwrap_or_default();
    let families: Vec<Family> = [Family::V4, Family::V6]
        .into_iter()
        .filter(|family| named.iter().any(|name| name == family.as_str()))
        .collect();
    let address = spec.and_then(|spec| spec.cluster_ip.as_deref()).and_then(|text| text.parse().ok());
    match (families.len(), address) {
        (0, Some(address)) => vec![Family::of(&address)],
        (0, None) => vec![Family::V4, Family::V6],
        (2, _) if named[0] == Family::V6.as_str() => vec![Family::V6, Family::V4],
        _ => families,
    }
}

fn ips_of(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = pod.status.as_ref() else { return Vec::new() };
    let all = status.pod_ips.iter().flatten().map(|one| one.ip.as_str());
    let mut found: Vec<IpAddr> = all.filter_map(|text| text.parse().ok()).collect();
    if found.is_empty() {
        found.extend(status.pod_ip.as_deref().and_then(|text| text.parse::<IpAddr>().ok()));
    }
    found
}

/// The pod's addresses of one family.
pub(crate) fn addresses_of(pod: &Pod, family: Family) -> Vec<String> {
    let all = ips_of(pod).into_iter().filter(|address| Family::of(address) == family);
    all.map(|address| address.to_string()).collect()
}

/// Whether the Service has no address of its own.
pub(crate) fn is_headless(service: &Service) -> bool {
    let address = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref());
    matches!(address, None | Some("" | "None"))
}

/// Whether pods are to be published whatever their state.
pub(crate) fn publishes_not_ready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses) == Some(true)
}

/// The Service's ports as this pod serves them. Named ports that the pod does not have are left out.
pub(crate) fn ports_of(service: &Service, pod: &Pod) -> Vec<TargetPort> {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
    ports.into_iter().flatten().filter_map(|port| target(port, pod)).collect()
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
    let spec = pod.spec.as_ref()?;
    let sidecars = spec.init_containers.iter().flatten().filter(|container| pods::is_sidecar(container));
    let mut ports =
        spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(spec: Value) -> Service {
        serde_json::from_value(json!({"metadata": {"name": "s"}, "spec": spec})).unwrap()
    }

    fn check(spec: Value, expected: &[Family]) {
        assert_eq!(families_of(&service(spec)), expected);
    }

    #[test]
    fn families_are_as_stated_or_as_the_address() {
        check(json!({"ipFamilies": ["IPv6", "IPv4"], "clusterIP": "10.0.0.1"}), &[Family::V6, Family::V4]);
        check(json!({"ipFamilies": ["IPv4"]}), &[Family::V4]);
        check(json!({"clusterIP": "fd00::1"}), &[Family::V6]);
        check(json!({"clusterIP": "None"}), &[Family::V4, Family::V6]);
    }

    #[test]
    fn a_port_may_be_named_in_a_sidecar() {
        let sidecar =
            json!({"name": "s", "restartPolicy": "Always", "ports": [{"name": "web", "containerPort": 7}]});
        let spec = json!({"containers": [{"name": "c"}], "initContainers": [sidecar]});
        let pod = serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap();
        let service =
            service(json!({"ports": [{"port": 80, "targetPort": "web"}, {"port": 81, "targetPort": "no"}]}));
        let numbers: Vec<i32> = ports_of(&service, &pod).iter().map(|port| port.number).collect();
        assert_eq!(numbers, [7]);
    }
}
