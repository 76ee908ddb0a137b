//! `endpointslice-controller`: lists the pods behind each Service in EndpointSlices.
//!
//! `packing` decides which endpoint goes into which slice, `topology` which zone an endpoint is meant for.
//!
//! # Watches
//! Services, the pods they select, nodes, and the EndpointSlices it made.
//!
//! # Writes
//! EndpointSlices.
//!
//! # Guarantees
//! A pod is in at most one slice of a Service and an address family; a slice has at most 100 endpoints; a
//! change of one pod writes one slice. Pods that are terminating stay listed as such until they are gone.
//! Slices of Services without selector are left to whoever made them.
//!
//! # Differs from Kubernetes
//! Hints by CPU (`service.kubernetes.io/topology-mode`) stay while no zone is overloaded, endpoint by endpoint
//! and not slice by slice.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use api_types::pods;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use component_base::client::said;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointSlice, ForNode, ForZone,
};
use kube::api::ObjectMeta;
use parking_lot::Mutex;

use crate::controller::{Action, Controller, Events, ReconcileError, Setup};
use crate::controllers::endpointslice::packing::pack;
use crate::controllers::endpointslice::topology::Shares;
use crate::endpoint_slices::{
    HEADLESS, MANAGED_BY, SERVICE, Slices, Step, ports_key, service_of, sorted, written,
};
use crate::informers::Informer;
use crate::key::ObjectKey;
use crate::owners::{self, label, name_of};
use crate::pod_control::is_namespace_going;
use crate::service_pods::{self, Family, TargetPort};
use crate::trigger_times::{self, TriggerTimes};

mod packing;
mod topology;

const MANAGER: &str = "endpointslice-controller.k8s.io";
const ZONE: &str = "topology.kubernetes.io/zone";

pub(crate) struct EndpointSliceController {
    events: Events,
    services: Arc<Informer<Service>>,
    pods: Arc<Informer<Pod>>,
    nodes: Arc<Informer<Node>>,
    slices: Slices,
    times: TriggerTimes,
    /// The Services with hints by CPU.
    hinted: Mutex<HashSet<ObjectKey>>,
}

/// What `plan` sees.
struct Observed<'a> {
    service: &'a Service,
    pods: &'a [Arc<Pod>],
    /// The nodes there are, and their zones.
    zones: &'a BTreeMap<String, Option<String>>,
    /// The parts of the CPU that zones have, as far as known.
    shares: Option<&'a Shares>,
    slices: &'a [Arc<EndpointSlice>],
    /// When what is new happened.
    changed_at: Option<DateTime<Utc>>,
}

/// The endpoints that have the same ports, by pod.
struct Group {
    ports: Vec<TargetPort>,
    endpoints: BTreeMap<String, Endpoint>,
}

/// What becomes of the slices of a Service, and of the hints by CPU in each family.
struct Plan {
    steps: Vec<Step>,
    hints: Vec<(Family, Hints)>,
}

/// Whether endpoints are meant for zones by the CPU that these have.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Hints {
    /// Nobody asked for it.
    Unasked,
    Given,
    /// With the reason.
    Refused(String),
}

fn plan(observed: &Observed<'_>) -> Plan {
    let families = service_pods::families_of(observed.service);
    let is_served =
        |slice: &&Arc<EndpointSlice>| families.iter().any(|family| family.as_str() == slice.address_type);
    let strange = observed.slices.iter().filter(|slice| !is_served(slice)).cloned();
    let mut plan = Plan { steps: strange.map(Step::Delete).collect(), hints: Vec::new() };
    for family in families {
        let (steps, hints) = plan_family(observed, family);
        plan.steps.extend(steps);
        plan.hints.push((family, hints));
    }
    plan
}

fn plan_family(observed: &Observed<'_>, family: Family) -> (Vec<Step>, Hints) {
    let service = observed.service;
    let mut deleted: Vec<Arc<EndpointSlice>> = Vec::new();
    let mut by_ports: BTreeMap<Vec<TargetPort>, Vec<Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in observed.slices.iter().filter(|slice| slice.address_type == family.as_str()) {
        match is_owned(slice, service) {
            true => by_ports.entry(ports_key(slice)).or_default().push(slice.clone()),
            false => deleted.push(slice.clone()),
        }
    }
    let (mut created, mut updated, mut kept) = (Vec::new(), Vec::new(), 0);
    let (groups, hints) = hinted_groups(observed, family);
    for (key, Group { ports, endpoints }) in groups {
        let packed = pack(&by_ports.remove(&key).unwrap_or_default(), endpoints);
        kept += packed.unchanged.len() + packed.changed.len();
        let relabelled = packed.unchanged.iter().filter(|slice| slice.metadata.labels != labels(service));
        let relabelled = relabelled.map(|slice| (slice.clone(), slice.endpoints.clone().unwrap_or_default()));
        let written = packed.changed.into_iter().chain(relabelled.collect::<Vec<_>>());
        updated.extend(written.map(|(slice, endpoints)| changed(observed, &slice, endpoints)));
        deleted.extend(packed.emptied);
        created.extend(packed.new.into_iter().map(|all| new_slice(observed, family, &ports, all)));
    }
    deleted.extend(by_ports.into_values().flatten());
    if kept == 0 && created.is_empty() {
        // A slice without endpoints shows that the Service was seen.
        let placeholder = new_slice(observed, family, &[], Vec::new());
        match deleted.iter().position(|slice| is_like(slice, &placeholder) && is_owned(slice, service)) {
            Some(there) => drop(deleted.remove(there)),
            None => created.push(placeholder),
        }
    }
    (reuse(service, created, updated, deleted), hints)
}

fn hinted_groups(observed: &Observed<'_>, family: Family) -> (BTreeMap<Vec<TargetPort>, Group>, Hints) {
    let mut groups = groups(observed, family);
    if !topology::is_wished(observed.service) {
        return (groups, Hints::Unasked);
    }
    let slices = observed.slices.iter().map(|slice| &**slice);
    let slices: Vec<_> = slices.filter(|slice| slice.address_type == family.as_str()).collect();
    let hints = match topology::hint(&mut groups, &slices, observed.shares) {
        Ok(()) => Hints::Given,
        Err(why) => Hints::Refused(why),
    };
    (groups, hints)
}

/// What is to be created takes the place of what is to be deleted, as far as that goes.
fn reuse(
    service: &Service,
    mut created: Vec<EndpointSlice>,
    mut updated: Vec<EndpointSlice>,
    deleted: Vec<Arc<EndpointSlice>>,
) -> Vec<Step> {
    let mut gone = Vec::new();
    for slice in deleted {
        match created.pop_if(|_| is_owned(&slice, service)) {
            Some(new) => {
                let metadata = ObjectMeta {
                    labels: new.metadata.labels,
                    annotations: new.metadata.annotations,
                    ..slice.metadata.clone()
                };
                updated.push(EndpointSlice { metadata, ..new });
            }
            None => gone.push(slice),
        }
    }
    if owners::is_deleting(&service.metadata) {
        created.clear();
    }
    let created = created.into_iter().map(|slice| Step::Create(Box::new(slice)));
    let updated = updated.into_iter().map(|slice| Step::Update(Box::new(slice)));
    created.chain(updated).chain(gone.into_iter().map(Step::Delete)).collect()
}

fn groups(observed: &Observed<'_>, family: Family) -> BTreeMap<Vec<TargetPort>, Group> {
    let mut groups: BTreeMap<Vec<TargetPort>, Group> = BTreeMap::new();
    for pod in observed.pods {
        let addresses = service_pods::addresses_of(pod, family);
        let node = pods::node_name(pod).map(|name| observed.zones.get(name));
        let lost = node == Some(None) && !service_pods::publishes_not_ready(observed.service);
        if addresses.is_empty() || lost {
            continue;
        }
        let zone = node.flatten().cloned().flatten();
        let ports = service_pods::ports_of(observed.service, pod);
        let group = groups.entry(sorted(ports.clone()));
        let group = group.or_insert_with(|| Group { ports, endpoints: BTreeMap::new() });
        let endpoint = endpoint(observed.service, pod, addresses, zone);
        group.endpoints.insert(name_of(&pod.metadata).to_owned(), endpoint);
    }
    groups
}

fn endpoint(service: &Service, pod: &Pod, addresses: Vec<String>, zone: Option<String>) -> Endpoint {
    let serving = pods::is_ready(pod);
    let terminating = pods::is_terminating(pod);
    let ready = service_pods::publishes_not_ready(service) || (serving && !terminating);
    let node_name = pods::node_name(pod).map(ToOwned::to_owned);
    Endpoint {
        addresses,
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hints: if ready { hints(service, zone.as_deref(), node_name.as_deref()) } else { None },
        hostname: service_pods::hostname_of(pod, service),
        node_name,
        target_ref: Some(service_pods::reference_to(pod)),
        zone,
        ..Endpoint::default()
    }
}

/// Who should use an endpoint, by the Service's wish for short ways.
fn hints(service: &Service, zone: Option<&str>, node: Option<&str>) -> Option<EndpointHints> {
    if topology::is_wished(service) {
        return None;
    }
    let wish = service.spec.as_ref()?.traffic_distribution.as_deref()?;
    let node = match wish {
        "PreferClose" | "PreferSameZone" => None,
        "PreferSameNode" => node,
        _ => return None,
    };
    let for_zones = zone.map(|name| vec![ForZone { name: name.to_owned() }]);
    let for_nodes = node.map(|name| vec![ForNode { name: name.to_owned() }]);
    (for_zones.is_some() || for_nodes.is_some()).then_some(EndpointHints { for_nodes, for_zones })
}

fn labels(service: &Service) -> Option<BTreeMap<String, String>> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    labels.insert(SERVICE.to_owned(), name_of(&service.metadata).to_owned());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    if service_pods::is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    Some(labels)
}

fn changed(observed: &Observed<'_>, slice: &EndpointSlice, endpoints: Vec<Endpoint>) -> EndpointSlice {
    let mut changed = EndpointSlice { endpoints: Some(endpoints), ..slice.clone() };
    changed.metadata.labels = labels(observed.service);
    trigger_times::annotate(&mut changed.metadata, observed.changed_at);
    changed
}

fn new_slice(
    observed: &Observed<'_>,
    family: Family,
    ports: &[TargetPort],
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    let service = observed.service;
    let mut metadata = ObjectMeta {
        generate_name: Some(format!("{}-", name_of(&service.metadata))),
        namespace: service.metadata.namespace.clone(),
        labels: labels(service),
        owner_references: Some(vec![owners::controller_reference(service)]),
        ..ObjectMeta::default()
    };
    trigger_times::annotate(&mut metadata, observed.changed_at);
    EndpointSlice {
        address_type: family.as_str().to_owned(),
        endpoints: Some(endpoints),
        ports: written(ports),
        metadata,
    }
}

fn is_owned(slice: &EndpointSlice, service: &Service) -> bool {
    let mut owners = slice.metadata.owner_references.iter().flatten();
    owners.any(|owner| Some(&owner.uid) == service.metadata.uid.as_ref() && owner.kind == "Service")
}

/// Whether two slices say the same, whatever they are called.
fn is_like(slice: &EndpointSlice, other: &EndpointSlice) -> bool {
    slice.metadata.labels == other.metadata.labels
        && slice.endpoints.as_deref().unwrap_or_default() == other.endpoints.as_deref().unwrap_or_default()
        && ports_key(slice) == ports_key(other)
}

fn zone_of(node: &Node) -> Option<&str> {
    label(&node.metadata, ZONE).filter(|zone| !zone.is_empty())
}

#[async_trait]
impl Controller for EndpointSliceController {
    const NAME: &'static str = "endpointslice-controller";

    fn watches(setup: &Setup<'_>) -> Self {
        let services = setup.watch_own::<Service>();
        let selecting = services.clone();
        let pods = setup.watch::<Pod>(move |pod| service_pods::services_of(pod, &selecting));
        let slices = setup.watch::<EndpointSlice>(|slice| service_of(slice, MANAGER).into_iter().collect());
        let nodes = setup.read::<Node>();
        let (selecting, on_node, queue) = (services.clone(), pods.clone(), setup.queue.clone());
        let (hinting, hinted) = (services.clone(), setup.queue.clone());
        nodes.subscribe(move |change| {
            let weight = |node: Option<&Arc<Node>>| node.and_then(|node| topology::weight_of(node));
            if weight(change.old) != weight(change.new) {
                let wishing = hinting.all().into_iter().filter(|service| topology::is_wished(service));
                wishing.for_each(|service| hinted.add(ObjectKey::of(&*service)));
            }
        });
        nodes.subscribe(move |change| {
            let moved = change.old.map(|node| zone_of(node)) != change.new.map(|node| zone_of(node));
            let Some(node) = change.new.or(change.old).filter(|_| moved) else { return };
            for pod in on_node.on_node(name_of(&node.metadata)) {
                service_pods::services_of(&pod, &selecting).into_iter().for_each(|key| queue.add(key));
            }
        });
        Self {
            events: setup.events(),
            services,
            pods,
            nodes,
            slices: Slices::new(MANAGER, setup.client.clone(), slices),
            times: TriggerTimes::default(),
            hinted: Mutex::default(),
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        let Some(service) = self.services.get(key) else {
            self.slices.forget(key);
            self.times.forget(key);
            self.hinted.lock().remove(key);
            return Ok(Action::Done);
        };
        let slices = service_pods::is_selecting(&service).then(|| self.slices.of(key)).flatten();
        let Some(slices) = slices else { return Ok(Action::Done) };
        let pods = service_pods::pods_behind(&service, &self.pods);
        let changed_at = self.times.note(&service, &pods);
        let zones = self.zones_of(&pods);
        let nodes = if topology::is_wished(&service) { self.nodes.all() } else { Vec::new() };
        let shares = topology::shares_of(nodes.iter().map(|node| &**node));
        let shares = shares.as_ref();
        let observed =
            Observed { service: &service, pods: &pods, zones: &zones, shares, slices: &slices, changed_at };
        let Plan { steps, hints } = plan(&observed);
        self.tell(key, &service, &hints);
        for step in steps {
            if let Err(error) = self.slices.apply(key, step).await {
                if is_namespace_going(&error) {
                    return Ok(Action::Done);
                }
                let why = format!("Error updating Endpoint Slices for Service {key}: {}", said(&error));
                self.events.warning(&*service, "FailedToUpdateEndpointSlices", &why);
                return Err(error.into());
            }
        }
        Ok(Action::Done)
    }
}

impl EndpointSliceController {
    /// Records that hints by CPU came, went, or cannot be given.
    fn tell(&self, key: &ObjectKey, service: &Service, hints: &[(Family, Hints)]) {
        let (on, off) = ("TopologyAwareHintsEnabled", "TopologyAwareHintsDisabled");
        for (family, hints) in hints {
            let say = |why: &str| format!("{why}, addressType: {}", family.as_str());
            let mut hinted = self.hinted.lock();
            match hints {
                Hints::Given if hinted.insert(key.clone()) => {
                    self.events.normal(service, on, &say("Topology Aware Hints has been enabled"));
                }
                Hints::Given => {}
                Hints::Refused(why) => {
                    hinted.remove(key);
                    self.events.warning(service, off, &say(why));
                }
                Hints::Unasked if hinted.remove(key) => {
                    self.events.warning(service, off, &say("Topology Aware Hints has been disabled"));
                }
                Hints::Unasked => {}
            }
        }
    }

    fn zones_of(&self, pods: &[Arc<Pod>]) -> BTreeMap<String, Option<String>> {
        let names = pods.iter().filter_map(|pod| pods::node_name(pod));
        let nodes = names.filter_map(|name| self.nodes.get(&ObjectKey::cluster(name)));
        nodes
            .map(|node| (name_of(&node.metadata).to_owned(), zone_of(&node).map(ToOwned::to_owned)))
            .collect()
    }
}

#[cfg(test)]
mod tests;
