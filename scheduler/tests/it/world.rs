//! An API server in this process with a scheduler, and ways to make objects and to wait for them.

use std::time::Duration;

use apiserver::{Running, UserInfo};
use component_base::Shutdown;
use component_base::client::ClientSource;
use component_base::clock::Clock;
use component_base::supervise::Tasks;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{
    Event, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ServiceAccount,
};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::wait::await_condition;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

/// No condition here takes longer, unless something is broken.
const LIMIT: Duration = Duration::from_secs(30);

pub(crate) struct World {
    server: Running,
    shutdown: Shutdown,
    client: Client,
    scheduler: Tasks,
}

impl World {
    /// An API server and a scheduler, no nodes.
    pub(crate) async fn start() -> Self {
        let shutdown = Shutdown::new();
        let server = apiserver::start(apiserver::Config::default(), shutdown.clone()).await.unwrap();
        let client = Client::new(server.loopback(UserInfo::admin()), "default");
        let mut world = Self { server, shutdown, client, scheduler: Tasks::new(Shutdown::new()) };
        world.prepare().await;
        world.start_scheduler();
        world
    }

    /// What other components would have made.
    async fn prepare(&self) {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        exists(
            namespaces
                .create(&PostParams::default(), &object(json!({"metadata": {"name": "default"}})))
                .await,
        );
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), "default");
        exists(
            accounts.create(&PostParams::default(), &object(json!({"metadata": {"name": "default"}}))).await,
        );
    }

    pub(crate) fn start_scheduler(&mut self) {
        self.scheduler = Tasks::new(Shutdown::new());
        let user = UserInfo::new("system:kube-scheduler", &["system:authenticated"]);
        let client = Client::new(self.server.loopback(user), "default");
        let config = scheduler::Config::new(ClientSource::Ready(client), Clock::system());
        let run = scheduler::run(config, self.scheduler.shutdown().clone());
        self.scheduler.spawn("scheduler", async move { run.await.unwrap() });
    }

    pub(crate) async fn stop_scheduler(&self) {
        self.scheduler.shutdown().cancel();
        self.scheduler.join().await;
    }

    pub(crate) async fn stop(self) {
        self.stop_scheduler().await;
        self.shutdown.cancel();
        self.server.stopped().await;
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    pub(crate) fn nodes(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }

    /// Makes a node that is ready, of 1 CPU and 1 GiB, in a zone.
    pub(crate) async fn node(&self, name: &str, zone: &str) {
        let amounts = json!({"cpu": "1", "memory": "1Gi", "pods": "110"});
        let status = json!({"allocatable": amounts, "capacity": amounts,
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]});
        let metadata = json!({"name": name, "labels": {"zone": zone}});
        let node: Node = object(json!({"metadata": metadata, "status": status}));
        self.nodes().create(&PostParams::default(), &node).await.unwrap();
        let status = Patch::Merge(json!({"status": status}));
        self.nodes().patch_status(name, &PatchParams::default(), &status).await.unwrap();
        // A node may be born with the taint of one that is not ready yet.
        let untainted = Patch::Merge(json!({"spec": {"taints": null}}));
        self.nodes().patch(name, &PatchParams::default(), &untainted).await.unwrap();
    }

    /// Makes a pod of half a CPU whose spec has `extra`, with the label `app=NAME's letters`.
    pub(crate) async fn pod(&self, name: &str, extra: Value) -> Pod {
        let app = name.split('-').next().unwrap();
        let mut spec =
            json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "500m"}}}]});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let pod = json!({"metadata": {"name": name, "labels": {"app": app}}, "spec": spec});
        self.pods().create(&PostParams::default(), &object(pod)).await.unwrap()
    }

    fn claims(&self) -> Api<PersistentVolumeClaim> {
        Api::namespaced(self.client.clone(), "default")
    }

    fn volumes(&self) -> Api<PersistentVolume> {
        Api::all(self.client.clone())
    }

    /// Makes a claim of this class.
    pub(crate) async fn claim(&self, name: &str, class: &str) {
        let spec = json!({"storageClassName": class, "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}});
        let claim = object(json!({"metadata": {"name": name}, "spec": spec}));
        self.claims().create(&PostParams::default(), &claim).await.unwrap();
    }

    /// Makes a free volume of this class for the nodes of a zone.
    pub(crate) async fn volume(&self, name: &str, class: &str, zone: &str) {
        let term = json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]});
        let spec = json!({"storageClassName": class, "accessModes": ["ReadWriteOnce"],
            "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/data"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}}});
        let volume = object(json!({"metadata": {"name": name}, "spec": spec}));
        self.volumes().create(&PostParams::default(), &volume).await.unwrap();
        let available = Patch::Merge(json!({"status": {"phase": "Available"}}));
        self.volumes().patch_status(name, &PatchParams::default(), &available).await.unwrap();
    }

    /// Makes a class that binds when a pod needs it.
    pub(crate) async fn storage_class(&self, name: &str, provisioner: &str) {
        let classes: Api<StorageClass> = Api::all(self.client.clone());
        let class = object(json!({"metadata": {"name": name}, "provisioner": provisioner,
            "volumeBindingMode": "WaitForFirstConsumer"}));
        classes.create(&PostParams::default(), &class).await.unwrap();
    }

    /// Binds a claim, as its controller does.
    pub(crate) async fn bind_claim(&self, name: &str, volume: &str) {
        let metadata = json!({"annotations": {"pv.kubernetes.io/bind-completed": "yes"}});
        let bound = Patch::Merge(json!({"metadata": metadata, "spec": {"volumeName": volume}}));
        self.claims().patch(name, &PatchParams::default(), &bound).await.unwrap();
    }

    /// Waits until a node is chosen for the claim, and says which.
    pub(crate) async fn selected_node(&self, claim: &str) -> String {
        let read = |claim: &PersistentVolumeClaim| {
            claim.annotations().get("volume.kubernetes.io/selected-node").cloned()
        };
        let chosen = |claim: Option<&PersistentVolumeClaim>| claim.and_then(read).is_some();
        let waited = tokio::time::timeout(LIMIT, await_condition(self.claims(), claim, chosen)).await;
        read(&waited.expect("no node was chosen in time").unwrap().unwrap()).unwrap()
    }

    /// Waits until the volume is given to a claim, and says to which.
    pub(crate) async fn given(&self, volume: &str) -> String {
        let read = |volume: &PersistentVolume| volume.spec.as_ref()?.claim_ref.as_ref()?.name.clone();
        let given = |volume: Option<&PersistentVolume>| volume.and_then(read).is_some();
        let waited = tokio::time::timeout(LIMIT, await_condition(self.volumes(), volume, given)).await;
        read(&waited.expect("the volume was given to nobody in time").unwrap().unwrap()).unwrap()
    }

    /// Waits until the pod is on a node, and says on which.
    pub(crate) async fn bound(&self, name: &str) -> String {
        let pod = self.until(name, "be bound", |pod| node_of(pod).is_some()).await;
        node_of(&pod).unwrap()
    }

    /// Waits until the pod's condition says why it is not scheduled; gives the message.
    pub(crate) async fn refused(&self, name: &str, message: &str) -> Pod {
        self.until(name, &format!("be refused with {message:?}"), |pod| {
            message_of(pod).is_some_and(|found| found.contains(message))
        })
        .await
    }

    async fn until(&self, name: &str, what: &str, holds: impl Fn(&Pod) -> bool) -> Pod {
        let condition = |pod: Option<&Pod>| pod.is_some_and(&holds);
        let waited = tokio::time::timeout(LIMIT, await_condition(self.pods(), name, condition)).await;
        match waited {
            Ok(found) => found.unwrap().unwrap(),
            Err(_) => {
                let pod = self.pods().get(name).await;
                panic!("pod {name} did not {what} in time; it is {pod:#?}");
            }
        }
    }

    /// Waits for the event of this reason about the pod.
    pub(crate) async fn event(&self, pod: &str, reason: &str) -> Event {
        let events: Api<Event> = Api::namespaced(self.client.clone(), "default");
        let mut stream = watcher(events, watcher::Config::default()).applied_objects().boxed();
        let found = async {
            loop {
                let event = stream.next().await.unwrap().unwrap();
                if is_about(&event, pod, reason) {
                    return event;
                }
            }
        };
        tokio::time::timeout(LIMIT, found).await.unwrap_or_else(|_| panic!("no event {reason} about {pod}"))
    }

    /// How many times the event was noted so far.
    pub(crate) async fn event_count(&self, pod: &str, reason: &str) -> i32 {
        let events: Api<Event> = Api::namespaced(self.client.clone(), "default");
        let all = events.list(&Default::default()).await.unwrap();
        all.iter().filter(|event| is_about(event, pod, reason)).map(|event| event.count.unwrap_or(1)).sum()
    }
}

fn is_about(event: &Event, pod: &str, reason: &str) -> bool {
    event.involved_object.name.as_deref() == Some(pod) && event.reason.as_deref() == Some(reason)
}

fn exists<T>(result: kube::Result<T>) {
    match result {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => panic!("{error}"),
    }
}

fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

pub(crate) fn node_of(pod: &Pod) -> Option<String> {
    pod.spec.as_ref()?.node_name.clone().filter(|name| !name.is_empty())
}

pub(crate) fn message_of(pod: &Pod) -> Option<String> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions.iter().find(|c| c.type_ == "PodScheduled" && c.status == "False")?;
    condition.message.clone()
}

pub(crate) fn version_of(pod: &Pod) -> String {
    pod.resource_version().unwrap()
}
