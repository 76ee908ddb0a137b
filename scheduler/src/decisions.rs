//! A bounded record of the latest decisions: which plugin refused which nodes, and how the rest scored.

use std::collections::VecDeque;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::cycle::{Decision, Outcome, Trace};
use crate::plugins;
use crate::pod::PodInfo;

/// The latest decisions; beyond the bound the oldest is dropped. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Decisions {
    records: Arc<Mutex<VecDeque<Record>>>,
    records_max: usize,
}

#[derive(Debug)]
struct Record {
    at: DateTime<Utc>,
    pod: Arc<PodInfo>,
    attempt: u32,
    node: Option<Arc<str>>,
    message: String,
    evaluated: usize,
    feasible: usize,
    trace: Trace,
}

impl Decisions {
    pub(crate) fn new(records_max: usize) -> Self {
        Self { records: Arc::default(), records_max }
    }

    /// Keeps what was decided about `pod`; takes the trace out of the decision.
    pub(crate) fn keep(&self, at: DateTime<Utc>, pod: &Arc<PodInfo>, attempt: u32, decision: &mut Decision) {
        let (node, message) = match &decision.outcome {
            Outcome::Chosen(node) => (Some(node.clone()), String::new()),
            Outcome::Unfit(diagnosis) => (None, diagnosis.to_string()),
        };
        let trace = std::mem::take(&mut decision.trace);
        let (evaluated, feasible) = (decision.evaluated, decision.feasible);
        let record = Record { at, pod: pod.clone(), attempt, node, message, evaluated, feasible, trace };
        let mut records = self.records.lock();
        while records.len() >= self.records_max.max(1) {
            records.pop_front();
        }
        records.push_back(record);
    }

    /// The page `/debug/decisions`: newest first; `?pod=NAMESPACE/NAME` (or a name) shows one pod's.
    pub(crate) fn page(&self, query: Option<&str>) -> String {
        let wanted =
            query.into_iter().flat_map(|query| query.split('&')).find_map(|part| part.strip_prefix("pod="));
        let wanted = wanted.map(|text| text.replace("%2F", "/").replace("%2f", "/"));
        let records = self.records.lock();
        let named = |record: &&Record| {
            wanted.as_ref().is_none_or(|wanted| *wanted == record.pod.name || *wanted == record.pod.key())
        };
        let shown: Vec<Value> = records.iter().rev().filter(named).map(Record::to_value).collect();
        json!({"decisions": shown}).to_string() + "\n"
    }
}

impl Record {
    fn to_value(&self) -> Value {
        let name = |id| plugins::row(id).name;
        let refused = self.trace.refused.iter().map(|refusal| {
            json!({"plugin": name(refusal.plugin), "reason": refusal.reason, "count": refusal.count,
                "nodes": texts(&refusal.nodes)})
        });
        let scores = self.trace.scores.iter().map(|score| {
            let by_plugin: serde_json::Map<String, Value> =
                score.by_plugin.iter().map(|(id, points)| (name(*id).to_owned(), json!(points))).collect();
            json!({"node": &*score.node, "total": score.total, "plugins": by_plugin})
        });
        json!({
            "time": self.at.to_rfc3339(),
            "pod": self.pod.key(),
            "uid": &*self.pod.uid,
            "scheduler": self.pod.scheduler,
            "attempt": self.attempt,
            "node": self.node.as_deref(),
            "message": self.message,
            "nodesEvaluated": self.evaluated,
            "nodesFeasible": self.feasible,
            "refused": refused.collect::<Vec<_>>(),
            "scores": scores.collect::<Vec<_>>(),
        })
    }
}

fn texts(names: &[Arc<str>]) -> Vec<&str> {
    names.iter().map(|name| &**name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{decide, node, pod, snapshot};

    #[test]
    fn record_names_plugins_nodes_and_scores() {
        let decisions = Decisions::new(2);
        let mut snapshot = snapshot([node("n1"), node("n2"), node("n3").unschedulable()]);
        for name in ["a", "b", "c"] {
            let mut decision = decide(&pod(name), &mut snapshot);
            decisions.keep(DateTime::UNIX_EPOCH, &pod(name).info(), 1, &mut decision);
        }
        let page: Value = serde_json::from_str(&decisions.page(None)).unwrap();
        assert_eq!(page["decisions"].as_array().unwrap().len(), 2);
        let latest = &page["decisions"][0];
        assert_eq!((&latest["pod"], &latest["nodesFeasible"]), (&json!("default/c"), &json!(2)));
        assert_eq!(latest["refused"][0]["plugin"], "NodeUnschedulable");
        assert!(latest["scores"][0]["plugins"]["NodeResourcesFit"].is_i64());
        let one: Value = serde_json::from_str(&decisions.page(Some("pod=default/b"))).unwrap();
        assert_eq!(one["decisions"].as_array().unwrap().len(), 1);
    }
}
