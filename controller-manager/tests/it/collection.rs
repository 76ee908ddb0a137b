//! Namespaces and what belongs to them.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, ServiceAccount};
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use serde_json::json;

use crate::cluster::{Cluster, template};

#[tokio::test]
async fn each_namespace_gets_its_account_and_certificate() {
    let cluster = Cluster::start().await;
    cluster.create_namespace("team").await;
    let map = cluster
        .until_idle("account and certificate", || async {
            let account = cluster.api::<ServiceAccount>("team").get_opt("default").await.unwrap();
            let map = cluster.api::<ConfigMap>("team").get_opt("kube-root-ca.crt").await.unwrap();
            map.filter(|_| account.is_some())
        })
        .await;
    assert_eq!(map.data.unwrap()["ca.crt"], "the certificate");
    cluster.api::<ServiceAccount>("team").delete("default", &DeleteParams::default()).await.unwrap();
    cluster
        .until_idle("the account again", || async {
            cluster.api::<ServiceAccount>("team").get_opt("default").await.unwrap()
        })
        .await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_deleted_namespace_goes_with_all_that_is_in_it() {
    let cluster = Cluster::start().await;
    cluster.create_namespace("team").await;
    cluster
        .until_idle("the account", || async {
            cluster.api::<ServiceAccount>("team").get_opt("default").await.unwrap()
        })
        .await;
    let deployment = json!({"metadata": {"name": "web", "namespace": "team"}, "spec": {
        "replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template("web", "v1"),
    }});
    cluster.create::<Deployment>(deployment).await;
    cluster
        .until_idle("two pods", || async {
            let pods = cluster.api::<Pod>("team").list(&ListParams::default()).await.unwrap();
            (pods.items.len() == 2).then_some(())
        })
        .await;
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    namespaces.delete("team", &DeleteParams::default()).await.unwrap();
    cluster
        .until_idle("the namespace gone", || async {
            namespaces.get_opt("team").await.unwrap().is_none().then_some(())
        })
        .await;
    let pods: Api<Pod> = Api::all(cluster.client.clone());
    assert!(pods.list(&ListParams::default()).await.unwrap().items.is_empty());
    cluster.stop().await;
}

#[tokio::test]
async fn an_object_whose_owner_never_was_is_collected() {
    let cluster = Cluster::start().await;
    let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "nobody", "uid": "11111111-2222-3333-4444-555555555555"});
    cluster.create::<ConfigMap>(json!({"metadata": {"name": "child", "ownerReferences": [owner]}})).await;
    cluster
        .until_idle("the child gone", || async {
            cluster.api::<ConfigMap>("default").get_opt("child").await.unwrap().is_none().then_some(())
        })
        .await;
    cluster.stop().await;
}
