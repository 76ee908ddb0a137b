//! What a node agent needs to know, and its command line.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use clap::Parser;
use component_base::client::ClientSource;
use component_base::clock::Clock;
use component_base::flags::DaemonFlags;
use k8s_openapi::api::core::v1::Taint;

use crate::node::address::{FindAddressError, towards_server};
use crate::runtime::simulated::Simulation;

/// Which runtime runs the containers.
#[derive(Clone, Debug)]
pub enum RuntimeKind {
    /// Nothing real; see [`crate::runtime::simulated`].
    Simulated,
    /// The embedded runtime: needs root, no daemon.
    Oci {
        /// Containers, sandboxes and image layers.
        root: PathBuf,
        /// Archives in this folder are images, loaded when they are asked for.
        images: PathBuf,
        /// Whether the image `node.local/rootfs` exists, which is the node's own root filesystem.
        node_rootfs: bool,
    },
    /// A runtime with a CRI socket, as `unix:///run/containerd/containerd.sock`.
    Cri { endpoint: String },
}

/// Something in PEM, in a file or at hand.
#[derive(Clone)]
pub enum Pem {
    File(PathBuf),
    Text(String),
}

/// The serving certificate and its key.
#[derive(Clone)]
pub struct Serving {
    pub certificate: Pem,
    pub key: Pem,
}

/// A node agent's configuration.
#[derive(Clone)]
pub struct Config {
    pub node_name: String,
    pub client: ClientSource,
    pub clock: Clock,
    /// What it was started with, as `/flagz` shows it.
    pub flags: Vec<(String, String)>,
    pub runtime: RuntimeKind,
    /// Delays of the simulated runtime; `None`: everything at once.
    pub simulation: Option<Simulation>,
    /// Volumes and logs of pods.
    pub root_dir: PathBuf,
    /// The network of this node's pods; `None`: `spec.podCIDR` of its Node.
    pub pod_cidr: Option<String>,
    /// All pods of the cluster: traffic to them keeps its address.
    pub cluster_cidr: Option<String>,
    /// The address that the API server reaches this node's server at, and `InternalIP` of the Node.
    pub address: IpAddr,
    /// Port of the server; 0: a free one.
    pub port: u16,
    /// Without it the agent makes a certificate of its own, which an API server that verifies refuses.
    pub tls: Option<Serving>,
    /// Clients must show a certificate of this authority; without it everyone who reaches the port may ask.
    pub client_ca: Option<Pem>,
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    /// Replaces what the machine has, by resource name.
    pub capacity: BTreeMap<String, String>,
    pub cluster_dns: Vec<String>,
    pub cluster_domain: String,
    /// Ends all pods when the agent stops, instead of leaving them for the next agent.
    pub stop_pods_on_exit: bool,
    /// Images that are pulled at the same time.
    pub pulls_max: usize,
    /// Streams (logs, exec, attach, port-forward) and other requests served at the same time.
    pub connections_max: usize,
}

impl Config {
    /// A simulated node on the loopback; everything else is set by field.
    pub fn new(node_name: impl Into<String>, client: ClientSource, clock: Clock) -> Self {
        Self {
            node_name: node_name.into(),
            client,
            clock,
            flags: Vec::new(),
            runtime: RuntimeKind::Simulated,
            simulation: None,
            root_dir: PathBuf::from("/var/lib/coxswain-node"),
            pod_cidr: None,
            cluster_cidr: None,
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 0,
            tls: None,
            client_ca: None,
            labels: BTreeMap::new(),
            taints: Vec::new(),
            capacity: BTreeMap::new(),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
            stop_pods_on_exit: false,
            pulls_max: 4,
            connections_max: 1024,
        }
    }
}

impl Config {
    /// The given network, or one chosen by the node's name, for clusters in which nobody gives them out.
    pub(crate) fn pod_cidr_or_fallback(&self) -> String {
        let bytes = self.node_name.bytes();
        let hash =
            bytes.fold(2_166_136_261_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(16_777_619));
        let fallback = || format!("10.{}.{}.0/24", 64 + (hash >> 8) % 64, hash % 256);
        self.pod_cidr.clone().unwrap_or_else(fallback)
    }
}

/// Runs the pods that are bound to this machine.
///
/// The agent registers this machine as a Node, keeps its lease, runs the pods whose spec.nodeName is its
/// name, and answers the API server's questions for logs, exec, attach and port-forward. It finds running
/// containers again after a restart and leaves them alone when it stops.
///
/// Example: nodeagent --kubeconfig node-1.kubeconfig --node-ip 192.0.2.11 --pod-cidr 10.244.1.0/24
#[derive(Debug, Parser)]
#[command(name = "nodeagent", version)]
pub struct Flags {
    #[command(flatten)]
    daemon: DaemonFlags,
    /// Name of the Node [default: this machine's host name].
    #[arg(long, value_name = "NAME")]
    hostname_override: Option<String>,
    /// Address of this node, for the API server, for pods on the host network and for other nodes' routes
    /// [default: the one this machine talks to the API server from].
    #[arg(long, value_name = "ADDRESS")]
    node_ip: Option<IpAddr>,
    /// Port of the server for logs, exec, attach and port-forward.
    #[arg(long, default_value_t = 10250)]
    port: u16,
    /// Folder for volumes, logs and the embedded runtime.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/coxswain-node")]
    root_dir: PathBuf,
    /// Addresses of this node's pods, as 10.244.1.0/24 [default: spec.podCIDR of the Node].
    #[arg(long, value_name = "CIDR")]
    pod_cidr: Option<String>,
    /// Addresses of all pods, as 10.244.0.0/16: between them pods keep their addresses, on other nodes, too.
    #[arg(long, value_name = "CIDR")]
    cluster_cidr: Option<String>,
    /// `embedded`, `simulated`, or the socket of a CRI runtime as unix:///run/containerd/containerd.sock.
    #[arg(long, value_name = "ENDPOINT", default_value = "embedded")]
    container_runtime_endpoint: String,
    /// Let containers use the image node.local/rootfs: this machine's own root filesystem, read-only
    /// underneath and private on top. For trusted machines without a registry.
    #[arg(long)]
    allow_node_rootfs_image: bool,
    /// Taints to register the Node with, as key=value:NoSchedule,…
    #[arg(long, value_delimiter = ',', value_parser = parse_taint, value_name = "TAINTS")]
    register_with_taints: Vec<Taint>,
    /// Labels to register the Node with, as key=value,…
    #[arg(long, value_delimiter = ',', value_parser = parse_pair, value_name = "LABELS")]
    node_labels: Vec<(String, String)>,
    /// Report these amounts instead of what the machine has, as cpu=2,memory=4Gi,pods=50
    #[arg(long, value_delimiter = ',', value_parser = parse_pair, value_name = "AMOUNTS")]
    capacity: Vec<(String, String)>,
    /// Certificate of the server, PEM [default: one that the agent makes].
    #[arg(long, value_name = "FILE", requires = "tls_private_key_file")]
    tls_cert_file: Option<PathBuf>,
    /// Key of that certificate, PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert_file")]
    tls_private_key_file: Option<PathBuf>,
    /// Serve only clients with a certificate of this authority, PEM. Set it on every shared network.
    #[arg(long, value_name = "FILE")]
    client_ca_file: Option<PathBuf>,
    /// Addresses of the cluster's name server [default: pods use the machine's].
    #[arg(long, value_delimiter = ',', value_name = "ADDRESSES")]
    cluster_dns: Vec<String>,
    /// Domain of the cluster's services.
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    cluster_domain: String,
    /// End all pods when the agent stops.
    #[arg(long)]
    stop_pods_on_exit: bool,
}

impl Flags {
    /// Starts logging as the flags say.
    pub fn init_logs(&self) {
        self.daemon.log.init();
    }

    /// The configuration that the flags describe.
    pub fn config(self, clock: Clock) -> Result<Config, FindAddressError> {
        let address = match self.node_ip {
            Some(address) => address,
            None => towards_server(&self.daemon.kubeconfig)?,
        };
        let node_name = self.hostname_override.unwrap_or_else(crate::node::machine::host_name);
        let runtime = match self.container_runtime_endpoint.as_str() {
            "embedded" => RuntimeKind::Oci {
                root: self.root_dir.join("runtime"),
                images: self.root_dir.join("images"),
                node_rootfs: self.allow_node_rootfs_image,
            },
            "simulated" => RuntimeKind::Simulated,
            endpoint => RuntimeKind::Cri { endpoint: endpoint.to_owned() },
        };
        let files = self.tls_cert_file.zip(self.tls_private_key_file);
        Ok(Config {
            runtime,
            root_dir: self.root_dir,
            pod_cidr: self.pod_cidr,
            cluster_cidr: self.cluster_cidr,
            address,
            port: self.port,
            tls: files.map(|(cert, key)| Serving { certificate: Pem::File(cert), key: Pem::File(key) }),
            client_ca: self.client_ca_file.map(Pem::File),
            labels: self.node_labels.into_iter().collect(),
            taints: self.register_with_taints,
            capacity: self.capacity.into_iter().collect(),
            cluster_dns: self.cluster_dns,
            cluster_domain: self.cluster_domain,
            stop_pods_on_exit: self.stop_pods_on_exit,
            ..Config::new(node_name, self.daemon.client(), clock)
        })
    }
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
    pair.map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| format!("{text:?} is not key=value"))
}

fn parse_taint(text: &str) -> Result<Taint, String> {
    let wrong =
        || format!("{text:?} is not key[=value]:EFFECT with NoSchedule, PreferNoSchedule or NoExecute");
    let (pair, effect) = text.rsplit_once(':').ok_or_else(wrong)?;
    let (key, value) =
        pair.split_once('=').map_or((pair, None), |(key, value)| (key, Some(value.to_owned())));
    if key.is_empty() || !matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
        return Err(wrong());
    }
    Ok(Taint { key: key.to_owned(), value, effect: effect.to_owned(), time_added: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints_are_read_as_kubelet_reads_them() {
        let taint = parse_taint("dedicated=db:NoSchedule").unwrap();
        assert_eq!((taint.key.as_str(), taint.value.as_deref()), ("dedicated", Some("db")));
        assert!(parse_taint("dedicated=db:Never").unwrap_err().contains("NoExecute"));
    }

    #[test]
    fn an_endpoint_chooses_the_runtime() {
        let flags = |endpoint: &str| {
            let args = ["nodeagent", "--kubeconfig", "f", "--container-runtime-endpoint", endpoint];
            Flags::try_parse_from(args).unwrap()
        };
        assert_eq!(flags("unix:///run/c.sock").container_runtime_endpoint, "unix:///run/c.sock");
        assert!(Flags::try_parse_from(["nodeagent", "--kubeconfig", "f", "--node-labels", "x"]).is_err());
    }
}
