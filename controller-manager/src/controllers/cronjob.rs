//! `cronjob-controller`: starts a Job whenever a schedule says so.
//!
//! `times` says what is due, `plan` decides.
//!
//! # Watches
//! CronJobs, and Jobs by their controlling owner.
//!
//! # Writes
//! Jobs (create, delete) and the CronJob's status.
//!
//! # Guarantees
//! A scheduled time starts one Job at most: the Job's name is made from it. Times that passed while nothing
//! ran are made up by one Job, the latest, if the starting deadline allows. Schedules follow the time zone,
//! changes of clocks included.
//!
//! # Differs from Kubernetes
//! Nothing known.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, SecondsFormat, Utc};
use chrono_tz::Tz;
use component_base::client::said;
use component_base::clock::{Clock, time_of};
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{DeleteParams, ObjectMeta, PostParams};
use kube::{Api, Client, Resource};
use parking_lot::Mutex;

use self::plan::{Observed, Step, job_name, plan};
use crate::controller::{Action, Controller, Events, ReconcileError, Setup};
use crate::informers::{Informer, Mark};
use crate::key::ObjectKey;
use crate::owners::{self, name_of, uid_of};
use crate::pod_control::{delete_exactly, is_namespace_going};

mod plan;
#[cfg(test)]
mod tests;
mod times;

const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

pub(crate) struct CronJobController {
    client: Client,
    clock: Clock,
    events: Events,
    crons: Arc<Informer<CronJob>>,
    jobs: Arc<Informer<Job>>,
    /// The status written last of each CronJob; until the cache shows it, nothing is decided.
    written: Mutex<HashMap<ObjectKey, Mark>>,
}

/// The Job of a scheduled time.
fn job_for(cron: &CronJob, time: DateTime<Utc>) -> Job {
    let template = cron.spec.job_template.clone();
    let meta = template.metadata.unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    let zone: Tz = cron.spec.time_zone.as_deref().and_then(|zone| zone.parse().ok()).unwrap_or(Tz::UTC);
    let stamp = time.with_timezone(&zone).to_rfc3339_opts(SecondsFormat::Secs, true);
    annotations.insert(SCHEDULED.to_owned(), stamp);
    Job {
        metadata: ObjectMeta {
            name: Some(job_name(cron, time)),
            namespace: cron.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![owners::controller_reference(cron)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

#[async_trait]
impl Controller for CronJobController {
    const NAME: &'static str = "cronjob-controller";

    fn watches(setup: &Setup<'_>) -> Self {
        let crons = setup.watch_own::<CronJob>();
        let jobs =
            setup.watch::<Job>(|job| owners::controller_key::<CronJob>(&job.metadata).into_iter().collect());
        Self {
            client: setup.client.clone(),
            clock: setup.clock,
            events: setup.events(),
            crons,
            jobs,
            written: Mutex::default(),
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        let Some(cron) = self.crons.get(key) else {
            self.written.lock().remove(key);
            return Ok(Action::Done);
        };
        let written = self.written.lock().get(key).copied();
        if written.is_some_and(|mark| !self.crons.has_seen(mark)) {
            return Ok(Action::Done);
        }
        let jobs = self.jobs.owned_by(uid_of(&cron.metadata));
        let unseen = self.find_unseen(&cron, &jobs).await?;
        let observed = Observed { cron: &cron, jobs: &jobs, unseen: &unseen, now: self.clock.now() };
        let (steps, mut status) = plan(&observed);
        let done = self.apply(&cron, steps, &mut status).await;
        // What was done stands in the status even if something else failed.
        self.write_status(key, &cron, status).await?;
        done
    }
}

impl CronJobController {
    /// The uids of Jobs in the list of active ones that the server has though the cache does not show them.
    async fn find_unseen(&self, cron: &CronJob, jobs: &[Arc<Job>]) -> Result<BTreeSet<String>, kube::Error> {
        let mut unseen = BTreeSet::new();
        let active = cron.status.as_ref().and_then(|status| status.active.as_deref()).unwrap_or_default();
        for one in active {
            if jobs.iter().any(|job| job.metadata.uid == one.uid) {
                continue;
            }
            let live =
                self.api::<Job>(cron).get_metadata_opt(one.name.as_deref().unwrap_or_default()).await?;
            unseen.extend(live.and_then(|job| job.metadata.uid).filter(|uid| Some(uid) == one.uid.as_ref()));
        }
        Ok(unseen)
    }

    fn api<K>(&self, cron: &CronJob) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), cron.metadata.namespace.as_deref().unwrap_or_default())
    }

    async fn apply(
        &self,
        cron: &CronJob,
        steps: Vec<Step>,
        status: &mut CronJobStatus,
    ) -> Result<Action, ReconcileError> {
        let mut action = Action::Done;
        for step in steps {
            match step {
                Step::RequeueAfter(delay) => action = Action::RequeueAfter(delay),
                Step::Start(time) => self.start(cron, time, status).await?,
                Step::Replace(job) => {
                    self.replace(cron, &job).await?;
                    status.active.get_or_insert_default().retain(|one| one.uid != job.uid);
                }
                Step::Forget(job) => self.delete(cron, &job).await?,
                Step::Tell { reason, message } => self.events.normal(cron, reason, &message),
                Step::Warn { reason, message } => self.events.warning(cron, reason, &message),
            }
        }
        status.active = status.active.take().filter(|active| !active.is_empty());
        Ok(action)
    }

    async fn start(
        &self,
        cron: &CronJob,
        time: DateTime<Utc>,
        status: &mut CronJobStatus,
    ) -> Result<(), kube::Error> {
        let wanted = job_for(cron, time);
        let job = match self.api::<Job>(cron).create(&PostParams::default(), &wanted).await {
            Ok(job) => {
                let message = format!("Created job {}", name_of(&job.metadata));
                self.events.normal(cron, "SuccessfulCreate", &message);
                job
            }
            // A process before this one made it and did not come to say so; or it is somebody else's.
            Err(kube::Error::Api(refusal)) if refusal.reason == "AlreadyExists" => {
                let job = self.api::<Job>(cron).get(name_of(&wanted.metadata)).await?;
                let ours = owners::controller_of(&job.metadata).map(|owner| &owner.uid);
                let listed = status.active.iter().flatten().any(|one| one.uid == job.metadata.uid);
                if listed || ours != cron.metadata.uid.as_ref() {
                    return Ok(());
                }
                job
            }
            Err(error) if is_namespace_going(&error) => return Ok(()),
            Err(error) => {
                self.events.warning(cron, "FailedCreate", &format!("Error creating job: {}", said(&error)));
                return Err(error);
            }
        };
        if plan::finished(&job).is_none() {
            let reference = ObjectReference {
                resource_version: job.metadata.resource_version.clone(),
                ..job.object_ref(&())
            };
            status.active.get_or_insert_default().push(reference);
        }
        status.last_schedule_time = Some(time_of(time));
        Ok(())
    }

    async fn replace(&self, cron: &CronJob, job: &ObjectReference) -> Result<(), kube::Error> {
        match self.api::<Job>(cron).get(job.name.as_deref().unwrap_or_default()).await {
            Ok(job) => self.delete(cron, &job).await,
            Err(error) => {
                self.events.warning(cron, "FailedGet", &format!("Get job: {}", said(&error)));
                Err(error)
            }
        }
    }

    async fn delete(&self, cron: &CronJob, job: &Job) -> Result<(), kube::Error> {
        let name = name_of(&job.metadata);
        match delete_exactly(&self.client, job, DeleteParams::background()).await {
            Ok(()) => self.events.normal(cron, "SuccessfulDelete", &format!("Deleted job {name}")),
            Err(error) => {
                self.events.warning(cron, "FailedDelete", &format!("Deleted job: {}", said(&error)));
                return Err(error);
            }
        }
        Ok(())
    }

    async fn write_status(
        &self,
        key: &ObjectKey,
        cron: &CronJob,
        status: CronJobStatus,
    ) -> Result<(), kube::Error> {
        if cron.status.clone().unwrap_or_default() == status {
            return Ok(());
        }
        let wanted = CronJob { status: Some(status), ..cron.clone() };
        let api = self.api::<CronJob>(cron);
        let written = api.replace_status(name_of(&cron.metadata), &PostParams::default(), &wanted).await?;
        let mark = self.crons.mark(written.metadata.resource_version.as_deref());
        self.written.lock().insert(key.clone(), mark);
        Ok(())
    }
}
