//! Jobs are counted exactly while the controller manager is killed again and again, wherever it stands.
//!
//! A manager is killed at one of its writes, just before the server has it or when the answer is lost: so the
//! test means the same however fast the machine is.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use component_base::Shutdown;
use component_base::client::ClientSource;
use controller_manager::Config;
use http::{Method, Request};
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{ListParams, Patch, PatchParams};
use kube::client::Body;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::cluster::Cluster;

/// Pods that have to succeed.
const COMPLETIONS: i32 = 1_000;
/// A manager that lives for so long has nothing left to write, and the job should have ended.
const LIFE_MAX: Duration = Duration::from_secs(120);
/// What a manager writes for each pod: it creates it, takes its finalizer away, tells of it and writes the
/// status now and then, and as much again for what was lost with a manager and on a slow machine, where fewer pods
/// end between two statuses.
const WRITES_PER_POD_MAX: usize = 6;
/// Pods that end in one moment at most.
const ENDS_MAX: u32 = 40;

/// The way of one manager to the server, on which it meets its end.
struct Fate {
    client: Client,
    /// Tells when the manager has to die.
    crash: Shutdown,
    writes_left: AtomicUsize,
    /// Whether the server gets the last write.
    arrives: bool,
    writes: Arc<AtomicUsize>,
}

impl Fate {
    fn client(self) -> Client {
        let fate = Arc::new(self);
        let service = tower::service_fn(move |request: Request<Body>| {
            let fate = fate.clone();
            async move { fate.send(request).await }
        });
        Client::new(service, "default")
    }

    async fn send(&self, request: Request<Body>) -> Result<http::Response<Body>, kube::Error> {
        if request.method() == Method::GET {
            return self.client.send(request).await;
        }
        self.writes.fetch_add(1, Ordering::Relaxed);
        let last = self.writes_left.fetch_sub(1, Ordering::Relaxed) == 1;
        if last && !self.arrives {
            self.die().await;
        }
        let answer = self.client.send(request).await;
        if last {
            self.die().await;
        }
        answer
    }

    async fn die(&self) {
        self.crash.cancel();
        pending::<()>().await;
    }
}

/// The kubelet of the test: it ends pods, and knows how each ended.
struct Kubelet<'a> {
    cluster: &'a Cluster,
    /// Whether the pod fails, by its place in the order of their coming.
    fails: fn(&Pod, usize) -> bool,
    ended: BTreeMap<String, bool>,
}

impl Kubelet<'_> {
    async fn end_some(&mut self) {
        let waiting = ListParams::default().fields("status.phase=Pending").limit(ENDS_MAX);
        for pod in &self.cluster.api::<Pod>("default").list(&waiting).await.unwrap() {
            let succeeded = !(self.fails)(pod, self.ended.len());
            let phase = if succeeded { "Succeeded" } else { "Failed" };
            // It ended long ago, so that nothing waits for a back-off.
            let state = json!({"terminated": {"exitCode": i32::from(!succeeded), "finishedAt": "2024-01-01T00:00:00Z"}});
            let container = json!({"name": "c", "ready": false, "restartCount": 0, "image": "i", "imageID": "", "state": state});
            let status = Patch::Merge(json!({"status": {"phase": phase, "containerStatuses": [container]}}));
            let name = pod.metadata.name.as_deref().unwrap();
            let api = self.cluster.api::<Pod>("default");
            let ended = api.patch_status(name, &PatchParams::default(), &status).await.unwrap();
            self.ended.insert(ended.metadata.uid.unwrap(), succeeded);
        }
    }

    fn count(&self, succeeded: bool) -> i32 {
        i32::try_from(self.ended.values().filter(|one| **one == succeeded).count()).unwrap()
    }
}

/// Runs a job under managers that are killed, and looks at every status on the way.
///
/// A manager does `writes_max` writes at most.
async fn run_through_crashes(
    seed: u64,
    writes_max: usize,
    spec: Value,
    fails: fn(&Pod, usize) -> bool,
    check: fn(&JobStatus),
) {
    let cluster = Cluster::without_manager().await;
    cluster.create::<Job>(json!({"metadata": {"name": "sum"}, "spec": spec})).await;
    let mut kubelet = Kubelet { cluster: &cluster, fails, ended: BTreeMap::new() };
    let mut random = StdRng::seed_from_u64(seed);
    let mut seen = (0, 0);
    let writes = Arc::new(AtomicUsize::new(0));
    let status = loop {
        let crash = Shutdown::new();
        let fate = Fate {
            client: cluster.client.clone(),
            crash: crash.clone(),
            writes_left: AtomicUsize::new(random.random_range(1..=writes_max)),
            arrives: random.random_bool(0.5),
            writes: writes.clone(),
        };
        let alone = Config {
            controllers: "job-controller".parse().unwrap(),
            client: ClientSource::Ready(fate.client()),
            ..cluster.config()
        };
        let manager = cluster.run_manager(alone);
        let living = crash.run_until_cancelled(live(&mut kubelet, &mut seen));
        let done = tokio::time::timeout(LIFE_MAX, living).await;
        manager.kill().await;
        match done {
            Ok(Some(status)) => break status,
            Ok(None) => {}
            Err(_) => panic!("the job never ended, seed {seed}; {seen:?} counted"),
        }
    };
    let counted = (status.succeeded.unwrap_or(0), status.failed.unwrap_or(0));
    assert_eq!(counted, (kubelet.count(true), kubelet.count(false)), "seed {seed}");
    let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
    assert_eq!((uncounted.succeeded, uncounted.failed), (None, None));
    let pods: Vec<Pod> = cluster.list("").await;
    let uids: BTreeSet<String> = pods.iter().filter_map(|pod| pod.metadata.uid.clone()).collect();
    assert_eq!(uids, kubelet.ended.keys().cloned().collect(), "every pod ended and none was too many");
    assert!(pods.iter().all(|pod| pod.metadata.finalizers.as_ref().is_none_or(Vec::is_empty)));
    let writes = writes.load(Ordering::Relaxed);
    assert!(writes <= pods.len() * WRITES_PER_POD_MAX, "{writes} writes for {} pods", pods.len());
    check(&status);
    cluster.stop().await;
}

/// Ends pods until the job has ended; what is counted never goes back and is never more than what ended.
async fn live(kubelet: &mut Kubelet<'_>, seen: &mut (i32, i32)) -> JobStatus {
    let mut pace = tokio::time::interval(Duration::from_millis(10));
    loop {
        kubelet.end_some().await;
        let status = look(kubelet.cluster).await;
        let now = (status.succeeded.unwrap_or(0), status.failed.unwrap_or(0));
        assert!(now.0 >= seen.0 && now.1 >= seen.1, "counted back from {seen:?} to {now:?}");
        assert!(now.0 <= kubelet.count(true) && now.1 <= kubelet.count(false), "{now:?} counted");
        *seen = now;
        if api_types::conditions::is_true(status.conditions.as_deref().unwrap_or_default(), "Complete") {
            return status;
        }
        pace.tick().await;
    }
}

async fn look(cluster: &Cluster) -> JobStatus {
    cluster.api::<Job>("default").get("sum").await.unwrap().status.unwrap_or_default()
}

fn spec(completions: i32, parallelism: i32, more: Value) -> Value {
    let mut spec = json!({
        "completions": completions, "parallelism": parallelism,
        "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}},
    });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec
}

#[tokio::test]
async fn every_pod_is_counted_once_however_often_the_manager_is_killed() {
    let fifth = |_: &Pod, order: usize| order % 5 == 4;
    let spec = spec(COMPLETIONS, COMPLETIONS / 4, json!({"backoffLimit": 10_000}));
    run_through_crashes(1, 300, spec, fifth, |status| assert_eq!(status.succeeded, Some(COMPLETIONS))).await;
}

#[tokio::test]
async fn every_index_is_done_once_and_its_failures_are_carried_on_through_crashes() {
    // The first pod of each odd index fails; a second failure would fail the index.
    let first_of_odd = |pod: &Pod, _: usize| {
        let annotations = pod.metadata.annotations.as_ref().unwrap();
        let read =
            |name: &str| -> i32 { annotations[&format!("batch.kubernetes.io/{name}")].parse().unwrap() };
        read("job-completion-index") % 2 == 1 && read("job-index-failure-count") == 0
    };
    let spec = spec(60, 15, json!({"completionMode": "Indexed", "backoffLimitPerIndex": 1}));
    run_through_crashes(2, 30, spec, first_of_odd, |status| {
        assert_eq!(status.completed_indexes.as_deref(), Some("0-59"));
        assert_eq!((status.succeeded, status.failed), (Some(60), Some(30)));
    })
    .await;
}
