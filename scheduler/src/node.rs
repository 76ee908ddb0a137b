//! A node as the cycle sees it: facts from its object, and sums over the pods on it.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Taint};

use crate::pod::{HostPort, PodInfo};
use crate::resources::Resources;
use crate::selector::Labels;

/// What the node's object says. Two that are equal make no difference to any pod.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NodeFacts {
    pub(crate) name: Arc<str>,
    pub(crate) labels: Labels,
    pub(crate) taints: Vec<Taint>,
    pub(crate) unschedulable: bool,
    pub(crate) allocatable: Resources,
    /// Bytes of each image on the node, by each of its names.
    pub(crate) images: HashMap<String, i64>,
}

impl NodeFacts {
    pub(crate) fn from_node(node: Node) -> Self {
        let spec = node.spec.unwrap_or_default();
        let status = node.status.unwrap_or_default();
        let mut images = HashMap::new();
        for image in status.images.into_iter().flatten() {
            let size = image.size_bytes.unwrap_or(0);
            images.extend(image.names.into_iter().flatten().map(|name| (name, size)));
        }
        // When a taint was put on changes nothing for a pod, and comparing it would wake pods for nothing.
        let untimed = |taint: Taint| Taint { time_added: None, ..taint };
        Self {
            name: node.metadata.name.unwrap_or_default().into(),
            labels: node.metadata.labels.unwrap_or_default(),
            taints: spec.taints.into_iter().flatten().map(untimed).collect(),
            unschedulable: spec.unschedulable.unwrap_or(false),
            allocatable: Resources::from_list(status.allocatable.as_ref().or(status.capacity.as_ref())),
            images,
        }
    }

    /// Whether the node has a taint that only lowers its score.
    pub(crate) fn has_soft_taint(&self) -> bool {
        self.taints.iter().any(|taint| taint.effect == "PreferNoSchedule")
    }
}

/// A node with the pods that are, or are assumed to be, on it.
#[derive(Clone, Debug)]
pub(crate) struct NodeInfo {
    pub(crate) facts: Arc<NodeFacts>,
    pub(crate) requested: Resources,
    /// As `requested`, with default amounts for containers that ask for nothing; only for scoring.
    pub(crate) assumed_cpu: i64,
    pub(crate) assumed_memory: i64,
    pub(crate) ports: Vec<HostPort>,
    pub(crate) pods: Vec<Arc<PodInfo>>,
}

impl NodeInfo {
    pub(crate) fn new(facts: Arc<NodeFacts>) -> Self {
        Self {
            facts,
            requested: Resources::default(),
            assumed_cpu: 0,
            assumed_memory: 0,
            ports: Vec::new(),
            pods: Vec::new(),
        }
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.facts.name
    }

    /// The node's value of a topology key.
    pub(crate) fn domain(&self, topology_key: &str) -> Option<&str> {
        self.facts.labels.get(topology_key).map(String::as_str)
    }

    pub(crate) fn add(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requests);
        self.assumed_cpu = self.assumed_cpu.saturating_add(pod.assumed_cpu);
        self.assumed_memory = self.assumed_memory.saturating_add(pod.assumed_memory);
        self.ports.extend(pod.ports.iter().cloned());
        self.pods.push(pod);
    }

    /// Takes the pod off; says whether it was there.
    pub(crate) fn remove(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let index = self.pods.iter().position(|pod| &*pod.uid == uid)?;
        let pod = self.pods.swap_remove(index);
        self.requested.subtract(&pod.requests);
        self.assumed_cpu = self.assumed_cpu.saturating_sub(pod.assumed_cpu);
        self.assumed_memory = self.assumed_memory.saturating_sub(pod.assumed_memory);
        for port in &pod.ports {
            if let Some(index) = self.ports.iter().position(|used| used == port) {
                self.ports.swap_remove(index);
            }
        }
        Some(pod)
    }
}
