//! Encryption between the cache and a storage: what the cache writes is sealed, what the storage hands over is
//! opened. Storages see sealed bytes only, in logs, snapshots and etcd alike.
//!
//! A sealed body has its revision's hole at its end. Inside, before the object's text, stands where the hole of
//! the object is.

use std::collections::HashSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use super::{
    Body, Change, CommitError, Committed, Feed, HistoryError, Key, Loaded, OpenError, Record, Revision,
    Storage, Transaction,
};
use crate::encryption::{DecryptError, Encryption, is_sealed};

/// Opens and seals bodies, and knows which objects are stored differently from how they would be now.
pub(crate) struct Seals {
    encryption: ArcSwap<Encryption>,
    stale: RwLock<HashSet<Key>>,
    /// Why the state could not be read; then the server does not start.
    unreadable: Mutex<Option<String>>,
}

/// After the mark and key name: the length of the sealed text (u32, little endian), which digits follow.
const LENGTH: usize = 4;
const HOLE: usize = 4;

impl Seals {
    pub(crate) fn new(encryption: Encryption) -> Arc<Self> {
        let encryption = ArcSwap::from_pointee(encryption);
        Arc::new(Self { encryption, stale: RwLock::default(), unreadable: Mutex::default() })
    }

    /// Goes on with other rules. What was stored by the old ones counts as stale: any of `kept` may be.
    pub(crate) fn replace(&self, encryption: Encryption, kept: impl Iterator<Item = Key>) {
        let old = self.encryption.swap(Arc::new(encryption));
        let now = self.encryption.load();
        let sealed = kept.filter(|key| old.seals(&key.resource) || now.seals(&key.resource));
        self.stale.write().extend(sealed);
    }

    /// What is wrong with each key management service.
    pub(crate) fn services(&self) -> Vec<Option<String>> {
        self.encryption.load().services()
    }

    /// Whether a write that changes nothing would still store the object with another key.
    pub(crate) fn is_stale(&self, key: &Key) -> bool {
        self.stale.read().contains(key)
    }

    /// Nothing, or why the state that was loaded cannot be read.
    pub(crate) fn check(&self) -> Result<(), OpenError> {
        match self.unreadable.lock().take() {
            None => Ok(()),
            Some(why) => Err(OpenError::Decrypt(why)),
        }
    }

    fn seal(&self, change: Change) -> Change {
        match change {
            Change::Put { key, body } => Change::Put { body: self.seal_body(&key, body), key },
            Change::Delete { key, last } => Change::Delete { last: self.seal_body(&key, last), key },
        }
    }

    fn seal_body(&self, key: &Key, body: Body) -> Body {
        if !self.encryption.load().seals(&key.resource) {
            return body;
        }
        let (text, hole) = body.parts();
        let plain = [&hole.to_le_bytes()[..], text].concat();
        let sealed = self.encryption.load().seal(&key.resource, &key.to_string(), &plain);
        let Some(sealed) = sealed else { return body };
        let length = u32::try_from(sealed.len()).expect("an object is far smaller than 4 GiB");
        let text = [&sealed[..], &length.to_le_bytes()].concat();
        let end = u32::try_from(text.len()).expect("an object is far smaller than 4 GiB");
        Body::from_parts(text.into(), end).expect("the hole is at the end")
    }

    /// The object's bytes at `revision`, and whether a write would seal it differently.
    fn open(&self, key: &Key, revision: Revision, bytes: Bytes) -> Result<(Bytes, bool), DecryptError> {
        let (path, encryption) = (key.to_string(), self.encryption.load());
        if !is_sealed(&bytes) {
            encryption.open(&key.resource, &path, &bytes)?;
            return Ok((bytes, encryption.is_stale_in_clear(&key.resource)));
        }
        // The digits of some revision follow; how many is found by the length that stands before them.
        let digits = bytes.iter().rev().take_while(|byte| byte.is_ascii_digit()).count().min(20);
        let end = (0..=digits).map(|count| bytes.len() - count).find(|end| {
            let length = end.checked_sub(LENGTH).and_then(|at| bytes[at..*end].try_into().ok());
            length.is_some_and(|length| u32::from_le_bytes(length) as usize + LENGTH == *end)
        });
        let sealed = &bytes[..end.map_or(bytes.len(), |end| end - LENGTH)];
        let Some(opened) = encryption.open(&key.resource, &path, sealed)? else {
            return Ok((bytes, false));
        };
        let broken = || DecryptError::WrongKey(path.clone());
        let (hole, text) = opened.plain.split_first_chunk::<HOLE>().ok_or_else(broken)?;
        let text = Bytes::copy_from_slice(text);
        let body = Body::from_parts(text, u32::from_le_bytes(*hole)).ok_or_else(broken)?;
        Ok((body.at(revision), opened.is_stale))
    }

    /// As `open`; one that cannot be opened is noted and left out.
    fn open_or_note(&self, key: &Key, revision: Revision, bytes: Bytes) -> Option<Bytes> {
        match self.open(key, revision, bytes) {
            Ok((bytes, is_stale)) => {
                if is_stale {
                    self.stale.write().insert(key.clone());
                } else if self.is_stale(key) {
                    self.stale.write().remove(key);
                }
                Some(bytes)
            }
            Err(why) => {
                tracing::error!(%key, %why, "a stored object cannot be read");
                self.unreadable.lock().get_or_insert_with(|| format!("{key} cannot be read: {why}"));
                None
            }
        }
    }

    fn open_committed(&self, mut committed: Committed) -> Result<Committed, DecryptError> {
        for event in &mut committed.events {
            event.bytes = self.open(&event.key, committed.revision, std::mem::take(&mut event.bytes))?.0;
        }
        Ok(committed)
    }
}

/// What admission changed, without the values.
fn paths_alone(admitted: &str) -> String {
    let mut changes: Vec<serde_json::Value> = serde_json::from_str(admitted).unwrap_or_default();
    if changes.is_empty() {
        return String::new();
    }
    for fields in changes.iter_mut().filter_map(serde_json::Value::as_object_mut) {
        fields.retain(|name, _| name == "path");
    }
    serde_json::Value::from(changes).to_string()
}

/// A storage that sees sealed bytes only.
pub(crate) struct SealedStorage {
    pub(crate) inner: Arc<dyn Storage>,
    pub(crate) seals: Arc<Seals>,
}

#[async_trait]
impl Storage for SealedStorage {
    async fn commit(&self, mut transaction: Transaction) -> Result<Revision, CommitError> {
        // What admission changed stands beside the bodies in the log, readable: of sealed ones only where.
        for (change, admitted) in transaction.changes.iter().zip(&mut transaction.cause.admitted) {
            if self.seals.encryption.load().seals(&change.key().resource) {
                *admitted = paths_alone(admitted);
            }
        }
        transaction.changes = transaction.changes.into_iter().map(|change| self.seals.seal(change)).collect();
        self.inner.commit(transaction).await
    }

    async fn history(
        &self,
        key: Option<&Key>,
        after: Revision,
        max: usize,
    ) -> Result<Vec<Committed>, HistoryError> {
        let history = self.inner.history(key, after, max).await?;
        // What was written with a key that is gone is gone too.
        Ok(history.into_iter().filter_map(|committed| self.seals.open_committed(committed).ok()).collect())
    }

    async fn past(
        &self,
        resource: &str,
        key: Option<&Key>,
        revision: Revision,
    ) -> Result<Vec<Record>, HistoryError> {
        let mut records = self.inner.past(resource, key, revision).await?;
        for record in &mut records {
            let bytes = std::mem::take(&mut record.bytes);
            let opened = self.seals.open(&record.key, record.revision, bytes);
            record.bytes = opened.map_err(|_| HistoryError::NotKept)?.0;
        }
        Ok(records)
    }

    async fn revision_at(&self, at_ms: u64) -> Result<Revision, HistoryError> {
        self.inner.revision_at(at_ms).await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

/// Opens what a storage publishes before it reaches the cache.
pub(crate) struct OpeningFeed {
    pub(crate) inner: Arc<dyn Feed>,
    pub(crate) seals: Arc<Seals>,
}

impl Feed for OpeningFeed {
    fn load(&self, mut loaded: Loaded) {
        self.seals.stale.write().clear();
        loaded.objects.retain_mut(|record| {
            let bytes = std::mem::take(&mut record.bytes);
            let opened = self.seals.open_or_note(&record.key, record.revision, bytes);
            opened.map(|bytes| record.bytes = bytes).is_some()
        });
        let mut recent = Vec::with_capacity(loaded.recent.len());
        for committed in std::mem::take(&mut loaded.recent) {
            let revision = committed.revision;
            match self.seals.open_committed(committed) {
                Ok(committed) => recent.push(committed),
                // Written with a key that is gone: watches resume after it, so that none has a gap.
                Err(_) => {
                    recent.clear();
                    loaded.resumable = revision;
                }
            }
        }
        loaded.recent = recent;
        self.inner.load(loaded);
    }

    fn publish(&self, mut committed: Vec<Committed>) {
        if self.seals.encryption.load().is_empty() {
            return self.inner.publish(committed);
        }
        for transaction in &mut committed {
            let revision = transaction.revision;
            transaction.events.retain_mut(|event| {
                let bytes = std::mem::take(&mut event.bytes);
                let opened = self.seals.open_or_note(&event.key, revision, bytes);
                opened.map(|bytes| event.bytes = bytes).is_some()
            });
        }
        self.inner.publish(committed);
    }

    fn advance(&self, revision: Revision) {
        self.inner.advance(revision);
    }
}

#[cfg(test)]
mod tests {
    use component_base::Shutdown;
    use component_base::clock::Clock;
    use component_base::supervise::Tasks;
    use serde_json::json;

    use super::*;
    use crate::cache::Objects;
    use crate::encryption::tests::encryption;
    use crate::store::{Backend, Cause, Durability, Precondition};

    fn put(key: &Key, before: Option<Revision>, text: &str) -> Transaction {
        let object = json!({"metadata": {"name": "a", "resourceVersion": ""}, "data": {"password": text}});
        let precondition = match before {
            None => Precondition::Absent(key.clone()),
            Some(revision) => Precondition::Revision(key.clone(), revision),
        };
        Transaction {
            preconditions: vec![precondition],
            changes: vec![Change::Put { key: key.clone(), body: Body::encode(&object) }],
            durability: Durability::Synced,
            cause: Cause::default(),
        }
    }

    async fn open(dir: &std::path::Path, providers: &[&str]) -> Result<(Arc<Objects>, Tasks), OpenError> {
        let tasks = Tasks::new(Shutdown::new());
        let backend = Backend::disk(dir.join("store"));
        let sealed = Some(encryption(providers));
        Ok((Objects::open_sealed(backend, sealed, Clock::system(), &tasks).await?, tasks))
    }

    async fn close((objects, tasks): (Arc<Objects>, Tasks)) {
        objects.close().await;
        tasks.shutdown().cancel();
        tasks.join().await;
    }

    fn files_contain(dir: &std::path::Path, text: &[u8]) -> bool {
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).any(|path| match path.is_dir() {
            true => files_contain(&path, text),
            false => std::fs::read(&path).unwrap().windows(text.len()).any(|window| window == text),
        })
    }

    #[test]
    fn what_admission_changed_in_a_sealed_object_is_noted_without_values() {
        let admitted = r#"[{"path":".data.k","from":"old","to":"secret"}]"#;
        assert_eq!(paths_alone(admitted), r#"[{"path":".data.k"}]"#);
        assert_eq!(paths_alone(""), "");
    }

    #[tokio::test]
    async fn the_disk_never_sees_a_secret_and_a_restart_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let key = Key::new("secrets", "ns", "a");
        let opened = open(dir.path(), &["aesgcm/a/1", "identity"]).await.unwrap();
        let revision = opened.0.commit(put(&key, None, "hunter22hunter")).await.unwrap();
        assert_eq!(opened.0.get(&key).unwrap().value()["data"]["password"], "hunter22hunter");
        close(opened).await;
        assert!(!files_contain(dir.path(), b"hunter22hunter"));
        assert!(files_contain(dir.path(), b"k8s:enc:aesgcm:v1:a:"));
        let opened = open(dir.path(), &["aesgcm/a/1", "identity"]).await.unwrap();
        let value = opened.0.get(&key).unwrap().value();
        assert_eq!(value["data"]["password"], "hunter22hunter");
        assert_eq!(value["metadata"]["resourceVersion"], revision.to_string());
        close(opened).await;
    }

    #[tokio::test]
    async fn a_wrong_key_is_refused_at_the_start_with_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let key = Key::new("secrets", "ns", "a");
        let opened = open(dir.path(), &["aescbc/a/1", "identity"]).await.unwrap();
        opened.0.commit(put(&key, None, "x")).await.unwrap();
        close(opened).await;
        let problem = open(dir.path(), &["aescbc/b/2", "identity"]).await.err().unwrap().to_string();
        assert!(problem.contains("secrets/ns/a") && problem.contains("aescbc:v1:a"), "{problem}");
    }

    #[tokio::test]
    async fn a_start_without_the_configuration_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let opened = open(dir.path(), &["aescbc/a/1", "identity"]).await.unwrap();
        opened.0.commit(put(&Key::new("secrets", "ns", "a"), None, "x")).await.unwrap();
        close(opened).await;
        let tasks = Tasks::new(Shutdown::new());
        let backend = Backend::disk(dir.path().join("store"));
        let problem = Objects::open(backend, Clock::system(), &tasks).await.err().unwrap().to_string();
        assert!(problem.contains("--encryption-provider-config"), "{problem}");
    }

    #[tokio::test]
    async fn other_rules_are_followed_from_the_moment_they_are_given() {
        let dir = tempfile::tempdir().unwrap();
        let key = Key::new("secrets", "ns", "a");
        let opened = open(dir.path(), &["aescbc/a/1", "identity"]).await.unwrap();
        let revision = opened.0.commit(put(&key, None, "x")).await.unwrap();
        opened.0.replace_encryption(encryption(&["secretbox/b/2", "aescbc/a/1"]));
        assert!(opened.0.is_stale(&key));
        opened.0.commit(put(&key, Some(revision), "x")).await.unwrap();
        assert!(!opened.0.is_stale(&key));
        close(opened).await;
        assert!(files_contain(dir.path(), b"k8s:enc:secretbox:v1:b:"));
        close(open(dir.path(), &["secretbox/b/2"]).await.unwrap()).await;
    }

    #[tokio::test]
    async fn after_a_rotation_objects_are_stale_until_they_are_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let key = Key::new("secrets", "ns", "a");
        let opened = open(dir.path(), &["aescbc/a/1", "identity"]).await.unwrap();
        let revision = opened.0.commit(put(&key, None, "x")).await.unwrap();
        assert!(!opened.0.is_stale(&key));
        close(opened).await;
        let opened = open(dir.path(), &["secretbox/b/2", "aescbc/a/1"]).await.unwrap();
        assert!(opened.0.is_stale(&key));
        opened.0.commit(put(&key, Some(revision), "x")).await.unwrap();
        assert!(!opened.0.is_stale(&key));
        close(opened).await;
        let opened = open(dir.path(), &["secretbox/b/2"]).await.unwrap();
        assert_eq!(opened.0.get(&key).unwrap().value()["data"]["password"], "x");
        close(opened).await;
    }
}
