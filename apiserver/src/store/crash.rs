//! Crashes under load: whatever was acknowledged is there afterwards, and the store always opens.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use component_base::clock::Clock;
use futures::stream::{FuturesUnordered, StreamExt};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::conformance::{put, small_limits, transaction};
use super::disk::DiskStorage;
use super::files::Files;
use super::files::simulated::Simulated;
use super::*;
use crate::cache::{Cache, CacheLimits};

const ROUNDS: u64 = 50;
const WRITERS: usize = 16;
const KEYS: usize = 8;

/// What was acknowledged: key name to revision and whether it is there; open while a deletion is under way.
type Acked = HashMap<String, (Revision, Option<bool>)>;

fn open(dir: &Path, files: Option<Arc<dyn Files>>) -> (DiskStorage, Loaded) {
    let kept = Arc::new(Keep(Mutex::default()));
    let opened = match files {
        Some(files) => {
            DiskStorage::open_files(dir, files, None, small_limits(), Clock::system(), kept.clone())
        }
        None => DiskStorage::open(dir, small_limits(), Clock::system(), kept.clone()),
    };
    let storage = opened.unwrap_or_else(|error| panic!("the store does not open: {error:?}"));
    let loaded = std::mem::take(&mut *kept.0.lock());
    (storage, loaded)
}

/// Keeps what a storage opened with.
struct Keep(Mutex<Loaded>);

impl Feed for Keep {
    fn load(&self, loaded: Loaded) {
        *self.0.lock() = loaded;
    }

    fn publish(&self, _: Vec<Committed>) {}

    fn advance(&self, _: Revision) {}
}

/// One of the writers: puts and deletes its own keys, and tells what was acknowledged until it fails.
async fn write(
    storage: &DiskStorage,
    writer: usize,
    seed: u64,
    acked: impl Fn(&str, Revision, Option<bool>),
) {
    let mut rng = StdRng::seed_from_u64(seed * 1000 + writer as u64);
    let mut there = [false; KEYS];
    loop {
        let slot = rng.random_range(0..KEYS);
        let name = format!("w{writer}-k{slot}");
        let key = Key::new("pods", "ns", &name);
        let size = if rng.random_bool(0.05) { 20_000 } else { 200 };
        let delete = there[slot] && rng.random_bool(0.2);
        let change = if delete {
            transaction(
                vec![],
                vec![Change::Delete { key: key.clone(), last: Body::encode(&serde_json::json!({})) }],
            )
        } else {
            put(&key, &"v".repeat(size))
        };
        if delete {
            acked(&name, 0, None);
        }
        match storage.commit(change).await {
            Ok(revision) => {
                there[slot] = !delete;
                acked(&name, revision, Some(!delete));
            }
            Err(_) => return,
        }
    }
}

/// Nothing acknowledged is missing: each key is as it was acknowledged, or as a later write left it that
/// was under way.
fn check(loaded: &Loaded, acked: &Acked, round: u64) {
    let found: HashMap<_, _> = loaded.objects.iter().map(|r| (&*r.key.name, r)).collect();
    for (name, (revision, is_there)) in acked {
        assert!(loaded.revision >= *revision, "round {round}: revision {} < {revision}", loaded.revision);
        match (found.get(name.as_str()), is_there) {
            (Some(record), Some(true)) => {
                assert!(record.revision >= *revision, "round {round}: {name} is old")
            }
            (Some(record), Some(false)) => {
                assert!(record.revision > *revision, "round {round}: {name} is back")
            }
            (None, Some(true)) => panic!("round {round}: {name}@{revision} is lost"),
            (None, Some(false)) | (_, None) => {}
        }
    }
    for record in &loaded.objects {
        let object: serde_json::Value = serde_json::from_slice(&record.bytes).expect("whole objects");
        assert_eq!(object["metadata"]["resourceVersion"], record.revision.to_string());
    }
}

/// After a crash the writers' keys are as found.
fn found(loaded: &Loaded) -> Acked {
    loaded.objects.iter().map(|r| (r.key.name.to_string(), (r.revision, Some(true)))).collect()
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_when_the_power_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = StdRng::seed_from_u64(42);
    let mut files = Simulated::default();
    let mut acked = Acked::new();
    for round in 0..ROUNDS {
        let (storage, loaded) = open(dir.path(), Some(Arc::new(files.clone())));
        check(&loaded, &acked, round);
        let now = Mutex::new(found(&loaded));
        let (count, until) = (std::cell::Cell::new(0_u32), rng.random_range(1..400_u32));
        let writers: FuturesUnordered<_> = (0..WRITERS)
            .map(|writer| {
                write(&storage, writer, round, |name, revision, is_there| {
                    now.lock().insert(name.to_owned(), (revision, is_there));
                    count.set(count.get() + u32::from(is_there.is_some()));
                    if count.get() == until {
                        files.cut();
                    }
                })
            })
            .collect();
        writers.collect::<Vec<_>>().await;
        storage.close().await;
        acked = now.into_inner();
        files = files.reborn(&mut rng);
    }
    let (storage, loaded) = open(dir.path(), Some(Arc::new(files)));
    check(&loaded, &acked, ROUNDS);
    storage.close().await;
}

const CHILD_DIR: &str = "COXSWAIN_TEST_CRASH_DIR";
const CHILD_SEED: &str = "COXSWAIN_TEST_CRASH_SEED";

/// Not a test by itself: what the next test runs in a process of its own, and kills.
#[tokio::test]
async fn writer_that_is_killed() {
    let (Ok(dir), Ok(seed)) = (std::env::var(CHILD_DIR), std::env::var(CHILD_SEED)) else { return };
    let (storage, _) = open(Path::new(&dir), None);
    let writers: FuturesUnordered<_> = (0..WRITERS)
        .map(|writer| {
            write(&storage, writer, seed.parse().unwrap(), |name, revision, is_there| {
                let is_there = is_there.map_or("open".to_owned(), |is_there| is_there.to_string());
                let line = format!("ack {name} {revision} {is_there}\n");
                std::io::stdout().write_all(line.as_bytes()).unwrap();
                std::io::stdout().flush().unwrap();
            })
        })
        .collect();
    writers.collect::<Vec<_>>().await;
}

/// Runs the writer, kills it after `until` acknowledgements, and gives all that it acknowledged.
fn kill_a_writer(dir: &Path, seed: u64, until: usize) -> Acked {
    let test = format!("{}::writer_that_is_killed", module_path!().split_once("::").unwrap().1);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([&test, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD_DIR, dir)
        .env(CHILD_SEED, seed.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut acked = Acked::new();
    let mut count = 0;
    for line in BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok) {
        let Some((_, ack)) = line.split_once("ack ") else { continue };
        let parts: Vec<_> = ack.split(' ').collect();
        // The kill may tear the last line.
        let [name, revision, is_there] = parts[..] else { continue };
        let is_there = match is_there {
            "true" => Some(true),
            "false" => Some(false),
            "open" => None,
            _ => continue,
        };
        acked.insert(name.to_owned(), (revision.parse().unwrap(), is_there));
        count += usize::from(is_there.is_some());
        if count == until {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(count >= until, "the writer ended by itself after {count} writes");
    acked
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_when_the_process_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("store");
    let mut rng = StdRng::seed_from_u64(7);
    let mut known = Acked::new();
    for round in 0..ROUNDS {
        known.extend(kill_a_writer(&data, round, rng.random_range(1..200)));
        let (storage, loaded) = open(&data, None);
        check(&loaded, &known, round);
        storage.close().await;
        known = found(&loaded);
    }
}

#[tokio::test]
async fn a_state_that_does_not_open_is_made_again_from_snapshot_and_log() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("store");
    let (storage, _) = open(&data, None);
    for i in 0..300 {
        storage
            .commit(put(&Key::new("pods", "ns", &format!("p{:02}", i % 50)), &"x".repeat(400)))
            .await
            .unwrap();
    }
    storage.close().await;
    let state = std::fs::read_dir(data.join("state")).unwrap().next().unwrap().unwrap().path();
    let db = state.join("db");
    let length = std::fs::metadata(&db).unwrap().len();
    std::fs::write(&db, vec![0xa5; length.min(1 << 20) as usize]).unwrap();
    let (storage, loaded) = open(&data, None);
    assert_eq!(loaded.objects.len(), 50);
    assert_eq!(loaded.revision, 301);
    storage.close().await;
    // And the new state is used from then on.
    let cache = Arc::new(Cache::new(CacheLimits::default()));
    DiskStorage::open(&data, small_limits(), Clock::system(), cache).unwrap().close().await;
    assert!(!state.exists());
}
