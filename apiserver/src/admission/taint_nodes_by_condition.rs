//! TaintNodesByCondition: a new node takes no pods until the node lifecycle controller has seen it ready.

use api_types::status::Status;
use serde_json::{Value, json};

use super::{Plugin, Review};

pub(crate) struct TaintNodesByCondition;

const TAINT: &str = "node.kubernetes.io/not-ready";

impl Plugin for TaintNodesByCondition {
    const NAME: &'static str = "TaintNodesByCondition";

    fn admit(review: &mut Review<'_>) -> Result<(), Status> {
        let creates = review.creates("nodes");
        let Some(node) = review.new.as_deref_mut().filter(|node| creates && node.is_object()) else {
            return Ok(());
        };
        if !node["spec"].is_object() {
            node["spec"] = json!({});
        }
        let taint = json!({"key": TAINT, "effect": "NoSchedule"});
        match node.pointer_mut("/spec/taints").and_then(Value::as_array_mut) {
            Some(taints) if taints.iter().any(|t| t["key"] == TAINT && t["effect"] == "NoSchedule") => {}
            Some(taints) => taints.push(taint),
            None => node["spec"]["taints"] = json!([taint]),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::fixture::admit;
    use crate::view::fixture::Fixture;

    #[test]
    fn a_new_node_is_tainted_once() {
        let once =
            admit::<TaintNodesByCondition>(Fixture::default(), "nodes", json!({"metadata": {"name": "n"}}))
                .unwrap();
        assert_eq!(once["spec"]["taints"], json!([{"key": TAINT, "effect": "NoSchedule"}]));
        let again = admit::<TaintNodesByCondition>(Fixture::default(), "nodes", once.clone()).unwrap();
        assert_eq!(again, once);
    }
}
