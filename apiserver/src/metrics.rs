//! Counts and latencies of requests, and the state of the process, under the names kube-apiserver gives them.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use api_types::status::Status;
use axum::body::Body;
use http::{HeaderValue, StatusCode, header};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use parking_lot::{Mutex, RwLock};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use crate::request_info::RequestInfo;

/// What a request was about. Only resources that exist become labels, so that a client cannot make the number
/// of series grow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct About {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: String,
    component: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: String,
    component: String,
    dry_run: String,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Sort {
    request_kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Watched {
    group: String,
    version: String,
    kind: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reload {
    status: &'static str,
}

/// How often a configuration file was read again.
pub(crate) struct Reloads {
    counts: Counts<Reload>,
    told: watch::Sender<u64>,
}

impl Reloads {
    /// To be called when what was read is in force, or was found to be of no use.
    pub(crate) fn note(&self, succeeded: bool) {
        let status = if succeeded { "success" } else { "failure" };
        self.counts.get_or_create(&Reload { status }).inc();
        self.told.send_modify(|count| *count += 1);
    }
}

type Counts<L> = Family<L, Counter<u64, AtomicU64>>;
type Levels<L> = Family<L, Gauge<i64, AtomicI64>>;

/// The metrics of the request path.
pub(crate) struct RequestMetrics {
    registry: Mutex<Registry>,
    reloaded: watch::Sender<u64>,
    requests: Counts<Answered>,
    durations: Family<About, Histogram>,
    sizes: Family<About, Histogram>,
    in_flight: [Gauge<i64, AtomicI64>; 2],
    series: RwLock<HashMap<u64, Vec<Series>>>,
    hasher: RandomState,
    long_running: Levels<About>,
    watch_events: Counts<Watched>,
}

/// Holds a level up as long as it lives.
struct Level(Gauge<i64, AtomicI64>);

impl Level {
    fn raise(gauge: Gauge<i64, AtomicI64>) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Level {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl RequestMetrics {
    pub(crate) fn new() -> Self {
        let seconds: fn() -> Histogram = || Histogram::new(exponential_buckets(0.0005, 2.0, 17));
        let bytes: fn() -> Histogram = || Histogram::new(exponential_buckets(1000.0, 10.0, 7));
        let in_flight = Levels::<Sort>::default();
        let metrics = Self {
            registry: Mutex::new(Registry::default()),
            reloaded: watch::Sender::new(0),
            requests: Family::default(),
            durations: Family::new_with_constructor(seconds),
            sizes: Family::new_with_constructor(bytes),
            in_flight: ["mutating", "readOnly"]
                .map(|kind| in_flight.get_or_create(&Sort { request_kind: kind }).clone()),
            series: RwLock::default(),
            hasher: RandomState::new(),
            long_running: Family::default(),
            watch_events: Family::default(),
        };
        metrics.extend(|registry| {
            let text = "Requests by verb, resource and response code";
            registry.register("apiserver_request", text, metrics.requests.clone());
            let text = "Time to the first byte of the response";
            registry.register("apiserver_request_duration_seconds", text, metrics.durations.clone());
            let text = "Size of responses in bytes, where it is known before they are sent";
            registry.register("apiserver_response_sizes", text, metrics.sizes.clone());
            let text = "Requests that are being answered, without watches and streams";
            registry.register("apiserver_current_inflight_requests", text, in_flight);
            let text = "Watches and streams that are open";
            registry.register("apiserver_longrunning_requests", text, metrics.long_running.clone());
            let text = "Events sent to watchers";
            registry.register("apiserver_watch_events", text, metrics.watch_events.clone());
        });
        metrics
    }

    /// Lets another part add what it counts.
    pub(crate) fn extend(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.registry.lock());
    }

    /// What counts how often a configuration file, as `authentication`, was read again.
    pub(crate) fn reloads(&self, of: &str) -> Reloads {
        let counts = Counts::<Reload>::default();
        let name = format!("apiserver_{of}_config_controller_automatic_reloads");
        let text = "Times the changed configuration was read, by what came of it";
        self.extend(|registry| registry.register(name, text, counts.clone()));
        Reloads { counts, told: self.reloaded.clone() }
    }

    /// How often any configuration file was read again.
    pub(crate) fn reloaded(&self) -> watch::Receiver<u64> {
        self.reloaded.subscribe()
    }

    /// Counts a request as being answered until what is given is dropped.
    pub(crate) fn enter(&self, info: &RequestInfo) -> impl Drop + Send + use<> {
        let reads = matches!(info.verb.as_str(), "get" | "list" | "watch" | "head");
        Level::raise(self.in_flight[usize::from(reads)].clone())
    }

    /// Counts a watch or stream as open until its answer has ended.
    pub(crate) fn follow(&self, info: &RequestInfo, response: http::Response<Body>) -> http::Response<Body> {
        let known = response.status().is_success() || response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if !known {
            return response;
        }
        let level = Level::raise(
            self.long_running.get_or_create(&Labels::of(info, response.status()).answered().about()).clone(),
        );
        response.map(|body| {
            Body::new(body.map_frame(move |frame| {
                // The level lives as long as the body.
                let _held = &level;
                frame
            }))
        })
    }

    /// The counter of events sent to watchers of a kind.
    pub(crate) fn watch_events(&self, group: &str, version: &str, kind: &str) -> Counter<u64, AtomicU64> {
        let labels = Watched { group: group.into(), version: version.into(), kind: kind.into() };
        self.watch_events.get_or_create(&labels).clone()
    }

    /// Notes one answered request.
    pub(crate) fn observe(&self, info: &RequestInfo, response: &http::Response<Body>, took: Duration) {
        let labels = Labels::of(info, response.status());
        let size = response.body().size_hint().exact();
        let note = |series: &Series| {
            series.requests.inc();
            if let Some(size) = size {
                // Sizes beyond 2^53 bytes do not occur.
                series.sizes.observe(size as f64);
            }
            series.durations.observe(took.as_secs_f64());
        };
        let hash = self.hasher.hash_one(labels);
        let of = |all: &[Series]| all.iter().find(|one| one.about.labels() == labels).map(note);
        if self.series.read().get(&hash).and_then(|all| of(all)).is_none() {
            let series = self.series_of(&labels);
            note(&series);
            self.series.write().entry(hash).or_default().push(series);
        }
    }

    fn series_of(&self, labels: &Labels<'_>) -> Series {
        let answered = labels.answered();
        let about = answered.about();
        Series {
            requests: self.requests.get_or_create(&answered).clone(),
            durations: self.durations.get_or_create(&about).clone(),
            sizes: self.sizes.get_or_create(&about).clone(),
            about: answered,
        }
    }

    /// The answer at `/metrics`; `objects` are the numbers of stored objects by resource.
    pub(crate) fn answer(
        &self,
        info: &RequestInfo,
        objects: impl FnOnce() -> Vec<(String, usize)>,
    ) -> Option<Result<http::Response<Body>, Status>> {
        if info.path != "/metrics" {
            return None;
        }
        let mut text = String::new();
        let encoded = encode(&mut text, &self.registry.lock());
        Some(encoded.map_err(Status::internal).map(|()| {
            let end = text.trim_end_matches("# EOF\n").len();
            text.truncate(end);
            write_objects(&mut text, &objects());
            write_process(&mut text);
            text.push_str("# EOF\n");
            let mut response = http::Response::new(Body::from(text));
            let media =
                HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, media);
            response
        }))
    }
}

/// What is counted about requests with the same labels, found without making the labels anew.
struct Series {
    about: Answered,
    requests: Counter<u64, AtomicU64>,
    durations: Histogram,
    sizes: Histogram,
}

/// The labels of one answered request.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Labels<'a> {
    verb: &'a str,
    group: &'a str,
    version: &'a str,
    resource: &'a str,
    subresource: &'a str,
    scope: &'a str,
    dry_run: &'a str,
    code: u16,
}

impl<'a> Labels<'a> {
    fn of(info: &'a RequestInfo, code: StatusCode) -> Self {
        let known = code != StatusCode::NOT_FOUND && info.is_resource;
        let named = |text: &'a str| if known { text } else { "" };
        Self {
            verb: verb(info),
            group: named(&info.group),
            version: named(&info.version),
            resource: named(&info.resource),
            subresource: named(&info.subresource),
            scope: named(scope(info)),
            dry_run: if info.query.get("dryRun") == Some("All") { "All" } else { "" },
            code: code.as_u16(),
        }
    }

    fn answered(self) -> Answered {
        let Self { verb, group, version, resource, subresource, scope, dry_run, code } = self;
        Answered {
            verb: verb.into(),
            group: group.into(),
            version: version.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            scope: scope.into(),
            component: "apiserver".into(),
            dry_run: dry_run.into(),
            code,
        }
    }
}

impl Answered {
    fn labels(&self) -> Labels<'_> {
        Labels {
            verb: &self.verb,
            group: &self.group,
            version: &self.version,
            resource: &self.resource,
            subresource: &self.subresource,
            scope: &self.scope,
            dry_run: &self.dry_run,
            code: self.code,
        }
    }

    fn about(&self) -> About {
        let Self { verb, group, version, resource, subresource, scope, component, .. } = self.clone();
        About { verb, group, version, resource, subresource, scope, component }
    }
}

/// The verb as Kubernetes' metrics call it; what is none is `other`, since clients make up methods.
fn verb(info: &RequestInfo) -> &'static str {
    let streams = matches!(info.subresource.as_str(), "exec" | "attach" | "portforward" | "proxy");
    match info.verb.as_str() {
        _ if streams => "CONNECT",
        "create" | "post" => "POST",
        "update" | "put" => "PUT",
        "get" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        "head" => "HEAD",
        "options" => "OPTIONS",
        _ => "other",
    }
}

fn scope(info: &RequestInfo) -> &'static str {
    match (info.name.is_empty(), info.namespace.is_empty()) {
        (false, _) => "resource",
        (true, false) => "namespace",
        (true, true) => "cluster",
    }
}

fn write_objects(text: &mut String, objects: &[(String, usize)]) {
    text.push_str("# HELP apiserver_storage_objects Stored objects by resource.\n");
    text.push_str("# TYPE apiserver_storage_objects gauge\n");
    for (resource, count) in objects {
        text.push_str(&format!("apiserver_storage_objects{{resource={resource:?}}} {count}\n"));
    }
}

/// What Linux says of this process; left out where it says nothing.
fn write_process(text: &mut String) {
    const TICKS_PER_SECOND: f64 = 100.0;
    const PAGE_BYTES: u64 = 4096;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name, in brackets, may hold anything; the fields after it are numbers.
    let fields: Vec<f64> = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect())
        .unwrap_or_default();
    let mut gauge = |name: &str, kind: &str, value: f64| {
        let base = name.strip_suffix("_total").unwrap_or(name);
        text.push_str(&format!("# TYPE {base} {kind}\n{name} {value}\n"));
    };
    if let (Some(user), Some(system), Some(memory), Some(resident)) =
        (fields.get(10), fields.get(11), fields.get(19), fields.get(20))
    {
        gauge("process_cpu_seconds_total", "counter", (user + system) / TICKS_PER_SECOND);
        gauge("process_virtual_memory_bytes", "gauge", *memory);
        gauge("process_resident_memory_bytes", "gauge", resident * PAGE_BYTES as f64);
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        gauge("process_open_fds", "gauge", open.count() as f64);
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::request_info;

    fn scraped(metrics: &RequestMetrics) -> String {
        let info = request_info::parse(&Method::GET, "/metrics", "");
        let answer = metrics.answer(&info, || vec![("pods".into(), 3)]).unwrap().unwrap();
        let body = futures::executor::block_on(answer.into_body().collect()).unwrap().to_bytes();
        String::from_utf8(body.to_vec()).unwrap()
    }

    #[test]
    fn a_request_is_counted_under_kubernetes_names() {
        let metrics = RequestMetrics::new();
        let info = request_info::parse(&Method::POST, "/api/v1/namespaces/a/pods", "dryRun=All");
        let held = metrics.enter(&info);
        let mut response = http::Response::new(Body::from("{}"));
        *response.status_mut() = StatusCode::CREATED;
        metrics.observe(&info, &response, Duration::from_millis(3));
        let text = scraped(&metrics);
        let labels =
            "verb=\"POST\",group=\"\",version=\"v1\",resource=\"pods\",subresource=\"\",scope=\"namespace\"";
        assert!(
            text.contains(&format!(
                "apiserver_request_total{{{labels},component=\"apiserver\",dry_run=\"All\",code=\"201\"}} 1"
            )),
            "{text}"
        );
        assert!(text.contains("apiserver_current_inflight_requests{request_kind=\"mutating\"} 1"));
        assert!(text.contains("apiserver_storage_objects{resource=\"pods\"} 3"));
        assert!(text.contains("process_open_fds") && text.ends_with("# EOF\n"));
        drop(held);
        assert!(
            scraped(&metrics).contains("apiserver_current_inflight_requests{request_kind=\"mutating\"} 0")
        );
    }

    #[test]
    fn what_a_client_makes_up_adds_no_series() {
        let metrics = RequestMetrics::new();
        for name in ["a", "b", "c"] {
            let info = request_info::parse(
                &Method::from_bytes(name.as_bytes()).unwrap(),
                &format!("/apis/{name}/v1/x"),
                "",
            );
            let mut response = http::Response::new(Body::empty());
            *response.status_mut() = StatusCode::NOT_FOUND;
            metrics.observe(&info, &response, Duration::ZERO);
        }
        assert_eq!(scraped(&metrics).matches("apiserver_request_total{").count(), 1);
    }
}
