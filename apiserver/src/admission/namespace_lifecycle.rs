//! NamespaceLifecycle.

use super::Plugin;

pub(crate) struct NamespaceLifecycle;

impl Plugin for NamespaceLifecycle {
    const NAME: &'static str = "NamespaceLifecycle";
}
