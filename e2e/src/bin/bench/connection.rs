//! Clients with one connection each, and requests whose answers are read but not decoded.

use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use anyhow::Context as _;
use futures::io::{AsyncBufRead, AsyncBufReadExt};
use http::{Method, Request};
use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

/// The answer's body, or a watch's lines, as they come.
pub(crate) type Stream = Pin<Box<dyn AsyncBufRead + Send>>;

/// A cluster to measure.
pub(crate) struct Cluster {
    config: Config,
    /// For preparations; not for measuring.
    pub(crate) client: Client,
}

impl Cluster {
    pub(crate) async fn read(kubeconfig: &Path) -> anyhow::Result<Self> {
        component_base::client::install_crypto_provider();
        let file = Kubeconfig::read_from(kubeconfig)
            .with_context(|| format!("cannot read the kubeconfig {}", kubeconfig.display()))?;
        let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
        config.read_timeout = None;
        config.write_timeout = None;
        let client = Client::try_from(config.clone())?;
        Ok(Self { config, client })
    }

    /// Clients of one connection each, opened already.
    pub(crate) async fn clients(&self, count: usize) -> anyhow::Result<Vec<Client>> {
        let make = |_| -> anyhow::Result<Client> { Ok(Client::try_from(self.config.clone())?) };
        let clients = (0..count).map(make).collect::<anyhow::Result<Vec<Client>>>()?;
        let opened = clients.iter().map(|client| async move { get(client, "/version").await });
        futures::future::try_join_all(opened).await.context("cannot connect")?;
        Ok(clients)
    }

    /// A namespace of this run, in which pods can be made.
    pub(crate) async fn make_namespace(&self) -> anyhow::Result<String> {
        let body = json!({"metadata": {"generateName": "bench-"}});
        let text = self.client.request_text(request(Method::POST, "/api/v1/namespaces", &body)?).await?;
        let made: Value = serde_json::from_str(&text)?;
        let name = made["metadata"]["name"]
            .as_str()
            .context("the server made a namespace without a name")?
            .to_owned();
        // Where no controller makes it, pods need it all the same.
        let account = request(
            Method::POST,
            &format!("/api/v1/namespaces/{name}/serviceaccounts"),
            &json!({"metadata": {"name": "default"}}),
        )?;
        match self.client.request_text(account).await {
            Ok(_) => Ok(name),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(name),
            Err(error) => Err(error).context("cannot make the namespace's service account"),
        }
    }

    pub(crate) async fn delete_namespace(&self, name: &str) -> anyhow::Result<()> {
        for resource in ["apis/apps/v1/deployments", "api/v1/pods", "api/v1/configmaps"] {
            let (prefix, plural) = resource.rsplit_once('/').context("a resource has a plural")?;
            self.delete_all(&format!("/{prefix}/namespaces/{name}/{plural}?gracePeriodSeconds=0")).await?;
        }
        let path = format!("/api/v1/namespaces/{name}");
        self.client.request_text(request(Method::DELETE, &path, &json!({}))?).await?;
        Ok(())
    }

    pub(crate) async fn delete_all(&self, path: &str) -> anyhow::Result<()> {
        let request = request(Method::DELETE, path, &json!({"propagationPolicy": "Background"}))?;
        read_to_end(&mut open(&self.client, request).await?).await?;
        Ok(())
    }
}

/// A request with a JSON body.
pub(crate) fn request(method: Method, path: &str, body: &Value) -> anyhow::Result<Request<Vec<u8>>> {
    typed(method, path, "application/json", body.to_string().into_bytes())
}

/// A request with a body of this type.
pub(crate) fn typed(
    method: Method,
    path: &str,
    media: &str,
    body: Vec<u8>,
) -> anyhow::Result<Request<Vec<u8>>> {
    let builder = Request::builder().method(method).uri(path).header("content-type", media);
    Ok(builder.header("accept", "application/json").body(body)?)
}

fn get_request(path: &str) -> anyhow::Result<Request<Vec<u8>>> {
    Ok(Request::builder().uri(path).header("accept", "application/json").body(Vec::new())?)
}

/// Sends and gives the body as it comes. An answer that is no success is an error.
pub(crate) async fn open(client: &Client, request: Request<Vec<u8>>) -> anyhow::Result<Stream> {
    Ok(Box::pin(client.request_stream(request).await?))
}

/// Opens a watch or another long answer.
pub(crate) async fn open_path(client: &Client, path: &str) -> anyhow::Result<Stream> {
    open(client, get_request(path)?).await
}

/// Reads all, keeps nothing; gives the number of bytes.
pub(crate) async fn read_to_end(stream: &mut Stream) -> anyhow::Result<usize> {
    let mut bytes = 0;
    loop {
        let length = stream.fill_buf().await?.len();
        if length == 0 {
            return Ok(bytes);
        }
        bytes += length;
        stream.consume_unpin(length);
    }
}

/// Gets a path; gives the number of bytes and how long it took.
pub(crate) async fn get(client: &Client, path: &str) -> anyhow::Result<(usize, Duration)> {
    get_as(client, path, "application/json").await
}

/// Gets a path in this form.
pub(crate) async fn get_as(client: &Client, path: &str, accept: &str) -> anyhow::Result<(usize, Duration)> {
    let begun = Instant::now();
    let request = Request::builder().uri(path).header("accept", accept).body(Vec::new())?;
    let bytes = read_to_end(&mut open(client, request).await?).await?;
    Ok((bytes, begun.elapsed()))
}

/// Gets a list in pages of `limit`; gives the number of bytes and how long it took.
pub(crate) async fn get_pages(
    client: &Client,
    path: &str,
    limit: usize,
) -> anyhow::Result<(usize, Duration)> {
    #[derive(Deserialize)]
    struct Page {
        metadata: PageMetadata,
    }
    #[derive(Deserialize)]
    struct PageMetadata {
        #[serde(default, rename = "continue")]
        token: String,
    }
    let (begun, mut size, mut token) = (Instant::now(), 0, String::new());
    loop {
        let asked = get_request(&format!("{path}?limit={limit}&continue={token}"))?;
        let text = client.request_text(asked).await?;
        size += text.len();
        token = serde_json::from_str::<Page>(&text)?.metadata.token;
        if token.is_empty() {
            return Ok((size, begun.elapsed()));
        }
    }
}

/// Sends a request and reads its answer; gives how long both took.
pub(crate) async fn timed(client: &Client, request: Request<Vec<u8>>) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    read_to_end(&mut open(client, request).await?).await?;
    Ok(begun.elapsed())
}

/// One line of a watch, with what a scenario reads of its objects.
#[derive(Deserialize)]
pub(crate) struct Line<Object> {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) object: Object,
}

/// The next line of a watch, without its end; false at the stream's end.
pub(crate) async fn next_line(stream: &mut Stream, line: &mut Vec<u8>) -> anyhow::Result<bool> {
    line.clear();
    let length = stream.read_until(b'\n', line).await?;
    Ok(length > 0)
}

/// The resource version of a list, from its beginning or end.
pub(crate) async fn list_version(client: &Client, path: &str) -> anyhow::Result<String> {
    let separator = if path.contains('?') { '&' } else { '?' };
    let text = client.request_text(get_request(&format!("{path}{separator}limit=1"))?).await?;
    let list: Value = serde_json::from_str(&text)?;
    let version = list["metadata"]["resourceVersion"].as_str().context("the list has no resourceVersion")?;
    Ok(version.to_owned())
}
