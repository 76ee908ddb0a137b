//! A cluster in this process: which parts run, as whom, and in which order they start and stop.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use apiserver::{Running, UserInfo};
use component_base::Shutdown;
use component_base::client::ClientSource;
use component_base::clock::Clock;
use component_base::leader::Election;
use component_base::supervise::Tasks;
use tokio_util::sync::DropGuard;
use tracing::error;

/// Where controllers and scheduler are asked about themselves: any free port, which their Leases name.
const ASKED_AT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// What runs the pods of the cluster's nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NodeRuntime {
    /// Pods come and go as data; no process is started.
    #[default]
    Simulated,
    /// Real processes in namespaces and cgroups of their own. Needs root and Linux.
    Oci,
}

/// How a cluster is started. The default is one for tests: in memory, two simulated nodes, no socket.
#[derive(Clone, Debug)]
pub struct Options {
    pub nodes: usize,
    pub runtime: NodeRuntime,
    /// How the API server is started: where it listens, where objects are kept, who may do what. Its clock is
    /// that of the whole cluster.
    pub server: apiserver::Config,
    /// Images and what nodes keep. Needed for real containers.
    pub data_dir: Option<PathBuf>,
    /// Whether controllers run.
    pub controllers: bool,
    /// Whether the scheduler runs.
    pub scheduler: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nodes: 2,
            runtime: NodeRuntime::Simulated,
            server: apiserver::Config::default(),
            data_dir: None,
            controllers: true,
            scheduler: true,
        }
    }
}

/// A running cluster. Dropping it without [`Cluster::stop`] asks its parts to stop but does not wait.
pub struct Cluster {
    api: Running,
    client: kube::Client,
    node_names: Vec<String>,
    kubeconfig: Option<PathBuf>,
    volumes_dir: PathBuf,
    /// Node agents stop first, while the API still answers; then controllers and scheduler, then the server.
    nodes: Tasks,
    control: Tasks,
    server: Shutdown,
    /// Dropped with the cluster, these ask every part to stop.
    _guards: [DropGuard; 3],
}

impl Cluster {
    /// Starts the parts. Returns when the API answers; nodes register on their own.
    ///
    /// # Errors
    /// The data directory cannot be used, the address is taken, or an option contradicts another.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        component_base::client::install_crypto_provider();
        let server = Shutdown::new();
        // The nodes are of this process, and say what their pods use.
        let config = apiserver::Config { node_metrics: true, ..options.server.clone() };
        let api = apiserver::start(config, server.clone()).await.context("the API server does not start")?;
        let client = loopback(&api, UserInfo::admin());
        let (nodes, control) = (Shutdown::new(), Shutdown::new());
        let guards = [&nodes, &control, &server].map(|token| token.clone().drop_guard());
        let cluster = Self {
            kubeconfig: api.credentials().admin_kubeconfig_path(),
            volumes_dir: volumes_dir(&options),
            node_names: (1..=options.nodes).map(|number| format!("node-{number}")).collect(),
            nodes: Tasks::new(nodes),
            control: Tasks::new(control),
            api,
            client,
            server,
            _guards: guards,
        };
        cluster.start_control(&options)?;
        cluster.start_nodes(&options)?;
        Ok(cluster)
    }

    /// A client with every right, without a socket between.
    pub fn client(&self) -> kube::Client {
        self.client.clone()
    }

    /// A client as `user`.
    pub fn client_as(&self, user: UserInfo) -> kube::Client {
        loopback(&self.api, user)
    }

    /// Where the API server listens.
    pub fn address(&self) -> Option<SocketAddr> {
        self.api.address()
    }

    /// The administrator's kubeconfig, when the cluster listens.
    pub fn kubeconfig(&self) -> Option<&Path> {
        self.kubeconfig.as_deref()
    }

    /// The names of the nodes that are started.
    pub fn node_names(&self) -> Vec<String> {
        self.node_names.clone()
    }

    /// Stops node agents with their pods, then controllers and scheduler, then the API server.
    pub async fn stop(self) {
        for tasks in [&self.nodes, &self.control] {
            tasks.shutdown().cancel();
            tasks.join().await;
        }
        self.server.cancel();
        self.api.stopped().await;
    }

    fn start_control(&self, options: &Options) -> anyhow::Result<()> {
        if options.controllers {
            let client = self.client_as(controller_manager_user());
            let (clock, shutdown) = (options.server.clock, self.control.shutdown().clone());
            let run = self.controller_manager_at(Some(ASKED_AT), client, clock, None, shutdown)?;
            self.supervise(&self.control, "controller-manager", run);
        }
        if options.scheduler {
            let client = self.client_as(scheduler_user());
            let config = scheduler::Config {
                health: Some(ASKED_AT),
                ..scheduler::Config::new(ClientSource::Ready(client), options.server.clock)
            };
            let run = scheduler::run(config, self.control.shutdown().clone());
            self.supervise(&self.control, "scheduler", run);
        }
        Ok(())
    }

    /// A controller manager for this cluster over a client of the caller's, who runs it and may put faults
    /// between it and the server.
    ///
    /// # Errors
    /// The cluster's keys cannot be used.
    pub fn controller_manager(
        &self,
        client: kube::Client,
        clock: Clock,
        election: Option<Election>,
        shutdown: Shutdown,
    ) -> anyhow::Result<impl Future<Output = anyhow::Result<()>> + Send + use<>> {
        self.controller_manager_at(None, client, clock, election, shutdown)
    }

    fn controller_manager_at(
        &self,
        health: Option<SocketAddr>,
        client: kube::Client,
        clock: Clock,
        election: Option<Election>,
        shutdown: Shutdown,
    ) -> anyhow::Result<impl Future<Output = anyhow::Result<()>> + Send + use<>> {
        let pki = self.api.credentials();
        let (authority, year) = (pki.authority(), std::time::Duration::from_secs(365 * 86_400));
        let authority =
            controller_manager::Authority::new(&authority.certificate_pem, &authority.key_pem, year)?;
        let config = controller_manager::Config {
            root_ca: Some(pki.ca_pem().to_owned()),
            signing: Some(Arc::new(authority)),
            host_path_volumes: Some(self.volumes_dir.clone()),
            token_signer: Some(Arc::new(controller_manager::TokenSigner::new(&pki.signing_key_pem())?)),
            election,
            health,
            ..controller_manager::Config::new(ClientSource::Ready(client), clock)
        };
        Ok(controller_manager::run(config, shutdown))
    }

    fn start_nodes(&self, options: &Options) -> anyhow::Result<()> {
        for (index, name) in self.node_names.iter().enumerate() {
            let config = self.node_config(options, index, name)?;
            let run = nodeagent::run(config, self.nodes.shutdown().clone());
            self.supervise(&self.nodes, "nodeagent", run);
        }
        Ok(())
    }

    fn node_config(&self, options: &Options, index: usize, name: &str) -> anyhow::Result<nodeagent::Config> {
        let client = ClientSource::Ready(self.client_as(node_user(name)));
        let mut config = nodeagent::Config::new(name, client, options.server.clock);
        config.pod_cidr = Some(pod_range(index)?);
        config.stop_pods_on_exit = true;
        let (pki, hosts) = (self.api.credentials(), [config.address.to_string()]);
        let serving = pki.issue_serving(&format!("system:node:{name}"), &["system:nodes"], &hosts)?;
        config.tls = Some(nodeagent::Serving {
            certificate: nodeagent::Pem::Text(serving.certificate_pem),
            key: nodeagent::Pem::Text(serving.key_pem),
        });
        config.client_ca = Some(nodeagent::Pem::Text(pki.ca_pem().to_owned()));
        if options.runtime == NodeRuntime::Oci {
            let data_dir = options.data_dir.as_ref().context("real containers need a data directory")?;
            let root = data_dir.join("nodes").join(name);
            config.runtime = nodeagent::RuntimeKind::Oci {
                root: root.join("runtime"),
                images: data_dir.join("images"),
                node_rootfs: true,
            };
            config.root_dir = root;
        }
        Ok(config)
    }

    fn supervise<F>(&self, tasks: &Tasks, name: &'static str, run: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        tasks.spawn(name, async move {
            if let Err(problem) = run.await {
                error!(component = name, "ended: {problem:#}");
            }
        });
    }
}

/// The addresses of the pods of the node of this number: a part of 10.244.0.0 to 10.255.255.255.
fn pod_range(node: usize) -> anyhow::Result<String> {
    let second = u8::try_from(244 + node / 256).context("at most 3072 nodes run in one process")?;
    Ok(format!("10.{second}.{}.0/24", node % 256))
}

/// As whom the controller manager works.
pub fn controller_manager_user() -> UserInfo {
    UserInfo::new("system:kube-controller-manager", &["system:authenticated"])
}

/// As whom the scheduler works.
pub fn scheduler_user() -> UserInfo {
    UserInfo::new("system:kube-scheduler", &["system:authenticated"])
}

/// As whom the agent of the node `name` works.
pub fn node_user(name: &str) -> UserInfo {
    UserInfo::new(format!("system:node:{name}"), &["system:nodes", "system:authenticated"])
}

/// A scheduler over a client of the caller's; `seed` decides between nodes that are equally good.
pub fn scheduler(
    client: kube::Client,
    clock: Clock,
    seed: u64,
    shutdown: Shutdown,
) -> impl Future<Output = anyhow::Result<()>> + Send {
    let config = scheduler::Config { seed, ..scheduler::Config::new(ClientSource::Ready(client), clock) };
    scheduler::run(config, shutdown)
}

/// Where volumes of the default class are. Simulated nodes make no folder.
fn volumes_dir(options: &Options) -> PathBuf {
    let dir = options.data_dir.as_deref().unwrap_or(Path::new("/var/lib/coxswain")).join("volumes");
    std::path::absolute(&dir).unwrap_or(dir)
}

fn loopback(api: &Running, user: UserInfo) -> kube::Client {
    kube::Client::new(api.loopback(user), "default")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_have_ranges_of_their_own() {
        assert_eq!(pod_range(255).unwrap(), "10.244.255.0/24");
        assert_eq!(pod_range(256).unwrap(), "10.245.0.0/24");
        assert!(pod_range(3072).is_err());
    }
}
