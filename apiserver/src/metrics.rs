//! Counts and latencies of requests, under the names kube-apiserver gives them.

use std::time::Duration;

use api_types::status::Status;
use axum::body::Body;
use http::{HeaderValue, StatusCode, header};
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::request_info::RequestInfo;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DurationLabels {
    verb: String,
    resource: String,
}

/// The metrics of the request path.
pub(crate) struct RequestMetrics {
    registry: Mutex<Registry>,
    requests: Family<Labels, Counter>,
    durations: Family<DurationLabels, Histogram>,
}

impl RequestMetrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        let requests = Family::default();
        let durations = Family::<DurationLabels, Histogram>::new_with_constructor(|| {
            Histogram::new(exponential_buckets(0.0005, 2.0, 16))
        });
        registry.register(
            "apiserver_request",
            "Requests by verb, resource and response code",
            requests.clone(),
        );
        registry.register(
            "apiserver_request_duration_seconds",
            "Time to the first byte of the response",
            durations.clone(),
        );
        Self { registry: Mutex::new(registry), requests, durations }
    }

    /// Lets another part add what it counts.
    pub(crate) fn extend(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.registry.lock());
    }

    /// Adds the figures of another part of the server.
    pub(crate) fn register(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.registry.lock());
    }

    /// Notes one answered request. Only resources that exist become labels, so that a client cannot make
    /// the number of series grow.
    pub(crate) fn observe(&self, info: &RequestInfo, code: StatusCode, took: Duration) {
        let known = info.is_resource && code != StatusCode::NOT_FOUND;
        let named = |text: &String| if known { text.clone() } else { String::new() };
        let labels = Labels {
            verb: info.verb.to_uppercase(),
            group: named(&info.group),
            version: named(&info.version),
            resource: named(&info.resource),
            subresource: named(&info.subresource),
            code: code.as_u16(),
        };
        self.requests.get_or_create(&labels).inc();
        let labels = DurationLabels { verb: labels.verb, resource: labels.resource };
        self.durations.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// The answer at `/metrics`.
    pub(crate) fn answer(&self, info: &RequestInfo) -> Option<Result<http::Response<Body>, Status>> {
        if info.path != "/metrics" {
            return None;
        }
        let mut text = String::new();
        let encoded = encode(&mut text, &self.registry.lock());
        Some(encoded.map_err(Status::internal).map(|()| {
            let mut response = http::Response::new(Body::from(text));
            let media =
                HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, media);
            response
        }))
    }
}
