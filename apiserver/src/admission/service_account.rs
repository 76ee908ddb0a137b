//! ServiceAccount.

use super::Plugin;

pub(crate) struct ServiceAccount;

impl Plugin for ServiceAccount {
    const NAME: &'static str = "ServiceAccount";
}
