//! Subresources: one file each, and a row here. Which kind serves which stands in the kinds table.
//!
//! A subresource is either a projection of its object, read and written by the ordinary verbs, or an
//! action of its own.

mod approval;
mod attach;
mod binding;
mod ephemeral_containers;
mod eviction;
mod exec;
mod finalize;
mod log;
mod port_forward;
mod proxy;
mod resize;
mod scale;
mod status;
mod token;

use api_types::status::Status;
use futures::future::BoxFuture;

use crate::rest::{Answer, Call, Projection};

/// What a request to a subresource does.
#[derive(Clone, Copy)]
pub(crate) enum Action {
    /// The ordinary verbs, on a projection of the object.
    View(&'static dyn Projection),
    /// Something of its own. Authorized already; the row's verbs are checked.
    Do(fn(Call) -> BoxFuture<'static, Answer>),
    /// A connection to what runs: admission sees its parameters, then it is as `Do`.
    Connect { act: fn(Call) -> BoxFuture<'static, Answer>, params: &'static [Param] },
}

impl Action {
    /// Whether the body goes to what is connected to, unread.
    pub(crate) fn streams(self) -> bool {
        matches!(self, Self::Connect { .. })
    }
}

/// A parameter of a connection, a field of its options.
#[derive(Clone, Copy)]
pub(crate) enum Param {
    Flag(&'static str),
    Text(&'static str),
    Texts(&'static str),
}

/// What `exec` and `attach` say of the streams they want.
const STREAMS: &[Param] = &[
    Param::Flag("stdin"),
    Param::Flag("stdout"),
    Param::Flag("stderr"),
    Param::Flag("tty"),
    Param::Text("container"),
    Param::Texts("command"),
];

/// A subresource.
pub(crate) trait Subresource {
    /// The last segment of its path.
    const NAME: &'static str;
    const ACTION: Action;
}

struct Row {
    name: &'static str,
    action: Action,
}

const fn def<S: Subresource>() -> Row {
    Row { name: S::NAME, action: S::ACTION }
}

static SUBRESOURCES: &[Row] = &[
    def::<status::StatusPart>(),
    def::<scale::Scale>(),
    def::<finalize::Finalize>(),
    def::<approval::Approval>(),
    def::<ephemeral_containers::EphemeralContainers>(),
    def::<resize::Resize>(),
    def::<binding::Binding>(),
    def::<eviction::Eviction>(),
    def::<token::Token>(),
    def::<log::Log>(),
    def::<exec::Exec>(),
    def::<attach::Attach>(),
    def::<port_forward::PortForward>(),
    def::<proxy::Proxy>(),
];

/// What the subresource `name` does.
pub(crate) fn find(name: &str) -> Option<Action> {
    SUBRESOURCES.iter().find(|row| row.name == name).map(|row| row.action)
}

/// What is done to an object is done to the one in the path, and the body says so too.
fn check_name(call: &Call, body: &serde_json::Value) -> Result<(), Status> {
    match body["metadata"]["name"].as_str() == Some(call.info.name.as_str()) {
        true => Ok(()),
        false => {
            let kind = body["kind"].as_str().unwrap_or_default();
            Err(Status::bad_request(format!("name in URL does not match name in {kind} object")))
        }
    }
}
