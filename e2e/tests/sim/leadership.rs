//! Two controller managers side by side, of which one leads.

use std::sync::Arc;
use std::time::Duration;

use component_base::Shutdown;
use component_base::clock::Clock;
use component_base::leader::Election;
use component_base::supervise::Tasks;
use coxswain::{Options, UserInfo};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use tokio::time::{Instant, sleep};

use crate::chance::Chance;
use crate::faults::{Deaths, Link, Net, Sort};
use crate::machine::Machine;
use crate::observer::View;
use crate::server::ApiServer;
use crate::trace::Trace;

const LEASE: &str = "kube-controller-manager";
/// How far a figure of time may be off: requests take a few milliseconds each.
const REQUESTS: Duration = Duration::from_secs(1);

struct Two {
    server: Arc<ApiServer>,
    clock: Clock,
    net: Arc<Net>,
    tasks: Tasks,
    /// Without faults.
    admin: kube::Client,
    _machine: Machine,
}

/// A manager that stands for election.
struct Candidate {
    link: Arc<Link>,
    shutdown: Shutdown,
}

impl Two {
    async fn start() -> Self {
        let clock = Machine::clock();
        let mut options = Options::default();
        (options.server.clock, options.server.random) = (clock, Chance::seeded(1).random());
        let (machine, trace, tasks) = (Machine::set_up().await, Trace::new(), Tasks::new(Shutdown::new()));
        let server = ApiServer::start(options, &machine, trace.clone(), tasks.clone());
        let server = server.await.expect("a server");
        let net = Net::new(Chance::seeded(1), trace, View::new(), server.clone(), Deaths::default());
        let admin = net.link("admin", Sort::Sure).client(UserInfo::admin());
        Self { server, clock, net, tasks, admin, _machine: machine }
    }

    async fn candidate(&self, name: &str) -> Candidate {
        let (link, shutdown) = (self.net.link(name, Sort::Sure), Shutdown::new());
        let election = Election { identity: name.to_owned(), ..Election::new(LEASE) };
        let client = link.client(coxswain::controller_manager_user());
        let run = self.server.with(|cluster| {
            let (client, election) = (client.clone(), Some(election.clone()));
            cluster.controller_manager(client, self.clock, election, shutdown.clone())
        });
        let run = run.await.expect("a manager");
        self.tasks.spawn("candidate", async move { drop(run.await) });
        Candidate { link, shutdown }
    }

    /// Waits until `name` holds the lease; answers how long that took.
    async fn until_led_by(&self, name: &str) -> Duration {
        let since = Instant::now();
        let leases: Api<Lease> = Api::namespaced(self.admin.clone(), "kube-system");
        while since.elapsed() < Duration::from_secs(120) {
            let lease = leases.get_opt(LEASE).await.expect("an answer");
            if lease.and_then(|lease| lease.spec?.holder_identity).as_deref() == Some(name) {
                return since.elapsed();
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("{name} does not lead after two minutes");
    }

    /// Asks for something that a controller does, and waits for it.
    async fn see_work(&self, namespace: &str) {
        let metadata = ObjectMeta { name: Some(namespace.to_owned()), ..ObjectMeta::default() };
        let namespaces: Api<Namespace> = Api::all(self.admin.clone());
        let made = Namespace { metadata, ..Namespace::default() };
        namespaces.create(&PostParams::default(), &made).await.expect("created");
        let accounts: Api<ServiceAccount> = Api::namespaced(self.admin.clone(), namespace);
        for _ in 0..100 {
            if accounts.get_opt("default").await.expect("an answer").is_some() {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
        panic!("nobody made the account of {namespace} in ten seconds");
    }

    async fn stop(self, candidates: [Candidate; 2]) {
        candidates.iter().for_each(|one| one.shutdown.cancel());
        self.tasks.join().await;
        self.server.finish().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_stops_hands_over_at_once() {
    let two = Two::start().await;
    let first = two.candidate("first").await;
    two.until_led_by("first").await;
    let second = two.candidate("second").await;
    sleep(Duration::from_secs(60)).await;
    assert!(two.until_led_by("first").await < REQUESTS, "the first leads as long as it lives");
    two.see_work("one").await;
    first.shutdown.cancel();
    let waited = two.until_led_by("second").await;
    assert!(waited < REQUESTS, "the second waited {waited:?} for a lease that was given up");
    two.see_work("two").await;
    two.stop([first, second]).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_dies_is_followed_when_its_lease_has_run_out() {
    let two = Two::start().await;
    let first = two.candidate("first").await;
    two.until_led_by("first").await;
    let second = two.candidate("second").await;
    sleep(Duration::from_secs(60)).await;
    first.link.dead.cancel();
    let waited = two.until_led_by("second").await;
    let election = Election::new(LEASE);
    // The last renewal is seen at most a retry late, and the lease's end as well.
    let most = election.lease_duration + 2 * election.retry_period + REQUESTS;
    let fewest = election.lease_duration - election.retry_period - REQUESTS;
    assert!(waited > fewest && waited < most, "the second waited {waited:?}");
    two.see_work("two").await;
    two.stop([first, second]).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_outlives_the_server() {
    let two = Two::start().await;
    let first = two.candidate("first").await;
    two.until_led_by("first").await;
    let second = two.candidate("second").await;
    two.see_work("one").await;
    two.server.end(true, Duration::from_secs(5));
    two.see_work("two").await;
    assert!(two.until_led_by("first").await < REQUESTS, "the first leads as before");
    two.stop([first, second]).await;
}
