//! What every storage has to do, seen through [`Objects`]: each test runs on memory, disk and etcd.

use std::sync::Arc;

use component_base::Shutdown;
use component_base::clock::Clock;
use component_base::supervise::Tasks;
use futures::StreamExt;
use serde_json::json;

use super::*;
use crate::cache::{CacheLimits, Expired, Objects, WatchEvent, WatchSpec, WatchStream};
use crate::encryption::Encryption;
use crate::encryption::tests::encryption_of_all;

/// A storage to test, and what it needs.
pub(super) struct Rig {
    pub(super) backend: Backend,
    /// Whether another open shows the same objects.
    pub(super) is_kept: bool,
    /// Whether everything is encrypted at rest.
    is_sealed: bool,
    tasks: Tasks,
}

impl Rig {
    pub(super) fn new(backend: Backend, is_kept: bool) -> Self {
        Self { backend, is_kept, is_sealed: false, tasks: Tasks::new(Shutdown::new()) }
    }

    /// The same, with everything encrypted at rest.
    fn sealed(self) -> Self {
        Self { is_sealed: true, ..self }
    }

    async fn open(&self) -> Arc<Objects> {
        self.open_with(CacheLimits::default()).await
    }

    async fn open_with(&self, limits: CacheLimits) -> Arc<Objects> {
        let encryption = if self.is_sealed { encryption_of_all() } else { Encryption::default() };
        let (backend, clock) = (self.backend.clone(), Clock::system());
        Objects::open_with(backend, limits, encryption, clock, &self.tasks).await.unwrap()
    }
}

pub(super) fn transaction(preconditions: Vec<Precondition>, changes: Vec<Change>) -> Transaction {
    let cause = Cause { user: "ada".into(), request: "test".into(), ..Cause::default() };
    Transaction { preconditions, changes, durability: Durability::Synced, cause }
}

pub(super) fn body(key: &Key, value: &str) -> Body {
    Body::encode(&json!({"metadata": {"name": &*key.name, "labels": {"app": value}}, "value": value}))
}

pub(super) fn put(key: &Key, value: &str) -> Transaction {
    transaction(vec![], vec![Change::Put { key: key.clone(), body: body(key, value) }])
}

fn create(key: &Key, value: &str) -> Transaction {
    Transaction { preconditions: vec![Precondition::Absent(key.clone())], ..put(key, value) }
}

fn delete(key: &Key) -> Transaction {
    transaction(vec![], vec![Change::Delete { key: key.clone(), last: body(key, "last") }])
}

pub(super) fn pod(name: &str) -> Key {
    Key::new("pods", "ns", name)
}

fn value(objects: &Objects, key: &Key) -> Option<String> {
    Some(objects.get(key)?.value()["value"].as_str()?.to_owned())
}

async fn next(stream: &mut WatchStream) -> String {
    let event =
        tokio::time::timeout(std::time::Duration::from_secs(20), stream.next()).await.expect("an event");
    match event.expect("a stream that goes on") {
        WatchEvent::Added(o) => format!("added {}@{}", o.key.name, o.revision),
        WatchEvent::Modified(o) => format!("modified {}@{}", o.key.name, o.revision),
        WatchEvent::Deleted(o) => format!("deleted {}@{}", o.key.name, o.revision),
        WatchEvent::Bookmark(revision) => format!("bookmark {revision}"),
        WatchEvent::Overflow => "overflow".to_owned(),
    }
}

/// Runs the whole suite, each part on what the ones before it left.
pub(super) async fn all(rig: &Rig) {
    preconditions_hold_or_the_write_does_not_happen(rig).await;
    a_transaction_is_one_revision(rig).await;
    a_watch_delivers_every_event_once_in_order(rig).await;
    a_past_list_is_exact(rig).await;
    the_past_is_read_from_the_store_where_the_cache_has_forgotten_it(rig).await;
    concurrent_writers_of_one_key_do_not_overwrite_each_other(rig).await;
    a_large_object_comes_back_whole(rig).await;
    if rig.is_kept {
        everything_is_there_after_a_restart(rig).await;
    }
}

async fn preconditions_hold_or_the_write_does_not_happen(rig: &Rig) {
    let objects = rig.open().await;
    let a = pod("pre-a");
    let first = objects.commit(create(&a, "1")).await.unwrap();
    let stored = objects.get(&a).unwrap();
    assert_eq!((stored.revision, value(&objects, &a).as_deref()), (first, Some("1")));
    assert_eq!(stored.value()["metadata"]["resourceVersion"], first.to_string());
    let again = objects.commit(create(&a, "2")).await.unwrap_err();
    assert!(matches!(again, CommitError::Conflict { current: Some(now), .. } if now == first), "{again:?}");
    let on = |revision| Transaction {
        preconditions: vec![Precondition::Revision(a.clone(), revision)],
        ..put(&a, "3")
    };
    let second = objects.commit(on(first)).await.unwrap();
    assert!(second > first);
    let stale = objects.commit(on(first)).await.unwrap_err();
    assert!(matches!(stale, CommitError::Conflict { current: Some(now), .. } if now == second), "{stale:?}");
    objects.commit(delete(&a)).await.unwrap();
    assert!(objects.get(&a).is_none());
    let gone = objects.commit(delete(&a)).await.unwrap_err();
    assert!(matches!(gone, CommitError::Conflict { current: None, .. }), "{gone:?}");
    assert!(matches!(
        objects.commit(on(second)).await.unwrap_err(),
        CommitError::Conflict { current: None, .. }
    ));
    objects.close().await;
}

async fn a_transaction_is_one_revision(rig: &Rig) {
    let objects = rig.open().await;
    let (a, b, c) = (pod("one-a"), Key::new("nodes", "", "one-b"), pod("one-c"));
    let both = |keys: [&Key; 2]| {
        let changes = keys.map(|key| Change::Put { key: key.clone(), body: body(key, "x") });
        transaction(vec![], changes.into())
    };
    let revision = objects.commit(both([&a, &b])).await.unwrap();
    assert_eq!([&a, &b].map(|key| objects.get(key).unwrap().revision), [revision; 2]);
    let refused = Transaction { preconditions: vec![Precondition::Absent(a.clone())], ..both([&c, &b]) };
    objects.commit(refused).await.unwrap_err();
    assert!(objects.get(&c).is_none());
    assert_eq!(objects.get(&b).unwrap().revision, revision);
    assert!(matches!(objects.commit(both([&c, &c])).await, Err(CommitError::Repeated(_))));
    objects.close().await;
}

async fn a_watch_delivers_every_event_once_in_order(rig: &Rig) {
    let objects = rig.open().await;
    let (a, b) = (pod("watch-a"), pod("watch-b"));
    let from = objects.revision();
    let label = |value: &'static str| WatchSpec {
        matches: Arc::new(move |stored| stored.label("app") == Some(value)),
        ..WatchSpec::all("pods", from)
    };
    let mut live = objects.watch(WatchSpec::all("pods", from)).unwrap();
    let mut red = objects.watch(label("red")).unwrap();
    let r1 = objects.commit(put(&a, "red")).await.unwrap();
    let r2 = objects.commit(put(&b, "blue")).await.unwrap();
    let r3 = objects.commit(put(&a, "blue")).await.unwrap();
    let r4 = objects.commit(put(&b, "red")).await.unwrap();
    let r5 = objects.commit(delete(&b)).await.unwrap();
    let mut late = objects.watch(WatchSpec::all("pods", r2)).unwrap();
    let mut late_red = objects.watch(label("red")).unwrap();
    let all = [
        format!("added watch-a@{r1}"),
        format!("added watch-b@{r2}"),
        format!("modified watch-a@{r3}"),
        format!("modified watch-b@{r4}"),
        format!("deleted watch-b@{r5}"),
    ];
    for expected in &all {
        assert_eq!(&next(&mut live).await, expected);
    }
    for expected in &all[2..] {
        assert_eq!(&next(&mut late).await, expected);
    }
    for red in [&mut red, &mut late_red] {
        assert_eq!(next(red).await, format!("added watch-a@{r1}"));
        assert_eq!(next(red).await, format!("deleted watch-a@{r3}"));
        assert_eq!(next(red).await, format!("added watch-b@{r4}"));
        assert_eq!(next(red).await, format!("deleted watch-b@{r5}"));
    }
    objects.commit(delete(&a)).await.unwrap();
    assert!(next(&mut live).await.starts_with("deleted watch-a@"));
    objects.close().await;
    assert!(live.next().await.is_none());
}

async fn a_past_list_is_exact(rig: &Rig) {
    let objects = rig.open().await;
    let (a, b, c) = (pod("past-a"), pod("past-b"), pod("past-c"));
    objects.commit(put(&a, "1")).await.unwrap();
    let past = objects.commit(put(&b, "1")).await.unwrap();
    objects.commit(put(&a, "2")).await.unwrap();
    objects.commit(delete(&b)).await.unwrap();
    objects.commit(put(&c, "1")).await.unwrap();
    let list = objects.list_at("pods", Some("ns"), past).unwrap();
    let names: Vec<_> = list
        .range_after("ns", "past-")
        .take_while(|stored| stored.key.name.starts_with("past-"))
        .map(|stored| format!("{}={}", stored.key.name, stored.value()["value"].as_str().unwrap()))
        .collect();
    assert_eq!(names, ["past-a=1", "past-b=1"]);
    assert_eq!(list.revision, past);
    assert_eq!(list.range_after("ns", "past-a").next().unwrap().key, b);
    objects.commit(delete(&c)).await.unwrap();
    assert!(matches!(objects.list_at("pods", None, 0), Err(Expired { .. })));
    assert!(matches!(objects.watch(WatchSpec::all("pods", 0)), Err(Expired { .. })));
    objects.close().await;
}

async fn the_past_is_read_from_the_store_where_the_cache_has_forgotten_it(rig: &Rig) {
    let limits =
        CacheLimits { ring_events_min: 1, ring_events_max: 1, pinned_max: 1, ..CacheLimits::default() };
    let objects = rig.open_with(limits).await;
    let (a, b) = (Key::new("configmaps", "old", "a"), Key::new("configmaps", "old", "b"));
    objects.commit(put(&a, "1")).await.unwrap();
    let past = objects.commit(put(&b, "1")).await.unwrap();
    objects.commit(put(&a, "2")).await.unwrap();
    objects.commit(delete(&b)).await.unwrap();
    let seen = objects.list_past("configmaps", Some("old"), past).await.unwrap();
    let names: Vec<_> = seen.iter().map(|s| (s.key.name.to_string(), s.value()["value"].clone())).collect();
    assert_eq!((seen.revision, names), (past, vec![("a".into(), json!("1")), ("b".into(), json!("1"))]));
    let now = Clock::system().now().timestamp_millis();
    let newest = objects.revision_at(u64::try_from(now).unwrap() + 1000).await.unwrap();
    assert!(newest >= past);
    let story = objects.history(Some(&b), 0, 2).await.unwrap();
    assert_eq!(story.last().unwrap().events[0].did, Did::Delete);
    assert_eq!((story[0].revision, story[0].cause.user.as_str()), (past, "ada"));
    let then = objects.revision_at(story[0].at_ms).await.unwrap();
    assert!((past..=newest).contains(&then), "{then}");
    objects.commit(delete(&a)).await.unwrap();
    objects.close().await;
}

async fn concurrent_writers_of_one_key_do_not_overwrite_each_other(rig: &Rig) {
    let objects = rig.open().await;
    let key = pod("race");
    objects.commit(put(&key, "0")).await.unwrap();
    let add = async || {
        let mut added = 0;
        while added < 10 {
            let now = objects.get(&key).unwrap();
            let count: u32 = now.value()["value"].as_str().unwrap().parse().unwrap();
            let precondition = Precondition::Revision(key.clone(), now.revision);
            let next = put(&key, &(count + 1).to_string());
            match objects.commit(Transaction { preconditions: vec![precondition], ..next }).await {
                Ok(_) => added += 1,
                Err(CommitError::Conflict { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    };
    futures::future::join_all((0..8).map(|_| add())).await;
    assert_eq!(value(&objects, &key).as_deref(), Some("80"));
    objects.close().await;
}

async fn a_large_object_comes_back_whole(rig: &Rig) {
    let objects = rig.open().await;
    let key = pod("large");
    let text = "0123456789".repeat(60_000);
    objects.commit(put(&key, &text)).await.unwrap();
    objects.commit(put(&pod("large-not"), "small")).await.unwrap();
    assert!(value(&objects, &key).as_deref() == Some(text.as_str()), "a large object is not what it was");
    objects.close().await;
    if rig.is_kept {
        let objects = rig.open().await;
        assert!(value(&objects, &key).as_deref() == Some(text.as_str()), "a large object is not what it was");
        objects.commit(put(&key, "small now")).await.unwrap();
        objects.close().await;
        let objects = rig.open().await;
        assert_eq!(value(&objects, &key).as_deref(), Some("small now"));
        objects.close().await;
    }
}

async fn everything_is_there_after_a_restart(rig: &Rig) {
    let objects = rig.open().await;
    let (a, b) = (pod("kept-a"), pod("kept-b"));
    let r1 = objects.commit(put(&a, "1")).await.unwrap();
    objects.commit(put(&b, "1")).await.unwrap();
    objects.commit(delete(&b)).await.unwrap();
    let lazy = Transaction { durability: Durability::Lazy, ..put(&a, "2") };
    let last = objects.commit(lazy).await.unwrap();
    objects.close().await;
    drop(objects);
    let objects = rig.open().await;
    assert!(objects.revision() >= last);
    assert_eq!(value(&objects, &a).as_deref(), Some("2"));
    assert!(objects.get(&b).is_none());
    assert!(objects.commit(put(&b, "2")).await.unwrap() > last);
    if rig.is_kept {
        let mut resumed = objects.watch(WatchSpec::all("pods", r1)).unwrap();
        assert!(next(&mut resumed).await.starts_with("added kept-b@"));
        assert!(next(&mut resumed).await.starts_with("deleted kept-b@"));
        assert_eq!(next(&mut resumed).await, format!("modified kept-a@{last}"));
        let history = objects.history(Some(&b), r1, 10).await.unwrap();
        assert_eq!(history.len(), 3);
        assert_eq!(history[0].cause.user, "ada");
    }
    objects.commit(delete(&b)).await.unwrap();
    objects.close().await;
}

#[tokio::test]
async fn memory_conforms() {
    all(&Rig::new(Backend::memory(), false)).await;
}

#[tokio::test]
async fn memory_conforms_under_a_paused_clock() {
    tokio::time::pause();
    all(&Rig::new(Backend::memory(), false)).await;
}

#[tokio::test]
async fn memory_that_is_kept_conforms() {
    all(&Rig::new(Backend::kept_in(KeptMemory::default()), true)).await;
}

#[tokio::test]
async fn who_had_a_kept_memory_open_before_writes_no_more() {
    let memory = KeptMemory::default();
    let rig = Rig::new(Backend::kept_in(memory.clone()), true);
    let (before, now) = (rig.open().await, rig.open().await);
    let late = before.commit(put(&pod("a"), "late")).await;
    assert!(matches!(late, Err(CommitError::Closed)), "{late:?}");
    now.commit(put(&pod("a"), "1")).await.unwrap();
    let copy = Rig::new(Backend::kept_in(memory.copy()), true).open().await;
    now.commit(put(&pod("a"), "2")).await.unwrap();
    assert_eq!(value(&now, &pod("a")).as_deref(), Some("2"));
    assert_eq!(value(&copy, &pod("a")).as_deref(), Some("1"), "a copy goes its own way");
}

#[tokio::test]
async fn disk_conforms() {
    let dir = tempfile::tempdir().unwrap();
    all(&Rig::new(Backend::disk(dir.path().join("store")), true)).await;
}

#[tokio::test]
async fn disk_conforms_where_everything_is_encrypted() {
    let dir = tempfile::tempdir().unwrap();
    all(&Rig::new(Backend::disk(dir.path().join("store")), true).sealed()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disk_conforms_where_who_comes_alone_commits() {
    let dir = tempfile::tempdir().unwrap();
    all(&Rig::new(Backend::Disk { dir: dir.path().join("store"), limits: small_limits() }, true)).await;
}

/// Limits so small that every mechanism runs.
pub(super) fn small_limits() -> DiskLimits {
    DiskLimits {
        segment_bytes: 8 << 10,
        checkpoint_bytes: 16 << 10,
        snapshot_bytes: 32 << 10,
        segments_max: 3,
        ..DiskLimits::default()
    }
}

#[tokio::test]
async fn disk_conforms_while_it_checkpoints_and_compacts_all_the_time() {
    let dir = tempfile::tempdir().unwrap();
    let backend = Backend::Disk { dir: dir.path().join("store"), limits: small_limits() };
    let rig = Rig::new(backend, true);
    for _ in 0..3 {
        all(&rig).await;
    }
    assert!(std::fs::read_dir(dir.path().join("store/log")).unwrap().count() <= 30);
    assert!(std::fs::read_dir(dir.path().join("store/snapshot")).unwrap().count() <= 2);
}

#[tokio::test]
async fn a_watcher_that_does_not_read_is_ended_and_not_fed_gaps() {
    let tasks = Tasks::new(Shutdown::new());
    let limits = CacheLimits { watch_events_max: 3, ..CacheLimits::default() };
    let (backend, clock) = (Backend::memory(), Clock::system());
    let objects = Objects::open_with(backend, limits, Encryption::default(), clock, &tasks).await.unwrap();
    let from = objects.revision();
    let mut slow = objects.watch(WatchSpec::all("pods", from)).unwrap();
    for i in 0..600 {
        objects.commit(put(&pod(&format!("p{i:03}")), "x")).await.unwrap();
    }
    let mut seen = Vec::new();
    while let Some(event) = slow.next().await {
        seen.push(event);
    }
    assert!(matches!(
        seen[..],
        [WatchEvent::Added(_), WatchEvent::Added(_), WatchEvent::Added(_), WatchEvent::Overflow]
    ));
    // What is there at the start does not count against the buffer.
    let late = objects.watch(WatchSpec::all("pods", from)).unwrap();
    assert_eq!(late.take(600).count().await, 600);
}

#[tokio::test]
async fn watchers_by_node_see_pods_come_and_go() {
    let tasks = Tasks::new(Shutdown::new());
    let objects = Objects::open(Backend::memory(), Clock::system(), &tasks).await.unwrap();
    objects.index_fields("pods", vec!["spec.nodeName".to_owned()]);
    let on = |node: &str| WatchSpec { node: Some(node.into()), ..WatchSpec::all("pods", objects.revision()) };
    let (mut n1, mut n2) = (objects.watch(on("n1")).unwrap(), objects.watch(on("n2")).unwrap());
    let key = pod("a");
    let place = |node: &str| {
        let body = Body::encode(&json!({"metadata": {}, "spec": {"nodeName": node}}));
        transaction(vec![], vec![Change::Put { key: key.clone(), body }])
    };
    let r1 = objects.commit(place("n1")).await.unwrap();
    let r2 = objects.commit(place("n2")).await.unwrap();
    assert_eq!(next(&mut n1).await, format!("added a@{r1}"));
    assert_eq!(next(&mut n1).await, format!("deleted a@{r2}"));
    assert_eq!(next(&mut n2).await, format!("added a@{r2}"));
}

#[tokio::test(start_paused = true)]
async fn a_quiet_watch_gets_a_bookmark_within_the_interval() {
    let tasks = Tasks::new(Shutdown::new());
    let objects = Objects::open(Backend::memory(), Clock::system(), &tasks).await.unwrap();
    let mut pods = objects.watch(WatchSpec::all("pods", objects.revision())).unwrap();
    let revision = objects.commit(put(&Key::new("nodes", "", "n"), "x")).await.unwrap();
    let event = tokio::time::timeout(std::time::Duration::from_secs(61), pods.next()).await.unwrap();
    assert!(matches!(event, Some(WatchEvent::Bookmark(told)) if told == revision));
}

#[tokio::test]
async fn a_lazy_revision_is_never_used_again_even_if_its_write_was_lost() {
    let dir = tempfile::tempdir().unwrap();
    let copy = tempfile::tempdir().unwrap();
    let tasks = Tasks::new(Shutdown::new());
    let open =
        |dir: &std::path::Path| Objects::open(Backend::disk(dir.join("store")), Clock::system(), &tasks);
    let objects = open(dir.path()).await.unwrap();
    objects.commit(put(&pod("a"), "1")).await.unwrap();
    let lazy = Transaction { durability: Durability::Lazy, ..put(&pod("a"), "2") };
    let lost = objects.commit(lazy).await.unwrap();
    assert_eq!(value(&objects, &pod("a")).as_deref(), Some("2"));
    let from = dir.path().join("store");
    let copied = std::process::Command::new("cp").arg("-r").arg(&from).arg(copy.path()).status().unwrap();
    assert!(copied.success());
    let crashed = open(copy.path()).await.unwrap();
    assert_eq!(value(&crashed, &pod("a")).as_deref(), Some("1"));
    assert!(crashed.revision() >= lost);
    assert!(crashed.commit(put(&pod("b"), "1")).await.unwrap() > lost);
    objects.close().await;
    crashed.close().await;
}

/// A real etcd on loopback, for one test.
struct RealEtcd {
    process: std::process::Child,
    endpoint: String,
    _dir: tempfile::TempDir,
}

impl RealEtcd {
    /// None, and a loud word, where there is no etcd; in CI there has to be one.
    fn start() -> Option<Self> {
        if std::process::Command::new("etcd").arg("--version").output().is_err() {
            assert!(std::env::var_os("CI").is_none(), "etcd is not installed, and CI has to test with it");
            eprintln!(
                "SKIPPED: etcd is not installed, so the etcd storage is NOT tested (apt install etcd-server)"
            );
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let (client, peer) = (free_address(), free_address());
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let process = std::process::Command::new("etcd")
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}"), "--data-dir"])
            .arg(dir.path().join("data"))
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Some(Self { process, endpoint: client, _dir: dir })
    }

    /// Waits until it answers, with a limit.
    async fn rig(&self) -> Rig {
        let rig = Rig::new(Backend::etcd(vec![self.endpoint.clone()]), true);
        for _ in 0..100 {
            if let Ok(objects) = Objects::open(rig.backend.clone(), Clock::system(), &rig.tasks).await {
                objects.close().await;
                return rig;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        panic!("etcd does not answer at {}", self.endpoint);
    }
}

impl Drop for RealEtcd {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[tokio::test]
async fn etcd_conforms() {
    let Some(etcd) = RealEtcd::start() else { return };
    all(&etcd.rig().await).await;
}

#[tokio::test]
async fn etcd_conforms_where_everything_is_encrypted() {
    let Some(etcd) = RealEtcd::start() else { return };
    all(&etcd.rig().await.sealed()).await;
}

#[tokio::test]
async fn what_etcd_has_compacted_is_forgotten_and_what_it_has_not_is_told() {
    let Some(etcd) = RealEtcd::start() else { return };
    let rig = etcd.rig().await;
    let objects = rig.open().await;
    let key = pod("compacted");
    let first = objects.commit(put(&key, "1")).await.unwrap();
    let second = objects.commit(put(&key, "2")).await.unwrap();
    let third = objects.commit(put(&key, "3")).await.unwrap();
    etcd::compact(&etcd.endpoint, second).await;
    objects.close().await;
    let objects = rig.open().await;
    let of = |story: Vec<Committed>| story.into_iter().map(|one| one.revision).collect::<Vec<_>>();
    assert!(!of(objects.history(Some(&key), 0, 10).await.unwrap()).contains(&first));
    assert_eq!(of(objects.history(Some(&key), second, 10).await.unwrap()), [third]);
    let past = objects.list_past("pods", None, first).await;
    assert!(matches!(past, Err(HistoryError::Forgotten)), "{past:?}", past = past.map(|seen| seen.revision));
    assert!(matches!(objects.watch(WatchSpec::all("pods", first)), Err(Expired { .. })));
    let mut resumed = objects.watch(WatchSpec::all("pods", second)).unwrap();
    assert_eq!(next(&mut resumed).await, format!("modified compacted@{third}"));
    objects.close().await;
}

#[tokio::test]
async fn two_servers_on_one_etcd_see_each_other() {
    let Some(etcd) = RealEtcd::start() else { return };
    let rig = etcd.rig().await;
    let (one, two) = (rig.open().await, rig.open().await);
    let mut seen = two.watch(WatchSpec::all("apps/deployments", two.revision())).unwrap();
    let key = Key::new("apps/deployments", "ns", "a");
    let revision = one.commit(create(&key, "1")).await.unwrap();
    assert_eq!(next(&mut seen).await, format!("added a@{revision}"));
    assert_eq!(value(&two, &key).as_deref(), Some("1"));
    assert!(matches!(two.commit(create(&key, "2")).await, Err(CommitError::Conflict { .. })));
    one.close().await;
    two.close().await;
}
