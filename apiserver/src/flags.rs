//! The command line of the API server: the same flags for every program that runs one.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use component_base::clock::Clock;
use component_base::random::Random;

use crate::{
    AuditConfig, AuditWebhook, Backend, Config, DiskLimits, HistoryLimits, Limits, LogFile, OidcConfig,
    WebhookMode,
};

/// What an API server is told on the command line, besides how it logs.
#[derive(Clone, Debug, clap::Args)]
pub struct Flags {
    /// Where objects, certificates and admin.kubeconfig are kept.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where certificates are kept [default: `pki` in the data directory]. Made at the first start.
    #[arg(long, value_name = "DIR")]
    cert_dir: Option<PathBuf>,
    /// Keep objects in these etcd servers instead of the data directory; several API servers can share them.
    #[arg(long, value_name = "URL,…", value_delimiter = ',')]
    etcd_servers: Vec<String>,
    /// Address and port to serve HTTPS on.
    #[arg(long, default_value = "127.0.0.1:6443", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// Serve on this address, whatever --listen says.
    #[arg(long, value_name = "ADDRESS")]
    bind_address: Option<IpAddr>,
    /// Serve on this port, whatever --listen says.
    #[arg(long, value_name = "PORT")]
    secure_port: Option<u16>,
    /// Where other machines reach this server: the endpoint of the service `kubernetes` [default: where it listens,
    /// or this machine's own address if that is a loopback or unspecified one].
    #[arg(long, value_name = "ADDRESS")]
    advertise_address: Option<IpAddr>,
    /// Further names and addresses that the serving certificate is good for.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    tls_san: Vec<String>,
    /// Services get their addresses from this range.
    #[arg(
        long,
        visible_alias = "service-cluster-ip-range",
        default_value = "10.96.0.0/16",
        value_name = "CIDR"
    )]
    service_cidr: String,
    /// A CSV file of static tokens: token,user,uid,"group1,group2".
    #[arg(long, value_name = "FILE")]
    token_auth_file: Option<PathBuf>,
    /// An EncryptionConfiguration file: which resources are encrypted in the store, and with which keys.
    #[arg(long, value_name = "FILE")]
    encryption_provider_config: Option<PathBuf>,
    /// Read the EncryptionConfiguration again when it changes.
    #[arg(long, default_value = "false", default_missing_value = "true", num_args = 0..=1, value_name = "BOOL", action = clap::ArgAction::Set, requires = "encryption_provider_config")]
    encryption_provider_config_automatic_reload: bool,
    /// Accept bootstrap tokens: Secrets of type bootstrap.kubernetes.io/token in kube-system.
    #[arg(long, default_value = "true", default_missing_value = "true", num_args = 0..=1, value_name = "BOOL", action = clap::ArgAction::Set)]
    enable_bootstrap_token_auth: bool,
    /// An AuthenticationConfiguration file: outside issuers of tokens, and where anonymous requests are served.
    #[arg(long, value_name = "FILE", conflicts_with = "oidc_issuer_url")]
    authentication_config: Option<PathBuf>,
    /// Which authorizers decide, in this order: AlwaysAllow, AlwaysDeny, Node, RBAC, Webhook.
    #[arg(long, value_name = "MODE,…", default_value = "Node,RBAC", value_delimiter = ',')]
    authorization_mode: Vec<String>,
    /// An AuthorizationConfiguration file: which authorizers decide, webhooks among them.
    #[arg(long, value_name = "FILE", conflicts_with = "authorization_mode")]
    authorization_config: Option<PathBuf>,
    #[command(flatten)]
    authorization_webhook: WebhookFlags,
    #[command(flatten)]
    oidc: OidcFlags,
    #[command(flatten)]
    audit: AuditFlags,
    /// How many requests that only read are served at once; more wait, by priority and fairness.
    #[arg(long, value_name = "N", default_value = "400")]
    max_requests_inflight: u32,
    /// How many requests that write are served at once; added to those that read.
    #[arg(long, value_name = "N", default_value = "200")]
    max_mutating_requests_inflight: u32,
    /// Serve requests without credentials as system:anonymous; RBAC lets them see health and version.
    #[arg(long, default_value = "true", default_missing_value = "true", num_args = 0..=1, value_name = "BOOL", action = clap::ArgAction::Set)]
    anonymous_auth: bool,
    /// Serve metrics.k8s.io: what nodes and pods use, asked of the node agents.
    #[arg(long)]
    node_metrics: bool,
    /// How many writes the history keeps at most, for reads of the past [default: 1000000; 4096 in memory].
    #[arg(long, value_name = "N")]
    history_revisions_max: Option<u64>,
    /// How long the history is kept at most: 90s, 12h, 7d [default: 7d].
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    history_age_max: Option<Duration>,
}

impl Flags {
    /// What the flags come to. Without a data directory or etcd servers objects are kept in memory.
    pub fn config(self, clock: Clock) -> Config {
        Config {
            backend: self.backend(),
            listen: Some(self.address()),
            advertise: self.advertise_address,
            limits: Limits {
                reading_inflight_max: self.max_requests_inflight,
                mutating_inflight_max: self.max_mutating_requests_inflight,
                ..Limits::default()
            },
            certificate_names: self.tls_san,
            service_cidr: self.service_cidr,
            pki_dir: self.cert_dir.or_else(|| self.data_dir.map(|dir| dir.join("pki"))),
            token_auth_file: self.token_auth_file,
            encryption_config: self.encryption_provider_config,
            encryption_reload: self.encryption_provider_config_automatic_reload,
            audit: self.audit.config(),
            bootstrap_tokens: self.enable_bootstrap_token_auth,
            oidc: self.oidc.config(),
            authentication_config: self.authentication_config,
            authorization_modes: self.authorization_mode,
            authorization_webhook: self.authorization_webhook.config(),
            authorization_config: self.authorization_config,
            anonymous: self.anonymous_auth,
            node_metrics: self.node_metrics,
            clock,
            flags: Vec::new(),
            random: Random::system(),
        }
    }

    fn address(&self) -> SocketAddr {
        let address = self.bind_address.unwrap_or(self.listen.ip());
        SocketAddr::new(address, self.secure_port.unwrap_or(self.listen.port()))
    }

    fn backend(&self) -> Backend {
        match (&self.data_dir, self.etcd_servers.is_empty()) {
            (_, false) => Backend::etcd(self.etcd_servers.clone()),
            (Some(dir), true) => {
                let history = self.history(HistoryLimits::default());
                Backend::Disk {
                    dir: dir.join("store"),
                    limits: DiskLimits { history, ..DiskLimits::default() },
                }
            }
            (None, true) => Backend::Memory { history: self.history(HistoryLimits::in_memory()), kept: None },
        }
    }

    fn history(&self, default: HistoryLimits) -> HistoryLimits {
        HistoryLimits {
            revisions_max: self.history_revisions_max.unwrap_or(default.revisions_max),
            age_max: self.history_age_max.unwrap_or(default.age_max),
        }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match &text[digits.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err("must be a whole number and s, m, h or d".to_owned()),
    };
    let number: u64 = digits.parse().map_err(|_| "must be a whole number and s, m, h or d".to_owned())?;
    Ok(Duration::from_secs(number.saturating_mul(unit)))
}

/// The service of the authorization mode `Webhook`.
#[derive(Clone, Debug, clap::Args)]
struct WebhookFlags {
    /// A kubeconfig that names the service which the mode Webhook asks.
    #[arg(long, value_name = "FILE")]
    authorization_webhook_config_file: Option<PathBuf>,
    /// The version of the SubjectAccessReviews that it is asked with.
    #[arg(long, value_name = "VERSION", default_value = "v1beta1", value_parser = ["v1", "v1beta1"])]
    authorization_webhook_version: String,
    /// How long its yes is kept.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    authorization_webhook_cache_authorized_ttl: Duration,
    /// How long its no is kept.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    authorization_webhook_cache_unauthorized_ttl: Duration,
}

impl WebhookFlags {
    fn config(self) -> Option<WebhookMode> {
        Some(WebhookMode {
            kubeconfig: self.authorization_webhook_config_file?,
            version: self.authorization_webhook_version,
            authorized_ttl: self.authorization_webhook_cache_authorized_ttl,
            unauthorized_ttl: self.authorization_webhook_cache_unauthorized_ttl,
        })
    }
}

/// An outside issuer of ID tokens.
#[derive(Clone, Debug, clap::Args)]
struct OidcFlags {
    /// Accept ID tokens of this issuer, an https URL.
    #[arg(long, value_name = "URL", requires = "oidc_client_id")]
    oidc_issuer_url: Option<String>,
    /// The audience that ID tokens must be for.
    #[arg(long, value_name = "ID")]
    oidc_client_id: Option<String>,
    /// The claim that is the user's name.
    #[arg(long, value_name = "CLAIM", default_value = "sub")]
    oidc_username_claim: String,
    /// Before each user's name; `-` is none [default: the issuer and `#`, unless the claim is email].
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    oidc_username_prefix: Option<String>,
    /// The claim that has the user's groups.
    #[arg(long, value_name = "CLAIM")]
    oidc_groups_claim: Option<String>,
    /// Before each group's name.
    #[arg(long, value_name = "TEXT", default_value = "")]
    oidc_groups_prefix: String,
    /// A claim that must be there with this value; may be repeated.
    #[arg(long, value_name = "CLAIM=VALUE", value_parser = claim)]
    oidc_required_claim: Vec<(String, String)>,
    /// With which algorithms ID tokens may be signed.
    #[arg(long, value_name = "ALG,…", default_value = "RS256", value_delimiter = ',')]
    oidc_signing_algs: Vec<String>,
    /// The authorities (PEM) of the issuer's certificate [default: those that this machine trusts].
    #[arg(long, value_name = "FILE")]
    oidc_ca_file: Option<PathBuf>,
}

fn claim(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').ok_or_else(|| format!("{text:?} is not CLAIM=VALUE"))?;
    Ok((pair.0.to_owned(), pair.1.to_owned()))
}

impl OidcFlags {
    fn config(self) -> Option<OidcConfig> {
        Some(OidcConfig {
            issuer_url: self.oidc_issuer_url?,
            client_id: self.oidc_client_id.unwrap_or_default(),
            username_claim: self.oidc_username_claim,
            username_prefix: self.oidc_username_prefix,
            groups_claim: self.oidc_groups_claim,
            groups_prefix: self.oidc_groups_prefix,
            required_claims: self.oidc_required_claim,
            signing_algorithms: self.oidc_signing_algs,
            ca_file: self.oidc_ca_file,
        })
    }
}

/// What is kept of requests.
#[derive(Clone, Debug, clap::Args)]
struct AuditFlags {
    /// A Policy file (audit.k8s.io/v1): how much of which requests is kept in the audit log.
    #[arg(long, value_name = "FILE", requires = "audit_sink")]
    audit_policy_file: Option<PathBuf>,
    /// The audit log, one JSON event a line; `-` is standard output.
    #[arg(long, value_name = "FILE", requires = "audit_policy_file", group = "audit_sink")]
    audit_log_path: Option<PathBuf>,
    /// The audit log is set aside when it has this many megabytes.
    #[arg(long, value_name = "MB", default_value = "100")]
    audit_log_maxsize: u64,
    /// How many logs that were set aside are kept; 0 keeps all.
    #[arg(long, value_name = "N", default_value = "0")]
    audit_log_maxbackup: usize,
    /// Logs that were set aside this many days ago are removed; 0 keeps them.
    #[arg(long, value_name = "DAYS", default_value = "0")]
    audit_log_maxage: i64,
    /// A kubeconfig that names the service to which audit events are sent, in batches.
    #[arg(long, value_name = "FILE", requires = "audit_policy_file", group = "audit_sink")]
    audit_webhook_config_file: Option<PathBuf>,
    /// A batch of events is sent when it has this many.
    #[arg(long, value_name = "N", default_value = "400")]
    audit_webhook_batch_max_size: usize,
    /// A batch is sent when its first event has waited this long.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    audit_webhook_batch_max_wait: Duration,
    /// Events that wait to be sent; more are dropped.
    #[arg(long, value_name = "N", default_value = "10000")]
    audit_webhook_batch_buffer_size: usize,
    /// How long after the first failure a batch is sent again.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    audit_webhook_initial_backoff: Duration,
}

impl AuditFlags {
    fn config(self) -> Option<AuditConfig> {
        let log = self.audit_log_path.map(|path| LogFile {
            path,
            megabytes_max: self.audit_log_maxsize,
            backups_max: self.audit_log_maxbackup,
            age_days_max: self.audit_log_maxage,
        });
        let webhook = self.audit_webhook_config_file.map(|kubeconfig| AuditWebhook {
            kubeconfig,
            batch_events_max: self.audit_webhook_batch_max_size,
            batch_wait_max: self.audit_webhook_batch_max_wait,
            waiting_max: self.audit_webhook_batch_buffer_size,
            backoff_first: self.audit_webhook_initial_backoff,
        });
        Some(AuditConfig { policy: self.audit_policy_file?, log, webhook })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        flags: Flags,
    }

    fn config(args: &[&str]) -> Config {
        let args = std::iter::once("program").chain(args.iter().copied());
        Program::try_parse_from(args).unwrap().flags.config(Clock::system())
    }

    #[tokio::test]
    async fn objects_are_kept_where_the_flags_say() {
        assert!(matches!(config(&[]).backend, Backend::Memory { .. }));
        let on_disk = config(&["--data-dir", "d", "--history-age-max", "90s"]);
        let Backend::Disk { dir, limits } = on_disk.backend else { panic!("not on disk") };
        assert_eq!((dir, limits.history.age_max), (PathBuf::from("d/store"), Duration::from_secs(90)));
        assert_eq!(on_disk.pki_dir, Some(PathBuf::from("d/pki")));
    }

    #[tokio::test]
    async fn address_and_port_can_be_given_as_to_kube_apiserver() {
        let listen = |args: &[&str]| config(args).listen.unwrap().to_string();
        assert_eq!(listen(&["--listen", "10.0.0.1:1"]), "10.0.0.1:1");
        assert_eq!(listen(&["--secure-port", "2"]), "127.0.0.1:2");
        assert_eq!(listen(&["--bind-address", "0.0.0.0"]), "0.0.0.0:6443");
        assert_eq!(config(&["--service-cluster-ip-range", "10.0.0.0/24"]).service_cidr, "10.0.0.0/24");
    }

    #[tokio::test]
    async fn an_issuer_needs_the_audience_of_its_tokens() {
        let alone = ["program", "--oidc-issuer-url", "https://issuer.example"];
        assert!(Program::try_parse_from(alone).is_err());
        let whole = config(&["--oidc-issuer-url", "https://issuer.example", "--oidc-client-id", "us"]);
        assert_eq!(whole.oidc.unwrap().client_id, "us");
    }
}
