//! DELETE of a collection: each object that the selectors match, as if deleted by itself.

use api_types::status::Reason;
use http::StatusCode;

use super::delete::{DeleteOptions, Reviewed, list_of, remove};
use super::selection::Selection;
use super::{Answer, Call, Verb};
use crate::negotiate;

pub(super) struct DeleteCollection;

impl Verb for DeleteCollection {
    const NAME: &'static str = "deletecollection";

    async fn answer(call: Call) -> Answer {
        let options = DeleteOptions::parse(&call)?;
        let selection = Selection::parse(&call.kind, &call.info.query)?;
        let namespace = call.kind.is_namespaced().then_some(call.namespace());
        let snapshot = call.server.objects.list(&call.kind.storage, namespace);
        let mut removed = Vec::new();
        for stored in snapshot.iter().filter(|s| selection.matches(s)) {
            match remove(&call, &stored.key.name, &options, Reviewed::Now).await {
                Ok(one) => removed.push(one),
                // Somebody else deleted it meanwhile: that is what was wanted.
                Err(status) if status.reason == Reason::NotFound => {}
                Err(status) => return Err(status),
            }
        }
        let items = list_of(&call, &removed);
        let now = call.server.clock.now();
        let body = negotiate::list_body(&call.kind, &items, &call.accept, call.include(), now);
        negotiate::answer_json(StatusCode::OK, body, &call.accept)
    }
}
