//! LimitRanger.

use super::Plugin;

pub(crate) struct LimitRanger;

impl Plugin for LimitRanger {
    const NAME: &'static str = "LimitRanger";
}
