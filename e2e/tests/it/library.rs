//! The cluster as a library: what somebody's own test does with it.

use std::time::Duration;

use coxswain::{Cluster, Options};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{ListParams, PostParams};
use kube::runtime::wait::await_condition;
use serde_json::json;

fn web() -> Deployment {
    let labels = json!({"app": "web"});
    let spec = json!({"replicas": 3, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels},
        "spec": {"containers": [{"name": "web", "image": "example.test/web"}]}}});
    serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": spec})).expect("a Deployment")
}

fn is_available(deployment: Option<&Deployment>) -> bool {
    let status = deployment.and_then(|found| found.status.as_ref());
    status.and_then(|status| status.available_replicas) == Some(3)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_runs_on_a_cluster_in_this_process() {
    let cluster = Cluster::start(Options::default()).await.expect("a cluster");
    let deployments: Api<Deployment> = Api::default_namespaced(cluster.client());
    deployments.create(&PostParams::default(), &web()).await.expect("created");
    tokio::time::timeout(Duration::from_secs(60), await_condition(deployments, "web", is_available))
        .await
        .expect("in time")
        .expect("a watch");
    let pods: Api<Pod> = Api::default_namespaced(cluster.client());
    let found = pods.list(&ListParams::default().labels("app=web")).await.expect("a list").items;
    let nodes: std::collections::BTreeSet<_> =
        found.iter().filter_map(|pod| pod.spec.as_ref()?.node_name.clone()).collect();
    assert_eq!((found.len(), nodes.len()), (3, 2), "three pods on both nodes");
    cluster.stop().await;
}
