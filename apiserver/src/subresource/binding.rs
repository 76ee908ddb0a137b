//! `binding`: a scheduler's decision. The node's name and the condition that says so are one write.

use api_types::kinds::Kind;
use api_types::status::{FieldError, Status};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::StatusCode;
use serde_json::{Value, json};

use super::{Action, Subresource, check_name};
use crate::admission::{Operation, Options};
use crate::rest::{
    Answer, Call, WriteOptions, admit_body, decode, media_type, timestamp, typed, write_object,
};

pub(super) struct Binding;

impl Subresource for Binding {
    const NAME: &'static str = "binding";
    const ACTION: Action = Action::Do(bind);
}

fn bind(call: Call) -> BoxFuture<'static, Answer> {
    async move {
        let options = WriteOptions::parse(&call.info.query, &call.headers, "CreateOptions")?;
        let decoded = decode(media_type(&call.headers), &call.body, "Binding")?;
        let mut body = typed::read_part(&call, decoded, "", options.field_validation)?;
        check_name(&call, &body)?;
        admit_body(&call, Operation::Create, Options::Write(&options), &mut body).await?;
        let node = body["target"]["name"].as_str().unwrap_or_default().to_owned();
        let errors = check_target(&body["target"]);
        if !errors.is_empty() {
            return Err(Status::invalid_kind("", "Binding", &call.info.name, errors));
        }
        write_object(&call, &options, |pod| assign(&call, pod, &body, &node)).await?;
        call.plain(
            StatusCode::CREATED,
            &json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201,
            }),
        )
    }
    .boxed()
}

fn check_target(target: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if target["kind"].as_str().is_some_and(|kind| !kind.is_empty() && kind != "Node") {
        let known = ["Node", "<empty>"];
        errors.push(FieldError::not_supported("target.kind", target["kind"].clone(), &known));
    }
    if target["name"].as_str().is_none_or(str::is_empty) {
        errors.push(FieldError::required("target.name", ""));
    }
    errors
}

fn assign(call: &Call, pod: &Value, body: &Value, node: &str) -> Result<Value, Status> {
    let name = &call.info.name;
    let named = Kind { plural: format!("{}/{}", call.kind.plural, Binding::NAME), ..(*call.kind).clone() };
    let conflict = |why: String| Err(Status::conflict(&named, name, why));
    if let Some(uid) = body["metadata"]["uid"].as_str().filter(|u| !u.is_empty())
        && pod["metadata"]["uid"].as_str() != Some(uid)
    {
        let actual = pod["metadata"]["uid"].as_str().unwrap_or_default();
        return conflict(format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {actual}"
        ));
    }
    if pod["metadata"]["deletionTimestamp"].is_string() {
        return conflict(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    match pod["spec"]["nodeName"].as_str() {
        None | Some("") => {}
        Some(current) => return conflict(format!("pod {name} is already assigned to node {current:?}")),
    }
    if pod["spec"]["schedulingGates"].as_array().is_some_and(|g| !g.is_empty()) {
        return conflict(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    let mut next = pod.clone();
    next["spec"]["nodeName"] = json!(node);
    for (key, value) in body["metadata"]["annotations"].as_object().into_iter().flatten() {
        next["metadata"]["annotations"][key] = value.clone();
    }
    let generation = next["metadata"]["generation"].as_i64();
    let mut condition = json!({
        "type": "PodScheduled", "status": "True", "lastProbeTime": null,
        "lastTransitionTime": timestamp(call.server.clock.now()),
    });
    condition.as_object_mut().map(|c| c.shift_remove("lastProbeTime"));
    if let Some(generation) = generation {
        condition["observedGeneration"] = json!(generation);
    }
    let conditions = next["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let mut conditions: Vec<_> = conditions.into_iter().filter(|c| c["type"] != "PodScheduled").collect();
    conditions.push(condition);
    next["status"]["conditions"] = json!(conditions);
    Ok(next)
}
