//! Whether this node can take a pod at all: pure, from the pod, what pods may use, and the pods that are here.
//!
//! The scheduler asks the same before it binds. This is for pods that name their node themselves, and for two
//! schedulers that did not see each other's last decision. A refused pod fails; whoever owns it makes another.

use std::collections::BTreeMap;

use api_types::pods;
use api_types::quantity::Quantity;
use k8s_openapi::api::core::v1::{ContainerPort, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;

/// Why a pod is not taken: `status.reason`, and the event's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: String,
    pub(crate) message: String,
}

impl Refusal {
    /// `status.message` of a refused pod.
    pub(crate) fn shown(&self) -> String {
        format!("Pod was rejected: {}", self.message)
    }
}

/// Whether `pod` fits beside `others`, which are those that this node has taken; ended ones use nothing.
pub(crate) fn admit(
    pod: &Pod,
    others: &[&Pod],
    allocatable: &BTreeMap<String, ApiQuantity>,
) -> Result<(), Refusal> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    let others: Vec<&PodSpec> =
        others.iter().filter(|it| !pods::is_terminal(it)).filter_map(|it| it.spec.as_ref()).collect();
    fit(spec, &others, allocatable)?;
    let taken: Vec<HostPort<'_>> = others.iter().flat_map(|it| host_ports(it)).collect();
    match host_ports(spec).any(|wanted| taken.iter().any(|used| wanted.conflicts_with(used))) {
        true => {
            Err(Refusal { reason: "NodePorts".to_owned(), message: "Predicate NodePorts failed".to_owned() })
        }
        false => Ok(()),
    }
}

/// Resources that the node does not have at all are not its business.
fn fit(
    spec: &PodSpec,
    others: &[&PodSpec],
    allocatable: &BTreeMap<String, ApiQuantity>,
) -> Result<(), Refusal> {
    let pods_here = Quantity::from_units(i64::try_from(others.len()).unwrap_or(i64::MAX));
    let mut wanted = pods::requests(spec);
    wanted.retain(|_, amount| !amount.is_zero());
    wanted.insert("pods".to_owned(), Quantity::from_units(1));
    let all_used: Vec<pods::Resources> = others.iter().map(|it| pods::requests(it)).collect();
    for (name, requested) in wanted {
        let Some(capacity) = allocatable.get(&name).map(Quantity::from) else { continue };
        let used = match name.as_str() {
            "pods" => pods_here,
            name => all_used.iter().filter_map(|it| it.get(name)).copied().sum(),
        };
        if used + requested > capacity {
            return Err(too_much(&name, requested, used, capacity));
        }
    }
    Ok(())
}

fn too_much(name: &str, requested: Quantity, used: Quantity, capacity: Quantity) -> Refusal {
    let number = |amount: Quantity| if name == "cpu" { amount.milli() } else { amount.units() };
    let (requested, used, capacity) = (number(requested), number(used), number(capacity));
    Refusal {
        reason: format!("OutOf{name}"),
        message: format!(
            "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}"
        ),
    }
}

struct HostPort<'a> {
    ip: &'a str,
    protocol: &'a str,
    port: i32,
}

impl HostPort<'_> {
    fn conflicts_with(&self, other: &HostPort<'_>) -> bool {
        let shared = self.ip == other.ip || self.ip == "0.0.0.0" || other.ip == "0.0.0.0";
        shared && self.protocol == other.protocol && self.port == other.port
    }
}

fn host_ports(spec: &PodSpec) -> impl Iterator<Item = HostPort<'_>> {
    let sidecars = spec.init_containers.iter().flatten().filter(|it| pods::is_sidecar(it));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|it| it.ports.iter().flatten());
    ports.filter_map(|it: &ContainerPort| {
        Some(HostPort {
            ip: it.host_ip.as_deref().filter(|ip| !ip.is_empty()).unwrap_or("0.0.0.0"),
            protocol: it.protocol.as_deref().unwrap_or("TCP"),
            port: it.host_port.filter(|number| *number > 0)?,
        })
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(container: Value) -> Pod {
        serde_json::from_value(json!({"spec": {"containers": [container]}})).unwrap()
    }

    fn asking(cpu: &str) -> Pod {
        pod(json!({"name": "a", "resources": {"requests": {"cpu": cpu, "example.com/odd": "1"}}}))
    }

    fn with_port(ip: &str, protocol: &str, port: i32) -> Pod {
        let port = json!({"containerPort": 80, "hostPort": port, "hostIP": ip, "protocol": protocol});
        pod(json!({"name": "a", "ports": [port]}))
    }

    fn check(pod: &Pod, others: &[&Pod], expected: Option<(&str, &str)>) {
        let allocatable = [("cpu", "1"), ("pods", "2")];
        let allocatable =
            allocatable.iter().map(|(k, v)| ((*k).to_owned(), ApiQuantity((*v).to_owned()))).collect();
        let refused = admit(pod, others, &allocatable).err();
        assert_eq!(refused.as_ref().map(|it| (it.reason.as_str(), it.message.as_str())), expected);
    }

    #[test]
    fn a_pod_fits_until_a_resource_is_used_up() {
        check(&asking("600m"), &[], None);
        check(&asking("600m"), &[&asking("400m")], None);
        let message = "Node didn't have enough resource: cpu, requested: 600, used: 500, capacity: 1000";
        check(&asking("600m"), &[&asking("500m")], Some(("OutOfcpu", message)));
    }

    #[test]
    fn the_number_of_pods_is_a_resource() {
        let message = "Node didn't have enough resource: pods, requested: 1, used: 2, capacity: 2";
        check(&asking("0"), &[&asking("0"), &asking("0")], Some(("OutOfpods", message)));
    }

    #[test]
    fn ended_pods_use_nothing() {
        let mut ended = asking("900m");
        ended.status = serde_json::from_value(json!({"phase": "Succeeded"})).unwrap();
        check(&asking("600m"), &[&ended], None);
    }

    #[test]
    fn a_host_port_is_taken_once_for_each_address_and_protocol() {
        let conflict = Some(("NodePorts", "Predicate NodePorts failed"));
        let here = with_port("127.0.0.1", "TCP", 8080);
        check(&with_port("127.0.0.1", "TCP", 8080), &[&here], conflict);
        check(&with_port("", "TCP", 8080), &[&here], conflict);
        check(&with_port("127.0.0.2", "TCP", 8080), &[&here], None);
        check(&with_port("127.0.0.1", "UDP", 8080), &[&here], None);
        check(&with_port("127.0.0.1", "TCP", 8081), &[&here], None);
    }

    #[test]
    fn ports_of_the_pod_alone_take_nothing_from_the_node() {
        let inside = pod(json!({"name": "a", "ports": [{"containerPort": 80}]}));
        check(&inside, &[&inside], None);
    }
}
