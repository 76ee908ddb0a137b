//! PodDisruptionBudgets over owners of any kind, and their status, as the conformance suite asks for them.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::cluster::{Cluster, template};

fn budget(name: &str, spec: Value) -> Value {
    let mut budget = json!({"metadata": {"name": name, "labels": {"test": "budgets"}}, "spec": spec});
    budget["spec"]["selector"] = json!({"matchLabels": {"app": name}});
    budget
}

/// Widgets, whose scale is at `.spec.size`.
async fn define_widgets(cluster: &Cluster) -> ApiResource {
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let scale = json!({"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size"});
    let definition = json!({
        "metadata": {"name": "widgets.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
                          "subresources": {"scale": scale, "status": {}}}],
        },
    });
    let api: Api<CustomResourceDefinition> = Api::all(cluster.client.clone());
    api.create(&PostParams::default(), &serde_json::from_value(definition).unwrap()).await.unwrap();
    ApiResource {
        group: "example.com".to_owned(),
        version: "v1".to_owned(),
        api_version: "example.com/v1".to_owned(),
        kind: "Widget".to_owned(),
        plural: "widgets".to_owned(),
    }
}

#[tokio::test]
async fn pods_of_a_custom_kind_are_counted_by_its_scale() {
    let cluster = Cluster::start().await;
    let resource = define_widgets(&cluster).await;
    let widgets: Api<DynamicObject> = Api::namespaced_with(cluster.client.clone(), "default", &resource);
    let widget = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": {"size": 4}});
    let widget =
        widgets.create(&PostParams::default(), &serde_json::from_value(widget).unwrap()).await.unwrap();
    for index in 0..3 {
        let mut pod = template("custom", "v1");
        pod["metadata"]["name"] = json!(format!("p{index}"));
        pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "example.com/v1", "kind": "Widget", "name": "w",
                                                     "uid": widget.metadata.uid, "controller": true}]);
        cluster.create::<Pod>(pod).await;
    }
    cluster.create::<PodDisruptionBudget>(budget("custom", json!({"maxUnavailable": "50%"}))).await;
    cluster
        .until("three of four pods healthy, two needed", || async {
            let budget: PodDisruptionBudget = cluster.api("default").get("custom").await.unwrap();
            let status = budget.status?;
            let counts = [status.expected_pods, status.desired_healthy, status.current_healthy];
            (counts == [Some(4), Some(2), Some(3)] && status.disruptions_allowed == Some(1)).then_some(())
        })
        .await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_promised_disruption_is_counted_until_it_is_taken_back() {
    let cluster = Cluster::start().await;
    for name in ["p0", "p1"] {
        let mut pod = template("web", "v1");
        pod["metadata"]["name"] = json!(name);
        cluster.create::<Pod>(pod).await;
    }
    cluster.create::<PodDisruptionBudget>(budget("web", json!({"minAvailable": 1}))).await;
    let api = cluster.api::<PodDisruptionBudget>("default");
    let shows = |allowed: i32, promised: usize| {
        let api = api.clone();
        move || {
            let api = api.clone();
            async move {
                let status = api.get("web").await.unwrap().status?;
                let count = status.disrupted_pods.map_or(0, |all| all.len());
                (status.disruptions_allowed == Some(allowed) && count == promised).then_some(())
            }
        }
    };
    cluster.until("one disruption allowed", shows(1, 0)).await;
    let now = component_base::clock::Clock::system().time();
    let patch = Patch::Merge(json!({"status": {"disruptedPods": {"p0": now, "gone": now}}}));
    api.patch_status("web", &PatchParams::default(), &patch).await.unwrap();
    cluster.until("the promise counted, and not that of a pod that is gone", shows(0, 1)).await;
    let patch = Patch::Merge(json!({"status": {"disruptedPods": null}}));
    api.patch_status("web", &PatchParams::default(), &patch).await.unwrap();
    cluster.until("one disruption allowed again", shows(1, 0)).await;
    let all = ListParams::default().labels("test=budgets");
    assert_eq!(api.list(&all).await.unwrap().items.len(), 1);
    api.delete_collection(&DeleteParams::default(), &all).await.unwrap();
    assert!(api.list(&all).await.unwrap().items.is_empty());
    cluster.stop().await;
}
