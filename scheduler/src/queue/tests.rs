//! Pods through the queues, under a clock that the test moves.

use super::*;
use crate::node::NodeFacts;
use crate::testing::{PodBuilder, anti_affinity, node, pod};

struct Bench {
    queue: Queue,
    points: Points,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        Self { queue: Queue::new(Waits::default()), points: plugins::attach_all(&[]), now: Instant::now() }
    }

    fn apply(&mut self, pod: &PodBuilder) {
        self.queue.apply(pod.info(), &self.points, self.now);
    }

    fn pop(&mut self) -> Option<String> {
        self.queue.pop().map(|popped| popped.pod.name.clone())
    }

    fn refuse(&mut self, uid: &str, plugin: &str) {
        let mut refused_by = PluginSet::default();
        refused_by.insert(plugins::find(plugin).unwrap());
        self.queue.refuse(&uid.into(), refused_by, self.now);
    }

    fn wake_on(&mut self, event: &ClusterEvent<'_>) {
        let points = &self.points;
        self.queue.wake_on(event, |_| Some(points), self.now);
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        let points = &self.points;
        self.queue.advance(|_| Some(points), self.now);
    }
}

fn facts(node: &crate::testing::NodeBuilder) -> Arc<NodeFacts> {
    Arc::new(node.facts())
}

#[test]
fn important_pods_come_first_then_older_ones() {
    let mut bench = Bench::new();
    for (name, priority) in [("a", 0), ("b", 10), ("c", 0)] {
        bench.apply(&pod(name).priority(priority));
    }
    let order = [bench.pop(), bench.pop(), bench.pop(), bench.pop()];
    assert_eq!(order.map(Option::unwrap_or_default), ["b", "a", "c", ""]);
}

#[test]
fn gated_pod_waits_until_its_gates_are_gone() {
    let mut bench = Bench::new();
    bench.apply(&pod("a").gate("x"));
    assert_eq!((bench.pop(), bench.queue.lengths().gated), (None, 1));
    bench.apply(&pod("a").gate("x").label("still", "gated"));
    assert_eq!(bench.pop(), None);
    bench.apply(&pod("a"));
    assert_eq!(bench.pop().as_deref(), Some("a"));
}

#[test]
fn own_condition_does_not_start_another_pass() {
    let mut bench = Bench::new();
    let waiting = pod("a").requests("8", "1Gi");
    bench.apply(&waiting);
    bench.pop();
    bench.refuse("a", "NodeResourcesFit");
    let mut told = (*waiting.info()).clone();
    told.state.unscheduled = Some(("Unschedulable".into(), "0/1 nodes are available".into()));
    bench.queue.apply(Arc::new(told), &bench.points, bench.now);
    bench.pass(60);
    assert_eq!((bench.pop(), bench.queue.lengths().unschedulable), (None, 1));
}

#[test]
fn only_events_that_can_help_wake_a_pod() {
    let (small, large) =
        (facts(&node("s").allocatable("1", "1Gi", 10)), facts(&node("l").allocatable("9", "9Gi", 10)));
    let relabelled = facts(&node("l").allocatable("9", "9Gi", 10).label("a", "b"));
    let (gone, other) = (pod("x").info(), pod("y").label("app", "z").info());
    let cases: [(&str, ClusterEvent<'_>, bool); 6] = [
        ("too small a node", ClusterEvent::NodeAdded(&small), false),
        ("a large node", ClusterEvent::NodeAdded(&large), true),
        ("other labels", ClusterEvent::NodeUpdated { old: &large, new: &relabelled }, false),
        ("a node that grew", ClusterEvent::NodeUpdated { old: &small, new: &large }, true),
        ("a pod that came", ClusterEvent::PodPlaced(&other), false),
        ("a pod that went", ClusterEvent::PodRemoved(&gone), true),
    ];
    for (name, event, helps) in cases {
        let mut bench = Bench::new();
        bench.apply(&pod("a").requests("2", "1Gi"));
        bench.pop();
        bench.refuse("a", "NodeResourcesFit");
        bench.pass(2);
        bench.wake_on(&event);
        assert_eq!(bench.pop().is_some(), helps, "{name}");
    }
}

#[test]
fn affinity_waits_for_pods_and_not_for_room() {
    let mut bench = Bench::new();
    bench.apply(&pod("a").affinity(anti_affinity("app=web", "zone")));
    bench.pop();
    bench.refuse("a", "InterPodAffinity");
    bench.pass(2);
    bench.wake_on(&ClusterEvent::PodPlaced(&pod("x").info()));
    assert_eq!(bench.pop(), None);
    bench.wake_on(&ClusterEvent::PodRemoved(&pod("x").info()));
    assert_eq!(bench.pop().as_deref(), Some("a"));
}

#[test]
fn pod_after_an_error_waits_twice_as_long_each_time() {
    let mut bench = Bench::new();
    bench.apply(&pod("a"));
    for seconds in [1, 2, 4, 8, 10, 10] {
        assert_eq!(bench.pop().as_deref(), Some("a"));
        bench.queue.fail(&"a".into(), bench.now);
        bench.pass(seconds - 1);
        assert_eq!(bench.pop(), None, "before {seconds} s");
        bench.pass(1);
    }
}

#[test]
fn helped_pod_is_tried_at_once_when_nobody_else_waits() {
    let mut bench = Bench::new();
    bench.apply(&pod("a"));
    bench.pop();
    bench.refuse("a", "NodeResourcesFit");
    bench.wake_on(&ClusterEvent::PodRemoved(&pod("x").info()));
    bench.apply(&pod("b"));
    assert_eq!(bench.pop().as_deref(), Some("b"));
    assert_eq!(bench.pop().as_deref(), Some("a"));
}

#[test]
fn forgotten_pod_is_tried_again_after_five_minutes() {
    let mut bench = Bench::new();
    bench.apply(&pod("a"));
    bench.pop();
    bench.refuse("a", "NodeName");
    bench.pass(299);
    assert_eq!(bench.pop(), None);
    bench.pass(1);
    assert_eq!(bench.pop().as_deref(), Some("a"));
}

#[test]
fn same_report_is_written_once() {
    let mut bench = Bench::new();
    bench.apply(&pod("a"));
    assert!(bench.queue.note_report("a", "Unschedulable", "m"));
    assert!(!bench.queue.note_report("a", "Unschedulable", "m"));
    assert!(bench.queue.note_report("a", "Unschedulable", "n"));
    bench.queue.forget_report("a");
    assert!(bench.queue.note_report("a", "Unschedulable", "n"));
}

#[test]
fn report_in_the_pods_status_is_not_repeated_after_a_restart() {
    let mut bench = Bench::new();
    let mut told = (*pod("a").info()).clone();
    told.state.unscheduled = Some(("Unschedulable".into(), "m".into()));
    bench.queue.apply(Arc::new(told), &bench.points, bench.now);
    assert!(!bench.queue.note_report("a", "Unschedulable", "m"));
}

#[test]
fn removed_pod_is_nowhere() {
    let mut bench = Bench::new();
    bench.apply(&pod("a"));
    bench.queue.remove(&"a".into());
    assert_eq!((bench.pop(), bench.queue.lengths()), (None, Lengths::default()));
}
