//! One decision: on which node a pod should run. Pure over an immutable snapshot.

use std::sync::Arc;

use crate::diagnosis::{Diagnosis, Histogram};
use crate::framework::{
    Adjustment, Check, CycleState, Failed, PluginId, PluginSet, Points, PostFiltered, PreFiltered, Reason,
    Refusal, Refused,
};
use crate::node::NodeInfo;
use crate::plugins;
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;
use crate::terms::Step;

/// Below so many nodes all are looked at.
const NODES_SAMPLED_MIN: usize = 100;
/// Nodes whose scores a decision's record shows.
const TRACED_SCORES_MAX: usize = 8;
/// Nodes that a decision's record names for one reason.
const TRACED_NODES_MAX: usize = 16;

/// All that a decision depends on.
pub(crate) struct Request<'a> {
    pub(crate) points: &'a Points,
    pub(crate) pod: &'a PodInfo,
    pub(crate) snapshot: &'a Snapshot,
    /// Where among the nodes to begin; a decision gives the next one's, so that all nodes have their turn.
    pub(crate) start: usize,
    /// How many percent of the nodes to find before scoring; 0 lets the number of nodes decide.
    pub(crate) sample_percent: usize,
    /// Chooses among nodes with the same score.
    pub(crate) tie_break: u64,
}

/// What was decided, and why.
#[derive(Debug)]
pub(crate) struct Decision {
    pub(crate) outcome: Outcome,
    pub(crate) evaluated: usize,
    pub(crate) feasible: usize,
    pub(crate) next_start: usize,
    pub(crate) trace: Trace,
}

#[derive(Debug)]
pub(crate) enum Outcome {
    Chosen(Arc<str>),
    Unfit(Box<Diagnosis>),
}

/// Which plugin refused which nodes, and how the best of the rest scored.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trace {
    pub(crate) refused: Vec<TracedRefusal>,
    pub(crate) scores: Vec<TracedScore>,
}

#[derive(Clone, Debug)]
pub(crate) struct TracedRefusal {
    pub(crate) plugin: PluginId,
    pub(crate) reason: Reason,
    pub(crate) count: usize,
    /// The first few.
    pub(crate) nodes: Vec<Arc<str>>,
}

#[derive(Clone, Debug)]
pub(crate) struct TracedScore {
    pub(crate) node: Arc<str>,
    pub(crate) total: i64,
    pub(crate) by_plugin: Vec<(PluginId, i64)>,
}

/// Buffers that are kept from one decision to the next, so that a decision allocates next to nothing.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    feasible: Vec<u32>,
    refused: Vec<Refused>,
    totals: Vec<i64>,
    /// Weighted scores, one run of all feasible nodes per plugin.
    scores: Vec<i64>,
    scorers: Vec<PluginId>,
    order: Vec<u32>,
}

impl Points {
    /// Asks the filters in order until one refuses.
    pub(crate) fn filter_node(
        &self,
        state: &CycleState,
        pod: &PodInfo,
        node: &NodeInfo,
        skipped: PluginSet,
    ) -> Result<(), (PluginId, Refusal)> {
        for attached in &self.filter {
            if skipped.contains(attached.id) {
                continue;
            }
            if let Err(refusal) = attached.plugin.filter(state, pod, node) {
                return Err((attached.id, refusal));
            }
        }
        Ok(())
    }

    /// As `filter_node`, on a node where room may be kept for other waiting pods: the pod must fit beside those
    /// that are as important, and also without them, since they may never come.
    pub(crate) fn filter_beside_nominated(
        &self,
        view: &View<'_>,
        state: &mut CycleState,
        node: &NodeInfo,
    ) -> Result<(), (PluginId, Refusal)> {
        let counts = |other: &&Arc<PodInfo>| other.priority >= view.pod.priority && other.uid != view.pod.uid;
        let others = view.snapshot.nominated(node.name()).iter().filter(counts);
        let mut imagined = None;
        for other in others.clone() {
            let node = imagined.get_or_insert_with(|| node.clone());
            self.shift(view, state, node, other, Step::Add);
        }
        if let Some(mut imagined) = imagined {
            let beside = self.filter_node(state, view.pod, &imagined, view.skipped);
            for other in others {
                self.shift(view, state, &mut imagined, other, Step::Remove);
            }
            beside?;
        }
        self.filter_node(state, view.pod, node, view.skipped)
    }

    /// Imagines a pod onto a node or away from it, also in what plugins computed before.
    pub(crate) fn shift(
        &self,
        view: &View<'_>,
        state: &mut CycleState,
        node: &mut NodeInfo,
        other: &Arc<PodInfo>,
        step: Step,
    ) {
        match step {
            Step::Add => node.add(other.clone()),
            Step::Remove => drop(node.remove(&other.uid)),
        }
        let change = Adjustment { pod: view.pod, other, node, snapshot: view.snapshot, step };
        for attached in &self.pre_filter {
            if !view.skipped.contains(attached.id) {
                attached.plugin.adjust(&change, state);
            }
        }
    }
}

/// What all filters of one decision go by.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) pod: &'a PodInfo,
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) skipped: PluginSet,
}

/// What the pre-filters left to do.
#[derive(Default)]
struct PreResult {
    skipped: PluginSet,
    only: Option<Vec<usize>>,
    only_by: Vec<PluginId>,
}

/// Finds the best node for a pod.
pub(crate) fn decide(request: &Request<'_>, scratch: &mut Scratch) -> Decision {
    scratch.feasible.clear();
    scratch.refused.clear();
    let mut state = CycleState::default();
    if request.snapshot.nodes().is_empty() {
        return unfit(request, scratch, None, PreResult::default(), 0, &mut state);
    }
    let pre = match pre_filter(request, &mut state) {
        Ok(pre) => pre,
        Err(refusal) => {
            return unfit(request, scratch, Some(refusal), PreResult::default(), request.start, &mut state);
        }
    };
    let next_start = find_feasible(request, &pre, &mut state, scratch);
    if scratch.feasible.is_empty() {
        return unfit(request, scratch, None, pre, next_start, &mut state);
    }
    let chosen = score(request, &mut state, scratch);
    Decision {
        outcome: Outcome::Chosen(request.snapshot.nodes()[chosen].name().clone()),
        evaluated: scratch.feasible.len() + scratch.refused.len(),
        feasible: scratch.feasible.len(),
        next_start,
        trace: Trace {
            refused: trace_refusals(request.snapshot, scratch),
            scores: trace_scores(request, scratch),
        },
    }
}

fn pre_filter(request: &Request<'_>, state: &mut CycleState) -> Result<PreResult, (PluginId, Refusal)> {
    let mut result = PreResult::default();
    for attached in &request.points.pre_filter {
        let outcome = attached.plugin.pre_filter(state, request.pod, request.snapshot);
        match outcome.map_err(|refusal| (attached.id, refusal))? {
            PreFiltered::Run => {}
            PreFiltered::Skip => result.skipped.insert(attached.id),
            PreFiltered::Only(names) => {
                let found = names.iter().filter_map(|name| request.snapshot.index(name));
                let found =
                    found.filter(|index| result.only.as_ref().is_none_or(|only| only.contains(index)));
                result.only = Some(found.collect());
                result.only_by.push(attached.id);
            }
        }
    }
    Ok(result)
}

/// Fills the scratch with feasible and refused nodes; gives where the next decision begins.
fn find_feasible(
    request: &Request<'_>,
    pre: &PreResult,
    state: &mut CycleState,
    scratch: &mut Scratch,
) -> usize {
    let nodes = request.snapshot.nodes();
    let view = View { pod: request.pod, snapshot: request.snapshot, skipped: pre.skipped };
    let mut look = |index: usize, scratch: &mut Scratch| {
        let node = u32::try_from(index).expect("fewer than four billion nodes");
        match request.points.filter_beside_nominated(&view, state, &nodes[index]) {
            Ok(()) => scratch.feasible.push(node),
            Err((plugin, refusal)) => scratch.refused.push(Refused { node, plugin, refusal }),
        }
    };
    if let Some(nominated) = request.snapshot.nomination(&request.pod.uid)
        && let Some(nominated) = request.snapshot.index(nominated)
        && pre.only.as_ref().is_none_or(|only| only.contains(&nominated))
    {
        look(nominated, scratch);
        if !scratch.feasible.is_empty() {
            return request.start;
        }
        scratch.refused.clear();
    }
    if let Some(only) = &pre.only {
        for index in only {
            look(*index, scratch);
        }
        return request.start;
    }
    let wanted = sample_size(nodes.len(), request.sample_percent);
    let first = request.start % nodes.len();
    for index in (first..nodes.len()).chain(0..first) {
        look(index, scratch);
        if scratch.feasible.len() >= wanted {
            break;
        }
    }
    (first + scratch.feasible.len() + scratch.refused.len()) % nodes.len()
}

/// How many feasible nodes are enough, by Kubernetes' rule.
fn sample_size(nodes: usize, percent: usize) -> usize {
    if nodes < NODES_SAMPLED_MIN || percent >= 100 {
        return nodes;
    }
    let percent = if percent == 0 { 50_usize.saturating_sub(nodes / 125).max(5) } else { percent };
    (nodes * percent / 100).max(NODES_SAMPLED_MIN)
}

/// Scores the feasible nodes and picks the best.
fn score(request: &Request<'_>, state: &mut CycleState, scratch: &mut Scratch) -> usize {
    scratch.scores.clear();
    scratch.scorers.clear();
    scratch.totals.clear();
    scratch.totals.resize(scratch.feasible.len(), 0);
    if let [only] = scratch.feasible[..] {
        return only as usize;
    }
    let (pod, snapshot) = (request.pod, request.snapshot);
    let mut skipped = PluginSet::default();
    for attached in &request.points.pre_score {
        if !attached.plugin.pre_score(state, pod, snapshot, &scratch.feasible) {
            skipped.insert(attached.id);
        }
    }
    for attached in request.points.score.iter().filter(|attached| !skipped.contains(attached.id)) {
        let begin = scratch.scores.len();
        let nodes = scratch.feasible.iter().map(|index| &snapshot.nodes()[*index as usize]);
        scratch.scores.extend(nodes.map(|node| attached.plugin.score(state, pod, node, snapshot)));
        let run = &mut scratch.scores[begin..];
        attached.plugin.normalize(state, run);
        for (score, total) in run.iter_mut().zip(&mut scratch.totals) {
            *score *= attached.weight;
            *total += *score;
        }
        scratch.scorers.push(attached.id);
    }
    scratch.feasible[best(&scratch.totals, request.tie_break)] as usize
}

/// The index of the highest number; among equal ones, the one that `tie_break` points at.
fn best(totals: &[i64], tie_break: u64) -> usize {
    let highest = totals.iter().copied().max().unwrap_or(0);
    let ties = totals.iter().filter(|total| **total == highest).count().max(1);
    let wanted = usize::try_from(tie_break % ties as u64).unwrap_or(0);
    let mut tied = totals.iter().enumerate().filter(|(_, total)| **total == highest);
    tied.nth(wanted).map_or(0, |(index, _)| index)
}

/// Calls the post-filters and says why the pod fits nowhere.
fn unfit(
    request: &Request<'_>,
    scratch: &Scratch,
    pre_filter: Option<(PluginId, Refusal)>,
    pre: PreResult,
    next_start: usize,
    state: &mut CycleState,
) -> Decision {
    let nodes = request.snapshot.nodes().len();
    let mut reasons = Histogram::default();
    let mut refused_by = PluginSet::default();
    for refused in &scratch.refused {
        refused_by.insert(refused.plugin);
        for reason in refused.refusal.reasons() {
            reasons.add(reason, 1);
        }
    }
    for id in pre.only_by.iter().copied().chain(pre_filter.as_ref().map(|(id, _)| *id)) {
        refused_by.insert(id);
    }
    if pre.only.is_some() {
        let names: Vec<&str> = pre.only_by.iter().map(|id| plugins::row(*id).name).collect();
        let absent = format!("node(s) didn't satisfy plugin(s) [{}]", names.join(" "));
        reasons.add(&absent.into(), nodes - scratch.refused.len());
    }
    let mut refused = trace_refusals(request.snapshot, scratch);
    if let Some((plugin, refusal)) = &pre_filter {
        let reason = refusal.reason.clone();
        refused.push(TracedRefusal { plugin: *plugin, reason, count: nodes, nodes: Vec::new() });
    }
    let post =
        if nodes == 0 { PostFiltered::default() } else { post_filter(request, scratch, pre.skipped, state) };
    if nodes == 0 {
        // Any node may help, whatever plugins would say of it.
        refused_by = PluginSet::default();
    }
    Decision {
        outcome: Outcome::Unfit(Box::new(Diagnosis { nodes, reasons, pre_filter, refused_by, post })),
        evaluated: scratch.refused.len(),
        feasible: 0,
        next_start,
        trace: Trace { refused, scores: Vec::new() },
    }
}

fn post_filter(
    request: &Request<'_>,
    scratch: &Scratch,
    skipped: PluginSet,
    state: &mut CycleState,
) -> PostFiltered {
    let (mut messages, mut withdraws) = (Vec::new(), false);
    for attached in &request.points.post_filter {
        let (points, pod, snapshot) = (request.points, request.pod, request.snapshot);
        let mut failed = Failed { points, state, pod, snapshot, refused: &scratch.refused, skipped };
        let found = attached.plugin.post_filter(&mut failed);
        if found.nominated.is_some() {
            return found;
        }
        withdraws |= found.withdraws;
        messages.push(found.message);
    }
    messages.retain(|message| !message.is_empty());
    PostFiltered { message: messages.join(", "), withdraws, ..PostFiltered::default() }
}

fn trace_refusals(snapshot: &Snapshot, scratch: &Scratch) -> Vec<TracedRefusal> {
    let mut groups: Vec<TracedRefusal> = Vec::new();
    for refused in &scratch.refused {
        let name = || snapshot.nodes()[refused.node as usize].name().clone();
        for reason in refused.refusal.reasons() {
            let known =
                groups.iter_mut().find(|group| group.plugin == refused.plugin && group.reason == *reason);
            match known {
                Some(group) => {
                    group.count += 1;
                    if group.nodes.len() < TRACED_NODES_MAX {
                        group.nodes.push(name());
                    }
                }
                None => groups.push(TracedRefusal {
                    plugin: refused.plugin,
                    reason: reason.clone(),
                    count: 1,
                    nodes: vec![name()],
                }),
            }
        }
    }
    groups
}

fn trace_scores(request: &Request<'_>, scratch: &mut Scratch) -> Vec<TracedScore> {
    let (count, totals) = (scratch.feasible.len(), &scratch.totals);
    if scratch.scorers.is_empty() {
        return Vec::new();
    }
    scratch.order.clear();
    scratch.order.extend(0..u32::try_from(count).unwrap_or(u32::MAX));
    let by_total = |index: &u32| std::cmp::Reverse(totals[*index as usize]);
    let shown = count.min(TRACED_SCORES_MAX);
    if shown < count {
        scratch.order.select_nth_unstable_by_key(shown, by_total);
    }
    scratch.order[..shown].sort_by_key(by_total);
    let trace = |index: &u32| {
        let index = *index as usize;
        let by_plugin = scratch.scorers.iter().enumerate();
        TracedScore {
            node: request.snapshot.nodes()[scratch.feasible[index] as usize].name().clone(),
            total: totals[index],
            by_plugin: by_plugin.map(|(row, id)| (*id, scratch.scores[row * count + index])).collect(),
        }
    };
    scratch.order[..shown].iter().map(trace).collect()
}

/// Asks the plugins that are told of assumed pods, and those that have the last word. What was reserved is
/// given back when one says no.
pub(crate) fn reserve(
    points: &Points,
    pod: &PodInfo,
    node: &str,
    snapshot: &Snapshot,
) -> Result<(), (PluginId, Refusal)> {
    let reserving =
        points.reserve.iter().map(|attached| (attached.id, attached.plugin.reserve(pod, node, snapshot)));
    let permitting = points.permit.iter().map(|attached| (attached.id, attached.plugin.permit(pod, node)));
    let refused =
        reserving.chain(permitting).find_map(|(id, check): (PluginId, Check)| check.err().map(|r| (id, r)));
    match refused {
        None => Ok(()),
        Some(refused) => {
            unreserve(points, pod, node);
            Err(refused)
        }
    }
}

/// Gives back what was reserved for a pod that will not be bound after all.
pub(crate) fn unreserve(points: &Points, pod: &PodInfo, node: &str) {
    for attached in points.reserve.iter().rev() {
        attached.plugin.unreserve(pod, node);
    }
}

#[cfg(test)]
mod tests;
