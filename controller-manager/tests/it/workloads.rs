//! StatefulSets, DaemonSets, Services, budgets and nodes.

use std::time::Duration;

use controller_manager::{Config, NodeRanges};
use k8s_openapi::api::apps::v1::{DaemonSet, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Endpoints, Event, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::Api;
use kube::api::{DeleteParams, EvictParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::cluster::{Cluster, template};

async fn add_node(cluster: &Cluster, name: &str) {
    let api: Api<Node> = Api::all(cluster.client.clone());
    let node = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
    api.create(&PostParams::default(), &node).await.unwrap();
    let ready = json!({"type": "Ready", "status": "True", "lastHeartbeatTime": "2024-01-01T00:00:00Z"});
    let status = Patch::Merge(json!({"status": {"conditions": [ready]}}));
    api.patch_status(name, &PatchParams::default(), &status).await.unwrap();
}

fn names(pods: &[Pod]) -> Vec<&str> {
    pods.iter().filter_map(|pod| pod.metadata.name.as_deref()).collect()
}

#[tokio::test]
async fn a_stateful_set_grows_in_order_and_rolls_from_the_top() {
    let cluster = Cluster::start().await;
    let set = json!({"metadata": {"name": "db"}, "spec": {
        "replicas": 3, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}}, "template": template("db", "v1"),
    }});
    cluster.create::<StatefulSet>(set).await;
    cluster
        .until("three pods, each after the one before it was ready", || async {
            let pods: Vec<Pod> = cluster.list("app=db").await;
            let unready = pods.iter().filter(|pod| !api_types::pods::is_ready(pod)).count();
            assert!(unready <= 1, "{:?}", names(&pods));
            (pods.len() == 3 && unready == 0).then_some(())
        })
        .await;
    cluster.patch::<StatefulSet>("db", json!({"spec": {"template": template("db", "v2")}})).await;
    cluster
        .until("the update everywhere", || async {
            let set: StatefulSet = cluster.api("default").get("db").await.unwrap();
            let status = set.status?;
            let done = status.updated_replicas == Some(3) && status.ready_replicas == Some(3);
            (done && status.current_revision == status.update_revision).then_some(())
        })
        .await;
    let pods: Vec<Pod> = cluster.list("app=db").await;
    assert_eq!(names(&pods), ["db-0", "db-1", "db-2"]);
    cluster.stop().await;
}

#[tokio::test]
async fn a_daemon_set_covers_each_node_once() {
    let cluster = Cluster::start().await;
    add_node(&cluster, "n1").await;
    add_node(&cluster, "n2").await;
    let set = json!({"metadata": {"name": "agent"}, "spec": {
        "selector": {"matchLabels": {"app": "agent"}}, "template": template("agent", "v1"),
    }});
    cluster.create::<DaemonSet>(set).await;
    let on_each = |count: usize| {
        let cluster = &cluster;
        move || async move {
            let pods = cluster.active_pods("app=agent").await;
            assert!(pods.len() <= count, "{:?}", names(&pods));
            let set: DaemonSet = cluster.api("default").get("agent").await.unwrap();
            let ready = set.status.map_or(0, |status| status.number_ready);
            (pods.len() == count && usize::try_from(ready).unwrap() == count).then_some(())
        }
    };
    cluster.until("a ready pod on each of two nodes", on_each(2)).await;
    add_node(&cluster, "n3").await;
    cluster.until("a ready pod on the third node", on_each(3)).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_service_lists_the_pods_behind_it() {
    let cluster = Cluster::start().await;
    let service = json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}});
    cluster.create::<Service>(service).await;
    let mut pod = template("web", "v1");
    pod["metadata"]["name"] = json!("a");
    cluster.create::<Pod>(pod).await;
    cluster
        .until("the pod ready in slice and endpoints", || async {
            let slices: Vec<EndpointSlice> = cluster.list("kubernetes.io/service-name=web").await;
            let ready = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
            let ready = ready
                .filter(|one| one.conditions.as_ref().is_some_and(|all| all.ready == Some(true)))
                .count();
            let endpoints = cluster.api::<Endpoints>("default").get_opt("web").await.unwrap()?;
            let listed = endpoints.subsets.iter().flatten().any(|subset| subset.addresses.is_some());
            (ready == 1 && listed).then_some(())
        })
        .await;
    cluster.api::<Service>("default").delete("web", &DeleteParams::default()).await.unwrap();
    cluster
        .until("no slices and no endpoints of the deleted service", || async {
            let slices: Vec<EndpointSlice> = cluster.list("kubernetes.io/service-name=web").await;
            let endpoints = cluster.api::<Endpoints>("default").get_opt("web").await.unwrap();
            (slices.is_empty() && endpoints.is_none()).then_some(())
        })
        .await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_budget_says_how_many_pods_may_go() {
    let cluster = Cluster::start().await;
    for name in ["a", "b"] {
        let mut pod = template("web", "v1");
        pod["metadata"]["name"] = json!(name);
        cluster.create::<Pod>(pod).await;
    }
    let budget = json!({"metadata": {"name": "web"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    cluster.create::<PodDisruptionBudget>(budget).await;
    cluster
        .until("one disruption allowed", || async {
            let budget: PodDisruptionBudget = cluster.api("default").get("web").await.unwrap();
            (budget.status?.disruptions_allowed == Some(1)).then_some(())
        })
        .await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_node_that_is_ready_loses_its_taint() {
    let cluster = Cluster::start().await;
    add_node(&cluster, "n1").await;
    let api: Api<Node> = Api::all(cluster.client.clone());
    cluster
        .until_idle("no taint", || async {
            let taints = api.get("n1").await.unwrap().spec.and_then(|spec| spec.taints);
            taints.is_none_or(|taints| taints.is_empty()).then_some(())
        })
        .await;
    api.patch("n1", &PatchParams::default(), &Patch::Merge(json!({"spec": {"unschedulable": true}})))
        .await
        .unwrap();
    cluster
        .until_idle("the taint of a cordoned node", || async {
            let taints = api.get("n1").await.unwrap().spec.and_then(|spec| spec.taints)?;
            taints.iter().any(|taint| taint.key == "node.kubernetes.io/unschedulable").then_some(())
        })
        .await;
    cluster.stop().await;
}

fn evicting(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    taints.iter().any(|taint| taint.effect == "NoExecute")
}

async fn impatient() -> Cluster {
    let mut cluster = Cluster::without_manager().await;
    let grace = Duration::from_secs(2);
    let manager = cluster.run_manager(Config { node_monitor_grace_period: grace, ..cluster.config() });
    cluster.keep(manager);
    cluster
}

#[tokio::test]
async fn a_silent_node_is_unreachable_and_loses_pods_that_do_not_tolerate_it() {
    let cluster = impatient().await;
    add_node(&cluster, "n1").await;
    add_node(&cluster, "n2").await;
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), "kube-node-lease");
    let lease = serde_json::from_value(json!({"metadata": {"name": "n2"}})).unwrap();
    leases.create(&PostParams::default(), &lease).await.unwrap();
    let mut pod = template("web", "v1");
    pod["metadata"]["name"] = json!("a");
    pod["spec"]["nodeName"] = json!("n1");
    let tolerate = |name: &str| json!({"key": name, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 0});
    pod["spec"]["tolerations"] =
        json!([tolerate("node.kubernetes.io/unreachable"), tolerate("node.kubernetes.io/not-ready")]);
    cluster.create::<Pod>(pod).await;
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let (beats, leases) = (&std::cell::Cell::new(0), &leases);
    cluster
        .until_idle("the pod of the silent node going, while the other node renews its lease", || async {
            beats.set(beats.get() + 1);
            let renewed = json!({"metadata": {"annotations": {"beat": beats.get().to_string()}}});
            leases.patch("n2", &PatchParams::default(), &Patch::Merge(renewed)).await.unwrap();
            // A machine under load may be silent for too long; then it says that it is well again.
            let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
            nodes.patch_status("n2", &PatchParams::default(), &Patch::Strategic(ready)).await.unwrap();
            let pod = cluster.api::<Pod>("default").get_opt("a").await.unwrap();
            pod.is_none_or(|pod| pod.metadata.deletion_timestamp.is_some()).then_some(())
        })
        .await;
    assert!(evicting(&nodes.get("n1").await.unwrap()));
    cluster.stop().await;
}

#[tokio::test]
async fn nothing_is_evicted_while_no_node_is_heard_of() {
    let cluster = impatient().await;
    add_node(&cluster, "n1").await;
    let api: Api<Node> = Api::all(cluster.client.clone());
    let silent = cluster
        .until_idle("the taint of a silent node", || async {
            let node = api.get("n1").await.unwrap();
            let taints = node.spec.as_ref().and_then(|spec| spec.taints.clone())?;
            taints.iter().any(|taint| taint.key == "node.kubernetes.io/unreachable").then_some(node)
        })
        .await;
    assert!(!evicting(&silent));
    let ready =
        silent.status.unwrap().conditions.unwrap().into_iter().find(|one| one.type_ == "Ready").unwrap();
    assert_eq!((ready.status.as_str(), ready.reason.as_deref()), ("Unknown", Some("NodeStatusUnknown")));
    cluster.stop().await;
}

#[tokio::test]
async fn pods_of_a_node_that_fell_silent_under_an_earlier_manager_do_not_serve() {
    let mut cluster = Cluster::without_manager().await;
    add_node(&cluster, "n1").await;
    let silent = json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}});
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    nodes.patch_status("n1", &PatchParams::default(), &Patch::Strategic(silent)).await.unwrap();
    let mut pod = template("web", "v1");
    pod["metadata"]["name"] = json!("a");
    pod["spec"]["nodeName"] = json!("n1");
    pod["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
    cluster.create::<Pod>(pod).await;
    cluster.run_pods().await;
    let grace = Duration::from_secs(2);
    let manager = cluster.run_manager(Config { node_monitor_grace_period: grace, ..cluster.config() });
    cluster.keep(manager);
    cluster
        .until_idle("the pod marked as not ready", || async {
            let pod = cluster.api::<Pod>("default").get("a").await.unwrap();
            (!api_types::pods::is_ready(&pod)).then_some(())
        })
        .await;
    cluster.until_events("Pod/a", &["NodeNotReady"]).await;
    cluster.stop().await;
}

/// Waits until the pod is going, and says whether it is said to be disrupted.
async fn is_evicted(cluster: &Cluster, name: &str) -> bool {
    cluster
        .until_idle(&format!("{name} going"), || async {
            let pod = cluster.api::<Pod>("default").get(name).await.unwrap();
            pod.metadata.deletion_timestamp.as_ref()?;
            let conditions = pod.status.unwrap().conditions.unwrap_or_default();
            Some(conditions.iter().any(|one| {
                one.type_ == "DisruptionTarget" && one.reason.as_deref() == Some("DeletionByTaintManager")
            }))
        })
        .await
}

#[tokio::test]
async fn pods_leave_a_tainted_node_after_as_long_as_they_tolerate_it() {
    let cluster = Cluster::start().await;
    add_node(&cluster, "n1").await;
    let pod = |name: &str, tolerations: serde_json::Value| {
        let mut pod = template("web", "v1");
        pod["metadata"]["name"] = json!(name);
        pod["metadata"]["finalizers"] = json!(["example.com/seen"]);
        pod["spec"]["nodeName"] = json!("n1");
        pod["spec"]["tolerations"] = tolerations;
        pod
    };
    let tolerate = |seconds: serde_json::Value| json!([{"key": "evict", "operator": "Equal", "value": "true", "effect": "NoExecute", "tolerationSeconds": seconds}]);
    cluster.create::<Pod>(pod("none", json!([]))).await;
    cluster.create::<Pod>(pod("short", tolerate(json!(1)))).await;
    cluster.create::<Pod>(pod("long", tolerate(json!(300)))).await;
    cluster.create::<Pod>(pod("ever", tolerate(json!(null)))).await;
    let api: Api<Node> = Api::all(cluster.client.clone());
    let taint = |taints: serde_json::Value| {
        let (api, patch) = (api.clone(), Patch::Merge(json!({"spec": {"taints": taints}})));
        async move { api.patch("n1", &PatchParams::default(), &patch).await.unwrap() }
    };
    // Without the time that it was added, as `kubectl taint` writes it.
    taint(json!([{"key": "evict", "value": "true", "effect": "NoExecute"}])).await;
    assert!(is_evicted(&cluster, "none").await);
    assert!(is_evicted(&cluster, "short").await);
    taint(json!([])).await;
    cluster
        .until_idle("the event that the eviction of the pod with time left is cancelled", || async {
            let events: Vec<Event> = cluster.list("").await;
            let cancelled = events
                .iter()
                .find(|one| one.message.as_deref() == Some("Cancelling deletion of Pod default/long"));
            cancelled.map(drop)
        })
        .await;
    for name in ["long", "ever"] {
        let pod = cluster.api::<Pod>("default").get(name).await.unwrap();
        assert!(pod.metadata.deletion_timestamp.is_none(), "{name}");
    }
    for name in ["none", "short"] {
        cluster.patch::<Pod>(name, json!({"metadata": {"finalizers": null}})).await;
    }
    cluster.stop().await;
}

#[tokio::test]
async fn nodes_get_ranges_of_addresses_when_that_is_asked_for() {
    let mut cluster = Cluster::without_manager().await;
    let ranges = NodeRanges {
        cluster: vec!["10.244.0.0/23".parse().unwrap()],
        reserved: Vec::new(),
        len_v4: 24,
        len_v6: 64,
    };
    let manager = cluster.run_manager(Config { node_ranges: Some(ranges), ..cluster.config() });
    cluster.keep(manager);
    let api: Api<Node> = Api::all(cluster.client.clone());
    for name in ["n1", "n2"] {
        add_node(&cluster, name).await;
    }
    let given = || async {
        let mut all: Vec<String> = Vec::new();
        for node in api.list(&Default::default()).await.unwrap() {
            all.push(node.spec.and_then(|spec| spec.pod_cidr)?);
        }
        all.sort();
        Some(all)
    };
    let all = cluster.until_idle("a range for each node", given).await;
    assert_eq!(all, ["10.244.0.0/24", "10.244.1.0/24"]);
    add_node(&cluster, "n3").await;
    api.delete("n1", &DeleteParams::default()).await.unwrap();
    let all = cluster.until_idle("the range of the node that went", given).await;
    assert_eq!(all, ["10.244.0.0/24", "10.244.1.0/24"]);
    cluster.stop().await;
}

#[tokio::test]
async fn a_range_of_services_is_ready_and_stays_while_it_has_addresses() {
    let cluster = Cluster::start().await;
    let api: Api<ServiceCIDR> = Api::all(cluster.client.clone());
    let range = json!({"metadata": {"name": "more"}, "spec": {"cidrs": ["10.200.0.0/24"]}});
    api.create(&PostParams::default(), &serde_json::from_value(range).unwrap()).await.unwrap();
    let ready = |status: &'static str, reason: &'static str| {
        let api = api.clone();
        move || {
            let api = api.clone();
            async move {
                let range = api.get("more").await.unwrap();
                let all = range.status?.conditions?;
                let ready = all.iter().find(|one| one.type_ == "Ready")?;
                let held = range
                    .metadata
                    .finalizers?
                    .contains(&"networking.k8s.io/service-cidr-finalizer".to_owned());
                (held && ready.status == status && ready.reason == reason).then_some(())
            }
        }
    };
    cluster.until_idle("the range held and ready", ready("True", "")).await;
    let addresses: Api<IPAddress> = Api::all(cluster.client.clone());
    let address = json!({
        "metadata": {"name": "10.200.0.9", "labels": {"ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"}},
        "spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "kubernetes"}},
    });
    addresses.create(&PostParams::default(), &serde_json::from_value(address).unwrap()).await.unwrap();
    api.delete("more", &DeleteParams::default()).await.unwrap();
    cluster.until_idle("the range waiting for its address", ready("False", "Terminating")).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_budget_blocks_evictions_until_it_allows_them() {
    let cluster = Cluster::start().await;
    let sets = json!({"metadata": {"name": "web"}, "spec": {
        "replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": template("web", "v1")}});
    cluster.create::<ReplicaSet>(sets).await;
    let budget = json!({"metadata": {"name": "web"}, "spec": {"minAvailable": 3, "selector": {"matchLabels": {"app": "web"}}}});
    cluster.create::<PodDisruptionBudget>(budget).await;
    let allows = |count: i32| {
        let cluster = &cluster;
        move || async move {
            let budget: PodDisruptionBudget = cluster.api("default").get("web").await.unwrap();
            let status = budget.status?;
            let seen = status.observed_generation == budget.metadata.generation;
            let full = status.current_healthy == Some(3) && status.expected_pods == Some(3);
            (seen && full && status.disruptions_allowed == Some(count)).then_some(())
        }
    };
    cluster.until("no disruption allowed", allows(0)).await;
    let pods = cluster.active_pods("app=web").await;
    let name = pods[0].metadata.name.as_deref().unwrap();
    let api = cluster.api::<Pod>("default");
    let refused = api.evict(name, &EvictParams::default()).await.unwrap_err();
    assert!(matches!(&refused, kube::Error::Api(status) if status.code == 429), "{refused}");
    let budget = json!({"spec": {"minAvailable": null, "maxUnavailable": "34%"}});
    cluster.patch::<PodDisruptionBudget>("web", budget).await;
    cluster.until("two disruptions allowed", allows(2)).await;
    api.evict(name, &EvictParams::default()).await.unwrap();
    cluster
        .until("the pod gone", || async { api.get_opt(name).await.unwrap().is_none().then_some(()) })
        .await;
    cluster.until("the budget whole again", allows(2)).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_budget_of_pods_whose_owner_has_no_size_allows_nothing_and_says_why() {
    let cluster = Cluster::start().await;
    let job = json!({"metadata": {"name": "work"}, "spec": {"template": {
        "metadata": {"labels": {"app": "work"}},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "v1"}]}}}});
    cluster.create::<Job>(job).await;
    let budget = json!({"metadata": {"name": "work"}, "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "work"}}}});
    cluster.create::<PodDisruptionBudget>(budget).await;
    let why = cluster
        .until("the condition that it failed", || async {
            let budget: PodDisruptionBudget = cluster.api("default").get("work").await.unwrap();
            let conditions = budget.status?.conditions?;
            conditions.iter().find(|one| one.reason == "SyncFailed").map(|one| one.message.clone())
        })
        .await;
    assert_eq!(why, "jobs.batch does not implement the scale subresource");
    cluster.stop().await;
}
