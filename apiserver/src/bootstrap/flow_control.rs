//! The FlowSchemas and priority levels that every cluster starts with.

use serde_json::Value;

const TEXT: &str = include_str!("flow_control.json");

/// All of them, levels before the schemas that lead to them.
pub(crate) fn objects() -> Vec<Value> {
    serde_json::from_str(TEXT).expect("a test reads the default objects")
}

/// Whether the server depends on the object and puts it back as it was.
pub(crate) fn is_mandatory(object: &Value) -> bool {
    matches!(object["metadata"]["name"].as_str(), Some("exempt" | "catch-all"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_schema_leads_to_a_default_level() {
        let objects = objects();
        assert_eq!(objects.len(), 19);
        for schema in objects.iter().filter(|o| o["kind"] == "FlowSchema") {
            let level = &schema["spec"]["priorityLevelConfiguration"]["name"];
            assert!(
                objects
                    .iter()
                    .any(|o| o["kind"] == "PriorityLevelConfiguration" && o["metadata"]["name"] == *level)
            );
        }
    }
}
