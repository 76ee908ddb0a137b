//! Builders of objects, and short ways to a decision, for this crate's unit tests.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Affinity, Node, Pod};
use serde_json::{Value, json};

use crate::cycle::{Decision, Request, Scratch};
use crate::node::{NodeFacts, NodeInfo};
use crate::plugins;
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;
use crate::volumes::{BIND_COMPLETED, ClaimFacts, ClassFacts, SELECTED_NODE, VolumeFacts};

/// A pod in the making, as its JSON.
#[derive(Clone)]
pub(crate) struct PodBuilder(Value);

/// A pod of the namespace `default` whose uid is its name.
pub(crate) fn pod(name: &str) -> PodBuilder {
    PodBuilder(json!({
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {}},
        "spec": {"containers": [{"name": "c", "image": "busybox", "resources": {"requests": {}}, "ports": []}],
            "initContainers": [], "tolerations": [], "schedulingGates": [], "nodeSelector": {},
            "topologySpreadConstraints": [], "volumes": []},
        "status": {},
    }))
}

impl PodBuilder {
    fn set(mut self, pointer: &str, value: Value) -> Self {
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        self.0.pointer_mut(parent).unwrap()[field] = value;
        self
    }

    fn push(mut self, pointer: &str, value: Value) -> Self {
        self.0.pointer_mut(pointer).unwrap().as_array_mut().unwrap().push(value);
        self
    }

    pub(crate) fn namespace(self, namespace: &str) -> Self {
        self.set("/metadata/namespace", json!(namespace))
    }

    pub(crate) fn label(self, key: &str, value: &str) -> Self {
        self.set(&format!("/metadata/labels/{key}"), json!(value))
    }

    pub(crate) fn request(mut self, resource: &str, amount: &str) -> Self {
        self.0["spec"]["containers"][0]["resources"]["requests"][resource] = json!(amount);
        self
    }

    pub(crate) fn requests(self, cpu: &str, memory: &str) -> Self {
        self.request("cpu", cpu).request("memory", memory)
    }

    pub(crate) fn init(self, cpu: &str, memory: &str) -> Self {
        let requests = json!({"cpu": cpu, "memory": memory});
        self.push("/spec/initContainers", json!({"name": "i", "resources": {"requests": requests}}))
    }

    pub(crate) fn sidecar(self, cpu: &str, memory: &str) -> Self {
        let requests = json!({"cpu": cpu, "memory": memory});
        let container = json!({"name": "s", "restartPolicy": "Always", "resources": {"requests": requests}});
        self.push("/spec/initContainers", container)
    }

    pub(crate) fn image(self, image: &str) -> Self {
        self.set("/spec/containers/0/image", json!(image))
    }

    pub(crate) fn host_port(self, port: i32) -> Self {
        self.push("/spec/containers/0/ports", json!({"containerPort": port, "hostPort": port}))
    }

    pub(crate) fn claim(self, name: &str) -> Self {
        let volume = json!({"name": name, "persistentVolumeClaim": {"claimName": name}});
        self.push("/spec/volumes", volume)
    }

    pub(crate) fn node(self, name: &str) -> Self {
        self.set("/spec/nodeName", json!(name))
    }

    pub(crate) fn nominated(self, name: &str) -> Self {
        self.set("/status/nominatedNodeName", json!(name))
    }

    pub(crate) fn priority(self, priority: i32) -> Self {
        self.set("/spec/priority", json!(priority))
    }

    pub(crate) fn gate(self, name: &str) -> Self {
        self.push("/spec/schedulingGates", json!({"name": name}))
    }

    pub(crate) fn select(mut self, key: &str, value: &str) -> Self {
        self.0["spec"]["nodeSelector"][key] = json!(value);
        self
    }

    pub(crate) fn tolerate(self, key: &str, value: &str, effect: &str) -> Self {
        let toleration = json!({"key": key, "operator": "Equal", "value": value, "effect": effect});
        self.push("/spec/tolerations", toleration)
    }

    pub(crate) fn tolerate_all(self) -> Self {
        self.push("/spec/tolerations", json!({"operator": "Exists"}))
    }

    /// Adds to the affinity; kinds already there are replaced.
    pub(crate) fn affinity(mut self, affinity: Affinity) -> Self {
        let Value::Object(added) = serde_json::to_value(affinity).unwrap() else { panic!() };
        let mut all = self.0["spec"]["affinity"].as_object().cloned().unwrap_or_default();
        all.extend(added);
        self.0["spec"]["affinity"] = Value::Object(all);
        self
    }

    pub(crate) fn spread(self, labels: &str, key: &str, skew: i32, unsatisfiable: &str) -> Self {
        let selector = json!({"matchLabels": pairs(labels)});
        let constraint = json!({"maxSkew": skew, "topologyKey": key, "whenUnsatisfiable": unsatisfiable,
            "labelSelector": selector});
        self.push("/spec/topologySpreadConstraints", constraint)
    }

    pub(crate) fn build(&self) -> Pod {
        serde_json::from_value(self.0.clone()).unwrap()
    }

    pub(crate) fn info(&self) -> Arc<PodInfo> {
        Arc::new(PodInfo::from_pod(self.build()))
    }
}

/// `a=b,c=d` as a map.
fn pairs(text: &str) -> BTreeMap<String, String> {
    text.split(',')
        .filter_map(|pair| pair.split_once('='))
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect()
}

fn pod_term(labels: &str, key: &str) -> Value {
    json!({"topologyKey": key, "labelSelector": {"matchLabels": pairs(labels)}})
}

fn parse(affinity: Value) -> Affinity {
    serde_json::from_value(affinity).unwrap()
}

pub(crate) fn affinity(labels: &str, key: &str) -> Affinity {
    let term = pod_term(labels, key);
    parse(json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}))
}

pub(crate) fn anti_affinity(labels: &str, key: &str) -> Affinity {
    let term = pod_term(labels, key);
    parse(json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}))
}

pub(crate) fn preferred_affinity(weight: i32, labels: &str, key: &str) -> Affinity {
    let term = json!({"weight": weight, "podAffinityTerm": pod_term(labels, key)});
    parse(json!({"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [term]}}))
}

fn node_terms(term: Value) -> Affinity {
    let required = json!({"nodeSelectorTerms": [term]});
    parse(json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}))
}

pub(crate) fn node_affinity(key: &str, operator: &str, values: &[&str]) -> Affinity {
    node_terms(json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]}))
}

pub(crate) fn node_field(name: &str) -> Affinity {
    node_terms(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}))
}

pub(crate) fn preferred_node(weight: i32, key: &str, value: &str) -> Affinity {
    let preference = json!({"matchExpressions": [{"key": key, "operator": "In", "values": [value]}]});
    let term = json!({"weight": weight, "preference": preference});
    parse(json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [term]}}))
}

/// A node in the making, as its JSON.
#[derive(Clone)]
pub(crate) struct NodeBuilder(Value);

/// A node of 4 CPUs, 8 GiB and 110 pods.
pub(crate) fn node(name: &str) -> NodeBuilder {
    NodeBuilder(json!({
        "metadata": {"name": name, "labels": {}},
        "spec": {"taints": []},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}, "images": []},
    }))
}

impl NodeBuilder {
    pub(crate) fn label(mut self, key: &str, value: &str) -> Self {
        self.0["metadata"]["labels"][key] = json!(value);
        self
    }

    pub(crate) fn allocatable(mut self, cpu: &str, memory: &str, pods: u32) -> Self {
        self.0["status"]["allocatable"] = json!({"cpu": cpu, "memory": memory, "pods": pods.to_string()});
        self
    }

    pub(crate) fn extended(mut self, resource: &str, amount: u32) -> Self {
        self.0["status"]["allocatable"][resource] = json!(amount.to_string());
        self
    }

    pub(crate) fn taint(mut self, key: &str, value: &str, effect: &str) -> Self {
        let taint = json!({"key": key, "value": value, "effect": effect});
        self.0["spec"]["taints"].as_array_mut().unwrap().push(taint);
        self
    }

    pub(crate) fn image(mut self, name: &str, bytes: i64) -> Self {
        let image = json!({"names": [name], "sizeBytes": bytes});
        self.0["status"]["images"].as_array_mut().unwrap().push(image);
        self
    }

    pub(crate) fn unschedulable(mut self) -> Self {
        self.0["spec"]["unschedulable"] = json!(true);
        self
    }

    pub(crate) fn build(&self) -> Node {
        serde_json::from_value(self.0.clone()).unwrap()
    }

    pub(crate) fn facts(&self) -> NodeFacts {
        NodeFacts::from_node(self.build())
    }

    pub(crate) fn info(&self) -> NodeInfo {
        NodeInfo::new(Arc::new(self.facts()))
    }
}

/// A claim in the making, as its JSON.
#[derive(Clone)]
pub(crate) struct ClaimBuilder(Value);

/// A claim of the namespace `default` for 1 GiB.
pub(crate) fn claim(name: &str, class: &str) -> ClaimBuilder {
    ClaimBuilder(json!({
        "metadata": {"name": name, "namespace": "default", "uid": name, "annotations": {}},
        "spec": {"storageClassName": class, "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}},
    }))
}

impl ClaimBuilder {
    pub(crate) fn bound_to(mut self, volume: &str) -> Self {
        self.0["spec"]["volumeName"] = json!(volume);
        self.0["metadata"]["annotations"][BIND_COMPLETED] = json!("yes");
        self
    }

    pub(crate) fn selected(mut self, node: &str) -> Self {
        self.0["metadata"]["annotations"][SELECTED_NODE] = json!(node);
        self
    }
}

/// A free volume of 1 GiB, for the nodes of one zone or for all.
pub(crate) fn volume(name: &str, class: &str, zone: Option<&str>) -> VolumeFacts {
    let mut object = json!({
        "metadata": {"name": name, "resourceVersion": "1"},
        "spec": {"storageClassName": class, "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}},
        "status": {"phase": "Available"},
    });
    if let Some(zone) = zone {
        let term = json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]});
        object["spec"]["nodeAffinity"] = json!({"required": {"nodeSelectorTerms": [term]}});
    }
    VolumeFacts::from_volume(serde_json::from_value(object).unwrap())
}

/// A class that binds when a pod needs it.
pub(crate) fn storage_class(name: &str, provisioner: &str) -> ClassFacts {
    let object = json!({"metadata": {"name": name}, "provisioner": provisioner,
        "volumeBindingMode": "WaitForFirstConsumer"});
    ClassFacts::from_class(serde_json::from_value(object).unwrap())
}

impl Snapshot {
    pub(crate) fn set_claim(&mut self, claim: ClaimBuilder) {
        let facts = ClaimFacts::from_claim(serde_json::from_value(claim.0).unwrap());
        self.volumes_mut().set_claim(facts.key.clone(), Some(facts));
    }

    pub(crate) fn set_volume(&mut self, volume: VolumeFacts) {
        self.volumes_mut().set_volume(volume.name.clone(), Some(volume));
    }

    pub(crate) fn set_class(&mut self, class: ClassFacts) {
        self.volumes_mut().set_class(class.name.clone(), Some(class));
    }
}

pub(crate) fn snapshot(nodes: impl IntoIterator<Item = NodeBuilder>) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for node in nodes {
        snapshot.apply_node(node.facts());
    }
    snapshot
}

/// A decision of the default profile.
pub(crate) fn decide(pod: &PodBuilder, snapshot: &mut Snapshot) -> Decision {
    decide_from(pod, snapshot, 0)
}

pub(crate) fn decide_from(pod: &PodBuilder, snapshot: &mut Snapshot, start: usize) -> Decision {
    let pod = pod.info();
    snapshot.track(&pod);
    let points = plugins::attach_all(&[]);
    let request = Request { points: &points, pod: &pod, snapshot, start, sample_percent: 0, tie_break: 0 };
    crate::cycle::decide(&request, &mut Scratch::default())
}
