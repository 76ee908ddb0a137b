//! `endpointslice-mirroring-controller`: shows Endpoints that somebody keeps by hand as EndpointSlices too.
//!
//! # Watches
//! Endpoints, Services, and the EndpointSlices it made.
//!
//! # Writes
//! EndpointSlices, one for each subset and family of addresses.
//!
//! # Guarantees
//! Only Endpoints of Services without selector are mirrored, and not those labelled
//! `endpointslice.kubernetes.io/skip-mirror` or used for leader elections. The slices go with the Endpoints.
//!
//! # Differs from Kubernetes
//! Nothing known.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointSlice};
use kube::api::ObjectMeta;

use crate::controller::{Action, Controller, Events, ReconcileError, Setup};
use crate::endpoint_slices::{MANAGED_BY, SERVICE, Slices, Step, ports_key, service_of, sorted, written};
use crate::informers::Informer;
use crate::key::ObjectKey;
use crate::owners::{self, annotation, label, name_of};
use crate::pod_control::is_namespace_going;
use crate::service_pods::{Family, TargetPort};
use crate::trigger_times::LAST_CHANGE;

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Addresses of one subset that are mirrored.
const ADDRESSES_MAX: usize = 1000;

pub(crate) struct EndpointSliceMirroring {
    events: Events,
    services: Arc<Informer<Service>>,
    endpoints: Arc<Informer<Endpoints>>,
    slices: Slices,
}

/// What to write, and which addresses cannot be mirrored.
#[derive(Debug, Default, PartialEq)]
struct Plan {
    steps: Vec<Step>,
    /// Addresses that are none.
    invalid: usize,
    /// Addresses too many.
    skipped: usize,
}

/// Endpoints by family and ports.
type Wanted = BTreeMap<(Family, Vec<TargetPort>), (Vec<TargetPort>, Vec<Endpoint>)>;

fn plan(mirrored: Option<&Endpoints>, slices: &[Arc<EndpointSlice>]) -> Plan {
    let mut plan = Plan::default();
    let Some(endpoints) = mirrored else {
        plan.steps.extend(slices.iter().cloned().map(Step::Delete));
        return plan;
    };
    let wanted = wanted(endpoints, &mut plan);
    let steps = &mut plan.steps;
    let key = |slice: &EndpointSlice| (slice.address_type.clone(), ports_key(slice));
    let mut there: BTreeMap<_, Vec<Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in slices {
        there.entry(key(slice)).or_default().push(slice.clone());
    }
    let (mut created, mut deleted) = (Vec::new(), Vec::new());
    for ((family, key), (ports, listed)) in wanted {
        let mut of_key = there.remove(&(family.as_str().to_owned(), key)).unwrap_or_default().into_iter();
        let new = mirror(endpoints, family, &ports, listed);
        match of_key.next() {
            Some(slice) if says_the_same(&slice, &new) => {}
            Some(slice) => steps.push(Step::Update(Box::new(replacing(&slice, new)))),
            None => created.push(new),
        }
        deleted.extend(of_key);
    }
    deleted.extend(there.into_values().flatten());
    for slice in deleted {
        match created.pop_if(|new: &mut EndpointSlice| new.address_type == slice.address_type) {
            Some(new) => steps.push(Step::Update(Box::new(replacing(&slice, new)))),
            None => steps.push(Step::Delete(slice)),
        }
    }
    if !owners::is_deleting(&endpoints.metadata) {
        steps.extend(created.into_iter().map(|slice| Step::Create(Box::new(slice))));
    }
    plan
}

/// What should be listed; notes in the plan what cannot be.
fn wanted(endpoints: &Endpoints, plan: &mut Plan) -> Wanted {
    let mut wanted = Wanted::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports: Vec<_> = subset.ports.iter().flatten().map(target).collect();
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let unready = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        let mut listed = 0;
        for (address, ready) in ready.chain(unready) {
            let Ok(ip) = address.ip.parse::<IpAddr>() else {
                plan.invalid += 1;
                continue;
            };
            if listed == ADDRESSES_MAX {
                plan.skipped += 1;
                continue;
            }
            listed += 1;
            let group = wanted.entry((Family::of(&ip), sorted(ports.clone())));
            group.or_insert_with(|| (ports.clone(), Vec::new())).1.push(endpoint(address, ip, ready));
        }
    }
    wanted
}

fn target(port: &EndpointPort) -> TargetPort {
    TargetPort {
        name: port.name.clone().unwrap_or_default(),
        number: port.port,
        protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
        app_protocol: port.app_protocol.clone(),
    }
}

fn endpoint(address: &EndpointAddress, ip: IpAddr, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone().filter(|name| !name.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

/// A new slice with these endpoints.
fn mirror(
    endpoints: &Endpoints,
    family: Family,
    ports: &[TargetPort],
    mut listed: Vec<Endpoint>,
) -> EndpointSlice {
    listed.truncate(ADDRESSES_MAX);
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE.to_owned(), name_of(&endpoints.metadata).to_owned());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|name, _| name != LAST_CHANGE && name != LAST_APPLIED);
    EndpointSlice {
        address_type: family.as_str().to_owned(),
        endpoints: Some(listed),
        ports: written(ports),
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", name_of(&endpoints.metadata))),
            namespace: endpoints.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: Some(vec![owners::controller_reference(endpoints)]),
            ..ObjectMeta::default()
        },
    }
}

fn says_the_same(slice: &EndpointSlice, new: &EndpointSlice) -> bool {
    let annotations = |slice: &EndpointSlice| slice.metadata.annotations.clone().unwrap_or_default();
    slice.metadata.labels == new.metadata.labels
        && annotations(slice) == annotations(new)
        && slice.metadata.owner_references == new.metadata.owner_references
        && slice.endpoints.as_deref().unwrap_or_default() == new.endpoints.as_deref().unwrap_or_default()
}

/// `new` under the name of `slice`.
fn replacing(slice: &EndpointSlice, new: EndpointSlice) -> EndpointSlice {
    let metadata = ObjectMeta {
        labels: new.metadata.labels,
        annotations: new.metadata.annotations,
        owner_references: new.metadata.owner_references,
        ..slice.metadata.clone()
    };
    EndpointSlice { metadata, ..new }
}

fn is_mirrored(endpoints: &Endpoints, service: &Service) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_none_or(BTreeMap::is_empty)
        && label(&endpoints.metadata, SKIP) != Some("true")
        && annotation(&endpoints.metadata, LEADER).is_none()
}

#[async_trait]
impl Controller for EndpointSliceMirroring {
    const NAME: &'static str = "endpointslice-mirroring-controller";

    fn watches(setup: &Setup<'_>) -> Self {
        let slices = setup.watch::<EndpointSlice>(|slice| service_of(slice, MANAGER).into_iter().collect());
        Self {
            events: setup.events(),
            services: setup.watch_own::<Service>(),
            endpoints: setup.watch_own::<Endpoints>(),
            slices: Slices::new(MANAGER, setup.client.clone(), slices),
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        let Some(slices) = self.slices.of(key) else { return Ok(Action::Done) };
        let service = self.services.get(key);
        let endpoints = self.endpoints.get(key);
        let mirrored =
            endpoints.filter(|endpoints| service.is_some_and(|service| is_mirrored(endpoints, &service)));
        let plan = plan(mirrored.as_deref(), &slices);
        if let Some(endpoints) = &mirrored {
            self.report(endpoints, &plan);
        }
        for step in plan.steps {
            match self.slices.apply(key, step).await {
                Err(error) if is_namespace_going(&error) => return Ok(Action::Done),
                applied => applied?,
            }
        }
        Ok(Action::Done)
    }
}

impl EndpointSliceMirroring {
    fn report(&self, endpoints: &Endpoints, plan: &Plan) {
        if plan.invalid > 0 {
            let count = plan.invalid;
            let message = format!("Skipped {count} invalid IP addresses when mirroring to EndpointSlices");
            self.events.warning(endpoints, "InvalidIPAddress", &message);
        }
        if plan.skipped > 0 {
            let count = plan.skipped;
            let message = format!(
                "A max of {ADDRESSES_MAX} addresses can be mirrored to EndpointSlices per Endpoints subset. \
                 {count} addresses were skipped"
            );
            self.events.warning(endpoints, "TooManyAddressesToMirror", &message);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::endpoint_slices::made;

    fn endpoints(subsets: Value) -> Endpoints {
        let annotations = json!({LAST_CHANGE: "x", "note": "kept"});
        let meta = json!({"name": "s", "namespace": "ns", "uid": "e", "labels": {"a": "b"}, "annotations": annotations});
        serde_json::from_value(json!({"metadata": meta, "subsets": subsets})).unwrap()
    }

    fn subset(addresses: &[&str], port: i32) -> Value {
        let addresses: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
        json!({"addresses": addresses, "ports": [{"port": port, "protocol": "TCP"}]})
    }

    /// Steps as "create IPv4 10.0.0.1:80".
    fn told(steps: &[Step]) -> Vec<String> {
        let slice = |slice: &EndpointSlice| {
            let addresses: Vec<_> =
                slice.endpoints.iter().flatten().flat_map(|one| one.addresses.clone()).collect();
            let ports: Vec<_> = slice.ports.iter().flatten().filter_map(|port| port.port).collect();
            format!("{} {}:{ports:?}", slice.address_type, addresses.join(","))
        };
        let tell = |step: &Step| match step {
            Step::Create(one) => format!("create {}", slice(one)),
            Step::Update(one) => format!("update {} {}", name_of(&one.metadata), slice(one)),
            Step::Delete(one) => format!("delete {}", name_of(&one.metadata)),
        };
        steps.iter().map(tell).collect()
    }

    #[test]
    fn each_subset_and_family_has_a_slice() {
        let both = endpoints(json!([subset(&["10.0.0.1", "fd00::1"], 80), subset(&["10.0.0.2"], 81)]));
        let expected = ["create IPv4 10.0.0.2:[81]", "create IPv4 10.0.0.1:[80]", "create IPv6 fd00::1:[80]"];
        let mut told = told(&plan(Some(&both), &[]).steps);
        told.sort();
        let mut expected = expected.map(ToOwned::to_owned);
        expected.sort();
        assert_eq!(told, expected);
    }

    #[test]
    fn labels_and_annotations_are_taken_over_but_for_our_own() {
        let slices = made(plan(Some(&endpoints(json!([subset(&["10.0.0.1"], 80)]))), &[]).steps);
        let meta = &slices[0].metadata;
        let labels = meta.labels.clone().unwrap();
        assert_eq!(
            (labels["a"].as_str(), labels[SERVICE].as_str(), labels[MANAGED_BY].as_str()),
            ("b", "s", MANAGER)
        );
        assert_eq!(meta.annotations.clone().unwrap(), [("note".to_owned(), "kept".to_owned())].into());
        assert_eq!(meta.owner_references.as_ref().unwrap()[0].kind, "Endpoints");
    }

    #[test]
    fn a_change_updates_the_slice_that_is_there() {
        let before = endpoints(json!([subset(&["10.0.0.1"], 80)]));
        let slices = made(plan(Some(&before), &[]).steps);
        assert!(plan(Some(&before), &slices).steps.is_empty());
        let after = endpoints(json!([subset(&["10.0.0.1", "10.0.0.2"], 80)]));
        assert_eq!(told(&plan(Some(&after), &slices).steps), ["update s-0 IPv4 10.0.0.1,10.0.0.2:[80]"]);
        let after = endpoints(json!([subset(&["10.0.0.1"], 81)]));
        assert_eq!(told(&plan(Some(&after), &slices).steps), ["update s-0 IPv4 10.0.0.1:[81]"]);
    }

    #[test]
    fn what_is_not_mirrored_any_more_goes() {
        let slices = made(plan(Some(&endpoints(json!([subset(&["10.0.0.1"], 80)]))), &[]).steps);
        assert_eq!(told(&plan(None, &slices).steps), ["delete s-0"]);
        assert_eq!(told(&plan(Some(&endpoints(json!([]))), &slices).steps), ["delete s-0"]);
    }

    #[test]
    fn addresses_that_are_none_or_too_many_are_reported() {
        let many: Vec<String> =
            (0..1003).map(|index| format!("10.0.{}.{}", index / 250, index % 250)).collect();
        let mut all: Vec<&str> = many.iter().map(String::as_str).collect();
        all.push("nonsense");
        let plan = plan(Some(&endpoints(json!([subset(&all, 80)]))), &[]);
        assert_eq!((plan.invalid, plan.skipped), (1, 3));
    }

    #[test]
    fn only_what_somebody_keeps_by_hand_is_mirrored() {
        let service = |spec: Value| serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap();
        let mut all = endpoints(json!([]));
        assert!(is_mirrored(&all, &service(json!({}))));
        assert!(!is_mirrored(&all, &service(json!({"selector": {"a": "b"}}))));
        all.metadata.labels.get_or_insert_default().insert(SKIP.to_owned(), "true".to_owned());
        assert!(!is_mirrored(&all, &service(json!({}))));
    }
}
