//! What a Deployment says of itself: counts, and whether it is available, gets on, or failed.

use std::time::Duration;

use api_types::conditions;
use chrono::{DateTime, Utc};
use component_base::clock::{moment_of, time_of};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};

use super::Mode;
use super::wanted::{Wanted, available, size};
use crate::owners::name_of;
use crate::replicas::counted;

const PROGRESSING: &str = "Progressing";
const REPLICA_FAILURE: &str = "ReplicaFailure";
const AVAILABLE_NOW: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
/// The reason of a condition and an event: the new set could not be made.
pub(super) const CREATE_ERROR: &str = "ReplicaSetCreateError";

/// The status that the sets show. `created` is the set that was made just now.
pub(super) fn status(
    wanted: &Wanted<'_>,
    mode: Mode,
    created: Option<&str>,
    now: DateTime<Utc>,
) -> DeploymentStatus {
    let old = wanted.deployment.status.clone().unwrap_or_default();
    let mut status = counts(wanted, &old);
    let mut all = old.conditions.clone().unwrap_or_default();
    if mode != Mode::Tell && wanted.deadline_seconds().is_some() {
        note_pause(wanted, &mut all, now);
        note_new_set(wanted, created, &mut all, now);
    }
    note_availability(wanted, &mut all, now);
    if matches!(mode, Mode::Roll | Mode::Recreate) {
        note_progress(wanted, &old, &status, &mut all, now);
        note_failure(wanted, &mut all, now);
    }
    status.conditions = Some(all);
    status
}

/// The status when the new set's name is taken: nothing but that another name is to be tried.
pub(super) fn collided(deployment: &Deployment) -> DeploymentStatus {
    let old = deployment.status.clone().unwrap_or_default();
    DeploymentStatus { collision_count: Some(old.collision_count.unwrap_or(0) + 1), ..old }
}

/// What is said when the set `name` could not be made because of `error`.
pub(super) fn refusal(name: &str, error: &str) -> String {
    format!("Failed to create new replica set {name:?}: {error}")
}

/// The status when the new set could not be made.
pub(super) fn refused(wanted: &Wanted<'_>, error: &str, now: DateTime<Utc>) -> DeploymentStatus {
    let mut status = wanted.deployment.status.clone().unwrap_or_default();
    if wanted.deadline_seconds().is_some() {
        let name = super::history::new_set(wanted, 0).metadata.name.unwrap_or_default();
        let told = condition(PROGRESSING, "False", CREATE_ERROR, &refusal(&name, error), now);
        set_condition(status.conditions.get_or_insert_default(), told);
    }
    status
}

fn counts(wanted: &Wanted<'_>, old: &DeploymentStatus) -> DeploymentStatus {
    let sum = |count: fn(&ReplicaSet) -> i32| wanted.all().map(|set| count(set)).sum::<i32>();
    let pods = |set: &ReplicaSet| set.status.as_ref().map_or(0, |status| status.replicas);
    let ready = |set: &ReplicaSet| set.status.as_ref().and_then(|one| one.ready_replicas).unwrap_or(0);
    // One set that does not know makes the sum unknown.
    let terminating = wanted.all().map(|set| set.status.as_ref()?.terminating_replicas).sum::<Option<i32>>();
    DeploymentStatus {
        observed_generation: wanted.deployment.metadata.generation,
        replicas: counted(sum(pods)),
        updated_replicas: counted(wanted.new.as_ref().map_or(0, |set| pods(set))),
        ready_replicas: counted(sum(ready)),
        available_replicas: counted(sum(available)),
        unavailable_replicas: counted(sum(size) - sum(available)),
        terminating_replicas: terminating,
        collision_count: old.collision_count,
        conditions: None,
    }
}

fn condition(
    type_: &str,
    status: &str,
    reason: &str,
    message: &str,
    now: DateTime<Utc>,
) -> DeploymentCondition {
    DeploymentCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(time_of(now)),
        last_update_time: Some(time_of(now)),
    }
}

/// Sets a condition; one that says the same as before keeps its times.
fn set_condition(all: &mut Vec<DeploymentCondition>, new: DeploymentCondition) {
    let same = |old: &DeploymentCondition| old.status == new.status && old.reason == new.reason;
    if !conditions::find(all, &new.type_).is_some_and(same) {
        say_again(all, new);
    }
}

/// Sets a condition with its new times; what was said last stands last.
fn say_again(all: &mut Vec<DeploymentCondition>, new: DeploymentCondition) {
    if let Some(place) = all.iter().position(|one| one.type_ == new.type_) {
        all[place..].rotate_left(1);
    }
    conditions::set(all, new);
}

/// The reason of the Progressing condition.
fn progress_reason(all: &[DeploymentCondition]) -> Option<&str> {
    conditions::find(all, PROGRESSING)?.reason.as_deref()
}

/// Nobody's clock runs while a Deployment is paused; one that missed its deadline before stays failed.
fn note_pause(wanted: &Wanted<'_>, all: &mut Vec<DeploymentCondition>, now: DateTime<Utc>) {
    let reason = progress_reason(all);
    let (reason, message) = match (wanted.is_paused(), reason) {
        (_, Some(TIMED_OUT)) => return,
        (true, _) => ("DeploymentPaused", "Deployment is paused"),
        (false, Some("DeploymentPaused")) => ("DeploymentResumed", "Deployment is resumed"),
        (false, _) => return,
    };
    set_condition(all, condition(PROGRESSING, "Unknown", reason, message, now));
}

fn note_new_set(
    wanted: &Wanted<'_>,
    created: Option<&str>,
    all: &mut Vec<DeploymentCondition>,
    now: DateTime<Utc>,
) {
    let found = wanted.new.as_ref().filter(|_| conditions::find(all, PROGRESSING).is_none());
    let (reason, message) = match (created, found) {
        (Some(name), _) => ("NewReplicaSetCreated", format!("Created new replica set {name:?}")),
        (None, Some(set)) => {
            ("FoundNewReplicaSet", format!("Found new replica set {:?}", name_of(&set.metadata)))
        }
        (None, None) => return,
    };
    set_condition(all, condition(PROGRESSING, "True", reason, &message, now));
}

fn note_availability(wanted: &Wanted<'_>, all: &mut Vec<DeploymentCondition>, now: DateTime<Utc>) {
    let have: i32 = wanted.all().map(|set| available(set)).sum();
    let (value, reason, message) = if have >= wanted.minimum() {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    set_condition(all, condition("Available", value, reason, message, now));
}

fn note_progress(
    wanted: &Wanted<'_>,
    old: &DeploymentStatus,
    new: &DeploymentStatus,
    all: &mut Vec<DeploymentCondition>,
    now: DateTime<Utc>,
) {
    if wanted.deadline_seconds().is_none() {
        return all.retain(|one| one.type_ != PROGRESSING);
    }
    if new.replicas == new.updated_replicas && progress_reason(all) == Some(AVAILABLE_NOW) {
        return;
    }
    let subject = match &wanted.new {
        Some(set) => format!("ReplicaSet {:?}", name_of(&set.metadata)),
        None => format!("Deployment {:?}", name_of(&wanted.deployment.metadata)),
    };
    let say = |value: &str, why: &str, text: &str| {
        condition(PROGRESSING, value, why, &format!("{subject} {text}"), now)
    };
    if wanted.is_complete(Some(new)) {
        set_condition(all, say("True", AVAILABLE_NOW, "has successfully progressed."));
    } else if has_progressed(old, new) {
        // Said again at each step, as the deadline runs from the last one.
        say_again(all, say("True", "ReplicaSetUpdated", "is progressing."));
    } else if has_timed_out(wanted, all, now) {
        set_condition(all, say("False", TIMED_OUT, "has timed out progressing."));
    }
}

fn has_progressed(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let old_pods =
        |status: &DeploymentStatus| status.replicas.unwrap_or(0) - status.updated_replicas.unwrap_or(0);
    new.updated_replicas.unwrap_or(0) > old.updated_replicas.unwrap_or(0)
        || old_pods(new) < old_pods(old)
        || new.ready_replicas.unwrap_or(0) > old.ready_replicas.unwrap_or(0)
        || new.available_replicas.unwrap_or(0) > old.available_replicas.unwrap_or(0)
}

fn has_timed_out(wanted: &Wanted<'_>, all: &[DeploymentCondition], now: DateTime<Utc>) -> bool {
    match progress_reason(all) {
        None | Some(AVAILABLE_NOW) => false,
        Some(TIMED_OUT) => true,
        Some(_) => deadline(wanted, all).is_some_and(|deadline| deadline < now),
    }
}

/// When the progress that was noted last is too long ago.
fn deadline(wanted: &Wanted<'_>, all: &[DeploymentCondition]) -> Option<DateTime<Utc>> {
    let since = conditions::find(all, PROGRESSING)?.last_update_time.as_ref().map(moment_of)?;
    Some(since + chrono::Duration::seconds(i64::from(wanted.deadline_seconds()?)))
}

/// How long until the progress deadline; none when no deadline runs.
pub(super) fn deadline_in(
    wanted: &Wanted<'_>,
    status: &DeploymentStatus,
    now: DateTime<Utc>,
) -> Option<Duration> {
    let all = status.conditions.as_deref().unwrap_or_default();
    let is_over = matches!(progress_reason(all), Some(TIMED_OUT | AVAILABLE_NOW));
    if is_over || wanted.is_paused() || wanted.is_complete(Some(status)) {
        return None;
    }
    Some((deadline(wanted, all)? - now).to_std().unwrap_or(Duration::ZERO))
}

/// The failure of the new set, or else of one of the others, is the Deployment's.
fn note_failure(wanted: &Wanted<'_>, all: &mut Vec<DeploymentCondition>, now: DateTime<Utc>) {
    let failure = |set: &ReplicaSet| {
        let all = set.status.as_ref()?.conditions.as_ref()?;
        conditions::find(all, REPLICA_FAILURE).cloned()
    };
    let failed = wanted.new.iter().chain(&wanted.old).find_map(|set| failure(set));
    match failed {
        None => all.retain(|one| one.type_ != REPLICA_FAILURE),
        Some(one) => {
            let (reason, message) = (one.reason.unwrap_or_default(), one.message.unwrap_or_default());
            set_condition(all, condition(REPLICA_FAILURE, &one.status, &reason, &message, now));
        }
    }
}
