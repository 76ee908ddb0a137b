//! The verbs: one file each, none knows a kind. What a verb needs about a kind stands in its row; what
//! differs between kinds beyond that is asked of its strategy.
//!
//! Every write, of whatever verb or subresource, ends in `write` or in `delete`: there is no other way
//! to the store.

mod apply;
mod body;
mod companions;
mod convert;
mod create;
mod delete;
mod delete_collection;
mod get;
mod history;
mod list;
mod metadata;
mod options;
mod past;
mod patch;
mod selection;
mod staging;
mod translation;
pub(crate) mod typed;
mod undo;
mod update;
mod watch;
mod write;

use std::future::Future;
use std::sync::Arc;

use api_types::kinds::Kind;
use api_types::status::{Details, Reason, Status};
use axum::body::Body;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use serde_json::Value;

pub(crate) use body::{decode, decode_any};
pub(crate) use convert::convert as convert_object;
pub(crate) use delete::{DeleteOptions, Reviewed, remove};
pub(crate) use list::number;
pub(crate) use metadata::timestamp;
pub(crate) use options::{FieldValidation, WriteOptions};
pub(crate) use staging::{Difference, Staging};
pub(crate) use translation::Translations;
pub(crate) use typed::{default as set_defaults, of as schema_of};
pub(crate) use write::{Projection, Whole, acted_on, commit_put, commit_status, write_object};

use crate::UserInfo;
use crate::admission::{self, Notes, Operation, Options, Review, Rounds};
use crate::authz::Attributes;
use crate::cache::Stored;
use crate::negotiate::{self, Accept, Form};
use crate::request_info::RequestInfo;
use crate::server::Server;
use crate::store::{CommitError, Key, Revision, Transaction};
use crate::strategy::{self, conversion};
use crate::subresource::{self, Action, Param};
use crate::view::View;

pub(crate) type Response = http::Response<Body>;
pub(crate) type Answer = Result<Response, Status>;

/// An authorized request about a resource, with its body read.
pub(crate) struct Call {
    pub(crate) server: Arc<Server>,
    pub(crate) info: Arc<RequestInfo>,
    pub(crate) kind: Arc<Kind>,
    pub(crate) user: UserInfo,
    pub(crate) method: http::Method,
    pub(crate) headers: HeaderMap,
    pub(crate) accept: Accept,
    pub(crate) body: Bytes,
    pub(crate) audit_id: String,
    /// What admission has to say about it.
    pub(crate) notes: Arc<Notes>,
    /// The transaction that the request is a part of; its writes go there.
    pub(crate) staging: Option<Arc<Staging>>,
    pub(crate) connection: Connection,
    /// What owners of the object's fields see of it in other versions.
    pub(crate) translations: Translations,
}

/// What a request is besides its meaning, for those who pass it on.
#[derive(Default)]
pub(crate) struct Connection {
    /// The query as it was sent.
    pub(crate) raw_query: Option<String>,
    /// Where the request came from, if from outside the process.
    pub(crate) peer: Option<std::net::SocketAddr>,
    /// The body, where it is passed on unread.
    pub(crate) stream: parking_lot::Mutex<Option<Body>>,
    /// The connection itself, when the client asks to speak another protocol on it.
    pub(crate) upgrade: Option<OnUpgrade>,
}

/// What a client may do with a resource.
trait Verb {
    const NAME: &'static str;

    /// Answers the request. Errors become the `Status` that the client sees.
    fn answer(call: Call) -> impl Future<Output = Answer> + Send + 'static;
}

struct Row {
    name: &'static str,
    answer: fn(Call) -> BoxFuture<'static, Answer>,
}

const fn def<V: Verb>() -> Row {
    Row { name: V::NAME, answer: |call| Box::pin(V::answer(call)) }
}

static VERBS: &[Row] = &[
    def::<get::Get>(),
    def::<history::History>(),
    def::<list::List>(),
    def::<watch::Watch>(),
    def::<create::Create>(),
    def::<update::Update>(),
    def::<patch::Patch>(),
    def::<apply::Apply>(),
    def::<undo::Undo>(),
    def::<delete::Delete>(),
    def::<delete_collection::DeleteCollection>(),
];

/// Answers an authorized request about a resource. What admission warned of is in the answer, be it an error.
pub(crate) async fn answer(call: Call) -> Answer {
    let notes = call.notes.clone();
    if let Some(deprecation) = &call.kind.deprecation {
        notes.warn(deprecation);
    }
    if let Some(deprecation) = call.info.retired.and_then(|retired| retired.shown.deprecation.as_ref()) {
        notes.warn(deprecation);
    }
    let mut answer = dispatch(call).await;
    let warnings = notes.take_warnings();
    if !warnings.is_empty() {
        let mut response = answer.unwrap_or_else(|status| negotiate::answer_status(&status));
        negotiate::add_warnings(&mut response, &warnings);
        answer = Ok(response);
    }
    if let (Ok(response), Some(annotations)) = (&mut answer, notes.take_annotations()) {
        response.extensions_mut().insert(annotations);
    }
    answer
}

async fn dispatch(call: Call) -> Answer {
    if let (Some(through), "create") = (call.kind.through.clone(), call.info.verb.as_str()) {
        return answer_through(call, through).await;
    }
    let info = &call.info;
    let scope_is_wrong =
        !call.kind.is_namespaced() && !info.namespace.is_empty() && info.namespace != info.name;
    if scope_is_wrong {
        return Err(Status::unknown_resource());
    }
    if info.subresource.is_empty() { answer_main(call).await } else { answer_subresource(call).await }
}

/// A create that is one of the subresource of another object, the one that the body names.
fn answer_through(mut call: Call, (plural, subresource): (String, String)) -> BoxFuture<'static, Answer> {
    Box::pin(async move {
        let body = decode(media_type(&call.headers), &call.body, &call.kind.kind)?.value;
        let kind = call.server.registry.find(&call.kind.group, &call.kind.version, &plural);
        call.kind = kind.ok_or_else(Status::unknown_resource)?;
        let info = Arc::make_mut(&mut call.info);
        info.name = body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        info.resource = plural;
        info.subresource = subresource;
        answer(call).await
    })
}

async fn answer_main(call: Call) -> Answer {
    let needs_namespace = !matches!(call.info.verb.as_str(), "list" | "watch");
    let misplaced = call.kind.is_namespaced() && needs_namespace && call.info.namespace.is_empty();
    let served = call.kind.verbs.contains(&call.info.verb);
    let nameless = matches!(call.info.verb.as_str(), "update" | "patch") && call.info.name.is_empty();
    if !served || nameless || misplaced || (call.info.verb == "create" && !call.info.name.is_empty()) {
        return Err(not_supported(&call));
    }
    run(call).await
}

/// A verb that the resource does not have; Kubernetes says more of it where the resource is a custom one.
fn not_supported(call: &Call) -> Status {
    let (kind, verb) = (&call.kind, &call.info.verb);
    if kind.custom.is_none() {
        return Status::method_not_allowed();
    }
    let resource = kind.group_resource();
    let why = format!("{verb} is not supported on resources of kind {resource:?}");
    let (group, kind) = (kind.group.clone(), kind.plural.clone());
    Status::new(Reason::MethodNotAllowed, why).with_details(Details { group, kind, ..Details::default() })
}

async fn answer_subresource(call: Call) -> Answer {
    let name = &call.info.subresource;
    let (row, action) = match (call.kind.find_subresource(name), subresource::find(name)) {
        (Some(row), Some(action)) => (row, action),
        _ => return Err(Status::unknown_resource()),
    };
    if !row.verbs.contains(&call.info.verb) {
        return Err(not_supported(&call));
    }
    match action {
        Action::View(_) => run(call).await,
        Action::Do(act) => act(call).await,
        Action::Connect { act, params } => {
            check_opening(&call).await?;
            let mut options = connect_options(&call, &row.group, &row.version, &row.kind, params);
            admit_body(&call, Operation::Connect, Options::Connect, &mut options).await?;
            act(call).await
        }
    }
}

/// A stream into a pod makes something, also where a WebSocket has to ask for it with GET. What a proxy passes on
/// is whatever its verb says.
async fn check_opening(call: &Call) -> Result<(), Status> {
    let is_proxied = call.info.subresource == "proxy";
    match call.info.verb == "get" && call.connection.upgrade.is_some() && !is_proxied {
        true => call.authorize("create").await,
        false => Ok(()),
    }
}

/// The parameters of a connection as the object that they are decoded into.
fn connect_options(call: &Call, group: &str, version: &str, kind: &str, params: &[Param]) -> Value {
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let mut options = serde_json::json!({ "kind": kind, "apiVersion": api_version });
    for param in params {
        let query = &call.info.query;
        match *param {
            Param::Flag(name) if query.is_true(name) => options[name] = true.into(),
            Param::Flag(_) => {}
            Param::Text(name) => {
                if let Some(text) = query.get(name) {
                    options[name] = text.into();
                }
            }
            Param::Texts(name) => {
                let values: Vec<&str> = query.get_all(name).collect();
                if !values.is_empty() {
                    options[name] = values.into();
                }
            }
        }
    }
    options
}

/// Admission of a body that is not the object of the path and is not stored: what is asked of a subresource,
/// a connection, a review.
pub(crate) async fn admit_body(
    call: &Call,
    operation: Operation,
    options: Options<'_>,
    body: &mut Value,
) -> Result<(), Status> {
    let mut review = call.review(operation, &call.info.name, None, options);
    review.new = Some(body);
    admission::mutate(&mut review).await?;
    admission::validate(&review).await
}

async fn run(call: Call) -> Answer {
    let (query, is_main) = (&call.info.query, call.info.subresource.is_empty());
    let verb = match call.info.verb.as_str() {
        "get" if is_main && query.is_true("history") => "history",
        "patch" if is_main && query.has("undo") => "undo",
        "patch" if media_type(&call.headers) == "application/apply-patch+yaml" => "apply",
        other => other,
    };
    match VERBS.iter().find(|row| row.name == verb) {
        Some(row) => (row.answer)(call).await,
        None => Err(Status::method_not_allowed()),
    }
}

/// Whether a subresource (or the object itself) is read and written by the ordinary verbs.
pub(crate) fn is_view(subresource: &str) -> bool {
    subresource.is_empty() || matches!(subresource::find(subresource), Some(Action::View(_)))
}

/// The body's media type without parameters; empty when there is none.
pub(crate) fn media_type(headers: &HeaderMap) -> &str {
    let text = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim()
}

impl Call {
    /// The key of the object that the path names.
    pub(crate) fn key(&self) -> Key {
        self.key_of(&self.info.name)
    }

    /// The key of the object `name` in the request's namespace.
    pub(crate) fn key_of(&self, name: &str) -> Key {
        Key::new(&self.kind.storage, self.namespace(), name)
    }

    /// Whether the user may do `verb` too where the request asks for something else.
    pub(crate) async fn authorize(&self, verb: &str) -> Result<(), Status> {
        let mut attributes = Attributes::of(&self.user, &self.info);
        verb.clone_into(&mut attributes.verb);
        self.server.authorizers.check(&attributes).await
    }

    /// The namespace of the request's objects: empty for a cluster-wide kind.
    pub(crate) fn namespace(&self) -> &str {
        if self.kind.is_namespaced() { &self.info.namespace } else { "" }
    }

    /// The object that the path names.
    pub(crate) fn stored(&self) -> Result<Arc<Stored>, Status> {
        let found = self.current(&self.key());
        found.ok_or_else(|| Status::not_found(&self.kind, &self.info.name))
    }

    /// An object as this request sees it.
    pub(crate) fn current(&self, key: &Key) -> Option<Arc<Stored>> {
        match &self.staging {
            Some(staging) => staging.get(key),
            None => self.server.objects.get(key),
        }
    }

    /// Makes a write happen, or holds it back for the transaction that the request is a part of.
    pub(crate) async fn commit(&self, transaction: Transaction) -> Result<Revision, CommitError> {
        match &self.staging {
            Some(staging) => staging.commit(transaction),
            None => self.server.objects.commit(transaction).await,
        }
    }

    /// Gives back what an object had taken that is gone now.
    pub(crate) fn release(&self, gone: Value) {
        match &self.staging {
            Some(staging) => staging.release(self.kind.clone(), gone),
            None => strategy::find(&self.kind).release(&self.server.services, &gone),
        }
    }

    /// What admission reads of the cluster.
    fn view(&self) -> &dyn View {
        match &self.staging {
            Some(staging) => &**staging,
            None => &*self.server.view,
        }
    }

    /// The view through which this request's subresource shows the object.
    fn projection(&self) -> &'static dyn Projection {
        match subresource::find(&self.info.subresource) {
            Some(Action::View(view)) => view,
            _ => &Whole,
        }
    }

    /// What a strategy may read besides the object.
    pub(crate) fn context(&self) -> strategy::Context<'_> {
        strategy::Context {
            kind: &self.kind,
            user: &self.user,
            now: self.server.clock.now(),
            subresource: &self.info.subresource,
            services: &self.server.services,
            view: self.view(),
        }
    }

    /// What admission looks at, still without the new object.
    pub(crate) fn review<'a>(
        &'a self,
        operation: Operation,
        name: &'a str,
        old: Option<&'a Value>,
        options: Options<'a>,
    ) -> Review<'a> {
        Review {
            operation,
            verb: &self.info.verb,
            kind: &self.kind,
            subresource: &self.info.subresource,
            namespace: self.namespace(),
            name,
            user: &self.user,
            old,
            new: None,
            options,
            view: self.view(),
            authorizers: &self.server.authorizers,
            registry: &self.server.registry,
            state: &self.server.admission,
            notes: &self.notes,
            rounds: Rounds::default(),
        }
    }

    /// A body that may be in the form of a retired version, in that of the one that took its place.
    fn renewed(&self, mut body: Value) -> Value {
        if let Some(retired) = self.info.retired
            && body.is_object()
            && body["apiVersion"].as_str().is_none_or(|v| v.is_empty() || v == retired.shown.api_version())
        {
            conversion::renew(retired, &mut body);
        }
        body
    }

    /// An object in the version that the path names, be it retired.
    fn named(&self, mut object: Value) -> Value {
        if let Some(retired) = self.info.retired {
            conversion::retire(retired, &mut object);
        }
        object
    }

    /// As `named`, for an encoded object that is answered; tables and metadata are the same in both.
    fn named_bytes(&self, bytes: Bytes) -> Bytes {
        if self.info.retired.is_none() || self.accept.form != Form::Whole {
            return bytes;
        }
        match serde_json::from_slice(&bytes) {
            Ok(object) => negotiate::encode(&self.named(object)),
            Err(_) => bytes,
        }
    }

    /// The row that the path names.
    fn named_kind(&self) -> &Kind {
        self.info.retired.map_or(&self.kind, |retired| &retired.shown)
    }

    /// A stored object's bytes in the request's version.
    async fn bytes_of(&self, stored: &Stored) -> Result<Bytes, Status> {
        convert::bytes(&self.server, &self.kind, stored).await
    }

    /// As `bytes_of`, of many at once.
    async fn all_bytes_of(&self, stored: &[Arc<Stored>]) -> Result<Vec<Bytes>, Status> {
        convert::all_bytes(&self.server, &self.kind, stored).await
    }

    /// A stored object in the request's version.
    async fn read(&self, stored: &Stored) -> Result<Value, Status> {
        convert::read(&self.server, &self.kind, stored.value()).await
    }

    /// A stored object of a built-in kind in the request's version.
    pub(crate) fn value_of(&self, stored: &Stored) -> Value {
        convert::read_builtin(&self.server.registry, &self.kind, stored.value())
    }

    /// How many rows' objects a Table carries: the `includeObject` parameter.
    fn include(&self) -> &str {
        self.info.query.get("includeObject").unwrap_or("Metadata")
    }

    /// Answers with an object of the kind in the form that was asked for.
    pub(crate) fn object(&self, code: StatusCode, bytes: &Bytes) -> Answer {
        let bytes = &self.named_bytes(bytes.clone());
        let body =
            negotiate::object_body(&self.kind, bytes, &self.accept, self.include(), self.server.clock.now());
        negotiate::answer_json(code, body, &self.accept)
    }

    /// Answers with a value as it is.
    pub(crate) fn plain(&self, code: StatusCode, value: &Value) -> Answer {
        negotiate::answer_value(code, value, &self.accept)
    }
}
