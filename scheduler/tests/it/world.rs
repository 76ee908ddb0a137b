//! An API server in this process with a scheduler, and ways to make objects and to wait for them.

use std::time::Duration;

use apiserver::{Running, UserInfo};
use component_base::Shutdown;
use component_base::client::ClientSource;
use component_base::clock::Clock;
use component_base::supervise::Tasks;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Event, Namespace, Node, Pod, ServiceAccount};
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
