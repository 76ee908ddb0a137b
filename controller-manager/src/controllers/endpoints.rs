//! `endpoints-controller`: lists the pods behind each Service in an Endpoints object, for readers of the old API.
//!
//! # Watches
//! Services, the pods they select, and Endpoints.
//!
//! # Writes
//! The Endpoints object with the Service's name.
//!
//! # Guarantees
//! Ready and not ready addresses are kept apart; at most 1000 addresses are listed and the object says so
//! when it is truncated. Endpoints of a Service without selector are left to whoever made them, and go with
//! the Service.
//!
//! # Differs from Kubernetes
//! Endpoints that never had a Service are not deleted when the process starts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api_types::pods;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use component_base::client::said;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service};
use kube::api::{DeleteParams, ObjectMeta, PostParams};
use kube::{Api, Client};
use parking_lot::Mutex;

use crate::controller::{Action, Controller, Events, ReconcileError, Setup};
use crate::endpoint_slices::HEADLESS;
use crate::informers::Informer;
use crate::key::ObjectKey;
use crate::owners::{self, name_of};
use crate::pod_control::is_namespace_going;
use crate::service_pods::{self, TargetPort};
use crate::trigger_times::{self, TriggerTimes};

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Addresses in one object.
const ADDRESSES_MAX: usize = 1000;

pub(crate) struct EndpointsController {
    client: Client,
    events: Events,
    services: Arc<Informer<Service>>,
    pods: Arc<Informer<Pod>>,
    endpoints: Arc<Informer<Endpoints>>,
    times: TriggerTimes,
    /// Services that went and whose Endpoints are to follow.
    gone: Arc<Mutex<BTreeSet<ObjectKey>>>,
}

/// One thing to do.
#[derive(Debug, PartialEq)]
enum Step {
    Create(Box<Endpoints>),
    Update(Box<Endpoints>),
}

fn plan(
    service: &Service,
    pods: &[Arc<Pod>],
    existing: Option<&Endpoints>,
    changed_at: Option<DateTime<Utc>>,
) -> Option<Step> {
    let (subsets, truncated) = subsets(service, pods);
    let labels = labels(service);
    let mut wanted = match existing {
        Some(existing) => existing.clone(),
        None => Endpoints {
            metadata: ObjectMeta {
                name: service.metadata.name.clone(),
                namespace: service.metadata.namespace.clone(),
                ..ObjectMeta::default()
            },
            subsets: None,
        },
    };
    let says_so = owners::annotation(&wanted.metadata, OVER_CAPACITY) == Some("truncated");
    let same = wanted.subsets.as_deref().unwrap_or_default() == subsets.as_slice()
        && wanted.metadata.labels.as_ref() == Some(&labels)
        && says_so == truncated;
    wanted.subsets = (!subsets.is_empty()).then_some(subsets);
    wanted.metadata.labels = Some(labels);
    trigger_times::annotate(&mut wanted.metadata, changed_at);
    let annotations = wanted.metadata.annotations.get_or_insert_default();
    annotations.remove(OVER_CAPACITY);
    if truncated {
        annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    }
    match existing {
        None => Some(Step::Create(Box::new(wanted))),
        Some(_) => (!same).then(|| Step::Update(Box::new(wanted))),
    }
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    labels.insert(MANAGED_BY.to_owned(), "endpoint-controller".to_owned());
    if service_pods::is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels
}

/// The addresses of one port: by address and pod, and whether each is ready.
type Addresses = BTreeMap<(String, String), (EndpointAddress, bool)>;

/// The subsets, and whether there were too many addresses. Ports that the same addresses serve share a subset.
fn subsets(service: &Service, pods: &[Arc<Pod>]) -> (Vec<EndpointSubset>, bool) {
    let regardless = service_pods::publishes_not_ready(service);
    let (ready, mut listed): (Vec<_>, Vec<_>) = pods
        .iter()
        .filter(|pod| regardless || !pods::is_terminating(pod))
        .partition(|pod| regardless || pods::is_ready(pod));
    let (count, first_unready) = (ready.len() + listed.len(), ready.len());
    listed.splice(0..0, ready);
    listed.truncate(ADDRESSES_MAX);
    let mut of_port: BTreeMap<Option<TargetPort>, Addresses> = BTreeMap::new();
    for (index, pod) in listed.into_iter().enumerate() {
        let Some(address) = address(service, pod) else { continue };
        let key = (address.ip.clone(), name_of(&pod.metadata).to_owned());
        let mut ports: Vec<_> = service_pods::ports_of(service, pod).into_iter().map(Some).collect();
        if ports.is_empty() && serves_without_ports(service) {
            ports.push(None);
        }
        for port in ports {
            of_port.entry(port).or_default().insert(key.clone(), (address.clone(), index < first_unready));
        }
    }
    let mut subsets: Vec<(Addresses, Vec<EndpointPort>)> = Vec::new();
    for (port, addresses) in of_port {
        let port = port.as_ref().map(written);
        match subsets.iter_mut().find(|(others, _)| *others == addresses) {
            Some((_, ports)) => ports.extend(port),
            None => subsets.push((addresses, port.into_iter().collect())),
        }
    }
    (subsets.into_iter().map(subset).collect(), count > ADDRESSES_MAX)
}

fn subset((addresses, ports): (Addresses, Vec<EndpointPort>)) -> EndpointSubset {
    let (ready, unready): (Vec<_>, Vec<_>) = addresses.into_values().partition(|(_, ready)| *ready);
    let list = |all: Vec<(EndpointAddress, bool)>| {
        (!all.is_empty()).then(|| all.into_iter().map(|(address, _)| address).collect())
    };
    EndpointSubset {
        addresses: list(ready),
        not_ready_addresses: list(unready),
        ports: (!ports.is_empty()).then_some(ports),
    }
}

/// Only a Service without an address may do without ports.
fn serves_without_ports(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    let ports = spec.and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    ports.is_empty() && spec.and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

/// The pod's address in the Service's first family.
fn address(service: &Service, pod: &Pod) -> Option<EndpointAddress> {
    let families = service_pods::families_of(service);
    let mut addresses = families.into_iter().flat_map(|family| service_pods::addresses_of(pod, family));
    let named = service.spec.as_ref().and_then(|spec| spec.ip_families.as_deref()).unwrap_or_default();
    let first = addresses.next()?;
    let is_v6 = first.contains(':');
    if named.first().is_some_and(|name| (name == "IPv6") != is_v6) {
        return None;
    }
    Some(EndpointAddress {
        ip: first,
        hostname: service_pods::hostname_of(pod, service),
        node_name: pods::node_name(pod).map(ToOwned::to_owned),
        target_ref: Some(service_pods::reference_to(pod)),
    })
}

fn written(port: &TargetPort) -> EndpointPort {
    EndpointPort {
        name: (!port.name.is_empty()).then(|| port.name.clone()),
        port: port.number,
        protocol: Some(port.protocol.clone()),
        app_protocol: port.app_protocol.clone(),
    }
}

#[async_trait]
impl Controller for EndpointsController {
    const NAME: &'static str = "endpoints-controller";

    fn watches(setup: &Setup<'_>) -> Self {
        let services = setup.read::<Service>();
        let gone: Arc<Mutex<BTreeSet<ObjectKey>>> = Arc::default();
        let noted = gone.clone();
        services.subscribe(move |change| match (change.old, change.new) {
            (Some(old), None) => drop(noted.lock().insert(ObjectKey::of(&**old))),
            (_, Some(new)) => drop(noted.lock().remove(&ObjectKey::of(&**new))),
            (None, None) => {}
        });
        setup.subscribe(&services, |service| vec![ObjectKey::of(service)]);
        let selecting = services.clone();
        let pods = setup.watch::<Pod>(move |pod| service_pods::services_of(pod, &selecting));
        let endpoints = setup.watch_own::<Endpoints>();
        let (client, events) = (setup.client.clone(), setup.events());
        Self { client, events, services, pods, endpoints, times: TriggerTimes::default(), gone }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        let existing = self.endpoints.get(key);
        let Some(service) = self.services.get(key) else {
            self.times.forget(key);
            let is_ours = |one: &Arc<Endpoints>| owners::label(&one.metadata, MANAGED_BY).is_some();
            // The cache may not show yet what was made shortly before the Service went: the server is asked.
            if self.gone.lock().contains(key) || existing.as_ref().is_some_and(is_ours) {
                self.delete(key).await?;
            }
            self.gone.lock().remove(key);
            return Ok(Action::Done);
        };
        if !service_pods::is_selecting(&service) || owners::is_deleting(&service.metadata) {
            return Ok(Action::Done);
        }
        let pods = service_pods::pods_behind(&service, &self.pods);
        let changed_at = self.times.note(&service, &pods);
        let step = plan(&service, &pods, existing.as_deref(), changed_at);
        if let Err(error) = self.apply(key, step).await {
            if is_namespace_going(&error) {
                return Ok(Action::Done);
            }
            let (reason, what) = match existing {
                None => ("FailedToCreateEndpoint", "Failed to create endpoint for service"),
                Some(_) => ("FailedToUpdateEndpoint", "Failed to update endpoint"),
            };
            self.events.warning(&*service, reason, &format!("{what} {key}: {}", said(&error)));
            return Err(error.into());
        }
        Ok(Action::Done)
    }
}

impl EndpointsController {
    async fn delete(&self, key: &ObjectKey) -> Result<(), kube::Error> {
        let api: Api<Endpoints> = Api::namespaced(self.client.clone(), &key.namespace);
        match api.delete(&key.name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            result => result.map(drop),
        }
    }

    async fn apply(&self, key: &ObjectKey, step: Option<Step>) -> Result<(), kube::Error> {
        let api: Api<Endpoints> = Api::namespaced(self.client.clone(), &key.namespace);
        match step {
            None => Ok(()),
            Some(Step::Create(wanted)) => api.create(&PostParams::default(), &wanted).await.map(drop),
            Some(Step::Update(wanted)) => {
                api.replace(name_of(&wanted.metadata), &PostParams::default(), &wanted).await.map(drop)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(extra: Value) -> Service {
        let mut spec = json!({"selector": {"app": "a"}, "clusterIP": "10.96.0.1", "ipFamilies": ["IPv4"],
                              "ports": [{"port": 80, "targetPort": 8080}]});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        serde_json::from_value(json!({"metadata": {"name": "s", "namespace": "ns"}, "spec": spec})).unwrap()
    }

    fn pod(address: &str, ready: &str, port_name: &str) -> Arc<Pod> {
        let container = json!({"name": "c", "ports": [{"name": port_name, "containerPort": 9}]});
        let pod = json!({
            "metadata": {"name": address, "uid": address, "labels": {"app": "a"}},
            "spec": {"containers": [container]},
            "status": {"podIP": address, "conditions": [{"type": "Ready", "status": ready}]},
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    /// Subsets as "ready/not ready:ports".
    fn told(service: &Service, pods: &[Arc<Pod>]) -> Vec<String> {
        let addresses = |all: &Option<Vec<EndpointAddress>>| {
            all.iter().flatten().map(|one| one.ip.clone()).collect::<Vec<_>>().join(",")
        };
        let tell = |subset: &EndpointSubset| {
            let ports: Vec<_> = subset.ports.iter().flatten().map(|port| port.port.to_string()).collect();
            let (ready, unready) = (addresses(&subset.addresses), addresses(&subset.not_ready_addresses));
            format!("{ready}/{unready}:{}", ports.join(","))
        };
        subsets(service, pods).0.iter().map(tell).collect()
    }

    #[test]
    fn ready_and_not_ready_pods_are_kept_apart() {
        let pods = [pod("10.0.0.2", "False", "a"), pod("10.0.0.1", "True", "a")];
        assert_eq!(told(&service(json!({})), &pods), ["10.0.0.1/10.0.0.2:8080"]);
        let publishing = service(json!({"publishNotReadyAddresses": true}));
        assert_eq!(told(&publishing, &pods), ["10.0.0.1,10.0.0.2/:8080"]);
    }

    #[test]
    fn ports_that_the_same_pods_serve_share_a_subset() {
        let ports = json!([{"name": "x", "port": 80, "targetPort": 8080}, {"name": "y", "port": 81, "targetPort": "a"}]);
        let service = service(json!({"ports": ports}));
        let all = [pod("10.0.0.1", "True", "a"), pod("10.0.0.2", "True", "b")];
        assert_eq!(told(&service, &all[..1]), ["10.0.0.1/:8080,9"]);
        assert_eq!(told(&service, &all), ["10.0.0.1,10.0.0.2/:8080", "10.0.0.1/:9"]);
    }

    #[test]
    fn only_the_first_family_is_listed() {
        let pods = [pod("10.0.0.1", "True", "a"), pod("fd00::1", "True", "a")];
        assert_eq!(told(&service(json!({"ipFamilies": ["IPv6", "IPv4"]})), &pods), ["fd00::1/:8080"]);
    }

    #[test]
    fn a_headless_service_may_have_no_ports() {
        let pods = [pod("10.0.0.1", "True", "a")];
        assert_eq!(told(&service(json!({"ports": [], "clusterIP": "None"})), &pods), ["10.0.0.1/:"]);
        assert!(told(&service(json!({"ports": []})), &pods).is_empty());
    }

    #[test]
    fn nothing_is_written_when_nothing_changed() {
        let (service, pods) = (service(json!({})), [pod("10.0.0.1", "True", "a")]);
        let Some(Step::Create(existing)) = plan(&service, &pods, None, DateTime::from_timestamp(1, 0)) else {
            panic!("not created");
        };
        assert_eq!(existing.metadata.labels.as_ref().unwrap()[MANAGED_BY], "endpoint-controller");
        assert_eq!(plan(&service, &pods, Some(&existing), None), None);
        let changed = plan(&service, &[], Some(&existing), None);
        assert!(
            matches!(changed, Some(Step::Update(one)) if one.metadata.annotations.clone().unwrap().is_empty())
        );
    }

    #[test]
    fn more_addresses_than_fit_are_told() {
        let pods: Vec<_> = (0..1001)
            .map(|index| pod(&format!("10.0.{}.{}", index / 250, index % 250), "True", "a"))
            .collect();
        let Some(Step::Create(made)) = plan(&service(json!({})), &pods, None, None) else {
            panic!("not created")
        };
        assert_eq!(made.subsets.unwrap()[0].addresses.as_ref().unwrap().len(), 1000);
        assert_eq!(made.metadata.annotations.unwrap()[OVER_CAPACITY], "truncated");
    }
}
