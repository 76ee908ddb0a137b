//! What an API server is started with: every bound has a name here.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use component_base::clock::Clock;
use component_base::random::Random;

use crate::audit::AuditConfig;
use crate::authn::oidc::OidcConfig;
use crate::authz::configuration::WebhookMode;
use crate::store::Backend;

/// How to start an API server.
#[derive(Clone, Debug)]
pub struct Config {
    pub backend: Backend,
    /// Where to listen with TLS. `None`: reachable only from inside this process, through a loopback.
    pub listen: Option<SocketAddr>,
    /// Where other machines reach this server, if not where it listens.
    pub advertise: Option<IpAddr>,
    /// Names and addresses besides those of this machine that the serving certificate is good for.
    pub certificate_names: Vec<String>,
    /// Addresses of Services come from this range, `address/bits`.
    pub service_cidr: String,
    /// Where certificates and kubeconfigs are kept; made at the first start. `None`: in memory only.
    pub pki_dir: Option<PathBuf>,
    /// A CSV file of static tokens, as kube-apiserver's `--token-auth-file`.
    pub token_auth_file: Option<PathBuf>,
    /// Whether the Secrets of bootstrap tokens let their bearers in.
    pub bootstrap_tokens: bool,
    /// An outside issuer whose ID tokens are accepted.
    pub oidc: Option<OidcConfig>,
    /// Several such issuers, and who may ask without credentials, as kube-apiserver's `--authentication-config`.
    pub authentication_config: Option<PathBuf>,
    /// Which authorizers decide, as kube-apiserver's `--authorization-mode`.
    pub authorization_modes: Vec<String>,
    /// The service of the mode `Webhook`.
    pub authorization_webhook: Option<WebhookMode>,
    /// The same and more, as kube-apiserver's `--authorization-config`.
    pub authorization_config: Option<PathBuf>,
    /// Which resources are encrypted in the store, as kube-apiserver's `--encryption-provider-config`.
    pub encryption_config: Option<PathBuf>,
    /// Whether that file is read again when it changes.
    pub encryption_reload: bool,
    /// What is kept of requests, and where.
    pub audit: Option<AuditConfig>,
    /// Whether requests without credentials are served as `system:anonymous`.
    pub anonymous: bool,
    /// Whether `metrics.k8s.io` is served, from the node agents' figures.
    pub node_metrics: bool,
    pub clock: Clock,
    /// What the server was started with, as `/flagz` shows it.
    pub flags: Vec<(String, String)>,
    /// Where generated names and uids come from.
    pub random: Random,
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            backend: Backend::memory(),
            listen: None,
            advertise: None,
            certificate_names: Vec::new(),
            service_cidr: "10.96.0.0/16".into(),
            pki_dir: None,
            token_auth_file: None,
            bootstrap_tokens: true,
            oidc: None,
            authentication_config: None,
            authorization_modes: vec!["Node".into(), "RBAC".into()],
            authorization_webhook: None,
            authorization_config: None,
            encryption_config: None,
            encryption_reload: false,
            audit: None,
            anonymous: true,
            node_metrics: false,
            clock: Clock::system(),
            flags: Vec::new(),
            random: Random::system(),
            limits: Limits::default(),
        }
    }
}

impl Config {
    /// Listens on this address of the local machine; port 0 takes any free one.
    pub fn listening_locally(port: u16) -> Self {
        Self { listen: Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)), ..Self::default() }
    }
}

/// The bounds of the request path.
#[derive(Clone, Debug)]
pub struct Limits {
    /// A larger request body is refused with 413.
    pub body_bytes_max: usize,
    /// How long a request that is no watch and no stream may take; then it is answered with 504.
    pub request_timeout: Duration,
    /// A request that took longer is noted in the log.
    pub slow_request: Duration,
    /// How long a client may take to send a request's headers, and how long an idle connection stays open.
    pub header_timeout: Duration,
    /// How often a quiet HTTP/2 connection is asked whether its client is still there.
    pub keep_alive_interval: Duration,
    /// Requests that only read and are served at once; with the next, the seats of priority and fairness.
    pub reading_inflight_max: u32,
    /// Requests that write and are served at once.
    pub mutating_inflight_max: u32,
    /// How long a node agent, a proxied pod or service, or an extension API server may take to accept a connection.
    pub dial_timeout: Duration,
    /// Whether pods and services may be proxied to on this machine's loopback, which Kubernetes refuses.
    pub proxy_to_loopback: bool,
    /// Connections served at once; more wait in the listener's backlog.
    pub connections_max: usize,
    /// A watch without `timeoutSeconds` ends after this long, plus up to as much again by chance.
    pub watch_timeout: Duration,
    /// A list's next page is refused with 410 when its first is older than this, as clients are held to by
    /// Kubernetes' compaction.
    pub continue_age_max: Duration,
    /// Time between bookmarks on a quiet watch that asked for them.
    pub bookmark_interval: Duration,
    /// How often a write without a precondition is tried again when other writers are faster.
    pub write_attempts_max: usize,
    /// Objects of one collection that are being deleted at the same time.
    pub deletions_at_once_max: usize,
    /// Open requests may take this long to end at shutdown.
    pub drain_timeout: Duration,
}

impl Limits {
    /// Requests served at once, all sorts together; more wait or are answered with 429.
    pub fn requests_inflight_max(&self) -> u32 {
        self.reading_inflight_max.saturating_add(self.mutating_inflight_max)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes_max: 3 * 1024 * 1024,
            request_timeout: Duration::from_secs(60),
            slow_request: Duration::from_secs(1),
            header_timeout: Duration::from_secs(60),
            keep_alive_interval: Duration::from_secs(30),
            reading_inflight_max: 400,
            mutating_inflight_max: 200,
            dial_timeout: Duration::from_secs(10),
            proxy_to_loopback: false,
            connections_max: 20_000,
            watch_timeout: Duration::from_secs(1800),
            continue_age_max: Duration::from_secs(360),
            bookmark_interval: Duration::from_secs(60),
            write_attempts_max: 16,
            deletions_at_once_max: 64,
            drain_timeout: Duration::from_secs(5),
        }
    }
}
