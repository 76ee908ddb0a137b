//! Which types the API knows by name, and how to get their JSON schemas.

use k8s_openapi::api::{
    admissionregistration::v1 as admissionregistration, apps::v1 as apps,
    authentication::v1 as authentication, authorization::v1 as authorization,
    autoscaling::v1 as autoscaling_v1, autoscaling::v2 as autoscaling, batch::v1 as batch,
    certificates::v1 as certificates, coordination::v1 as coordination, core::v1 as core,
    discovery::v1 as discovery, events::v1 as events, flowcontrol::v1 as flowcontrol,
    networking::v1 as networking, node::v1 as node, policy::v1 as policy, rbac::v1 as rbac,
    resource::v1 as resource, scheduling::v1 as scheduling, storage::v1 as storage,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as apiextensions;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1 as apiregistration;
use k8s_openapi::{ListableResource, Resource};
use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value};

/// A type that has a name of its own in the API.
pub(super) struct Root {
    pub(super) group: &'static str,
    pub(super) version: &'static str,
    pub(super) kind: &'static str,
    name: fn() -> String,
    add: fn(&mut SchemaGenerator),
    pub(super) listed: bool,
}

impl Root {
    pub(super) fn definition(&self) -> String {
        (self.name)()
    }

    /// Adds the definition and all that it refers to.
    pub(super) fn add(&self, generator: &mut SchemaGenerator) {
        (self.add)(generator);
    }
}

const fn def<T: Resource + JsonSchema>() -> Root {
    Root {
        group: T::GROUP,
        version: T::VERSION,
        kind: T::KIND,
        name: || T::schema_name().into_owned(),
        add: add::<T>,
        listed: false,
    }
}

/// A kind that is stored, and so has a list.
const fn listed<T: ListableResource + JsonSchema>() -> Root {
    Root { listed: true, ..def::<T>() }
}

/// A type of no kind's own, such as the options of a request.
const fn plain<T: JsonSchema>() -> Root {
    Root {
        group: "",
        version: "",
        kind: "",
        name: || T::schema_name().into_owned(),
        add: add::<T>,
        listed: false,
    }
}

fn add<T: JsonSchema>(generator: &mut SchemaGenerator) {
    generator.subschema_for::<T>();
}

pub(super) static ROOTS: &[Root] = &[
    listed::<core::ComponentStatus>(),
    listed::<core::ConfigMap>(),
    listed::<core::Endpoints>(),
    listed::<core::Event>(),
    listed::<core::LimitRange>(),
    listed::<core::Namespace>(),
    listed::<core::Node>(),
    listed::<core::PersistentVolume>(),
    listed::<core::PersistentVolumeClaim>(),
    listed::<core::Pod>(),
    listed::<core::PodTemplate>(),
    listed::<core::ReplicationController>(),
    listed::<core::ResourceQuota>(),
    listed::<core::Secret>(),
    listed::<core::Service>(),
    listed::<core::ServiceAccount>(),
    def::<core::Binding>(),
    listed::<apps::ControllerRevision>(),
    listed::<apps::DaemonSet>(),
    listed::<apps::Deployment>(),
    listed::<apps::ReplicaSet>(),
    listed::<apps::StatefulSet>(),
    listed::<events::Event>(),
    listed::<apiregistration::APIService>(),
    def::<authentication::SelfSubjectReview>(),
    def::<authentication::TokenRequest>(),
    def::<authentication::TokenReview>(),
    def::<authorization::LocalSubjectAccessReview>(),
    def::<authorization::SelfSubjectAccessReview>(),
    def::<authorization::SelfSubjectRulesReview>(),
    def::<authorization::SubjectAccessReview>(),
    def::<autoscaling_v1::Scale>(),
    listed::<autoscaling_v1::HorizontalPodAutoscaler>(),
    listed::<autoscaling::HorizontalPodAutoscaler>(),
    listed::<batch::CronJob>(),
    listed::<batch::Job>(),
    listed::<certificates::CertificateSigningRequest>(),
    listed::<networking::IPAddress>(),
    listed::<networking::Ingress>(),
    listed::<networking::IngressClass>(),
    listed::<networking::NetworkPolicy>(),
    listed::<networking::ServiceCIDR>(),
    def::<policy::Eviction>(),
    listed::<policy::PodDisruptionBudget>(),
    listed::<rbac::ClusterRole>(),
    listed::<rbac::ClusterRoleBinding>(),
    listed::<rbac::Role>(),
    listed::<rbac::RoleBinding>(),
    listed::<storage::CSIDriver>(),
    listed::<storage::CSINode>(),
    listed::<storage::CSIStorageCapacity>(),
    listed::<storage::StorageClass>(),
    listed::<storage::VolumeAttachment>(),
    listed::<storage::VolumeAttributesClass>(),
    listed::<admissionregistration::MutatingAdmissionPolicy>(),
    listed::<admissionregistration::MutatingAdmissionPolicyBinding>(),
    listed::<admissionregistration::MutatingWebhookConfiguration>(),
    listed::<admissionregistration::ValidatingAdmissionPolicy>(),
    listed::<admissionregistration::ValidatingAdmissionPolicyBinding>(),
    listed::<admissionregistration::ValidatingWebhookConfiguration>(),
    listed::<apiextensions::CustomResourceDefinition>(),
    listed::<scheduling::PriorityClass>(),
    listed::<coordination::Lease>(),
    listed::<node::RuntimeClass>(),
    listed::<discovery::EndpointSlice>(),
    listed::<resource::DeviceClass>(),
    listed::<resource::ResourceClaim>(),
    listed::<resource::ResourceClaimTemplate>(),
    listed::<resource::ResourceSlice>(),
    listed::<flowcontrol::FlowSchema>(),
    listed::<flowcontrol::PriorityLevelConfiguration>(),
    plain::<meta::APIGroupList>(),
    plain::<meta::APIResourceList>(),
    plain::<meta::APIVersions>(),
    plain::<meta::DeleteOptions>(),
    plain::<meta::ListMeta>(),
    plain::<meta::ObjectMeta>(),
    plain::<meta::Patch>(),
    plain::<meta::Status>(),
    plain::<meta::WatchEvent<RawExtension>>(),
];

/// A generator whose definitions refer to each other as an OpenAPI document's do.
pub(super) fn generator() -> SchemaGenerator {
    let settings = SchemaSettings::default().with(|s| {
        s.definitions_path = "/components/schemas".into();
        s.meta_schema = None;
    });
    settings.into_generator()
}

/// The JSON schemas of the root definition `name` and of all that it refers to.
pub(super) fn definitions_of(name: &str) -> Option<Map<String, Value>> {
    let root = ROOTS.iter().find(|r| r.definition() == name)?;
    let mut generator = generator();
    (root.add)(&mut generator);
    Some(generator.take_definitions(false).into_iter().collect())
}
