//! RbacEscalation.

use super::Plugin;

pub(crate) struct RbacEscalation;

impl Plugin for RbacEscalation {
    const NAME: &'static str = "RBACEscalation";
}
