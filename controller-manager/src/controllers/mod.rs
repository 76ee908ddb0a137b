//! The table of controllers, in the order in which they start.
//!
//! To add one: write its file, add its module and its row here. Nothing else.

use crate::controller::{Definition, def};

mod replicaset;

/// Every controller there is.
pub(crate) static ALL: &[Definition] = &[def::<replicaset::ReplicaSetController>()];
