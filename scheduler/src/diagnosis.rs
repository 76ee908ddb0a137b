//! Why a pod fits nowhere, in Kubernetes' words.

use std::fmt;

use crate::framework::{PluginId, PluginSet, PostFiltered, Reason, Refusal};

/// How often each reason was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Histogram(Vec<(Reason, usize)>);

impl Histogram {
    pub(crate) fn add(&mut self, reason: &Reason, times: usize) {
        if times == 0 {
            return;
        }
        match self.0.iter_mut().find(|(known, _)| known == reason) {
            Some((_, count)) => *count += times,
            None => self.0.push((reason.clone(), times)),
        }
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Histogram {
    /// `1 node(s) were unschedulable, 2 Insufficient cpu`, sorted as texts, as Kubernetes does.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> =
            self.0.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        parts.sort();
        f.write_str(&parts.join(", "))
    }
}

/// The outcome of a decision that found no node. Its `Display` is the message of the condition and the event.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Diagnosis {
    pub(crate) nodes: usize,
    pub(crate) reasons: Histogram,
    /// The refusal of a pre-filter, which stands for all nodes.
    pub(crate) pre_filter: Option<(PluginId, Refusal)>,
    pub(crate) refused_by: PluginSet,
    pub(crate) post: PostFiltered,
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        write!(f, "0/{} nodes are available:", self.nodes)?;
        match &self.pre_filter {
            Some((_, refusal)) => write!(f, " {}.", refusal.reason)?,
            None if !self.reasons.is_empty() => write!(f, " {}.", self.reasons)?,
            None => {}
        }
        if !self.post.message.is_empty() {
            write!(f, " {}", self.post.message)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diagnosis(nodes: usize, reasons: &[(&'static str, usize)]) -> Diagnosis {
        let mut histogram = Histogram::default();
        for (reason, times) in reasons {
            histogram.add(&Reason::Borrowed(reason), *times);
        }
        let (refused_by, post) = (PluginSet::default(), PostFiltered::default());
        Diagnosis { nodes, reasons: histogram, pre_filter: None, refused_by, post }
    }

    #[test]
    fn message_is_that_of_kubernetes() {
        let found = diagnosis(3, &[("Insufficient cpu", 2), ("node(s) had untolerated taint(s)", 1)]);
        assert_eq!(
            found.to_string(),
            "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient cpu."
        );
        assert_eq!(diagnosis(0, &[]).to_string(), "no nodes available to schedule pods");
    }
}
