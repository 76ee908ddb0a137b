//! The one way to the server: kubeconfig, namespace, and requests that answer JSON values.

use clap::{Arg, ArgMatches};
use futures::{AsyncBufReadExt, Stream, StreamExt};
use http::{Method, Request};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::Value;

use crate::error::Error;
use crate::resources::Resources;

/// Who this program is in `managedFields`.
pub(crate) const FIELD_MANAGER: &str = "kubectl-lite";

/// Flags that every verb takes, before or after it.
pub(crate) fn global_args() -> [Arg; 4] {
    let flag = |name: &'static str, help: &'static str| Arg::new(name).long(name).global(true).help(help);
    [
        flag("kubeconfig", "Path to the kubeconfig file (default: $KUBECONFIG, then ~/.kube/config)")
            .value_name("FILE"),
        flag("context", "The kubeconfig context to use").value_name("NAME"),
        flag("cluster", "The kubeconfig cluster to use").value_name("NAME"),
        flag("namespace", "The namespace to work in").short('n').value_name("NAME"),
    ]
}

/// A connected cluster and the namespace to work in.
pub(crate) struct Cluster {
    pub(crate) client: kube::Client,
    pub(crate) namespace: String,
}

impl Cluster {
    /// Reads the kubeconfig as kubectl does: flag, then `$KUBECONFIG` (a list is merged), then the home directory.
    pub(crate) async fn connect(matches: &ArgMatches) -> Result<Self, Error> {
        component_base::client::install_crypto_provider();
        let file = match matches.get_one::<String>("kubeconfig") {
            Some(path) => Kubeconfig::read_from(path),
            None => Kubeconfig::read(),
        };
        let options = KubeConfigOptions {
            context: matches.get_one::<String>("context").cloned(),
            cluster: matches.get_one::<String>("cluster").cloned(),
            user: None,
        };
        let config = kube::Config::from_custom_kubeconfig(file.map_err(Error::Kubeconfig)?, &options)
            .await
            .map_err(Error::Kubeconfig)?;
        let namespace =
            matches.get_one::<String>("namespace").cloned().unwrap_or(config.default_namespace.clone());
        let client = kube::Client::try_from(config).map_err(Error::Client)?;
        Ok(Self { client, namespace })
    }

    pub(crate) async fn resources(&self) -> Result<Resources, Error> {
        Resources::discover(self).await
    }

    /// GET that answers JSON in the form `accept` asks for.
    pub(crate) async fn get(&self, path: &str, accept: &str) -> Result<Value, Error> {
        self.send(Method::GET, path, accept, "", None).await
    }

    /// A request with a JSON body of type `content_type`.
    pub(crate) async fn write(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: &Value,
    ) -> Result<Value, Error> {
        self.send(method, path, "application/json", content_type, Some(body)).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        content_type: &str,
        body: Option<&Value>,
    ) -> Result<Value, Error> {
        let mut request = Request::builder().method(method).uri(path).header("accept", accept);
        if body.is_some() {
            request = request.header("content-type", content_type);
        }
        let bytes = body.map(|value| value.to_string().into_bytes()).unwrap_or_default();
        let request = request.body(bytes).map_err(Error::BuildRequest)?;
        Ok(self.client.request::<Value>(request).await?)
    }

    /// The lines of a streaming answer: watch events.
    pub(crate) async fn lines(
        &self,
        path: &str,
        accept: &str,
    ) -> Result<impl Stream<Item = Result<String, Error>> + use<>, Error> {
        let request =
            Request::get(path).header("accept", accept).body(Vec::new()).map_err(Error::BuildRequest)?;
        let reader = self.client.request_stream(request).await?;
        Ok(Box::pin(reader).lines().map(|line| line.map_err(Error::Write)))
    }

    /// Watch events as JSON values, from `path` (which says `watch=true`).
    pub(crate) async fn events(
        &self,
        path: &str,
        accept: &str,
    ) -> Result<impl Stream<Item = Result<Value, Error>> + Unpin + use<>, Error> {
        let lines = self.lines(path, accept).await?;
        Ok(lines.map(|line| serde_json::from_str(&line?).map_err(|error| Error::Answer(error.to_string()))))
    }
}
