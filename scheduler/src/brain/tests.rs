//! Changes in, effects out, without a server.

use std::time::Duration;

use super::*;
use crate::profile::ProfileConfig;
use crate::testing::{NodeBuilder, PodBuilder, node, pod};

struct Bench {
    brain: Brain,
    now: Instant,
}

impl Bench {
    /// A synced brain over these nodes.
    fn new(nodes: impl IntoIterator<Item = NodeBuilder>) -> Self {
        let profiles = Profiles::build(&[ProfileConfig::default()]).unwrap();
        let settings = Settings { waits: Waits::default(), sample_percent: 0, seed: 1 };
        let clock = Clock::starting_at(chrono::DateTime::UNIX_EPOCH);
        let mut bench =
            Self { brain: Brain::new(profiles, settings, Decisions::new(16), clock), now: Instant::now() };
        let nodes: Vec<NodeBuilder> = nodes.into_iter().collect();
        let names = nodes.iter().map(|node| node.facts().name.to_string()).collect();
        for node in nodes {
            bench.node(&node);
        }
        bench.apply(Change::Listed(Watched::Nodes, names));
        for kind in [
            Watched::Namespaces,
            Watched::Claims,
            Watched::Volumes,
            Watched::StorageClasses,
            Watched::Budgets,
            Watched::Pods,
        ] {
            bench.apply(Change::Listed(kind, HashSet::new()));
        }
        bench
    }

    fn apply(&mut self, change: Change) {
        self.brain.apply(change, self.now);
    }

    fn pod(&mut self, pod: &PodBuilder) {
        self.apply(Change::Pod(Box::new((*pod.info()).clone())));
    }

    fn node(&mut self, node: &NodeBuilder) {
        self.apply(Change::Node(Box::new(node.facts())));
    }

    fn step(&mut self) -> String {
        match self.brain.step(self.now) {
            None => "nothing".to_owned(),
            Some(Effect::Bind { pod, node }) => format!("bind {} to {node}", pod.name),
            Some(Effect::Report(report)) => format!("report {}: {}", report.pod.name, report.message),
        }
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.brain.advance(self.now);
    }
}

fn small(name: &str) -> NodeBuilder {
    node(name).allocatable("1", "1Gi", 10)
}

fn half(name: &str) -> PodBuilder {
    pod(name).requests("500m", "100Mi")
}

#[tokio::test]
async fn assumed_pods_count_before_their_binding_is_seen() {
    let mut bench = Bench::new([small("n1")]);
    for name in ["a", "b", "c"] {
        bench.pod(&half(name));
    }
    assert_eq!([bench.step(), bench.step()], ["bind a to n1", "bind b to n1"]);
    assert!(bench.step().starts_with("report c: 0/1 nodes are available: 1 Insufficient cpu."));
}

#[tokio::test]
async fn nothing_is_decided_before_everything_was_listed() {
    let profiles = Profiles::build(&[ProfileConfig::default()]).unwrap();
    let settings = Settings { waits: Waits::default(), sample_percent: 0, seed: 1 };
    let clock = Clock::starting_at(chrono::DateTime::UNIX_EPOCH);
    let mut brain = Brain::new(profiles, settings, Decisions::new(1), clock);
    brain.apply(Change::Pod(Box::new((*pod("a").info()).clone())), Instant::now());
    brain.apply(Change::Listed(Watched::Pods, HashSet::from(["a".to_owned()])), Instant::now());
    assert!(!brain.has_work());
}

#[tokio::test]
async fn failed_binding_frees_the_node_and_is_tried_again() {
    let mut bench = Bench::new([small("n1")]);
    let first = pod("a").requests("1", "100Mi");
    bench.pod(&first);
    assert_eq!(bench.step(), "bind a to n1");
    let failed = bench.brain.bind_failed(&first.info(), "n1", Some("binding: refused".into()), bench.now);
    assert!(matches!(failed, Some(Effect::Report(report)) if report.reason == "SchedulerError"));
    assert_eq!(bench.step(), "nothing");
    bench.pass(1);
    assert_eq!(bench.step(), "bind a to n1");
}

#[tokio::test]
async fn waiting_pod_is_reported_once_and_scheduled_when_room_comes() {
    let mut bench = Bench::new([small("n1")]);
    bench.pod(&half("a").node("n1"));
    bench.pod(&half("b").node("n1"));
    bench.pod(&half("c"));
    assert!(bench.step().starts_with("report c"));
    bench.pass(20);
    bench.apply(Change::PodGone("unknown".into()));
    assert_eq!(bench.step(), "nothing");
    bench.apply(Change::PodGone("a".into()));
    assert_eq!(bench.step(), "bind c to n1");
}

#[tokio::test]
async fn same_failure_again_is_not_reported_again() {
    let mut bench = Bench::new([small("n1")]);
    bench.pod(&pod("big").requests("8", "1Gi"));
    assert!(bench.step().starts_with("report big"));
    bench.pass(301);
    assert_eq!(bench.step(), "nothing");
    bench.node(&small("n2"));
    bench.pass(301);
    assert!(bench.step().contains("0/2 nodes"));
}

#[tokio::test]
async fn heartbeat_of_a_node_wakes_nobody() {
    let mut bench = Bench::new([small("n1")]);
    bench.pod(&pod("big").requests("8", "1Gi"));
    bench.step();
    bench.pass(20);
    bench.node(&small("n1"));
    assert!(!bench.brain.has_work());
}

#[tokio::test]
async fn pods_of_another_scheduler_are_left_alone_but_counted() {
    let mut bench = Bench::new([small("n1")]);
    let mut other = (*half("a").info()).clone();
    other.scheduler = "mine".to_owned();
    bench.apply(Change::Pod(Box::new(other.clone())));
    assert_eq!(bench.step(), "nothing");
    other.node_name = "n1".to_owned();
    bench.apply(Change::Pod(Box::new(other)));
    bench.pod(&half("b"));
    bench.pod(&half("c"));
    assert_eq!(bench.step(), "bind b to n1");
    assert!(bench.step().starts_with("report c"));
}

#[tokio::test]
async fn what_a_new_list_does_not_name_is_gone() {
    let mut bench = Bench::new([small("n1"), small("n2")]);
    bench.pod(&half("a").node("n1"));
    bench.pod(&half("b"));
    bench.apply(Change::Listed(Watched::Pods, HashSet::new()));
    bench.apply(Change::Listed(Watched::Nodes, HashSet::from(["n2".to_owned()])));
    assert_eq!(bench.step(), "nothing");
    bench.pod(&pod("c").requests("1", "1Mi"));
    assert_eq!(bench.step(), "bind c to n2");
}

#[tokio::test]
async fn pod_that_is_being_deleted_is_not_scheduled() {
    let mut bench = Bench::new([small("n1")]);
    bench.pod(&half("a"));
    let mut going = (*half("a").info()).clone();
    going.terminating = true;
    bench.apply(Change::Pod(Box::new(going)));
    assert_eq!(bench.step(), "nothing");
}

#[tokio::test]
async fn finished_pod_gives_its_room_back() {
    let mut bench = Bench::new([small("n1")]);
    bench.pod(&pod("a").requests("1", "1Mi").node("n1"));
    bench.pod(&pod("b").requests("1", "1Mi"));
    assert!(bench.step().starts_with("report b"));
    let mut done = (*pod("a").requests("1", "1Mi").node("n1").info()).clone();
    done.state.terminal = true;
    bench.apply(Change::Pod(Box::new(done)));
    assert_eq!(bench.step(), "bind b to n1");
}

#[tokio::test]
async fn victims_are_removed_for_an_important_pod() {
    let mut bench = Bench::new([small("n1")]);
    bench.pod(&pod("low").requests("1", "1Mi").node("n1"));
    bench.pod(&pod("high").requests("1", "1Mi").priority(100));
    let Some(Effect::Report(report)) = bench.brain.step(bench.now) else { panic!() };
    assert_eq!((report.nominated.as_deref(), &*report.victims[0].name), (Some("n1"), "low"));
    bench.apply(Change::PodGone("low".into()));
    assert_eq!(bench.step(), "bind high to n1");
}

/// A brain whose node is full, and an important pod for which `a` and `b` are asked to leave.
fn making_room() -> Bench {
    let mut bench = Bench::new([small("n1")]);
    for (name, cpu, priority) in [("a", "200m", 1), ("b", "300m", 2), ("c", "450m", 3)] {
        bench.pod(&pod(name).requests(cpu, "1Mi").priority(priority).node("n1"));
    }
    bench.pod(&pod("high").requests("500m", "1Mi").priority(4));
    let Some(Effect::Report(report)) = bench.brain.step(bench.now) else { panic!() };
    let victims: Vec<&str> = report.victims.iter().map(|pod| &*pod.name).collect();
    assert_eq!((report.nominated.as_deref(), victims), (Some("n1"), vec!["b", "a"]));
    bench
}

#[tokio::test]
async fn room_made_for_an_important_pod_is_kept_from_less_important_ones() {
    let mut bench = making_room();
    bench.apply(Change::PodGone("a".into()));
    bench.pod(&pod("again").requests("200m", "1Mi").priority(1));
    let steps = [bench.step(), bench.step()];
    assert!(steps.iter().any(|step| step.starts_with("report again: 0/1 nodes")), "{steps:?}");
    bench.apply(Change::PodGone("b".into()));
    bench.pass(10);
    let steps: Vec<String> = (0..3).map(|_| bench.step()).collect();
    assert!(steps.contains(&"bind high to n1".to_owned()), "{steps:?}");
    assert!(!steps.iter().any(|step| step.starts_with("bind again")), "{steps:?}");
}

#[tokio::test]
async fn room_made_for_a_pod_does_not_hold_up_a_more_important_one() {
    let mut bench = making_room();
    bench.apply(Change::PodGone("a".into()));
    bench.apply(Change::PodGone("b".into()));
    bench.pod(&pod("higher").requests("500m", "1Mi").priority(5));
    let steps = [bench.step(), bench.step()];
    assert!(steps.contains(&"bind higher to n1".to_owned()), "{steps:?}");
}

#[tokio::test]
async fn room_kept_for_a_pod_that_goes_is_there_for_others() {
    let mut bench = making_room();
    bench.apply(Change::PodGone("a".into()));
    bench.pod(&pod("again").requests("200m", "1Mi").priority(1));
    let steps = [bench.step(), bench.step()];
    assert!(!steps.iter().any(|step| step.starts_with("bind")), "{steps:?}");
    bench.apply(Change::PodGone("high".into()));
    bench.pass(10);
    assert_eq!(bench.step(), "bind again to n1");
}

#[tokio::test]
async fn a_nomination_that_was_written_holds_until_it_is_taken_back() {
    let mut bench = Bench::new([small("n1")]);
    let waiting = pod("high").requests("1500m", "1Mi").priority(4);
    bench.pod(&waiting.clone().nominated("n1"));
    bench.pod(&half("low"));
    let Some(Effect::Report(report)) = bench.brain.step(bench.now) else { panic!() };
    assert_eq!(report.nominated.as_deref(), Some(""), "no preemption can make room for it");
    assert_eq!(bench.step(), "bind low to n1");
}
