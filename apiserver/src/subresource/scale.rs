//! `scale`: how many replicas a workload wants and has, in the one shape that autoscalers know.

use std::borrow::Cow;

use api_types::kinds::{Kind, ScalePaths};
use api_types::selectors::LabelSelector;
use api_types::status::{FieldError, Status};
use serde_json::{Map, Value, json};

use super::{Action, Subresource};
use crate::rest::Projection;

pub(super) struct Scale;

impl Subresource for Scale {
    const NAME: &'static str = "scale";
    const ACTION: Action = Action::View(&Self);
}

impl Projection for Scale {
    fn read<'o>(&self, kind: &Kind, object: &'o Value) -> Result<Cow<'o, Value>, Status> {
        let mut metadata = Map::new();
        for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
            if let Some(value) = object["metadata"].get(field) {
                metadata.insert(field.into(), value.clone());
            }
        }
        let mut spec = json!({});
        let numbers = Numbers::of(kind, object);
        if let Some(replicas) = numbers.wanted.filter(|r| *r != 0) {
            spec["replicas"] = json!(replicas);
        }
        let mut status = json!({ "replicas": numbers.observed.unwrap_or_default() });
        if let Some(selector) = numbers.selector {
            status["selector"] = json!(selector);
        }
        let scale = json!({
            "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status,
        });
        Ok(Cow::Owned(scale))
    }

    fn write(&self, kind: &Kind, object: &Value, body: Value) -> Result<Value, Status> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let replicas = replicas_of(name, &body)?;
        let mut next = object.clone();
        match scale_paths(kind) {
            Some(paths) => put(&mut next, &paths.spec_replicas, replicas),
            None => next["spec"]["replicas"] = json!(replicas),
        }
        Ok(next)
    }

    fn configuration(&self, kind: &Kind, config: Value) -> Result<Value, Status> {
        let name = config["metadata"]["name"].as_str().unwrap_or_default();
        let mut out = json!({ "apiVersion": kind.api_version(), "kind": kind.kind });
        if let Some(metadata) = config.get("metadata") {
            out["metadata"] = metadata.clone();
        }
        if !config["spec"]["replicas"].is_null() {
            let replicas = replicas_of(name, &config)?;
            match scale_paths(kind) {
                Some(paths) => put(&mut out, &paths.spec_replicas, replicas),
                None => out["spec"] = json!({ "replicas": replicas }),
            }
        }
        Ok(out)
    }

    fn is_object(&self) -> bool {
        false
    }
}

/// What a scale shows of an object.
struct Numbers {
    wanted: Option<i64>,
    observed: Option<i64>,
    selector: Option<String>,
}

impl Numbers {
    fn of(kind: &Kind, object: &Value) -> Self {
        let Some(paths) = scale_paths(kind) else {
            return Self {
                wanted: object["spec"]["replicas"].as_i64(),
                observed: object["status"]["replicas"].as_i64(),
                selector: selector_text(&object["spec"]["selector"]),
            };
        };
        let at = |path: &str| object.pointer(&path.replace('.', "/"));
        let selector = paths.label_selector.as_deref().and_then(at).and_then(Value::as_str);
        Self {
            wanted: at(&paths.spec_replicas).and_then(Value::as_i64),
            observed: at(&paths.status_replicas).and_then(Value::as_i64),
            selector: selector.filter(|s| !s.is_empty()).map(str::to_owned),
        }
    }
}

/// Where a custom kind has its numbers.
fn scale_paths(kind: &Kind) -> Option<&ScalePaths> {
    kind.custom.as_ref()?.version().scale.as_ref()
}

/// Puts a number at a simple JSON path, making the objects on the way.
fn put(object: &mut Value, path: &str, number: i64) {
    let names: Vec<&str> = path.split('.').filter(|name| !name.is_empty()).collect();
    let mut at = object;
    for name in names {
        if !at.is_object() {
            *at = json!({});
        }
        at = &mut at[name];
    }
    *at = json!(number);
}

/// How many replicas a `Scale` asks for.
fn replicas_of(name: &str, body: &Value) -> Result<i64, Status> {
    let replicas = &body["spec"]["replicas"];
    let replicas = match replicas {
        Value::Null => 0,
        other => other.as_i64().ok_or_else(|| {
            Status::bad_request(
                "Scale in version \"v1\" cannot be handled as a Scale: spec.replicas is not a whole number",
            )
        })?,
    };
    if replicas < 0 {
        let error = FieldError::invalid("spec.replicas", replicas, "must be greater than or equal to 0");
        return Err(Status::invalid_kind("autoscaling", "Scale", name, vec![error]));
    }
    Ok(replicas)
}

/// A selector as text, be it a `LabelSelector` or, in the oldest kinds, a map of labels.
fn selector_text(selector: &Value) -> Option<String> {
    let fields = selector.as_object()?;
    let is_selector = fields.contains_key("matchLabels") || fields.contains_key("matchExpressions");
    let parsed = match is_selector {
        true => LabelSelector::from_value(selector),
        false => LabelSelector::from_value(&json!({ "matchLabels": selector })),
    };
    parsed.ok().map(|s| s.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_is_shown_as_a_scale() {
        let kind = api_types::kinds::find_kind("apps", "v1", "Deployment").unwrap();
        let object = json!({
            "metadata": { "name": "d", "namespace": "n", "labels": { "x": "y" } },
            "spec": { "replicas": 3, "selector": { "matchLabels": { "a": "b" } } }, "status": { "replicas": 2 },
        });
        let scale = Scale.read(kind, &object).unwrap();
        assert_eq!(scale["spec"]["replicas"], 3);
        assert_eq!(scale["status"], json!({ "replicas": 2, "selector": "a=b" }));
        let next = Scale.write(kind, &object, json!({ "spec": { "replicas": 5 } })).unwrap();
        assert_eq!(next["spec"]["replicas"], 5);
        assert_eq!(
            Scale.write(kind, &object, json!({ "spec": { "replicas": -1 } })).unwrap_err().code(),
            422
        );
    }
}
