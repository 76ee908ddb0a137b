//! Kinds that differ in a thing or two from all others.

use serde_json::Value;

use super::{Context, Strategy};

pub(super) struct Secrets;
pub(super) struct EndpointSlices;

impl Strategy for Secrets {
    fn prepare_for_create(&self, context: &Context<'_>, new: &mut Value) {
        super::isolate::for_create(context.kind, new);
        fold_string_data(new);
    }

    fn prepare_for_update(&self, context: &Context<'_>, new: &mut Value, old: &Value) {
        fold_string_data(new);
        super::isolate::for_update(context.kind, context.subresource, new, old);
    }
}

/// `stringData` is for writing only: it becomes `data`.
fn fold_string_data(secret: &mut Value) {
    use base64::Engine;
    let Some(texts) = secret.as_object_mut().and_then(|s| s.shift_remove("stringData")) else { return };
    for (key, value) in texts.as_object().into_iter().flatten() {
        if !secret["data"].is_object() {
            secret["data"] = serde_json::json!({});
        }
        let encoded = base64::engine::general_purpose::STANDARD.encode(value.as_str().unwrap_or_default());
        secret["data"][key] = encoded.into();
    }
}

impl Strategy for EndpointSlices {
    fn prepare_for_create(&self, context: &Context<'_>, new: &mut Value) {
        super::isolate::for_create(context.kind, new);
        drop_topology(new);
    }
}

/// The map of topology labels is of the beta version; nothing new has it.
fn drop_topology(slice: &mut Value) {
    for endpoint in slice.get_mut("endpoints").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(endpoint) = endpoint.as_object_mut() {
            endpoint.shift_remove("deprecatedTopology");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn string_data_becomes_data() {
        let mut secret = json!({"data": {"a": "eA=="}, "stringData": {"b": "x"}});
        fold_string_data(&mut secret);
        assert_eq!(secret, json!({"data": {"a": "eA==", "b": "eA=="}}));
    }

    #[test]
    fn a_new_slice_has_no_topology() {
        let mut slice =
            json!({"endpoints": [{"addresses": ["192.0.2.1"], "deprecatedTopology": {"a": "b"}}]});
        drop_topology(&mut slice);
        assert_eq!(slice, json!({"endpoints": [{"addresses": ["192.0.2.1"]}]}));
    }
}
