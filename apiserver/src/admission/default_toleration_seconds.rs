//! DefaultTolerationSeconds.

use super::Plugin;

pub(crate) struct DefaultTolerationSeconds;

impl Plugin for DefaultTolerationSeconds {
    const NAME: &'static str = "DefaultTolerationSeconds";
}
