//! What the Secrets of bootstrap tokens say: which token it is, until when, and whether it signs.

use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::Secret;

/// The type of these Secrets, as a selector of the API server.
pub(crate) const SELECTOR: &str = "type=bootstrap.kubernetes.io/token";
/// Where they are looked for.
pub(crate) const NAMESPACE: &str = "kube-system";

/// A token that signs the information about the cluster.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Signing {
    pub id: String,
    pub secret: String,
}

/// The token of a Secret, if it is whole and meant for signing. Says nothing of its end.
pub(crate) fn signing(secret: &Secret) -> Option<Signing> {
    let named = secret.metadata.name.as_deref()?.strip_prefix("bootstrap-token-")?;
    let id = text(secret, "token-id").filter(|id| id == named && is_id(id))?;
    let key = text(secret, "token-secret").filter(|key| !key.is_empty())?;
    (text(secret, "usage-bootstrap-signing")? == "true").then_some(Signing { id, secret: key })
}

/// When the token ends; never without an expiration, and long ago if that cannot be read.
pub(crate) fn end_of(secret: &Secret) -> Option<DateTime<Utc>> {
    let expiration = text(secret, "expiration").filter(|text| !text.is_empty())?;
    let parsed = DateTime::parse_from_rfc3339(&expiration);
    Some(parsed.map_or(DateTime::UNIX_EPOCH, |end| end.to_utc()))
}

fn text(secret: &Secret, key: &str) -> Option<String> {
    String::from_utf8(secret.data.as_ref()?.get(key)?.0.clone()).ok()
}

fn is_id(id: &str) -> bool {
    id.len() == 6 && id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

#[cfg(test)]
pub(crate) mod tests {
    use k8s_openapi::ByteString;
    use serde_json::json;

    use super::*;

    /// A token that signs, with these changes to its data.
    pub(crate) fn token(id: &str, change: &[(&str, &str)]) -> Secret {
        let mut secret: Secret = serde_json::from_value(json!({
            "metadata": {"name": format!("bootstrap-token-{id}"), "namespace": NAMESPACE, "uid": "u", "resourceVersion": "1"},
            "type": "bootstrap.kubernetes.io/token",
        }))
        .unwrap();
        let usual =
            [("token-id", id), ("token-secret", "0123456789abcdef"), ("usage-bootstrap-signing", "true")];
        let data = usual.iter().chain(change);
        secret.data = Some(
            data.map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec()))).collect(),
        );
        secret
    }

    #[test]
    fn a_token_signs_only_if_it_is_whole_and_meant_to() {
        assert_eq!(signing(&token("abcdef", &[])).unwrap().id, "abcdef");
        for change in [
            ("usage-bootstrap-signing", "false"),
            ("token-id", "fedcba"),
            ("token-secret", ""),
            ("token-id", "ABCDEF"),
        ] {
            assert_eq!(signing(&token("abcdef", &[change])), None, "{change:?}");
        }
    }

    #[test]
    fn an_end_that_cannot_be_read_has_passed() {
        assert_eq!(end_of(&token("abcdef", &[])), None);
        assert_eq!(end_of(&token("abcdef", &[("expiration", "tomorrow")])), Some(DateTime::UNIX_EPOCH));
        let end = end_of(&token("abcdef", &[("expiration", "2030-01-02T03:04:05+01:00")])).unwrap();
        assert_eq!(end.to_rfc3339(), "2030-01-02T02:04:05+00:00");
    }
}
