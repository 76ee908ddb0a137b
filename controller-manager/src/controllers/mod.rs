//! The table of controllers, in the order in which they start.
//!
//! To add one: write its file, add its module and its row here. Nothing else.

use crate::controller::{Definition, def};

mod deployment;
mod endpoints;
mod endpointslice;
mod garbage_collector;
mod namespace;
mod replicaset;
mod root_ca_certificate_publisher;
mod serviceaccount;

/// Every controller there is.
pub(crate) static ALL: &[Definition] = &[
    def::<serviceaccount::ServiceAccountController>(),
    def::<root_ca_certificate_publisher::RootCaCertificatePublisher>(),
    def::<namespace::NamespaceController>(),
    def::<deployment::DeploymentController>(),
    def::<replicaset::ReplicaSetController>(),
    def::<endpointslice::EndpointSliceController>(),
    def::<endpoints::EndpointsController>(),
    def::<garbage_collector::GarbageCollector>(),
];
