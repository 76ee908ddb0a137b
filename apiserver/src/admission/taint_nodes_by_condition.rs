//! TaintNodesByCondition.

use super::Plugin;

pub(crate) struct TaintNodesByCondition;

impl Plugin for TaintNodesByCondition {
    const NAME: &'static str = "TaintNodesByCondition";
}
