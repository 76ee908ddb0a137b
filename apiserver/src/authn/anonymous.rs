//! Requests without credentials: the user `system:anonymous`, who may do what RBAC gives it.

use super::{Authenticator, Outcome, Presented, UNAUTHENTICATED, UserInfo};

pub(crate) struct Anonymous;

impl Authenticator for Anonymous {
    fn authenticate(&self, presented: &Presented<'_>) -> Outcome {
        if presented.headers.contains_key(http::header::AUTHORIZATION) {
            return Outcome::Unknown;
        }
        Outcome::User(UserInfo {
            name: "system:anonymous".to_owned(),
            groups: vec![UNAUTHENTICATED.to_owned()],
            ..UserInfo::default()
        })
    }
}
