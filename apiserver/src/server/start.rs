//! From a configuration to a running server, and down again in order.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use api_types::status::Status;
use axum::body::Body;
use component_base::Shutdown;
use component_base::supervise::Tasks;
use component_base::zpages::Zpages;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tower::ServiceExt as _;
use tracing::{info, warn};

use super::listener::Listener;
use super::{Layers, Loopback, Server};
use crate::audit::{Audit, AuditError};
use crate::authn::anonymous::Allowed;
use crate::authn::bootstrap_token::BootstrapToken;
use crate::authn::configuration::{self, AuthenticationConfigError, Configured, Settings};
use crate::authn::oidc::{Issuers, OidcError};
use crate::authn::service_account::{ServiceAccount, Tokens};
use crate::authn::token_file::{TokenFile, TokenFileError};
use crate::authn::{Authenticator, Authenticators, anonymous, client_certificate};
use crate::authz::Authorizers;
use crate::authz::configuration::{self as authz, AuthorizationConfigError};
use crate::backend::Backends;
use crate::bootstrap::kubernetes::{self, Advertised};
use crate::cache::Objects;
use crate::config::Config;
use crate::crd::{Definitions, Keeper};
use crate::discovery::Registry;
use crate::encryption::{Encryption, EncryptionConfigError};
use crate::flow_control::{FlowControl, keeper};
use crate::metrics::RequestMetrics;
use crate::node_metrics::{Answers, WithMetrics};
use crate::pki::{self, Pki, PkiError};
use crate::service_ip::{ServiceAddresses, ServiceCidr, repair};
use crate::store::{Backend, Key, OpenError};
use crate::tls::{self, TlsError};
use crate::view::View;
use crate::{UserInfo, admission, aggregation, bootstrap, negotiate, reload, rest};

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot open the store")]
    OpenStore(#[from] OpenError),
    #[error("--encryption-provider-config")]
    Encryption(#[from] EncryptionConfigError),
    #[error("cannot keep the audit log")]
    Audit(#[from] AuditError),
    #[error(transparent)]
    Oidc(#[from] OidcError),
    #[error("--authorization-config")]
    Authorization(#[source] AuthorizationConfigError),
    #[error("--authentication-config")]
    Authentication(#[source] AuthenticationConfigError),
    #[error("--service-cidr: {0}")]
    ServiceCidr(String),
    #[error("cannot make or read the certificates")]
    Pki(#[from] PkiError),
    #[error("cannot use the certificates")]
    Tls(#[from] TlsError),
    #[error("cannot read the token file")]
    TokenFile(#[from] TokenFileError),
    #[error("cannot listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot write the objects that every cluster has: {0}")]
    Bootstrap(String),
}

/// A server that answers requests.
pub struct Running {
    server: Arc<Server>,
    layers: Layers,
    address: Option<SocketAddr>,
    tasks: Tasks,
    store_tasks: Tasks,
}

/// Starts a server; it answers when this returns. Cancelling `shutdown` stops it: await [`Running::stopped`].
pub async fn start(config: Config, shutdown: Shutdown) -> Result<Running, StartError> {
    let store_tasks = Tasks::new(Shutdown::new());
    let started = start_with(config, shutdown, store_tasks.clone()).await;
    if started.is_err() {
        store_tasks.shutdown().cancel();
        store_tasks.join().await;
    }
    started
}

async fn start_with(config: Config, shutdown: Shutdown, store_tasks: Tasks) -> Result<Running, StartError> {
    let tasks = Tasks::new(shutdown.clone());
    let cidr: ServiceCidr =
        config.service_cidr.parse().map_err(|e| StartError::ServiceCidr(format!("{e}")))?;
    let keys = config.encryption_config.as_deref().map(reload::read).transpose();
    let keys = keys.map_err(EncryptionConfigError::Read)?;
    let encryption = keys.as_deref().zip(config.encryption_config.as_deref());
    let encryption = encryption.map(|(text, path)| Encryption::parse(text, path)).transpose()?;
    let listener = listen(config.listen).await?;
    let address = listener.as_ref().and_then(|l| l.local_addr().ok());
    let objects =
        Objects::open_sealed(config.backend.clone(), encryption, config.clock, &store_tasks).await?;
    let advertised = kubernetes::advertised(config.advertise, address);
    let mut names = config.certificate_names.clone();
    names.extend(advertised.map(|advertised| advertised.ip().to_string()));
    let hosts = pki::serving_hosts(address.map(|a| a.ip()), cidr.first(), &names);
    let pki = Arc::new(Pki::ensure(config.pki_dir.as_deref(), config.clock, &hosts)?);
    let view: Arc<dyn View> = objects.clone();
    let definitions = Definitions::new(objects.clone());
    let registry = match config.node_metrics {
        true => Registry::new(Box::new(WithMetrics::new(definitions))),
        false => Registry::new(Box::new(definitions)),
    };
    let services = Arc::new(ServiceAddresses::new(cidr));
    let flow = FlowControl::new(view.clone(), config.limits.requests_inflight_max());
    let metrics = RequestMetrics::new();
    let configured = configured(&config, &metrics, &tasks)?;
    let backends = backends(&config, &pki, &tasks)?;
    // With the store's tasks: what the last requests leave is written before the end.
    let audit = config.audit.as_ref();
    let audit = audit.map(|audit| Audit::open(audit, config.clock, &backends, &store_tasks)).transpose()?;
    let authorizers = authorizers(&config, &view, &backends, &metrics, &tasks)?;
    metrics.extend(|registry| flow.register(registry));
    reload_keys(&config, keys, &objects, &metrics, &tasks);
    let server = Arc::new(Server {
        authenticators: authenticators(&config, &pki, &view, &configured)?,
        authorizers,
        admission: admission::State::new(view.clone()),
        service_accounts: ServiceAccount::new(Tokens::new(&pki, config.clock), view.clone()),
        tokens: Tokens::new(&pki, config.clock),
        aggregator: aggregation::Aggregator::new(&pki)?,
        backends,
        node_answers: Answers::default(),
        objects,
        zpages: Zpages::new("kube-apiserver", config.clock, config.flags.clone()),
        reloads_keys: config.encryption_reload,
        view,
        registry,
        services,
        pki: pki.clone(),
        clock: config.clock,
        random: config.random.clone(),
        limits: config.limits.clone(),
        metrics,
        audit: audit.map(Arc::new),
        configured,
        shutdown: shutdown.clone(),
        address: address.map(|a| reachable(a).to_string()).unwrap_or_default(),
        ready: AtomicBool::new(false),
        flow,
    });
    server.metrics.extend(|registry| server.admission.webhook_metrics.register(registry));
    let layers = Layers(server.clone());
    let running = Running { server, layers: layers.clone(), address, tasks: tasks.clone(), store_tasks };
    let shared = matches!(config.backend, Backend::Etcd { .. });
    running.prepare(Advertised { service: cidr.first(), server: advertised, shared }).await?;
    let keeper = Keeper::new(
        running.server.clone(),
        running.loopback(UserInfo::new("system:apiserver", &["system:masters"])),
    );
    tasks.spawn_until_shutdown("custom resource definitions", keeper.run());
    // Only now: a client that is let in finds the roles and namespaces that every cluster has.
    if let Some(socket) = listener {
        let (tls, limits) = (tls::server_config(&pki)?, config.limits.clone());
        let listener = Listener { socket, tls, layers, limits };
        let connections = tasks.clone();
        tasks.spawn("listener", async move { listener.serve(connections, shutdown).await });
    }
    Ok(running)
}

fn backends(config: &Config, pki: &Pki, tasks: &Tasks) -> Result<Arc<Backends>, StartError> {
    let (nodes, unverified) = (tls::node_client_config(pki)?, tls::unverified_client_config()?);
    Ok(Arc::new(Backends::new(&nodes, &unverified, config.limits.dial_timeout, tasks.clone())))
}

async fn listen(address: Option<SocketAddr>) -> Result<Option<TcpListener>, StartError> {
    match address {
        None => Ok(None),
        Some(address) => TcpListener::bind(address)
            .await
            .map(Some)
            .map_err(|source| StartError::Listen { address, source }),
    }
}

fn authenticators(
    config: &Config,
    pki: &Pki,
    view: &Arc<dyn View>,
    configured: &Arc<Configured>,
) -> Result<Authenticators, StartError> {
    let mut rows: Vec<Box<dyn Authenticator>> = vec![Box::new(client_certificate::ClientCertificate)];
    if let Some(path) = &config.token_auth_file {
        rows.push(Box::new(TokenFile::read(path)?));
    }
    rows.push(Box::new(ServiceAccount::new(Tokens::new(pki, config.clock), view.clone())));
    if config.bootstrap_tokens {
        rows.push(Box::new(BootstrapToken::new(view.clone(), config.clock)));
    }
    rows.push(Box::new(Issuers(configured.clone())));
    let usual = if config.anonymous { Allowed::Everywhere } else { Allowed::Nowhere };
    rows.push(Box::new(anonymous::Anonymous { configured: configured.clone(), usual }));
    Ok(Authenticators::new(rows))
}

/// Who decides, by the flags or by a file that may change.
fn authorizers(
    config: &Config,
    view: &Arc<dyn View>,
    backends: &Arc<Backends>,
    metrics: &RequestMetrics,
    tasks: &Tasks,
) -> Result<Arc<Authorizers>, StartError> {
    let authorizers = Arc::new(Authorizers::new(view.clone()));
    let Some(path) = &config.authorization_config else {
        let entries = authz::of_modes(&config.authorization_modes, config.authorization_webhook.as_ref())
            .map_err(StartError::Authorization)?;
        authorizers.replace(entries, backends);
        return Ok(authorizers);
    };
    let text = reload::read(path).map_err(|error| StartError::Authorization(error.into()))?;
    authorizers.replace(authz::parse(&text).map_err(StartError::Authorization)?, backends);
    let (held, backends, reloads) = (authorizers.clone(), backends.clone(), metrics.reloads("authorization"));
    let take = move |entries| held.replace(entries, &backends);
    let following = reload::keep("authorization", (path.clone(), text), reloads, authz::parse, take);
    tasks.spawn_until_shutdown("authorization configuration", following);
    Ok(authorizers)
}

/// Encrypts by what the file says whenever it is another, if that is wanted. A new key management service is waited
/// for as at the start: a few seconds at most.
fn reload_keys(
    config: &Config,
    text: Option<String>,
    objects: &Arc<Objects>,
    metrics: &RequestMetrics,
    tasks: &Tasks,
) {
    let file = config.encryption_config.clone().zip(text).filter(|_| config.encryption_reload);
    let Some((path, text)) = file else { return };
    let (held, named) = (objects.clone(), path.clone());
    let parse = move |text: &str| Encryption::parse(text, &named);
    let take = move |encryption| held.replace_encryption(encryption);
    let following = reload::keep("encryption", (path, text), metrics.reloads("encryption"), parse, take);
    tasks.spawn_until_shutdown("encryption configuration", following);
}

/// Outside issuers and anonymous requests, by the flags or by a file that may change.
fn configured(
    config: &Config,
    metrics: &RequestMetrics,
    tasks: &Tasks,
) -> Result<Arc<Configured>, StartError> {
    let Some(path) = &config.authentication_config else {
        let issuer = config.oidc.as_ref().map(|oidc| oidc.issuer(config.clock)).transpose()?;
        let settings = Settings { issuers: issuer.into_iter().collect(), anonymous: None };
        return Ok(Arc::new(Configured::new(settings)));
    };
    let text = reload::read(path).map_err(|error| StartError::Authentication(error.into()))?;
    let clock = config.clock;
    let settings = configuration::parse(&text, clock).map_err(StartError::Authentication)?;
    let configured = Arc::new(Configured::new(settings));
    let (held, reloads) = (configured.clone(), metrics.reloads("authentication"));
    let parse = move |text: &str| configuration::parse(text, clock);
    let take = move |settings| held.replace(settings);
    let following = reload::keep("authentication", (path.clone(), text), reloads, parse, take);
    tasks.spawn_until_shutdown("authentication configuration", following);
    Ok(configured)
}

/// An address that a client on this machine can use: an unspecified one is reached over the loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        other => other,
    };
    SocketAddr::new(ip, address.port())
}

impl Running {
    /// What must be there before the first client: the kubeconfig, taken addresses, default objects.
    async fn prepare(&self, mine: Advertised) -> Result<(), StartError> {
        if let Some(url) = self.url() {
            self.server.pki.write_admin_kubeconfig(&url)?;
        }
        let loopback = self.loopback(UserInfo::new("system:apiserver", &["system:masters"]));
        let range = self.server.services.cidr();
        let ensured = bootstrap::run(range, &mine, |object| create(&self.server, loopback.clone(), object));
        ensured.await.map_err(|e| StartError::Bootstrap(e.to_string()))?;
        let flow = keeper::keep(self.server.flow.clone(), loopback.clone(), self.server.clock);
        self.tasks.spawn_until_shutdown("priority and fairness", flow);
        for stored in self.server.objects.list("services", None).iter() {
            self.server.services.note(&stored.value());
        }
        repair::look(&self.server, &loopback).await;
        let repairs = repair::keep(self.server.clone(), loopback.clone());
        self.tasks.spawn_until_shutdown("service addresses", repairs);
        kubernetes::look(&self.server, &loopback, &mine).await;
        let shutdown = self.server.shutdown.clone();
        let keeper = kubernetes::keep(self.server.clone(), loopback.clone(), mine, shutdown);
        self.tasks.spawn("service kubernetes", keeper);
        self.server.ready.store(true, Ordering::Release);
        self.tasks
            .spawn_until_shutdown("aggregation", aggregation::keep(self.server.clone(), loopback.clone()));
        Ok(())
    }

    /// Where the server listens, if it does.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// The server's URL for clients on this machine.
    pub fn url(&self) -> Option<String> {
        self.address.map(|a| format!("https://{}", reachable(a)))
    }

    /// The server as a service that acts as `user`, with the same layers as the socket.
    pub fn loopback(&self, user: UserInfo) -> Loopback {
        Loopback::new(self.layers.clone(), user, self.tasks.clone())
    }

    /// Counts how often a changed configuration file was read again; what it says is in force by then.
    pub fn reloads(&self) -> watch::Receiver<u64> {
        self.server.metrics.reloaded()
    }

    /// The certificate authority: makes kubeconfigs and certificates for components.
    pub fn credentials(&self) -> &Pki {
        &self.server.pki
    }

    /// Waits until the server has stopped: requests drained, the store closed.
    pub async fn stopped(self) {
        self.server.shutdown.cancelled().await;
        let limit = self.server.limits.drain_timeout + Duration::from_secs(1);
        if tokio::time::timeout(limit, self.tasks.join()).await.is_err() {
            warn!("some requests did not end in time");
        }
        self.server.objects.close().await;
        self.store_tasks.shutdown().cancel();
        self.store_tasks.join().await;
    }
}

/// Creates an object of the server's own on the path that every client's create takes.
async fn create(server: &Arc<Server>, loopback: Loopback, object: Value) -> Result<(), Status> {
    let table = server.registry.table();
    let kind = table.of_object(&object).ok_or_else(Status::unknown_resource)?;
    let (root, version) = match kind.group.as_str() {
        "" => ("/api", kind.version.clone()),
        _ => ("/apis", kind.api_version()),
    };
    let namespace = object["metadata"]["namespace"].as_str();
    let path = match namespace {
        Some(namespace) => format!("{root}/{version}/namespaces/{namespace}/{}", kind.plural),
        None => format!("{root}/{version}/{}", kind.plural),
    };
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    // The default Service asks for its address again, which must not count as taken by itself.
    if server.objects.get(&Key::new(&kind.storage, namespace.unwrap_or_default(), name)).is_some() {
        return Err(Status::already_exists(kind, name));
    }
    let made = send(loopback.clone(), http::Method::POST, &path, "application/json", &object).await;
    match made {
        Err(status) if status.code() == 409 => Err(Status::already_exists(kind, name)),
        Err(status) => Err(status),
        // A create keeps no status: what the server knows of an object of its own is written after it.
        Ok(()) if object["status"].is_object() => {
            let mut status = json!({ "status": object["status"] });
            for condition in status["status"]["conditions"].as_array_mut().into_iter().flatten() {
                condition["lastTransitionTime"] = json!(rest::timestamp(server.clock.now()));
            }
            let path = format!("{path}/{name}/status");
            send(loopback, http::Method::PATCH, &path, "application/merge-patch+json", &status).await
        }
        Ok(()) => Ok(()),
    }
}

pub(crate) async fn send(
    loopback: Loopback,
    method: http::Method,
    path: &str,
    media: &str,
    body: &Value,
) -> Result<(), Status> {
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::CONTENT_TYPE, media)
        .header(http::header::USER_AGENT, "kube-apiserver/v1.36")
        .body(Body::from(negotiate::encode(body)))
        .map_err(Status::internal)?;
    let response = loopback.oneshot(request).await.unwrap_or_else(|never| match never {});
    match response.status().as_u16() {
        200 | 201 => Ok(()),
        code => {
            let body = response.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
            Err(Status::unexplained(code, String::from_utf8_lossy(&body)))
        }
    }
}

/// Runs a server until `shutdown`.
pub async fn run(config: Config, shutdown: Shutdown) -> anyhow::Result<()> {
    let running = start(config, shutdown).await?;
    match (running.url(), running.credentials().admin_kubeconfig_path()) {
        (Some(url), Some(path)) => info!(%url, kubeconfig = %path.display(), "the API server is ready"),
        (Some(url), None) => info!(%url, "the API server is ready"),
        (None, _) => info!("the API server is ready"),
    }
    running.stopped().await;
    Ok(())
}
