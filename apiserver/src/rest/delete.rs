//! DELETE of one object: preconditions, finalizers, grace, propagation.

use api_types::kinds::Kind;
use api_types::status::{self, FieldError, Status};
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use super::options::manager_of;
use super::write::{cause, commit_status};
use super::{Answer, Call, Verb, body, companions, convert, list, media_type, metadata, options};
use crate::admission::{self, Operation, Options};
use crate::cache::Stored;
use crate::negotiate;
use crate::store::{Body, Change, CommitError, Durability, Precondition, Transaction};
use crate::strategy;

pub(super) struct Delete;

impl Verb for Delete {
    const NAME: &'static str = "delete";

    async fn answer(call: Call) -> Answer {
        let options = DeleteOptions::parse(&call)?;
        let removed = remove(&call, &call.info.name, &options, Reviewed::Now).await?;
        removed.answer(&call)
    }
}

/// How to delete.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeleteOptions {
    pub(crate) grace_seconds: Option<i64>,
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
    pub(crate) propagation: Option<String>,
    pub(crate) dry_run: bool,
}

impl DeleteOptions {
    /// Reads the body and, where it says nothing, the parameters.
    pub(super) fn parse(call: &Call) -> Result<Self, Status> {
        let body = match call.body.is_empty() {
            true => Value::Null,
            false => body::decode(media_type(&call.headers), &call.body, "DeleteOptions")?.value,
        };
        if let Some(kind) = body["kind"].as_str().filter(|kind| !matches!(*kind, "" | "DeleteOptions")) {
            let version = body["apiVersion"].as_str().unwrap_or_default();
            let why = format!("no kind {kind:?} of version {version:?} can be read as DeleteOptions");
            return Err(Status::bad_request(why));
        }
        let query = &call.info.query;
        let mut options = Self::from_value(&body, query.get_all("dryRun").filter(|v| !v.is_empty()))?;
        if options.grace_seconds.is_none() {
            options.grace_seconds = list::number(query, "gracePeriodSeconds")?;
        }
        if options.propagation.is_none() {
            options.propagation = query.get("propagationPolicy").map(str::to_owned);
        }
        if options.propagation.is_none() && query.has("orphanDependents") {
            let policy = if query.is_true("orphanDependents") { "Orphan" } else { "Background" };
            options.propagation = Some(policy.to_owned());
        }
        options.check()?;
        Ok(options)
    }

    /// Reads a `DeleteOptions` object.
    pub(crate) fn from_value<'a>(
        body: &'a Value,
        dry_run: impl Iterator<Item = &'a str>,
    ) -> Result<Self, Status> {
        let text = |value: &Value| value.as_str().filter(|t| !t.is_empty()).map(str::to_owned);
        let mut errors = Vec::new();
        let named = body["dryRun"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let dry_run = options::parse_dry_run(dry_run.chain(named), &mut errors);
        errors.extend(check_together(body, dry_run));
        if !errors.is_empty() {
            return Err(Status::invalid_kind("meta.k8s.io", "DeleteOptions", "", errors));
        }
        let orphans =
            body["orphanDependents"].as_bool().map(|orphan| if orphan { "Orphan" } else { "Background" });
        Ok(Self {
            grace_seconds: body["gracePeriodSeconds"].as_i64(),
            uid: text(&body["preconditions"]["uid"]),
            resource_version: text(&body["preconditions"]["resourceVersion"]),
            propagation: text(&body["propagationPolicy"]).or(orphans.map(str::to_owned)),
            dry_run,
        })
    }

    fn check(&self) -> Result<(), Status> {
        const POLICIES: &[&str] = &["Foreground", "Background", "Orphan"];
        match self.propagation.as_deref() {
            Some(other) if !POLICIES.contains(&other) => {
                let error = FieldError::not_supported(
                    "propagationPolicy",
                    other,
                    &["Foreground", "Background", "Orphan", "nil"],
                );
                Err(Status::invalid_kind("meta.k8s.io", "DeleteOptions", "", vec![error]))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn check_preconditions(&self, call: &Call, object: &Value) -> Result<(), Status> {
        let metadata = &object["metadata"];
        let name = metadata["name"].as_str().unwrap_or_default();
        // Kubernetes says the kind here, where other conflicts say the resource.
        let named = Kind { plural: call.kind.kind.clone(), ..Kind::clone(&call.kind) };
        let differs = |what: &str, wanted: &Option<String>, field: &str, happened: &str| {
            let actual = metadata[field].as_str().unwrap_or_default();
            let why = |wanted: &str| {
                format!(
                    "the {what} in the precondition ({wanted}) does not match the {what} in record ({actual}). \
                     The object might have been {happened}"
                )
            };
            match wanted {
                Some(wanted) if wanted != actual => Err(Status::conflict(&named, name, why(wanted))),
                _ => Ok(()),
            }
        };
        differs("UID", &self.uid, "uid", "deleted and then recreated")?;
        differs("ResourceVersion", &self.resource_version, "resourceVersion", "modified")
    }
}

/// What Kubernetes says about options that do not go together.
fn check_together(body: &Value, dry_run: bool) -> Vec<FieldError> {
    let is_set = |field: &str| body.get(field).is_some_and(|value| !value.is_null());
    let mut errors = Vec::new();
    if is_set("orphanDependents") && is_set("propagationPolicy") {
        let why = "orphanDependents and deletionPropagation cannot be both set";
        errors.push(FieldError::invalid("propagationPolicy", body["propagationPolicy"].clone(), why));
    }
    // Objects that cannot be read do not exist here, so the option itself changes nothing.
    let unsafe_field = "ignoreStoreReadErrorWithClusterBreakingPotential";
    if body[unsafe_field] == true {
        let others = [
            ("dryRun", dry_run),
            ("propagationPolicy", is_set("propagationPolicy")),
            ("orphanDependents", is_set("orphanDependents")),
            ("gracePeriodSeconds", is_set("gracePeriodSeconds")),
            ("preconditions", is_set("preconditions")),
        ];
        errors.extend(others.into_iter().filter(|(_, is_set)| *is_set).map(|(other, _)| {
            FieldError::invalid(unsafe_field, true, format!("cannot be set together with .{other}"))
        }));
    }
    errors
}

/// What a deletion left.
pub(crate) struct Removed {
    name: String,
    uid: String,
    /// Else it is there still, marked as being deleted.
    is_gone: bool,
    /// Its last state, in the request's version.
    pub(super) bytes: Bytes,
}

impl Removed {
    fn of(object: &Value, is_gone: bool, bytes: Bytes) -> Self {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        Self { name: text("name"), uid: text("uid"), is_gone, bytes }
    }

    /// The object while it is there, else a `Status`, or what its strategy wants shown.
    pub(super) fn answer(&self, call: &Call) -> Answer {
        let shown = match self.is_gone && !strategy::shows_deleted(&call.kind) {
            true => status::success(&call.kind, &self.name, &self.uid),
            false => serde_json::from_slice(&self.bytes).map_err(Status::internal)?,
        };
        call.plain(StatusCode::OK, &shown)
    }
}

/// Whether admission is to see a deletion, or has seen what led to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reviewed {
    Now,
    Already,
}

/// Deletes the object `name` of the request's kind and namespace, or marks it.
pub(crate) async fn remove(
    call: &Call,
    name: &str,
    options: &DeleteOptions,
    reviewed: Reviewed,
) -> Result<Removed, Status> {
    for _ in 0..call.server.limits.write_attempts_max {
        let stored = call.current(&call.key_of(name));
        let stored = stored.ok_or_else(|| Status::not_found(&call.kind, name))?;
        let object = call.read(&stored).await?;
        options.check_preconditions(call, &object)?;
        if reviewed == Reviewed::Now {
            let mut review = call.review(Operation::Delete, name, Some(&object), Options::Delete(options));
            admission::mutate(&mut review).await?;
            admission::validate(&review).await?;
        }
        let step = plan(call, &object, options);
        if let Some(removed) = take(call, &stored, step, options).await? {
            return Ok(removed);
        }
    }
    Err(Status::modified(&call.kind, name))
}

/// What a deletion does to an object.
enum Step {
    Remove(Value),
    Mark(Value),
    /// It is being deleted already, and nothing about that changes.
    Nothing(Value),
}

fn plan(call: &Call, object: &Value, options: &DeleteOptions) -> Step {
    let strategy = strategy::find(&call.kind);
    let mut next = object.clone();
    set_propagation(&mut next, propagation(call, object, options));
    let now = call.server.clock.now();
    let known = strategy.grace(object, options.grace_seconds);
    let grace = known.unwrap_or_default().max(0);
    let deleting = metadata::is_deleting(object);
    let waits = !metadata::finalizers(&next).is_empty() || strategy.holds(object);
    if grace == 0 && !waits {
        if known.is_some() {
            mark_ended(&mut next, now);
        }
        return Step::Remove(next);
    }
    let fields = &mut next["metadata"];
    let before = fields["deletionGracePeriodSeconds"].as_i64();
    match (deleting, before) {
        // A second deletion may shorten the time that is left, and never lengthens it.
        (true, Some(before)) if grace >= before => {}
        (true, None) => {}
        (was_deleting, _) => {
            let deadline = now + chrono::Duration::seconds(grace);
            fields["deletionTimestamp"] = json!(metadata::timestamp(deadline));
            fields["deletionGracePeriodSeconds"] = json!(grace);
            if !was_deleting
                && strategy.counts_deletion()
                && let Some(generation) = fields["generation"].as_i64()
            {
                fields["generation"] = json!(generation + 1);
            }
        }
    }
    strategy.mark_deleted(&mut next);
    if next == *object { Step::Nothing(next) } else { Step::Mark(next) }
}

/// The last state of an object that knows grace says that none was left.
fn mark_ended(object: &mut Value, now: chrono::DateTime<chrono::Utc>) {
    let fields = &mut object["metadata"];
    let was_deleting = fields["deletionTimestamp"].is_string();
    if !was_deleting {
        fields["deletionTimestamp"] = json!(metadata::timestamp(now));
    }
    fields["deletionGracePeriodSeconds"] = json!(0);
    if let Some(generation) = fields["generation"].as_i64().filter(|_| !was_deleting) {
        fields["generation"] = json!(generation + 1);
    }
}

/// What becomes of dependents: as the deletion says, else as the object's finalizers say, else as is usual for
/// its kind.
fn propagation<'a>(call: &Call, object: &Value, options: &'a DeleteOptions) -> Option<&'a str> {
    let decided = |name: &&str| matches!(*name, "orphan" | "foregroundDeletion");
    match options.propagation.as_deref() {
        Some(policy) => Some(policy),
        None if metadata::finalizers(object).iter().any(decided) => None,
        None => strategy::orphans_by_default(&call.kind).then_some("Orphan"),
    }
}

/// Dependents are dealt with by the garbage collector, which goes by these finalizers.
fn set_propagation(object: &mut Value, policy: Option<&str>) {
    let Some(policy) = policy else { return };
    let mut finalizers: Vec<String> = metadata::finalizers(object).into_iter().map(str::to_owned).collect();
    finalizers.retain(|f| f != "orphan" && f != "foregroundDeletion");
    match policy {
        "Orphan" => finalizers.push("orphan".into()),
        "Foreground" => finalizers.push("foregroundDeletion".into()),
        _ => {}
    }
    if finalizers.is_empty() {
        object["metadata"].as_object_mut().map(|m| m.shift_remove("finalizers"));
    } else {
        object["metadata"]["finalizers"] = json!(finalizers);
    }
}

/// Does the step; `None` when another writer was faster.
async fn take(
    call: &Call,
    stored: &Stored,
    step: Step,
    options: &DeleteOptions,
) -> Result<Option<Removed>, Status> {
    let (object, goes) = match step {
        Step::Nothing(object) => return Ok(Some(Removed::of(&object, false, negotiate::encode(&object)))),
        Step::Mark(object) => (object, false),
        Step::Remove(object) => (object, true),
    };
    if options.dry_run {
        return Ok(Some(Removed::of(&object, goes, negotiate::encode(&object))));
    }
    let removed = Removed::of(&object, goes, Bytes::new());
    let key = stored.key.clone();
    let beside = companions::of(call, Some(&object).filter(|_| goes));
    let body = Body::encode(&convert::store(&call.server, &call.kind, object).await?);
    let change = match goes {
        true => Change::Delete { key: key.clone(), last: body.clone() },
        false => Change::Put { key: key.clone(), body: body.clone() },
    };
    let mut transaction = Transaction {
        preconditions: vec![Precondition::Revision(key, stored.revision)],
        changes: vec![change],
        durability: Durability::Synced,
        cause: cause(call, &manager_of(&call.headers)),
    };
    companions::join(call, &mut transaction, &beside, Vec::new())?;
    match call.commit(transaction).await {
        Ok(revision) => {
            let bytes = convert::written(&call.server, &call.kind, &body.at(revision)).await?;
            if goes {
                call.release(serde_json::from_slice(&bytes).map_err(Status::internal)?);
            }
            Ok(Some(Removed { bytes, ..removed }))
        }
        Err(CommitError::Conflict { .. }) => Ok(None),
        Err(error) => Err(commit_status(&error)),
    }
}
