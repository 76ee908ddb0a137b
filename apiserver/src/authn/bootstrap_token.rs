//! Bootstrap tokens: Secrets of `kube-system` that let a machine join. `ID.SECRET` is the user
//! `system:bootstrap:ID`, in the group of all that bootstrap and those that the Secret names.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::{DateTime, Utc};
use component_base::clock::Clock;
use serde_json::Value;

use super::{Authenticator, Outcome, Presented, UserInfo, authenticated};
use crate::view::View;

const TYPE: &str = "bootstrap.kubernetes.io/token";
const GROUP: &str = "system:bootstrappers";

pub(crate) struct BootstrapToken {
    view: Arc<dyn View>,
    clock: Clock,
}

impl BootstrapToken {
    pub(crate) fn new(view: Arc<dyn View>, clock: Clock) -> Self {
        Self { view, clock }
    }
}

impl Authenticator for BootstrapToken {
    fn authenticate(&self, presented: &Presented<'_>) -> Outcome {
        let token = presented.bearer().filter(|_| presented.are_for_server()).and_then(split);
        let Some((id, secret)) = token else { return Outcome::Unknown };
        let stored = self.view.object("secrets", "kube-system", &format!("bootstrap-token-{id}"));
        match stored.and_then(|stored| user_of(&stored, id, secret, self.clock.now())) {
            Some(user) => Outcome::User(user),
            None => Outcome::Unknown,
        }
    }
}

/// Six and sixteen small letters or digits.
fn split(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    (id.len() == 6 && secret.len() == 16 && plain(id) && plain(secret)).then_some((id, secret))
}

/// The user of a Secret, if the token is its own and still good.
fn user_of(stored: &Value, id: &str, secret: &str, now: DateTime<Utc>) -> Option<UserInfo> {
    let data = |key: &str| {
        let decoded = BASE64.decode(stored["data"][key].as_str()?).ok()?;
        String::from_utf8(decoded).ok()
    };
    let is_live = stored["type"] == TYPE && stored["metadata"]["deletionTimestamp"].is_null();
    let same = data("token-id").as_deref() == Some(id)
        && data("token-secret").is_some_and(|held| is_equal(held.as_bytes(), secret.as_bytes()));
    if !is_live || !same || data("usage-bootstrap-authentication").as_deref() != Some("true") {
        return None;
    }
    if let Some(expiration) = data("expiration").filter(|text| !text.is_empty()) {
        let end = DateTime::parse_from_rfc3339(&expiration).ok()?;
        if end <= now {
            return None;
        }
    }
    let extra = data("auth-extra-groups").unwrap_or_default();
    let extra: Vec<&str> = extra.split(',').filter(|group| !group.is_empty()).collect();
    if !extra.iter().all(|group| is_group(group)) {
        return None;
    }
    let groups: Vec<&str> = [GROUP].into_iter().chain(extra).collect();
    Some(authenticated(format!("system:bootstrap:{id}"), &groups))
}

/// `system:bootstrappers:` and small letters, digits, colons and dashes; the last is a letter or digit.
fn is_group(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("system:bootstrappers:") else { return false };
    let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    rest.bytes().all(|b| letter(b) || b == b':' || b == b'-') && rest.bytes().last().is_some_and(letter)
}

/// Compares in a time that does not tell where the difference is.
fn is_equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |found, (a, b)| found | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SECRET: &str = "0123456789abcdef";

    fn stored(change: &[(&str, &str)]) -> Value {
        let mut data = serde_json::Map::new();
        let usual =
            [("token-id", "abcdef"), ("token-secret", SECRET), ("usage-bootstrap-authentication", "true")];
        for (key, value) in usual.iter().chain(change) {
            data.insert((*key).to_owned(), BASE64.encode(value).into());
        }
        json!({"type": TYPE, "metadata": {"name": "bootstrap-token-abcdef"}, "data": data})
    }

    fn user(change: &[(&str, &str)]) -> Option<UserInfo> {
        user_of(&stored(change), "abcdef", SECRET, DateTime::from_timestamp(1_800_000_000, 0).unwrap())
    }

    #[test]
    fn a_token_is_a_bootstrapping_user_in_the_groups_of_its_secret() {
        let found = user(&[("auth-extra-groups", "system:bootstrappers:workers")]).unwrap();
        assert_eq!(found.name, "system:bootstrap:abcdef");
        assert_eq!(found.groups, [GROUP, "system:bootstrappers:workers", super::super::AUTHENTICATED]);
    }

    #[test]
    fn what_has_ended_or_is_for_something_else_is_no_token() {
        for change in [
            ("expiration", "2020-01-01T00:00:00Z"),
            ("expiration", "tomorrow"),
            ("usage-bootstrap-authentication", "false"),
            ("token-secret", "ffffffffffffffff"),
            ("auth-extra-groups", "system:masters"),
        ] {
            assert_eq!(user(&[change]), None, "{change:?}");
        }
        assert!(user(&[("expiration", "2099-01-01T00:00:00Z")]).is_some());
    }

    #[test]
    fn only_six_and_sixteen_letters_are_such_a_token() {
        assert!(split("abcdef.0123456789abcdef").is_some());
        for bad in ["abcdef", "ABCDEF.0123456789abcdef", "abcde.0123456789abcdef", "a.b.c"] {
            assert_eq!(split(bad), None, "{bad}");
        }
    }
}
