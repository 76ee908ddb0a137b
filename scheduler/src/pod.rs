//! A pod as the scheduler sees it: what its decision depends on, compiled once per version of the pod.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    Affinity, Container, Pod, PodCondition, PodSpec, Toleration, TopologySpreadConstraint, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::resources::{Resources, Unset, pod_requests};
use crate::selector::{Labels, NodeTerm, Selector, compile_terms};
use crate::terms::{PodMatcher, Term};

/// The profile's name of pods that name none.
pub(crate) const DEFAULT_SCHEDULER: &str = "default-scheduler";

/// A port of the host that a pod takes for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostPort {
    pub(crate) ip: String,
    pub(crate) protocol: String,
    pub(crate) port: i32,
}

impl HostPort {
    /// Whether both cannot be on one node: same port and protocol, and an address in common.
    pub(crate) fn conflicts_with(&self, other: &Self) -> bool {
        let any = |ip: &str| ip.is_empty() || ip == "0.0.0.0" || ip == "::";
        self.port == other.port
            && self.protocol == other.protocol
            && (any(&self.ip) || any(&other.ip) || self.ip == other.ip)
    }
}

/// Which nodes a pod wants or prefers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct NodeWish {
    pub(crate) selector: Option<Selector>,
    /// Alternatives; `Some` and empty matches no node.
    pub(crate) required: Option<Vec<NodeTerm>>,
    pub(crate) preferred: Vec<(i64, NodeTerm)>,
}

impl NodeWish {
    pub(crate) fn requires_nothing(&self) -> bool {
        self.selector.is_none() && self.required.is_none()
    }

    /// Whether the node has what is required.
    pub(crate) fn allows(&self, name: &str, labels: &Labels) -> bool {
        self.selector.as_ref().is_none_or(|selector| selector.matches(labels))
            && self.required.as_ref().is_none_or(|terms| terms.iter().any(|term| term.matches(name, labels)))
    }
}

/// How a pod wants to be near to or far from others.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PodWish {
    /// One per topology key; each counts the pods that match all required terms together.
    pub(crate) affinity: Vec<Arc<Term>>,
    pub(crate) anti_affinity: Vec<Arc<Term>>,
    /// Preferred terms; away from others has a negative weight.
    pub(crate) preferred: Vec<(Arc<Term>, i64)>,
}

/// A constraint on how evenly pods lie over domains.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) term: Arc<Term>,
    pub(crate) skew_max: i64,
    pub(crate) domains_min: usize,
    pub(crate) required: bool,
    pub(crate) honors_node_wish: bool,
    pub(crate) honors_taints: bool,
}

/// A claim of which the pod has a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClaimUse {
    pub(crate) name: String,
    /// Whether the claim is made for this pod and goes with it.
    pub(crate) ephemeral: bool,
}

/// What is known of a pod.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PodInfo {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: Arc<str>,
    pub(crate) labels: Labels,
    pub(crate) scheduler: String,
    pub(crate) priority: i32,
    pub(crate) never_preempts: bool,
    pub(crate) requests: Resources,
    pub(crate) assumed_cpu: i64,
    pub(crate) assumed_memory: i64,
    pub(crate) tolerations: Vec<Toleration>,
    pub(crate) nodes: NodeWish,
    pub(crate) others: PodWish,
    pub(crate) spread: Vec<Spread>,
    pub(crate) ports: Vec<HostPort>,
    pub(crate) images: Vec<String>,
    pub(crate) gates: Vec<String>,
    pub(crate) claims: Vec<ClaimUse>,
    pub(crate) terminating: bool,
    /// Empty until it is bound.
    pub(crate) node_name: String,
    pub(crate) state: PodState,
}

/// What changes of a pod without making any difference to where it may run.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PodState {
    pub(crate) terminal: bool,
    pub(crate) nominated_node: String,
    pub(crate) created: Option<Time>,
    pub(crate) started: Option<Time>,
    /// Reason and message of the condition PodScheduled=False, if the pod has it.
    pub(crate) unscheduled: Option<(String, String)>,
}

impl PodInfo {
    pub(crate) fn from_pod(pod: Pod) -> Self {
        let spec = pod.spec.unwrap_or_default();
        let status = pod.status.unwrap_or_default();
        let namespace = pod.metadata.namespace.unwrap_or_default();
        let name = pod.metadata.name.unwrap_or_default();
        let labels = pod.metadata.labels.unwrap_or_default();
        let assumed = pod_requests(&spec, Unset::Defaults);
        let mut requests = pod_requests(&spec, Unset::Nothing);
        requests.pods = 1;
        let state = PodState {
            terminal: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
            nominated_node: status.nominated_node_name.unwrap_or_default(),
            created: pod.metadata.creation_timestamp,
            started: status.start_time,
            unscheduled: status.conditions.as_deref().and_then(unscheduled),
        };
        Self {
            uid: pod.metadata.uid.unwrap_or_default().into(),
            scheduler: spec.scheduler_name.clone().unwrap_or_else(|| DEFAULT_SCHEDULER.to_owned()),
            priority: spec.priority.unwrap_or(0),
            never_preempts: spec.preemption_policy.as_deref() == Some("Never"),
            requests,
            assumed_cpu: assumed.milli_cpu,
            assumed_memory: assumed.memory,
            nodes: node_wish(&spec),
            others: spec.affinity.as_ref().map(|a| pod_wish(a, &namespace, &labels)).unwrap_or_default(),
            spread: spread(&spec, &namespace, &labels),
            ports: host_ports(&spec),
            images: containers(&spec).filter_map(|c| c.image.as_deref()).map(normalized_image).collect(),
            claims: claims(&spec, &name),
            name,
            gates: spec.scheduling_gates.into_iter().flatten().map(|gate| gate.name).collect(),
            tolerations: spec.tolerations.unwrap_or_default(),
            terminating: pod.metadata.deletion_timestamp.is_some(),
            node_name: spec.node_name.unwrap_or_default(),
            namespace,
            labels,
            state,
        }
    }

    /// `namespace/name`, as logs and events say it.
    pub(crate) fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Whether nothing that a decision depends on differs.
    pub(crate) fn decides_like(&self, other: &Self) -> bool {
        self.decisive() == other.decisive()
    }

    /// All but the state.
    fn decisive(&self) -> impl PartialEq + '_ {
        let Self { namespace, name, uid, labels, scheduler, priority, never_preempts, .. } = self;
        let Self { requests, assumed_cpu, assumed_memory, tolerations, nodes, others, .. } = self;
        let Self { spread, ports, images, gates, claims, terminating, node_name, state: _, .. } = self;
        (
            (namespace, name, uid, labels, scheduler, priority, never_preempts),
            (requests, assumed_cpu, assumed_memory, tolerations, nodes, others),
            (spread, ports, images, gates, claims, terminating, node_name),
        )
    }

    /// All terms whose counts a decision about this pod reads.
    pub(crate) fn terms(&self) -> impl Iterator<Item = &Arc<Term>> {
        let others = &self.others;
        let preferred = others.preferred.iter().map(|(term, _)| term);
        let spread = self.spread.iter().map(|spread| &spread.term);
        others.affinity.iter().chain(&others.anti_affinity).chain(preferred).chain(spread)
    }
}

fn unscheduled(conditions: &[PodCondition]) -> Option<(String, String)> {
    let condition = conditions.iter().find(|c| c.type_ == "PodScheduled" && c.status == "False")?;
    Some((condition.reason.clone().unwrap_or_default(), condition.message.clone().unwrap_or_default()))
}

fn node_wish(spec: &PodSpec) -> NodeWish {
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    let preferred = affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
    let weigh = |term: &k8s_openapi::api::core::v1::PreferredSchedulingTerm| {
        Some((i64::from(term.weight), NodeTerm::compile(&term.preference)?))
    };
    NodeWish {
        selector: spec.node_selector.as_ref().filter(|labels| !labels.is_empty()).map(Selector::from_labels),
        required: required.map(compile_terms),
        preferred: preferred.into_iter().flatten().filter_map(weigh).collect(),
    }
}

fn pod_wish(affinity: &Affinity, namespace: &str, labels: &Labels) -> PodWish {
    let compile = |term| PodMatcher::compile(term, namespace, labels);
    let mut wish = PodWish::default();
    if let Some(near) = &affinity.pod_affinity {
        let terms = near.required_during_scheduling_ignored_during_execution.as_deref().unwrap_or_default();
        let all: Vec<PodMatcher> = terms.iter().map(compile).collect();
        wish.affinity = terms.iter().map(|term| Term::new(all.clone(), &term.topology_key)).collect();
        for weighted in near.preferred_during_scheduling_ignored_during_execution.iter().flatten() {
            let term = &weighted.pod_affinity_term;
            wish.preferred
                .push((Term::new(vec![compile(term)], &term.topology_key), i64::from(weighted.weight)));
        }
    }
    if let Some(far) = &affinity.pod_anti_affinity {
        let terms = far.required_during_scheduling_ignored_during_execution.as_deref().unwrap_or_default();
        wish.anti_affinity =
            terms.iter().map(|term| Term::new(vec![compile(term)], &term.topology_key)).collect();
        for weighted in far.preferred_during_scheduling_ignored_during_execution.iter().flatten() {
            let term = &weighted.pod_affinity_term;
            wish.preferred
                .push((Term::new(vec![compile(term)], &term.topology_key), -i64::from(weighted.weight)));
        }
    }
    wish
}

fn spread(spec: &PodSpec, namespace: &str, labels: &Labels) -> Vec<Spread> {
    let compile = |constraint: &TopologySpreadConstraint| Spread {
        term: Term::living(
            PodMatcher::of_constraint(constraint, namespace, labels),
            &constraint.topology_key,
        ),
        skew_max: i64::from(constraint.max_skew),
        domains_min: constraint.min_domains.and_then(|min| usize::try_from(min).ok()).unwrap_or(1),
        required: constraint.when_unsatisfiable != "ScheduleAnyway",
        honors_node_wish: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
        honors_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
    };
    spec.topology_spread_constraints.iter().flatten().map(compile).collect()
}

/// The claims of the pod's volumes. That of an ephemeral volume is named after both.
fn claims(spec: &PodSpec, pod: &str) -> Vec<ClaimUse> {
    let of_volume = |volume: &Volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(claim), _) => Some(ClaimUse { name: claim.claim_name.clone(), ephemeral: false }),
        (None, Some(_)) => Some(ClaimUse { name: format!("{pod}-{}", volume.name), ephemeral: true }),
        (None, None) => None,
    };
    spec.volumes.iter().flatten().filter_map(of_volume).collect()
}

fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.containers.iter().chain(spec.init_containers.iter().flatten())
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let host_network = spec.host_network.unwrap_or(false);
    let sidecar = |c: &&Container| c.restart_policy.as_deref() == Some("Always");
    let running = spec.containers.iter().chain(spec.init_containers.iter().flatten().filter(sidecar));
    let ports = running.flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let number = port.host_port.or(host_network.then_some(port.container_port)).filter(|n| *n > 0)?;
            Some(HostPort {
                ip: port.host_ip.clone().unwrap_or_default(),
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                port: number,
            })
        })
        .collect()
}

/// An image's name with its tag, as nodes report it.
fn normalized_image(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains(':') { image.to_owned() } else { format!("{image}:latest") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    #[test]
    fn wildcard_address_conflicts_with_every_other() {
        let port = |ip: &str| HostPort { ip: ip.into(), protocol: "TCP".into(), port: 80 };
        assert!(port("").conflicts_with(&port("10.0.0.1")));
        assert!(!port("10.0.0.2").conflicts_with(&port("10.0.0.1")));
    }

    #[test]
    fn a_condition_does_not_change_what_the_decision_depends_on() {
        let bare = pod("a").info();
        let told = PodInfo {
            state: PodState {
                unscheduled: Some(("Unschedulable".into(), "no".into())),
                ..PodState::default()
            },
            ..(*bare).clone()
        };
        assert!(bare.decides_like(&told));
        assert!(!bare.decides_like(&pod("a").label("x", "y").info()));
    }
}
