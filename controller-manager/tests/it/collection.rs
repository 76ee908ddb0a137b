//! Namespaces and what belongs to them.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Pod, ServiceAccount};
use kube::api::{DeleteParams, DynamicObject, ListParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

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

/// A ConfigMap owned by others, each of which it holds up.
async fn map(cluster: &Cluster, name: &str, owners: &[&ConfigMap]) -> ConfigMap {
    let owners: Vec<Value> = owners.iter().map(|owner| reference("v1", "ConfigMap", *owner)).collect();
    cluster.create(json!({"metadata": {"name": name, "ownerReferences": owners}})).await
}

fn reference<K: ResourceExt>(version: &str, kind: &str, owner: &K) -> Value {
    json!({"apiVersion": version, "kind": kind, "name": owner.name_any(), "uid": owner.uid(),
        "blockOwnerDeletion": true})
}

async fn until_gone(cluster: &Cluster, names: &[&str]) {
    let all_gone = || async {
        let maps = cluster.list::<ConfigMap>("").await;
        (!maps.iter().any(|map| names.contains(&map.name_any().as_str()))).then_some(())
    };
    cluster.until_idle(&format!("{names:?} gone"), all_gone).await;
}

#[tokio::test]
async fn a_circle_of_owners_does_not_hold_up_its_own_deletion() {
    let cluster = Cluster::start().await;
    let first = map(&cluster, "first", &[]).await;
    let second = map(&cluster, "second", &[&first]).await;
    let third = map(&cluster, "third", &[&second]).await;
    let circle = json!({"metadata": {"ownerReferences": [reference("v1", "ConfigMap", &third)]}});
    cluster.patch::<ConfigMap>("first", circle).await;
    cluster.api::<ConfigMap>("default").delete("first", &DeleteParams::foreground()).await.unwrap();
    until_gone(&cluster, &["first", "second", "third"]).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_dependent_with_another_living_owner_outlives_the_one_that_waits() {
    let cluster = Cluster::start().await;
    let (going, staying) = (map(&cluster, "going", &[]).await, map(&cluster, "staying", &[]).await);
    map(&cluster, "shared", &[&going, &staying]).await;
    map(&cluster, "single", &[&going]).await;
    cluster.api::<ConfigMap>("default").delete("going", &DeleteParams::foreground()).await.unwrap();
    until_gone(&cluster, &["going", "single"]).await;
    let shared = cluster.api::<ConfigMap>("default").get("shared").await.unwrap();
    assert_eq!(shared.owner_references().len(), 1);
    assert_eq!(shared.owner_references()[0].name, "staying");
    assert!(shared.metadata.deletion_timestamp.is_none());
    cluster.stop().await;
}

#[tokio::test]
async fn an_owner_deleted_in_the_foreground_stays_until_the_last_dependent_is_gone() {
    let cluster = Cluster::start().await;
    let owner = map(&cluster, "owner", &[]).await;
    let child = json!({"metadata": {"name": "child", "finalizers": ["example.org/keep"],
        "ownerReferences": [reference("v1", "ConfigMap", &owner)]}});
    cluster.create::<ConfigMap>(child).await;
    let maps = cluster.api::<ConfigMap>("default");
    maps.delete("owner", &DeleteParams::foreground()).await.unwrap();
    cluster
        .until_idle("the child going", || async {
            maps.get("child").await.unwrap().metadata.deletion_timestamp
        })
        .await;
    assert_eq!(maps.get("owner").await.unwrap().finalizers(), ["foregroundDeletion"]);
    cluster.patch::<ConfigMap>("child", json!({"metadata": {"finalizers": null}})).await;
    until_gone(&cluster, &["owner", "child"]).await;
    cluster.stop().await;
}

#[tokio::test]
async fn orphans_stay_without_their_owner() {
    let cluster = Cluster::start().await;
    let owner = map(&cluster, "owner", &[]).await;
    map(&cluster, "child", &[&owner]).await;
    cluster.api::<ConfigMap>("default").delete("owner", &DeleteParams::orphan()).await.unwrap();
    until_gone(&cluster, &["owner"]).await;
    let child = cluster.api::<ConfigMap>("default").get("child").await.unwrap();
    assert!(child.owner_references().is_empty());
    cluster.stop().await;
}

#[tokio::test]
async fn an_owner_in_another_namespace_is_reported_and_counts_as_absent() {
    let cluster = Cluster::start().await;
    let owner = map(&cluster, "owner", &[]).await;
    cluster.create_namespace("team").await;
    let child = json!({"metadata": {"name": "child", "namespace": "team",
        "ownerReferences": [reference("v1", "ConfigMap", &owner)]}});
    cluster.create::<ConfigMap>(child).await;
    let event = cluster
        .until_idle("the event", || async {
            let events = cluster.api::<Event>("team").list(&ListParams::default()).await.unwrap();
            events.items.into_iter().find(|event| event.reason.as_deref() == Some("OwnerRefInvalidNamespace"))
        })
        .await;
    assert!(event.message.unwrap().ends_with("does not exist in namespace \"team\""));
    let maps = cluster.api::<ConfigMap>("team");
    cluster
        .until_idle("the child gone", || async {
            maps.get_opt("child").await.unwrap().is_none().then_some(())
        })
        .await;
    cluster.stop().await;
}

/// Defines the namespaced kind `Widget` of `example.org/v1`.
pub(crate) async fn define_widgets(cluster: &Cluster) -> ApiResource {
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.org"},
        "spec": {"group": "example.org", "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}});
    let kind = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let api: Api<DynamicObject> = Api::all_with(cluster.client.clone(), &ApiResource::from_gvk(&kind));
    let definition: DynamicObject = serde_json::from_value(definition).unwrap();
    api.create(&PostParams::default(), &definition).await.unwrap();
    ApiResource::from_gvk(&GroupVersionKind::gvk("example.org", "v1", "Widget"))
}

pub(crate) async fn create_widget(
    cluster: &Cluster,
    kind: &ApiResource,
    namespace: &str,
    name: &str,
) -> DynamicObject {
    let api: Api<DynamicObject> = Api::namespaced_with(cluster.client.clone(), namespace, kind);
    api.create(&PostParams::default(), &DynamicObject::new(name, kind)).await.unwrap()
}

#[tokio::test]
async fn what_custom_objects_own_goes_with_them_and_with_their_kind() {
    let cluster = Cluster::start().await;
    let kind = define_widgets(&cluster).await;
    let api: Api<DynamicObject> = Api::default_namespaced_with(cluster.client.clone(), &kind);
    for name in ["one", "two"] {
        let widget = create_widget(&cluster, &kind, "default", name).await;
        let owner = reference("example.org/v1", "Widget", &widget);
        let child = json!({"metadata": {"name": name, "ownerReferences": [owner]}});
        cluster.create::<ConfigMap>(child).await;
    }
    api.delete("one", &DeleteParams::default()).await.unwrap();
    until_gone(&cluster, &["one"]).await;
    assert!(cluster.api::<ConfigMap>("default").get_opt("two").await.unwrap().is_some());
    let definitions = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let definitions: Api<DynamicObject> =
        Api::all_with(cluster.client.clone(), &ApiResource::from_gvk(&definitions));
    definitions.delete("widgets.example.org", &DeleteParams::default()).await.unwrap();
    until_gone(&cluster, &["two"]).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_namespace_says_what_holds_it_and_its_pods_go_first() {
    let cluster = Cluster::start().await;
    let kind = define_widgets(&cluster).await;
    cluster.create_namespace("team").await;
    create_widget(&cluster, &kind, "team", "widget").await;
    let pod = json!({"metadata": {"name": "held", "namespace": "team", "finalizers": ["example.org/keep"]},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let created = cluster
        .until_idle("a pod", || async {
            let pod: Pod = serde_json::from_value(pod.clone()).unwrap();
            cluster.api::<Pod>("team").create(&PostParams::default(), &pod).await.ok()
        })
        .await;
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    namespaces.delete("team", &DeleteParams::default()).await.unwrap();
    let conditions = cluster
        .until_idle("conditions", || async { namespaces.get("team").await.unwrap().status?.conditions })
        .await;
    let told: Vec<_> = conditions
        .iter()
        .map(|one| (one.type_.as_str(), one.status.as_str(), one.message.as_deref().unwrap()))
        .collect();
    let expected = [
        ("NamespaceDeletionDiscoveryFailure", "False", "All resources successfully discovered"),
        ("NamespaceDeletionGroupVersionParsingFailure", "False", "All legacy kube types successfully parsed"),
        (
            "NamespaceDeletionContentFailure",
            "False",
            "All content successfully deleted, may be waiting on finalization",
        ),
        ("NamespaceContentRemaining", "True", "Some resources are remaining: pods. has 1 resource instances"),
        (
            "NamespaceFinalizersRemaining",
            "True",
            "Some content in the namespace has finalizers remaining: example.org/keep in 1 resource instances",
        ),
    ];
    assert_eq!(told, expected);
    let widgets: Api<DynamicObject> = Api::namespaced_with(cluster.client.clone(), "team", &kind);
    assert!(widgets.get_opt("widget").await.unwrap().is_some(), "the pods go first");
    let patch = kube::api::Patch::Merge(json!({"metadata": {"finalizers": null, "uid": created.uid()}}));
    cluster.api::<Pod>("team").patch("held", &Default::default(), &patch).await.unwrap();
    cluster
        .until_idle("the namespace gone", || async {
            namespaces.get_opt("team").await.unwrap().is_none().then_some(())
        })
        .await;
    cluster.stop().await;
}
