//! `AdmissionReview`: what a webhook is asked, and what its answer means.

use std::borrow::Cow;

use api_types::kinds::Kind;
use api_types::status::Status;
use base64::Engine as _;
use serde_json::{Map, Value, json};

use crate::admission::Review;
use crate::matching::namespace_of;
use crate::rest::convert_object;

/// What a webhook said.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// The `Status` of a refusal, as the webhook gave it.
    pub(crate) refused: Option<Value>,
    /// A JSON patch.
    pub(crate) patch: Option<Value>,
    pub(crate) warnings: Vec<String>,
    pub(crate) annotations: Vec<(String, String)>,
}

/// The question about `review`, in the words of `row`.
pub(crate) fn question(review: &Review<'_>, row: &Kind, version: &str, uid: &str) -> Value {
    let shown = |object: Option<&Value>| object.map_or(Value::Null, |o| to_row(review, row, o).into_owned());
    let mut request = request_of(review, row);
    request.insert("uid".into(), json!(uid));
    request.insert("object".into(), shown(review.new.as_deref()));
    request.insert("oldObject".into(), shown(review.old));
    json!({
        "kind": "AdmissionReview", "apiVersion": format!("admission.k8s.io/{version}"), "request": request,
    })
}

/// The facts of the request that is under review, without its objects.
pub(crate) fn request_of(review: &Review<'_>, row: &Kind) -> Map<String, Value> {
    let mut request = Map::new();
    request.insert("kind".into(), kind_of(row, review.subresource));
    request.insert("resource".into(), resource_of(row));
    request.insert("requestKind".into(), kind_of(review.kind, review.subresource));
    request.insert("requestResource".into(), resource_of(review.kind));
    let named = [
        ("subResource", review.subresource),
        ("requestSubResource", review.subresource),
        ("name", review.name),
        ("namespace", namespace_of(review)),
    ];
    for (field, text) in named.into_iter().filter(|(_, text)| !text.is_empty()) {
        request.insert(field.into(), json!(text));
    }
    request.insert("operation".into(), json!(review.operation.as_str()));
    request.insert("userInfo".into(), user_of(review));
    request.insert("dryRun".into(), json!(review.options.is_dry_run()));
    request.insert("options".into(), review.options.to_value(review.operation));
    request
}

/// Whether the objects under review are of the resource's kind, and not of the subresource's own.
fn has_own_kind(kind: &Kind, subresource: &str) -> bool {
    kind.find_subresource(subresource).is_some_and(|sub| sub.kind != kind.kind)
}

/// An object of the review as `row` shows it.
pub(crate) fn to_row<'o>(review: &Review<'_>, row: &Kind, object: &'o Value) -> Cow<'o, Value> {
    let is_same = row.version == review.kind.version && row.group == review.kind.group;
    match is_same || has_own_kind(review.kind, review.subresource) {
        true => Cow::Borrowed(object),
        false => Cow::Owned(convert_object(review.kind, row, object.clone())),
    }
}

/// What `row` shows, as the request has it.
pub(crate) fn from_row(review: &Review<'_>, row: &Kind, object: Value) -> Value {
    if has_own_kind(review.kind, review.subresource) {
        object
    } else {
        convert_object(row, review.kind, object)
    }
}

/// The object under review as the webhook saw it.
pub(crate) fn shown(review: &Review<'_>, row: &Kind) -> Value {
    review.new.as_deref().map_or(Value::Null, |object| to_row(review, row, object).into_owned())
}

fn kind_of(row: &Kind, subresource: &str) -> Value {
    match row.find_subresource(subresource) {
        Some(sub) => json!({ "group": sub.group, "version": sub.version, "kind": sub.kind }),
        None => json!({ "group": row.group, "version": row.version, "kind": row.kind }),
    }
}

fn resource_of(row: &Kind) -> Value {
    json!({ "group": row.group, "version": row.version, "resource": row.plural })
}

fn user_of(review: &Review<'_>) -> Value {
    let user = review.user;
    let mut info = json!({ "username": user.name });
    if !user.uid.is_empty() {
        info["uid"] = json!(user.uid);
    }
    info["groups"] = json!(user.groups);
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

/// Reads an answer; the error says why it is none.
pub(crate) fn read(answer: &Value, version: &str, uid: &str, may_patch: bool) -> Result<Answer, String> {
    let response = match &answer["response"] {
        Value::Object(response) => response,
        _ => return Err("webhook response was absent".to_owned()),
    };
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let (kind, api_version) = (text(answer.get("kind")), text(answer.get("apiVersion")));
    let wanted = format!("admission.k8s.io/{version}");
    let is_strict = version != "v1beta1";
    let given = text(response.get("uid"));
    if is_strict && given != uid {
        return Err(format!("expected response.uid={uid:?}, got {given:?}"));
    }
    if is_strict && (kind != "AdmissionReview" || api_version != wanted) {
        return Err(format!(
            "expected webhook response of {wanted}, Kind=AdmissionReview, got {api_version}, Kind={kind}"
        ));
    }
    let patch = read_patch(response, may_patch, is_strict)?;
    let annotations = response.get("auditAnnotations").and_then(Value::as_object).into_iter().flatten();
    let warnings = response.get("warnings").and_then(Value::as_array).into_iter().flatten();
    let allowed = response.get("allowed").and_then(Value::as_bool).unwrap_or_default();
    Ok(Answer {
        refused: (!allowed).then(|| response.get("status").cloned().unwrap_or_default()),
        patch,
        warnings: warnings.filter_map(|w| w.as_str().map(str::to_owned)).collect(),
        annotations: annotations.map(|(key, value)| (key.clone(), text(Some(value)))).collect(),
    })
}

fn read_patch(
    response: &Map<String, Value>,
    may_patch: bool,
    is_strict: bool,
) -> Result<Option<Value>, String> {
    let text = |field: &str| response.get(field).and_then(Value::as_str).filter(|t| !t.is_empty());
    let (patch, kind) = (text("patch"), text("patchType"));
    match (patch, kind) {
        (None, None) => return Ok(None),
        _ if !may_patch && !is_strict => return Ok(None),
        (Some(_), _) if !may_patch => return Err("validating webhook may not return response.patch".into()),
        (None, Some(_)) if !may_patch => {
            return Err("validating webhook may not return response.patchType".into());
        }
        (Some(_), None) if is_strict => {
            return Err("webhook returned response.patch but not response.patchType".into());
        }
        (None, Some(_)) if is_strict => {
            return Err("webhook returned response.patchType but not response.patch".into());
        }
        (_, Some(other)) if other != "JSONPatch" => {
            return Err(format!("webhook returned invalid response.patchType of {other:?}"));
        }
        _ => {}
    }
    let bytes = base64::engine::general_purpose::STANDARD.decode(patch.unwrap_or_default());
    let bytes = bytes.map_err(|e| format!("response.patch is not base64: {e}"))?;
    serde_json::from_slice(&bytes).map(Some).map_err(|e| format!("response.patch is not JSON: {e}"))
}

/// The refusal that the client sees.
pub(crate) fn refusal(webhook: &str, given: &Value) -> Status {
    let denied = format!("admission webhook {webhook:?} denied the request");
    let text = |field: &str| given[field].as_str().filter(|t| !t.is_empty());
    let message = match (text("message"), text("reason")) {
        (Some(message), _) => format!("{denied}: {message}"),
        (None, Some(reason)) => format!("{denied}: {reason}"),
        (None, None) => format!("{denied} without explanation"),
    };
    Status::relayed(given, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(response: Value) -> Value {
        json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response})
    }

    fn problem(answer: &Value, may_patch: bool) -> String {
        read(answer, "v1", "u", may_patch).unwrap_err()
    }

    #[test]
    fn an_answer_must_be_one_to_the_question() {
        assert_eq!(problem(&json!({}), true), "webhook response was absent");
        assert_eq!(
            problem(&answer(json!({"uid": "x", "allowed": true})), true),
            r#"expected response.uid="u", got "x""#
        );
        let bare = json!({"response": {"uid": "u"}});
        assert_eq!(
            problem(&bare, true),
            "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got , Kind="
        );
    }

    #[test]
    fn only_a_mutating_webhook_patches_and_says_how() {
        let patch = "W10=";
        let ok = answer(json!({"uid": "u", "allowed": true, "patch": patch, "patchType": "JSONPatch"}));
        assert_eq!(read(&ok, "v1", "u", true).unwrap().patch, Some(json!([])));
        assert_eq!(problem(&ok, false), "validating webhook may not return response.patch");
        let untyped = answer(json!({"uid": "u", "allowed": true, "patch": patch}));
        assert_eq!(problem(&untyped, true), "webhook returned response.patch but not response.patchType");
    }

    #[test]
    fn a_refusal_names_the_webhook_and_keeps_its_words() {
        let status = refusal("w.example.com", &json!({"message": "no", "code": 418, "reason": "Teapot"}));
        assert_eq!(status.message, r#"admission webhook "w.example.com" denied the request: no"#);
        let value = status.to_value();
        assert_eq!((&value["code"], &value["reason"]), (&json!(418), &json!("Teapot")));
        let silent = refusal("w.example.com", &Value::Null);
        assert_eq!(
            silent.message,
            r#"admission webhook "w.example.com" denied the request without explanation"#
        );
        assert_eq!(silent.code(), 400);
    }
}
