//! GET of a collection: one consistent revision, in pages if the client asks for them.

use std::ops::ControlFlow;
use std::sync::Arc;

use api_types::status::{Cause, Details, FieldError, Reason, Status};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::selection::Selection;
use super::{Answer, Call, Verb, convert, past};
use crate::cache::{Snapshot, Stored};
use crate::negotiate::{self, Items};
use crate::request_info::Query;
use crate::store::Revision;
use crate::strategy::computed;

pub(super) struct List;

impl Verb for List {
    const NAME: &'static str = "list";

    async fn answer(call: Call) -> Answer {
        let selection = Selection::parse(&call.kind, &call.info.query)?;
        let items = if call.kind.is_kept() {
            let mut page = Page::parse(&call)?;
            page.exact = past::asked(&call).await?.or(page.exact);
            let snapshot = page.snapshot(&call).await?;
            collect(&call, &selection, &page, &snapshot).await?
        } else {
            let objects = computed(&call, selection.name().unwrap_or_default(), &selection).await;
            Items { objects, revision: call.server.objects.revision(), continues: None, remaining: None }
        };
        let now = call.server.clock.now();
        let body = negotiate::list_body(call.named_kind(), &items, &call.accept, call.include(), now);
        negotiate::answer_json(StatusCode::OK, body, &call.accept)
    }
}

/// The objects of a kind of which nothing is kept: all that are selected, or that of a name.
pub(super) async fn computed(call: &Call, name: &str, selection: &Selection) -> Vec<Bytes> {
    let found = computed::objects(call, name).await;
    let wanted = |object: &Value| {
        (name.is_empty() || object["metadata"]["name"] == name) && selection.matches_object(object)
    };
    found
        .into_iter()
        .filter(wanted)
        .map(|mut object| {
            object["kind"] = json!(call.kind.kind);
            object["apiVersion"] = json!(call.kind.api_version());
            negotiate::encode(&convert::ordered(object))
        })
        .collect()
}

/// Where a paged list goes on, in Kubernetes' own form: the revision of its first page (-1: whatever is there
/// now) and the first key that may come next, relative to the collection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Token {
    v: String,
    #[serde(default)]
    rv: i64,
    #[serde(default)]
    start: String,
    /// When the first page was sent. Kubernetes' tokens expire with the next compaction.
    #[serde(default)]
    ms: i64,
}

const TOKEN_VERSION: &str = "meta.k8s.io/v1";
/// The revision of a list whose consistency is given up.
const LATEST: i64 = -1;

impl Token {
    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).expect("a token always encodes"))
    }

    fn decode(text: &str) -> Result<Self, Status> {
        let refuse = |why: String| Status::bad_request(format!("invalid continue token: {why}"));
        let bytes = URL_SAFE_NO_PAD
            .decode(text.trim_end_matches('='))
            .map_err(|error| refuse(format!("continue key is not valid: {error}")))?;
        let token: Self = serde_json::from_slice(&bytes).map_err(|error| {
            let why = super::body::syntax::fault(&bytes).unwrap_or_else(|| error.to_string());
            refuse(format!("continue key is not valid: {why}"))
        })?;
        let of = "(version meta.k8s.io/v1)";
        match &token {
            Self { v, .. } if v != TOKEN_VERSION => Err(refuse(format!(
                "continue key is not valid: server does not recognize this encoded version {v:?}"
            ))),
            Self { rv: 0, .. } => Err(refuse(format!(
                "continue key is not valid: incorrect encoded start resourceVersion {of}"
            ))),
            Self { start, .. } if start.is_empty() => {
                Err(refuse(format!("continue key is not valid: encoded start key empty {of}")))
            }
            Self { start, .. } if start.split('/').any(|part| part == "..") => {
                Err(refuse(format!("continue key is not valid: {start}")))
            }
            _ => Ok(token),
        }
    }

    /// Namespace and name of the last object that was sent.
    fn last<'a>(&'a self, namespace: Option<&'a str>) -> (&'a str, &'a str) {
        let key = self.start.trim_end_matches('\0');
        match namespace {
            Some(namespace) => (namespace, key),
            None => key.split_once('/').unwrap_or(("", key)),
        }
    }
}

/// Which part of a collection, at which revision.
struct Page {
    limit: Option<usize>,
    after: Option<Token>,
    exact: Option<Revision>,
    not_older: Option<Revision>,
    /// When the list began, for its tokens.
    began_ms: i64,
}

impl Page {
    fn parse(call: &Call) -> Result<Self, Status> {
        let query = &call.info.query;
        validate_options(query)?;
        let revision = revision_of(query)?;
        let after = query.get("continue").map(Token::decode).transpose()?;
        if after.is_some() && revision.is_some_and(|r| r > 0) {
            return Err(Status::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        number(query, "timeoutSeconds")?;
        let asked = number(query, "limit")?.and_then(|limit| usize::try_from(limit).ok());
        // "Any revision will do" is answered with all there is.
        let limit = asked.filter(|limit| *limit > 0 && revision != Some(0));
        // A page of a revision is a page of exactly that revision, as there will be more of it.
        let is_exact = match query.get("resourceVersionMatch") {
            Some(matching) => matching == "Exact",
            None => limit.is_some(),
        };
        let exact = revision.filter(|r| is_exact && *r > 0);
        let not_older = revision.filter(|r| exact.is_none() && *r > 0);
        let now_ms = call.server.clock.now().timestamp_millis();
        let began_ms = after.as_ref().filter(|token| token.rv != LATEST).map_or(now_ms, |token| token.ms);
        Ok(Self { limit, after, exact, not_older, began_ms })
    }

    async fn snapshot(&self, call: &Call) -> Result<Snapshot, Status> {
        let objects = &call.server.objects;
        let namespace = namespace_of(call);
        if let Some(wanted) = self.exact.or(self.not_older)
            && wanted > objects.revision()
        {
            return Err(too_new(wanted, objects.revision()));
        }
        let past = match &self.after {
            Some(token) => Revision::try_from(token.rv).ok(),
            None => self.exact,
        };
        let Some(revision) = past else { return Ok(objects.list(&call.kind.storage, namespace)) };
        let age_ms = call.server.clock.now().timestamp_millis() - self.began_ms;
        let is_late = self.after.as_ref().is_some_and(|token| token.ms > 0)
            && u128::try_from(age_ms).is_ok_and(|age| age > call.server.limits.continue_age_max.as_millis());
        let found = match is_late {
            true => None,
            false => objects.list_past(&call.kind.storage, namespace, revision).await.ok(),
        };
        found.ok_or_else(|| self.expired())
    }

    fn expired(&self) -> Status {
        match &self.after {
            None => Status::expired("The resourceVersion for the provided list is too old."),
            Some(token) => {
                let message = "The provided continue parameter is too old to display a consistent list result. \
                    You can start a new list without the continue parameter, or use the continue token in this \
                    response to retrieve the remainder of the results. Continuing with the provided token \
                    results in an inconsistent list - objects that were created, modified, or deleted between \
                    the time the first chunk was returned and now may show up in the list.";
                let inconsistent = Token { rv: LATEST, ..token.clone() };
                Status::expired(message).with_continue(inconsistent.encode())
            }
        }
    }
}

fn namespace_of(call: &Call) -> Option<&str> {
    Some(call.namespace()).filter(|namespace| !namespace.is_empty())
}

/// A number among the parameters.
pub(crate) fn number(query: &Query, key: &str) -> Result<Option<i64>, Status> {
    let Some(text) = query.get(key) else { return Ok(None) };
    let parsed = text.parse().map(Some);
    parsed.map_err(|_| Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax")))
}

/// The `resourceVersion` parameter.
pub(super) fn revision_of(query: &Query) -> Result<Option<Revision>, Status> {
    let Some(text) = query.get("resourceVersion") else { return Ok(None) };
    text.parse().map(Some).map_err(|_| {
        Status::bad_request(format!("resourceVersion: Invalid value: {text:?}: must be a number"))
    })
}

/// Refuses parameters of a list that do not go together.
pub(super) fn validate_options(query: &Query) -> Result<(), Status> {
    match check_options(query) {
        errors if errors.is_empty() => Ok(()),
        errors => Err(Status::invalid_kind("meta.k8s.io", "ListOptions", "", errors)),
    }
}

/// What Kubernetes says about parameters of a list that do not go together.
fn check_options(query: &Query) -> Vec<FieldError> {
    let forbidden = |why: &str| FieldError::forbidden("resourceVersionMatch", why);
    let mut errors = Vec::new();
    if let Some(matching) = query.get("resourceVersionMatch") {
        if query.get("resourceVersion").is_none() {
            errors.push(forbidden("resourceVersionMatch is forbidden unless resourceVersion is provided"));
        }
        if query.get("continue").is_some() {
            errors.push(forbidden("resourceVersionMatch is forbidden when continue is provided"));
        }
        if !matches!(matching, "Exact" | "NotOlderThan") {
            let known = &["Exact", "NotOlderThan", ""];
            errors.push(FieldError::not_supported("resourceVersionMatch", matching, known));
        }
        if matching == "Exact" && query.get("resourceVersion") == Some("0") {
            errors.push(forbidden("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\""));
        }
    }
    if query.has("sendInitialEvents") {
        errors.push(FieldError::forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list"));
    }
    errors
}

/// Refuses a read that must not be older than what is yet to come.
pub(super) fn check_not_older(call: &Call) -> Result<(), Status> {
    let wanted = revision_of(&call.info.query)?.unwrap_or_default();
    let current = call.server.objects.revision();
    if wanted > current { Err(too_new(wanted, current)) } else { Ok(()) }
}

/// The client has seen a revision that this server has not.
pub(super) fn too_new(wanted: Revision, current: Revision) -> Status {
    let cause = Cause {
        reason: "ResourceVersionTooLarge".into(),
        message: "Too large resource version".into(),
        field: String::new(),
    };
    let message = format!("Timeout: Too large resource version: {wanted}, current: {current}");
    let details = Details { causes: vec![cause], retry_after_seconds: 1, ..Details::default() };
    Status::new(Reason::Timeout, message).with_details(details)
}

async fn collect(
    call: &Call,
    selection: &Selection,
    page: &Page,
    snapshot: &Snapshot,
) -> Result<Items, Status> {
    let (mut items, chosen) = choose(call, selection, page, snapshot);
    let objects = call.all_bytes_of(&chosen).await?;
    items.objects = objects.into_iter().map(|bytes| call.named_bytes(bytes)).collect();
    Ok(items)
}

/// The objects of a page, and what the list says besides them.
fn choose(call: &Call, selection: &Selection, page: &Page, snapshot: &Snapshot) -> (Items, Vec<Arc<Stored>>) {
    let limit = page.limit.unwrap_or(usize::MAX);
    let mut items =
        Items { objects: Vec::new(), revision: snapshot.revision, continues: None, remaining: None };
    let mut chosen = Vec::new();
    let mut last = None;
    let mut seen = 0;
    let everything = selection.is_everything();
    let mut visit = |stored: &Arc<Stored>| {
        if !everything && !selection.matches(stored) {
            return ControlFlow::Continue(());
        }
        if chosen.len() < limit {
            chosen.push(stored.clone());
            last = Some(stored.key.clone());
            return ControlFlow::Continue(());
        }
        seen += 1;
        // With a selector, counting what remains would mean matching all of it; Kubernetes does not either.
        if everything { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    match &page.after {
        Some(token) => {
            let (namespace, name) = token.last(namespace_of(call));
            for stored in snapshot.range_after(namespace, name) {
                if visit(stored).is_break() {
                    break;
                }
            }
        }
        None => {
            for stored in snapshot.iter() {
                if visit(stored).is_break() {
                    break;
                }
            }
        }
    }
    if let (true, Some(key)) = (seen > 0, last) {
        let start = match (namespace_of(call), call.kind.is_namespaced()) {
            (None, true) => format!("{}/{}\0", key.namespace, key.name),
            _ => format!("{}\0", key.name),
        };
        let rv = i64::try_from(snapshot.revision).unwrap_or(LATEST);
        let token = Token { v: TOKEN_VERSION.into(), rv, start, ms: page.began_ms };
        items.continues = Some(token.encode());
        items.remaining = everything.then_some(seen);
        call.server.objects.pin(&call.kind.storage, snapshot);
    }
    (items, chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_continue_token_survives_the_way_to_the_client() {
        let token = Token { v: TOKEN_VERSION.into(), rv: 7, start: "a/b\0".into(), ms: 1 };
        assert_eq!(Token::decode(&token.encode()).unwrap(), token);
        assert_eq!((token.last(None), token.last(Some("c"))), (("a", "b"), ("c", "a/b")));
    }

    #[test]
    fn a_token_that_makes_no_sense_is_refused_with_the_reason() {
        let refused = |token: &str| Token::decode(token).unwrap_err().message;
        assert!(refused("nonsense").starts_with("invalid continue token: continue key is not valid: "));
        let encode = |json: &str| refused(&URL_SAFE_NO_PAD.encode(json));
        assert!(encode(r#"{"v":"meta.k8s.io/v2","rv":1}"#).contains("encoded version \"meta.k8s.io/v2\""));
        assert!(encode(r#"{"v":"meta.k8s.io/v1"}"#).contains("incorrect encoded start resourceVersion"));
        assert!(encode(r#"{"v":"meta.k8s.io/v1","rv":-1}"#).contains("encoded start key empty"));
    }
}
