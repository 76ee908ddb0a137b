//! What stands behind Services: Endpoints, EndpointSlices, mirrored ones, as the conformance suite asks for it.

use k8s_openapi::api::core::v1::{Endpoints, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};
use serde_json::{Value, json};

use crate::cluster::{Cluster, template};

fn pod(name: &str, app: &str) -> Value {
    let mut pod = template(app, "v1");
    pod["metadata"]["name"] = json!(name);
    pod["spec"]["containers"][0]["ports"] = json!([{"name": "example-name", "containerPort": 3000}]);
    pod
}

async fn slices(cluster: &Cluster, service: &str) -> Vec<EndpointSlice> {
    cluster.list(&format!("kubernetes.io/service-name={service}")).await
}

/// The ports of a Service's slices, with how many endpoints each has.
async fn ports(cluster: &Cluster, service: &str) -> Vec<(i32, usize)> {
    let mut all: Vec<_> = slices(cluster, service)
        .await
        .iter()
        .flat_map(|slice| {
            let count = slice.endpoints.as_ref().map_or(0, Vec::len);
            slice.ports.iter().flatten().filter_map(move |port| Some((port.port?, count))).collect::<Vec<_>>()
        })
        .collect();
    all.sort_unstable();
    all
}

#[tokio::test]
async fn services_list_pods_by_number_name_and_different_ports() {
    let cluster = Cluster::start().await;
    let service = |name: &str, app: &str, target: Value| {
        json!({"metadata": {"name": name}, "spec": {"selector": {"app": app}, "publishNotReadyAddresses": true,
               "ports": [{"name": "example", "port": 80, "targetPort": target}]}})
    };
    cluster.create::<Service>(service("one", "a", json!("example-name"))).await;
    cluster.create::<Service>(service("two", "b", json!(3001))).await;
    cluster.create::<Service>(service("none", "c", json!("missing"))).await;
    for (name, app) in [("a1", "a"), ("b1", "b"), ("b2", "b")] {
        cluster.create::<Pod>(pod(name, app)).await;
    }
    cluster
        .until("each service with its pods at their ports", || async {
            let found = [ports(&cluster, "one").await, ports(&cluster, "two").await];
            (found == [vec![(3000, 1)], vec![(3001, 2)]]).then_some(())
        })
        .await;
    let mut other = pod("a2", "a");
    other["spec"]["containers"][0]["ports"][0]["containerPort"] = json!(4000);
    cluster.create::<Pod>(other).await;
    cluster
        .until("a slice for the other port", || async {
            (ports(&cluster, "one").await == [(3000, 1), (4000, 1)]).then_some(())
        })
        .await;
    let endpoints: Endpoints = cluster.api("default").get("two").await.unwrap();
    assert_eq!(endpoints.subsets.unwrap()[0].addresses.as_ref().unwrap().len(), 2);
    for name in ["a1", "a2"] {
        cluster.api::<Pod>("default").delete(name, &DeleteParams::default()).await.unwrap();
    }
    cluster
        .until("an empty slice when the pods are gone", || async {
            let left = slices(&cluster, "one").await;
            let empty = left.iter().all(|slice| slice.endpoints.as_ref().is_none_or(Vec::is_empty));
            (left.len() == 1 && empty).then_some(())
        })
        .await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_service_that_matches_no_pods_has_empty_endpoints_which_go_with_it() {
    let cluster = Cluster::start().await;
    let service = json!({"metadata": {"name": "empty"}, "spec": {"selector": {"does-not-match-anything": "1"},
                         "ports": [{"port": 80}]}});
    cluster.create::<Service>(service).await;
    cluster
        .until_idle("empty endpoints and one empty slice", || async {
            let endpoints = cluster.api::<Endpoints>("default").get_opt("empty").await.unwrap()?;
            let slices = slices(&cluster, "empty").await;
            (endpoints.subsets.is_none_or(|all| all.is_empty()) && slices.len() == 1).then_some(())
        })
        .await;
    cluster.api::<Service>("default").delete("empty", &DeleteParams::default()).await.unwrap();
    cluster
        .until_idle("neither of them", || async {
            let endpoints = cluster.api::<Endpoints>("default").get_opt("empty").await.unwrap();
            (endpoints.is_none() && slices(&cluster, "empty").await.is_empty()).then_some(())
        })
        .await;
    cluster.stop().await;
}

async fn mirrored(cluster: &Cluster) -> Vec<(String, String, i32)> {
    let mut found = Vec::new();
    for slice in slices(cluster, "custom").await {
        let labels = slice.metadata.labels.clone().unwrap_or_default();
        assert_eq!(
            labels["endpointslice.kubernetes.io/managed-by"],
            "endpointslicemirroring-controller.k8s.io"
        );
        let port = slice.ports.iter().flatten().find_map(|port| port.port).unwrap_or(0);
        let addresses = slice.endpoints.iter().flatten().flat_map(|one| one.addresses.clone());
        found.extend(addresses.map(|address| (slice.address_type.clone(), address, port)));
    }
    found.sort();
    found
}

#[tokio::test]
async fn custom_endpoints_are_mirrored_through_create_update_and_delete() {
    let cluster = Cluster::start().await;
    let service =
        json!({"metadata": {"name": "custom"}, "spec": {"ports": [{"name": "example", "port": 80}]}});
    cluster.create::<Service>(service).await;
    let subsets = |ip: &str, port: i32| json!([{"addresses": [{"ip": ip}], "ports": [{"name": "example", "port": port, "protocol": "TCP"}]}]);
    let custom = json!({"metadata": {"name": "custom"}, "subsets": subsets("10.1.2.3", 80)});
    cluster.create::<Endpoints>(custom).await;
    let shows = |ip: &'static str, port: i32| {
        let cluster = &cluster;
        move || async move {
            (mirrored(cluster).await == [("IPv4".to_owned(), ip.to_owned(), port)]).then_some(())
        }
    };
    cluster.until_idle("the mirror of what was created", shows("10.1.2.3", 80)).await;
    cluster.patch::<Endpoints>("custom", json!({"subsets": subsets("10.2.3.4", 9090)})).await;
    cluster.until_idle("the mirror of what was updated", shows("10.2.3.4", 9090)).await;
    cluster.api::<Endpoints>("default").delete("custom", &DeleteParams::default()).await.unwrap();
    cluster
        .until_idle("no mirror", || async { slices(&cluster, "custom").await.is_empty().then_some(()) })
        .await;
    cluster.stop().await;
}

#[tokio::test]
async fn endpoints_without_a_service_are_left_alone_and_those_of_one_go_with_it() {
    let cluster = Cluster::start().await;
    let endpoints = |name: &str| {
        json!({"metadata": {"name": name, "labels": {"test": "yes"}}, "subsets": [
            {"addresses": [{"ip": "10.0.0.24"}], "ports": [{"name": "http", "port": 80}]}]})
    };
    let service = json!({"metadata": {"name": "owned"}, "spec": {"ports": [{"port": 80}]}});
    cluster.create::<Service>(service).await;
    for name in ["alone", "owned"] {
        cluster.create::<Endpoints>(endpoints(name)).await;
    }
    cluster.patch::<Endpoints>("alone", json!({"metadata": {"labels": {"updated": "yes"}}})).await;
    cluster
        .until_idle("the mirror, which shows that the controllers run", || async {
            (!slices(&cluster, "owned").await.is_empty()).then_some(())
        })
        .await;
    cluster.api::<Service>("default").delete("owned", &DeleteParams::default()).await.unwrap();
    cluster
        .until_idle("only the endpoints that never had a service", || async {
            let left: Vec<Endpoints> = cluster.list("test=yes").await;
            let names: Vec<_> = left.iter().filter_map(|one| one.metadata.name.clone()).collect();
            (names == ["alone"]).then_some(())
        })
        .await;
    let by_label = ListParams::default().labels("updated=yes");
    let api = cluster.api::<Endpoints>("default");
    api.delete_collection(&DeleteParams::default(), &by_label).await.unwrap();
    assert!(api.get_opt("alone").await.unwrap().is_none());
    cluster.stop().await;
}

#[tokio::test]
async fn endpoints_carry_the_zone_of_their_node() {
    let cluster = Cluster::start().await;
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let node = json!({"metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "z1"}}});
    nodes.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
    let service = json!({"metadata": {"name": "near"}, "spec": {"selector": {"app": "a"}, "ports": [{"port": 80}],
                         "trafficDistribution": "PreferClose", "publishNotReadyAddresses": true}});
    cluster.create::<Service>(service).await;
    let mut pod = pod("a1", "a");
    pod["spec"]["nodeName"] = json!("n1");
    pod["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
    cluster.create::<Pod>(pod).await;
    cluster
        .until("the zone and the hint", || async {
            let slices = slices(&cluster, "near").await;
            let endpoint = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten()).next()?.clone();
            let hinted = endpoint.hints?.for_zones?.iter().any(|zone| zone.name == "z1");
            (endpoint.zone.as_deref() == Some("z1") && hinted).then_some(())
        })
        .await;
    cluster.stop().await;
}
