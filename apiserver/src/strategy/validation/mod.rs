//! What is wrong with an object: one row per resource, its rules in the file of its subject.
//!
//! Rules that one field alone decides stand in `fields.txt`; what needs code is a function of the row. Rules are
//! those of a new object and of a changed one together: `old` says which. All take any well-formed JSON.

mod addresses;
mod affinity;
mod api_services;
mod autoscalers;
mod capacities;
mod claim_status;
mod conditions;
mod configs;
mod containers;
mod devices;
mod endpoints;
mod environment;
mod events;
mod fields;
mod flow_control;
mod handlers;
mod ingresses;
mod job_policies;
mod job_status;
mod jobs;
mod mounts;
mod networks;
mod nodes;
mod persistent_volumes;
mod pod_annotations;
mod pod_change;
mod pod_resize;
mod pod_resources;
mod pod_spec;
mod pod_status;
mod pod_systems;
mod policies;
mod priorities;
mod projections;
mod quantities;
mod quotas;
mod resource_claims;
mod resource_slices;
mod rollouts;
mod runtime_classes;
mod security_contexts;
mod services;
mod storage;
mod volumes;
mod webhooks;
mod workloads;

use api_types::kinds::Kind;
use serde_json::Value;

pub(super) use fields::is_same;
pub(super) use services::validate_addresses;

use super::metadata::NameRule;
use super::rules::Errors;

/// Sections of `fields.txt` that code of this folder asks for.
#[cfg(test)]
const SHARED: &[&str] =
    &["volume", "container", "scaleReference", "matchResources", "opaqueConfig", "typedLocalReference"];

/// A write whose object is to be checked.
pub(super) struct Check<'a> {
    pub(super) kind: &'a Kind,
    /// Empty for the object itself.
    pub(super) subresource: &'a str,
    pub(super) new: &'a Value,
    /// The object as it was, if it existed.
    pub(super) old: Option<&'a Value>,
}

type Rules = fn(&Check<'_>, &mut Errors);

/// The rules of a resource as stored (`Kind::storage`).
struct Row {
    storage: &'static str,
    /// Rules for a write of anything but the status.
    object: Rules,
    /// Rules for a write of the status.
    status: Rules,
}

const fn def(storage: &'static str, object: Rules) -> Row {
    Row { storage, object, status: |_, _| {} }
}

const fn both(storage: &'static str, object: Rules, status: Rules) -> Row {
    Row { storage, object, status }
}

static ROWS: &[Row] = &[
    def("configmaps", configs::config_map),
    def("endpoints", endpoints::endpoints),
    def("events", events::event),
    def("limitranges", quotas::limit_range),
    both("nodes", nodes::node, nodes::status),
    both("persistentvolumeclaims", persistent_volumes::claim, persistent_volumes::claim_status),
    def("persistentvolumes", persistent_volumes::volume),
    both("pods", pod_change::pod, pod_status::status),
    def("podtemplates", pod_spec::pod_template),
    both("replicationcontrollers", workloads::replication_controller, workloads::replica_set_status),
    both("resourcequotas", quotas::quota, quotas::quota_status),
    def("secrets", configs::secret),
    both("services", services::service, services::status),
    both("apiregistration.k8s.io/apiservices", api_services::service, api_services::status),
    both("apps/daemonsets", workloads::daemon_set, workloads::daemon_set_status),
    both("apps/deployments", workloads::deployment, workloads::deployment_status),
    both("apps/replicasets", workloads::replica_set, workloads::replica_set_status),
    both("apps/statefulsets", workloads::stateful_set, workloads::stateful_set_status),
    def("admissionregistration.k8s.io/mutatingadmissionpolicies", policies::mutating),
    def("admissionregistration.k8s.io/mutatingadmissionpolicybindings", policies::mutating_binding),
    def("admissionregistration.k8s.io/mutatingwebhookconfigurations", webhooks::configuration),
    def("admissionregistration.k8s.io/validatingadmissionpolicies", policies::validating),
    def("admissionregistration.k8s.io/validatingadmissionpolicybindings", policies::binding),
    def("admissionregistration.k8s.io/validatingwebhookconfigurations", webhooks::configuration),
    def("autoscaling/horizontalpodautoscalers", autoscalers::autoscaler),
    def("batch/cronjobs", jobs::cron_job),
    both("batch/jobs", jobs::job, job_status::status),
    def("discovery.k8s.io/endpointslices", endpoints::slice),
    both("flowcontrol.apiserver.k8s.io/flowschemas", flow_control::schema, flow_control::conditions),
    both(
        "flowcontrol.apiserver.k8s.io/prioritylevelconfigurations",
        flow_control::level,
        flow_control::conditions,
    ),
    def("networking.k8s.io/ingressclasses", ingresses::class),
    both("networking.k8s.io/ingresses", ingresses::ingress, ingresses::ingress_status),
    def("networking.k8s.io/ipaddresses", networks::ip_address),
    def("networking.k8s.io/networkpolicies", networks::policy),
    def("networking.k8s.io/servicecidrs", networks::service_cidr),
    def("node.k8s.io/runtimeclasses", runtime_classes::class),
    both("policy/poddisruptionbudgets", quotas::disruption_budget, quotas::disruption_budget_status),
    def("resource.k8s.io/deviceclasses", resource_claims::class),
    both("resource.k8s.io/resourceclaims", resource_claims::claim, claim_status::status),
    def("resource.k8s.io/resourceclaimtemplates", resource_claims::template),
    def("resource.k8s.io/resourceslices", resource_slices::slice),
    def("scheduling.k8s.io/priorityclasses", priorities::class),
    def("storage.k8s.io/csidrivers", storage::driver),
    def("storage.k8s.io/csinodes", storage::node),
    def("storage.k8s.io/csistoragecapacities", storage::capacity),
    def("storage.k8s.io/storageclasses", storage::class),
    both("storage.k8s.io/volumeattachments", storage::attachment, storage::attachment_status),
    def("storage.k8s.io/volumeattributesclasses", storage::attributes_class),
];

/// Resources whose names are checked by rules of their own, or may be anything that fits in a path.
const LOOSELY_NAMED: &[&str] =
    &["networking.k8s.io/ipaddresses", "apiregistration.k8s.io/apiservices", "storage.k8s.io/csidrivers"];

/// The rule for names of this resource, where it is not the usual one.
pub(super) fn name_rule(kind: &Kind) -> Option<NameRule> {
    LOOSELY_NAMED.contains(&kind.storage.as_str()).then_some(NameRule::PathSegment)
}

/// Resources whose changed objects are checked as new ones and then once more as changed ones; what is wrong with
/// them is a cause each time.
const CHECKED_TWICE: &[&str] = &[
    "persistentvolumeclaims",
    "persistentvolumes",
    "replicationcontrollers",
    "apps/daemonsets",
    "apps/replicasets",
];

/// Everything that is wrong with an object, its metadata aside.
pub(super) fn validate(check: &Check<'_>) -> Errors {
    let mut errors = Errors::new();
    if check.old.is_some()
        && check.subresource.is_empty()
        && CHECKED_TWICE.contains(&check.kind.storage.as_str())
    {
        errors = validate(&Check { old: None, ..*check });
    }
    let is_status = check.subresource == "status";
    fields::check(&check.kind.storage, check.new, check.old, is_status, &mut errors);
    if let Some(row) = ROWS.iter().find(|row| row.storage == check.kind.storage) {
        let rules = if is_status { row.status } else { row.object };
        rules(check, &mut errors);
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where an object of a resource is wrong.
    pub(super) fn paths(
        group: &str,
        plural: &str,
        subresource: &str,
        new: &Value,
        old: Option<&Value>,
    ) -> Vec<String> {
        let kinds = api_types::kinds::builtin();
        let kind = kinds.iter().find(|kind| kind.group == group && kind.plural == plural).unwrap();
        let errors = validate(&Check { kind, subresource, new, old });
        errors.into_iter().map(|error| error.path).collect()
    }

    #[test]
    fn every_row_is_a_resource() {
        let kinds = api_types::kinds::builtin();
        for row in ROWS {
            assert!(kinds.iter().any(|kind| kind.storage == row.storage), "{}", row.storage);
        }
    }

    #[test]
    fn any_well_formed_object_is_taken() {
        let odd = serde_json::json!({"spec": [], "status": 1, "metadata": null, "data": "x", "webhooks": {}, "rules": [1]});
        for kind in api_types::kinds::builtin() {
            for new in [&odd, &Value::Null, &serde_json::json!([1])] {
                for subresource in ["", "status"] {
                    validate(&Check { kind, subresource, new, old: Some(&odd) });
                    validate(&Check { kind, subresource, new, old: None });
                }
            }
        }
    }
}
