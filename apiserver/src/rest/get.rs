//! GET of one object, or of a subresource that shows one; now, or as it was.

use api_types::status::Status;
use http::StatusCode;

use super::selection::Selection;
use super::{Answer, Call, Verb, list, past};

pub(super) struct Get;

impl Verb for Get {
    const NAME: &'static str = "get";

    async fn answer(call: Call) -> Answer {
        if !call.kind.is_kept() {
            let computed = list::computed(&call, &call.info.name, &Selection::default()).await.pop();
            let found = computed.ok_or_else(|| Status::not_found(&call.kind, &call.info.name))?;
            return call.object(StatusCode::OK, &found);
        }
        list::check_not_older(&call)?;
        let stored = match past::asked(&call).await? {
            None => call.stored()?,
            Some(revision) => {
                let found = past::object(&call, revision).await?;
                found.ok_or_else(|| Status::not_found(&call.kind, &call.info.name))?
            }
        };
        let view = call.projection();
        if view.is_object() {
            return call.object(StatusCode::OK, &call.bytes_of(&stored).await?);
        }
        let object = call.read(&stored).await?;
        call.plain(StatusCode::OK, &*view.read(&call.kind, &object)?)
    }
}
