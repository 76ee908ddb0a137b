//! Builders of objects for tests: `pod("a").node("n1").requests("100m", "1Gi").build()`.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Service};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::marker::PhantomData;

/// An object in the making.
#[derive(Clone, Debug)]
pub struct Builder<T> {
    object: Value,
    built: PhantomData<fn() -> T>,
}

fn new<T>(api_version: &str, kind: &str, name: &str, rest: Value) -> Builder<T> {
    let mut object = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}});
    json_patch::merge(&mut object, &rest);
    Builder { object, built: PhantomData }
}

impl<T: DeserializeOwned> Builder<T> {
    /// The object as its type.
    pub fn build(self) -> T {
        serde_json::from_value(self.object).expect("a test builds an object of its type")
    }
}

impl<T> Builder<T> {
    /// The object as JSON.
    pub fn value(self) -> Value {
        self.object
    }

    /// Merges anything into the object.
    pub fn with(mut self, part: Value) -> Self {
        json_patch::merge(&mut self.object, &part);
        self
    }

    pub fn namespace(self, namespace: &str) -> Self {
        self.with(json!({"metadata": {"namespace": namespace}}))
    }

    pub fn uid(self, uid: &str) -> Self {
        self.with(json!({"metadata": {"uid": uid}}))
    }

    pub fn label(self, key: &str, value: &str) -> Self {
        self.with(json!({"metadata": {"labels": {key: value}}}))
    }

    pub fn annotation(self, key: &str, value: &str) -> Self {
        self.with(json!({"metadata": {"annotations": {key: value}}}))
    }

    /// When it was created, in RFC 3339.
    pub fn created(self, at: &str) -> Self {
        self.with(json!({"metadata": {"creationTimestamp": at}}))
    }

    /// Marks the object as being deleted.
    pub fn deleted(self, at: &str) -> Self {
        self.with(json!({"metadata": {"deletionTimestamp": at}}))
    }

    /// Names the controller that made it.
    pub fn controlled_by(self, api_version: &str, kind: &str, name: &str, uid: &str) -> Self {
        let owner = json!({"apiVersion": api_version, "kind": kind, "name": name, "uid": uid,
            "controller": true, "blockOwnerDeletion": true});
        self.with(json!({"metadata": {"ownerReferences": [owner]}}))
    }
}

/// A pod with one container, in the namespace `default`.
pub fn pod(name: &str) -> Builder<Pod> {
    let containers = json!([{"name": "main", "image": "registry.example/app:1"}]);
    new("v1", "Pod", name, json!({"metadata": {"namespace": "default"}, "spec": {"containers": containers}}))
}

impl Builder<Pod> {
    /// Binds the pod to a node.
    pub fn node(self, node: &str) -> Self {
        self.with(json!({"spec": {"nodeName": node}}))
    }

    pub fn image(mut self, image: &str) -> Self {
        self.object["spec"]["containers"][0]["image"] = image.into();
        self
    }

    /// What its container requests.
    pub fn requests(mut self, cpu: &str, memory: &str) -> Self {
        self.object["spec"]["containers"][0]["resources"]["requests"] = json!({"cpu": cpu, "memory": memory});
        self
    }

    /// What its container may use at most.
    pub fn limits(mut self, cpu: &str, memory: &str) -> Self {
        self.object["spec"]["containers"][0]["resources"]["limits"] = json!({"cpu": cpu, "memory": memory});
        self
    }

    pub fn phase(self, phase: &str) -> Self {
        self.with(json!({"status": {"phase": phase}}))
    }

    /// Running and ready since `at`.
    pub fn ready(self, at: &str) -> Self {
        let condition = json!({"type": "Ready", "status": "True", "lastTransitionTime": at});
        self.with(json!({"status": {"phase": "Running", "conditions": [condition]}}))
    }

    pub fn priority(self, priority: i32) -> Self {
        self.with(json!({"spec": {"priority": priority}}))
    }

    pub fn toleration(mut self, toleration: Value) -> Self {
        push(&mut self.object["spec"]["tolerations"], toleration);
        self
    }
}

fn push(list: &mut Value, item: Value) {
    match list {
        Value::Array(items) => items.push(item),
        other => *other = json!([item]),
    }
}

/// A ready node with room for 4 CPUs, 16 GiB and 110 pods.
pub fn node(name: &str) -> Builder<Node> {
    let rest = json!({"metadata": {"labels": {"kubernetes.io/hostname": name}},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    new("v1", "Node", name, rest).capacity("4", "16Gi", 110)
}

impl Builder<Node> {
    pub fn capacity(self, cpu: &str, memory: &str, pods: u32) -> Self {
        let room = json!({"cpu": cpu, "memory": memory, "pods": pods.to_string()});
        self.with(json!({"status": {"capacity": room, "allocatable": room}}))
    }

    pub fn taint(mut self, key: &str, value: &str, effect: &str) -> Self {
        push(&mut self.object["spec"]["taints"], json!({"key": key, "value": value, "effect": effect}));
        self
    }

    pub fn unschedulable(self) -> Self {
        self.with(json!({"spec": {"unschedulable": true}}))
    }
}

fn workload(replicas: i32, app: &str) -> Value {
    json!({"metadata": {"namespace": "default"}, "spec": {
        "replicas": replicas,
        "selector": {"matchLabels": {"app": app}},
        "template": {"metadata": {"labels": {"app": app}}, "spec": {"containers": [
            {"name": "main", "image": "registry.example/app:1"}]}},
    }})
}

/// A Deployment whose pods have the label `app` with its name.
pub fn deployment(name: &str, replicas: i32) -> Builder<Deployment> {
    new("apps/v1", "Deployment", name, workload(replicas, name))
}

/// A ReplicaSet whose pods have the label `app` with its name.
pub fn replica_set(name: &str, replicas: i32) -> Builder<ReplicaSet> {
    new("apps/v1", "ReplicaSet", name, workload(replicas, name))
}

/// A Service for the pods with the label `app`.
pub fn service(name: &str, app: &str, port: u16) -> Builder<Service> {
    let spec = json!({"selector": {"app": app}, "ports": [{"port": port, "protocol": "TCP"}]});
    new("v1", "Service", name, json!({"metadata": {"namespace": "default"}, "spec": spec}))
}

pub fn config_map(name: &str, data: Value) -> Builder<ConfigMap> {
    new("v1", "ConfigMap", name, json!({"metadata": {"namespace": "default"}, "data": data}))
}

pub fn namespace(name: &str) -> Builder<Namespace> {
    new("v1", "Namespace", name, json!({}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builders_make_typed_objects() {
        let pod =
            pod("a").node("n1").requests("100m", "1Gi").label("x", "y").ready("2026-01-01T00:00:00Z").build();
        assert_eq!(crate::pods::node_name(&pod), Some("n1"));
        assert!(crate::pods::is_ready(&pod));
        let node = node("n").taint("k", "v", "NoSchedule").build();
        assert_eq!(node.spec.unwrap().taints.unwrap().len(), 1);
        assert_eq!(deployment("d", 3).build().spec.unwrap().replicas, Some(3));
    }
}
