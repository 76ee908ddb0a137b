//! What a component tells the API server of itself with each request: its name and what it has seen; and the
//! count of its requests.
//!
//! The server takes the name up to the first slash as the field manager of what is written, and audit logs and
//! histories show it, so the names are those of Kubernetes' components.

use http::{HeaderValue, Request, header};
use kube::client::Body;

use crate::acted_on::Seen;
use crate::metrics::{Counter, Family, Metrics};

/// Who asks.
#[derive(Clone, Debug)]
pub struct Caller {
    agent: HeaderValue,
    seen: Seen,
    requests: Family<Vec<(&'static str, String)>, Counter>,
}

impl Caller {
    /// The component of this name, as `kube-scheduler`; its requests are counted in `metrics`.
    pub fn new(component: &'static str, seen: Seen, metrics: &Metrics) -> Self {
        let version = env!("CARGO_PKG_VERSION");
        let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
        let agent = format!("{component}/v1.36.0 ({os}/{arch}) coxswain/{version}");
        let agent = HeaderValue::try_from(agent).unwrap_or_else(|_| HeaderValue::from_static(component));
        let requests = Family::default();
        let help = "Requests to the API server, by code, method and host";
        Self { agent, seen, requests: metrics.register("rest_client_requests", help, requests) }
    }

    /// A client that tells all this with each request.
    pub fn client(self, client: kube::Client) -> kube::Client {
        let namespace = client.default_namespace().to_owned();
        let service = tower::service_fn(move |mut request: Request<Body>| {
            let method = request.method().clone();
            self.seen.tell(&method, request.headers_mut());
            request.headers_mut().entry(header::USER_AGENT).or_insert_with(|| self.agent.clone());
            let host = request.uri().authority().map(ToString::to_string).unwrap_or_default();
            let (client, requests) = (client.clone(), self.requests.clone());
            async move {
                let answered = client.send(request).await;
                let code = answered
                    .as_ref()
                    .map_or_else(|_| "<error>".to_owned(), |response| response.status().as_str().to_owned());
                let labels = vec![("code", code), ("host", host), ("method", method.to_string())];
                requests.get_or_create(&labels).inc();
                answered
            }
        });
        kube::Client::new(service, namespace)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[tokio::test]
    async fn requests_say_who_asks_and_are_counted() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let notes = told.clone();
        let server = tower::service_fn(move |request: Request<Body>| {
            let agent = request.headers()[header::USER_AGENT].to_str().unwrap().to_owned();
            notes.lock().unwrap().push(agent);
            async { Ok::<_, std::convert::Infallible>(http::Response::new(Body::from(b"{}".to_vec()))) }
        });
        let metrics = Metrics::default();
        let caller = Caller::new("kube-scheduler", Seen::default(), &metrics);
        let client = caller.client(kube::Client::new(server, "default"));
        let request = Request::builder().method("POST").uri("/x").body(Vec::new()).unwrap();
        client.request_text(request).await.unwrap();
        assert!(told.lock().unwrap()[0].starts_with("kube-scheduler/v1.36"));
        let counted = metrics.encode();
        assert!(
            counted.contains(r#"rest_client_requests_total{code="200",host="",method="POST"} 1"#),
            "{counted}"
        );
    }
}
