//! The way of a write after authorization: strategy, admission, checks, commit. Create, update, patch and
//! apply differ only in how they come to the object they propose.

use std::borrow::Cow;
use std::sync::Arc;

use api_types::kinds::Kind;
use api_types::status::Status;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde_json::Value;

use super::{
    Answer, Call, Reviewed, WriteOptions, companions, convert, metadata, options, translation, typed,
};
use crate::admission::{self, Alongside, Operation, Options, Review};
use crate::cache::Stored;
use crate::negotiate;
use crate::store::{Body, Cause, Change, CommitError, Durability, Key, Precondition, Revision, Transaction};
use crate::strategy::{self, Haste, Strategy};

/// How a subresource shows an object, and what a write to it may change.
pub(crate) trait Projection: Send + Sync {
    /// What a client reads.
    fn read<'o>(&self, _kind: &Kind, object: &'o Value) -> Result<Cow<'o, Value>, Status> {
        Ok(Cow::Borrowed(object))
    }

    /// The object with what `body` may change taken from it.
    fn write(&self, kind: &Kind, object: &Value, body: Value) -> Result<Value, Status>;

    /// Whether a writer comes to own also what its body changes and this view leaves as it was.
    fn owns_whole_body(&self) -> bool {
        false
    }

    /// An apply configuration of what a client reads, as one of the object itself.
    fn configuration(&self, _kind: &Kind, config: Value) -> Result<Value, Status> {
        Ok(config)
    }

    /// The view that admission and the client see, where proposals are of the object itself.
    fn shown_by(&self) -> Option<&'static dyn Projection> {
        None
    }

    /// Whether what a client reads is the whole object, in its own kind.
    fn is_object(&self) -> bool {
        true
    }

    /// Whether admission has seen already what leads to the write.
    fn reviewed(&self) -> Reviewed {
        Reviewed::Now
    }
}

/// The object itself: all but its status, where that is a subresource.
pub(crate) struct Whole;

impl Projection for Whole {
    fn write(&self, kind: &Kind, object: &Value, mut body: Value) -> Result<Value, Status> {
        if kind.find_subresource("status").is_some() {
            match object.get("status") {
                Some(status) => body["status"] = status.clone(),
                None => {
                    body.as_object_mut().map(|fields| fields.shift_remove("status"));
                }
            }
        }
        Ok(body)
    }
}

/// Whether the fields of a proposal have owners already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manage {
    /// The writer owns what it changed.
    Update,
    /// `managedFields` is right already: server-side apply.
    Done,
}

/// What a write wants an object to be.
pub(crate) struct Proposal {
    pub(crate) object: Value,
    pub(crate) manage: Manage,
    /// The writer read this revision and no other will do.
    pub(crate) expected: Option<Revision>,
    pub(crate) warnings: Vec<String>,
}

/// What a write did.
pub(crate) struct Outcome {
    pub(crate) code: StatusCode,
    /// The object after the write, in the request's version.
    pub(crate) bytes: Bytes,
    pub(crate) warnings: Vec<String>,
}

impl Outcome {
    /// The answer, in the form that was asked for.
    pub(crate) fn answer(self, call: &Call, view: &dyn Projection) -> Answer {
        let mut response = if view.is_object() {
            call.object(self.code, &self.bytes)?
        } else {
            let object = serde_json::from_slice(&self.bytes).map_err(Status::internal)?;
            call.plain(self.code, &*view.read(&call.kind, &object)?)?
        };
        negotiate::add_warnings(&mut response, &self.warnings);
        Ok(response)
    }
}

/// Why an attempt did not succeed.
enum Failed {
    /// Another writer was faster; the client did not say which state it wants to change.
    Raced,
    /// What admission went by has changed: the same proposal is judged again.
    Outdated,
    Refused(Status),
}

impl From<Status> for Failed {
    fn from(status: Status) -> Self {
        Self::Refused(status)
    }
}

/// Creates what `propose` gives, which is asked again when a generated name was taken, or what admission went by
/// has changed.
pub(super) async fn create_object(
    call: &Call,
    options: &WriteOptions,
    mut propose: impl FnMut() -> Result<Proposal, Status>,
) -> Result<Outcome, Status> {
    if let Some(why) = call.kind.custom.as_ref().and_then(|c| c.family.closed.as_ref()) {
        return Err(Status::new(api_types::status::Reason::MethodNotAllowed, why.as_str()));
    }
    for _ in 0..call.server.limits.write_attempts_max {
        let Proposal { mut object, manage, warnings, .. } = propose()?;
        let generated = object["metadata"]["name"].as_str().unwrap_or_default().is_empty();
        metadata::stamp(&call.kind, &mut object, call.server.clock.now(), &call.server.random)
            .map_err(|status| refuse(call, &warnings, status))?;
        let attempt = Attempt {
            call,
            options,
            view: &Whole,
            old: None,
            manage,
            expected: None,
            warnings: warnings.clone(),
        };
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        match attempt.run(object).await {
            Ok(outcome) => return Ok(outcome),
            Err(Failed::Refused(status)) => return Err(refuse(call, &warnings, status)),
            Err(Failed::Raced) if generated => {}
            Err(Failed::Outdated) => {}
            Err(Failed::Raced) => return Err(Status::already_exists(&call.kind, &name)),
        }
    }
    Err(Status::timeout("no free name was found"))
}

/// A refusal carries what was said of the body before it.
fn refuse(call: &Call, warnings: &[String], status: Status) -> Status {
    warnings.iter().for_each(|text| call.notes.warn(text.as_str()));
    status
}

/// Changes the object that the path names. `propose` makes the wanted object from the current one (as the
/// view shows it; `None` when there is none) and is called again when another writer was faster.
pub(crate) async fn update_object<F>(
    call: &Call,
    options: &WriteOptions,
    view: &dyn Projection,
    mut propose: F,
) -> Result<Outcome, Status>
where
    F: FnMut(Option<&Value>) -> Result<Proposal, Status>,
{
    for _ in 0..call.server.limits.write_attempts_max {
        let Some(stored) = call.current(&call.key()) else {
            return match create_object(call, options, || propose(None)).await {
                Err(status) if status.reason == api_types::status::Reason::AlreadyExists => continue,
                other => other,
            };
        };
        let old = call.read(&stored).await?;
        let shown = view.read(&call.kind, &old)?;
        let proposal = translation::settled(call, || propose(Some(&shown))).await??;
        if proposal.expected.is_some_and(|r| r != stored.revision) {
            return Err(Status::modified(&call.kind, &call.info.name));
        }
        let mut proposal = proposal;
        if view.owns_whole_body() && proposal.manage == Manage::Update {
            typed::default(&call.kind, &mut proposal.object);
            typed::track(call, Some(&old), &mut proposal.object, &options.manager).await?;
            proposal.manage = Manage::Done;
        }
        let mut object = view.write(&call.kind, &old, proposal.object)?;
        metadata::carry_over(&old, &mut object, call.info.subresource.is_empty());
        let attempt = Attempt {
            call,
            options,
            view: view.shown_by().unwrap_or(view),
            old: Some((&old, &stored)),
            manage: proposal.manage,
            expected: proposal.expected,
            warnings: proposal.warnings.clone(),
        };
        match attempt.run(object).await {
            Ok(outcome) => return Ok(outcome),
            Err(Failed::Refused(status)) => return Err(refuse(call, &proposal.warnings, status)),
            Err(Failed::Raced | Failed::Outdated) => {}
        }
    }
    Err(Status::modified(&call.kind, &call.info.name))
}

/// Changes the object that the path names on behalf of a subresource's action.
pub(crate) async fn write_object(
    call: &Call,
    options: &WriteOptions,
    change: impl Fn(&Value) -> Result<Value, Status>,
) -> Result<Outcome, Status> {
    update_object(call, options, &Direct, |current| {
        let current = current.ok_or_else(|| Status::not_found(&call.kind, &call.info.name))?;
        let object = change(current)?;
        Ok(Proposal { object, manage: Manage::Update, expected: None, warnings: Vec::new() })
    })
    .await
}

/// An action's own change: spec and status may change together.
struct Direct;

impl Projection for Direct {
    fn write(&self, _kind: &Kind, _object: &Value, body: Value) -> Result<Value, Status> {
        Ok(body)
    }

    fn reviewed(&self) -> Reviewed {
        Reviewed::Already
    }
}

/// One try at a write.
struct Attempt<'a> {
    call: &'a Call,
    options: &'a WriteOptions,
    view: &'a dyn Projection,
    old: Option<(&'a Value, &'a Arc<Stored>)>,
    manage: Manage,
    expected: Option<Revision>,
    warnings: Vec<String>,
}

impl Attempt<'_> {
    async fn run(mut self, mut object: Value) -> Result<Outcome, Failed> {
        let call = self.call;
        let strategy = strategy::find(&call.kind);
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let context = call.context();
        let old = self.old.map(|(value, _)| value);
        strategy.unify(&mut object);
        self.warnings.extend(metadata::unite_owners(&mut object));
        // Defaults first, so that a manifest without them is not taken for a change of the spec.
        typed::default(&call.kind, &mut object);
        // What the client means is its manager's; what the server sets from here on is nobody's.
        if self.manage == Manage::Update {
            typed::track(call, old, &mut object, &self.options.manager).await?;
        }
        let prepare = |object: &mut Value| match old {
            None => strategy.prepare_for_create(&context, object),
            Some(old) => strategy.prepare_for_update(&context, object, old),
        };
        prepare(&mut object);
        strategy.default(&mut object);
        let proposed = object.clone();
        let mut object = self.admit(&name, object).await?;
        self.warnings.extend(metadata::unite_owners(&mut object));
        let admitted = typed::difference(&call.kind, &proposed, &object);
        if !admitted.is_empty() {
            // Admission may say no more than a client may, and what it said counts as if it had come with the request.
            typed::default(&call.kind, &mut object);
            prepare(&mut object);
        }
        typed::complete(&call.kind, &mut object);
        // Admission may have changed what these depend on.
        strategy.default(&mut object);
        let claim = strategy.assign(&context, &mut object, old)?;
        self.check(strategy, &context, &name, &object)?;
        self.warnings.extend(strategy::warnings(&context, &object, old));
        self.admit_final(&name, &mut object).await?;
        let durability = match strategy.haste(&context, &object, old) {
            Haste::Synced => Durability::Synced,
            Haste::Lazy => Durability::Lazy,
        };
        self.warnings.dedup();
        let outcome = self.finish(object, &name, durability, admitted).await?;
        match &call.staging {
            _ if self.options.dry_run => drop(claim),
            Some(staging) => staging.hold(claim),
            None => claim.keep(),
        }
        Ok(Outcome { warnings: self.warnings, ..outcome })
    }

    /// Mutating admission, on what the request's view shows of the object.
    async fn admit(&self, name: &str, mut object: Value) -> Result<Value, Status> {
        if self.view.reviewed() == Reviewed::Already {
            return Ok(object);
        }
        let kind = &self.call.kind;
        let old = self.old.map(|(value, _)| value);
        if self.view.is_object() {
            let mut review = self.review(name, old);
            review.new = Some(&mut object);
            admission::mutate(&mut review).await?;
            return Ok(object);
        }
        let shown_old = old.map(|old| self.view.read(kind, old)).transpose()?;
        let mut shown = self.view.read(kind, &object)?.into_owned();
        let mut review = self.review(name, shown_old.as_deref());
        review.new = Some(&mut shown);
        admission::mutate(&mut review).await?;
        self.view.write(kind, &object, shown)
    }

    /// Validating admission, of the object as it will be stored.
    async fn admit_final(&self, name: &str, object: &mut Value) -> Result<(), Status> {
        // An earlier attempt's are outdated.
        drop(self.call.notes.take_alongside());
        if self.view.reviewed() == Reviewed::Already {
            return Ok(());
        }
        let kind = &self.call.kind;
        let old = self.old.map(|(value, _)| value);
        if self.view.is_object() {
            let mut review = self.review(name, old);
            review.new = Some(object);
            return admission::validate(&review).await;
        }
        let shown_old = old.map(|old| self.view.read(kind, old)).transpose()?;
        let mut shown = self.view.read(kind, object)?.into_owned();
        let mut review = self.review(name, shown_old.as_deref());
        review.new = Some(&mut shown);
        admission::validate(&review).await
    }

    fn review<'r>(&'r self, name: &'r str, old: Option<&'r Value>) -> Review<'r> {
        let operation = if self.old.is_some() { Operation::Update } else { Operation::Create };
        self.call.review(operation, name, old, Options::Write(self.options))
    }

    /// Schema and rules of the kind, all that is wrong at once.
    fn check(
        &self,
        strategy: &dyn Strategy,
        context: &strategy::Context<'_>,
        name: &str,
        object: &Value,
    ) -> Result<(), Status> {
        let kind = &self.call.kind;
        let mut errors = strategy::metadata::validate(kind, strategy::name_rule(kind), object);
        errors.extend(typed::check(kind, object));
        match self.old {
            None => errors.extend(strategy.validate_create(context, object)),
            Some((old, _)) => {
                errors.extend(strategy::metadata::validate_update(kind, object, old));
                let whole = context.subresource.is_empty() && strategy::checks_all_metadata(kind);
                let again = strategy::metadata::validate_again(object);
                for _ in 0..if whole { 3 } else { 2 } {
                    errors.extend_from_slice(&again);
                }
                errors.extend(metadata::check_finalizers(old, object));
                errors.extend(strategy.validate_update(context, object, old));
            }
        }
        // A kind that several groups show is one kind, and its errors name the group in which it is stored.
        let group = kind.storage.rsplit_once('/').map_or("", |(group, _)| group);
        if errors.is_empty() { Ok(()) } else { Err(Status::invalid_kind(group, &kind.kind, name, errors)) }
    }

    /// Commits, unless nothing changed or nothing is to be kept.
    async fn finish(
        &self,
        object: Value,
        name: &str,
        durability: Durability,
        admitted: String,
    ) -> Result<Outcome, Failed> {
        let call = self.call;
        let code = if self.old.is_some() { StatusCode::OK } else { StatusCode::CREATED };
        let outcome = |bytes| Outcome { code, bytes, warnings: Vec::new() };
        if let Some((old, stored)) = self.old
            && metadata::is_unchanged(old, &object)
            && !call.server.objects.is_stale(&call.key_of(name))
            && !convert::is_outdated(&call.kind, stored)
        {
            return Ok(outcome(call.bytes_of(stored).await?));
        }
        if self.options.dry_run {
            if self.old.is_none() && call.current(&call.key_of(name)).is_some() {
                return Err(Failed::Raced);
            }
            return Ok(outcome(negotiate::encode(&object)));
        }
        let goes = self.old.is_some() && is_finished(strategy::find(&call.kind), &object);
        let key = call.key_of(name);
        let precondition = match self.old {
            None => Precondition::Absent(key.clone()),
            Some((_, stored)) => Precondition::Revision(key.clone(), stored.revision),
        };
        let alongside = call.notes.take_alongside();
        let beside = companions::of(call, Some(&object).filter(|_| !goes));
        let released = goes.then(|| object.clone());
        let body = Body::encode(&convert::store(&call.server, &call.kind, object).await?);
        let change = match goes {
            true => Change::Delete { key: key.clone(), last: body.clone() },
            false => Change::Put { key: key.clone(), body: body.clone() },
        };
        let mut transaction = Transaction {
            preconditions: vec![precondition],
            changes: vec![change],
            durability,
            cause: Cause { admitted: vec![admitted], ..cause(call, &self.options.manager) },
        };
        join(&mut transaction, &alongside);
        let before = companions::of(call, self.old.map(|(old, _)| old));
        companions::join(call, &mut transaction, &before, beside)?;
        match call.commit(transaction).await {
            Ok(revision) => {
                if let Some(gone) = released {
                    call.release(gone);
                }
                Ok(outcome(convert::written(&call.server, &call.kind, &body.at(revision)).await?))
            }
            Err(CommitError::Conflict { key: other, .. }) if other != key => Err(Failed::Outdated),
            Err(CommitError::Conflict { .. }) if self.expected.is_some() => {
                Err(Status::modified(&call.kind, name).into())
            }
            Err(CommitError::Conflict { .. }) => Err(Failed::Raced),
            Err(error) => Err(commit_status(&error).into()),
        }
    }
}

/// Adds what admission wants written in the same revision.
fn join(transaction: &mut Transaction, alongside: &[Alongside]) {
    for other in alongside {
        transaction.preconditions.push(Precondition::Revision(other.key.clone(), other.revision));
        transaction.changes.push(Change::Put { key: other.key.clone(), body: Body::encode(&other.object) });
    }
}

/// Whether a deletion that had to wait has nothing left to wait for.
fn is_finished(strategy: &dyn Strategy, object: &Value) -> bool {
    metadata::is_deleting(object)
        && metadata::finalizers(object).is_empty()
        && object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or_default() == 0
        && !strategy.holds(object)
}

/// Who writes and why, for the log.
pub(super) fn cause(call: &Call, manager: &str) -> Cause {
    Cause {
        user: call.user.name.clone(),
        request: call.audit_id.clone(),
        call: format!("{} {}", call.method, call.info.path),
        manager: manager.to_owned(),
        acted_on: acted_on(&call.headers),
        admitted: Vec::new(),
    }
}

/// The revision that a client says it reacts to.
pub(crate) fn acted_on(headers: &HeaderMap) -> Option<Revision> {
    headers.get("x-coxswain-acted-on").and_then(|value| value.to_str().ok()?.parse().ok())
}

/// A commit error that is not about the object.
pub(crate) fn commit_status(error: &CommitError) -> Status {
    match error {
        CommitError::Full => Status::too_many_requests(error.to_string(), 1),
        CommitError::Closed => Status::unavailable("the server is shutting down"),
        other => Status::internal(other),
    }
}

/// Several changes of other objects that belong to one request.
pub(crate) async fn commit_put(
    call: &Call,
    key: Key,
    revision: Revision,
    object: Value,
) -> Result<Option<Bytes>, Status> {
    let body = Body::encode(&convert::store(&call.server, &call.kind, object).await?);
    let transaction = Transaction {
        preconditions: vec![Precondition::Revision(key.clone(), revision)],
        changes: vec![Change::Put { key, body: body.clone() }],
        durability: crate::store::Durability::Synced,
        cause: cause(call, &options::manager_of(&call.headers)),
    };
    match call.commit(transaction).await {
        Ok(revision) => Ok(Some(body.at(revision))),
        Err(CommitError::Conflict { .. }) => Ok(None),
        Err(error) => Err(commit_status(&error)),
    }
}
