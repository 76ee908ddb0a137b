//! `root-ca-certificate-publisher`: gives each namespace the cluster's CA certificate, for its pods to trust.
//!
//! # Watches
//! Namespaces, and the ConfigMaps named `kube-root-ca.crt`.
//!
//! # Writes
//! ConfigMaps.
//!
//! # Guarantees
//! Every active namespace has the ConfigMap with the certificate the process was started with; it is
//! restored when it is changed or deleted.
//!
//! # Differs from Kubernetes
//! Nothing known.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};

use crate::controller::{Action, Controller, ReconcileError, Setup};
use crate::informers::Informer;
use crate::key::ObjectKey;
use crate::owners::{annotation, is_deleting};
use crate::pod_control::is_namespace_going;

const NAME: &str = "kube-root-ca.crt";
const DESCRIBED: &str = "kubernetes.io/description";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

pub(crate) struct RootCaCertificatePublisher {
    client: Client,
    certificate: Option<String>,
    namespaces: Arc<Informer<Namespace>>,
    maps: Arc<Informer<ConfigMap>>,
}

fn wanted(certificate: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            annotations: Some([(DESCRIBED.to_owned(), DESCRIPTION.to_owned())].into()),
            ..ObjectMeta::default()
        },
        data: Some([("ca.crt".to_owned(), certificate.to_owned())].into()),
        ..ConfigMap::default()
    }
}

/// Whether the certificate is the right one, and somebody says what it is for.
fn is_as_wanted(map: &ConfigMap, wanted: &ConfigMap) -> bool {
    map.data == wanted.data
        && annotation(&map.metadata, DESCRIBED).is_some_and(|description| !description.is_empty())
}

#[async_trait]
impl Controller for RootCaCertificatePublisher {
    const NAME: &'static str = "root-ca-certificate-publisher-controller";

    fn watches(setup: &Setup<'_>) -> Self {
        let namespaces = setup.watch_own::<Namespace>();
        let maps = setup.read_where::<ConfigMap>("metadata.name=kube-root-ca.crt");
        let of_namespace =
            |map: &ConfigMap| ObjectKey::cluster(map.metadata.namespace.clone().unwrap_or_default());
        setup.subscribe(&maps, move |map| vec![of_namespace(map)]);
        Self { client: setup.client.clone(), certificate: setup.config.root_ca.clone(), namespaces, maps }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        let Some(certificate) = &self.certificate else { return Ok(Action::Done) };
        if self.namespaces.get(key).is_none_or(|namespace| is_deleting(&namespace.metadata)) {
            return Ok(Action::Done);
        }
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &key.name);
        let wanted = wanted(certificate);
        match self.maps.get(&ObjectKey::new(&key.name, NAME)) {
            Some(map) if is_as_wanted(&map, &wanted) => {}
            Some(map) => {
                let mut restored = ConfigMap { data: wanted.data, ..ConfigMap::clone(&map) };
                let described = wanted.metadata.annotations.unwrap_or_default();
                restored.metadata.annotations.get_or_insert_default().extend(described);
                api.replace(NAME, &PostParams::default(), &restored).await?;
            }
            None => match api.create(&PostParams::default(), &wanted).await {
                Err(error) if !is_namespace_going(&error) => return Err(error.into()),
                _ => {}
            },
        }
        Ok(Action::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_that_was_changed_is_restored() {
        let right = wanted("a");
        assert!(is_as_wanted(&right, &wanted("a")));
        assert!(!is_as_wanted(&right, &wanted("b")));
        let mut undescribed = right;
        undescribed.metadata.annotations = None;
        assert!(!is_as_wanted(&undescribed, &wanted("a")));
    }
}
