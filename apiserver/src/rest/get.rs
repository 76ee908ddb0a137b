//! GET of one object, or of a subresource that shows one.

use http::StatusCode;

use super::{Answer, Call, Verb};

pub(super) struct Get;

impl Verb for Get {
    const NAME: &'static str = "get";

    async fn answer(call: Call) -> Answer {
        let stored = call.stored()?;
        let view = call.projection();
        if view.is_object() {
            return call.object(StatusCode::OK, &call.bytes_of(&stored));
        }
        let shown = view.read(&call.kind, &call.value_of(&stored))?;
        call.plain(StatusCode::OK, &shown)
    }
}
