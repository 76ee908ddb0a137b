//! Autoscalers give targets of any kind the size that figures ask for, and say what keeps them from it.

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::Api;
use kube::api::{DynamicObject, ListParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

use crate::cluster::Cluster;

/// Defines a namespaced kind with a scale, whose objects may say anything.
async fn define(cluster: &Cluster, group: &str, version: &str, plural: &str, kind: &str) -> ApiResource {
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {
        "spec": {"type": "object", "properties": {"replicas": {"type": "integer"}}},
        "status": {"type": "object", "properties":
            {"replicas": {"type": "integer"}, "selector": {"type": "string"}}}}});
    let scale = json!({"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector"});
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}"),
            "annotations": {"api-approved.kubernetes.io": "unapproved, a test"}},
        "spec": {"group": group, "scope": "Namespaced",
            "names": {"plural": plural, "singular": kind.to_lowercase(), "kind": kind},
            "versions": [{"name": version, "served": true, "storage": true, "subresources": {"scale": scale},
                "schema": {"openAPIV3Schema": schema}}]}});
    let definitions = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let api: Api<DynamicObject> = Api::all_with(cluster.client.clone(), &ApiResource::from_gvk(&definitions));
    api.create(&PostParams::default(), &serde_json::from_value(definition).unwrap()).await.unwrap();
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
}

async fn create(cluster: &Cluster, kind: &ApiResource, object: Value) {
    let mut object = object;
    object["apiVersion"] = json!(kind.api_version);
    object["kind"] = json!(kind.kind);
    let api: Api<DynamicObject> = Api::default_namespaced_with(cluster.client.clone(), kind);
    api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
}

/// Says, as node agents would, that each of the pods uses `cpu`.
async fn measure(cluster: &Cluster, kind: &ApiResource, pods: &[Pod], cpu: &str) {
    for pod in pods {
        let container = json!({"name": "c", "usage": {"cpu": cpu, "memory": "1Mi"}});
        let metadata = json!({"name": pod.metadata.name, "labels": pod.metadata.labels});
        let now = k8s_openapi::jiff::Timestamp::now().to_string();
        let figures =
            json!({"metadata": metadata, "timestamp": now, "window": "10s", "containers": [container]});
        create(cluster, kind, figures).await;
    }
}

async fn autoscaler(cluster: &Cluster, target: Value, metrics: Value) {
    let spec = json!({"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 5, "metrics": metrics});
    cluster.create::<HorizontalPodAutoscaler>(json!({"metadata": {"name": "h"}, "spec": spec})).await;
}

fn cpu(percent: i32) -> Value {
    json!([{"type": "Resource", "resource": {"name": "cpu",
        "target": {"type": "Utilization", "averageUtilization": percent}}}])
}

async fn until_condition(cluster: &Cluster, type_: &str, status: &str, reason: &str) -> String {
    let look = || async {
        let hpa = cluster.api::<HorizontalPodAutoscaler>("default").get("h").await.unwrap();
        let conditions = hpa.status?.conditions?;
        let found = conditions.into_iter().find(|one| one.type_ == type_)?;
        (found.status == status && found.reason.as_deref() == Some(reason)).then_some(found.message?)
    };
    cluster.until(&format!("{type_} {status} {reason}"), look).await
}

async fn replica_set(cluster: &Cluster, replicas: i32) -> Vec<Pod> {
    let container = json!({"name": "c", "image": "i", "resources": {"requests": {"cpu": "100m"}}});
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [container]}});
    let spec =
        json!({"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template});
    cluster.create::<ReplicaSet>(json!({"metadata": {"name": "web"}, "spec": spec})).await;
    let wanted = usize::try_from(replicas).unwrap();
    cluster
        .until("running pods", || async {
            let pods = cluster.active_pods("app=web").await;
            (pods.len() == wanted && pods.iter().all(api_types::pods::is_ready)).then_some(pods)
        })
        .await
}

fn target(api_version: &str, kind: &str) -> Value {
    json!({"apiVersion": api_version, "kind": kind, "name": "web"})
}

#[tokio::test]
async fn pods_that_use_more_than_they_should_get_company() {
    let mut cluster = Cluster::without_manager().await;
    let kind = define(&cluster, "metrics.k8s.io", "v1beta1", "pods", "PodMetrics").await;
    cluster.start_manager();
    let pods = replica_set(&cluster, 2).await;
    for pod in &pods {
        // The kubelet of these tests does not say when a pod started; without that its CPU use counts for nothing.
        let hour_ago = k8s_openapi::jiff::Timestamp::now() - k8s_openapi::jiff::SignedDuration::from_hours(1);
        let name = pod.metadata.name.as_deref().unwrap();
        cluster.set_status(name, json!({"startTime": hour_ago.to_string()})).await;
    }
    measure(&cluster, &kind, &pods, "80m").await;
    autoscaler(&cluster, target("apps/v1", "ReplicaSet"), cpu(40)).await;
    cluster
        .until("four replicas", || async {
            let set = cluster.api::<ReplicaSet>("default").get("web").await.unwrap();
            (set.spec?.replicas == Some(4)).then_some(())
        })
        .await;
    until_condition(&cluster, "AbleToScale", "True", "SucceededRescale").await;
    let message = until_condition(&cluster, "ScalingActive", "True", "ValidMetricFound").await;
    assert!(message.ends_with("from cpu resource utilization (percentage of request)"), "{message}");
    let events = cluster.api::<Event>("default");
    let told = cluster
        .until("the event", || async {
            let events = events.list(&ListParams::default()).await.unwrap().items;
            events.into_iter().find(|event| event.reason.as_deref() == Some("SuccessfulRescale"))?.message
        })
        .await;
    assert_eq!(told, "New size: 4; reason: cpu resource utilization (percentage of request) above target");
    cluster.stop().await;
}

#[tokio::test]
async fn a_target_without_figures_keeps_its_size_and_says_why() {
    let cluster = Cluster::start().await;
    replica_set(&cluster, 2).await;
    autoscaler(&cluster, target("apps/v1", "ReplicaSet"), cpu(40)).await;
    let message = until_condition(&cluster, "ScalingActive", "False", "FailedGetResourceMetric").await;
    let expected = "the HPA was unable to compute the replica count: failed to get cpu utilization: unable to get metrics for resource cpu: unable to fetch metrics from resource metrics API: the server could not find the requested resource (get pods.metrics.k8s.io)";
    assert_eq!(message, expected);
    cluster.stop().await;
}

#[tokio::test]
async fn a_custom_object_is_scaled_into_its_bounds() {
    let cluster = Cluster::start().await;
    let kind = define(&cluster, "example.org", "v1", "widgets", "Widget").await;
    create(&cluster, &kind, json!({"metadata": {"name": "web"}, "spec": {"replicas": 9}})).await;
    autoscaler(&cluster, target("example.org/v1", "Widget"), cpu(40)).await;
    let api: Api<DynamicObject> = Api::default_namespaced_with(cluster.client.clone(), &kind);
    cluster
        .until("five replicas", || async {
            (api.get("web").await.unwrap().data["spec"]["replicas"] == 5).then_some(())
        })
        .await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_target_that_does_not_say_which_pods_it_has_is_told() {
    let cluster = Cluster::start().await;
    let kind = define(&cluster, "example.org", "v1", "widgets", "Widget").await;
    create(&cluster, &kind, json!({"metadata": {"name": "web"}, "spec": {"replicas": 3}})).await;
    autoscaler(&cluster, target("example.org/v1", "Widget"), cpu(40)).await;
    let message = until_condition(&cluster, "ScalingActive", "False", "InvalidSelector").await;
    assert_eq!(message, "the HPA target's scale is missing a selector");
    cluster.stop().await;
}

#[tokio::test]
async fn two_autoscalers_of_the_same_pods_are_both_told() {
    let cluster = Cluster::start().await;
    replica_set(&cluster, 1).await;
    let kind = define(&cluster, "example.org", "v1", "widgets", "Widget").await;
    let widget = json!({"metadata": {"name": "web"}, "spec": {"replicas": 1},
        "status": {"replicas": 1, "selector": "app=web"}});
    create(&cluster, &kind, widget).await;
    let other = json!({"scaleTargetRef": target("example.org/v1", "Widget"), "minReplicas": 1, "maxReplicas": 5,
        "metrics": cpu(40)});
    cluster.create::<HorizontalPodAutoscaler>(json!({"metadata": {"name": "other"}, "spec": other})).await;
    cluster
        .until("the other autoscaler's look at its pods", || async {
            let other = cluster.api::<HorizontalPodAutoscaler>("default").get("other").await.unwrap();
            other.status?.conditions?.into_iter().find(|one| one.type_ == "ScalingActive")
        })
        .await;
    autoscaler(&cluster, target("apps/v1", "ReplicaSet"), cpu(40)).await;
    let message = until_condition(&cluster, "ScalingActive", "False", "AmbiguousSelector").await;
    let expected = "pods by selector app=web are controlled by multiple HPAs: [default/h default/other]";
    assert_eq!(message, expected);
    cluster.stop().await;
}

#[tokio::test]
async fn a_target_that_is_not_there_is_told() {
    let cluster = Cluster::start().await;
    autoscaler(&cluster, target("apps/v1", "Deployment"), cpu(40)).await;
    let message = until_condition(&cluster, "AbleToScale", "False", "FailedGetScale").await;
    let expected =
        "the HPA controller was unable to get the target's current scale: deployments.apps \"web\" not found";
    assert_eq!(message, expected);
    cluster.stop().await;
}
