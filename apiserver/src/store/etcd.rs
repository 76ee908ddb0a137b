//! The store in an etcd cluster, which several API servers may share.
//!
//! An object is at `<prefix>/<resource>/<namespace>/<name>` (`/registry/pods/default/a`; a cluster-wide
//! object has an empty namespace), its value is the body behind the offset of its hole, and its
//! `resourceVersion` is etcd's mod revision. Preconditions are compares of one etcd transaction; events
//! come back through one watch of the prefix, also those of other servers. When the watch was compacted
//! away, all is read again and watchers list again. Who wrote what and when, and the past: `past`.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf, BufMut, Bytes};
use component_base::clock::Clock;
use component_base::supervise::Tasks;
use futures::StreamExt;
use http::uri::PathAndQuery;
use tokio::sync::mpsc;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};
use tonic_prost::ProstCodec;

use self::past::Told;
use self::proto::{Compare, KeyValue, RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse};
use super::memory::millis;
use super::{
    Body, Change, CommitError, Committed, Did, Event, Feed, HistoryError, Key, Loaded, OpenError,
    Precondition, Record, Revision, Storage, Transaction,
};

mod past;
mod proto;

/// Keys read at once.
const PAGE: i64 = 2000;
const MESSAGE_BYTES_MAX: usize = 256 << 20;
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(5);
const CALL_WAIT_MAX: Duration = Duration::from_secs(30);
/// Between attempts to watch again.
const RETRY_DELAY: Duration = Duration::from_millis(500);

pub(crate) struct EtcdStorage {
    etcd: Etcd,
    clock: Clock,
    closed: component_base::Shutdown,
}

impl EtcdStorage {
    /// Reads all that is under the prefix and goes on watching it, in `tasks`.
    pub(crate) async fn open(
        endpoints: Vec<String>,
        prefix: String,
        clock: Clock,
        feed: Arc<dyn Feed>,
        tasks: &Tasks,
    ) -> Result<Self, OpenError> {
        let failed = |detail: String| OpenError::Etcd { endpoints: endpoints.join(","), detail };
        let mut targets = Vec::new();
        for endpoint in &endpoints {
            let target =
                Endpoint::from_shared(endpoint.clone()).map_err(|error| failed(error.to_string()))?;
            targets.push(target.connect_timeout(CONNECT_WAIT_MAX));
        }
        if targets.is_empty() {
            return Err(failed("no endpoint was named".to_owned()));
        }
        let etcd = Etcd { channel: Channel::balance_list(targets.into_iter()), prefix: format!("{prefix}/") };
        let loaded = tokio::time::timeout(CALL_WAIT_MAX, etcd.load()).await;
        let loaded = loaded.map_err(|_| failed("no answer in time".to_owned()))?;
        let loaded = loaded.map_err(|status| failed(status.to_string()))?;
        let revision = loaded.revision;
        feed.load(loaded);
        let closed = tasks.shutdown().child_token();
        let follow = Follow { etcd: etcd.clone(), clock, feed, revision };
        let ended = closed.clone();
        tasks.spawn("etcd watch", async move {
            ended.run_until_cancelled(follow.run()).await;
        });
        Ok(Self { etcd, clock, closed })
    }
}

#[async_trait]
impl Storage for EtcdStorage {
    async fn commit(&self, transaction: Transaction) -> Result<Revision, CommitError> {
        if self.closed.is_cancelled() {
            return Err(CommitError::Closed);
        }
        let changes = &transaction.changes;
        for (i, change) in changes.iter().enumerate() {
            if changes[..i].iter().any(|earlier| earlier.key() == change.key()) {
                return Err(CommitError::Repeated(change.key().clone()));
            }
        }
        let conditions = conditions(&transaction);
        let told = Told::of(&transaction, millis(&self.clock));
        let told = proto::PutRequest { key: self.etcd.told_key(), value: told.encode() };
        let told = RequestOp { request: Some(proto::Request::Put(told)) };
        let request = TxnRequest {
            compare: conditions.iter().map(|condition| self.etcd.compare(condition)).collect(),
            success: changes.iter().map(|change| self.etcd.change(change)).chain([told]).collect(),
            failure: conditions.iter().map(|condition| self.etcd.look(condition.key())).collect(),
        };
        let answer = tokio::time::timeout(CALL_WAIT_MAX, self.etcd.transact(request)).await;
        let answer = answer.map_err(|_| CommitError::Etcd("no answer in time".to_owned()))?;
        let answer = answer.map_err(|status| CommitError::Etcd(status.message().to_owned()))?;
        match answer.succeeded {
            true => Ok(revision(answer.header.map(|header| header.revision))),
            false => Err(conflict(&conditions, &answer)),
        }
    }

    async fn history(
        &self,
        key: Option<&Key>,
        after: Revision,
        max: usize,
    ) -> Result<Vec<Committed>, HistoryError> {
        within_limit(self.etcd.history(key, after, max)).await
    }

    async fn past(
        &self,
        resource: &str,
        key: Option<&Key>,
        revision: Revision,
    ) -> Result<Vec<Record>, HistoryError> {
        within_limit(self.etcd.past(resource, key, revision)).await
    }

    async fn revision_at(&self, at_ms: u64) -> Result<Revision, HistoryError> {
        within_limit(self.etcd.revision_at(at_ms)).await
    }

    async fn close(&self) {
        self.closed.cancel();
    }
}

async fn within_limit<T>(read: impl Future<Output = Result<T, HistoryError>>) -> Result<T, HistoryError> {
    let read = tokio::time::timeout(CALL_WAIT_MAX, read).await;
    read.unwrap_or_else(|_| Err(HistoryError::Etcd("no answer in time".to_owned())))
}

/// What has to hold at etcd for a transaction to happen.
enum Condition {
    Stated(Precondition),
    /// What is deleted has to be there.
    Exists(Key),
}

impl Condition {
    fn key(&self) -> &Key {
        match self {
            Self::Stated(precondition) => precondition.key(),
            Self::Exists(key) => key,
        }
    }

    fn holds(&self, current: Option<Revision>) -> bool {
        match self {
            Self::Stated(precondition) => precondition.holds(current),
            Self::Exists(_) => current.is_some(),
        }
    }
}

fn conditions(transaction: &Transaction) -> Vec<Condition> {
    let stated = transaction.preconditions.iter().cloned().map(Condition::Stated);
    let deleted = transaction.changes.iter().filter_map(|change| match change {
        Change::Delete { key, .. } => Some(Condition::Exists(key.clone())),
        Change::Put { .. } => None,
    });
    stated.chain(deleted).collect()
}

/// The first condition that did not hold.
fn conflict(conditions: &[Condition], answer: &TxnResponse) -> CommitError {
    for (condition, response) in conditions.iter().zip(&answer.responses) {
        let found = response.range.as_ref().and_then(|range| range.kvs.first());
        let current = found.map(|kv| revision(Some(kv.mod_revision)));
        if !condition.holds(current) {
            return CommitError::Conflict { key: condition.key().clone(), current };
        }
    }
    CommitError::Etcd("a transaction was refused, and all its conditions hold".to_owned())
}

fn revision(number: Option<i64>) -> Revision {
    number.and_then(|number| Revision::try_from(number).ok()).unwrap_or(0)
}

fn signed(revision: Revision) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

#[derive(Clone)]
struct Etcd {
    channel: Channel,
    /// Ends with a slash.
    prefix: String,
}

impl Etcd {
    async fn grpc(&self) -> Result<Grpc<Channel>, Status> {
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(grpc)
    }

    async fn transact(&self, request: TxnRequest) -> Result<TxnResponse, Status> {
        let path = PathAndQuery::from_static("/etcdserverpb.KV/Txn");
        let codec = ProstCodec::<TxnRequest, TxnResponse>::default();
        Ok(self.grpc().await?.unary(tonic::Request::new(request), path, codec).await?.into_inner())
    }

    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Status> {
        let path = PathAndQuery::from_static("/etcdserverpb.KV/Range");
        let codec = ProstCodec::<RangeRequest, RangeResponse>::default();
        Ok(self.grpc().await?.unary(tonic::Request::new(request), path, codec).await?.into_inner())
    }

    /// Events of keys from `key` to before `range_end` (of `key` alone if that is empty) from `start` on, and the
    /// sender that keeps the watch open.
    async fn watch(
        &self,
        key: Vec<u8>,
        range_end: Vec<u8>,
        start: Revision,
    ) -> Result<(Streaming<proto::WatchResponse>, mpsc::Sender<proto::WatchRequest>), Status> {
        let create = proto::WatchCreateRequest {
            key,
            range_end,
            start_revision: signed(start),
            progress_notify: true,
            prev_kv: true,
        };
        let (sender, mut requests) = mpsc::channel(1);
        let first = proto::WatchRequest { create: Some(create) };
        sender.send(first).await.map_err(|_| Status::internal("the watch's own channel is closed"))?;
        let requests = futures::stream::poll_fn(move |cx| requests.poll_recv(cx));
        let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
        let codec = ProstCodec::<proto::WatchRequest, proto::WatchResponse>::default();
        let answer = self.grpc().await?.streaming(tonic::Request::new(requests), path, codec).await?;
        Ok((answer.into_inner(), sender))
    }

    /// All objects, at one revision.
    async fn load(&self) -> Result<Loaded, Status> {
        let mut request = RangeRequest {
            key: self.prefix.clone().into_bytes(),
            range_end: self.prefix_end(),
            limit: PAGE,
            revision: 0,
        };
        let mut loaded = Loaded::default();
        loop {
            let page = self.range(request.clone()).await?;
            if request.revision == 0 {
                request.revision = page.header.as_ref().map_or(0, |header| header.revision);
            }
            if let Some(last) = page.kvs.last() {
                request.key = [&last.key[..], &[0]].concat();
            }
            let objects = page.kvs.iter().filter(|kv| kv.key != self.told_key());
            loaded.objects.extend(objects.filter_map(|kv| self.record(kv)));
            if !page.more {
                loaded.revision = revision(Some(request.revision));
                // What cannot be read again is only what watches of before would go on with.
                let recent = self.recent(loaded.revision).await;
                (loaded.recent, loaded.resumable) = recent.unwrap_or((Vec::new(), loaded.revision));
                return Ok(loaded);
            }
        }
    }

    /// The first key after all that begin with the prefix.
    fn prefix_end(&self) -> Vec<u8> {
        past::after_all(self.prefix.as_bytes())
    }

    fn path(&self, key: &Key) -> Vec<u8> {
        format!("{}{}/{}/{}", self.prefix, key.resource, key.namespace, key.name).into_bytes()
    }

    /// Neither a namespace nor a name has a slash; a resource may.
    fn key(&self, path: &[u8]) -> Option<Key> {
        let rest = std::str::from_utf8(path).ok()?.strip_prefix(&self.prefix)?;
        let mut parts = rest.rsplitn(3, '/');
        let (name, namespace, resource) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Key::new(resource, namespace, name))
    }

    fn record(&self, kv: &KeyValue) -> Option<Record> {
        let revision = revision(Some(kv.mod_revision));
        let record = self.key(&kv.key).zip(decode(&kv.value));
        if record.is_none() {
            tracing::warn!(key = %String::from_utf8_lossy(&kv.key), "ignored a key that is not ours");
        }
        record.map(|(key, body)| Record { key, revision, bytes: body.at(revision) })
    }

    fn compare(&self, condition: &Condition) -> Compare {
        let (result, target, with) = match condition {
            Condition::Stated(Precondition::Absent(_)) => {
                (proto::EQUAL, proto::TARGET_CREATE, proto::Target::Create(0))
            }
            Condition::Stated(Precondition::Revision(_, revision)) => {
                (proto::EQUAL, proto::TARGET_MOD, proto::Target::Mod(signed(*revision)))
            }
            Condition::Exists(_) => (proto::GREATER, proto::TARGET_CREATE, proto::Target::Create(0)),
        };
        Compare { result, target, key: self.path(condition.key()), with: Some(with) }
    }

    fn change(&self, change: &Change) -> RequestOp {
        let request = match change {
            Change::Put { key, body } => {
                proto::Request::Put(proto::PutRequest { key: self.path(key), value: encode(body) })
            }
            Change::Delete { key, .. } => {
                proto::Request::Delete(proto::DeleteRangeRequest { key: self.path(key) })
            }
        };
        RequestOp { request: Some(request) }
    }

    fn look(&self, key: &Key) -> RequestOp {
        let range = RangeRequest { key: self.path(key), ..RangeRequest::default() };
        RequestOp { request: Some(proto::Request::Range(range)) }
    }

    /// What an event says; of a deletion the state before it, as kube-apiserver does.
    fn event(&self, event: &proto::WatchedEvent) -> Option<(Revision, Event)> {
        let kv = event.kv.as_ref()?;
        let at = revision(Some(kv.mod_revision));
        let key = self.key(&kv.key)?;
        let previous = event.prev_kv.as_ref().map(|before| revision(Some(before.mod_revision)));
        let (did, value) = match event.kind {
            0 => (Did::Put, &kv.value),
            _ => (Did::Delete, &event.prev_kv.as_ref()?.value),
        };
        Some((at, Event { key, did, previous, bytes: decode(value)?.at(at) }))
    }
}

fn encode(body: &Body) -> Vec<u8> {
    let (text, hole) = body.parts();
    let mut value = Vec::with_capacity(4 + text.len());
    value.put_u32(hole);
    value.put_slice(text);
    value
}

fn decode(value: &Bytes) -> Option<Body> {
    let mut value = value.clone();
    let hole = value.try_get_u32().ok()?;
    Body::from_parts(value, hole)
}

/// Keeps the feed at what etcd has.
struct Follow {
    etcd: Etcd,
    clock: Clock,
    feed: Arc<dyn Feed>,
    /// Everything up to here was published.
    revision: Revision,
}

impl Follow {
    async fn run(mut self) {
        loop {
            match self.follow().await {
                Ok(Lost::Connection) => tracing::warn!("the watch of etcd ended; watching again"),
                Ok(Lost::Compacted) => {
                    tracing::warn!("etcd has compacted what was to come next; reading everything again");
                    match self.etcd.load().await {
                        Ok(loaded) => {
                            self.revision = loaded.revision;
                            self.feed.load(loaded);
                        }
                        Err(status) => tracing::warn!(%status, "cannot read from etcd"),
                    }
                }
                Err(status) => tracing::warn!(%status, "cannot watch etcd"),
            }
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }

    async fn follow(&mut self) -> Result<Lost, Status> {
        let (mut responses, _open) = self
            .etcd
            .watch(self.etcd.prefix.clone().into_bytes(), self.etcd.prefix_end(), self.revision + 1)
            .await?;
        while let Some(response) = responses.next().await {
            let response = response?;
            if response.canceled {
                return Ok(if response.compact_revision > 0 { Lost::Compacted } else { Lost::Connection });
            }
            if !response.created {
                self.publish(&response);
            }
        }
        Ok(Lost::Connection)
    }

    fn publish(&mut self, response: &proto::WatchResponse) {
        let committed = self.etcd.committed(&response.events, millis(&self.clock));
        if let Some(last) = committed.last() {
            self.revision = last.revision;
            self.feed.publish(committed);
        } else if response.events.is_empty() {
            // A progress notification: nothing of ours up to here.
            self.revision =
                revision(response.header.as_ref().map(|header| header.revision)).max(self.revision);
            self.feed.advance(self.revision);
        }
    }
}

enum Lost {
    Connection,
    Compacted,
}

/// Has etcd forget what was before a revision.
#[cfg(test)]
pub(super) async fn compact(endpoint: &str, revision: Revision) {
    let channel = Endpoint::from_shared(endpoint.to_owned()).unwrap().connect_lazy();
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.unwrap();
    let path = PathAndQuery::from_static("/etcdserverpb.KV/Compact");
    let codec = ProstCodec::<proto::CompactionRequest, proto::CompactionResponse>::default();
    let request = proto::CompactionRequest { revision: signed(revision), physical: true };
    grpc.unary(tonic::Request::new(request), path, codec).await.unwrap();
}
