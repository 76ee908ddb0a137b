//! Leader election over a Lease, so that one of several replicas works at a time.
//!
//! As in Kubernetes: who holds the lease renews it; who wants it waits until it has not changed for its
//! whole duration, measured on the waiter's own clock, so that clock skew between machines is harmless.
//! A leader that stops cleanly empties the lease, and waiters, who watch it, take over at once.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::api::{ObjectMeta, PostParams};
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::Shutdown;
use crate::client::said;
use crate::clock::Clock;
use crate::metrics::{Family, Gauge, Metrics};

/// The annotation of a Lease that says where its holder tells about itself, as `host:port`.
pub const DEBUG_ADDRESS: &str = "coxswain.dev/debug-address";
/// Between two tries to say where a process tells about itself.
const ANNOUNCE_RETRY: Duration = Duration::from_secs(2);

/// What to elect for, and how patiently.
#[derive(Clone, Debug)]
pub struct Election {
    /// Namespace and name of the Lease.
    pub namespace: String,
    pub name: String,
    /// Who this process is; must differ between replicas.
    pub identity: String,
    /// How long others wait after the last renewal they saw.
    pub lease_duration: Duration,
    /// How long the leader goes on without being able to renew.
    pub renew_deadline: Duration,
    /// Between two tries.
    pub retry_period: Duration,
    /// Where the leader tells about itself (`host:port`), which the Lease says of it.
    pub told_at: Option<String>,
}

impl Election {
    /// Kubernetes' defaults (15 s, 10 s, 2 s) for `name` in `kube-system`, under a new identity.
    pub fn new(name: &str) -> Self {
        let host = std::env::var("HOSTNAME").unwrap_or_else(|_| name.to_owned());
        Self {
            namespace: "kube-system".to_owned(),
            name: name.to_owned(),
            identity: format!("{host}_{}", uuid::Uuid::new_v4()),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
            told_at: None,
        }
    }
}

/// The lease went to somebody else, or could not be renewed in time: the process must stop.
#[derive(Debug, thiserror::Error)]
#[error("leadership of {0} was lost")]
pub struct LostError(String);

/// Waits for the lease, then runs `work` and renews meanwhile.
///
/// `work` gets a signal that is cancelled when `shutdown` is, or when leadership is lost; after a clean
/// end the lease is given up. Returns without running `work` when `shutdown` comes first.
pub async fn lead<F, W>(
    client: Client,
    clock: Clock,
    election: Election,
    metrics: &Metrics,
    shutdown: Shutdown,
    work: F,
) -> Result<(), LostError>
where
    F: FnOnce(Shutdown) -> W,
    W: Future<Output = ()>,
{
    let master = master_status(metrics, &election.name);
    let mut lease = Holder::new(client, clock, election);
    if shutdown.run_until_cancelled(lease.acquire()).await.is_none() {
        return Ok(());
    }
    info!(lease = lease.election.name, identity = lease.election.identity, "became leader");
    master.set(1);
    let inner = shutdown.child_token();
    let work = work(inner.clone());
    tokio::pin!(work);
    tokio::select! {
        biased;
        () = &mut work => {}
        () = lease.renew_until_lost() => {
            inner.cancel();
            work.await;
            master.set(0);
            return Err(LostError(lease.election.name));
        }
    }
    lease.release().await;
    master.set(0);
    Ok(())
}

/// 1 while this process leads.
fn master_status(metrics: &Metrics, name: &str) -> Gauge {
    let help = "Whether this process leads: 1 is yes";
    let family = metrics.register("leader_election_master_status", help, Family::<_, Gauge>::default());
    family.get_or_create_owned(&vec![("name", name.to_owned())])
}

/// What came of a try to take or renew the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    Ours,
    Theirs,
    /// Somebody wrote it meanwhile, which need not have been another candidate.
    Raced,
}

struct Holder {
    api: Api<Lease>,
    clock: Clock,
    election: Election,
    /// The last lease seen, and when it last changed.
    seen: Option<(Lease, Instant)>,
}

impl Holder {
    fn new(client: Client, clock: Clock, election: Election) -> Self {
        let api = Api::namespaced(client, &election.namespace);
        Self { api, clock, election, seen: None }
    }

    async fn acquire(&mut self) {
        let mut changes = self.changes();
        loop {
            match self.try_hold().await {
                Ok(Hold::Ours) => return,
                Ok(Hold::Theirs | Hold::Raced) => {}
                Err(error) => {
                    warn!(
                        error = said(&error),
                        lease = self.election.name,
                        "cannot read or write the lease; trying again"
                    )
                }
            }
            let pause = tokio::time::sleep(self.election.retry_period);
            tokio::pin!(pause);
            loop {
                tokio::select! {
                    biased;
                    () = &mut pause => break,
                    free = changes.next() => if free.unwrap_or(false) { break },
                }
            }
        }
    }

    /// Whether the lease is free, at each of its changes.
    fn changes(&self) -> BoxStream<'static, bool> {
        let backoff = watcher::DefaultBackoff::default();
        let events = watcher::watch_object(self.api.clone(), &self.election.name);
        let events = kube::runtime::WatchStreamExt::backoff(events, backoff);
        let free =
            |event: Result<Option<Lease>, _>| matches!(event, Ok(lease) if holder(lease.as_ref()).is_none());
        // A stream that ended must not spin its reader.
        events.map(free).chain(futures::stream::pending()).boxed()
    }

    async fn renew_until_lost(&mut self) {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(self.election.retry_period).await;
            let deadline = renewed + self.election.renew_deadline;
            match tokio::time::timeout_at(deadline, self.try_hold()).await {
                Ok(Ok(Hold::Ours)) => renewed = Instant::now(),
                Ok(Ok(Hold::Theirs)) | Err(_) => return,
                Ok(Ok(Hold::Raced)) => {}
                Ok(Err(error)) if Instant::now() >= deadline => {
                    warn!(
                        error = said(&error),
                        lease = self.election.name,
                        "could not renew the lease in time"
                    );
                    return;
                }
                Ok(Err(error)) => {
                    warn!(
                        error = said(&error),
                        lease = self.election.name,
                        "could not renew the lease; trying again"
                    )
                }
            }
        }
    }

    /// Takes or renews the lease if that is allowed.
    async fn try_hold(&mut self) -> Result<Hold, kube::Error> {
        let Some(current) = self.api.get_opt(&self.election.name).await? else {
            let created = self.api.create(&PostParams::default(), &self.fresh()).await;
            return won(created);
        };
        if !self.may_take(&current) {
            return Ok(Hold::Theirs);
        }
        let wanted = renewed(&current, &self.election, self.clock);
        won(self.api.replace(&self.election.name, &PostParams::default(), &wanted).await)
    }

    fn may_take(&mut self, current: &Lease) -> bool {
        let changed = self.seen.as_ref().is_none_or(|(seen, _)| seen.spec != current.spec);
        if changed {
            self.seen = Some((current.clone(), Instant::now()));
        }
        let since = self.seen.as_ref().map_or_else(Instant::now, |(_, since)| *since);
        let seconds = current.spec.as_ref().and_then(|spec| spec.lease_duration_seconds).unwrap_or(0);
        let duration = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        match holder(Some(current)) {
            None => true,
            Some(name) if name == self.election.identity => true,
            Some(_) => since.elapsed() > duration,
        }
    }

    fn fresh(&self) -> Lease {
        let metadata = ObjectMeta {
            name: Some(self.election.name.clone()),
            namespace: Some(self.election.namespace.clone()),
            ..ObjectMeta::default()
        };
        renewed(&Lease { metadata, spec: None }, &self.election, self.clock)
    }

    /// Empties the lease, so that the next one need not wait.
    async fn release(&mut self) {
        let released = async {
            let Some(mut lease) = self.api.get_opt(&self.election.name).await? else { return Ok(()) };
            if holder(Some(&lease)) != Some(self.election.identity.as_str()) {
                return Ok(());
            }
            let spec = lease.spec.get_or_insert_default();
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            self.api.replace(&self.election.name, &PostParams::default(), &lease).await.map(drop)
        };
        match tokio::time::timeout(self.election.retry_period, released).await {
            Ok(Ok(())) => info!(lease = self.election.name, "gave up leadership"),
            Ok(Err(error)) => {
                warn!(
                    error = said(&error),
                    lease = self.election.name,
                    "could not give up the lease; it will expire"
                )
            }
            Err(_) => warn!(lease = self.election.name, "giving up the lease took too long; it will expire"),
        }
    }
}

fn won(result: Result<Lease, kube::Error>) -> Result<Hold, kube::Error> {
    match result {
        Ok(_) => Ok(Hold::Ours),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(Hold::Raced),
        Err(error) => Err(error),
    }
}

fn holder(lease: Option<&Lease>) -> Option<&str> {
    let name = lease?.spec.as_ref()?.holder_identity.as_deref()?;
    (!name.is_empty()).then_some(name)
}

fn renewed(current: &Lease, election: &Election, clock: Clock) -> Lease {
    let old = current.spec.clone().unwrap_or_default();
    let ours = old.holder_identity.as_deref() == Some(&election.identity);
    let now = clock.micro_time();
    let transitions = old.lease_transitions.unwrap_or(0);
    let first = current.spec.is_none();
    let spec = LeaseSpec {
        holder_identity: Some(election.identity.clone()),
        lease_duration_seconds: i32::try_from(election.lease_duration.as_secs()).ok(),
        acquire_time: if ours { old.acquire_time } else { Some(now.clone()) },
        renew_time: Some(now),
        lease_transitions: Some(if ours || first { transitions } else { transitions + 1 }),
        ..LeaseSpec::default()
    };
    let mut lease = Lease { metadata: current.metadata.clone(), spec: Some(spec) };
    tell_address(&mut lease, election.told_at.as_deref());
    lease
}

/// What somebody before told of itself is no longer true.
fn tell_address(lease: &mut Lease, address: Option<&str>) {
    match (address, &mut lease.metadata.annotations) {
        (Some(address), annotations) => {
            annotations.get_or_insert_default().insert(DEBUG_ADDRESS.to_owned(), address.to_owned());
        }
        (None, Some(annotations)) => drop(annotations.remove(DEBUG_ADDRESS)),
        (None, None) => {}
    }
}

/// Says in the Lease `name` where this process tells about itself, for one that works without an election.
/// Tries until it has said so.
pub async fn announce(client: Client, name: &str, address: &str) {
    let api: Api<Lease> = Api::namespaced(client, "kube-system");
    while let Err(error) = try_announce(&api, name, address).await {
        debug!(error = said(&error), lease = name, "cannot say where to ask; trying again");
        tokio::time::sleep(ANNOUNCE_RETRY).await;
    }
}

async fn try_announce(api: &Api<Lease>, name: &str, address: &str) -> Result<(), kube::Error> {
    let mut lease = match api.get_opt(name).await? {
        Some(lease) => lease,
        None => {
            let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
            api.create(&PostParams::default(), &Lease { metadata, spec: None }).await?
        }
    };
    tell_address(&mut lease, Some(address));
    api.replace(name, &PostParams::default(), &lease).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease_of(identity: &str, transitions: i32) -> Lease {
        let spec = LeaseSpec {
            holder_identity: Some(identity.to_owned()),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        };
        Lease { spec: Some(spec), ..Lease::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn taking_over_counts_a_transition() {
        let election = Election::new("test");
        let lease =
            renewed(&lease_of("other", 3), &election, Clock::starting_at(chrono::DateTime::UNIX_EPOCH));
        assert_eq!(lease.spec.unwrap().lease_transitions, Some(4));
    }

    #[tokio::test(start_paused = true)]
    async fn renewing_keeps_the_transitions() {
        let election = Election::new("test");
        let current = lease_of(&election.identity, 3);
        let lease = renewed(&current, &election, Clock::starting_at(chrono::DateTime::UNIX_EPOCH));
        assert_eq!(lease.spec.unwrap().lease_transitions, Some(3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_cannot_be_asked_takes_back_where_the_one_before_could() {
        let clock = Clock::starting_at(chrono::DateTime::UNIX_EPOCH);
        let mut election = Election { told_at: Some("n1:10257".to_owned()), ..Election::new("test") };
        let told = renewed(&lease_of("other", 0), &election, clock);
        let address = |lease: &Lease| lease.metadata.annotations.as_ref()?.get(DEBUG_ADDRESS).cloned();
        assert_eq!(address(&told).as_deref(), Some("n1:10257"));
        election.told_at = None;
        assert_eq!(address(&renewed(&told, &election, clock)), None);
    }

    #[test]
    fn an_empty_holder_is_no_holder() {
        assert_eq!(holder(Some(&lease_of("", 0))), None);
    }
}
