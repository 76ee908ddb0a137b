//! Requests without credentials: the user `system:anonymous`, who may do what RBAC gives it.

use std::sync::Arc;

use super::configuration::Configured;
use super::{Authenticator, Outcome, Presented, UNAUTHENTICATED, UserInfo};

/// Where requests without credentials are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Allowed {
    Nowhere,
    Everywhere,
    /// At exactly these paths.
    At(Vec<String>),
}

impl Allowed {
    fn covers(&self, path: &str) -> bool {
        match self {
            Self::Nowhere => false,
            Self::Everywhere => true,
            Self::At(paths) => paths.iter().any(|allowed| allowed == path),
        }
    }
}

pub(crate) struct Anonymous {
    pub(crate) configured: Arc<Configured>,
    /// Where the configuration says nothing.
    pub(crate) usual: Allowed,
}

impl Authenticator for Anonymous {
    fn authenticate(&self, presented: &Presented<'_>) -> Outcome {
        let settings = self.configured.settings();
        let allowed = settings.anonymous.as_ref().unwrap_or(&self.usual);
        if presented.headers.contains_key(http::header::AUTHORIZATION) || !allowed.covers(presented.path) {
            return Outcome::Unknown;
        }
        Outcome::User(UserInfo {
            name: "system:anonymous".to_owned(),
            groups: vec![UNAUTHENTICATED.to_owned()],
            ..UserInfo::default()
        })
    }
}
