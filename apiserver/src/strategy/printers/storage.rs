//! Volume plug-ins, attachments and attributes; devices and the claims on them.

use serde_json::{Value, json};

use super::{Node, Printed, join};

pub(super) fn csi_driver(printed: &Printed<'_>) -> Vec<Value> {
    let tokens = printed.list("/spec/tokenRequests");
    let audiences = match tokens.is_empty() {
        true => "<unset>".to_owned(),
        false => join(tokens.iter().map(|token| token["audience"].as_str().unwrap_or_default())),
    };
    let flag =
        |field: &str, unset: bool| json!(printed.at(&format!("/spec/{field}")).as_bool().unwrap_or(unset));
    vec![
        printed.name(),
        flag("attachRequired", true),
        flag("podInfoOnMount", false),
        flag("storageCapacity", false),
        json!(audiences),
        flag("requiresRepublish", false),
        json!(join(printed.list("/spec/volumeLifecycleModes").iter().filter_map(Node::as_str))),
        printed.age(),
    ]
}

pub(super) fn csi_node(printed: &Printed<'_>) -> Vec<Value> {
    vec![printed.name(), json!(printed.list("/spec/drivers").len()), printed.age()]
}

pub(super) fn volume_attachment(printed: &Printed<'_>) -> Vec<Value> {
    vec![
        printed.name(),
        json!(printed.text("/spec/attacher")),
        json!(printed.text("/spec/source/persistentVolumeName")),
        json!(printed.text("/spec/nodeName")),
        json!(printed.at("/status/attached").as_bool().unwrap_or(false)),
        printed.age(),
    ]
}

pub(super) fn attributes_class(printed: &Printed<'_>) -> Vec<Value> {
    vec![printed.name(), json!(printed.text("/driverName")), printed.age()]
}

pub(super) fn device(printed: &Printed<'_>) -> Vec<Value> {
    vec![printed.name(), printed.age()]
}

pub(super) fn resource_claim(printed: &Printed<'_>) -> Vec<Value> {
    let deleted = !printed.text("/metadata/deletionTimestamp").is_empty();
    let allocated = !printed.at("/status/allocation").is_null();
    let states = [
        (deleted, "deleted"),
        (!allocated && !deleted, "pending"),
        (allocated, "allocated"),
        (allocated && !printed.list("/status/reservedFor").is_empty(), "reserved"),
    ];
    let state = join(states.into_iter().filter_map(|(holds, word)| holds.then_some(word)));
    vec![printed.name(), json!(state), printed.age()]
}

pub(super) fn resource_slice(printed: &Printed<'_>) -> Vec<Value> {
    vec![
        printed.name(),
        json!(printed.text("/spec/nodeName")),
        json!(printed.text("/spec/driver")),
        json!(printed.text("/spec/pool/name")),
        printed.age(),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use super::*;

    const MADE: &str = "2026-01-01T00:00:00Z";

    #[test]
    fn a_claim_is_pending_until_it_is_allocated_and_reserved() {
        let mut object = json!({"metadata": {"name": "c", "creationTimestamp": MADE}});
        check(resource_claim, &object, &["c", "pending", "5m"]);
        object["status"] = json!({"allocation": {}, "reservedFor": [{"name": "p"}]});
        check(resource_claim, &object, &["c", "allocated,reserved", "5m"]);
    }

    #[test]
    fn a_driver_prints_its_modes_and_audiences() {
        let object = json!({"metadata": {"name": "d", "creationTimestamp": MADE}, "spec": {
            "attachRequired": false, "volumeLifecycleModes": ["Persistent", "Ephemeral"],
            "tokenRequests": [{"audience": "vault"}]}});
        let cells = ["d", "false", "false", "false", "vault", "false", "Persistent,Ephemeral", "5m"];
        check(csi_driver, &object, &cells);
    }
}
