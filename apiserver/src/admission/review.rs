//! What a plugin sees of one request, and where it leaves what it has to say besides yes and no.

use std::collections::BTreeMap;
use std::sync::Arc;

use api_types::kinds::Kind;
use api_types::status::Status;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::resource_quota::Turns;
use crate::UserInfo;
use crate::authz::Authorizers;
use crate::discovery::Registry;
use crate::policy::Policies;
use crate::rest::{DeleteOptions, FieldValidation, WriteOptions};
use crate::store::{Key, Revision};
use crate::view::View;
use crate::webhook::{Called, Hooks, WebhookMetrics, Webhooks};

/// What is done to the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
    /// A stream to a pod, or a request through the server to a pod, service or node. The object under review
    /// is the connection's options.
    Connect,
}

impl Operation {
    /// As rules and messages say it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// How the client wants it done.
#[derive(Clone, Copy)]
pub(crate) enum Options<'a> {
    Write(&'a WriteOptions),
    Delete(&'a DeleteOptions),
    /// A connection has its options as its object.
    Connect,
}

impl Options<'_> {
    /// Nothing will be kept, and nobody asked on the way may keep anything.
    pub(crate) fn is_dry_run(&self) -> bool {
        match self {
            Self::Write(options) => options.dry_run,
            Self::Delete(options) => options.dry_run,
            Self::Connect => false,
        }
    }

    /// As an object of `meta.k8s.io/v1`; null for a connection.
    pub(crate) fn to_value(self, operation: Operation) -> Value {
        let mut value = match self {
            Self::Connect => return Value::Null,
            Self::Delete(options) => delete_options(options),
            Self::Write(options) => write_options(options, operation),
        };
        if self.is_dry_run() {
            value["dryRun"] = json!(["All"]);
        }
        value
    }
}

fn write_options(options: &WriteOptions, operation: Operation) -> Value {
    let kind = if operation == Operation::Create { "CreateOptions" } else { "UpdateOptions" };
    let mut value = json!({ "kind": kind, "apiVersion": "meta.k8s.io/v1" });
    if options.manager_is_named {
        value["fieldManager"] = json!(options.manager);
    }
    if let Some(validation) = options.field_validation_named {
        value["fieldValidation"] = json!(match validation {
            FieldValidation::Ignore => "Ignore",
            FieldValidation::Warn => "Warn",
            FieldValidation::Strict => "Strict",
        });
    }
    value
}

fn delete_options(options: &DeleteOptions) -> Value {
    let mut value = json!({ "kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1" });
    if let Some(seconds) = options.grace_seconds {
        value["gracePeriodSeconds"] = json!(seconds);
    }
    let preconditions = [("uid", &options.uid), ("resourceVersion", &options.resource_version)];
    for (field, wanted) in preconditions {
        if let Some(wanted) = wanted {
            value["preconditions"][field] = json!(wanted);
        }
    }
    if let Some(policy) = &options.propagation {
        value["propagationPolicy"] = json!(policy);
    }
    value
}

/// One write on its way to the store, or a connection on its way to a node.
pub(crate) struct Review<'a> {
    pub(crate) operation: Operation,
    /// What the client asked for: a patch is an update too.
    pub(crate) verb: &'a str,
    /// The row that the request names; `new` and `old` are in its version, unless a subresource has a kind of
    /// its own.
    pub(crate) kind: &'a Kind,
    /// Empty for the object itself.
    pub(crate) subresource: &'a str,
    pub(crate) namespace: &'a str,
    /// Empty when the server is to generate it.
    pub(crate) name: &'a str,
    pub(crate) user: &'a UserInfo,
    /// The stored object for updates and deletions.
    pub(crate) old: Option<&'a Value>,
    /// The object as it will be stored; the body of a subresource create (Binding, Eviction, TokenRequest);
    /// the options of a connection.
    pub(crate) new: Option<&'a mut Value>,
    pub(crate) options: Options<'a>,
    pub(crate) view: &'a dyn View,
    pub(crate) authorizers: &'a Authorizers,
    pub(crate) registry: &'a Registry,
    pub(crate) state: &'a State,
    pub(crate) notes: &'a Notes,
    pub(crate) rounds: Rounds,
}

impl Review<'_> {
    /// Whether this is a write of the object itself (no subresource) of the storing row `storage`.
    pub(crate) fn is_of(&self, storage: &str) -> bool {
        self.kind.storage == storage && self.subresource.is_empty()
    }

    pub(crate) fn creates(&self, storage: &str) -> bool {
        self.operation == Operation::Create && self.is_of(storage)
    }

    /// A 403 about the object under review.
    pub(crate) fn forbidden(&self, why: &str) -> Status {
        Status::forbidden(self.kind, self.name, why)
    }
}

/// What plugins keep between reviews: connections, compiled rules. One per server.
pub(crate) struct State {
    pub(crate) webhooks: Webhooks,
    pub(crate) webhook_metrics: WebhookMetrics,
    pub(crate) mutating: Hooks,
    pub(crate) validating: Hooks,
    pub(crate) mutating_policies: Policies,
    pub(crate) validating_policies: Policies,
    pub(crate) turns: Turns,
}

impl State {
    pub(crate) fn new(view: Arc<dyn View>) -> Self {
        Self {
            webhooks: Webhooks::new(view),
            webhook_metrics: WebhookMetrics::default(),
            mutating: Hooks::default(),
            validating: Hooks::default(),
            mutating_policies: Policies::default(),
            validating_policies: Policies::default(),
            turns: Turns::default(),
        }
    }
}

/// The mutating half may run twice: what one plugin changes, another may want to see. Each of the plugins
/// that care keeps here whom it has asked.
#[derive(Default)]
pub(crate) struct Rounds {
    pub(crate) is_second: bool,
    /// Set by a plugin that changed something for others to see.
    pub(crate) again: bool,
    pub(crate) webhooks: Called,
    pub(crate) policies: Called,
}

/// What the plugins said about one request.
#[derive(Default)]
pub(crate) struct Notes(Mutex<Noted>);

#[derive(Default)]
struct Noted {
    warnings: Vec<String>,
    annotations: BTreeMap<String, String>,
    alongside: Vec<Alongside>,
}

/// Another object that changes in the same revision as the one under review, or neither does.
pub(crate) struct Alongside {
    pub(crate) key: Key,
    /// The revision that `object` was made from.
    pub(crate) revision: Revision,
    pub(crate) object: Value,
    /// What is held until the write is done: a place in a queue.
    pub(crate) _turn: Option<tokio::sync::OwnedMutexGuard<()>>,
}

/// Annotations of a request's audit event. It travels as an extension of the response.
#[derive(Clone, Debug, Default)]
pub(crate) struct AuditAnnotations(pub(crate) BTreeMap<String, String>);

impl Notes {
    /// Tells the client, whether the request succeeds or not. Said twice, it is heard once.
    pub(crate) fn warn(&self, text: impl Into<String>) {
        let (mut noted, text) = (self.0.lock(), text.into());
        if !noted.warnings.contains(&text) {
            noted.warnings.push(text);
        }
    }

    /// Notes a fact in the audit event.
    pub(crate) fn annotate(&self, key: impl Into<String>, value: impl Into<String>) {
        self.0.lock().annotations.insert(key.into(), value.into());
    }

    /// Has another object written with the one under review. Only validating halves do this.
    pub(crate) fn write_alongside(&self, change: Alongside) {
        self.0.lock().alongside.push(change);
    }

    /// What is to be written with the object; each attempt at a write begins with none.
    pub(crate) fn take_alongside(&self) -> Vec<Alongside> {
        std::mem::take(&mut self.0.lock().alongside)
    }

    pub(crate) fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().warnings)
    }

    pub(crate) fn take_annotations(&self) -> Option<AuditAnnotations> {
        let annotations = std::mem::take(&mut self.0.lock().annotations);
        (!annotations.is_empty()).then_some(AuditAnnotations(annotations))
    }
}
