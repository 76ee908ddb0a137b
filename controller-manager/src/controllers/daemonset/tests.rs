//! What is planned for the nodes of a DaemonSet.

use serde_json::{Value, json};

use super::*;

fn set(strategy: Value) -> DaemonSet {
    let spec = json!({
        "selector": {"matchLabels": {"app": "d"}}, "updateStrategy": strategy,
        "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": []}},
    });
    let meta = json!({"name": "d", "namespace": "ns", "uid": "d", "generation": 4});
    serde_json::from_value(json!({"metadata": meta, "spec": spec, "status": {
        "observedGeneration": 3, "currentNumberScheduled": 0, "desiredNumberScheduled": 0,
        "numberMisscheduled": 0, "numberReady": 0}}))
    .unwrap()
}

fn rolling(surge: Value, unavailable: Value) -> DaemonSet {
    set(json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}))
}

fn node(name: &str, taints: Value) -> Arc<Node> {
    let node = json!({"metadata": {"name": name}, "spec": {"taints": taints}});
    Arc::new(serde_json::from_value(node).unwrap())
}

fn nodes(count: usize) -> Vec<Arc<Node>> {
    (1..=count).map(|index| node(&format!("n{index}"), json!([]))).collect()
}

/// A pod as "name node hash state", the state "ready", "starting", "going" or a phase.
fn pod(text: &str) -> Arc<Pod> {
    let words: Vec<&str> = text.split(' ').collect();
    let [name, node, hash, state] = words.as_slice() else { panic!("{text}") };
    let ready = if matches!(*state, "ready" | "going") { "True" } else { "False" };
    let phase = if matches!(*state, "Failed" | "Succeeded") { *state } else { "Running" };
    let going = (*state == "going").then_some("1970-01-01T00:00:00Z");
    Arc::new(
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "ns", "labels": {HASH: hash}, "deletionTimestamp": going},
            "spec": {"nodeName": node, "containers": []},
            "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]},
        }))
        .unwrap(),
    )
}

fn pods(all: &[&str]) -> Vec<Arc<Pod>> {
    all.iter().map(|text| pod(text)).collect()
}

fn tell(step: &Step) -> String {
    match step {
        Step::Create(node) => format!("create on {node}"),
        Step::Delete(pod) => format!("delete {}", name_of(&pod.metadata)),
        Step::Replace(pod, node) => format!("replace {} on {node}", name_of(&pod.metadata)),
    }
}

fn planned(set: &DaemonSet, nodes: &[Arc<Node>], all: &[&str], held: &[&str]) -> Vec<String> {
    let held = held.iter().map(|node| (*node).to_owned()).collect();
    let pods = pods(all);
    let now = DateTime::UNIX_EPOCH;
    plan(&Observed { set, nodes, pods: &pods, hash: "new", held: &held, now }).iter().map(tell).collect()
}

fn check(set: &DaemonSet, nodes: &[Arc<Node>], all: &[&str], expected: &[&str]) {
    assert_eq!(planned(set, nodes, all, &[]), expected);
}

#[test]
fn each_node_gets_a_pod() {
    check(&set(json!({})), &nodes(2), &["a n1 new ready"], &["create on n2"]);
}

#[test]
fn a_tainted_node_gets_none_but_one_in_trouble_does() {
    let nodes = [
        node("n1", json!([{"key": "mine", "effect": "NoSchedule"}])),
        node("n2", json!([{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}])),
        node("n3", json!([{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}])),
    ];
    check(&set(json!({})), &nodes, &[], &["create on n2", "create on n3"]);
}

#[test]
fn a_pod_stays_where_it_may_not_start_and_goes_where_it_may_not_be() {
    let nodes = [
        node("n1", json!([{"key": "mine", "effect": "NoSchedule"}])),
        node("n2", json!([{"key": "mine", "effect": "NoExecute"}])),
    ];
    check(&set(json!({})), &nodes, &["a n1 new ready", "b n2 new ready"], &["delete b"]);
}

#[test]
fn a_second_pod_on_a_node_goes() {
    let pods = ["a n1 new ready", "b n1 new ready", "c n2 new ready"];
    check(&set(json!({})), &nodes(2), &pods, &["delete b"]);
}

#[test]
fn the_next_pod_waits_until_the_one_before_is_gone() {
    check(&set(json!({})), &nodes(1), &["a n1 old going"], &[]);
    check(&rolling(json!(1), json!(0)), &nodes(1), &["a n1 old going"], &["create on n1"]);
}

#[test]
fn a_pod_that_ended_is_replaced_and_a_failed_one_after_its_back_off() {
    let pods = ["a n1 new Failed", "b n2 new Succeeded"];
    check(&set(json!({})), &nodes(2), &pods, &["replace a on n1", "replace b on n2"]);
    assert_eq!(planned(&set(json!({})), &nodes(2), &pods, &["n1", "n2"]), ["replace b on n2"]);
}

#[test]
fn a_pod_that_waits_for_a_node_that_is_gone_goes() {
    let set = set(json!({}));
    let waiting = Arc::new({
        let mut pod = pod_for(&set, set.spec.as_ref().unwrap(), "n9", "new");
        pod.metadata.name = Some("waiting".to_owned());
        pod
    });
    let pods = [waiting, pod("bound n8 new ready")];
    let observed = Observed {
        set: &set,
        nodes: &[],
        pods: &pods,
        hash: "new",
        held: &BTreeSet::new(),
        now: DateTime::UNIX_EPOCH,
    };
    assert_eq!(plan(&observed).iter().map(tell).collect::<Vec<_>>(), ["delete waiting"]);
}

#[test]
fn an_update_takes_as_many_nodes_at_a_time_as_may_be_unavailable() {
    let one = set(json!({"type": "RollingUpdate"}));
    check(&one, &nodes(2), &["a n1 old ready", "b n2 old ready"], &["delete a"]);
    check(&one, &nodes(2), &["a n1 new starting", "b n2 old ready"], &[]);
    check(&one, &nodes(2), &["a n1 new ready", "b n2 old ready"], &["delete b"]);
    check(&one, &nodes(2), &["a n1 old going", "b n2 old ready"], &[]);
    let half = rolling(json!(0), json!("50%"));
    let all = ["a n1 old ready", "b n2 old ready", "c n3 old ready"];
    check(&half, &nodes(3), &all, &["delete a", "delete b"]);
}

#[test]
fn old_pods_that_do_not_work_are_replaced_at_once_and_count() {
    let one = rolling(json!(0), json!(1));
    let all = ["a n1 old starting", "b n2 old starting", "c n3 old ready"];
    check(&one, &nodes(3), &all, &["delete a", "delete b"]);
}

#[test]
fn with_on_delete_old_pods_stay() {
    check(&set(json!({"type": "OnDelete"})), &nodes(1), &["a n1 old ready"], &[]);
}

#[test]
fn an_update_with_surge_starts_the_new_pod_first() {
    let surge = rolling(json!(1), json!(0));
    check(&surge, &nodes(2), &["a n1 old ready", "b n2 old ready"], &["create on n1"]);
    check(&surge, &nodes(1), &["a n1 old ready", "b n1 new starting"], &[]);
    check(&surge, &nodes(1), &["a n1 old ready", "b n1 new ready"], &["delete a"]);
    check(&surge, &nodes(1), &["a n1 old starting", "b n1 new starting"], &["delete a"]);
    check(&surge, &nodes(2), &["a n1 old ready", "b n1 new starting", "c n2 old ready"], &[]);
    check(
        &surge,
        &nodes(1),
        &["a n1 old ready", "b n1 new ready", "c n1 new ready"],
        &["delete c", "delete a"],
    );
}

#[test]
fn with_surge_a_pod_leaves_its_node_only_when_another_works() {
    let surge = rolling(json!(1), json!(0));
    let nodes = [node("n1", json!([{"key": "mine", "effect": "NoSchedule"}])), node("n2", json!([]))];
    check(&surge, &nodes, &["a n1 old ready", "b n2 new starting"], &[]);
    check(&surge, &nodes, &["a n1 old ready", "b n2 new ready"], &["delete a"]);
}

#[test]
fn creations_and_deletions_have_a_bound_each() {
    let steps = planned(&set(json!({})), &nodes(300), &[], &[]);
    assert_eq!(steps.len(), BURST_MAX);
}

#[test]
fn the_pod_is_pinned_to_its_node_and_tolerates_each_trouble_once() {
    let mut set = set(json!({}));
    let spec = set.spec.as_mut().unwrap();
    let own = json!([{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute",
                      "tolerationSeconds": 5}, {"key": "mine", "operator": "Exists"}]);
    let template = spec.template.spec.as_mut().unwrap();
    template.tolerations = serde_json::from_value(own).unwrap();
    template.host_network = Some(true);
    let pod = pod_for(&set, set.spec.as_ref().unwrap(), "n7", "h");
    assert_eq!(node_of(&pod), Some("n7"));
    let tolerations = pod.spec.unwrap().tolerations.unwrap();
    assert_eq!((tolerations.len(), tolerations[0].key.as_deref()), (8, Some("mine")));
    assert!(tolerations.iter().all(|one| one.toleration_seconds.is_none()));
}

#[test]
fn the_status_counts_the_first_pod_of_each_node() {
    let mut nodes = nodes(4);
    nodes.push(node("n5", json!([{"key": "mine", "effect": "NoSchedule"}])));
    let pods =
        pods(&["a n1 new ready", "b n2 old ready", "c n3 new starting", "d n5 new ready", "e n9 new ready"]);
    let set = set(json!({}));
    let (now, held) = (DateTime::UNIX_EPOCH, BTreeSet::new());
    let observed = Observed { set: &set, nodes: &nodes, pods: &pods, hash: "new", held: &held, now };
    let (told, _) = status(&observed, set.spec.as_ref().unwrap(), true);
    let expected = json!({
        "currentNumberScheduled": 3, "desiredNumberScheduled": 4, "numberMisscheduled": 1, "numberReady": 2,
        "numberAvailable": 2, "numberUnavailable": 2, "updatedNumberScheduled": 2, "observedGeneration": 4,
    });
    assert_eq!(serde_json::to_value(told).unwrap(), expected);
    let (told, _) = status(&observed, set.spec.as_ref().unwrap(), false);
    assert_eq!(told.observed_generation, Some(3), "what was not acted on is not called observed");
}

#[test]
fn old_revisions_that_no_pod_has_go_beyond_the_limit() {
    let revision = |number: i64| -> Arc<ControllerRevision> {
        let (name, hash) = (format!("d-{number}"), format!("h{number}"));
        let meta = json!({"name": name, "labels": {HASH: hash}});
        Arc::new(serde_json::from_value(json!({"metadata": meta, "revision": number})).unwrap())
    };
    let all: Vec<_> = (1..=5).map(revision).collect();
    let history = History { update: all[4].clone(), all, collisions: 0 };
    let names = |in_use: &[&str], limit| -> Vec<i64> {
        surplus(&history, &in_use.iter().copied().collect(), limit).iter().map(|one| one.revision).collect()
    };
    assert_eq!(names(&[], Some(2)), [1, 2]);
    assert_eq!(names(&["h1"], Some(2)), [2, 3]);
    assert!(names(&[], None).is_empty());
}
