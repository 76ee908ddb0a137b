//! DELETE of a collection: each object that the selectors match, as if deleted by itself.

use std::sync::Arc;

use api_types::status::Reason;
use futures::stream::{self, StreamExt};
use http::StatusCode;

use super::delete::{DeleteOptions, Reviewed, remove};
use super::selection::Selection;
use super::{Answer, Call, Verb, list};
use crate::cache::Stored;
use crate::negotiate;

pub(super) struct DeleteCollection;

impl Verb for DeleteCollection {
    const NAME: &'static str = "deletecollection";

    async fn answer(call: Call) -> Answer {
        let options = DeleteOptions::parse(&call)?;
        let selection = Selection::parse(&call.kind, &call.info.query)?;
        list::validate_options(&call.info.query)?;
        list::check_not_older(&call)?;
        let namespace = call.kind.is_namespaced().then_some(call.namespace());
        let snapshot = call.server.objects.list(&call.kind.storage, namespace);
        let chosen: Vec<_> = snapshot.iter().filter(|s| selection.matches(s)).cloned().collect();
        let each = |stored: Arc<Stored>| {
            let (call, options) = (&call, &options);
            async move { remove(call, &stored.key.name, options, Reviewed::Now).await }
        };
        // Those that wait together are made durable together.
        let mut answers = stream::iter(chosen).map(each).buffered(call.server.limits.deletions_at_once_max);
        let mut removed = Vec::new();
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(one) => removed.push(one.bytes),
                // Somebody else deleted it meanwhile: that is what was wanted.
                Err(status) if status.reason == Reason::NotFound => {}
                Err(status) => return Err(status),
            }
        }
        drop(answers);
        let revision = call.server.objects.revision();
        let items = negotiate::Items { objects: removed, revision, continues: None, remaining: None };
        let now = call.server.clock.now();
        let body = negotiate::list_body(&call.kind, &items, &call.accept, call.include(), now);
        negotiate::answer_json(StatusCode::OK, body, &call.accept)
    }
}
