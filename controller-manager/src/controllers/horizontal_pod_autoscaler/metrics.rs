//! Asks for the figures that an autoscaler looks at: those of resources at `metrics.k8s.io`, those of pods and
//! objects at `custom.metrics.k8s.io`, all others at `external.metrics.k8s.io`.

use std::collections::BTreeMap;

use api_types::quantity::Quantity;
use chrono::{DateTime, TimeDelta, Utc};
use k8s_openapi::api::autoscaling::v2::{CrossVersionObjectReference, MetricSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::Client;
use kube::core::ApiResource;
use serde_json::Value;

use super::replicas::{Sample, Samples};
use crate::resources::ServedResource;

/// What a metric source said.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Measured {
    Pods(Samples),
    /// One value, in thousandths.
    Value(i64),
}

/// The place and the pods that are measured.
pub(super) struct Scope<'a> {
    pub client: &'a Client,
    pub namespace: &'a str,
    /// The selector of the target's pods, as the scale writes it.
    pub selector: &'a str,
}

/// Asks for what `spec` names; `described` is the resource of the object that an object metric describes.
pub(super) async fn fetch(
    scope: &Scope<'_>,
    spec: &MetricSpec,
    described: Option<&ServedResource>,
) -> Result<Measured, String> {
    match (&spec.resource, &spec.container_resource, &spec.pods, &spec.object, &spec.external) {
        (Some(resource), ..) => scope.resource(&resource.name, None).await.map(Measured::Pods),
        (_, Some(one), ..) => scope.resource(&one.name, Some(&one.container)).await.map(Measured::Pods),
        (_, _, Some(pods), ..) => {
            let name = &pods.metric.name;
            let found = scope.of_pods(name, pods.metric.selector.as_ref()).await;
            found.map(Measured::Pods).map_err(|why| format!("unable to get metric {name}: {why}"))
        }
        (_, _, _, Some(object), _) => {
            let (metric, about) = (&object.metric, &object.described_object);
            let found = scope.of_object(&metric.name, metric.selector.as_ref(), about, described).await;
            let CrossVersionObjectReference { kind, name, .. } = about;
            found.map(Measured::Value).map_err(|why| {
                format!("unable to get metric {}: {kind} on {} {name}/{why}", metric.name, scope.namespace)
            })
        }
        (_, _, _, _, Some(external)) => {
            let metric = &external.metric;
            let found = scope.external(&metric.name, metric.selector.as_ref()).await;
            found.map(Measured::Value).map_err(|why| {
                let selector = written(metric.selector.as_ref());
                format!("unable to get external metric {}/{}/{selector}: {why}", scope.namespace, metric.name)
            })
        }
        _ => Err(format!("unknown metric source type {:?}", spec.type_)),
    }
}

impl Scope<'_> {
    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, kube::Error> {
        let pairs: Vec<_> = query.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        let request = http::Request::get(format!("{path}?{}", pairs.join("&"))).body(Vec::new());
        self.client.request(request.map_err(kube::Error::HttpError)?).await
    }

    async fn resource(&self, resource: &str, container: Option<&str>) -> Result<Samples, String> {
        let path = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{}/pods", self.namespace);
        let failed = |why: String| format!("unable to get metrics for resource {resource}: {why}");
        let list = self.get(&path, &[("labelSelector", self.selector)]).await.map_err(|error| {
            let missing = "the server could not find the requested resource (get pods.metrics.k8s.io)";
            let why = said(&error, missing);
            failed(format!("unable to fetch metrics from resource metrics API: {why}"))
        })?;
        if list["items"].as_array().is_none_or(Vec::is_empty) {
            return Err(failed("no metrics returned from resource metrics API".to_owned()));
        }
        resource_samples(&list, resource, container).map_err(|why| match container {
            Some(_) => format!("failed to get container metrics: {why}"),
            None => failed(why),
        })
    }

    async fn of_pods(&self, metric: &str, selector: Option<&LabelSelector>) -> Result<Samples, String> {
        let path = format!("namespaces/{}/pods/*/{metric}", self.namespace);
        let list = self.custom(&path, selector, Some(self.selector)).await?;
        if list.is_empty() {
            return Err("no metrics returned from custom metrics API".to_owned());
        }
        let sample = |item: &Value| {
            let name = item["describedObject"]["name"].as_str()?.to_owned();
            Some((name, Sample { value: milli(&item["value"]), ..timed(item, TimeDelta::minutes(1)) }))
        };
        Ok(list.iter().filter_map(sample).collect())
    }

    async fn of_object(
        &self,
        metric: &str,
        selector: Option<&LabelSelector>,
        about: &CrossVersionObjectReference,
        described: Option<&ServedResource>,
    ) -> Result<i64, String> {
        let resource = described.ok_or_else(|| format!("no matches for kind {:?}", about.kind))?;
        let path = self.path_of(&resource.api, &about.name, metric);
        let list = self.custom(&path, selector, None).await?;
        list.first()
            .map(|item| milli(&item["value"]))
            .ok_or_else(|| "no metrics returned from custom metrics API".to_owned())
    }

    /// Where a figure of an object is, whatever scope its kind has. A namespace has its own, of the autoscaler's
    /// only: an autoscaler does not look out of its namespace.
    fn path_of(&self, kind: &ApiResource, name: &str, metric: &str) -> String {
        let namespace = self.namespace;
        match (kind.group.as_str(), kind.plural.as_str()) {
            ("", "namespaces") => format!("namespaces/{namespace}/metrics/{metric}"),
            ("", plural) => format!("namespaces/{namespace}/{plural}/{name}/{metric}"),
            (group, plural) => format!("namespaces/{namespace}/{plural}.{group}/{name}/{metric}"),
        }
    }

    /// Asks the version that adapters should serve, then the one that older ones do.
    async fn custom(
        &self,
        path: &str,
        selector: Option<&LabelSelector>,
        pods: Option<&str>,
    ) -> Result<Vec<Value>, String> {
        let metric_labels = text_of(selector);
        let mut query = vec![("metricLabelSelector", metric_labels.as_str())];
        query.extend(pods.map(|pods| ("labelSelector", pods)));
        let of = |version: &str| format!("/apis/custom.metrics.k8s.io/{version}/{path}");
        let list = match self.get(&of("v1beta2"), &query).await {
            Err(kube::Error::Api(status)) if status.code == 404 => self.get(&of("v1beta1"), &query).await,
            asked => asked,
        };
        let list = list.map_err(|error| {
            let missing = "the server could not find the metric";
            format!("unable to fetch metrics from custom metrics API: {}", said(&error, missing))
        })?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    async fn external(&self, metric: &str, selector: Option<&LabelSelector>) -> Result<i64, String> {
        let path = format!("/apis/external.metrics.k8s.io/v1beta1/namespaces/{}/{metric}", self.namespace);
        let labels = text_of(selector);
        let list = self.get(&path, &[("labelSelector", labels.as_str())]).await.map_err(|error| {
            let missing = format!(
                "the server could not find the requested resource (get {metric}.external.metrics.k8s.io)"
            );
            format!("unable to fetch metrics from external metrics API: {}", said(&error, &missing))
        })?;
        let items = list["items"].as_array().filter(|items| !items.is_empty());
        let items = items.ok_or_else(|| "no metrics returned from external metrics API".to_owned())?;
        Ok(items.iter().map(|item| milli(&item["value"])).sum())
    }
}

/// A value as a query carries it.
fn encoded(value: &str) -> String {
    let letter = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    value.bytes().map(letter).collect()
}

/// The server's words; for a path that it does not know those of a client of Kubernetes.
fn said(error: &kube::Error, missing: &str) -> String {
    match error {
        kube::Error::Api(status) if status.code == 404 => missing.to_owned(),
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// The use of a resource by pod: of all its containers, or of the one that is named.
fn resource_samples(list: &Value, resource: &str, container: Option<&str>) -> Result<Samples, String> {
    let mut samples = BTreeMap::new();
    for item in list["items"].as_array().into_iter().flatten() {
        let name = item["metadata"]["name"].as_str().unwrap_or_default();
        let containers = item["containers"].as_array().into_iter().flatten();
        let mut chosen = containers.filter(|one| container.is_none_or(|name| one["name"] == name)).peekable();
        if let (Some(wanted), None) = (container, chosen.peek()) {
            let namespace = item["metadata"]["namespace"].as_str().unwrap_or_default();
            return Err(format!("container {wanted} not present in metrics for pod {namespace}/{name}"));
        }
        // A pod of which a container was not measured has no figure.
        let amounts: Option<Vec<i64>> = chosen.map(|one| one["usage"].get(resource).map(milli)).collect();
        if let Some(amounts) = amounts {
            let value = amounts.iter().sum();
            samples.insert(name.to_owned(), Sample { value, ..timed(item, TimeDelta::zero()) });
        }
    }
    Ok(samples)
}

fn timed(item: &Value, default_window: TimeDelta) -> Sample {
    let at = item["timestamp"].as_str().and_then(|text| DateTime::parse_from_rfc3339(text).ok());
    let seconds = item["windowSeconds"].as_i64().or_else(|| {
        let text = item["window"].as_str()?;
        text.strip_suffix('s')?.parse::<f64>().ok().map(|seconds| seconds as i64)
    });
    let window = seconds.map_or(default_window, TimeDelta::seconds);
    Sample { value: 0, at: at.map_or(DateTime::<Utc>::UNIX_EPOCH, |at| at.to_utc()), window }
}

fn milli(amount: &Value) -> i64 {
    let text = amount.as_str().map_or_else(|| amount.to_string(), str::to_owned);
    Quantity::parse_or_zero(&text).milli()
}

/// A selector as queries write it.
fn text_of(selector: Option<&LabelSelector>) -> String {
    let Some(selector) = selector else { return String::new() };
    let exact = selector.match_labels.iter().flatten().map(|(name, value)| format!("{name}={value}"));
    let terms = selector.match_expressions.iter().flatten().map(|term| {
        let (key, values) = (&term.key, term.values.clone().unwrap_or_default().join(","));
        match term.operator.as_str() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.clone(),
        }
    });
    exact.chain(terms).collect::<Vec<_>>().join(",")
}

/// A selector as messages write it.
pub(super) fn written(selector: Option<&LabelSelector>) -> String {
    let Some(selector) = selector else { return "nil".to_owned() };
    let labels = selector.match_labels.iter().flatten();
    let labels: String = labels.map(|(name, value)| format!("{name}: {value},")).collect();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{}},}}"
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kube::client::Body;
    use kube::core::GroupVersionKind;
    use parking_lot::Mutex;
    use serde_json::json;

    use super::*;

    fn list() -> Value {
        let of = |name: &str, cpu: &str| json!({"name": name, "usage": {"cpu": cpu, "memory": "1Mi"}});
        json!({"items": [
            {"metadata": {"name": "a", "namespace": "ns"}, "timestamp": "2026-01-01T00:00:00Z", "window": "10s",
                "containers": [of("app", "250000000n"), of("side", "50m")]},
            {"metadata": {"name": "b", "namespace": "ns"}, "containers": [{"name": "app", "usage": {}}]}]})
    }

    #[test]
    fn a_pod_uses_what_its_containers_use() {
        let samples = resource_samples(&list(), "cpu", None).unwrap();
        assert_eq!(samples.len(), 1, "a pod that was not measured has no figure");
        assert_eq!((samples["a"].value, samples["a"].window), (300, TimeDelta::seconds(10)));
    }

    #[test]
    fn one_container_can_be_looked_at_alone() {
        let app = resource_samples(&list(), "cpu", Some("app")).unwrap();
        assert_eq!(app["a"].value, 250);
        let missing = resource_samples(&list(), "cpu", Some("side")).unwrap_err();
        assert_eq!(missing, "container side not present in metrics for pod ns/b");
    }

    /// Serves one path and notes what was asked for.
    fn source(path: &'static str, answer: Value) -> (Client, Arc<Mutex<Vec<String>>>) {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = asked.clone();
        let service = tower::service_fn(move |request: http::Request<Body>| {
            log.lock().push(request.uri().to_string());
            let found = request.uri().path() == path;
            let gone = json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound"});
            let (code, body) = if found { (200, answer.clone()) } else { (404, gone) };
            let body = Body::from(serde_json::to_vec(&body).unwrap());
            async move { http::Response::builder().status(code).body(body) }
        });
        (Client::new(service, "default"), asked)
    }

    /// What a source that answers at `path` says about `spec`, and the query that it was asked with.
    async fn asked(spec: Value, path: &'static str, answer: Value) -> (Result<Measured, String>, String) {
        let (client, asked) = source(path, answer);
        let scope = Scope { client: &client, namespace: "ns", selector: "app=web" };
        let spec: MetricSpec = serde_json::from_value(spec).unwrap();
        let described = spec.object.as_ref().map(|object| {
            let (group, version) = object
                .described_object
                .api_version
                .as_deref()
                .unwrap()
                .rsplit_once('/')
                .unwrap_or(("", "v1"));
            let kind = object.described_object.kind.clone();
            let kind = GroupVersionKind { group: group.to_owned(), version: version.to_owned(), kind };
            let plural = format!("{}s", kind.kind.to_lowercase());
            let api = ApiResource::from_gvk_with_plural(&kind, &plural);
            ServedResource { api, namespaced: true, can_watch: true, can_delete_collection: true }
        });
        let measured = fetch(&scope, &spec, described.as_ref()).await;
        let last = asked.lock().last().unwrap().split_once('?').unwrap().1.to_owned();
        (measured, last)
    }

    fn values(values: &[&str]) -> Value {
        let item = |value: &&str| json!({"value": value, "describedObject": {"name": format!("p{value}")}});
        json!({"items": values.iter().map(item).collect::<Vec<_>>()})
    }

    fn object(api_version: &str, kind: &str) -> Value {
        let about = json!({"apiVersion": api_version, "kind": kind, "name": "o"});
        let target = json!({"type": "Value", "value": "1"});
        json!({"type": "Object", "object": {"metric": {"name": "hits"}, "describedObject": about, "target": target}})
    }

    #[tokio::test]
    async fn resources_are_asked_for_by_the_pods_labels() {
        let target = json!({"type": "Utilization", "averageUtilization": 1});
        let whole = json!({"type": "Resource", "resource": {"name": "cpu", "target": target}});
        let part = json!({"type": "ContainerResource",
            "containerResource": {"name": "cpu", "container": "app", "target": target}});
        for (spec, expected) in [(whole, 300), (part, 250)] {
            let path = "/apis/metrics.k8s.io/v1beta1/namespaces/ns/pods";
            let (measured, query) = asked(spec, path, list()).await;
            let Ok(Measured::Pods(samples)) = measured else { panic!("{measured:?}") };
            assert_eq!((samples["a"].value, query.as_str()), (expected, "labelSelector=app%3Dweb"));
        }
    }

    #[tokio::test]
    async fn figures_of_pods_are_asked_for_in_both_versions() {
        let metric = json!({"name": "hits", "selector": {"matchLabels": {"verb": "get"}}});
        let target = json!({"type": "AverageValue", "averageValue": "1"});
        let spec = json!({"type": "Pods", "pods": {"metric": metric, "target": target}});
        for path in [
            "/apis/custom.metrics.k8s.io/v1beta2/namespaces/ns/pods/*/hits",
            "/apis/custom.metrics.k8s.io/v1beta1/namespaces/ns/pods/*/hits",
        ] {
            let (measured, query) = asked(spec.clone(), path, values(&["2", "500m"])).await;
            let Ok(Measured::Pods(samples)) = measured else { panic!("{measured:?}") };
            assert_eq!((samples["p2"].value, samples["p500m"].value), (2_000, 500));
            assert_eq!(query, "metricLabelSelector=verb%3Dget&labelSelector=app%3Dweb");
        }
        let (measured, _) = asked(spec, "/nowhere", Value::Null).await;
        let why = "unable to get metric hits: unable to fetch metrics from custom metrics API: the server could not \
                   find the metric";
        assert!(measured.unwrap_err().starts_with(why));
    }

    #[tokio::test]
    async fn a_figure_of_an_object_is_beside_the_autoscaler_whatever_the_kind() {
        for (api_version, kind, path) in [
            ("v1", "Service", "services/o/hits"),
            ("networking.k8s.io/v1", "Ingress", "ingresss.networking.k8s.io/o/hits"),
            ("v1", "Node", "nodes/o/hits"),
            ("v1", "Namespace", "metrics/hits"),
        ] {
            let path = format!("/apis/custom.metrics.k8s.io/v1beta2/namespaces/ns/{path}").leak();
            let (measured, _) = asked(object(api_version, kind), path, values(&["7"])).await;
            assert_eq!(measured, Ok(Measured::Value(7_000)), "{kind}");
        }
    }

    #[tokio::test]
    async fn external_figures_are_added_up() {
        let metric = json!({"name": "queue", "selector": {"matchLabels": {"q": "a"}}});
        let target = json!({"type": "Value", "value": "1"});
        let spec = json!({"type": "External", "external": {"metric": metric, "target": target}});
        let path = "/apis/external.metrics.k8s.io/v1beta1/namespaces/ns/queue";
        let (measured, query) = asked(spec.clone(), path, values(&["2", "3"])).await;
        assert_eq!((measured, query.as_str()), (Ok(Measured::Value(5_000)), "labelSelector=q%3Da"));
        let (measured, _) = asked(spec, path, json!({"items": []})).await;
        assert!(measured.unwrap_err().ends_with("no metrics returned from external metrics API"));
    }

    #[test]
    fn selectors_are_written_for_queries_and_for_people() {
        let selector: LabelSelector = serde_json::from_value(json!({"matchLabels": {"a": "b"},
            "matchExpressions": [{"key": "c", "operator": "In", "values": ["d", "e"]}]}))
        .unwrap();
        assert_eq!(text_of(Some(&selector)), "a=b,c in (d,e)");
        assert!(written(Some(&selector)).contains("a: b,"));
        assert_eq!(written(None), "nil");
    }
}
