//! NodeRestriction.

use super::Plugin;

pub(crate) struct NodeRestriction;

impl Plugin for NodeRestriction {
    const NAME: &'static str = "NodeRestriction";
}
