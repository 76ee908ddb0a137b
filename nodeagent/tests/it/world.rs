//! What every test here stands on: an API server on a local port, and one agent that can be restarted.

use std::time::Duration;

use apiserver::{Running, UserInfo};
use component_base::Shutdown;
use component_base::client::ClientSource;
use component_base::clock::Clock;
use component_base::supervise::Tasks;
use k8s_openapi::api::core::v1::{ContainerStatus, Event, Pod};
use kube::api::{ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};
use nodeagent::{Pem, Serving};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);
const LOOK_PERIOD: Duration = Duration::from_millis(20);

pub(crate) struct World {
    /// The administrator, over the socket: streams need a real connection.
    pub(crate) client: Client,
    server: Running,
    server_shutdown: Shutdown,
    agent: Tasks,
}

impl World {
    pub(crate) async fn start() -> Self {
        component_base::client::install_crypto_provider();
        let server_shutdown = Shutdown::new();
        let config = apiserver::Config::listening_locally(0);
        let server = apiserver::start(config, server_shutdown.clone()).await.unwrap();
        let client = admin(&server).await;
        let agent = Tasks::new(Shutdown::new());
        let mut world = Self { client, server, server_shutdown, agent };
        world.start_agent();
        world
    }

    fn start_agent(&mut self) {
        self.agent = Tasks::new(Shutdown::new());
        let user = UserInfo::new("system:node:node-1", &["system:nodes", "system:authenticated"]);
        let client = Client::new(self.server.loopback(user), "default");
        let mut config = nodeagent::Config::new("node-1", ClientSource::Ready(client), Clock::system());
        config.pod_cidr = Some("10.9.0.0/24".to_owned());
        let pki = self.server.credentials();
        let hosts = ["127.0.0.1".to_owned()];
        let made = pki.issue_serving("system:node:node-1", &["system:nodes"], &hosts).unwrap();
        let (certificate, key) = (Pem::Text(made.certificate_pem), Pem::Text(made.key_pem));
        config.tls = Some(Serving { certificate, key });
        config.client_ca = Some(Pem::Text(pki.ca_pem().to_owned()));
        let run = nodeagent::run(config, self.agent.shutdown().clone());
        self.agent.spawn("agent", async move { run.await.unwrap() });
    }

    /// The administrator's, for programs beside the test.
    pub(crate) fn kubeconfig(&self) -> String {
        let url = self.server.url().expect("the server listens");
        self.server.credentials().kubeconfig("test", &url, "kubernetes-admin", &["system:masters"]).unwrap()
    }

    pub(crate) async fn stop_agent(&self) {
        self.agent.shutdown().cancel();
        tokio::time::timeout(LIMIT, self.agent.join()).await.expect("the agent stops in time");
    }

    pub(crate) async fn restart_agent(&mut self) {
        self.stop_agent().await;
        self.start_agent();
    }

    pub(crate) async fn stop(self) {
        self.stop_agent().await;
        self.server_shutdown.cancel();
        tokio::time::timeout(LIMIT, self.server.stopped()).await.expect("the API server stops in time");
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    /// Makes a pod that is bound to the node already.
    pub(crate) async fn create(&self, name: &str, annotations: Value, mut spec: Value) {
        spec["nodeName"] = json!("node-1");
        spec["automountServiceAccountToken"] = json!(false);
        let meta = json!({"name": name, "annotations": annotations});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let create = async {
            // The service account that admission asks for is made by a controller, which is not here.
            self.ensure_service_account().await;
            self.pods().create(&PostParams::default(), &pod).await.unwrap();
        };
        tokio::time::timeout(LIMIT, create).await.expect("the pod can be made");
    }

    async fn ensure_service_account(&self) {
        let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> =
            Api::namespaced(self.client.clone(), "default");
        if accounts.get_opt("default").await.unwrap().is_none() {
            let account = serde_json::from_value(json!({"metadata": {"name": "default"}})).unwrap();
            accounts.create(&PostParams::default(), &account).await.unwrap();
        }
    }

    pub(crate) async fn wait(&self, name: &str, what: &str, found: impl Fn(&Pod) -> Option<()>) -> Pod {
        self.wait_for(&self.pods(), name, what, found).await
    }

    /// Looks until `found` finds something; shows the object if it never does.
    pub(crate) async fn wait_for<K, T>(
        &self,
        api: &Api<K>,
        name: &str,
        what: &str,
        found: impl Fn(&K) -> Option<T>,
    ) -> K
    where
        K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
    {
        let mut last = None;
        let look = async {
            loop {
                last = api.get_opt(name).await.unwrap();
                if let Some(object) = last.as_ref().filter(|it| found(it).is_some()) {
                    return object.clone();
                }
                tokio::time::sleep(LOOK_PERIOD).await;
            }
        };
        match tokio::time::timeout(LIMIT, look).await {
            Ok(object) => object,
            Err(_) => panic!("{name} is not {what}; its last state: {last:#?}"),
        }
    }

    pub(crate) async fn wait_gone(&self, name: &str) {
        let pods = self.pods();
        let look = async {
            while pods.get_opt(name).await.unwrap().is_some() {
                tokio::time::sleep(LOOK_PERIOD).await;
            }
        };
        if tokio::time::timeout(LIMIT, look).await.is_err() {
            panic!("{name} does not go: {:#?}", pods.get_opt(name).await);
        }
    }

    /// Reasons of the events about a pod, once those in `until` are among them.
    pub(crate) async fn event_reasons(&self, name: &str, until: &[&str]) -> Vec<String> {
        let events: Api<Event> = Api::namespaced(self.client.clone(), "default");
        let mut reasons: Vec<String> = Vec::new();
        let look = async {
            while !until.iter().all(|wanted| reasons.iter().any(|it| it == wanted)) {
                let all = events.list(&ListParams::default()).await.unwrap().items;
                let about = all.into_iter().filter(|it| it.involved_object.name.as_deref() == Some(name));
                reasons = about.filter_map(|it| it.reason).collect();
                tokio::time::sleep(LOOK_PERIOD).await;
            }
        };
        let in_time = tokio::time::timeout(LIMIT, look).await.is_ok();
        assert!(in_time, "no events {until:?} about {name}: {reasons:?}");
        reasons
    }
}

async fn admin(server: &Running) -> Client {
    let url = server.url().expect("the server listens");
    let made =
        server.credentials().kubeconfig("test", &url, "kubernetes-admin", &["system:masters"]).unwrap();
    let file = Kubeconfig::from_yaml(&made).unwrap();
    let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

pub(crate) fn condition(pod: &Pod, type_: &str) -> Option<()> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|it| it.type_ == type_ && it.status == "True").map(|_| ())
}

pub(crate) fn phase(pod: &Pod, wanted: &str) -> Option<()> {
    (pod.status.as_ref()?.phase.as_deref() == Some(wanted)).then_some(())
}

pub(crate) fn container(pod: &Pod, name: &str) -> Option<ContainerStatus> {
    pod.status.as_ref()?.container_statuses.as_ref()?.iter().find(|it| it.name == name).cloned()
}
