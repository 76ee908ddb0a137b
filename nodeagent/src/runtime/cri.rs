//! A container runtime of the machine (containerd, CRI-O) over its CRI socket.
//!
//! `message` has the messages, `convert` turns them into the model and back. Addresses, bridges and layers
//! are that runtime's own business. containerd 1.6 has no event stream, so containers are listed every second
//! and the differences are the events. Exec and attach run over a second
//! connection, see `stream`. Deliberately not here yet: port-forward.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use component_base::clock::Clock;
use component_base::supervise::Tasks;
use parking_lot::Mutex;
use tokio::sync::broadcast;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};

use super::{
    BoxStream, Container, ContainerConfig, ContainerEvent, ContainerEventKind, ContainerFilter,
    ContainerState, EVENTS_MAX, ExecOutput, ExecRequest, Image, RegistryAuth, Resources, Result, Runtime,
    RuntimeError, RuntimeStatus, RuntimeVersion, Sandbox, SandboxConfig, SandboxFilter, Stats, Streams,
    labels, labels_match,
};
use message::{Empty, Identifier};

mod convert;
mod message;
mod stream;

const RUNTIME_SERVICE: &str = "runtime.v1.RuntimeService";
const IMAGE_SERVICE: &str = "runtime.v1.ImageService";
/// How often containers are listed for events.
const RELIST_PERIOD: Duration = Duration::from_secs(1);

/// A client of a CRI socket.
pub struct CriRuntime {
    channel: Channel,
    clock: Clock,
    events: broadcast::Sender<ContainerEvent>,
    /// What sandboxes were made from; containers in them must repeat it.
    sandboxes: Mutex<HashMap<String, message::PodSandboxConfig>>,
}

impl CriRuntime {
    /// A client of `unix:///path` (or a bare path). Connects with the first call.
    pub fn connect(endpoint: &str, clock: Clock, tasks: &Tasks) -> Result<std::sync::Arc<Self>> {
        let path = PathBuf::from(endpoint.strip_prefix("unix://").unwrap_or(endpoint));
        let connector = tower::service_fn(move |_: http::Uri| {
            let path = path.clone();
            async move { tokio::net::UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
        });
        // The address is not looked at: the connector knows the socket.
        let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector);
        let events = broadcast::Sender::new(EVENTS_MAX);
        let runtime = std::sync::Arc::new(Self { channel, clock, events, sandboxes: Mutex::default() });
        let watched = std::sync::Arc::clone(&runtime);
        tasks.spawn_until_shutdown("container relist", async move { watched.relist().await });
        Ok(runtime)
    }

    async fn call<Q, A>(&self, service: &str, method: &str, request: Q) -> Result<A, tonic::Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        grpc.ready().await.map_err(|error| tonic::Status::unavailable(said(&error)))?;
        let path = http::uri::PathAndQuery::try_from(format!("/{service}/{method}"))
            .map_err(|error| tonic::Status::internal(error.to_string()))?;
        let codec = tonic_prost::ProstCodec::<Q, A>::default();
        grpc.unary(Request::new(request), path, codec).await.map(tonic::Response::into_inner)
    }

    async fn runtime<Q, A>(&self, method: &'static str, request: Q) -> Result<A>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        self.call(RUNTIME_SERVICE, method, request).await.map_err(|status| failed(method, &status))
    }

    /// As `runtime`, where what is gone already is as good.
    async fn remove<Q>(&self, method: &'static str, request: Q) -> Result<()>
    where
        Q: prost::Message + Send + Sync + 'static,
    {
        match self.call::<Q, Empty>(RUNTIME_SERVICE, method, request).await {
            Err(status) if status.code() != Code::NotFound => Err(failed(method, &status)),
            _ => Ok(()),
        }
    }

    async fn image<Q, A>(&self, method: &'static str, request: Q) -> Result<A>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        self.call(IMAGE_SERVICE, method, request).await.map_err(|status| failed(method, &status))
    }

    async fn relist(&self) {
        let mut known: BTreeMap<String, ContainerState> = BTreeMap::new();
        let mut ticks = tokio::time::interval(RELIST_PERIOD);
        loop {
            ticks.tick().await;
            // A runtime that does not answer now is asked again.
            let Ok(listed) = self.summaries().await else { continue };
            let seen = listed.iter().map(|it| (it.id.clone(), convert::state(it.state))).collect();
            for container in &listed {
                let state = convert::state(container.state);
                let kind = match (known.get(&container.id), state) {
                    (before, after) if before == Some(&after) => continue,
                    (_, ContainerState::Created) => ContainerEventKind::Created,
                    (_, ContainerState::Running) => ContainerEventKind::Started,
                    (_, ContainerState::Exited | ContainerState::Unknown) => ContainerEventKind::Exited,
                };
                let pod_uid = container.labels.get(labels::POD_UID).cloned().unwrap_or_default();
                let (id, sandbox) = (container.id.clone(), container.pod_sandbox_id.clone());
                // Nobody listening is fine.
                drop(self.events.send(ContainerEvent { kind, container: id, sandbox, pod_uid }));
            }
            known = seen;
        }
    }

    async fn summaries(&self) -> Result<Vec<message::ContainerSummary>> {
        let listed: message::ListContainersResponse = self.runtime("ListContainers", Empty {}).await?;
        Ok(listed.containers)
    }
}

/// An error with all its causes on one line.
fn said(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn failed(method: &str, status: &tonic::Status) -> RuntimeError {
    if status.code() == Code::NotFound {
        return RuntimeError::NotFound { what: "sandbox or container", id: status.message().to_owned() };
    }
    RuntimeError::Failed { doing: method.to_owned(), message: status.message().to_owned() }
}

fn identifier(id: &str) -> Identifier {
    Identifier { id: id.to_owned() }
}

fn spec(image: &str) -> message::ImageRequest {
    message::ImageRequest { image: Some(message::ImageSpec { image: image.to_owned() }) }
}

#[async_trait]
impl Runtime for std::sync::Arc<CriRuntime> {
    async fn version(&self) -> Result<RuntimeVersion> {
        let version: message::VersionResponse = self.runtime("Version", Empty {}).await?;
        Ok(RuntimeVersion { name: version.runtime_name, version: version.runtime_version })
    }

    async fn status(&self) -> Result<RuntimeStatus> {
        let answer: message::StatusResponse = self.runtime("Status", Empty {}).await?;
        let conditions = answer.status.unwrap_or_default().conditions;
        let holds = |kind: &str| conditions.iter().any(|it| it.kind == kind && it.status);
        let bad = conditions.iter().filter(|it| !it.status).map(|it| it.message.clone());
        Ok(RuntimeStatus {
            runtime_ready: holds("RuntimeReady"),
            network_ready: holds("NetworkReady"),
            message: bad.collect::<Vec<_>>().join("; "),
        })
    }

    async fn run_sandbox(&self, config: &SandboxConfig) -> Result<String> {
        let config = convert::sandbox_config(config);
        let request = message::RunSandboxRequest { config: Some(config.clone()) };
        let made: Identifier = self.runtime("RunPodSandbox", request).await?;
        self.sandboxes.lock().insert(made.id.clone(), config);
        Ok(made.id)
    }

    async fn stop_sandbox(&self, sandbox: &str) -> Result<()> {
        self.remove("StopPodSandbox", identifier(sandbox)).await
    }

    async fn remove_sandbox(&self, sandbox: &str) -> Result<()> {
        self.stop_sandbox(sandbox).await?;
        self.remove("RemovePodSandbox", identifier(sandbox)).await?;
        let known = self.sandboxes.lock().remove(sandbox);
        if let Some(linux) = known.and_then(|config| config.linux) {
            // containerd makes the pod's cgroup and leaves it to its caller.
            super::oci::cgroup::Cgroup::at(&linux.cgroup_parent).remove();
        }
        Ok(())
    }

    async fn list_sandboxes(&self, filter: &SandboxFilter) -> Result<Vec<Sandbox>> {
        let listed: message::ListSandboxesResponse = self.runtime("ListPodSandbox", Empty {}).await?;
        let mut found = Vec::new();
        for item in listed.items {
            match self.sandbox_status(&item.id).await {
                Ok(sandbox) => found.push(sandbox),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        found.retain(|it| {
            filter.pod_uid.as_ref().is_none_or(|uid| *uid == it.uid)
                && labels_match(&filter.labels, &it.labels)
        });
        Ok(found)
    }

    async fn sandbox_status(&self, sandbox: &str) -> Result<Sandbox> {
        let answer: message::SandboxStatusResponse =
            self.runtime("PodSandboxStatus", identifier(sandbox)).await?;
        Ok(convert::sandbox(answer.status.unwrap_or_default()))
    }

    async fn create_container(&self, sandbox: &str, config: &ContainerConfig) -> Result<String> {
        let known = self.sandboxes.lock().get(sandbox).cloned();
        let sandbox_config = match known {
            Some(config) => config,
            None => convert::remembered(&self.sandbox_status(sandbox).await?),
        };
        let request = message::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(convert::container_config(config, &sandbox_config)?),
            sandbox_config: Some(sandbox_config),
        };
        let made: Identifier = self.runtime("CreateContainer", request).await?;
        Ok(made.id)
    }

    async fn start_container(&self, container: &str) -> Result<()> {
        self.runtime::<_, Empty>("StartContainer", identifier(container)).await.map(drop)
    }

    async fn stop_container(&self, container: &str, grace: Duration) -> Result<()> {
        let timeout = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        self.remove(
            "StopContainer",
            message::StopContainerRequest { container_id: container.to_owned(), timeout },
        )
        .await
    }

    async fn remove_container(&self, container: &str) -> Result<()> {
        self.remove("RemoveContainer", identifier(container)).await
    }

    async fn list_containers(&self, filter: &ContainerFilter) -> Result<Vec<Container>> {
        let mut found = Vec::new();
        for item in self.summaries().await? {
            let labels: BTreeMap<_, _> = item.labels.clone().into_iter().collect();
            let wanted = filter.sandbox.as_ref().is_none_or(|sandbox| *sandbox == item.pod_sandbox_id);
            if !wanted || !labels_match(&filter.labels, &labels) {
                continue;
            }
            let answer = self.runtime("ContainerStatus", identifier(&item.id)).await;
            match answer.map(|answer: message::ContainerStatusResponse| answer.status) {
                Ok(status) => {
                    found.push(convert::container(status.unwrap_or_default(), &item.pod_sandbox_id))
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    async fn container_status(&self, container: &str) -> Result<Container> {
        let answer: message::ContainerStatusResponse =
            self.runtime("ContainerStatus", identifier(container)).await?;
        // The status does not say which sandbox it is in; the list does.
        let listed = self.summaries().await?;
        let sandbox = listed.into_iter().find(|it| it.id == container).map(|it| it.pod_sandbox_id);
        Ok(convert::container(answer.status.unwrap_or_default(), &sandbox.unwrap_or_default()))
    }

    async fn update_resources(&self, container: &str, resources: &Resources) -> Result<()> {
        let linux = Some(convert::resources(resources));
        let request = message::UpdateResourcesRequest { container_id: container.to_owned(), linux };
        self.runtime::<_, Empty>("UpdateContainerResources", request).await.map(drop)
    }

    async fn container_stats(&self, container: &str) -> Result<Stats> {
        let answer: message::ContainerStatsResponse =
            self.runtime("ContainerStats", identifier(container)).await?;
        Ok(convert::stats(answer.stats.unwrap_or_default(), self.clock.now()))
    }

    async fn exec(&self, container: &str, request: &ExecRequest, streams: Streams) -> Result<i32> {
        let request = message::ExecStreamsRequest {
            container_id: container.to_owned(),
            cmd: request.command.clone(),
            tty: request.tty,
            stdin: streams.stdin.is_some(),
            stdout: streams.stdout.is_some(),
            stderr: streams.stderr.is_some() && !request.tty,
        };
        let answer: message::StreamsResponse = self.runtime("Exec", request).await?;
        stream::converse(&answer.url, streams).await
    }

    async fn exec_sync(&self, container: &str, command: &[String], limit: Duration) -> Result<ExecOutput> {
        let timeout = i64::try_from(limit.as_secs().max(1)).unwrap_or(i64::MAX);
        let cmd = command.to_vec();
        let request = message::ExecSyncRequest { container_id: container.to_owned(), cmd, timeout };
        let called = self.call(RUNTIME_SERVICE, "ExecSync", request).await;
        let mut answer: message::ExecSyncResponse = called.map_err(|status| match status.code() {
            Code::DeadlineExceeded => RuntimeError::TimedOut { doing: format!("command {command:?}"), limit },
            _ => failed("ExecSync", &status),
        })?;
        answer.stdout.truncate(super::EXEC_OUTPUT_BYTES_MAX);
        answer.stderr.truncate(super::EXEC_OUTPUT_BYTES_MAX);
        Ok(ExecOutput { stdout: answer.stdout, stderr: answer.stderr, exit_code: answer.exit_code })
    }

    async fn attach(&self, container: &str, streams: Streams) -> Result<()> {
        let request = message::AttachRequest {
            container_id: container.to_owned(),
            stdin: streams.stdin.is_some(),
            tty: streams.resize.is_some(),
            stdout: streams.stdout.is_some(),
            stderr: streams.stderr.is_some() && streams.resize.is_none(),
        };
        let answer: message::StreamsResponse = self.runtime("Attach", request).await?;
        stream::converse(&answer.url, streams).await.map(drop)
    }

    async fn port_forward(&self, _sandbox: &str, _port: u16, _stream: BoxStream) -> Result<()> {
        Err(RuntimeError::Unsupported { what: "forward ports over CRI".to_owned() })
    }

    async fn image_status(&self, image: &str) -> Result<Option<Image>> {
        let answer: message::ImageStatusResponse = self.image("ImageStatus", spec(image)).await?;
        Ok(answer.image.map(convert::image))
    }

    async fn pull_image(&self, image: &str, auth: Option<&RegistryAuth>) -> Result<Image> {
        let auth = auth.map(|auth| message::AuthConfig {
            username: auth.username.clone(),
            password: auth.password.clone(),
        });
        let request = message::PullImageRequest { image: spec(image).image, auth };
        let pulled = self.call(IMAGE_SERVICE, "PullImage", request).await;
        let pulled: message::PullImageResponse = pulled.map_err(|status| RuntimeError::PullImage {
            image: image.to_owned(),
            answer: status.message().to_owned(),
        })?;
        let found = self.image_status(&pulled.image_ref).await?;
        found.ok_or_else(|| RuntimeError::ImageNotPresent { image: image.to_owned() })
    }

    async fn list_images(&self) -> Result<Vec<Image>> {
        let listed: message::ListImagesResponse = self.image("ListImages", Empty {}).await?;
        Ok(listed.images.into_iter().map(convert::image).collect())
    }

    async fn remove_image(&self, image: &str) -> Result<()> {
        self.image::<_, Empty>("RemoveImage", spec(image)).await.map(drop)
    }

    fn events(&self) -> broadcast::Receiver<ContainerEvent> {
        self.events.subscribe()
    }
}
