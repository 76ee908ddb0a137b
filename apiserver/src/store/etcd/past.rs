//! What etcd's retained revisions tell: states and transactions of the past, as far back as etcd was not
//! compacted.
//!
//! etcd keeps neither who wrote something nor when. So each transaction also writes that to one key of its own,
//! always the same: its past values are the list of transactions, and go with the rest when etcd is compacted.

use std::collections::VecDeque;

use bytes::Bytes;
use futures::StreamExt as _;
use serde_json::{Value, json};
use tonic::{Code, Status};

use super::proto::{KeyValue, RangeRequest, WatchedEvent};
use super::{Etcd, PAGE, decode, revision, signed};
use crate::store::{Cause, Committed, Did, Event, HistoryError, Key, Record, Revision, Transaction};

/// Transactions read again at the start, so that watches of before go on.
const RECENT_MAX: u64 = 1000;
/// Attempts to read from where etcd says that it begins; it may be compacted meanwhile.
const ATTEMPTS: usize = 3;

/// What a transaction says of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Told {
    pub(super) at_ms: u64,
    pub(super) cause: Cause,
    changes: Vec<(Key, Did)>,
}

impl Told {
    pub(super) fn of(transaction: &Transaction, at_ms: u64) -> Self {
        let did = |change: &crate::store::Change| match change {
            crate::store::Change::Put { key, .. } => (key.clone(), Did::Put),
            crate::store::Change::Delete { key, .. } => (key.clone(), Did::Delete),
        };
        let changes = transaction.changes.iter().map(did).collect();
        Self { at_ms, cause: transaction.cause.clone(), changes }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let Cause { user, request, call, manager, acted_on, admitted } = &self.cause;
        let changes = self.changes.iter().map(|(key, did)| {
            json!([&*key.resource, &*key.namespace, &*key.name, matches!(did, Did::Delete)])
        });
        let told = json!({
            "at": self.at_ms, "user": user, "request": request, "call": call, "manager": manager,
            "actedOn": acted_on, "admitted": admitted, "changes": changes.collect::<Vec<_>>(),
        });
        told.to_string().into_bytes()
    }

    pub(super) fn decode(bytes: &Bytes) -> Option<Self> {
        let told: Value = serde_json::from_slice(bytes).ok()?;
        let text = |field: &str| told[field].as_str().unwrap_or_default().to_owned();
        let change = |change: &Value| {
            let key = Key::new(change[0].as_str()?, change[1].as_str()?, change[2].as_str()?);
            Some((key, if change[3] == true { Did::Delete } else { Did::Put }))
        };
        let admitted = told["admitted"].as_array().into_iter().flatten();
        Some(Self {
            at_ms: told["at"].as_u64()?,
            cause: Cause {
                user: text("user"),
                request: text("request"),
                call: text("call"),
                manager: text("manager"),
                acted_on: told["actedOn"].as_u64(),
                admitted: admitted.filter_map(|one| one.as_str().map(str::to_owned)).collect(),
            },
            changes: told["changes"].as_array().into_iter().flatten().filter_map(change).collect(),
        })
    }
}

/// What was read of a stretch of revisions.
enum Read {
    All,
    /// etcd begins only here.
    Compacted(Revision),
}

impl Etcd {
    /// Where transactions tell of themselves; no object is there, as an object's key has a resource.
    pub(super) fn told_key(&self) -> Vec<u8> {
        format!("{}.transaction", self.prefix).into_bytes()
    }

    /// A key as it was at `at`, now for 0.
    async fn value_at(&self, key: Vec<u8>, at: Revision) -> Result<Option<KeyValue>, Status> {
        let request = RangeRequest { key, revision: signed(at), limit: 1, ..RangeRequest::default() };
        Ok(self.range(request).await?.kvs.into_iter().next())
    }

    /// The revision of the newest transaction at or before `at`, and what it says; 0 is now.
    async fn newest(&self, at: Revision) -> Result<Option<(Revision, Told)>, Status> {
        let found = self.value_at(self.told_key(), at).await?;
        Ok(found.and_then(|kv| Some((revision(Some(kv.mod_revision)), Told::decode(&kv.value)?))))
    }

    /// Gives `take` the events of keys from `key` to `end` between two revisions, of which the last has one.
    async fn read(
        &self,
        (key, end): (Vec<u8>, Vec<u8>),
        (start, last): (Revision, Revision),
        mut take: impl FnMut(&[WatchedEvent]),
    ) -> Result<Read, Status> {
        let (mut responses, _open) = self.watch(key, end, start).await?;
        while let Some(response) = responses.next().await {
            let response = response?;
            if response.canceled {
                return match response.compact_revision {
                    0 => Err(Status::unavailable(response.cancel_reason)),
                    compacted => Ok(Read::Compacted(revision(Some(compacted)))),
                };
            }
            take(&response.events);
            let seen = response.events.last().and_then(|event| event.kv.as_ref()).map(|kv| kv.mod_revision);
            if revision(seen) >= last {
                return Ok(Read::All);
            }
        }
        Err(Status::unavailable("the watch ended"))
    }

    /// The newest transactions up to `loaded`, and the revision after which all are among them.
    pub(super) async fn recent(&self, loaded: Revision) -> Result<(Vec<Committed>, Revision), Status> {
        let Some((last, _)) = self.newest(loaded).await? else { return Ok((Vec::new(), loaded)) };
        // The first revision is that of an etcd with nothing in it.
        let mut after = last.saturating_sub(RECENT_MAX).max(1);
        for _ in 0..ATTEMPTS {
            if after >= last {
                break;
            }
            let (mut recent, mut gap) = (Vec::new(), None);
            let range = (self.prefix.clone().into_bytes(), self.prefix_end());
            let read = self.read(range, (after + 1, last), |events| {
                recent.extend(self.committed(events, 0));
                gap = gap.max(events.iter().filter_map(|event| self.unknown_end(event)).max());
            });
            match read.await? {
                Read::Compacted(begin) => after = begin.max(after + 1),
                Read::All => {
                    let after = gap.unwrap_or(after).max(after);
                    recent.retain(|committed| committed.revision > after && committed.revision <= loaded);
                    return Ok((recent, after));
                }
            }
        }
        Ok((Vec::new(), loaded))
    }

    /// The revision of a deletion whose object is not known any more.
    fn unknown_end(&self, event: &WatchedEvent) -> Option<Revision> {
        let kv = event.kv.as_ref().filter(|kv| event.kind != 0 && self.key(&kv.key).is_some())?;
        event.prev_kv.is_none().then(|| revision(Some(kv.mod_revision)))
    }

    /// Events as the transactions that they were; `at_ms` is the time of those that do not tell it.
    pub(super) fn committed(&self, events: &[WatchedEvent], at_ms: u64) -> Vec<Committed> {
        let told_key = self.told_key();
        let mut committed: Vec<Committed> = Vec::new();
        for event in events {
            // It is written as the last of each transaction.
            if let Some(kv) = event.kv.as_ref().filter(|kv| kv.key == told_key) {
                let of = committed.last_mut().filter(|last| last.revision == revision(Some(kv.mod_revision)));
                if let (Some(last), Some(told)) = (of, Told::decode(&kv.value)) {
                    (last.at_ms, last.cause) = (told.at_ms, told.cause);
                }
                continue;
            }
            let Some((revision, event)) = self.event(event) else { continue };
            match committed.last_mut() {
                Some(last) if last.revision == revision => last.events.push(event),
                _ => committed.push(Committed {
                    revision,
                    at_ms,
                    cause: Cause::default(),
                    events: vec![event],
                }),
            }
        }
        committed
    }

    /// As [`crate::store::Storage::history`].
    pub(super) async fn history(
        &self,
        key: Option<&Key>,
        after: Revision,
        max: usize,
    ) -> Result<Vec<Committed>, HistoryError> {
        let told = self.told(key, after, max).await.map_err(failed)?;
        let mut history = Vec::with_capacity(told.len());
        for (revision, told) in told {
            let mut events = Vec::with_capacity(told.changes.len());
            for (key, did) in told.changes {
                events.extend(self.event_of(key, did, revision).await.map_err(failed)?);
            }
            history.push(Committed { revision, at_ms: told.at_ms, cause: told.cause, events });
        }
        Ok(history)
    }

    async fn told(
        &self,
        key: Option<&Key>,
        after: Revision,
        max: usize,
    ) -> Result<VecDeque<(Revision, Told)>, Status> {
        let Some((last, _)) = self.newest(0).await? else { return Ok(VecDeque::new()) };
        let mut after = after;
        for _ in 0..ATTEMPTS {
            if after >= last {
                break;
            }
            let mut found = VecDeque::new();
            let range = (self.told_key(), Vec::new());
            let read = self.read(range, (after + 1, last), |events| {
                let values = events.iter().filter_map(|event| event.kv.as_ref());
                let all =
                    values.filter_map(|kv| Some((revision(Some(kv.mod_revision)), Told::decode(&kv.value)?)));
                found.extend(all.filter(|(_, told)| {
                    key.is_none_or(|key| told.changes.iter().any(|(changed, _)| changed == key))
                }));
                while found.len() > max {
                    found.pop_front();
                }
            });
            match read.await? {
                Read::All => return Ok(found),
                Read::Compacted(begin) => after = begin.max(after + 1),
            }
        }
        Ok(VecDeque::new())
    }

    /// What a transaction did to one key; nothing where that was compacted.
    async fn event_of(&self, key: Key, did: Did, at: Revision) -> Result<Option<Event>, Status> {
        let path = self.path(&key);
        let before = match self.value_at(path.clone(), at.saturating_sub(1).max(1)).await {
            Err(status) if is_compacted(&status) => None,
            other => other?,
        };
        let previous = before.as_ref().map(|kv| revision(Some(kv.mod_revision)));
        let shown = match did {
            Did::Put => self.value_at(path, at).await?,
            Did::Delete => before,
        };
        let bytes = shown.and_then(|kv| Some(decode(&kv.value)?.at(at)));
        Ok(bytes.map(|bytes| Event { key, did, previous, bytes }))
    }

    /// As [`crate::store::Storage::past`].
    pub(super) async fn past(
        &self,
        resource: &str,
        key: Option<&Key>,
        at: Revision,
    ) -> Result<Vec<Record>, HistoryError> {
        // 0 would be now.
        if at == 0 {
            return Err(HistoryError::Compacted { oldest: 1 });
        }
        let begin = format!("{}{resource}/", self.prefix).into_bytes();
        let (first, end) = match key {
            Some(key) => (self.path(key), Vec::new()),
            None => (begin.clone(), after_all(&begin)),
        };
        let mut request = RangeRequest { key: first, range_end: end, limit: PAGE, revision: signed(at) };
        let mut records = Vec::new();
        loop {
            let page = self.range(request.clone()).await.map_err(failed)?;
            records.extend(page.kvs.iter().filter_map(|kv| self.record(kv)));
            match page.kvs.last() {
                Some(last) if page.more => request.key = [&last.key[..], &[0]].concat(),
                _ => break,
            }
        }
        records.retain(|record| *record.key.resource == *resource);
        records.sort_by(|one, other| one.key.cmp(&other.key));
        Ok(records)
    }

    /// As [`crate::store::Storage::revision_at`]: looked for by halves among the transactions.
    pub(super) async fn revision_at(&self, at_ms: u64) -> Result<Revision, HistoryError> {
        let Some((last, told)) = self.newest(0).await.map_err(failed)? else {
            return Err(HistoryError::Compacted { oldest: 1 });
        };
        if told.at_ms <= at_ms {
            return Ok(last);
        }
        let (mut low, mut high, mut found) = (1, last, None);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.newest(middle).await {
                Ok(Some((revision, told))) if told.at_ms <= at_ms => {
                    (found, low) = (Some(revision), middle + 1);
                }
                Ok(Some(_)) => high = middle,
                // Before the first transaction, or before what is kept.
                Ok(None) => low = middle + 1,
                Err(status) if is_compacted(&status) => low = middle + 1,
                Err(status) => return Err(failed(status)),
            }
        }
        found.ok_or(HistoryError::Compacted { oldest: low })
    }
}

/// The first key after all that begin so.
pub(super) fn after_all(begin: &[u8]) -> Vec<u8> {
    let mut end = begin.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

fn is_compacted(status: &Status) -> bool {
    status.code() == Code::OutOfRange && status.message().contains("compacted")
}

fn failed(status: Status) -> HistoryError {
    match is_compacted(&status) {
        true => HistoryError::Forgotten,
        false => HistoryError::Etcd(status.message().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_transaction_tells_is_read_as_it_was_written() {
        let told = Told {
            at_ms: 1_700_000_000_123,
            cause: Cause {
                user: "ada".into(),
                call: "PUT /x".into(),
                acted_on: Some(7),
                admitted: vec!["[]".into()],
                ..Cause::default()
            },
            changes: vec![(Key::new("pods", "ns", "a"), Did::Put), (Key::new("nodes", "", "b"), Did::Delete)],
        };
        assert_eq!(Told::decode(&told.encode().into()), Some(told));
        assert_eq!(Told::decode(&Bytes::from_static(b"x")), None);
    }
}
