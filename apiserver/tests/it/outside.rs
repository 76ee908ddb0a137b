//! Services outside the cluster that the server asks or tells: they answer on the loopback, one request a connection.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A service that keeps what it is posted.
pub(crate) struct Outside {
    url: String,
    posted: Arc<Mutex<Vec<Value>>>,
    serving: tokio::task::JoinHandle<()>,
}

impl Outside {
    /// Answers each document with what `answer` makes of it.
    pub(crate) async fn start(answer: impl Fn(&Value) -> Value + Send + 'static) -> Self {
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", socket.local_addr().unwrap());
        let posted = Arc::new(Mutex::new(Vec::new()));
        let notes = posted.clone();
        #[allow(clippy::disallowed_methods, reason = "the service is no part of what is tested")]
        let serving = tokio::spawn(async move {
            while let Ok((mut stream, _)) = socket.accept().await {
                let Some(document) = read(&mut stream).await else { continue };
                let body = answer(&document).to_string();
                notes.lock().push(document);
                let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length";
                let text = format!("{head}: {}\r\n\r\n{body}", body.len());
                drop(stream.write_all(text.as_bytes()).await);
            }
        });
        Self { url, posted, serving }
    }

    /// A kubeconfig in `dir` that names the service.
    pub(crate) fn kubeconfig(&self, dir: &Path) -> PathBuf {
        let path = dir.join("outside.kubeconfig");
        let text = format!(
            "current-context: a\ncontexts: [{{name: a, context: {{cluster: b, user: c}}}}]\n\
             clusters: [{{name: b, cluster: {{server: '{}'}}}}]\nusers: [{{name: c, user: {{}}}}]\n",
            self.url
        );
        std::fs::write(&path, text).unwrap();
        path
    }

    /// What was posted so far.
    pub(crate) fn posted(&self) -> Vec<Value> {
        self.posted.lock().clone()
    }

    pub(crate) fn stop(self) {
        self.serving.abort();
    }
}

async fn read(stream: &mut tokio::net::TcpStream) -> Option<Value> {
    let mut bytes = Vec::new();
    loop {
        let mut part = vec![0; 64 * 1024];
        let read = stream.read(&mut part).await.ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&part[..read]);
        let text = String::from_utf8_lossy(&bytes);
        if let Some((_, body)) = text.split_once("\r\n\r\n")
            && let Ok(document) = serde_json::from_str(body)
        {
            return Some(document);
        }
    }
}
