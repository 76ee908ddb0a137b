//! The pod network of one node: a bridge, a pair of links for each sandbox, and the way out.
//!
//! `netlink` talks with the kernel, `masquerade` lets traffic leave. Several nodes on one machine have a
//! bridge each and reach each other's pods through the machine, which forwards; nodes on several machines
//! through routes by node address. Deliberately not here: which pod has which address, and services.

use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use sha2::{Digest, Sha256};
use tracing::warn;

mod masquerade;
pub(crate) mod netlink;

use netlink::Netlink;

/// The link's name inside a sandbox.
pub(crate) const POD_LINK: &str = "eth0";

/// Why the pod network does not work.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    #[error("{doing}: {source}")]
    Kernel {
        doing: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{text:?} is not an IPv4 range such as 10.244.1.0/24")]
    ParseRange { text: String },
}

fn kernel(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> BridgeError {
    let doing = doing.into();
    move |source| BridgeError::Kernel { doing, source }
}

/// What a node's bridge is made from.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct BridgeConfig {
    /// Names the bridge; unique on the machine, as a node's name together with its folder is.
    pub(crate) owner: String,
    /// This node's pods, as `10.244.1.0/24`; the first address is the bridge's own.
    pub(crate) pod_cidr: String,
    /// All pods of the cluster: traffic to them keeps its address.
    pub(crate) cluster_cidr: Option<String>,
}

/// An IPv4 range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    network: Ipv4Addr,
    prefix_len: u8,
}

impl FromStr for Range {
    type Err = BridgeError;

    fn from_str(text: &str) -> Result<Self, BridgeError> {
        let error = || BridgeError::ParseRange { text: text.to_owned() };
        let (address, prefix_len) = text.split_once('/').ok_or_else(error)?;
        let address: Ipv4Addr = address.parse().map_err(|_| error())?;
        let prefix_len: u8 = prefix_len.parse().map_err(|_| error())?;
        if !(8..=30).contains(&prefix_len) {
            return Err(error());
        }
        let mask = u32::MAX << (32 - prefix_len);
        Ok(Self { network: Ipv4Addr::from_bits(address.to_bits() & mask), prefix_len })
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}/{}", self.network, self.prefix_len)
    }
}

impl Range {
    fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.to_bits() + 1)
    }
}

/// A node's bridge. All calls block for a few milliseconds.
pub(crate) struct Bridge {
    name: String,
    warning: Option<String>,
}

impl Bridge {
    /// Makes the bridge and the rules, or takes them over as they are.
    pub(crate) fn start(config: &BridgeConfig) -> Result<Self, BridgeError> {
        let range: Range = config.pod_cidr.parse()?;
        let name = link_name("b", &config.owner);
        ensure_bridge(&name, &range).map_err(kernel(format!("making the bridge {name}")))?;
        forward(&name).map_err(kernel("letting the machine forward"))?;
        let cluster = config.cluster_cidr.as_deref();
        let warning = masquerade::ensure(&name, &range.to_string(), cluster).err();
        if let Some(warning) = &warning {
            warn!(bridge = name, "{warning}");
        }
        Ok(Self { name, warning })
    }

    /// Why pods cannot reach everything, if so.
    pub(crate) fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// Puts a link of the bridge into the network namespace of process `pid`, as `eth0`.
    pub(crate) fn attach(&self, sandbox: &str, pid: i32) -> Result<(), BridgeError> {
        let doing = || kernel(format!("linking sandbox {sandbox}"));
        let mut netlink = Netlink::open().map_err(doing())?;
        let bridge = netlink.index_of(&self.name).map_err(doing())?;
        netlink.add_veth(&link_name("p", sandbox), bridge, POD_LINK, pid).map_err(doing())
    }

    /// Removes the bridge that was started with `config`, what still hangs on it, and the rules.
    pub(crate) fn remove(config: &BridgeConfig) -> Result<(), BridgeError> {
        let range: Range = config.pod_cidr.parse()?;
        let name = link_name("b", &config.owner);
        let doing = || kernel(format!("removing the bridge {name}"));
        let mut netlink = Netlink::open().map_err(doing())?;
        let links = netlink.links().map_err(doing())?;
        if let Some(bridge) = links.iter().find(|link| link.name == name) {
            for link in links.iter().filter(|link| link.master == Some(bridge.index)) {
                ignore_gone(netlink.delete_link(link.index)).map_err(doing())?;
            }
            ignore_gone(netlink.delete_link(bridge.index)).map_err(doing())?;
        }
        masquerade::remove(&name, &range.to_string());
        Ok(())
    }
}

/// Takes a sandbox's link away. It also goes by itself with the namespace, only later.
pub(crate) fn detach(sandbox: &str) -> Result<(), BridgeError> {
    remove_link(&link_name("p", sandbox)).map_err(kernel(format!("unlinking sandbox {sandbox}")))
}

/// Makes or takes away the route to the pods of a node on another machine.
pub fn set_route(pods: &str, node: IpAddr, wanted: bool) -> Result<(), BridgeError> {
    let range: Range = pods.parse()?;
    let doing = || kernel(format!("routing {pods} by {node}"));
    let mut netlink = Netlink::open().map_err(doing())?;
    let to = IpAddr::V4(range.network);
    if wanted {
        return netlink.add_route(to, range.prefix_len, node).map_err(doing());
    }
    match netlink.delete_route(to, range.prefix_len, node) {
        // There is no such route.
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        done => done.map_err(doing()),
    }
}

/// A name of at most fifteen characters that only this node or sandbox has.
fn link_name(kind: &str, of: &str) -> String {
    let hash = Sha256::digest(of.as_bytes());
    let short: String = hash.iter().take(5).map(|byte| format!("{byte:02x}")).collect();
    format!("{}{kind}{short}", masquerade::LINK_PREFIX)
}

fn ensure_bridge(name: &str, range: &Range) -> std::io::Result<()> {
    let mut netlink = Netlink::open()?;
    let index = match netlink.index_of(name) {
        Ok(index) => index,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            netlink.add_bridge(name)?;
            netlink.index_of(name)?
        }
        Err(error) => return Err(error),
    };
    let gateway = range.gateway();
    let [a, b, c, d] = gateway.octets();
    netlink.set_hardware_address(index, [0x0a, 0x58, a, b, c, d])?;
    netlink.add_address(index, IpAddr::V4(gateway), range.prefix_len)?;
    netlink.set_up(index)
}

/// The machine must forward between its bridges and outwards.
fn forward(bridge: &str) -> std::io::Result<()> {
    const ALL: &str = "/proc/sys/net/ipv4/ip_forward";
    if std::fs::read_to_string(ALL)?.trim() == "1" {
        return Ok(());
    }
    let one = format!("/proc/sys/net/ipv4/conf/{bridge}/forwarding");
    std::fs::write(ALL, "1").or_else(|_| std::fs::write(one, "1"))
}

fn remove_link(name: &str) -> std::io::Result<()> {
    let mut netlink = Netlink::open()?;
    match netlink.index_of(name) {
        Ok(index) => ignore_gone(netlink.delete_link(index)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// A link that goes with its namespace may be gone between being seen and being removed.
fn ignore_gone(done: std::io::Result<()>) -> std::io::Result<()> {
    match done {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_names_fit_the_kernel_and_differ_by_owner() {
        let name = link_name("b", "a node with a very long name indeed");
        assert!(name.len() <= 15, "{name}");
        assert_ne!(name, link_name("b", "another"));
        assert_ne!(name, link_name("p", "a node with a very long name indeed"));
    }

    #[test]
    fn a_range_is_its_network_and_what_is_none_is_refused() {
        let range: Range = "10.244.7.9/24".parse().unwrap();
        assert_eq!(
            (range.to_string(), range.gateway().to_string()),
            ("10.244.7.0/24".into(), "10.244.7.1".into())
        );
        for text in ["", "10.0.0.0", "10.0.0.0/31", "10.0.0/24", "fd00::/64"] {
            assert!(text.parse::<Range>().is_err(), "{text}");
        }
    }
}
