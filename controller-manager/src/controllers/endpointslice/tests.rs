//! What is planned for the slices of a Service.

use serde_json::{Value, json};

use super::*;
use crate::endpoint_slices::made;

fn service(extra: Value) -> Service {
    let mut spec = json!({"selector": {"app": "a"}, "clusterIP": "10.96.0.1", "ipFamilies": ["IPv4"],
                          "ports": [{"name": "http", "port": 80, "targetPort": "web"}]});
    spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    let meta = json!({"name": "s", "namespace": "ns", "uid": "s", "labels": {"tier": "front"}});
    serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap()
}

fn pod(name: &str, port: i32, ready: &str) -> Arc<Pod> {
    let number: u8 = name.trim_start_matches('p').parse().unwrap();
    let container = json!({"name": "c", "ports": [{"name": "web", "containerPort": port}]});
    let ips = json!([{"ip": format!("10.0.0.{number}")}, {"ip": format!("fd00::{number}")}]);
    Arc::new(
        serde_json::from_value(json!({
            "metadata": {"name": name, "uid": name, "labels": {"app": "a"}},
            "spec": {"nodeName": "n", "containers": [container]},
            "status": {"podIPs": ips, "conditions": [{"type": "Ready", "status": ready}]},
        }))
        .unwrap(),
    )
}

fn pods(count: usize) -> Vec<Arc<Pod>> {
    (0..count).map(|index| pod(&format!("p{index}"), 8080, "True")).collect()
}

fn planned(service: &Service, pods: &[Arc<Pod>], slices: &[Arc<EndpointSlice>]) -> Vec<Step> {
    let zones = [("n".to_owned(), Some("z1".to_owned()))].into();
    let changed_at = DateTime::from_timestamp(7, 0);
    plan(&Observed { service, pods, zones: &zones, shares: None, slices, changed_at }).steps
}

fn first_endpoint(service: &Service, pod: Arc<Pod>) -> Endpoint {
    made(planned(service, &[pod], &[]))[0].endpoints.clone().unwrap().remove(0)
}

#[test]
fn a_named_port_is_resolved_in_each_pod() {
    let both = [pod("p1", 8080, "True"), pod("p2", 9090, "True")];
    let slices = made(planned(&service(json!({})), &both, &[]));
    let ports: Vec<_> = slices.iter().map(|slice| slice.ports.as_ref().unwrap()[0].port.unwrap()).collect();
    assert_eq!(ports, [8080, 9090], "pods with different ports are in different slices");
}

#[test]
fn a_slice_says_whose_it_is_and_when_what_it_shows_changed() {
    let slices = made(planned(&service(json!({"clusterIP": "None"})), &pods(1), &[]));
    let labels = slices[0].metadata.labels.clone().unwrap();
    assert_eq!((labels["tier"].as_str(), labels[HEADLESS].as_str()), ("front", ""));
    assert_eq!((labels[SERVICE].as_str(), labels[MANAGED_BY].as_str()), ("s", MANAGER));
    let annotations = slices[0].metadata.annotations.clone().unwrap();
    assert_eq!(annotations[trigger_times::LAST_CHANGE], "1970-01-01T00:00:07Z");
}

#[test]
fn each_family_has_slices_of_its_own() {
    let slices = made(planned(&service(json!({"ipFamilies": ["IPv4", "IPv6"]})), &pods(1), &[]));
    let told: Vec<_> = slices
        .iter()
        .map(|slice| {
            (slice.address_type.as_str(), slice.endpoints.as_ref().unwrap()[0].addresses[0].as_str())
        })
        .collect();
    assert_eq!(told, [("IPv4", "10.0.0.0"), ("IPv6", "fd00::")]);
    let steps = planned(&service(json!({})), &pods(1), &slices);
    assert!(matches!(steps.as_slice(), [Step::Delete(slice)] if slice.address_type == "IPv6"), "{steps:?}");
}

#[test]
fn one_pod_less_changes_one_slice() {
    let slices = made(planned(&service(json!({})), &pods(150), &[]));
    assert_eq!(slices.len(), 2);
    assert!(matches!(planned(&service(json!({})), &pods(149), &slices).as_slice(), [Step::Update(_)]));
    assert!(planned(&service(json!({})), &pods(150), &slices).is_empty());
}

#[test]
fn a_service_without_pods_has_one_empty_slice_that_is_used_again() {
    let slices = made(planned(&service(json!({})), &[], &[]));
    assert!(slices[0].endpoints.as_ref().unwrap().is_empty());
    assert!(planned(&service(json!({})), &[], &slices).is_empty());
    let steps = planned(&service(json!({})), &pods(1), &slices);
    let [Step::Update(filled)] = steps.as_slice() else { panic!("{steps:?}") };
    assert_eq!(filled.metadata.name.as_deref(), Some("s-0"));
    assert_eq!((filled.endpoints.as_ref().unwrap().len(), filled.ports.as_ref().unwrap().len()), (1, 1));
    let steps = planned(&service(json!({})), &[], &[Arc::new(EndpointSlice::clone(filled))]);
    assert!(matches!(steps.as_slice(), [Step::Update(slice)] if slice.ports.is_none()), "{steps:?}");
}

#[test]
fn slices_of_another_service_of_the_name_go() {
    let mut old = made(planned(&service(json!({})), &pods(1), &[]));
    Arc::make_mut(&mut old[0]).metadata.owner_references.as_mut().unwrap()[0].uid = "before".to_owned();
    let steps = planned(&service(json!({})), &pods(1), &old);
    assert!(matches!(steps.as_slice(), [Step::Create(_), Step::Delete(_)]), "{steps:?}");
}

#[test]
fn readiness_is_told_apart_from_serving_and_terminating() {
    let state = |service: &Service, pod: Arc<Pod>| {
        let state = first_endpoint(service, pod).conditions.unwrap();
        [state.ready, state.serving, state.terminating].map(Option::unwrap)
    };
    let mut going = pod("p1", 8080, "True");
    let now = component_base::clock::time_of(DateTime::UNIX_EPOCH);
    Arc::make_mut(&mut going).metadata.deletion_timestamp = Some(now);
    let usual = service(json!({}));
    assert_eq!(state(&usual, pod("p1", 8080, "True")), [true, true, false]);
    assert_eq!(state(&usual, pod("p1", 8080, "False")), [false, false, false]);
    assert_eq!(state(&usual, going.clone()), [false, true, true]);
    let publishing = service(json!({"publishNotReadyAddresses": true}));
    assert_eq!(state(&publishing, going), [true, true, true]);
    assert_eq!(state(&publishing, pod("p1", 8080, "False")), [true, false, false]);
}

#[test]
fn hints_follow_the_wish_for_short_ways() {
    let hints = |wish: &str, ready: &str| {
        let endpoint = first_endpoint(&service(json!({"trafficDistribution": wish})), pod("p1", 8080, ready));
        assert_eq!(endpoint.zone.as_deref(), Some("z1"));
        serde_json::to_value(endpoint.hints).unwrap()
    };
    assert_eq!(hints("PreferClose", "True"), json!({"forZones": [{"name": "z1"}]}));
    assert_eq!(
        hints("PreferSameNode", "True"),
        json!({"forZones": [{"name": "z1"}], "forNodes": [{"name": "n"}]})
    );
    assert_eq!(hints("PreferSameZone", "False"), Value::Null);
    assert_eq!(hints("", "True"), Value::Null);
}

#[test]
fn a_pod_on_a_node_that_is_gone_is_left_out_unless_all_are_published() {
    let mut lost = pod("p1", 8080, "True");
    Arc::make_mut(&mut lost).spec.as_mut().unwrap().node_name = Some("gone".to_owned());
    let count = |service: &Service| {
        made(planned(service, std::slice::from_ref(&lost), &[]))[0].endpoints.as_ref().unwrap().len()
    };
    assert_eq!(count(&service(json!({}))), 0);
    assert_eq!(count(&service(json!({"publishNotReadyAddresses": true}))), 1);
}

/// What is planned for four pods in the zone `a`, of two that have as much CPU.
fn planned_by_cpu(service: &Service, shares: &[&str], slices: &[Arc<EndpointSlice>]) -> Plan {
    let zones = [("n".to_owned(), Some("a".to_owned()))].into();
    let shares: Shares = shares.iter().map(|zone| ((*zone).to_owned(), 0.5)).collect();
    let shares = Some(&shares).filter(|shares| !shares.is_empty());
    plan(&Observed { service, pods: &pods(4), zones: &zones, shares, slices, changed_at: None })
}

fn hinted_zones(slice: &EndpointSlice) -> Vec<String> {
    let endpoints = slice.endpoints.iter().flatten();
    let zones = endpoints.flat_map(|one| one.hints.iter().flat_map(|hints| hints.for_zones.iter().flatten()));
    zones.map(|zone| zone.name.clone()).collect()
}

#[test]
fn hints_by_cpu_are_given_stay_and_go_with_the_wish() {
    let mut service = service(json!({"trafficDistribution": "PreferClose"}));
    let mode =
        |mode: &str| Some([("service.kubernetes.io/topology-mode".to_owned(), mode.to_owned())].into());
    service.metadata.annotations = mode("Auto");
    let given = planned_by_cpu(&service, &["a", "b"], &[]);
    assert_eq!(given.hints, [(Family::V4, Hints::Given)]);
    let slices = made(given.steps);
    assert_eq!(hinted_zones(&slices[0]), ["b", "b", "a", "a"], "the wish of the field does not count");
    assert!(planned_by_cpu(&service, &["a", "b"], &slices).steps.is_empty());

    let refused = planned_by_cpu(&service, &[], &slices);
    assert!(matches!(&refused.hints[0].1, Hints::Refused(why) if why.starts_with("Insufficient Node")));
    let [Step::Update(bare)] = refused.steps.as_slice() else { panic!("{:?}", refused.steps) };
    assert!(hinted_zones(bare).is_empty());

    service.metadata.annotations = mode("Disabled");
    let unasked = planned_by_cpu(&service, &["a", "b"], &slices);
    assert_eq!(unasked.hints, [(Family::V4, Hints::Unasked)]);
    let [Step::Update(close)] = unasked.steps.as_slice() else { panic!("{:?}", unasked.steps) };
    assert_eq!(hinted_zones(close), ["a"; 4], "the field counts again");
}
