//! POST of a collection.

use api_types::status::Status;
use http::StatusCode;

use super::write::{Manage, Proposal, Whole, create_object};
use super::{Answer, Call, Verb, WriteOptions, admit_body, body, media_type, metadata, typed};
use crate::admission::{Operation, Options};

pub(super) struct Create;

impl Verb for Create {
    const NAME: &'static str = "create";

    async fn answer(call: Call) -> Answer {
        let options = WriteOptions::parse(&call.info.query, &call.headers, "CreateOptions")?;
        let read = || {
            let mut decoded = body::decode(media_type(&call.headers), &call.body, &call.kind.kind)?;
            decoded.value = call.renewed(decoded.value);
            let (mut object, warnings) = typed::read(&call.kind, decoded, options.field_validation)?;
            metadata::check_identity(&call.kind, call.namespace(), "", &mut object)?;
            Ok(Proposal { object, manage: Manage::Update, expected: None, warnings })
        };
        if call.kind.storage.is_empty() {
            let Proposal { mut object, warnings, .. } = read()?;
            warnings.into_iter().for_each(|text| call.notes.warn(text));
            typed::track_body(&call, &call.kind, &mut object, &options.manager);
            admit_body(&call, Operation::Create, Options::Write(&options), &mut object).await?;
            let answer = call.server.answer_review(&call.kind, &call.user, call.namespace(), object).await?;
            return call.plain(StatusCode::CREATED, &answer);
        }
        let outcome = create_object(&call, &options, read).await?;
        outcome.answer(&call, &Whole)
    }
}

/// A write to a name that is not there, by a verb that does not create.
pub(super) fn absent(call: &Call) -> Status {
    Status::not_found(&call.kind, &call.info.name)
}
