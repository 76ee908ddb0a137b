//! `ttl-after-finished-controller`: deletes finished Jobs when their time to live is over.
//!
//! # Watches
//! Jobs.
//!
//! # Writes
//! Deletes Jobs; their pods follow.
//!
//! # Guarantees
//! A Job is deleted only after it finished, `ttlSecondsAfterFinished` later, and only this very Job.
//!
//! # Differs from Kubernetes
//! Nothing known.

use std::sync::Arc;
use std::time::Duration;

use api_types::conditions;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use component_base::clock::{Clock, moment_of};
use k8s_openapi::api::batch::v1::Job;
use kube::api::{DeleteParams, PropagationPolicy};
use kube::{Api, Client};

use crate::controller::{Action, Controller, ReconcileError, Setup};
use crate::informers::Informer;
use crate::key::ObjectKey;
use crate::owners::{is_deleting, name_of};
use crate::pod_control::delete_exactly;

pub(crate) struct TtlAfterFinished {
    client: Client,
    clock: Clock,
    jobs: Arc<Informer<Job>>,
}

/// How long the Job has left; none when it lives on.
fn left(job: &Job, now: DateTime<Utc>) -> Option<Duration> {
    let ttl = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let all = job.status.as_ref()?.conditions.as_deref()?;
    let finished = ["Complete", "Failed"]
        .iter()
        .find_map(|type_| conditions::find(all, type_).filter(|one| one.status == "True"));
    let end = moment_of(finished?.last_transition_time.as_ref()?) + chrono::Duration::seconds(i64::from(ttl));
    Some((end - now).to_std().unwrap_or(Duration::ZERO))
}

#[async_trait]
impl Controller for TtlAfterFinished {
    const NAME: &'static str = "ttl-after-finished-controller";

    fn watches(setup: &Setup<'_>) -> Self {
        Self { client: setup.client.clone(), clock: setup.clock, jobs: setup.watch_own::<Job>() }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        let Some(job) = self.jobs.get(key).filter(|job| !is_deleting(&job.metadata)) else {
            return Ok(Action::Done);
        };
        match left(&job, self.clock.now()) {
            None => Ok(Action::Done),
            Some(left) if !left.is_zero() => Ok(Action::RequeueAfter(left)),
            Some(_) => self.expire(&job).await,
        }
    }
}

impl TtlAfterFinished {
    /// Deletes the job if its time is over by what the server has now: it may have been given more.
    async fn expire(&self, cached: &Job) -> Result<Action, ReconcileError> {
        let namespace = cached.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<Job> = Api::namespaced(self.client.clone(), namespace);
        let Some(job) = api.get_opt(name_of(&cached.metadata)).await? else { return Ok(Action::Done) };
        match left(&job, self.clock.now()) {
            Some(left) if left.is_zero() => {
                let params = DeleteParams {
                    propagation_policy: Some(PropagationPolicy::Foreground),
                    ..DeleteParams::default()
                };
                delete_exactly(&self.client, &job, params).await?;
                Ok(Action::Done)
            }
            later => Ok(Action::after(later)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn job(status: &str) -> Job {
        let condition =
            json!({"type": "Complete", "status": status, "lastTransitionTime": "1970-01-01T00:01:00Z"});
        let spec = json!({"ttlSecondsAfterFinished": 30, "template": {}});
        serde_json::from_value(json!({"metadata": {}, "spec": spec, "status": {"conditions": [condition]}}))
            .unwrap()
    }

    fn check(job: &Job, now_seconds: i64, expected: Option<u64>) {
        let now = DateTime::UNIX_EPOCH + chrono::Duration::seconds(now_seconds);
        assert_eq!(left(job, now).map(|left| left.as_secs()), expected);
    }

    #[test]
    fn the_time_runs_from_the_end_of_the_job() {
        check(&job("True"), 70, Some(20));
        check(&job("True"), 100, Some(0));
    }

    #[test]
    fn a_job_that_runs_lives() {
        check(&job("False"), 1000, None);
    }
}
