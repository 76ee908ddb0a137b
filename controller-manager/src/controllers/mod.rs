//! The table of controllers, in the order in which they start.
//!
//! To add one: write its file, add its module and its row here. Nothing else.

use crate::controller::{Definition, def};

mod bootstrap_signer;
mod certificatesigningrequest_approving;
mod certificatesigningrequest_cleaner;
mod certificatesigningrequest_signing;
mod clusterrole_aggregation;
mod cronjob;
mod daemonset;
mod deployment;
mod device_taint_eviction;
mod disruption;
mod endpoints;
mod endpointslice;
mod endpointslice_mirroring;
mod ephemeral_volume;
mod garbage_collector;
mod horizontal_pod_autoscaler;
mod job;
mod namespace;
mod node_ipam;
mod node_lifecycle;
mod persistent_volume_binder;
mod persistent_volume_claim_protection;
mod persistent_volume_expander;
mod persistent_volume_host_path_provisioner;
mod persistent_volume_protection;
mod pod_garbage_collector;
mod replicaset;
mod replicationcontroller;
mod resource_claim;
mod resource_quota;
mod root_ca_certificate_publisher;
mod service_cidr;
mod serviceaccount;
mod serviceaccount_token;
mod statefulset;
mod taint_eviction;
mod token_cleaner;
mod ttl_after_finished;
mod validatingadmissionpolicy_status;
mod volumeattributesclass_protection;

/// Every controller there is.
pub(crate) static ALL: &[Definition] = &[
    def::<serviceaccount::ServiceAccountController>(),
    def::<serviceaccount_token::ServiceAccountToken>(),
    def::<root_ca_certificate_publisher::RootCaCertificatePublisher>(),
    def::<clusterrole_aggregation::ClusterRoleAggregation>(),
    def::<certificatesigningrequest_approving::Approving>(),
    def::<certificatesigningrequest_signing::Signing>(),
    def::<certificatesigningrequest_cleaner::Cleaner>(),
    def::<bootstrap_signer::BootstrapSigner>(),
    def::<token_cleaner::TokenCleaner>(),
    def::<namespace::NamespaceController>(),
    def::<resource_quota::ResourceQuotaController>(),
    def::<deployment::DeploymentController>(),
    def::<replicaset::ReplicaSetController>(),
    def::<replicationcontroller::ReplicationControllerController>(),
    def::<statefulset::StatefulSetController>(),
    def::<daemonset::DaemonSetController>(),
    def::<job::JobController>(),
    def::<cronjob::CronJobController>(),
    def::<ttl_after_finished::TtlAfterFinished>(),
    def::<validatingadmissionpolicy_status::ValidatingAdmissionPolicyStatus>(),
    def::<endpointslice::EndpointSliceController>(),
    def::<endpoints::EndpointsController>(),
    def::<endpointslice_mirroring::EndpointSliceMirroring>(),
    def::<service_cidr::ServiceCidrController>(),
    def::<disruption::DisruptionController>(),
    def::<node_ipam::NodeIpam>(),
    def::<node_lifecycle::NodeLifecycle>(),
    def::<taint_eviction::TaintEviction>(),
    def::<device_taint_eviction::DeviceTaintEviction>(),
    def::<pod_garbage_collector::PodGarbageCollector>(),
    def::<horizontal_pod_autoscaler::HorizontalPodAutoscaling>(),
    def::<resource_claim::ResourceClaims>(),
    def::<persistent_volume_binder::PersistentVolumeBinder>(),
    def::<persistent_volume_host_path_provisioner::HostPathProvisioner>(),
    def::<persistent_volume_expander::PersistentVolumeExpander>(),
    def::<ephemeral_volume::EphemeralVolume>(),
    def::<persistent_volume_claim_protection::PersistentVolumeClaimProtection>(),
    def::<persistent_volume_protection::PersistentVolumeProtection>(),
    def::<volumeattributesclass_protection::VolumeAttributesClassProtection>(),
    def::<garbage_collector::GarbageCollector>(),
];
