//! `bootstrap-signer-controller`: signs what a machine has to know to join, once for each bootstrap token.
//!
//! # Watches
//! The ConfigMap `kube-public/cluster-info`, and the Secrets of bootstrap tokens in `kube-system`.
//!
//! # Writes
//! The data `jws-kubeconfig-ID` of the ConfigMap.
//!
//! # Guarantees
//! Each token that signs (`usage-bootstrap-signing`) and has not ended has a detached JWS over the data
//! `kubeconfig`, by which a machine that knows the token finds out that the cluster is the one it was sent to;
//! signatures of tokens that are gone are removed.
//!
//! # Differs from Kubernetes
//! It runs unless it is excluded; kube-controller-manager has it off until it is asked for.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use component_base::clock::Clock;
use jsonwebtoken::{Algorithm, EncodingKey};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::PostParams;
use kube::{Api, Client};

use crate::bootstrap_token::{self, NAMESPACE, SELECTOR, Signing};
use crate::controller::{Action, Controller, ReconcileError, Setup};
use crate::informers::Informer;
use crate::key::ObjectKey;

const MAP_NAMESPACE: &str = "kube-public";
const MAP: &str = "cluster-info";
const SIGNED: &str = "kubeconfig";
const SIGNATURE: &str = "jws-kubeconfig-";

pub(crate) struct BootstrapSigner {
    client: Client,
    clock: Clock,
    maps: Arc<Informer<ConfigMap>>,
    tokens: Arc<Informer<Secret>>,
}

/// The data that the map should have, and the time at which that changes by itself.
fn plan(
    map: &ConfigMap,
    tokens: &[Arc<Secret>],
    now: DateTime<Utc>,
) -> (Option<BTreeMap<String, String>>, Option<DateTime<Utc>>) {
    let Some(data) = &map.data else { return (None, None) };
    let Some(content) = data.get(SIGNED) else { return (None, None) };
    let mut wanted = data.clone();
    wanted.retain(|key, _| !key.starts_with(SIGNATURE));
    let mut next: Option<DateTime<Utc>> = None;
    for token in tokens {
        let (end, Some(signing)) = (bootstrap_token::end_of(token), bootstrap_token::signing(token)) else {
            continue;
        };
        if end.is_some_and(|end| end <= now) {
            continue;
        }
        if let Some(signature) = sign(content, &signing) {
            wanted.insert(format!("{SIGNATURE}{}", signing.id), signature);
        }
        next = next.into_iter().chain(end).min();
    }
    ((wanted != *data).then_some(wanted), next)
}

/// A JWS (RFC 7515) whose content is left out between its two dots.
fn sign(content: &str, token: &Signing) -> Option<String> {
    let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"HS256","kid":"{}"}}"#, token.id));
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
    let key = EncodingKey::from_secret(token.secret.as_bytes());
    match jsonwebtoken::crypto::sign(signed.as_bytes(), &key, Algorithm::HS256) {
        Ok(signature) => Some(format!("{header}..{signature}")),
        Err(error) => {
            tracing::error!(%error, token = token.id, "a bootstrap token cannot sign");
            None
        }
    }
}

#[async_trait]
impl Controller for BootstrapSigner {
    const NAME: &'static str = "bootstrap-signer-controller";

    fn watches(setup: &Setup<'_>) -> Self {
        let only = || vec![ObjectKey::new(MAP_NAMESPACE, MAP)];
        let (maps, tokens) = (
            setup.read_where::<ConfigMap>("metadata.name=cluster-info"),
            setup.read_where::<Secret>(SELECTOR),
        );
        setup.subscribe(&maps, move |_| only());
        setup.subscribe(&tokens, move |_| only());
        Self { client: setup.client.clone(), clock: setup.clock, maps, tokens }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        let Some(map) = self.maps.get(key) else { return Ok(Action::Done) };
        let now = self.clock.now();
        let (data, next) = plan(&map, &self.tokens.in_namespace(NAMESPACE), now);
        if let Some(data) = data {
            let signed = ConfigMap { data: Some(data), ..ConfigMap::clone(&map) };
            let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &key.namespace);
            api.replace(&key.name, &PostParams::default(), &signed).await?;
        }
        Ok(Action::after(next.and_then(|end| (end - now).to_std().ok())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap_token::tests::token;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).unwrap()
    }

    fn map(data: &[(&str, &str)]) -> ConfigMap {
        let data = data.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        ConfigMap { data: Some(data), ..ConfigMap::default() }
    }

    fn keys(map: &ConfigMap, tokens: &[Secret]) -> Option<Vec<String>> {
        let tokens: Vec<_> = tokens.iter().cloned().map(Arc::new).collect();
        plan(map, &tokens, now()).0.map(|data| data.into_keys().collect())
    }

    #[test]
    fn each_token_signs_and_those_that_ended_do_not() {
        let tokens = [
            token("abcdef", &[]),
            token("ghijkl", &[("usage-bootstrap-signing", "false")]),
            token("mnopqr", &[("expiration", "2020-01-01T00:00:00Z")]),
        ];
        let with_old = map(&[("kubeconfig", "x"), ("jws-kubeconfig-mnopqr", "y"), ("other", "z")]);
        assert_eq!(keys(&with_old, &tokens).unwrap(), ["jws-kubeconfig-abcdef", "kubeconfig", "other"]);
    }

    #[test]
    fn a_map_without_kubeconfig_or_with_all_signatures_is_left_alone() {
        assert_eq!(keys(&map(&[("other", "x")]), &[token("abcdef", &[])]), None);
        let one = Arc::new(token("abcdef", &[("expiration", "2030-01-01T00:00:00Z")]));
        let (data, next) = plan(&map(&[("kubeconfig", "x")]), std::slice::from_ref(&one), now());
        assert_eq!(next.unwrap().to_rfc3339(), "2030-01-01T00:00:00+00:00");
        let signed = ConfigMap { data, ..ConfigMap::default() };
        assert_eq!(plan(&signed, &[one], now()).0, None);
    }

    #[test]
    fn a_signature_is_a_jws_without_its_content() {
        let signing = Signing { id: "abcdef".to_owned(), secret: "0123456789abcdef".to_owned() };
        let signature = sign("content", &signing).unwrap();
        let (header, rest) = signature.split_once("..").unwrap();
        assert_eq!(URL_SAFE_NO_PAD.decode(header).unwrap(), br#"{"alg":"HS256","kid":"abcdef"}"#);
        // HMAC-SHA256 by another program over the same header and content.
        assert_eq!(rest, "psz1NayrXM3IaFzKZGsb5n_mBl7MjtlsZ1xE8MRmF_4");
    }
}
