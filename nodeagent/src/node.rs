//! This machine as a Node: registration, the lease that says it lives, and its status.
//!
//! The lease is renewed every ten seconds and costs little; the status is written when it changes, and every
//! five minutes. Who taints and evicts is the node lifecycle controller, not the node.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use component_base::backoff::Backoff;
use component_base::client::said;
use component_base::clock::Clock;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec,
    NodeStatus, NodeSystemInfo, Taint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tracing::{info, warn};

use crate::agent::Agent;
use crate::config::{Config, RuntimeKind};
use crate::runtime::{RuntimeStatus, RuntimeVersion};

pub(crate) mod address;
pub(crate) mod extended;
pub(crate) mod machine;
pub(crate) mod routes;

const LEASE_NAMESPACE: &str = "kube-node-lease";
const LEASE_SECONDS: i32 = 40;
const LEASE_RENEWAL: Duration = Duration::from_secs(10);
/// How often the node looks whether its status has changed.
const STATUS_LOOK: Duration = Duration::from_secs(10);
/// An unchanged status is written this often.
const STATUS_HEARTBEAT: Duration = Duration::from_secs(300);
/// The version of the API that the agent speaks.
const KUBELET_VERSION: &str = "v1.36.0";
/// Images listed in the status, the largest first.
const IMAGES_MAX: usize = 50;

/// What does not change about a node while its agent runs.
#[derive(Clone, Debug)]
pub(crate) struct Registration {
    name: String,
    labels: BTreeMap<String, String>,
    taints: Vec<Taint>,
    capacity: BTreeMap<String, Quantity>,
    address: String,
    port: u16,
    info: NodeSystemInfo,
    pod_cidr: Option<String>,
}

impl Registration {
    pub(crate) fn of(config: &Config, runtime: &RuntimeVersion, port: u16) -> Self {
        let simulated = matches!(config.runtime, RuntimeKind::Simulated);
        let machine =
            if simulated { machine::Machine::simulated(&config.node_name) } else { machine::Machine::read() };
        let mut capacity: BTreeMap<String, Quantity> = [
            ("cpu", machine.cpus.to_string()),
            ("memory", format!("{}Ki", machine.memory_bytes / 1024)),
            ("ephemeral-storage", format!("{}Ki", machine.disk_bytes / 1024)),
            ("pods", "110".to_owned()),
        ]
        .map(|(name, amount)| (name.to_owned(), Quantity(amount)))
        .into();
        capacity
            .extend(config.capacity.iter().map(|(name, amount)| (name.clone(), Quantity(amount.clone()))));
        let mut labels: BTreeMap<String, String> = [
            ("kubernetes.io/hostname", config.node_name.as_str()),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", machine::ARCHITECTURE),
            ("beta.kubernetes.io/os", "linux"),
            ("beta.kubernetes.io/arch", machine::ARCHITECTURE),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
        labels.extend(config.labels.clone());
        Self {
            name: config.node_name.clone(),
            labels,
            taints: config.taints.clone(),
            capacity,
            address: config.address.to_string(),
            port,
            pod_cidr: config.pod_cidr.clone(),
            info: NodeSystemInfo {
                architecture: machine::ARCHITECTURE.to_owned(),
                operating_system: "linux".to_owned(),
                boot_id: machine.boot_id,
                machine_id: machine.machine_id.clone(),
                system_uuid: machine.machine_id,
                kernel_version: machine.kernel,
                os_image: machine.os,
                container_runtime_version: format!("{}://{}", runtime.name, runtime.version),
                kubelet_version: KUBELET_VERSION.to_owned(),
                kube_proxy_version: String::new(),
                swap: None,
            },
        }
    }

    /// What pods may use: all of it; the agent needs next to nothing.
    pub(crate) fn allocatable(&self) -> BTreeMap<String, Quantity> {
        self.capacity.clone()
    }

    fn node(&self) -> Node {
        Node {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                labels: Some(self.labels.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(NodeSpec {
                pod_cidr: self.pod_cidr.clone(),
                pod_cidrs: self.pod_cidr.clone().map(|it| vec![it]),
                taints: (!self.taints.is_empty()).then(|| self.taints.clone()),
                ..NodeSpec::default()
            }),
            status: None,
        }
    }
}

/// The status of a node; conditions keep the transition times of `before`. Pure.
fn status(
    registration: &Registration,
    runtime: &RuntimeStatus,
    images: Vec<ContainerImage>,
    before: &[NodeCondition],
    now: &Time,
) -> NodeStatus {
    let ready = runtime.runtime_ready && runtime.network_ready;
    let (reason, message) = match (runtime.runtime_ready, runtime.network_ready) {
        (true, true) => ("KubeletReady", "kubelet is posting ready status".to_owned()),
        (false, _) => ("KubeletNotReady", format!("container runtime is down: {}", runtime.message)),
        (true, false) => {
            ("KubeletNotReady", format!("container runtime network not ready: {}", runtime.message))
        }
    };
    let enough = |what: &str| format!("kubelet has {what}");
    let rows = [
        ("MemoryPressure", false, "KubeletHasSufficientMemory", enough("sufficient memory available")),
        ("DiskPressure", false, "KubeletHasNoDiskPressure", enough("no disk pressure")),
        ("PIDPressure", false, "KubeletHasSufficientPID", enough("sufficient PID available")),
        ("Ready", ready, reason, message),
    ];
    let conditions = rows.map(|(type_, holds, reason, message)| {
        let status = if holds { "True" } else { "False" };
        let old = before.iter().find(|it| it.type_ == type_ && it.status == status);
        NodeCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_heartbeat_time: Some(now.clone()),
            last_transition_time: old
                .and_then(|it| it.last_transition_time.clone())
                .or_else(|| Some(now.clone())),
        }
    });
    let address =
        |type_: &str, address: &str| NodeAddress { type_: type_.to_owned(), address: address.to_owned() };
    NodeStatus {
        addresses: Some(vec![
            address("InternalIP", &registration.address),
            address("Hostname", &registration.name),
        ]),
        capacity: Some(registration.capacity.clone()),
        allocatable: Some(registration.allocatable()),
        conditions: Some(conditions.into()),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(registration.port) }),
        }),
        images: (!images.is_empty()).then_some(images),
        node_info: Some(registration.info.clone()),
        ..NodeStatus::default()
    }
}

/// Makes the Node, or brings the labels of an existing one up to date; tries until it works.
pub(crate) async fn register(client: &Client, registration: &Registration, clock: Clock) -> Node {
    let api: Api<Node> = Api::all(client.clone());
    let mut failures = 0;
    loop {
        match try_register(&api, registration).await {
            Ok(node) => {
                info!(node = registration.name, at = %clock.now(), "registered");
                return node;
            }
            Err(error) => warn!(node = registration.name, "cannot register: {}; trying again", said(&error)),
        }
        failures += 1;
        tokio::time::sleep(Backoff::CONNECTION.delay(failures)).await;
    }
}

async fn try_register(api: &Api<Node>, registration: &Registration) -> Result<Node, kube::Error> {
    match api.create(&PostParams::default(), &registration.node()).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        other => return other,
    }
    let labels = json!({"metadata": {"labels": registration.labels}});
    api.patch(&registration.name, &PatchParams::default(), &Patch::Merge(labels)).await
}

/// Renews the node's lease for as long as it is polled. Whatever fails is tried again at the next renewal.
pub(crate) async fn renew_lease(client: Client, registration: Registration, clock: Clock) {
    let api: Api<Lease> = Api::namespaced(client.clone(), LEASE_NAMESPACE);
    let name = &registration.name;
    let mut held: Option<Lease> = None;
    loop {
        let renewed = match held.take() {
            Some(mut lease) => {
                lease.spec.get_or_insert_default().renew_time = Some(clock.micro_time());
                api.replace(name, &PostParams::default(), &lease).await
            }
            None => acquire(&api, &client, name, clock).await,
        };
        let pause = match renewed {
            Ok(lease) => {
                held = Some(lease);
                LEASE_RENEWAL
            }
            Err(error) => {
                warn!(node = name, "renewing the lease: {}", said(&error));
                Duration::from_secs(1)
            }
        };
        tokio::time::sleep(pause).await;
    }
}

async fn acquire(api: &Api<Lease>, client: &Client, name: &str, clock: Clock) -> Result<Lease, kube::Error> {
    if let Some(mut lease) = api.get_opt(name).await? {
        let spec = lease.spec.get_or_insert_default();
        spec.renew_time = Some(clock.micro_time());
        spec.holder_identity = Some(name.to_owned());
        return api.replace(name, &PostParams::default(), &lease).await;
    }
    let node = Api::<Node>::all(client.clone()).get_opt(name).await?;
    let owner = node.and_then(|it| it.metadata.uid).map(|uid| OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: name.to_owned(),
        uid,
        ..OwnerReference::default()
    });
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            owner_references: owner.map(|it| vec![it]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name.to_owned()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            renew_time: Some(clock.micro_time()),
            ..LeaseSpec::default()
        }),
    };
    api.create(&PostParams::default(), &lease).await
}

/// Reports the node's status for as long as it is polled; registers again if somebody deleted the Node.
pub(crate) async fn report_status(agent: Arc<Agent>, registration: Registration) {
    let api: Api<Node> = Api::all(agent.client.clone());
    let mut sent: Option<(NodeStatus, tokio::time::Instant)> = None;
    loop {
        let pause = match report_once(&agent, &api, &registration, &mut sent).await {
            Ok(()) => STATUS_LOOK,
            Err(error) => {
                warn!(node = registration.name, "reporting the node's status: {}", said(&error));
                Duration::from_secs(1)
            }
        };
        tokio::time::sleep(pause).await;
    }
}

async fn report_once(
    agent: &Agent,
    api: &Api<Node>,
    registration: &Registration,
    sent: &mut Option<(NodeStatus, tokio::time::Instant)>,
) -> Result<(), kube::Error> {
    let runtime = agent
        .runtime
        .status()
        .await
        .unwrap_or_else(|error| RuntimeStatus { message: error.to_string(), ..RuntimeStatus::default() });
    let images = if agent.disk { images(agent).await } else { Vec::new() };
    let now = agent.clock.time();
    if let Some((last, at)) = sent {
        let known = last.conditions.clone().unwrap_or_default();
        let same = without_heartbeats(status(registration, &runtime, images.clone(), &known, &now))
            == without_heartbeats(last.clone());
        if same && at.elapsed() < STATUS_HEARTBEAT {
            return Ok(());
        }
    }
    let node = match api.get_opt(&registration.name).await? {
        Some(node) => node,
        None => try_register(api, registration).await?,
    };
    let before = node.status.and_then(|it| it.conditions).unwrap_or_default();
    let wanted = status(registration, &runtime, images, &before, &now);
    let patch = Patch::Strategic(json!({"status": wanted}));
    api.patch_status(&registration.name, &PatchParams::default(), &patch).await?;
    *sent = Some((wanted, tokio::time::Instant::now()));
    Ok(())
}

async fn images(agent: &Agent) -> Vec<ContainerImage> {
    let mut images = agent.runtime.list_images().await.unwrap_or_default();
    images.sort_by_key(|it| std::cmp::Reverse(it.size_bytes));
    let listed = images.into_iter().take(IMAGES_MAX).map(|it| ContainerImage {
        names: Some([it.digests, it.tags].concat()),
        size_bytes: i64::try_from(it.size_bytes).ok(),
    });
    listed.collect()
}

fn without_heartbeats(mut status: NodeStatus) -> NodeStatus {
    for condition in status.conditions.iter_mut().flatten() {
        condition.last_heartbeat_time = None;
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use component_base::client::ClientSource;

    fn registration() -> Registration {
        let clock = Clock::starting_at(chrono::DateTime::UNIX_EPOCH);
        let mut config = Config::new("n1", ClientSource::Kubeconfig("/none".into()), clock);
        config.capacity.insert("cpu".into(), "64".into());
        config.labels.insert("zone".into(), "a".into());
        Registration::of(&config, &RuntimeVersion { name: "r".into(), version: "1".into() }, 10250)
    }

    fn at(second: i64) -> Time {
        component_base::clock::time_of(chrono::DateTime::UNIX_EPOCH + chrono::TimeDelta::seconds(second))
    }

    fn up() -> RuntimeStatus {
        RuntimeStatus { runtime_ready: true, network_ready: true, message: String::new() }
    }

    fn ready(status: &NodeStatus) -> NodeCondition {
        status.conditions.iter().flatten().find(|it| it.type_ == "Ready").unwrap().clone()
    }

    #[tokio::test]
    async fn given_capacity_and_labels_win() {
        let registration = registration();
        assert_eq!(registration.capacity["cpu"].0, "64");
        let labels = registration.node().metadata.labels.unwrap();
        assert_eq!((labels["zone"].as_str(), labels["kubernetes.io/hostname"].as_str()), ("a", "n1"));
    }

    #[tokio::test]
    async fn ready_keeps_its_transition_time_until_it_changes() {
        let first = status(&registration(), &up(), vec![], &[], &at(1));
        let second = status(&registration(), &up(), vec![], first.conditions.as_ref().unwrap(), &at(2));
        assert_eq!(ready(&second).last_transition_time, Some(at(1)));
        let down = RuntimeStatus { message: "gone".into(), ..RuntimeStatus::default() };
        let third = status(&registration(), &down, vec![], second.conditions.as_ref().unwrap(), &at(3));
        assert_eq!(ready(&third).status, "False");
        assert_eq!(ready(&third).last_transition_time, Some(at(3)));
        assert!(ready(&third).message.unwrap().contains("gone"));
    }
}
