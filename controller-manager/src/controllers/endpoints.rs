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
//! when it is truncated. Endpoints of a Service without selector are left to whoever made them.
//!
//! # Differs from Kubernetes
//! IPv4 only; the annotation with the time of the last change is not written.

use std::collections::BTreeMap;
use std::sync::Arc;

use api_types::pods;
use async_trait::async_trait;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service};
use kube::api::{DeleteParams, ObjectMeta, PostParams};
use kube::{Api, Client};

use crate::controller::{Action, Controller, ReconcileError, Setup};
use crate::informers::Informer;
use crate::key::ObjectKey;
use crate::owners::{self, name_of};
use crate::pod_control::delete_exactly;
use crate::service_pods::{self, TargetPort};

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Addresses in one object.
const ADDRESSES_MAX: usize = 1000;

pub(crate) struct EndpointsController {
    client: Client,
    services: Arc<Informer<Service>>,
    pods: Arc<Informer<Pod>>,
    endpoints: Arc<Informer<Endpoints>>,
}

/// One thing to do.
#[derive(Debug, PartialEq)]
enum Step {
    Create(Box<Endpoints>),
    Update(Box<Endpoints>),
}

fn plan(service: &Service, pods: &[Arc<Pod>], existing: Option<&Endpoints>) -> Option<Step> {
    let wanted = wanted(service, pods);
    let Some(existing) = existing else { return Some(Step::Create(Box::new(wanted))) };
    let same = existing.subsets.as_deref().unwrap_or_default()
        == wanted.subsets.as_deref().unwrap_or_default()
        && existing.metadata.labels == wanted.metadata.labels;
    let mut changed = existing.clone();
    changed.subsets = wanted.subsets;
    changed.metadata.labels = wanted.metadata.labels;
    changed.metadata.annotations = wanted.metadata.annotations;
    (!same).then(|| Step::Update(Box::new(changed)))
}

fn wanted(service: &Service, pods: &[Arc<Pod>]) -> Endpoints {
    let mut by_ports: BTreeMap<Vec<TargetPort>, (Vec<EndpointAddress>, Vec<EndpointAddress>)> =
        BTreeMap::new();
    let mut ranked: Vec<_> = pods.iter().filter(|pod| !pods::is_terminating(pod)).collect();
    ranked.sort_by_key(|pod| {
        (!service_pods::is_serving(pod, service), service_pods::address_of(pod).map(ToOwned::to_owned))
    });
    let truncated = ranked.len() > ADDRESSES_MAX;
    for pod in ranked.into_iter().take(ADDRESSES_MAX) {
        let (ready, unready) = by_ports.entry(service_pods::ports_of(service, pod)).or_default();
        let list = if service_pods::is_serving(pod, service) { ready } else { unready };
        list.push(address(service, pod));
    }
    let subset = |(ports, (ready, unready)): (Vec<TargetPort>, (Vec<_>, Vec<_>))| EndpointSubset {
        addresses: (!ready.is_empty()).then_some(ready),
        not_ready_addresses: (!unready.is_empty()).then_some(unready),
        ports: (!ports.is_empty()).then(|| ports.iter().map(port).collect()),
    };
    let subsets: Vec<_> = by_ports.into_iter().map(subset).collect();
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(MANAGED_BY.to_owned(), "endpoint-controller".to_owned());
    if service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None") {
        labels.insert("service.kubernetes.io/headless".to_owned(), String::new());
    }
    Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: truncated.then(|| [(OVER_CAPACITY.to_owned(), "truncated".to_owned())].into()),
            ..ObjectMeta::default()
        },
        subsets: (!subsets.is_empty()).then_some(subsets),
    }
}

fn address(service: &Service, pod: &Pod) -> EndpointAddress {
    EndpointAddress {
        ip: service_pods::address_of(pod).unwrap_or_default().to_owned(),
        hostname: service_pods::hostname_of(pod, service),
        node_name: pods::node_name(pod).map(ToOwned::to_owned),
        target_ref: Some(service_pods::reference_to(pod)),
    }
}

fn port(port: &TargetPort) -> EndpointPort {
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
        let services = setup.watch_own::<Service>();
        let selecting = services.clone();
        let pods = setup.watch::<Pod>(move |pod| service_pods::services_of(pod, &selecting));
        let endpoints = setup.watch_own::<Endpoints>();
        Self { client: setup.client.clone(), services, pods, endpoints }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        let existing = self.endpoints.get(key);
        let Some(service) = self.services.get(key) else {
            if let Some(left) = existing.filter(|one| owners::label(&one.metadata, MANAGED_BY).is_some()) {
                delete_exactly(&self.client, &*left, DeleteParams::default()).await?;
            }
            return Ok(Action::Done);
        };
        if !service_pods::is_selecting(&service) || owners::is_deleting(&service.metadata) {
            return Ok(Action::Done);
        }
        let pods = service_pods::pods_behind(&service, &self.pods);
        let api: Api<Endpoints> = Api::namespaced(self.client.clone(), &key.namespace);
        match plan(&service, &pods, existing.as_deref()) {
            None => {}
            Some(Step::Create(wanted)) => drop(api.create(&PostParams::default(), &wanted).await?),
            Some(Step::Update(wanted)) => {
                api.replace(name_of(&wanted.metadata), &PostParams::default(), &wanted).await?;
            }
        }
        Ok(Action::Done)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service() -> Service {
        let spec = json!({"selector": {"app": "a"}, "ports": [{"port": 80, "targetPort": 8080}]});
        serde_json::from_value(json!({"metadata": {"name": "s", "namespace": "ns"}, "spec": spec})).unwrap()
    }

    fn pod(address: &str, ready: &str) -> Arc<Pod> {
        let pod = json!({
            "metadata": {"name": address, "uid": address, "labels": {"app": "a"}},
            "spec": {"containers": []},
            "status": {"podIP": address, "conditions": [{"type": "Ready", "status": ready}]},
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn ready_and_not_ready_pods_are_kept_apart() {
        let wanted = wanted(&service(), &[pod("10.0.0.2", "False"), pod("10.0.0.1", "True")]);
        let subset = &wanted.subsets.unwrap()[0];
        assert_eq!(subset.addresses.as_ref().unwrap()[0].ip, "10.0.0.1");
        assert_eq!(subset.not_ready_addresses.as_ref().unwrap()[0].ip, "10.0.0.2");
        assert_eq!(subset.ports.as_ref().unwrap()[0].port, 8080);
    }

    #[test]
    fn nothing_is_written_when_nothing_changed() {
        let pods = [pod("10.0.0.1", "True")];
        let existing = wanted(&service(), &pods);
        assert_eq!(plan(&service(), &pods, Some(&existing)), None);
    }
}
