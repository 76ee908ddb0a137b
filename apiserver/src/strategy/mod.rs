//! What differs between kinds: a table of strategies, and one default for all the others.
//!
//! The generic path asks [`find`] for the row of a kind and calls, in this order: `unify`, `prepare_for_create` or
//! `prepare_for_update`, `default`, mutating admission, the same preparation once more where that changed something,
//! `default`, `assign`, the schema check, `validate_create` or `validate_update`. None of these does I/O; what they
//! need of the cluster comes through [`Context`].

mod certificates;
pub(crate) mod computed;
pub(crate) mod conversion;
mod devices;
pub(crate) mod isolate;
mod jobs;
pub(crate) mod metadata;
mod namespaces;
mod nodes;
mod pods;
pub(crate) mod printers;
mod rbac;
mod rules;
mod services;
mod small;
mod validation;
mod volumes;
mod warnings;
mod workloads;

use api_types::kinds::Kind;
use api_types::status::{FieldError, Status};
use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::UserInfo;
use crate::crd::{self, definition, objects};
use crate::service_ip::{Claim, ServiceAddresses};
use crate::view::View;

/// What a strategy may read besides the object.
pub(crate) struct Context<'a> {
    pub(crate) kind: &'a Kind,
    /// Who asks.
    pub(crate) user: &'a UserInfo,
    pub(crate) now: DateTime<Utc>,
    /// Empty for the object itself.
    pub(crate) subresource: &'a str,
    pub(crate) services: &'a ServiceAddresses,
    /// The cluster as it is before this write.
    pub(crate) view: &'a dyn View,
}

#[cfg(test)]
impl<'a> Context<'a> {
    /// A write of the object itself by the administrator.
    pub(crate) fn fixture(kind: &'a Kind, services: &'a ServiceAddresses) -> Self {
        static ADMIN: std::sync::LazyLock<UserInfo> = std::sync::LazyLock::new(UserInfo::admin);
        static EMPTY: std::sync::LazyLock<crate::view::fixture::Fixture> =
            std::sync::LazyLock::new(Default::default);
        Self { kind, user: &ADMIN, now: DateTime::UNIX_EPOCH, subresource: "", services, view: &*EMPTY }
    }
}

/// How soon a write must be on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Haste {
    /// Acknowledged only when durable.
    Synced,
    /// Heartbeats: losing the last seconds of them in a crash is as if they had come late.
    Lazy,
}

/// What the generic path does differently for a kind.
///
/// Every method has the behaviour of an ordinary kind as its default: spec and status are kept apart when the
/// kind has a status subresource, a changed spec bumps the generation, a deletion is immediate.
/// All work on the JSON object and must take any well-formed JSON: schema checks come later.
pub(crate) trait Strategy: Send + Sync + 'static {
    /// Fields that are two names of one fact: what is said by one is said by the other, and its writer owns both.
    fn unify(&self, _new: &mut Value) {}

    /// Before a create: clears what the client may not set, sets what the server owns.
    fn prepare_for_create(&self, context: &Context<'_>, new: &mut Value) {
        isolate::for_create(context.kind, new);
    }

    /// Before an update of the object or of `context.subresource`: keeps the parts that this request may not
    /// change as they are in `old`, and bumps the generation when the spec changes.
    fn prepare_for_update(&self, context: &Context<'_>, new: &mut Value, old: &Value) {
        isolate::for_update(context.kind, context.subresource, new, old);
    }

    /// Defaults that depend on other fields; constant defaults come from the schema.
    fn default(&self, _new: &mut Value) {}

    /// Takes what must be unique in the cluster (cluster addresses, node ports) and writes it into the object.
    ///
    /// The caller keeps the claim until the write has succeeded and then calls [`Claim::keep`]; dropping it
    /// gives everything back.
    fn assign(
        &self,
        _context: &Context<'_>,
        _new: &mut Value,
        _old: Option<&Value>,
    ) -> Result<Claim, Status> {
        Ok(Claim::default())
    }

    /// Gives back what `assign` took; called after the object is gone from the store.
    fn release(&self, _services: &ServiceAddresses, _gone: &Value) {}

    /// Objects that the server keeps beside this one for as long as it has what they stand for: with type, name
    /// and, where they have one, namespace. They are written and deleted in the revision that changes this one.
    fn companions(&self, _object: &Value) -> Vec<Value> {
        Vec::new()
    }

    /// What is wrong with a new object. Metadata is checked by the caller with [`metadata::validate`].
    fn validate_create(&self, context: &Context<'_>, new: &Value) -> Vec<FieldError> {
        let Context { kind, subresource, .. } = *context;
        validation::validate(&validation::Check { kind, subresource, new, old: None })
    }

    /// What is wrong with a changed object, rules of creation and of change together.
    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let Context { kind, subresource, .. } = *context;
        validation::validate(&validation::Check { kind, subresource, new, old: Some(old) })
    }

    /// How names of this kind are checked.
    fn name_rule(&self) -> metadata::NameRule {
        metadata::NameRule::Subdomain
    }

    /// Seconds between the request to delete and the object's end. `None`: the kind knows no grace.
    /// `requested` is what the client asked for.
    fn grace(&self, _object: &Value, _requested: Option<i64>) -> Option<i64> {
        None
    }

    /// Whether something besides `metadata.finalizers` keeps an object that is being deleted.
    fn holds(&self, _object: &Value) -> bool {
        false
    }

    /// What a deletion that has to wait writes into the object besides the deletion's time.
    fn mark_deleted(&self, _object: &mut Value) {}

    /// Whether the mark of a deletion that has to wait counts as a change of the spec.
    fn counts_deletion(&self) -> bool {
        true
    }

    /// How soon this write must be on disk.
    fn haste(&self, _context: &Context<'_>, _new: &Value, _old: Option<&Value>) -> Haste {
        Haste::Synced
    }
}

struct Ordinary;

impl Strategy for Ordinary {}

/// A kind's row: the resource as stored (`Kind::storage`) and its strategy.
struct Row {
    storage: &'static str,
    strategy: &'static dyn Strategy,
}

const fn def(storage: &'static str, strategy: &'static dyn Strategy) -> Row {
    Row { storage, strategy }
}

static ROWS: &[Row] = &[
    def("namespaces", &namespaces::Namespaces),
    def("nodes", &nodes::Nodes),
    def("persistentvolumeclaims", &volumes::Claims),
    def("persistentvolumes", &volumes::Volumes),
    def("pods", &pods::Pods),
    def("secrets", &small::Secrets),
    def("services", &services::Services),
    def(crd::STORAGE, &definition::Definitions),
    def("apps/daemonsets", &workloads::DaemonSets),
    def("apps/deployments", &workloads::Deployments),
    def("apps/statefulsets", &workloads::StatefulSets),
    def("batch/jobs", &jobs::Jobs),
    def("certificates.k8s.io/certificatesigningrequests", &certificates::SigningRequests),
    def("coordination.k8s.io/leases", &nodes::Leases),
    def("discovery.k8s.io/endpointslices", &small::EndpointSlices),
    def("rbac.authorization.k8s.io/clusterrolebindings", &rbac::Bindings),
    def("rbac.authorization.k8s.io/clusterroles", &rbac::ClusterRoles),
    def("rbac.authorization.k8s.io/rolebindings", &rbac::Bindings),
    def("rbac.authorization.k8s.io/roles", &rbac::Roles),
    def("resource.k8s.io/resourceclaims", &devices::Claims),
    def("resource.k8s.io/resourceclaimtemplates", &devices::ClaimTemplates),
];

/// Where objects are kept of kinds whose deletion answers with the deleted object instead of a `Status`.
const SHOWN_WHEN_DELETED: &[&str] = &[
    "namespaces",
    "persistentvolumeclaims",
    "persistentvolumes",
    "pods",
    "podtemplates",
    "resourcequotas",
    "serviceaccounts",
    "services",
    "resource.k8s.io/deviceclasses",
    "resource.k8s.io/resourceclaims",
    "resource.k8s.io/resourceclaimtemplates",
    "resource.k8s.io/resourceslices",
    "storage.k8s.io/csidrivers",
    "storage.k8s.io/csinodes",
    "storage.k8s.io/csistoragecapacities",
    "storage.k8s.io/storageclasses",
    "storage.k8s.io/volumeattachments",
    "storage.k8s.io/volumeattributesclasses",
];

/// Where objects are kept of kinds whose rules look at all of the metadata of a changed object too.
const ALL_METADATA_ON_UPDATE: &[&str] = &[
    "configmaps",
    "namespaces",
    "nodes",
    "persistentvolumeclaims",
    "persistentvolumes",
    "pods",
    "replicationcontrollers",
    "secrets",
    "serviceaccounts",
    "services",
    "apps/controllerrevisions",
    "apps/daemonsets",
    "apps/replicasets",
    "batch/jobs",
    "networking.k8s.io/ingressclasses",
    "networking.k8s.io/ingresses",
    "node.k8s.io/runtimeclasses",
    "rbac.authorization.k8s.io/clusterrolebindings",
    "rbac.authorization.k8s.io/clusterroles",
    "rbac.authorization.k8s.io/rolebindings",
    "rbac.authorization.k8s.io/roles",
    "storage.k8s.io/storageclasses",
];

/// Where objects are kept of kinds of which a PUT makes the object that is not there yet.
const MADE_BY_UPDATE: &[&str] = &[
    "endpoints",
    "events",
    "limitranges",
    "services",
    "coordination.k8s.io/leases",
    "node.k8s.io/runtimeclasses",
    "rbac.authorization.k8s.io/clusterrolebindings",
    "rbac.authorization.k8s.io/clusterroles",
    "rbac.authorization.k8s.io/rolebindings",
    "rbac.authorization.k8s.io/roles",
];

/// Where objects are kept of kinds whose update has to say which revision it is of; of others one that does not
/// say overwrites whatever is stored.
const UPDATED_AT_A_REVISION: &[&str] = &[
    "admissionregistration.k8s.io/mutatingadmissionpolicies",
    "admissionregistration.k8s.io/mutatingadmissionpolicybindings",
    "admissionregistration.k8s.io/mutatingwebhookconfigurations",
    "admissionregistration.k8s.io/validatingadmissionpolicies",
    "admissionregistration.k8s.io/validatingadmissionpolicybindings",
    "admissionregistration.k8s.io/validatingwebhookconfigurations",
    "apiextensions.k8s.io/customresourcedefinitions",
    "apiregistration.k8s.io/apiservices",
    "coordination.k8s.io/leases",
    "node.k8s.io/runtimeclasses",
    "policy/poddisruptionbudgets",
    "storage.k8s.io/csidrivers",
    "storage.k8s.io/csinodes",
    "storage.k8s.io/csistoragecapacities",
    "storage.k8s.io/volumeattachments",
];

/// Where objects are kept of kinds that leave their dependents behind unless a deletion says otherwise. They
/// are older than the garbage collector, and clients that delete them without options rely on it.
const ORPHANS_BY_DEFAULT: &[&str] = &["replicationcontrollers", "batch/jobs"];

/// Whether a deletion that does not say what becomes of dependents orphans them.
pub(crate) fn orphans_by_default(kind: &Kind) -> bool {
    ORPHANS_BY_DEFAULT.contains(&kind.storage.as_str())
}

/// Whether a PUT of an object that does not exist creates it.
pub(crate) fn is_made_by_update(kind: &Kind) -> bool {
    MADE_BY_UPDATE.contains(&kind.storage.as_str())
}

/// Whether an update has to say which revision it is of.
pub(crate) fn is_updated_at_a_revision(kind: &Kind) -> bool {
    kind.custom.is_some() || UPDATED_AT_A_REVISION.contains(&kind.storage.as_str())
}

/// Whether the rules of this kind look at all of the metadata of a changed object.
pub(crate) fn checks_all_metadata(kind: &Kind) -> bool {
    ALL_METADATA_ON_UPDATE.contains(&kind.storage.as_str())
}

/// Whether the answer to a deletion is the deleted object.
pub(crate) fn shows_deleted(kind: &Kind) -> bool {
    SHOWN_WHEN_DELETED.contains(&kind.storage.as_str())
}

/// The strategy of a kind.
pub(crate) fn find(kind: &Kind) -> &'static dyn Strategy {
    if kind.custom.is_some() {
        return &objects::CustomObjects;
    }
    ROWS.iter().find(|row| row.storage == kind.storage).map_or(&Ordinary, |row| row.strategy)
}

/// How names of a kind are checked.
pub(crate) fn name_rule(kind: &Kind) -> metadata::NameRule {
    validation::name_rule(kind).unwrap_or_else(|| find(kind).name_rule())
}

/// What a client is to be told of a valid object that it writes.
pub(crate) fn warnings(context: &Context<'_>, new: &Value, old: Option<&Value>) -> Vec<String> {
    warnings::of(context.kind, context.subresource, new, old)
}
