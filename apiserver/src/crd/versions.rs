//! Custom objects between the version they are stored in and the one that a request asks for.
//!
//! What comes from the store is first brought into the form that its own version has now (defaults that were
//! added later, fields that were taken out), then converted, then cut to the version that is asked for. A
//! family with a webhook asks it once for all objects of a request.

use std::time::Duration;

use api_types::kinds::{Custom, CustomVersion, Family};
use api_types::status::Status;
use serde_json::{Value, json};

use crate::server::Server;
use crate::webhook::Target;

/// How long a conversion may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Stored objects as the row of `custom` shows them.
pub(crate) async fn read(
    server: &Server,
    custom: &Custom,
    objects: Vec<Value>,
) -> Result<Vec<Value>, Status> {
    let family = &custom.family;
    let mut objects = objects;
    for object in &mut objects {
        version_of(family, object).schema.conform(object);
    }
    turn(server, family, custom.version(), objects).await
}

/// Objects of the row of `custom` as they are stored.
pub(crate) async fn store(
    server: &Server,
    custom: &Custom,
    objects: Vec<Value>,
) -> Result<Vec<Value>, Status> {
    let family = &custom.family;
    let mut objects = turn(server, family, family.stored(), objects).await?;
    for object in &mut objects {
        family.stored().schema.conform(object);
    }
    Ok(objects)
}

fn version_of<'a>(family: &'a Family, object: &Value) -> &'a CustomVersion {
    // A version that is no longer in the definition was not stored by what its author says.
    family.find(object["apiVersion"].as_str().unwrap_or_default()).unwrap_or(family.stored())
}

/// Objects of any of the family's versions in one of them.
pub(crate) async fn turn(
    server: &Server,
    family: &Family,
    to: &CustomVersion,
    mut objects: Vec<Value>,
) -> Result<Vec<Value>, Status> {
    let others: Vec<usize> =
        (0..objects.len()).filter(|i| objects[*i]["apiVersion"] != to.api_version.as_str()).collect();
    if others.is_empty() {
        return Ok(objects);
    }
    let given: Vec<Value> = others.iter().map(|i| objects[*i].take()).collect();
    let converted = match &family.webhook {
        Some(webhook) => ask(server, family, webhook, to, given).await?,
        None => given.into_iter().map(|object| rename(object, to)).collect(),
    };
    for (i, mut object) in others.into_iter().zip(converted) {
        to.schema.prune(&mut object);
        objects[i] = object;
    }
    Ok(objects)
}

/// An object in another version, where versions differ in nothing but the name.
pub(crate) fn rename(mut object: Value, to: &CustomVersion) -> Value {
    object["apiVersion"] = json!(to.api_version);
    object
}

/// Asks the webhook for all objects at once.
async fn ask(
    server: &Server,
    family: &Family,
    webhook: &Value,
    to: &CustomVersion,
    objects: Vec<Value>,
) -> Result<Vec<Value>, Status> {
    let failed = |why: String| {
        Status::unexplained(
            500,
            format!("conversion webhook for {} failed: {why}", described(family, &objects)),
        )
    };
    let known = webhook["conversionReviewVersions"].as_array().into_iter().flatten();
    let version = known.filter_map(Value::as_str).find(|v| matches!(*v, "v1" | "v1beta1")).unwrap_or("v1");
    let uid = uuid::Uuid::new_v4().to_string();
    let api_version = format!("apiextensions.k8s.io/{version}");
    let review = json!({
        "kind": "ConversionReview", "apiVersion": api_version,
        "request": { "uid": uid, "desiredAPIVersion": to.api_version, "objects": objects },
    });
    let target = Target::from_value(&webhook["clientConfig"]);
    let answer = server.admission.webhooks.call(&target, TIMEOUT, &review).await;
    let mut answer = answer.map_err(|e| failed(e.to_string()))?;
    check(&answer, &api_version, &uid).map_err(&failed)?;
    let Some(Value::Array(converted)) = answer.pointer_mut("/response/convertedObjects").map(Value::take)
    else {
        return Err(failed("invalid response: no converted objects".to_owned()));
    };
    if converted.len() != objects.len() {
        let (got, wanted) = (converted.len(), objects.len());
        return Err(failed(format!("expected {wanted} converted objects, got {got}")));
    }
    let pairs = converted.into_iter().zip(&objects).enumerate();
    pairs
        .map(|(i, (new, old))| {
            settle(new, old, to)
                .map_err(|why| failed(format!("invalid converted object at index {i}: {why}")))
        })
        .collect()
}

fn described(family: &Family, objects: &[Value]) -> String {
    let first = objects.first().cloned().unwrap_or_default();
    let version = first["apiVersion"].as_str().unwrap_or(&family.stored().api_version).to_owned();
    format!("{version}, Kind={}", first["kind"].as_str().unwrap_or_default())
}

fn check(answer: &Value, api_version: &str, uid: &str) -> Result<(), String> {
    if answer["apiVersion"] != api_version || answer["kind"] != "ConversionReview" {
        return Err(format!(
            "expected webhook response of {api_version}, Kind=ConversionReview, got {}, Kind={}",
            answer["apiVersion"].as_str().unwrap_or_default(),
            answer["kind"].as_str().unwrap_or_default()
        ));
    }
    let response = &answer["response"];
    if response["uid"] != uid {
        return Err(format!("expected response.uid={uid:?}, got {}", response["uid"]));
    }
    if response["result"]["status"] != "Success" {
        return Err(response["result"]["message"]
            .as_str()
            .unwrap_or("response.result.status was not Success")
            .to_owned());
    }
    Ok(())
}

/// Of the metadata, a conversion may change labels and annotations.
fn settle(mut new: Value, old: &Value, to: &CustomVersion) -> Result<Value, String> {
    if new["apiVersion"] != to.api_version.as_str() {
        return Err(format!(
            "invalid groupVersion (expected {}, received {})",
            to.api_version, new["apiVersion"]
        ));
    }
    if new["kind"] != old["kind"] {
        return Err(format!("invalid kind (expected {}, received {})", old["kind"], new["kind"]));
    }
    if !new["metadata"].is_object() {
        return Err("missing metadata in converted object".to_owned());
    }
    for field in ["name", "namespace", "uid"] {
        if new["metadata"][field] != old["metadata"][field] {
            return Err(format!("invalid metadata: {field} must not be changed"));
        }
    }
    let mut metadata = old["metadata"].clone();
    for field in ["labels", "annotations"] {
        match new["metadata"].get_mut(field).map(Value::take).filter(|v| !v.is_null()) {
            Some(value) => metadata[field] = value,
            None => drop(metadata.as_object_mut().and_then(|m| m.shift_remove(field))),
        }
    }
    new["metadata"] = metadata;
    Ok(new)
}
