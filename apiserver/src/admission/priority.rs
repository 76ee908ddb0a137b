//! Priority.

use super::Plugin;

pub(crate) struct Priority;

impl Plugin for Priority {
    const NAME: &'static str = "Priority";
}
