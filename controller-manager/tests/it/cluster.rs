//! A cluster for one test: an API server in memory, a controller manager, and no nodes; the test is the kubelet.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use component_base::Shutdown;
use component_base::client::ClientSource;
use component_base::clock::Clock;
use component_base::logs;
use controller_manager::{Authority, Config, TokenSigner};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// A test waits this long for a condition before it dumps what there is.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Cluster {
    pub client: Client,
    shutdown: Shutdown,
    server: Option<apiserver::Running>,
    manager: Option<Manager>,
}

/// A controller manager that runs.
pub(crate) struct Manager {
    shutdown: Shutdown,
    crash: Shutdown,
    ended: std::thread::JoinHandle<()>,
}

impl Manager {
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.join().await;
    }

    /// Ends it where it stands: everything it does is dropped at the next point where it waits.
    pub(crate) async fn kill(self) {
        self.crash.cancel();
        self.join().await;
    }

    async fn join(self) {
        // The server runs on this thread and must go on answering meanwhile.
        tokio::task::spawn_blocking(|| self.ended.join().unwrap()).await.unwrap();
    }
}

impl Cluster {
    /// A server and a controller manager with all controllers.
    pub(crate) async fn start() -> Self {
        let mut cluster = Self::without_manager().await;
        cluster.start_manager();
        cluster
    }

    pub(crate) async fn without_manager() -> Self {
        logs::init(&logs::Level::default(), logs::Format::Text);
        let shutdown = Shutdown::new();
        let server = apiserver::start(apiserver::Config::default(), shutdown.child_token()).await.unwrap();
        let client = Client::new(server.loopback(apiserver::UserInfo::admin()), "default");
        Self { client, shutdown, server: Some(server), manager: None }
    }

    pub(crate) fn config(&self) -> Config {
        let pki = self.server.as_ref().unwrap().credentials();
        let (authority, key) = (pki.authority(), pki.signing_key_pem());
        let year = Duration::from_secs(365 * 86_400);
        let authority = Authority::new(&authority.certificate_pem, &authority.key_pem, year).unwrap();
        Config {
            root_ca: Some("the certificate".to_owned()),
            signing: Some(Arc::new(authority)),
            token_signer: Some(Arc::new(TokenSigner::new(&key).unwrap())),
            ..Config::new(ClientSource::Ready(self.client.clone()), Clock::system())
        }
    }

    /// Starts the controller manager of this cluster.
    pub(crate) fn start_manager(&mut self) {
        self.manager = Some(self.run_manager(self.config()));
    }

    /// Starts a controller manager as a process would: on a runtime of its own.
    pub(crate) fn run_manager(&self, config: Config) -> Manager {
        let (shutdown, crash) = (Shutdown::new(), Shutdown::new());
        let (stop, killed) = (shutdown.clone(), crash.clone());
        let ended = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let run = killed.run_until_cancelled(controller_manager::run(config, stop));
            runtime.block_on(run).transpose().unwrap();
            runtime.shutdown_background();
        });
        Manager { shutdown, crash, ended }
    }

    /// Takes `manager` as this cluster's own.
    pub(crate) fn keep(&mut self, manager: Manager) {
        self.manager = Some(manager);
    }

    /// Stops the controller manager and waits until it has.
    pub(crate) async fn stop_manager(&mut self) {
        if let Some(manager) = self.manager.take() {
            manager.stop().await;
        }
    }

    /// Stops everything.
    pub(crate) async fn stop(mut self) {
        self.stop_manager().await;
        self.shutdown.cancel();
        if let Some(server) = self.server.take() {
            server.stopped().await;
        }
    }

    pub(crate) fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    pub(crate) async fn create<K>(&self, object: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + Serialize
            + DeserializeOwned,
    {
        let object: K = serde_json::from_value(object).unwrap();
        let namespace = object.meta().namespace.clone().unwrap_or_else(|| "default".to_owned());
        self.api(&namespace).create(&PostParams::default(), &object).await.unwrap()
    }

    pub(crate) async fn patch<K>(&self, name: &str, patch: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        self.api("default").patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap()
    }

    pub(crate) async fn create_namespace(&self, name: &str) {
        let api: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(self.client.clone());
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        let namespace = k8s_openapi::api::core::v1::Namespace { metadata, ..Default::default() };
        api.create(&PostParams::default(), &namespace).await.unwrap();
    }

    pub(crate) async fn list<K>(&self, labels: &str) -> Vec<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        self.api("default").list(&ListParams::default().labels(labels)).await.unwrap().items
    }

    /// The pods in `default` that are neither finished nor going.
    pub(crate) async fn active_pods(&self, labels: &str) -> Vec<Pod> {
        let mut pods: Vec<Pod> = self.list(labels).await;
        pods.retain(api_types::pods::is_active);
        pods
    }

    /// Plays the kubelet for one moment: running pods become ready, going ones go.
    pub(crate) async fn run_pods(&self) {
        self.run_pods_but(&[]).await;
    }

    /// The same, but the pods of these names never get ready.
    pub(crate) async fn run_pods_but(&self, broken: &[&str]) {
        let pods: Vec<Pod> = self.list("").await;
        for pod in pods {
            let name = pod.metadata.name.clone().unwrap();
            let runs = !api_types::pods::is_terminal(&pod) && !broken.contains(&name.as_str());
            if pod.metadata.deletion_timestamp.is_some() {
                self.finish_deletion(&name).await;
            } else if runs && !api_types::pods::is_ready(&pod) {
                self.set_status(
                    &name,
                    json!({"phase": "Running", "podIP": "10.0.0.1", "conditions": [ready()]}),
                )
                .await;
            }
        }
    }

    pub(crate) async fn finish_deletion(&self, name: &str) {
        let now = kube::api::DeleteParams { grace_period_seconds: Some(0), ..Default::default() };
        ignore_absent(self.api::<Pod>("default").delete(name, &now).await.map(drop));
    }

    pub(crate) async fn set_status(&self, name: &str, status: Value) {
        let patch = Patch::Merge(json!({"status": status}));
        ignore_absent(
            self.api::<Pod>("default").patch_status(name, &PatchParams::default(), &patch).await.map(drop),
        );
    }

    /// Waits until there are Events about the object `Kind/name` for each of these reasons.
    pub(crate) async fn until_events(&self, about: &str, reasons: &[&str]) {
        let (kind, name) = about.split_once('/').unwrap();
        let told = || async {
            let events: Vec<Event> = self.list("").await;
            let found: Vec<String> = events
                .into_iter()
                .filter(|event| event.involved_object.kind.as_deref() == Some(kind))
                .filter(|event| event.involved_object.name.as_deref() == Some(name))
                .filter_map(|event| event.reason)
                .collect();
            reasons.iter().all(|reason| found.iter().any(|one| one == reason)).then_some(())
        };
        self.until_idle(&format!("events {reasons:?} about {about}"), told).await;
    }

    /// Waits until `look` gives something, playing the kubelet meanwhile; dumps the objects when it takes too long.
    pub(crate) async fn until<T, F>(&self, what: &str, look: impl Fn() -> F) -> T
    where
        F: Future<Output = Option<T>>,
    {
        self.wait(what, true, look).await
    }

    /// The same without a kubelet.
    pub(crate) async fn until_idle<T, F>(&self, what: &str, look: impl Fn() -> F) -> T
    where
        F: Future<Output = Option<T>>,
    {
        self.wait(what, false, look).await
    }

    async fn wait<T, F>(&self, what: &str, kubelet: bool, look: impl Fn() -> F) -> T
    where
        F: Future<Output = Option<T>>,
    {
        let looking = async {
            let mut pace = tokio::time::interval(Duration::from_millis(20));
            loop {
                if let Some(found) = look().await {
                    return found;
                }
                if kubelet {
                    self.run_pods().await;
                }
                pace.tick().await;
            }
        };
        match tokio::time::timeout(PATIENCE, looking).await {
            Ok(found) => found,
            Err(_) => panic!("waited in vain for: {what}\n{}", self.dump().await),
        }
    }

    async fn dump(&self) -> String {
        let mut text = String::new();
        let paths = [
            "/apis/apps/v1/deployments",
            "/apis/apps/v1/replicasets",
            "/apis/apps/v1/statefulsets",
            "/apis/apps/v1/daemonsets",
            "/apis/batch/v1/jobs",
            "/api/v1/namespaces",
            "/api/v1/pods",
            "/api/v1/events",
        ];
        for path in paths {
            let request = http::Request::get(path).body(Vec::new()).unwrap();
            let list: Value = self.client.request(request).await.unwrap();
            for item in list["items"].as_array().into_iter().flatten() {
                let meta = &item["metadata"];
                let (spec, status) = (&item["spec"]["replicas"], &item["status"]);
                let line = format!(
                    "{path} {} {} {} {} {status} {}\n",
                    meta["namespace"], meta["name"], meta["finalizers"], spec, item["message"]
                );
                text.push_str(&line.chars().take(900).collect::<String>());
                if !text.ends_with('\n') {
                    text.push('\n');
                }
            }
        }
        text
    }
}

fn ready() -> Value {
    json!({"type": "Ready", "status": "True", "lastTransitionTime": "2024-01-01T00:00:00Z"})
}

fn ignore_absent(result: Result<(), kube::Error>) {
    match result {
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
        result => result.unwrap(),
    }
}

/// A pod template with these labels and this image.
pub(crate) fn template(app: &str, image: &str) -> Value {
    json!({
        "metadata": {"labels": {"app": app}},
        "spec": {"containers": [{"name": "c", "image": image}]},
    })
}
