//! `endpointslice-controller`: lists the pods behind each Service in EndpointSlices.
//!
//! # Watches
//! Services, the pods they select, and the EndpointSlices it made.
//!
//! # Writes
//! EndpointSlices.
//!
//! # Guarantees
//! A pod is in at most one slice of a Service; a slice has at most 100 endpoints; a change of one pod writes
//! one slice. Pods that are terminating stay listed as such until they are gone.
//!
//! # Differs from Kubernetes
//! IPv4 only; no zones and no topology hints.

use std::collections::BTreeMap;
use std::sync::Arc;

use api_types::pods;
use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use kube::api::{DeleteParams, ObjectMeta, PostParams};
use kube::{Api, Client};

use crate::controller::{Action, Controller, ReconcileError, Setup};
use crate::expectations::Expectations;
use crate::informers::Informer;
use crate::key::ObjectKey;
use crate::owners::{self, label, name_of};
use crate::pod_control::delete_exactly;
use crate::service_pods::{self, TargetPort};

const SERVICE: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
/// Endpoints in one slice.
const ENDPOINTS_MAX: usize = 100;

pub(crate) struct EndpointSliceController {
    client: Client,
    services: Arc<Informer<Service>>,
    pods: Arc<Informer<Pod>>,
    slices: Arc<Informer<EndpointSlice>>,
    expectations: Expectations,
}

/// One thing to do.
#[derive(Debug, PartialEq)]
enum Step {
    Create(Box<EndpointSlice>),
    Update(Box<EndpointSlice>),
    Delete(Arc<EndpointSlice>),
}

/// What should be listed: endpoints by the ports they serve.
type Wanted = BTreeMap<Vec<TargetPort>, Vec<Endpoint>>;

fn wanted(service: &Service, pods: &[Arc<Pod>]) -> Wanted {
    let mut wanted = Wanted::new();
    for pod in pods {
        wanted.entry(service_pods::ports_of(service, pod)).or_default().push(endpoint(service, pod));
    }
    wanted
}

fn endpoint(service: &Service, pod: &Pod) -> Endpoint {
    let serving = service_pods::is_serving(pod, service);
    let terminating = pods::is_terminating(pod);
    let regardless = service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses) == Some(true);
    Endpoint {
        addresses: vec![service_pods::address_of(pod).unwrap_or_default().to_owned()],
        conditions: Some(EndpointConditions {
            ready: Some(serving && (!terminating || regardless)),
            serving: Some(pods::is_ready(pod)),
            terminating: Some(terminating),
        }),
        hostname: service_pods::hostname_of(pod, service),
        node_name: pods::node_name(pod).map(ToOwned::to_owned),
        target_ref: Some(service_pods::reference_to(pod)),
        ..Endpoint::default()
    }
}

fn ports_of(slice: &EndpointSlice) -> Vec<TargetPort> {
    let port = |port: &EndpointPort| TargetPort {
        name: port.name.clone().unwrap_or_default(),
        number: port.port.unwrap_or(0),
        protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
        app_protocol: port.app_protocol.clone(),
    };
    let mut ports: Vec<_> = slice.ports.iter().flatten().map(port).collect();
    ports.sort();
    ports
}

fn plan(service: &Service, mut wanted: Wanted, existing: &[Arc<EndpointSlice>]) -> Vec<Step> {
    if wanted.is_empty() {
        // An empty slice shows that the Service was seen.
        wanted.insert(Vec::new(), Vec::new());
    }
    let mut steps = Vec::new();
    let mut of_ports: BTreeMap<Vec<TargetPort>, Vec<Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in existing {
        of_ports.entry(ports_of(slice)).or_default().push(slice.clone());
    }
    for (ports, endpoints) in wanted {
        let slices = of_ports.remove(&ports).unwrap_or_default();
        steps.extend(distribute(service, &ports, endpoints, &slices));
    }
    steps.extend(of_ports.into_values().flatten().map(Step::Delete));
    steps
}

/// Puts `endpoints` into `slices`, changing as few of them as possible.
fn distribute(
    service: &Service,
    ports: &[TargetPort],
    endpoints: Vec<Endpoint>,
    slices: &[Arc<EndpointSlice>],
) -> Vec<Step> {
    let key = |endpoint: &Endpoint| {
        endpoint.target_ref.as_ref().and_then(|pod| pod.uid.clone()).unwrap_or_default()
    };
    let mut left: BTreeMap<String, Endpoint> = endpoints.into_iter().map(|one| (key(&one), one)).collect();
    let mut contents: Vec<Vec<Endpoint>> = slices
        .iter()
        .map(|slice| slice.endpoints.iter().flatten().filter_map(|one| left.remove(&key(one))).collect())
        .collect();
    for content in &mut contents {
        while content.len() < ENDPOINTS_MAX
            && let Some((_, one)) = left.pop_first()
        {
            content.push(one);
        }
    }
    let mut steps = Vec::new();
    let any_kept = contents.iter().any(|content| !content.is_empty());
    for (index, (slice, content)) in slices.iter().zip(contents).enumerate() {
        let superfluous = content.is_empty() && (any_kept || index > 0);
        if superfluous {
            steps.push(Step::Delete(slice.clone()));
        } else if slice.endpoints.as_deref().unwrap_or_default() != content.as_slice()
            || slice.metadata.labels != labels(service)
        {
            let mut changed = EndpointSlice::clone(slice);
            changed.metadata.labels = labels(service);
            changed.endpoints = Some(content);
            steps.push(Step::Update(Box::new(changed)));
        }
    }
    let rest: Vec<Endpoint> = left.into_values().collect();
    steps.extend(rest.chunks(ENDPOINTS_MAX).map(|chunk| create(service, ports, chunk.to_vec())));
    if slices.is_empty() && rest.is_empty() {
        steps.push(create(service, ports, Vec::new()));
    }
    steps
}

fn labels(service: &Service) -> Option<BTreeMap<String, String>> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE.to_owned(), name_of(&service.metadata).to_owned());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    if service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None") {
        labels.insert("service.kubernetes.io/headless".to_owned(), String::new());
    }
    Some(labels)
}

fn create(service: &Service, ports: &[TargetPort], endpoints: Vec<Endpoint>) -> Step {
    let port = |port: &TargetPort| EndpointPort {
        name: Some(port.name.clone()),
        port: Some(port.number),
        protocol: Some(port.protocol.clone()),
        app_protocol: port.app_protocol.clone(),
    };
    Step::Create(Box::new(EndpointSlice {
        address_type: "IPv4".to_owned(),
        endpoints: Some(endpoints),
        ports: (!ports.is_empty()).then(|| ports.iter().map(port).collect()),
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", name_of(&service.metadata))),
            namespace: service.metadata.namespace.clone(),
            labels: labels(service),
            owner_references: Some(vec![owners::controller_reference(service)]),
            ..ObjectMeta::default()
        },
    }))
}

/// The Service that a slice of ours belongs to.
fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    if label(&slice.metadata, MANAGED_BY) != Some(MANAGER) {
        return None;
    }
    let namespace = slice.metadata.namespace.clone().unwrap_or_default();
    label(&slice.metadata, SERVICE).map(|name| ObjectKey::new(namespace, name))
}

#[async_trait]
impl Controller for EndpointSliceController {
    const NAME: &'static str = "endpointslice-controller";

    fn watches(setup: &Setup<'_>) -> Self {
        let services = setup.watch_own::<Service>();
        let selecting = services.clone();
        let pods = setup.watch::<Pod>(move |pod| service_pods::services_of(pod, &selecting));
        let slices = setup.watch::<EndpointSlice>(|slice| service_of(slice).into_iter().collect());
        Self { client: setup.client.clone(), services, pods, slices, expectations: Expectations::default() }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        let Some(service) = self.services.get(key) else {
            self.expectations.forget(key);
            return Ok(Action::Done);
        };
        let unneeded = !service_pods::is_selecting(&service) || owners::is_deleting(&service.metadata);
        if unneeded || !self.expectations.are_met(key, &*self.slices) {
            return Ok(Action::Done);
        }
        let mut existing = self.slices.in_namespace(&key.namespace);
        existing
            .retain(|slice| service_of(slice).as_ref() == Some(key) && !owners::is_deleting(&slice.metadata));
        let wanted = wanted(&service, &service_pods::pods_behind(&service, &self.pods));
        for step in plan(&service, wanted, &existing) {
            self.apply(key, step).await?;
        }
        Ok(Action::Done)
    }
}

impl EndpointSliceController {
    async fn apply(&self, key: &ObjectKey, step: Step) -> Result<(), kube::Error> {
        let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &key.namespace);
        match step {
            Step::Create(slice) => {
                let created = api.create(&PostParams::default(), &slice).await?;
                self.expectations.created(key, &self.slices, &created);
            }
            Step::Update(slice) => {
                let updated = api.replace(name_of(&slice.metadata), &PostParams::default(), &slice).await?;
                self.expectations.created(key, &self.slices, &updated);
            }
            Step::Delete(slice) => {
                delete_exactly(&self.client, &*slice, DeleteParams::default()).await?;
                self.expectations.deleted(key, &*slice);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(selector: &str) -> Service {
        let spec = json!({"selector": {"app": selector}, "ports": [{"name": "http", "port": 80, "targetPort": "web"}]});
        serde_json::from_value(
            json!({"metadata": {"name": "s", "namespace": "ns", "uid": "s"}, "spec": spec}),
        )
        .unwrap()
    }

    fn pods(count: usize) -> Vec<Arc<Pod>> {
        let pod = |index: usize| {
            json!({
                "metadata": {"name": format!("p{index}"), "uid": format!("{index:04}"), "labels": {"app": "a"}},
                "spec": {"nodeName": "n", "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}]},
                "status": {"podIP": format!("10.0.0.{index}"), "conditions": [{"type": "Ready", "status": "True"}]},
            })
        };
        (0..count).map(|index| Arc::new(serde_json::from_value(pod(index)).unwrap())).collect()
    }

    fn planned(count: usize, existing: &[Arc<EndpointSlice>]) -> Vec<Step> {
        plan(&service("a"), wanted(&service("a"), &pods(count)), existing)
    }

    fn made(steps: Vec<Step>) -> Vec<Arc<EndpointSlice>> {
        let slice = |step| match step {
            Step::Create(slice) => Arc::new(*slice),
            other => panic!("not a creation: {other:?}"),
        };
        steps.into_iter().map(slice).collect()
    }

    #[test]
    fn a_named_port_is_resolved_in_the_pod() {
        let slices = made(planned(1, &[]));
        assert_eq!(slices[0].ports.as_ref().unwrap()[0].port, Some(8080));
        assert_eq!(slices[0].endpoints.as_ref().unwrap()[0].addresses, ["10.0.0.0"]);
    }

    #[test]
    fn a_slice_holds_a_hundred_endpoints() {
        let sizes: Vec<_> =
            made(planned(250, &[])).iter().map(|slice| slice.endpoints.as_ref().unwrap().len()).collect();
        assert_eq!(sizes, [100, 100, 50]);
    }

    #[test]
    fn one_pod_less_changes_one_slice() {
        let slices = made(planned(150, &[]));
        assert!(matches!(planned(149, &slices).as_slice(), [Step::Update(_)]));
        assert!(planned(150, &slices).is_empty());
    }

    #[test]
    fn a_service_without_pods_has_one_empty_slice() {
        let slices = made(planned(0, &[]));
        assert!(slices[0].endpoints.as_ref().unwrap().is_empty());
        assert!(planned(0, &slices).is_empty());
    }
}
