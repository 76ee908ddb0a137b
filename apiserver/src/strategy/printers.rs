//! The server's own printing: the cells of a kind's columns, as `kubectl get` shows them.
//!
//! A kind is a row here; one without a row prints its name and when it was made. The columns themselves
//! (names, types, priorities) stand in the kinds table; a test holds the two together.

mod admission;
mod batch;
mod cluster;
mod config;
mod network;
mod node;
mod pod;
mod requests;
mod storage;
mod workload;

use std::collections::BTreeSet;
use std::sync::LazyLock;

use api_types::json_path::JsonPath;
use api_types::kinds::{Column, Kind};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use node::Node;

/// An object to print and the time at which it is printed, for ages.
struct Printed<'a> {
    object: Node<'a>,
    now: DateTime<Utc>,
}

type Cells = fn(&Printed<'_>) -> Vec<Value>;

/// Kind name and what prints it. Kind names are unique among built-in kinds that have columns of their own.
static PRINTERS: &[(&str, Cells)] = &[
    ("Pod", pod::pod),
    ("PodTemplate", pod::pod_template),
    ("ReplicationController", workload::replica_set),
    ("ReplicaSet", workload::replica_set),
    ("Deployment", workload::deployment),
    ("StatefulSet", workload::stateful_set),
    ("DaemonSet", workload::daemon_set),
    ("ControllerRevision", workload::controller_revision),
    ("HorizontalPodAutoscaler", workload::autoscaler),
    ("PodDisruptionBudget", workload::disruption_budget),
    ("Job", batch::job),
    ("CronJob", batch::cron_job),
    ("Namespace", cluster::namespace),
    ("Node", cluster::node),
    ("Event", cluster::event),
    ("Lease", cluster::lease),
    ("PriorityClass", cluster::priority_class),
    ("RuntimeClass", cluster::runtime_class),
    ("RoleBinding", cluster::role_binding),
    ("ClusterRoleBinding", cluster::role_binding),
    ("ConfigMap", config::config_map),
    ("Secret", config::secret),
    ("ServiceAccount", config::service_account),
    ("ResourceQuota", config::resource_quota),
    ("PersistentVolumeClaim", config::volume_claim),
    ("PersistentVolume", config::volume),
    ("StorageClass", config::storage_class),
    ("Service", network::service),
    ("Endpoints", network::endpoints),
    ("EndpointSlice", network::endpoint_slice),
    ("Ingress", network::ingress),
    ("IngressClass", network::ingress_class),
    ("NetworkPolicy", network::network_policy),
    ("IPAddress", network::ip_address),
    ("ServiceCIDR", network::service_cidr),
    ("MutatingWebhookConfiguration", admission::webhooks),
    ("ValidatingWebhookConfiguration", admission::webhooks),
    ("MutatingAdmissionPolicy", admission::mutating_policy),
    ("MutatingAdmissionPolicyBinding", admission::policy_binding),
    ("ValidatingAdmissionPolicy", admission::validating_policy),
    ("ValidatingAdmissionPolicyBinding", admission::policy_binding),
    ("APIService", admission::api_service),
    ("CertificateSigningRequest", requests::certificate_request),
    ("ComponentStatus", requests::component_status),
    ("FlowSchema", requests::flow_schema),
    ("PriorityLevelConfiguration", requests::priority_level),
    ("CSIDriver", storage::csi_driver),
    ("CSINode", storage::csi_node),
    ("VolumeAttachment", storage::volume_attachment),
    ("VolumeAttributesClass", storage::attributes_class),
    ("DeviceClass", storage::device),
    ("ResourceClaim", storage::resource_claim),
    ("ResourceClaimTemplate", storage::device),
    ("ResourceSlice", storage::resource_slice),
];

type Conditions = fn(&Printed<'_>) -> Vec<Value>;

/// Where objects are kept of kinds that come to an end, and what their rows say of it.
static ENDS: &[(&str, Conditions)] = &[("pods", pod::conditions)];

/// The columns of `kind`; a kind without columns of its own prints its name and when it was made.
pub(crate) fn columns(kind: &Kind) -> &[Column] {
    static PLAIN: LazyLock<[Column; 2]> = LazyLock::new(|| {
        [("Name", "string", "name"), ("Created At", "date", "")].map(|(name, kind, format)| Column {
            name: name.to_owned(),
            kind: kind.to_owned(),
            format: format.to_owned(),
            description: String::new(),
            priority: 0,
            json_path: None,
        })
    });
    if kind.columns.is_empty() { PLAIN.as_slice() } else { &kind.columns }
}

/// A row of a table.
pub(crate) struct Row<'a> {
    /// One per column of the kind. What cannot be read of the object has empty ones.
    pub(crate) cells: Vec<Value>,
    /// What is known of the object as a whole, for clients that watch until it has ended.
    pub(crate) conditions: Vec<Value>,
    /// The text of the object's metadata.
    pub(crate) metadata: &'a [u8],
}

/// The row of an encoded object.
pub(crate) fn row<'a>(kind: &Kind, bytes: &'a [u8], now: DateTime<Utc>) -> Row<'a> {
    let printed = Printed { object: Node::read(bytes), now };
    let metadata = printed.object.get("metadata").and_then(Node::text).unwrap_or(b"{}");
    let ends = ENDS.iter().find(|(storage, _)| kind.storage == *storage);
    let conditions = ends.map(|(_, conditions)| conditions(&printed)).unwrap_or_default();
    Row { cells: cells(kind, bytes, &printed), conditions, metadata }
}

fn cells(kind: &Kind, bytes: &[u8], printed: &Printed<'_>) -> Vec<Value> {
    if kind.columns.iter().any(|column| column.json_path.is_some()) {
        let object = serde_json::from_slice(bytes).unwrap_or_default();
        return kind.columns.iter().map(|column| custom(column, &object, printed.now)).collect();
    }
    match PRINTERS.iter().find(|(name, _)| *name == kind.kind) {
        Some((_, print)) if !kind.columns.is_empty() => print(printed),
        _ => vec![printed.name(), printed.cell("/metadata/creationTimestamp")],
    }
}

impl<'a> Printed<'a> {
    /// The part at a pointer, null when there is none.
    fn at(&self, pointer: &str) -> &Node<'a> {
        self.object.pointer(pointer).unwrap_or(&Node::Null)
    }

    /// The part at a pointer as a cell.
    fn cell(&self, pointer: &str) -> Value {
        self.at(pointer).to_value()
    }

    fn text(&self, pointer: &str) -> &str {
        self.object.pointer(pointer).and_then(Node::as_str).unwrap_or_default()
    }

    fn count(&self, pointer: &str) -> i64 {
        self.object.pointer(pointer).and_then(Node::as_i64).unwrap_or(0)
    }

    fn list(&self, pointer: &str) -> &[Node<'a>] {
        self.object.pointer(pointer).and_then(Node::as_array).unwrap_or_default()
    }

    fn name(&self) -> Value {
        self.cell("/metadata/name")
    }

    /// Time since the object was made.
    fn age(&self) -> Value {
        json!(self.since(self.text("/metadata/creationTimestamp")))
    }

    /// Time since `timestamp`, as people say it.
    fn since(&self, timestamp: &str) -> String {
        since(timestamp, self.now)
    }

    /// Names and images of the containers of the pod template at `pointer`.
    fn containers(&self, pointer: &str) -> [Value; 2] {
        let containers = self.list(pointer);
        ["name", "image"].map(|field| json!(join(containers.iter().filter_map(|c| c[field].as_str()))))
    }
}

/// Time since `timestamp` (RFC 3339), as people say it; `<unknown>` when there is none.
fn since(timestamp: &str, now: DateTime<Utc>) -> String {
    match DateTime::parse_from_rfc3339(timestamp) {
        Ok(then) => api_types::table::human_duration(now.signed_duration_since(then)),
        Err(_) => "<unknown>".to_owned(),
    }
}

/// The cell of a column that a definition made.
fn custom(column: &Column, object: &Value, now: DateTime<Utc>) -> Value {
    let Some(path) = &column.json_path else { return object["metadata"]["name"].clone() };
    let Ok(path) = JsonPath::parse(path) else { return Value::Null };
    let Some(value) = path.find(object).into_iter().next() else { return Value::Null };
    match (column.kind.as_str(), value) {
        (_, Value::Null) => Value::Null,
        ("date", Value::String(text)) => match DateTime::parse_from_rfc3339(text) {
            Ok(_) => json!(since(text, now)),
            Err(_) => json!("<invalid>"),
        },
        ("string", Value::String(_)) | ("boolean", Value::Bool(_)) => value.clone(),
        ("string", other) => json!(other.to_string()),
        ("integer", Value::Number(n)) => {
            n.as_i64().or(n.as_f64().map(whole)).map_or(Value::Null, Value::from)
        }
        ("number", Value::Number(_)) => value.clone(),
        _ => Value::Null,
    }
}

/// As Go cuts a float down to a whole number.
#[expect(clippy::cast_possible_truncation, reason = "a cell that cannot show a number shows the nearest")]
fn whole(number: f64) -> i64 {
    number as i64
}

fn join<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words.collect::<Vec<_>>().join(",")
}

/// The word, or `<none>` where there is none.
fn or_none(text: &str) -> Value {
    json!(if text.is_empty() { "<none>" } else { text })
}

/// The entries of a map in the order of their keys.
fn sorted<'m, 'a>(map: &'m Node<'a>) -> Vec<(&'m str, &'m Node<'a>)> {
    let entries = map.as_object().into_iter().flatten();
    let mut entries: Vec<_> = entries.map(|(key, value)| (key.as_ref(), value)).collect();
    entries.sort_by_key(|(key, _)| *key);
    entries
}

/// A plain map of labels as `a=b,c=d`.
fn labels(map: &Node<'_>) -> String {
    let pairs = sorted(map).into_iter();
    pairs
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect::<Vec<_>>()
        .join(",")
}

/// A LabelSelector as text: its terms in the order of their keys, and the values of each in their own.
fn selector(selector: &Node<'_>) -> String {
    let plain = sorted(&selector["matchLabels"]).into_iter();
    let mut terms: Vec<(&str, String)> =
        plain.map(|(key, value)| (key, format!("{key}={}", value.as_str().unwrap_or_default()))).collect();
    for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = expression["key"].as_str().unwrap_or_default();
        let values = expression["values"].as_array().into_iter().flatten();
        let values = join(values.filter_map(Node::as_str).collect::<BTreeSet<_>>().into_iter());
        let term = match expression["operator"].as_str() {
            Some("In") => format!("{key} in ({values})"),
            Some("NotIn") => format!("{key} notin ({values})"),
            Some("DoesNotExist") => format!("!{key}"),
            _ => key.to_owned(),
        };
        terms.push((key, term));
    }
    terms.sort_by_key(|(key, _)| *key);
    let terms: Vec<String> = terms.into_iter().map(|(_, term)| term).collect();
    if terms.is_empty() { "<none>".to_owned() } else { terms.join(",") }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    #[test]
    fn every_row_prints_as_many_cells_as_its_kind_has_columns() {
        let object = json!({"metadata": {"name": "x", "creationTimestamp": "2026-01-01T00:00:00Z"}});
        for kind in api_types::kinds::builtin().iter().filter(|kind| !kind.columns.is_empty()) {
            let text = object.to_string();
            let row = row(kind, text.as_bytes(), DateTime::UNIX_EPOCH);
            assert_eq!(row.cells.len(), kind.columns.len(), "{} {:?}", kind.kind, kind.columns);
            assert_eq!(row.metadata, object["metadata"].to_string().as_bytes());
        }
    }

    pub(super) fn check(print: Cells, object: &Value, expected: &[&str]) {
        let made = DateTime::parse_from_rfc3339("2026-01-01T00:00:00Z").expect("a time").to_utc();
        let text = object.to_string();
        let printed =
            print(&Printed { object: Node::read(text.as_bytes()), now: made + TimeDelta::minutes(5) });
        let texts: Vec<String> = printed
            .iter()
            .map(|cell| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned))
            .collect();
        assert_eq!(texts, expected);
    }
}
