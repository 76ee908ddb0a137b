//! Routes to the pods of other nodes: one for each Node on another machine, by that machine's address.
//!
//! Follows the Nodes and keeps the kernel's table as they say. For the embedded runtime, whose bridges know
//! their own machine only; a CRI runtime's network brings its own. Nodes whose address is this machine's
//! (several agents on one host) need none: the machine forwards between their bridges.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::pin::pin;

use component_base::Shutdown;
use component_base::client::told;
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::runtime::reflector::{self, reflector};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tracing::{info, warn};

use crate::bridge::{BridgeError, set_route};

/// Pods' range → address of the machine they are on.
pub(crate) type Routes = BTreeMap<String, IpAddr>;

/// One change of the kernel's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Remove(String, IpAddr),
    Add(String, IpAddr),
}

/// What to change so that `made` becomes what the nodes ask for; `own` are this machine's addresses. Pure.
pub(crate) fn routes<'a>(
    nodes: impl IntoIterator<Item = &'a Node>,
    own: &BTreeSet<IpAddr>,
    made: &Routes,
) -> Vec<Step> {
    let wanted: Routes = nodes.into_iter().filter_map(|node| route_of(node, own)).collect();
    let removed = made.iter().filter(|(pods, node)| wanted.get(*pods) != Some(*node));
    let added = wanted.iter().filter(|(pods, node)| made.get(*pods) != Some(*node));
    let removed = removed.map(|(pods, node)| Step::Remove(pods.clone(), *node));
    removed.chain(added.map(|(pods, node)| Step::Add(pods.clone(), *node))).collect()
}

fn route_of(node: &Node, own: &BTreeSet<IpAddr>) -> Option<(String, IpAddr)> {
    let pods = node.spec.as_ref()?.pod_cidr.clone()?;
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    let internal = addresses.iter().find(|it| it.type_ == "InternalIP")?;
    let address: IpAddr = internal.address.parse().ok()?;
    let elsewhere = !address.is_loopback() && !own.contains(&address);
    elsewhere.then_some((pods, address))
}

/// Keeps the routes until `shutdown`. With `leave_none` they are taken away then; otherwise pods that outlive
/// the agent go on using them.
pub(crate) async fn follow(client: Client, shutdown: Shutdown, leave_none: bool) {
    let (nodes, writer) = reflector::store::<Node>();
    let changes = watcher(Api::<Node>::all(client), watcher::Config::default()).default_backoff();
    let mut changes = pin!(reflector(writer, changes));
    let mut made = Routes::new();
    while let Some(next) = shutdown.run_until_cancelled(changes.try_next()).await {
        match next {
            Ok(Some(_)) => {
                let nodes = nodes.state();
                take(routes(nodes.iter().map(AsRef::as_ref), &own_addresses(), &made), &mut made, set_route);
            }
            Ok(None) => break,
            Err(error) => warn!(error = told(&error), "watching nodes; trying again"),
        }
    }
    if leave_none {
        take(routes([], &BTreeSet::new(), &made), &mut made, set_route);
    }
}

/// Does the steps; what fails is not in `made`, so the next change of a node tries it again.
fn take(steps: Vec<Step>, made: &mut Routes, set: impl Fn(&str, IpAddr, bool) -> Result<(), BridgeError>) {
    for step in steps {
        let (pods, node, wanted) = match step {
            Step::Remove(pods, node) => (pods, node, false),
            Step::Add(pods, node) => (pods, node, true),
        };
        match set(&pods, node, wanted) {
            Ok(()) if wanted => {
                info!(pods, %node, "route to another node's pods");
                made.insert(pods, node);
            }
            Ok(()) => drop(made.remove(&pods)),
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                warn!("{error}: {cause}");
            }
        }
    }
}

fn own_addresses() -> BTreeSet<IpAddr> {
    let listed = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let addresses = listed.filter_map(|it| {
        let address = it.address?;
        let v4 = address.as_sockaddr_in().map(|it| IpAddr::V4(it.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|it| IpAddr::V6(it.ip())))
    });
    addresses.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(pods: Option<&str>, address: Option<&str>) -> Node {
        let addresses: Vec<_> =
            address.iter().map(|it| json!({"type": "InternalIP", "address": it})).collect();
        serde_json::from_value(json!({"spec": {"podCIDR": pods}, "status": {"addresses": addresses}}))
            .unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn add(pods: &str, by: &str) -> Step {
        Step::Add(pods.into(), ip(by))
    }

    fn remove(pods: &str, by: &str) -> Step {
        Step::Remove(pods.into(), ip(by))
    }

    #[test]
    fn routes_follow_the_nodes() {
        let (a, b) = ("10.244.1.0/24", "10.244.2.0/24");
        let here = node(Some(a), Some("192.0.2.1"));
        let there = |address| node(Some(b), Some(address));
        let rows = [
            ("nobody else", vec![here.clone()], vec![], vec![]),
            ("a new node", vec![here.clone(), there("192.0.2.2")], vec![], vec![add(b, "192.0.2.2")]),
            ("all is as it should be", vec![there("192.0.2.2")], vec![(b, "192.0.2.2")], vec![]),
            (
                "a node moved",
                vec![there("192.0.2.3")],
                vec![(b, "192.0.2.2")],
                vec![remove(b, "192.0.2.2"), add(b, "192.0.2.3")],
            ),
            ("a node is gone", vec![here.clone()], vec![(b, "192.0.2.2")], vec![remove(b, "192.0.2.2")]),
            ("another agent on this machine", vec![there("192.0.2.1")], vec![], vec![]),
            ("nodes of one process", vec![there("127.0.0.1")], vec![], vec![]),
            ("no range yet", vec![node(None, Some("192.0.2.2"))], vec![], vec![]),
            ("no address yet", vec![node(Some(b), None)], vec![], vec![]),
            ("an address that is none", vec![there("somewhere")], vec![], vec![]),
        ];
        let own = BTreeSet::from([ip("192.0.2.1")]);
        for (what, nodes, made, steps) in rows {
            let made: Routes = made.into_iter().map(|(pods, by)| (pods.to_owned(), ip(by))).collect();
            assert_eq!(routes(&nodes, &own, &made), steps, "{what}");
        }
    }

    #[test]
    fn a_refused_route_is_tried_again() {
        let refuse = |pods: &str, _: IpAddr, _: bool| Err(BridgeError::ParseRange { text: pods.to_owned() });
        let mut made = Routes::new();
        take(vec![add("10.244.2.0/24", "192.0.2.2")], &mut made, refuse);
        assert!(made.is_empty());
        take(vec![add("10.244.2.0/24", "192.0.2.2")], &mut made, |_, _, _| Ok(()));
        assert_eq!(made.len(), 1);
    }
}
