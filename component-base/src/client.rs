//! How a component reaches the API server: over a kubeconfig, or directly inside one process.

use std::path::PathBuf;

use crate::caller::Caller;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::runtime::watcher;

/// Where a component's client comes from.
#[derive(Clone)]
pub enum ClientSource {
    /// A kubeconfig file, as kubectl reads it.
    Kubeconfig(PathBuf),
    /// A client that somebody else made, over the API server's service in the same process.
    Ready(kube::Client),
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("cannot read the kubeconfig {path}")]
    ReadKubeconfig {
        path: PathBuf,
        #[source]
        source: KubeconfigError,
    },
    #[error("the kubeconfig {path} does not describe a usable cluster")]
    UseKubeconfig {
        path: PathBuf,
        #[source]
        source: KubeconfigError,
    },
    #[error("cannot make a client")]
    MakeClient(#[source] kube::Error),
}

impl ClientSource {
    /// As [`ClientSource::connect`]; the client tells with each request who asks.
    pub async fn connect_as(&self, caller: Caller) -> Result<kube::Client, ConnectError> {
        Ok(caller.client(self.connect().await?))
    }

    /// Makes the client. Does not talk to the server yet.
    pub async fn connect(&self) -> Result<kube::Client, ConnectError> {
        let path = match self {
            Self::Ready(client) => return Ok(client.clone()),
            Self::Kubeconfig(path) => path,
        };
        install_crypto_provider();
        let file = Kubeconfig::read_from(path)
            .map_err(|source| ConnectError::ReadKubeconfig { path: path.clone(), source })?;
        let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
            .await
            .map_err(|source| ConnectError::UseKubeconfig { path: path.clone(), source })?;
        kube::Client::try_from(config).map_err(ConnectError::MakeClient)
    }
}

/// Makes of an object from a watch one to keep: without `metadata.managedFields`, which no component reads, and no
/// larger than what is in it. What was just parsed has room for more in each of its lists, which for a pod is half
/// of it.
pub fn trim<K: kube::Resource + Clone>(object: &mut K) {
    object.meta_mut().managed_fields = None;
    *object = object.clone();
}

/// Chooses the TLS implementation of this process, once; later calls change nothing.
pub fn install_crypto_provider() {
    // An error only says that a provider is already there.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
}

/// What a failed request is told people as: the server's own message where there is one, as in events.
pub fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => other.to_string(),
    }
}

/// An error with its causes, for logs; what a request or a watch met in the words of the server.
pub fn told(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(link) = next {
        if !text.is_empty() {
            text.push_str(": ");
        }
        if let Some(request) = link.downcast_ref::<kube::Error>() {
            return text + &said(request);
        }
        next = link.source();
        match link.downcast_ref::<watcher::Error>() {
            Some(watcher::Error::InitialListFailed(_)) => text.push_str("the list failed"),
            Some(watcher::Error::WatchStartFailed(_)) => text.push_str("the watch did not start"),
            Some(watcher::Error::WatchFailed(_)) => text.push_str("the watch broke"),
            Some(watcher::Error::WatchError(status)) => return text + &status.message,
            Some(watcher::Error::NoResourceVersion) | None => text.push_str(&link.to_string()),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot bind")]
    struct Outer(#[source] kube::Error);

    #[test]
    fn an_error_is_told_in_the_words_of_the_server() {
        let refused =
            || kube::Error::Api(Box::new(Status::failure("pods is forbidden", "Forbidden").with_code(403)));
        assert_eq!(told(&Outer(refused())), "cannot bind: pods is forbidden");
        let watch = watcher::Error::WatchStartFailed(refused());
        assert_eq!(told(&watch), "the watch did not start: pods is forbidden");
    }
}
