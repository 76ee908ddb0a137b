//! DefaultPreemption: makes room for an important pod by removing less important ones.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::cycle::View;
use crate::diagnosis::Histogram;
use crate::event::{ClusterEvent, EventKind, Hint};
use crate::framework::{Attaching, Failed, Plugin, PostFilter, PostFiltered, Reason, Refused};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::terms::Step;

/// Nodes looked at for one pod, so that one pod that fits nowhere does not hold up the others.
const CANDIDATES_MAX: usize = 100;
const NOT_HELPFUL: &str = "Preemption is not helpful for scheduling";
const NO_VICTIMS: &str = "No preemption victims found for incoming pod";

/// # Decides
/// When no node passed: on each node whose refusal removing pods could change, all pods of lower priority are
/// imagined away; if the pod then passes, as many as possible are taken back, those first that a disruption budget
/// does not allow to go, then the most important, and the rest are the victims. The node whose victims matter least
/// is nominated, which is one of those where the fewest budgets are violated.
/// # Wakes on
/// Pods of lower priority that go.
/// # Differs
/// Less important pods that were nominated for the node stay so.
pub(crate) struct DefaultPreemption;

impl Plugin for DefaultPreemption {
    const NAME: &'static str = "DefaultPreemption";
    const HINTS: &'static [Hint] = &[Hint {
        on: EventKind::PodRemoved,
        helps: |pod, event| matches!(event, ClusterEvent::PodRemoved(gone) if gone.priority < pod.priority),
    }];

    fn new() -> Self {
        Self
    }

    fn attach(self: Arc<Self>, points: &mut Attaching<'_>) {
        points.post_filter(self);
    }
}

/// A node with those who would have to go, the most important first.
struct Candidate {
    node: Arc<str>,
    victims: Vec<Arc<PodInfo>>,
    /// How many of them a budget does not allow to go.
    violations: usize,
}

impl PostFilter for DefaultPreemption {
    fn post_filter(&self, failed: &mut Failed<'_>) -> PostFiltered {
        if let Some(reason) = not_eligible(failed) {
            return PostFiltered { message: format!("preemption: {reason}"), ..PostFiltered::default() };
        }
        let total = failed.snapshot.nodes().len();
        let mut reasons = Histogram::default();
        let mut candidates = Vec::new();
        let (resolvable, hopeless): (Vec<&Refused>, Vec<&Refused>) =
            failed.refused.iter().partition(|refused| refused.refusal.resolvable);
        reasons.add(&Reason::Borrowed(NOT_HELPFUL), hopeless.len() + (total - failed.refused.len()));
        for refused in resolvable {
            match dry_run(failed, refused) {
                Ok(candidate) => candidates.push(candidate),
                Err(reason) => reasons.add(&reason, 1),
            }
            if candidates.len() >= CANDIDATES_MAX {
                break;
            }
        }
        match candidates.into_iter().min_by_key(cost) {
            Some(best) => {
                PostFiltered { nominated: Some(best.node), victims: best.victims, ..PostFiltered::default() }
            }
            None => PostFiltered {
                withdraws: true,
                message: format!("preemption: 0/{total} nodes are available: {reasons}."),
                ..PostFiltered::default()
            },
        }
    }
}

fn not_eligible(failed: &Failed<'_>) -> Option<&'static str> {
    if failed.pod.never_preempts {
        return Some("not eligible due to preemptionPolicy=Never.");
    }
    let nominated = failed.snapshot.node(failed.snapshot.nomination(&failed.pod.uid)?)?;
    let leaving = |other: &Arc<PodInfo>| other.terminating && other.priority < failed.pod.priority;
    nominated
        .pods
        .iter()
        .any(leaving)
        .then_some("not eligible due to a terminating pod on the nominated node.")
}

/// How much a candidate hurts: budgets violated, the most important victim, all importance together, how many.
fn cost(candidate: &Candidate) -> (usize, i32, i64, usize) {
    let highest = candidate.victims.first().map_or(i32::MIN, |pod| pod.priority);
    let sum = candidate.victims.iter().map(|pod| i64::from(pod.priority) - i64::from(i32::MIN)).sum();
    (candidate.violations, highest, sum, candidate.victims.len())
}

/// Imagines pods away from one node. Leaves the cycle's state as it was.
fn dry_run(failed: &mut Failed<'_>, refused: &Refused) -> Result<Candidate, Reason> {
    let mut node = failed.snapshot.nodes()[refused.node as usize].clone();
    let mut lower: Vec<Arc<PodInfo>> =
        node.pods.iter().filter(|other| other.priority < failed.pod.priority).cloned().collect();
    if lower.is_empty() {
        return Err(Reason::Borrowed(NO_VICTIMS));
    }
    lower.sort_by(by_importance);
    for other in &lower {
        shift(failed, &mut node, other, Step::Remove);
    }
    let fits = check(failed, &node);
    let (protected, others) = failed.snapshot.budgets().divide(&lower);
    let (mut victims, mut violations) = (Vec::new(), 0);
    for (i, other) in protected.iter().chain(&others).enumerate() {
        shift(failed, &mut node, other, Step::Add);
        if fits.is_ok() && check(failed, &node).is_err() {
            shift(failed, &mut node, other, Step::Remove);
            victims.push(other.clone());
            violations += usize::from(i < protected.len());
        }
    }
    for victim in &victims {
        shift(failed, &mut node, victim, Step::Add);
    }
    victims.sort_by(by_importance);
    fits.map(|()| Candidate { node: node.name().clone(), victims, violations })
}

/// The more important first; of equals, those that run for longer.
fn by_importance(a: &Arc<PodInfo>, b: &Arc<PodInfo>) -> Ordering {
    let started = |pod: &PodInfo| (pod.state.started.is_none(), pod.state.started.clone());
    b.priority.cmp(&a.priority).then_with(|| started(a).cmp(&started(b)))
}

fn check(failed: &mut Failed<'_>, node: &NodeInfo) -> Result<(), Reason> {
    let view = view(failed);
    let checked = failed.points.filter_beside_nominated(&view, failed.state, node);
    checked.map_err(|(_, refusal)| refusal.reason)
}

fn shift(failed: &mut Failed<'_>, node: &mut NodeInfo, other: &Arc<PodInfo>, step: Step) {
    let view = view(failed);
    failed.points.shift(&view, failed.state, node, other, step);
}

fn view<'a>(failed: &Failed<'a>) -> View<'a> {
    View { pod: failed.pod, snapshot: failed.snapshot, skipped: failed.skipped }
}

#[cfg(test)]
mod tests {
    use crate::budgets::BudgetFacts;
    use crate::cycle::Outcome;
    use crate::testing::{PodBuilder, anti_affinity, decide, node, pod, snapshot};

    fn filler(name: &str, node: &str, priority: i32, cpu: &str) -> std::sync::Arc<crate::pod::PodInfo> {
        pod(name).requests(cpu, "1Mi").priority(priority).node(node).info()
    }

    fn outcome(incoming: PodBuilder) -> Outcome {
        let mut snapshot = snapshot(["n1", "n2"].map(|name| node(name).allocatable("1", "1Gi", 10)));
        for filled in
            [filler("a1", "n1", 5, "500m"), filler("a2", "n1", 1, "500m"), filler("b1", "n2", 3, "1")]
        {
            snapshot.place(filled);
        }
        decide(&incoming, &mut snapshot).outcome
    }

    #[test]
    fn the_least_important_pods_that_suffice_are_victims() {
        let Outcome::Unfit(diagnosis) = outcome(pod("p").requests("500m", "1Mi").priority(10)) else {
            panic!()
        };
        let victims: Vec<&str> = diagnosis.post.victims.iter().map(|pod| &*pod.name).collect();
        assert_eq!((diagnosis.post.nominated.as_deref(), victims), (Some("n1"), vec!["a2"]));
    }

    #[test]
    fn pods_that_a_budget_protects_go_last() {
        let budget = serde_json::json!({"metadata": {"namespace": "default", "name": "b"},
            "spec": {"selector": {"matchLabels": {"app": "web"}}},
            "status": {"disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}});
        let budget = BudgetFacts::from_budget(serde_json::from_value(budget).unwrap());
        let mut snapshot = snapshot([node("n1").allocatable("1", "1Gi", 10)]);
        snapshot.budgets_mut().set(budget.key.clone(), Some(budget));
        for (name, app, priority) in [("cheap", "web", 1), ("dear", "db", 5)] {
            let filled = pod(name).label("app", app).requests("500m", "1Mi").priority(priority).node("n1");
            snapshot.place(filled.info());
        }
        let decision = decide(&pod("p").requests("500m", "1Mi").priority(10), &mut snapshot);
        let Outcome::Unfit(diagnosis) = decision.outcome else { panic!() };
        let victims: Vec<&str> = diagnosis.post.victims.iter().map(|pod| &*pod.name).collect();
        assert_eq!(victims, ["dear"]);
    }

    #[test]
    fn pods_of_the_same_priority_are_left_alone() {
        let Outcome::Unfit(diagnosis) = outcome(pod("p").requests("500m", "1Mi").priority(1)) else {
            panic!()
        };
        assert_eq!(
            diagnosis.to_string(),
            "0/2 nodes are available: 2 Insufficient cpu. preemption: 0/2 nodes are available: \
             2 No preemption victims found for incoming pod."
        );
    }

    #[test]
    fn what_exceeds_every_node_evicts_nobody() {
        let Outcome::Unfit(diagnosis) = outcome(pod("p").requests("2", "1Mi").priority(10)) else { panic!() };
        assert!(diagnosis.post.victims.is_empty());
        assert!(
            diagnosis.to_string().ends_with("2 Preemption is not helpful for scheduling."),
            "{diagnosis}"
        );
    }

    #[test]
    fn a_pod_that_keeps_others_away_can_be_a_victim() {
        let mut snapshot = snapshot([node("n1").label("zone", "a")]);
        let jealous = pod("jealous").affinity(anti_affinity("app=web", "zone")).node("n1");
        snapshot.place(jealous.info());
        let decision = decide(&pod("p").label("app", "web").priority(10), &mut snapshot);
        let Outcome::Unfit(diagnosis) = decision.outcome else { panic!() };
        assert_eq!(diagnosis.post.victims.len(), 1, "{diagnosis}");
    }
}
