//! A service outside the cluster that a kubeconfig file names: it is asked, or told, by posting JSON.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::header;
use http_body_util::{BodyExt as _, Limited};
use serde::Deserialize;
use serde_json::Value;

use crate::backend::{Backends, DialError, Security};
use crate::tls::{self, TlsError};

/// An answer is not longer than this.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// A kubeconfig that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RemoteConfigError {
    #[error("cannot read {}", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} is no kubeconfig: {source}", .path.display())]
    Parse {
        path: PathBuf,
        #[source]
        source: serde_yaml::Error,
    },
    #[error("{}: {why}", .path.display())]
    Incomplete { path: PathBuf, why: String },
    #[error("the certificates of {} cannot be used", .path.display())]
    Tls {
        path: PathBuf,
        #[source]
        source: TlsError,
    },
}

/// Why the service did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("it answered {0}")]
    Code(u16),
    #[error("its answer cannot be read: {0}")]
    Answer(String),
}

/// The service of a kubeconfig's current context.
pub(crate) struct Remote {
    uri: http::Uri,
    host: String,
    port: u16,
    tls: Option<Arc<rustls::ClientConfig>>,
    /// The value of `Authorization`.
    credentials: Option<String>,
}

#[derive(Deserialize)]
struct File {
    #[serde(rename = "current-context", default)]
    current_context: String,
    #[serde(default)]
    contexts: Vec<Named>,
    #[serde(default)]
    clusters: Vec<Named>,
    #[serde(default)]
    users: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
    #[serde(flatten)]
    value: Value,
}

impl Remote {
    /// Reads the kubeconfig; files that it names lie beside it, unless their paths are whole.
    pub(crate) fn read(path: &Path) -> Result<Self, RemoteConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| RemoteConfigError::Read { path: path.to_owned(), source })?;
        let file: File = serde_yaml::from_str(&text)
            .map_err(|source| RemoteConfigError::Parse { path: path.to_owned(), source })?;
        let incomplete =
            |why: &str| RemoteConfigError::Incomplete { path: path.to_owned(), why: why.to_owned() };
        let find = |list: &[Named], name: &str, field: &str| {
            list.iter().find(|one| one.name == name).map(|one| one.value[field].clone())
        };
        let context = find(&file.contexts, &file.current_context, "context")
            .ok_or_else(|| incomplete("there is no current context"))?;
        let named = |field: &str| context[field].as_str().unwrap_or_default().to_owned();
        let cluster = find(&file.clusters, &named("cluster"), "cluster")
            .ok_or_else(|| incomplete("the context's cluster is missing"))?;
        let user = find(&file.users, &named("user"), "user").unwrap_or_default();
        let uri: http::Uri = cluster["server"].as_str().unwrap_or_default().parse().unwrap_or_default();
        let host = uri.host().ok_or_else(|| incomplete("the cluster's server is not a URL"))?;
        let host = host.trim_matches(['[', ']']).to_owned();
        let is_https = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if is_https { 443 } else { 80 });
        let pem = |from: &Value, field: &str| pem(path, from, field);
        let authority = pem(&cluster, "certificate-authority")?.unwrap_or_default();
        let identity = match (pem(&user, "client-certificate")?, pem(&user, "client-key")?) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            _ => None,
        };
        let any = cluster["insecure-skip-tls-verify"] == true;
        let config = || tls::outside_client_config(&authority, identity.as_ref(), any);
        let tls = is_https.then(config).transpose();
        let tls = tls.map_err(|source| RemoteConfigError::Tls { path: path.to_owned(), source })?;
        Ok(Self { uri, host, port, tls, credentials: credentials(path, &user)? })
    }

    /// Posts the document and reads the answer, if it is JSON; all within the limit.
    pub(crate) async fn post(
        &self,
        backends: &Backends,
        document: Bytes,
        limit: Duration,
    ) -> Result<Value, CallError> {
        let answered = tokio::time::timeout(limit, self.exchange(backends, document)).await;
        answered.unwrap_or(Err(CallError::Timeout(limit)))
    }

    async fn exchange(&self, backends: &Backends, document: Bytes) -> Result<Value, CallError> {
        let security = match &self.tls {
            None => Security::Plain,
            Some(config) => Security::Verified(config.clone(), self.host.clone()),
        };
        let backend = backends.dial(&self.host, self.port, security).await?;
        let mut request = http::Request::post(self.uri.path_and_query().map_or("/", |path| path.as_str()))
            .header(header::HOST, self.uri.authority().map_or(self.host.as_str(), |host| host.as_str()))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, "kube-apiserver/v1.36");
        if let Some(credentials) = &self.credentials {
            request = request.header(header::AUTHORIZATION, credentials);
        }
        let request = request.body(Body::from(document)).map_err(|e| CallError::Answer(e.to_string()))?;
        let response = backend.exchange(request, None).await?;
        if !response.status().is_success() {
            return Err(CallError::Code(response.status().as_u16()));
        }
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|e| CallError::Answer(e.to_string()))?.to_bytes();
        Ok(serde_json::from_slice(&body).unwrap_or_default())
    }
}

/// The PEM in `FIELD-data`, or in the file that `FIELD` names.
fn pem(path: &Path, from: &Value, field: &str) -> Result<Option<Vec<u8>>, RemoteConfigError> {
    if let Some(data) = from[format!("{field}-data")].as_str() {
        let why = || RemoteConfigError::Incomplete {
            path: path.to_owned(),
            why: format!("{field}-data is not base64"),
        };
        return BASE64.decode(data).map(Some).map_err(|_| why());
    }
    from[field].as_str().map(|name| beside(path, name)).transpose()
}

fn beside(path: &Path, name: &str) -> Result<Vec<u8>, RemoteConfigError> {
    let file = path.parent().unwrap_or(Path::new("")).join(name);
    std::fs::read(&file).map_err(|source| RemoteConfigError::Read { path: file, source })
}

fn credentials(path: &Path, user: &Value) -> Result<Option<String>, RemoteConfigError> {
    if let Some(token) = user["token"].as_str() {
        return Ok(Some(format!("Bearer {token}")));
    }
    if let Some(file) = user["tokenFile"].as_str() {
        let token = String::from_utf8_lossy(&beside(path, file)?).trim().to_owned();
        return Ok(Some(format!("Bearer {token}")));
    }
    let (name, password) = (user["username"].as_str(), user["password"].as_str());
    Ok(name
        .map(|name| format!("Basic {}", BASE64.encode(format!("{name}:{}", password.unwrap_or_default())))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_kubeconfig_says_where_and_as_whom() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.yaml");
        let write = |text: &str| std::fs::write(&path, text).unwrap();
        write(
            "current-context: a\ncontexts: [{name: a, context: {cluster: b, user: c}}]\n\
             clusters: [{name: b, cluster: {server: 'http://127.0.0.1:9/x'}}]\nusers: [{name: c, user: {token: t}}]",
        );
        let remote = Remote::read(&path).unwrap();
        assert_eq!(
            (remote.port, remote.uri.path(), remote.credentials.as_deref()),
            (9, "/x", Some("Bearer t"))
        );
        write("current-context: a\ncontexts: []");
        assert!(Remote::read(&path).err().unwrap().to_string().ends_with("there is no current context"));
    }
}
