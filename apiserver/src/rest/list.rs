//! GET of a collection: one consistent revision, in pages if the client asks for them.

use std::ops::ControlFlow;

use api_types::status::{Cause, Details, FieldError, Reason, Status};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::selection::Selection;
use super::{Answer, Call, Verb, convert, past};
use crate::cache::Snapshot;
use crate::negotiate::{self, Items};
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
            collect(&call, &selection, &page, &snapshot)
        } else {
            let objects = computed(&call, selection.name().unwrap_or_default());
            Items { objects, revision: call.server.objects.revision(), continues: None, remaining: None }
        };
        let now = call.server.clock.now();
        let body = negotiate::list_body(&call.kind, &items, &call.accept, call.include(), now);
        negotiate::answer_json(StatusCode::OK, body, &call.accept)
    }
}

/// The objects of a kind of which nothing is kept: all, or that of a name.
pub(super) fn computed(call: &Call, name: &str) -> Vec<Bytes> {
    let found = computed::objects(&call.kind, &*call.server.view, call.server.clock.now());
    let wanted = |object: &Value| name.is_empty() || object["metadata"]["name"] == name;
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

/// Where a paged list goes on: the revision of its first page and the last object sent.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Token {
    v: String,
    rv: Revision,
    namespace: String,
    name: String,
}

const TOKEN_VERSION: &str = "meta.k8s.io/v1";

impl Token {
    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).expect("a token always encodes"))
    }

    fn decode(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()?;
        serde_json::from_slice(&bytes).ok().filter(|t: &Self| t.v == TOKEN_VERSION)
    }
}

/// Which part of a collection, at which revision.
struct Page {
    limit: Option<usize>,
    after: Option<Token>,
    exact: Option<Revision>,
    not_older: Option<Revision>,
}

impl Page {
    fn parse(call: &Call) -> Result<Self, Status> {
        let query = &call.info.query;
        let number = |key: &str| -> Result<Option<u64>, Status> {
            let text = query.get(key);
            text.map(str::parse).transpose().map_err(|_| {
                let text = query.get(key).unwrap_or_default();
                Status::bad_request(format!("{key}: Invalid value: {text:?}: must be a number"))
            })
        };
        let after = query.get("continue").map(|text| {
            Token::decode(text)
                .ok_or_else(|| Status::bad_request("continue key is not valid: encoding is not understood"))
        });
        let revision = number("resourceVersion")?;
        if after.is_some() && revision.is_some_and(|r| r > 0) {
            return Err(Status::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        let matching = query.get("resourceVersionMatch");
        check_match(revision, query.has("continue"), matching)?;
        let exact = revision.filter(|_| matching == Some("Exact"));
        let not_older = revision.filter(|r| exact.is_none() && *r > 0);
        let limit = query.get("limit").map(str::parse::<i64>).transpose();
        let limit = limit.map_err(|e| Status::bad_request(format!("limit: {e}")))?.unwrap_or_default();
        // "Any revision will do" is answered with all there is.
        let limit = usize::try_from(limit).ok().filter(|l| *l > 0 && revision != Some(0));
        Ok(Self { limit, after: after.transpose()?, exact, not_older })
    }

    async fn snapshot(&self, call: &Call) -> Result<Snapshot, Status> {
        let objects = &call.server.objects;
        let namespace = call.kind.is_namespaced().then_some(call.namespace()).filter(|n| !n.is_empty());
        if let Some(wanted) = self.exact.or(self.not_older)
            && wanted > objects.revision()
        {
            return Err(too_new(wanted, objects.revision()));
        }
        let past = self.after.as_ref().map(|t| t.rv).or(self.exact);
        match past {
            None => Ok(objects.list(&call.kind.storage, namespace)),
            Some(revision) => {
                objects.list_past(&call.kind.storage, namespace, revision).await.map_err(|_| {
                    Status::expired(match self.after {
                        Some(_) => {
                            "The provided continue parameter is too old to display a consistent list result. \
                         You must start a new list without the continue parameter."
                                .to_owned()
                        }
                        None => format!("The resourceVersion for the provided list is too old: {revision}"),
                    })
                })
            }
        }
    }
}

fn check_match(revision: Option<Revision>, continues: bool, matching: Option<&str>) -> Result<(), Status> {
    let invalid = |error| Err(Status::invalid_kind("meta.k8s.io", "ListOptions", "", vec![error]));
    let forbidden = |why: &str| invalid(FieldError::forbidden("resourceVersionMatch", why));
    match (matching, revision) {
        (None, _) => Ok(()),
        (Some(_), _) if continues => forbidden("resourceVersionMatch is forbidden when continue is provided"),
        (Some(_), None) => forbidden("resourceVersionMatch is forbidden unless resourceVersion is provided"),
        (Some("Exact"), Some(0)) => {
            forbidden("resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"")
        }
        (Some("Exact" | "NotOlderThan"), _) => Ok(()),
        (Some(other), _) => {
            invalid(FieldError::not_supported("resourceVersionMatch", other, &["Exact", "NotOlderThan", ""]))
        }
    }
}

/// Refuses a read that must not be older than what is yet to come.
pub(super) fn check_not_older(call: &Call) -> Result<(), Status> {
    let Some(text) = call.info.query.get("resourceVersion") else { return Ok(()) };
    let wanted: Revision = text.parse().map_err(|_| {
        Status::bad_request(format!("resourceVersion: Invalid value: {text:?}: must be a number"))
    })?;
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

fn collect(call: &Call, selection: &Selection, page: &Page, snapshot: &Snapshot) -> Items {
    let limit = page.limit.unwrap_or(usize::MAX);
    let mut items =
        Items { objects: Vec::new(), revision: snapshot.revision, continues: None, remaining: None };
    let mut last = None;
    let mut seen = 0;
    let everything = selection.is_everything();
    let mut visit = |stored: &std::sync::Arc<crate::cache::Stored>| {
        if !everything && !selection.matches(stored) {
            return ControlFlow::Continue(());
        }
        if items.objects.len() < limit {
            items.objects.push(call.bytes_of(stored));
            last = Some(stored.key.clone());
            return ControlFlow::Continue(());
        }
        seen += 1;
        // With a selector, counting what remains would mean matching all of it; Kubernetes does not either.
        if everything { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    match &page.after {
        Some(token) => {
            for stored in snapshot.range_after(&token.namespace, &token.name) {
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
        let (namespace, name) = (key.namespace.to_string(), key.name.to_string());
        let token = Token { v: TOKEN_VERSION.into(), rv: snapshot.revision, namespace, name };
        items.continues = Some(token.encode());
        items.remaining = everything.then_some(seen);
        call.server.objects.pin(&call.kind.storage, snapshot);
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_continue_token_survives_the_way_to_the_client() {
        let token = Token { v: TOKEN_VERSION.into(), rv: 7, namespace: "a".into(), name: "b".into() };
        assert_eq!(Token::decode(&token.encode()), Some(token));
        assert_eq!(Token::decode("nonsense"), None);
    }
}
