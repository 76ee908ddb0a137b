//! The doing of single steps. Each runs beside the worker's loop and tells it how it ended.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use component_base::Shutdown;
use component_base::client::said;
use component_base::events::EventType::{Normal, Warning};
use k8s_openapi::api::core::v1::{Container as ContainerSpec, Pod, Secret};
use kube::Api;
use tokio::time::Instant;

use super::{delete_object, find_spec};
use crate::agent::Agent;
use crate::env::{self, Sources};
use crate::network;
use crate::pod::containers::{self, Prepared};
use crate::pod::observed::ImageState;
use crate::pod::plan::{Step, Why};
use crate::pod::sub_path;
use crate::probe::ask;
use crate::runtime::{Image, Mount, NetworkMode, Propagation, RegistryAuth, RuntimeError};
use crate::volume;

/// A reason for `state.waiting`, and its message. An empty reason: given up because the pod ends.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) reason: String,
    pub(super) message: String,
}

impl Problem {
    fn new(reason: &str, message: impl ToString) -> Self {
        Self { reason: reason.to_owned(), message: message.to_string() }
    }
}

/// How a step ended.
pub(super) enum Outcome {
    Volumes(Result<BTreeMap<String, PathBuf>, String>),
    Sandbox(Result<(), String>),
    Pulled(Result<String, Problem>),
    Started(Result<(), Problem>),
    TornDown(Result<(), String>),
    Deleted(Result<(), String>),
    Done(Result<(), String>),
}

/// What a step needs of the worker's knowledge at the time it was planned.
pub(super) struct Task {
    pub(super) agent: Arc<Agent>,
    pub(super) pod: Arc<Pod>,
    pub(super) sandbox_ips: Vec<IpAddr>,
    pub(super) sandboxes: Vec<String>,
    pub(super) volumes: BTreeMap<String, PathBuf>,
    pub(super) images: BTreeMap<String, ImageState>,
    pub(super) pulls: Shutdown,
}

impl Task {
    pub(super) async fn perform(self, step: Step) -> Outcome {
        let runtime = &self.agent.runtime;
        let text = |result: crate::runtime::Result<()>| Outcome::Done(result.map_err(|it| it.to_string()));
        match step {
            Step::MountVolumes => Outcome::Volumes(self.mount().await),
            Step::RunSandbox { attempt } => Outcome::Sandbox(self.run_sandbox(attempt).await),
            Step::Pull { container } => Outcome::Pulled(self.pull(&container).await),
            Step::Start { container, attempt, sandbox, replaces } => {
                let started = self.start(&container, attempt, &sandbox, replaces).await;
                if let Err(problem) = &started {
                    let message = format!("Error: {}", problem.message);
                    self.event(Some(&container), Warning, "Failed", &message);
                }
                Outcome::Started(started)
            }
            Step::Kill { id, container, grace, why } => text(self.kill(&id, &container, grace, &why).await),
            Step::StopSandbox { id } => {
                let stopped = runtime.stop_sandbox(&id).await;
                self.agent.pool.lock().release(self.uid());
                text(stopped)
            }
            Step::RemoveSandbox { id } => text(runtime.remove_sandbox(&id).await),
            Step::RemoveContainer { id } => text(runtime.remove_container(&id).await),
            Step::Teardown => {
                let removed = self.agent.remove_pod(self.uid(), &self.sandboxes).await;
                self.remove_logs();
                Outcome::TornDown(removed.map_err(|it| format!("{it:#}")))
            }
            Step::Delete => {
                Outcome::Deleted(delete_object(&self.agent, &self.pod).await.map_err(|it| it.to_string()))
            }
        }
    }

    fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    fn event(
        &self,
        container: Option<&str>,
        type_: component_base::events::EventType,
        reason: &str,
        text: &str,
    ) {
        self.agent.event(&self.pod, container, type_, reason, text);
    }

    fn remove_logs(&self) {
        if self.agent.disk
            && let Err(error) = std::fs::remove_dir_all(self.agent.folders.logs(&self.pod))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(pod = self.pod.metadata.name, %error, "removing a pod's logs");
        }
    }

    async fn mount(&self) -> Result<BTreeMap<String, PathBuf>, String> {
        let facts = self.agent.facts(&self.sandbox_ips);
        let context = volume::Context {
            client: &self.agent.client,
            clock: self.agent.clock,
            pod: &self.pod,
            facts: &facts,
            pod_dir: &self.agent.pod_dir(self.uid()),
            disk: self.agent.disk,
        };
        volume::mount_all(&context).await.map_err(|error| error.to_string())
    }

    async fn run_sandbox(&self, attempt: u32) -> Result<(), String> {
        let agent = &self.agent;
        let on_host = self.pod.spec.as_ref().and_then(|it| it.host_network) == Some(true);
        let network = if on_host {
            NetworkMode::Host
        } else {
            let taken = agent.pool.lock().take(self.uid());
            NetworkMode::Pod(taken.ok_or("the node has no free pod address")?)
        };
        let dns = network::dns_of(&self.pod, &agent.dns);
        let config = containers::sandbox_config(&self.pod, attempt, &agent.folders, network, dns);
        if agent.disk {
            let dir = &config.log_dir;
            std::fs::create_dir_all(dir).map_err(|error| format!("making {}: {error}", dir.display()))?;
        }
        match agent.runtime.run_sandbox(&config).await {
            Ok(_) => Ok(()),
            Err(error) => {
                agent.pool.lock().release(self.uid());
                Err(format!("Failed to create pod sandbox: {error}"))
            }
        }
    }

    async fn pull(&self, name: &str) -> Result<String, Problem> {
        let Some(spec) = find_spec(&self.pod, name) else {
            return Err(Problem::new("", "no such container"));
        };
        let image = spec.image.clone().unwrap_or_default();
        let policy = spec.image_pull_policy.clone().unwrap_or_else(|| default_policy(&image).to_owned());
        let runtime = &self.agent.runtime;
        let present = match policy.as_str() {
            "Always" => None,
            _ => {
                runtime.image_status(&image).await.map_err(|error| self.pull_failed(name, &image, &error))?
            }
        };
        match (present, policy.as_str()) {
            (Some(_), _) => {
                let text = format!("Container image {image:?} already present on machine");
                self.event(Some(name), Normal, "Pulled", &text);
                Ok(image)
            }
            (None, "Never") => {
                let text = format!("Container image {image:?} is not present with pull policy of Never");
                self.event(Some(name), Warning, "ErrImageNeverPull", &text);
                Err(Problem::new("ErrImageNeverPull", text))
            }
            (None, _) => {
                self.event(Some(name), Normal, "Pulling", &format!("Pulling image {image:?}"));
                let began = Instant::now();
                let pulled = self.pulls.run_until_cancelled(self.fetch(&image)).await;
                let pulled = pulled.ok_or_else(|| Problem::new("", "the pod ends"))?;
                let found = pulled.map_err(|error| self.pull_failed(name, &image, &error))?;
                let took = began.elapsed().as_millis();
                let size = found.size_bytes;
                let text =
                    format!("Successfully pulled image {image:?} in {took}ms. Image size: {size} bytes.");
                self.event(Some(name), Normal, "Pulled", &text);
                Ok(image)
            }
        }
    }

    async fn fetch(&self, image: &str) -> Result<Image, RuntimeError> {
        let failed =
            |message: String| RuntimeError::Failed { doing: "waiting for other pulls".to_owned(), message };
        let _turn = self.agent.pulls.acquire().await.map_err(|error| failed(error.to_string()))?;
        let auth = self.registry_auth(image).await;
        self.agent.runtime.pull_image(image, auth.as_ref()).await
    }

    fn pull_failed(&self, name: &str, image: &str, error: &RuntimeError) -> Problem {
        let reason = match error {
            RuntimeError::InvalidImageName { .. } => "InvalidImageName",
            _ => "ErrImagePull",
        };
        self.event(Some(name), Warning, "Failed", &format!("Failed to pull image {image:?}: {error}"));
        self.event(Some(name), Warning, "Failed", &format!("Error: {reason}"));
        self.event(Some(name), Normal, "BackOff", &format!("Back-off pulling image {image:?}"));
        Problem::new(reason, error)
    }

    /// The first of the pod's pull secrets that knows the image's registry.
    async fn registry_auth(&self, image: &str) -> Option<RegistryAuth> {
        let names = self.pod.spec.as_ref()?.image_pull_secrets.clone().unwrap_or_default();
        let api: Api<Secret> = Api::namespaced(self.agent.client.clone(), self.namespace());
        for name in names {
            match api.get_opt(&name.name).await {
                Ok(Some(secret)) => match auth_in(&secret, image) {
                    Some(auth) => return Some(auth),
                    None => continue,
                },
                Ok(None) => {
                    let text = format!("Unable to retrieve some image pull secrets ({}).", name.name);
                    self.event(None, Warning, "FailedToRetrieveImagePullSecret", &text);
                }
                Err(error) => {
                    tracing::warn!(error = said(&error), secret = name.name, "reading an image pull secret")
                }
            }
        }
        None
    }

    async fn start(
        &self,
        name: &str,
        attempt: u32,
        sandbox: &str,
        replaces: Option<String>,
    ) -> Result<(), Problem> {
        let runtime = &self.agent.runtime;
        if let Some(old) = replaces {
            runtime.remove_container(&old).await.map_err(|it| Problem::new("CreateContainerError", it))?;
        }
        let spec = find_spec(&self.pod, name).ok_or_else(|| Problem::new("", "no such container"))?;
        let Some(ImageState::Present(image)) = self.images.get(name) else {
            return Err(Problem::new("CreateContainerError", "the image is not there"));
        };
        let config = self.configure(spec, attempt, image).await?;
        let id = runtime.create_container(sandbox, &config).await;
        let id = id.map_err(|error| Problem::new("CreateContainerError", error))?;
        self.event(Some(name), Normal, "Created", &format!("Created container: {name}"));
        if let Err(error) = runtime.start_container(&id).await {
            // The next attempt begins anew; a leftover would only be in its way.
            if let Err(error) = runtime.remove_container(&id).await {
                tracing::warn!(%error, "removing a container that did not start");
            }
            return Err(Problem::new("RunContainerError", error));
        }
        self.event(Some(name), Normal, "Started", &format!("Started container {name}"));
        self.post_start(spec, &id).await
    }

    async fn configure(
        &self,
        spec: &ContainerSpec,
        attempt: u32,
        image: &str,
    ) -> Result<crate::runtime::ContainerConfig, Problem> {
        let wrong = |error: String| Problem::new("CreateContainerConfigError", error);
        let mut sources = Sources::read(&self.agent.client, self.namespace(), spec)
            .await
            .map_err(|error| wrong(error.to_string()))?;
        if self.agent.disk {
            let links = self.pod.spec.as_ref().and_then(|it| it.enable_service_links) != Some(false);
            let services = self.agent.services(self.namespace(), links).await;
            sources.services = services.map_err(|error| wrong(error.to_string()))?;
        }
        let facts = self.agent.facts(&self.sandbox_ips);
        let env =
            env::resolve(&self.pod, spec, &facts, &sources).map_err(|error| wrong(error.to_string()))?;
        let present = self.agent.runtime.image_status(image).await;
        let image_user = present.ok().flatten().map(|it| it.user).unwrap_or_default();
        let prepared = Prepared {
            attempt,
            image,
            image_user: &image_user,
            env,
            volumes: &self.volumes,
            extra_mounts: self.own_files(spec, attempt).map_err(|error| wrong(error.to_string()))?,
            node_memory: self.agent.node_memory(),
        };
        let own_files = prepared.extra_mounts.len();
        let config = containers::container_config(&self.pod, spec, prepared);
        let mut config = config.map_err(|error| wrong(error.to_string()))?;
        if self.agent.disk {
            sub_path::prepare(&mut config.mounts[own_files..], spec, |name| self.volumes.get(name))
                .map_err(|error| wrong(error.to_string()))?;
        }
        Ok(config)
    }

    /// `/etc/hosts` of the pod and the file for the container's termination message.
    fn own_files(&self, spec: &ContainerSpec, attempt: u32) -> std::io::Result<Vec<Mount>> {
        if !self.agent.disk {
            return Ok(Vec::new());
        }
        let mount = |host_path: PathBuf, container_path: &str| Mount {
            host_path,
            container_path: PathBuf::from(container_path),
            read_only: false,
            propagation: Propagation::Private,
        };
        let mut mounts = Vec::new();
        let taken = spec.volume_mounts.iter().flatten().any(|it| it.mount_path == "/etc/hosts");
        let dir = self.agent.pod_dir(self.uid());
        std::fs::create_dir_all(&dir)?;
        if !taken {
            let path = dir.join("etc-hosts");
            std::fs::write(&path, self.etc_hosts()?)?;
            mounts.push(mount(path, "/etc/hosts"));
        }
        let path = self.agent.folders.termination_log(self.uid(), &spec.name, attempt);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&path, b"")?;
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
        let inside = spec.termination_message_path.as_deref().filter(|it| !it.is_empty());
        mounts.push(mount(path, inside.unwrap_or("/dev/termination-log")));
        Ok(mounts)
    }

    fn etc_hosts(&self) -> std::io::Result<String> {
        let on_host = self.pod.spec.as_ref().and_then(|it| it.host_network) == Some(true);
        if on_host {
            let node = std::fs::read_to_string("/etc/hosts")?;
            return Ok(network::etc_hosts_on_node(&self.pod, &node));
        }
        Ok(network::etc_hosts(&self.pod, &self.sandbox_ips, &self.agent.dns.domain))
    }

    fn target<'a>(&'a self, spec: &'a ContainerSpec, id: &'a str) -> ask::Target<'a> {
        let ip = self.sandbox_ips.first().copied().or_else(|| self.agent.host_ip());
        ask::Target { runtime: self.agent.runtime.as_ref(), container_id: id, spec, ip }
    }

    async fn post_start(&self, spec: &ContainerSpec, id: &str) -> Result<(), Problem> {
        let Some(hook) = spec.lifecycle.as_ref().and_then(|it| it.post_start.as_ref()) else { return Ok(()) };
        let Err(text) = ask::hook(&self.target(spec, id), hook, Duration::from_secs(600)).await else {
            return Ok(());
        };
        self.event(
            Some(&spec.name),
            Warning,
            "FailedPostStartHook",
            &format!("PostStartHook failed: {text}"),
        );
        let killed = self.agent.runtime.stop_container(id, Duration::from_secs(2)).await;
        killed.map_err(|error| Problem::new("PostStartHookError", error))
    }

    async fn kill(&self, id: &str, name: &str, grace: Duration, why: &Why) -> Result<(), RuntimeError> {
        let message = match why {
            Why::Stopping => format!("Stopping container {name}"),
            Why::Probe(text) => text.clone(),
        };
        self.event(Some(name), Normal, "Killing", &message);
        let began = Instant::now();
        let spec = find_spec(&self.pod, name);
        let hook = spec.and_then(|it| it.lifecycle.as_ref()?.pre_stop.as_ref());
        if let (Some(hook), Some(spec)) = (hook, spec) {
            let asked = tokio::time::timeout(grace, ask::hook(&self.target(spec, id), hook, grace)).await;
            let failure = match asked {
                Ok(Ok(())) => None,
                Ok(Err(text)) => Some(text),
                Err(_) => Some("it took longer than the grace period".to_owned()),
            };
            if let Some(text) = failure {
                self.event(Some(name), Warning, "FailedPreStopHook", &format!("PreStopHook failed: {text}"));
            }
        }
        // The hook's time counts, but two seconds are left for the signal, as in Kubernetes.
        let left = grace.saturating_sub(began.elapsed()).max(grace.min(Duration::from_secs(2)));
        self.agent.runtime.stop_container(id, left).await
    }
}

/// `Always` for what has no tag or the tag `latest`.
fn default_policy(image: &str) -> &'static str {
    let name = image.rsplit('/').next().unwrap_or(image);
    match (name.contains('@'), name.split_once(':')) {
        (true, _) => "IfNotPresent",
        (false, None | Some((_, "latest"))) => "Always",
        (false, Some(_)) => "IfNotPresent",
    }
}

/// The registry of an image reference, `docker.io` if it names none.
fn registry_of(image: &str) -> &str {
    match image.split_once('/') {
        Some((first, _)) if first.contains('.') || first.contains(':') || first == "localhost" => first,
        _ => "docker.io",
    }
}

fn auth_in(secret: &Secret, image: &str) -> Option<RegistryAuth> {
    use base64::Engine;
    let bytes = &secret.data.as_ref()?.get(".dockerconfigjson")?.0;
    let config: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    let registry = registry_of(image);
    let host = |key: &str| {
        let bare = key.trim_start_matches("https://").trim_start_matches("http://");
        bare.split('/').next().unwrap_or(bare).replace("index.docker.io", "docker.io")
    };
    let (_, entry) = config.get("auths")?.as_object()?.iter().find(|(key, _)| host(key) == registry)?;
    let text = |field: &str| entry.get(field).and_then(serde_json::Value::as_str).map(str::to_owned);
    if let (Some(username), Some(password)) = (text("username"), text("password")) {
        return Some(RegistryAuth { username, password });
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(text("auth")?).ok()?;
    let decoded = String::from_utf8(decoded).ok()?;
    let (username, password) = decoded.split_once(':')?;
    Some(RegistryAuth { username: username.to_owned(), password: password.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_without_a_fixed_tag_are_always_pulled() {
        for (image, policy) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.29", "IfNotPresent"),
            ("localhost:5000/nginx", "Always"),
            ("localhost:5000/nginx@sha256:00", "IfNotPresent"),
        ] {
            assert_eq!(default_policy(image), policy, "{image}");
        }
    }

    #[test]
    fn pull_secret_is_chosen_by_registry() {
        let auths = r#"{"auths": {"https://index.docker.io/v1/": {"auth": "dTpw"},
            "registry.example:5000": {"username": "a", "password": "b"}}}"#;
        let secret = Secret {
            data: Some([(".dockerconfigjson".to_owned(), k8s_openapi::ByteString(auths.into()))].into()),
            ..Secret::default()
        };
        assert_eq!(auth_in(&secret, "nginx").unwrap().username, "u");
        assert_eq!(auth_in(&secret, "registry.example:5000/x:1").unwrap().password, "b");
        assert!(auth_in(&secret, "quay.io/x").is_none());
    }
}
