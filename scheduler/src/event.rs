//! What happens in the cluster that may make a pod schedulable which was not.

use std::sync::Arc;

use crate::node::NodeFacts;
use crate::pod::PodInfo;
use crate::volumes::ClaimKey;

/// One change, with what was before where that matters.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ClusterEvent<'a> {
    NodeAdded(&'a Arc<NodeFacts>),
    NodeUpdated {
        old: &'a Arc<NodeFacts>,
        new: &'a Arc<NodeFacts>,
    },
    /// A pod is on a node that was on none.
    PodPlaced(&'a PodInfo),
    /// A pod on a node changed (labels, requests, or it is being deleted).
    PlacedPodUpdated {
        old: &'a PodInfo,
        new: &'a PodInfo,
    },
    /// A pod left its node.
    PodRemoved(&'a PodInfo),
    /// The waiting pod itself changed.
    PodUpdated {
        old: &'a PodInfo,
        new: &'a PodInfo,
    },
    /// Labels of a namespace changed.
    NamespaceUpdated,
    /// A claim came or changed.
    ClaimChanged(&'a ClaimKey),
    /// A volume came or changed.
    VolumeChanged,
    /// A class of storage came or changed.
    StorageClassChanged,
}

/// The kind of an event, for tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventKind {
    NodeAdded,
    NodeUpdated,
    PodPlaced,
    PlacedPodUpdated,
    PodRemoved,
    PodUpdated,
    NamespaceUpdated,
    ClaimChanged,
    VolumeChanged,
    StorageClassChanged,
}

impl ClusterEvent<'_> {
    pub(crate) fn kind(&self) -> EventKind {
        match self {
            Self::NodeAdded(_) => EventKind::NodeAdded,
            Self::NodeUpdated { .. } => EventKind::NodeUpdated,
            Self::PodPlaced(_) => EventKind::PodPlaced,
            Self::PlacedPodUpdated { .. } => EventKind::PlacedPodUpdated,
            Self::PodRemoved(_) => EventKind::PodRemoved,
            Self::PodUpdated { .. } => EventKind::PodUpdated,
            Self::NamespaceUpdated => EventKind::NamespaceUpdated,
            Self::ClaimChanged(_) => EventKind::ClaimChanged,
            Self::VolumeChanged => EventKind::VolumeChanged,
            Self::StorageClassChanged => EventKind::StorageClassChanged,
        }
    }

    /// The node that was added or changed, as it is now.
    pub(crate) fn node(&self) -> Option<&NodeFacts> {
        match self {
            Self::NodeAdded(node) | Self::NodeUpdated { new: node, .. } => Some(node),
            _ => None,
        }
    }
}

/// A row of a plugin's table: on this kind of event, can a pod that the plugin refused become schedulable?
///
/// `helps` may answer yes too often (the pod is tried in vain) but never no wrongly (the pod would wait until
/// the queue's flush).
#[derive(Clone, Copy)]
pub(crate) struct Hint {
    pub(crate) on: EventKind,
    pub(crate) helps: fn(&PodInfo, &ClusterEvent<'_>) -> bool,
}

/// For rows where the kind of the event says all.
pub(crate) fn always(_pod: &PodInfo, _event: &ClusterEvent<'_>) -> bool {
    true
}
