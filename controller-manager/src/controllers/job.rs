//! `job-controller`: runs pods until enough of them succeeded.
//!
//! `facts` says how the pods stand, `plan` decides, `counting` counts what ended; `policies`, `backoff`,
//! `indexes` and `pod` are rules that they use; `ledger` is what one process remembers between reconciles.
//!
//! # Watches
//! Jobs; pods by their controlling owner, by selector while they have none, and while they hold the finalizer.
//!
//! # Writes
//! Pods (create, delete, adopt, the finalizer `batch.kubernetes.io/job-tracking`) and the Job's status.
//!
//! # Guarantees
//! A finished pod is counted exactly once: it carries a finalizer until the Job's status lists its uid, and
//! it is counted when the finalizer is gone, so neither a restart nor a deletion loses or doubles it. Never
//! a pod too many, also when the cache lags. A Job is said to have ended only when its pods are gone or over.
//!
//! # Differs from Kubernetes
//! The row of failures that the back-off counts survives a restart as far as the failed pods are still there.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use api_types::conditions;
use async_trait::async_trait;
use component_base::clock::Clock;
use futures::future::join_all;
use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use self::facts::{FINALIZER, Observed, has_finalizer};
use self::ledger::Ledger;
use self::plan::{NewPod, Step, is_finished, plan};
use self::pod::pod_for;
use crate::controller::{Action, Controller, Events, ReconcileError, Setup};
use crate::expectations::Expectations;
use crate::informers::Informer;
use crate::key::ObjectKey;
use crate::owners::{self, name_of, selects, uid_of};
use crate::pod_control::{PodControl, claim_all_holding, is_namespace_going, slow_start};

mod backoff;
mod counting;
mod facts;
mod indexes;
mod ledger;
mod plan;
mod pod;
mod policies;
#[cfg(test)]
mod tests;

const MANAGER: &str = "kubernetes.io/job-controller";
/// Changes of pods are gathered this long, so that pods that end together are counted together.
const GATHER: Duration = Duration::from_millis(100);
/// Before the name of a pod in the queue, which no job's name can begin with.
const ORPHAN: &str = "pod/";

pub(crate) struct JobController {
    client: Client,
    clock: Clock,
    events: Events,
    jobs: Arc<Informer<Job>>,
    pods: Arc<Informer<Pod>>,
    control: PodControl,
    expectations: Expectations,
    ledger: Ledger,
}

/// Whether another controller takes care of this job.
fn is_managed_elsewhere(job: &Job) -> bool {
    let manager = job.spec.as_ref().and_then(|spec| spec.managed_by.as_deref());
    manager.is_some_and(|manager| manager != MANAGER)
}

/// What a change of `pod` concerns: its job, the jobs that may adopt it, itself when nobody counts it.
fn keys_of(pod: &Pod, jobs: &Informer<Job>) -> Vec<ObjectKey> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let orphan = || ObjectKey::new(namespace, format!("{ORPHAN}{}", name_of(&pod.metadata)));
    let held = has_finalizer(pod).then(orphan);
    if let Some(job) = owners::controller_key::<Job>(&pod.metadata) {
        let unknown = held.filter(|_| jobs.get(&job).is_none());
        return std::iter::once(job).chain(unknown).collect();
    }
    if owners::controller_of(&pod.metadata).is_some() {
        return Vec::new();
    }
    let adopters = jobs.in_namespace(namespace).into_iter().filter(|job| {
        let selector = job.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        selector.is_some_and(|selector| selects(selector, pod.metadata.labels.as_ref()))
    });
    adopters.map(|job| ObjectKey::of(&*job)).chain(held).collect()
}

#[async_trait]
impl Controller for JobController {
    const NAME: &'static str = "job-controller";

    fn watches(setup: &Setup<'_>) -> Self {
        let jobs = setup.watch_own_gathering::<Job>(GATHER);
        let pods = setup.read::<Pod>();
        let known = jobs.clone();
        setup.subscribe_gathering(&pods, GATHER, move |pod| keys_of(pod, &known));
        Self {
            client: setup.client.clone(),
            clock: setup.clock,
            events: setup.events(),
            jobs,
            pods,
            control: PodControl::new(setup.client.clone(), setup.events()),
            expectations: Expectations::default(),
            ledger: Ledger::default(),
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, ReconcileError> {
        if let Some(pod) = key.name.strip_prefix(ORPHAN) {
            self.release_orphan(&ObjectKey::new(key.namespace.clone(), pod)).await?;
            return Ok(Action::Done);
        }
        let Some(job) = self.jobs.get(key) else {
            self.expectations.forget(key);
            self.ledger.forget(key);
            self.release_abandoned(key).await?;
            return Ok(Action::Done);
        };
        // The status that was written last comes as an event, and with it the next reconcile.
        if is_managed_elsewhere(&job) || !self.ledger.is_current(&job, &self.jobs) {
            return Ok(Action::Done);
        }
        let settled = self.expectations.are_met(key, &*self.pods);
        let pods = self.claim(&job).await?;
        let past = self.ledger.past(&job, &pods);
        let (steps, failures) = plan(&Observed {
            job: &job,
            pods: &pods,
            released: &past.released,
            settled,
            failures: past.failures.as_ref(),
            now: self.clock.now(),
        });
        let action = self.apply(key, &job, steps).await?;
        self.ledger.remember(&job, failures);
        Ok(action)
    }
}

impl JobController {
    async fn claim(&self, job: &Job) -> Result<Vec<Arc<Pod>>, kube::Error> {
        let uid = uid_of(&job.metadata);
        let Some(selector) = job.spec.as_ref().and_then(|spec| spec.selector.as_ref()) else {
            return Ok(self.pods.owned_by(uid));
        };
        let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
        let candidates = self.pods.claimable(uid, namespace);
        claim_all_holding(&self.client, job, selector, candidates, FINALIZER).await
    }

    /// Does the steps. Pods that cannot be created do not keep others from being counted.
    async fn apply(&self, key: &ObjectKey, job: &Job, steps: Vec<Step>) -> Result<Action, ReconcileError> {
        let spec = job.spec.clone().unwrap_or_default();
        let (mut action, mut refused, mut missing) = (Action::Done, None, 0);
        for step in steps {
            match step {
                Step::RequeueAfter(delay) => action = Action::RequeueAfter(delay),
                Step::Create(new) => {
                    let created = AtomicUsize::new(0);
                    refused = self.create(key, job, &spec, &new, &created).await.err();
                    missing = new.len().saturating_sub(created.into_inner());
                }
                Step::Stop(pods) => {
                    self.release_all(job, &pods).await?;
                    self.delete_all(key, job, &pods).await?;
                }
                Step::Delete(pods) => self.delete_all(key, job, &pods).await?,
                Step::UpdateStatus(mut status) => {
                    let active = status.active.unwrap_or(0) - i32::try_from(missing).unwrap_or(0);
                    status.active = Some(active).filter(|count| *count > 0);
                    self.write_status(job, *status).await?;
                }
                Step::Release(pods) => self.release_all(job, &pods).await?,
            }
        }
        refused.map_or(Ok(action), |error| Err(error.into()))
    }

    async fn create(
        &self,
        key: &ObjectKey,
        job: &Job,
        spec: &JobSpec,
        new: &[NewPod],
        created: &AtomicUsize,
    ) -> Result<(), kube::Error> {
        let create = |at: usize| async move {
            match self.control.create(job, &pod_for(job, spec, &new[at])).await {
                Ok(pod) => {
                    self.expectations.created(key, &self.pods, &pod);
                    created.fetch_add(1, Ordering::Relaxed);
                    Ok(())
                }
                // The job goes with its namespace: to try again would only make noise.
                Err(error) if is_namespace_going(&error) => Ok(()),
                Err(error) => Err(error),
            }
        };
        slow_start(new.len(), create).await
    }

    async fn delete_all(&self, key: &ObjectKey, job: &Job, pods: &[Arc<Pod>]) -> Result<(), kube::Error> {
        let deletions = pods.iter().map(|pod| async {
            self.control.delete(job, pod).await?;
            self.expectations.deleted(key, &**pod);
            Ok(())
        });
        join_all(deletions).await.into_iter().collect()
    }

    async fn release_all(&self, job: &Job, pods: &[Arc<Pod>]) -> Result<(), kube::Error> {
        let releases = pods.iter().map(|pod| async {
            self.release(pod).await?;
            self.ledger.released(job, pod);
            Ok(())
        });
        join_all(releases).await.into_iter().collect()
    }

    /// Takes the finalizer away, whatever else has changed about the pod meanwhile.
    async fn release(&self, pod: &Pod) -> Result<(), kube::Error> {
        if !has_finalizer(pod) {
            return Ok(());
        }
        let patch = json!({"metadata": {
            "uid": pod.metadata.uid, "$deleteFromPrimitiveList/finalizers": [FINALIZER],
        }});
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        match api.patch(name_of(&pod.metadata), &PatchParams::default(), &Patch::Strategic(patch)).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Lets the pods of a job go that is gone.
    async fn release_abandoned(&self, job: &ObjectKey) -> Result<(), kube::Error> {
        let mut pods = self.pods.in_namespace(&job.namespace);
        pods.retain(|pod| owners::controller_key::<Job>(&pod.metadata).as_ref() == Some(job));
        join_all(pods.iter().map(|pod| self.release(pod))).await.into_iter().collect()
    }

    /// Lets a pod go that no job counts.
    async fn release_orphan(&self, key: &ObjectKey) -> Result<(), kube::Error> {
        let Some(pod) = self.pods.get(key) else { return Ok(()) };
        let counted = match owners::controller_of(&pod.metadata) {
            None => false,
            Some(_) => owners::controller_key::<Job>(&pod.metadata).is_none_or(|job| {
                let job = self.jobs.get(&job);
                job.is_some_and(|job| !is_finished(&job) || is_managed_elsewhere(&job))
            }),
        };
        if counted { Ok(()) } else { self.release(&pod).await }
    }

    async fn write_status(&self, job: &Job, status: JobStatus) -> Result<(), kube::Error> {
        let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<Job> = Api::namespaced(self.client.clone(), namespace);
        let wanted = Job { status: Some(status), ..job.clone() };
        let written = api.replace_status(name_of(&job.metadata), &PostParams::default(), &wanted).await?;
        self.ledger.wrote(job, self.jobs.mark(written.metadata.resource_version.as_deref()));
        self.tell(job, &written);
        Ok(())
    }

    /// Records what has changed between two statuses.
    fn tell(&self, old: &Job, new: &Job) {
        let has = |job: &Job, type_: &str| {
            let all = job.status.as_ref().and_then(|status| status.conditions.as_deref());
            conditions::is_true(all.unwrap_or_default(), type_)
        };
        match (has(old, "Suspended"), has(new, "Suspended")) {
            (false, true) => self.events.normal(new, "Suspended", "Job suspended"),
            (true, false) => self.events.normal(new, "Resumed", "Job resumed"),
            _ => {}
        }
        let status = new.status.as_ref();
        if has(new, "Complete") {
            let wanted = new.spec.as_ref().and_then(|spec| spec.completions);
            let succeeded = status.and_then(|status| status.succeeded).unwrap_or(0);
            if wanted.is_some_and(|wanted| succeeded > wanted) {
                let message = "Too many succeeded pods running after completion count reached";
                self.events.warning(new, "TooManySucceededPods", message);
            }
            self.events.normal(new, "Completed", "Job completed");
        } else if has(new, "Failed") {
            let all = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
            let failed = conditions::find(all, "Failed");
            let text = |pick: fn(&k8s_openapi::api::batch::v1::JobCondition) -> &Option<String>| {
                failed.and_then(|one| pick(one).as_deref()).unwrap_or_default()
            };
            self.events.warning(new, text(|one| &one.reason), text(|one| &one.message));
        }
    }
}
