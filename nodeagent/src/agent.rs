//! The agent as a whole: what its parts share, the pods it watches, and in which order all starts and ends.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use component_base::Shutdown;
use component_base::acted_on::{self, Seen};
use component_base::caller::Caller;
use component_base::client::{told, trim};
use component_base::clock::Clock;
use component_base::events::{EventType, Recorder};
use component_base::metrics::{Counter, Metrics};
use component_base::supervise::Tasks;
use component_base::zpages::Zpages;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::ListParams;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, broadcast, watch};
use tracing::{info, warn};

use crate::config::{Config, RuntimeKind};
use crate::downward::Facts;
use crate::network::{Dns, Pool, parse_resolv_conf};
use crate::node;
use crate::pod::admit::{Refusal, admit};
use crate::pod::containers::Folders;
use crate::pod::qos::value;
use crate::pod::status::Host;
use crate::pod::worker::{Mailbox, Worker};
use crate::runtime::{self, Runtime, SandboxFilter};
use crate::server::{self, Readings};

/// How long pods may take to end when the agent stops and takes them with it.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// What the parts of the agent share.
pub(crate) struct Agent {
    pub(crate) client: Client,
    pub(crate) clock: Clock,
    pub(crate) zpages: Zpages,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) recorder: Recorder,
    pub(crate) node_name: String,
    pub(crate) host: Host,
    pub(crate) folders: Folders,
    pub(crate) pool: Mutex<Pool>,
    pub(crate) dns: Dns,
    /// False in simulation: nothing is written to the disk.
    pub(crate) disk: bool,
    pub(crate) allocatable: BTreeMap<String, Quantity>,
    pub(crate) pulls: Semaphore,
    pub(crate) readings: Readings,
    /// What `/metrics` shows.
    pub(crate) metrics: Metrics,
    pub(crate) tasks: Tasks,
    pods: Mutex<BTreeMap<String, Mailbox>>,
}

/// Runs a node agent until `shutdown`.
pub async fn run(mut config: Config, shutdown: Shutdown) -> anyhow::Result<()> {
    // What is mounted into containers is named where another folder may be the current one.
    config.root_dir = std::path::absolute(&config.root_dir).context("cannot find the node's folder")?;
    let tasks = Tasks::new(shutdown.child_token());
    // Containers of the simulated runtime end after the workers, not with them.
    let late = Tasks::new(Shutdown::new());
    let runtime = runtime::open(&config, &late).await.context("cannot open the container runtime")?;
    let result = run_until_shutdown(&config, runtime.clone(), &tasks).await;
    tasks.shutdown().cancel();
    tasks.join().await;
    if config.stop_pods_on_exit {
        stop_all_pods(runtime.as_ref(), &Folders { root: config.root_dir.clone() }).await;
    }
    late.shutdown().cancel();
    late.join().await;
    result
}

async fn run_until_shutdown(config: &Config, runtime: Arc<dyn Runtime>, tasks: &Tasks) -> anyhow::Result<()> {
    component_base::client::install_crypto_provider();
    let seen = Seen::default();
    let metrics = Metrics::default();
    let caller = Caller::new("kubelet", seen.clone(), &metrics);
    let client = config.client.connect_as(caller).await.context("cannot reach the API server")?;
    let listener = server::listen(config).await?;
    let port = listener.port();
    let version = runtime.version().await.context("the container runtime does not answer")?;
    let registration = node::Registration::of(config, &version, port);
    let starting = node::register(&client, &registration, config.clock);
    let Some(registered) = tasks.shutdown().run_until_cancelled(starting).await else { return Ok(()) };
    let agent = Arc::new(Agent {
        recorder: recorder(config, &client, &metrics, tasks),
        clock: config.clock,
        zpages: Zpages::new("kubelet", config.clock, config.flags.clone()),
        node_name: config.node_name.clone(),
        host: Host { ips: vec![config.address.to_string()], runtime_name: version.name.clone() },
        folders: Folders { root: config.root_dir.clone() },
        pool: Mutex::new(pool(config, registered.spec.and_then(|it| it.pod_cidr))?),
        dns: dns(config),
        disk: !matches!(config.runtime, RuntimeKind::Simulated),
        allocatable: registration.allocatable(),
        pulls: Semaphore::new(config.pulls_max),
        readings: Readings::default(),
        metrics,
        tasks: tasks.clone(),
        pods: Mutex::default(),
        client,
        runtime,
    });
    agent.adopt_addresses().await?;
    tasks.spawn_until_shutdown(
        "node-lease",
        node::renew_lease(agent.client.clone(), registration.clone(), agent.clock),
    );
    tasks.spawn_until_shutdown("node-status", node::report_status(agent.clone(), registration));
    if agent.disk {
        tasks.spawn_until_shutdown("extended-resources", node::extended::follow(agent.clone()));
    }
    if matches!(config.runtime, RuntimeKind::Oci { .. }) {
        let shutdown = tasks.shutdown().clone();
        tasks.spawn("routes", node::routes::follow(agent.client.clone(), shutdown, config.stop_pods_on_exit));
    }
    tasks.spawn_until_shutdown("runtime-events", agent.clone().follow_runtime());
    server::serve(listener, agent.clone(), config.connections_max, tasks);
    info!(node = agent.node_name, port, runtime = version.name, "node agent is up");
    agent.follow_pods(seen).await;
    Ok(())
}

fn pool(config: &Config, from_node: Option<String>) -> anyhow::Result<Pool> {
    let cidr = config.pod_cidr.clone().or(from_node).unwrap_or_else(|| config.pod_cidr_or_fallback());
    Pool::parse(&cidr).context("--pod-cidr")
}

fn dns(config: &Config) -> Dns {
    let text = match config.runtime {
        RuntimeKind::Simulated => String::new(),
        _ => std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
    };
    Dns {
        cluster: config.cluster_dns.clone(),
        domain: config.cluster_domain.clone(),
        node: parse_resolv_conf(&text),
    }
}

fn recorder(config: &Config, client: &Client, metrics: &Metrics, tasks: &Tasks) -> Recorder {
    let help = "Events that were lost: no room, or refused";
    let dropped = metrics.register("events_dropped", help, Counter::default());
    Recorder::counting(client.clone(), &config.node_name, config.clock, tasks, dropped)
}

impl Agent {
    pub(crate) fn host_ip(&self) -> Option<IpAddr> {
        self.host.ips.first().and_then(|ip| ip.parse().ok())
    }

    pub(crate) fn node_memory(&self) -> u64 {
        self.allocatable.get("memory").map_or(0, |amount| value(amount) as u64)
    }

    pub(crate) fn pod_dir(&self, uid: &str) -> PathBuf {
        self.folders.pod(uid)
    }

    pub(crate) fn facts(&self, pod_ips: &[IpAddr]) -> Facts {
        let own: Vec<String> = pod_ips.iter().map(ToString::to_string).collect();
        Facts {
            pod_ips: if own.is_empty() { self.host.ips.clone() } else { own },
            host_ips: self.host.ips.clone(),
            allocatable: self.allocatable.clone(),
        }
    }

    /// Records an event about the pod, or about one of its containers.
    pub(crate) fn event(
        &self,
        pod: &Pod,
        container: Option<&str>,
        type_: EventType,
        reason: &str,
        message: &str,
    ) {
        let init = pod.spec.iter().flat_map(|it| it.init_containers.iter().flatten());
        let is_init = |name: &str| init.clone().any(|it| it.name == name);
        let field = container.map(|name| match is_init(name) {
            true => format!("spec.initContainers{{{name}}}"),
            false => format!("spec.containers{{{name}}}"),
        });
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            uid: pod.metadata.uid.clone(),
            resource_version: pod.metadata.resource_version.clone(),
            field_path: field,
        };
        self.recorder.record("kubelet", about, type_, reason, message);
    }

    /// Services that a new container of a pod in `namespace` gets variables for, as they are now: a container
    /// that is made after a service must know it. Without `links` that is only the API server's own.
    pub(crate) async fn services(&self, namespace: &str, links: bool) -> Result<Vec<Service>, kube::Error> {
        let api = |namespace: &str| Api::<Service>::namespaced(self.client.clone(), namespace);
        let mut services = match links {
            true => api(namespace).list(&ListParams::default()).await?.items,
            false => Vec::new(),
        };
        if !links || namespace != "default" {
            services.extend(api("default").get_opt("kubernetes").await?);
        }
        Ok(services)
    }

    /// The pods of this node as last seen, for the server.
    pub(crate) fn pods(&self) -> Vec<Arc<Pod>> {
        self.pods.lock().values().map(Mailbox::pod).collect()
    }

    pub(crate) fn find_pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        let is_it = |pod: &Arc<Pod>| {
            pod.metadata.namespace.as_deref() == Some(namespace) && pod.metadata.name.as_deref() == Some(name)
        };
        self.pods().into_iter().find(is_it)
    }

    async fn adopt_addresses(&self) -> anyhow::Result<()> {
        let sandboxes = self.runtime.list_sandboxes(&SandboxFilter::default()).await;
        for sandbox in sandboxes.context("cannot list the sandboxes that are there")? {
            let mut pool = self.pool.lock();
            sandbox.ips.iter().for_each(|ip| pool.adopt(&sandbox.uid, *ip));
        }
        Ok(())
    }

    async fn follow_runtime(self: Arc<Self>) {
        let mut events = self.runtime.events();
        loop {
            match events.recv().await {
                Ok(event) => {
                    if let Some(mailbox) = self.pods.lock().get(&event.pod_uid) {
                        mailbox.wake();
                    }
                }
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    self.pods.lock().values().for_each(Mailbox::wake)
                }
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }

    async fn follow_pods(self: Arc<Self>, seen: Seen) {
        let wanted = watcher::Config::default().fields(&format!("spec.nodeName={}", self.node_name));
        let mut stream =
            watcher(Api::<Pod>::all(self.client.clone()), wanted).modify(trim).default_backoff().boxed();
        let mut listed: BTreeSet<String> = BTreeSet::new();
        let mut first = true;
        let shutdown = self.tasks.shutdown().clone();
        while let Some(next) = shutdown.run_until_cancelled(stream.try_next()).await {
            let revision = next.as_ref().ok().and_then(|event| acted_on::revision_of(event.as_ref()?));
            match next {
                Ok(Some(watcher::Event::Apply(pod))) => self.accept(pod),
                Ok(Some(watcher::Event::Delete(pod))) => self.dismiss(&uid_of(&pod)),
                Ok(Some(watcher::Event::Init)) => listed.clear(),
                Ok(Some(watcher::Event::InitApply(pod))) => {
                    listed.insert(uid_of(&pod));
                    self.accept(pod);
                }
                Ok(Some(watcher::Event::InitDone)) => {
                    self.dismiss_all_but(&listed);
                    if std::mem::take(&mut first) {
                        self.remove_orphans(&listed).await;
                    }
                }
                Ok(None) => return,
                Err(error) => warn!(error = told(&error), "watching pods; trying again"),
            }
            seen.note(revision);
        }
    }

    fn accept(self: &Arc<Self>, pod: Pod) {
        let uid = uid_of(&pod);
        let mut pods = self.pods.lock();
        if let Some(mailbox) = pods.get(&uid).filter(|it| it.is_open()) {
            return mailbox.put(pod);
        }
        let refused = self.refusal(&pod, &pods);
        if let Some(refusal) = &refused {
            self.event(&pod, None, EventType::Warning, &refusal.reason, &refusal.message);
        }
        let (mailbox, view, wake) = Mailbox::new(pod, refused.is_none());
        pods.insert(uid.clone(), mailbox);
        let worker = Worker::new(self.clone(), view, wake, refused);
        let agent = self.clone();
        self.tasks.spawn_until_shutdown("pod", async move {
            worker.run().await;
            agent.pods.lock().remove(&uid);
        });
    }

    /// Why the node does not take `pod`. One that it took before stays, whatever came since.
    fn refusal(&self, pod: &Pod, here: &BTreeMap<String, Mailbox>) -> Option<Refusal> {
        let begun = pod.status.as_ref().is_some_and(|it| it.start_time.is_some());
        if begun || api_types::pods::is_terminal(pod) || api_types::pods::is_terminating(pod) {
            return None;
        }
        let others: Vec<Arc<Pod>> = here.values().filter(|it| it.admitted).map(Mailbox::pod).collect();
        let others: Vec<&Pod> = others.iter().map(AsRef::as_ref).collect();
        admit(pod, &others, &self.allocatable).err()
    }

    fn dismiss(&self, uid: &str) {
        if let Some(mailbox) = self.pods.lock().get(uid) {
            mailbox.gone();
        }
    }

    fn dismiss_all_but(&self, listed: &BTreeSet<String>) {
        let pods = self.pods.lock();
        pods.iter().filter(|(uid, _)| !listed.contains(*uid)).for_each(|(_, mailbox)| mailbox.gone());
    }

    /// Ends sandboxes of pods that were deleted while no agent ran.
    async fn remove_orphans(&self, wanted: &BTreeSet<String>) {
        let sandboxes = self.runtime.list_sandboxes(&SandboxFilter::default()).await.unwrap_or_default();
        for sandbox in sandboxes.into_iter().filter(|it| !wanted.contains(&it.uid)) {
            info!(pod = sandbox.name, namespace = sandbox.namespace, "removing a sandbox whose pod is gone");
            self.remove_pod(&sandbox.uid, &[sandbox.id]).await.unwrap_or_else(|error| warn!("{error:#}"));
        }
    }

    /// Removes sandboxes, volumes and address of a pod. Its logs go too: nobody can ask for them any more.
    pub(crate) async fn remove_pod(&self, uid: &str, sandboxes: &[String]) -> anyhow::Result<()> {
        for sandbox in sandboxes {
            self.runtime.stop_sandbox(sandbox).await?;
            self.runtime.remove_sandbox(sandbox).await?;
        }
        self.pool.lock().release(uid);
        if self.disk && !uid.is_empty() {
            let dir = self.pod_dir(uid);
            crate::volume::remove_all(&dir).with_context(|| format!("removing {}", dir.display()))?;
        }
        Ok(())
    }
}

/// Ends every pod of this node, whoever started it, and removes what it had.
async fn stop_all_pods(runtime: &dyn Runtime, folders: &Folders) {
    let sandboxes = runtime.list_sandboxes(&SandboxFilter::default()).await.unwrap_or_default();
    let stop = sandboxes.into_iter().map(|sandbox| async move {
        let filter = runtime::ContainerFilter { sandbox: Some(sandbox.id.clone()), ..Default::default() };
        let containers = runtime.list_containers(&filter).await.unwrap_or_default();
        let running = containers.iter().map(|it| runtime.stop_container(&it.id, STOP_GRACE));
        for ended in futures::future::join_all(running).await {
            ended.unwrap_or_else(|error| warn!("stopping a container: {error}"));
        }
        let removed = runtime.remove_sandbox(&sandbox.id).await;
        removed.unwrap_or_else(|error| warn!("removing a sandbox: {error}"));
        let dir = folders.pod(&sandbox.uid);
        if !sandbox.uid.is_empty() && dir.exists() {
            let removed = crate::volume::remove_all(&dir);
            removed.unwrap_or_else(|error| warn!("removing {}: {error}", dir.display()));
        }
    });
    futures::stream::iter(stop).buffer_unordered(32).collect::<Vec<()>>().await;
}

fn uid_of(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

pub(crate) type PodView = watch::Receiver<crate::pod::worker::View>;
pub(crate) type Wake = Arc<Notify>;
