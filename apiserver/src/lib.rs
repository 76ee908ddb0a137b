//! The API server: the only process that touches the store.
//!
//! A request goes through the layers of [`server`], in the order that stands there, to one verb of
//! `rest`, which knows no kind. What differs between kinds is data (the kinds table) or a file under
//! `strategy`. Components in the same process call the same layers through a [`Loopback`].

mod admission;
mod aggregation;
mod audit;
mod authn;
mod authz;
mod backend;
mod bootstrap;
mod cache;
mod config;
mod crd;
mod debug_pages;
mod discovery;
mod encryption;
mod flags;
mod flow_control;
mod health;
mod json_text;
mod matching;
mod metrics;
mod negotiate;
mod node_metrics;
mod node_proxy;
mod openapi;
mod pki;
mod policy;
mod reload;
mod remote;
mod request_info;
mod rest;
mod server;
mod service_ip;
mod store;
mod strategy;
mod subresource;
mod tls;
mod transaction;
mod view;
mod webhook;
mod websocket;

use std::collections::BTreeMap;

pub use audit::{AuditConfig, AuditError, AuditWebhook, LogFile, OpenLogError, PolicyError};
pub use authn::configuration::AuthenticationConfigError;
pub use authn::oidc::{OidcConfig, OidcError};
pub use authz::configuration::{AuthorizationConfigError, WebhookMode};
pub use config::{Config, Limits};
pub use encryption::EncryptionConfigError;
pub use flags::Flags;
pub use pki::{Credential, Pki, PkiError};
pub use reload::ReadConfigError;
pub use remote::RemoteConfigError;
pub use server::{Loopback, Running, StartError, run, start};
pub use store::{Backend, DiskLimits, ForkError, Forked, HistoryLimits, KeptMemory, OpenError, fork};

/// Who a request is from, once authenticated. It travels as a request extension.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// A user of this name in these groups.
    pub fn new(name: impl Into<String>, groups: &[&str]) -> Self {
        let groups = groups.iter().map(|g| (*g).to_owned()).collect();
        Self { name: name.into(), groups, ..Self::default() }
    }

    /// The user to whom everything is allowed: what the components of one process act as.
    pub fn admin() -> Self {
        Self::new("kubernetes-admin", &["system:masters", "system:authenticated"])
    }
}
