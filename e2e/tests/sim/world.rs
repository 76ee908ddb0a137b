//! One run: starts a cluster, lets users and faults at it, then leaves it alone and sees that it comes to rest.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use component_base::Shutdown;
use component_base::clock::Clock;
use component_base::leader::Election;
use component_base::supervise::Tasks;
use coxswain::{Options, UserInfo};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use crate::chance::Chance;
use crate::faults::{Deaths, Link, Net, Sort};
use crate::kubelet::Kubelet;
use crate::machine::Machine;
use crate::observer::{Observer, View};
use crate::server::ApiServer;
use crate::trace::Trace;
use crate::workload::Users;

/// Simulated time in which everything must have come to rest after the last fault.
const REST_MAX: Duration = Duration::from_secs(45 * 60);
/// Nothing may change for this long before the run counts as at rest.
const QUIET: Duration = Duration::from_secs(15);

/// What is done to a cluster in one run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) nodes: usize,
    pub(crate) managers: usize,
    pub(crate) chaos: Duration,
    pub(crate) faulty: bool,
    pub(crate) restarts: bool,
    pub(crate) server_restarts: bool,
    pub(crate) node_deaths: bool,
    pub(crate) outages: bool,
    pub(crate) clock_jumps: bool,
}

impl Plan {
    pub(crate) fn drawn(chance: &Chance) -> Self {
        Self {
            nodes: usize::try_from(chance.number(2..5)).unwrap_or(2),
            managers: if chance.happens(0.3) { 2 } else { 1 },
            chaos: chance.millis(30_000..80_000),
            faulty: chance.happens(0.85),
            restarts: chance.happens(0.6),
            server_restarts: chance.happens(0.4),
            node_deaths: chance.happens(0.4),
            outages: chance.happens(0.3),
            clock_jumps: chance.happens(0.2),
        }
    }

    pub(crate) fn without_faults() -> Self {
        Self {
            nodes: 3,
            managers: 1,
            chaos: Duration::from_secs(60),
            faulty: false,
            restarts: false,
            server_restarts: false,
            node_deaths: false,
            outages: false,
            clock_jumps: false,
        }
    }
}

/// A component that is started again whenever it ends.
struct Process {
    name: String,
    life: Mutex<Option<Life>>,
    /// How long it stays away the next time.
    away: Mutex<Duration>,
}

/// One life of a process.
#[derive(Clone)]
struct Life {
    link: Arc<Link>,
    shutdown: Shutdown,
    number: usize,
}

type Start = Box<dyn Fn(Life) -> BoxFuture<'static, ()> + Send + Sync>;

impl Process {
    fn new(name: &str) -> Arc<Self> {
        let away = Mutex::new(Duration::from_secs(1));
        Arc::new(Self { name: name.to_owned(), life: Mutex::new(None), away })
    }

    async fn live(self: Arc<Self>, sort: Sort, net: Arc<Net>, trace: Trace, stop: Shutdown, start: Start) {
        for number in 1.. {
            let link = net.link(&format!("{}#{number}", self.name), sort);
            let life = Life { link: link.clone(), shutdown: stop.child_token(), number };
            *self.life.lock() = Some(life.clone());
            let shutdown = life.shutdown.clone();
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = link.dead.cancelled() => {}
                () = start(life) => trace.note(&self.name, "has ended"),
            }
            link.dead.cancel();
            shutdown.cancel();
            let away = std::mem::replace(&mut *self.away.lock(), Duration::from_secs(1));
            sleep(away).await;
            trace.note(&self.name, "starts again");
        }
    }

    fn life(&self) -> Option<Life> {
        self.life.lock().clone()
    }
}

pub(crate) struct World {
    plan: Plan,
    server: Arc<ApiServer>,
    clock: Clock,
    net: Arc<Net>,
    chance: Chance,
    trace: Trace,
    view: Arc<Mutex<View>>,
    tasks: Tasks,
    started: Instant,
    control: Vec<Arc<Process>>,
    nodes: Vec<Arc<Process>>,
}

/// Runs one seed from beginning to end. The server starts on `machine`.
pub(crate) async fn run(seed: u64, plan: Option<Plan>, machine: &Machine) -> Trace {
    let (trace, chance) = (Trace::new(), Chance::seeded(seed));
    let plan = plan.unwrap_or_else(|| Plan::drawn(&chance));
    trace.note("seed", &format!("{seed} {plan:?}"));
    match World::start(plan, chance, trace.clone(), machine).await {
        Ok(world) => world.pass().await,
        Err(error) => trace.problem(format!("the cluster does not start: {error:#}")),
    }
    trace
}

impl World {
    async fn start(plan: Plan, chance: Chance, trace: Trace, machine: &Machine) -> anyhow::Result<Self> {
        let clock = Machine::clock();
        let random = chance.random();
        let mut options = Options::default();
        (options.server.clock, options.server.random) = (clock, random);
        let tasks = Tasks::new(Shutdown::new());
        let server = ApiServer::start(options, machine, trace.clone(), tasks.clone()).await?;
        let view = View::new();
        let deaths = Deaths { control: plan.restarts, nodes: plan.node_deaths, server: plan.server_restarts };
        let net = Net::new(chance.clone(), trace.clone(), view.clone(), server.clone(), deaths);
        let started = Instant::now();
        let (control, nodes) = (Vec::new(), Vec::new());
        let mut world =
            Self { plan, server, clock, net, chance, trace, view, tasks, started, control, nodes };
        let watching = world.client("observer", UserInfo::admin());
        let observer = Observer::start(watching, world.trace.clone(), world.view.clone()).await?;
        world.tasks.spawn("observer", observer.run(world.tasks.shutdown().clone()));
        world.start_processes();
        Ok(world)
    }

    /// A client without faults.
    fn client(&self, actor: &str, user: UserInfo) -> kube::Client {
        self.net.link(actor, Sort::Sure).client(user)
    }

    fn start_processes(&mut self) {
        for number in 1..=self.plan.managers {
            let name = format!("manager-{number}");
            let elects = self.plan.managers > 1;
            let (server, clocks, trace) = (self.server.clone(), Arc::new(self.clocks()), self.trace.clone());
            let start: Start = Box::new(move |life| {
                let identity = format!("manager-{number}-{}", life.number);
                let election =
                    elects.then(|| Election { identity, ..Election::new("kube-controller-manager") });
                let client = life.link.client(coxswain::controller_manager_user());
                let (server, clocks, trace) = (server.clone(), clocks.clone(), trace.clone());
                Box::pin(async move {
                    let start = server.with(|cluster| {
                        let (client, election) = (client.clone(), election.clone());
                        cluster.controller_manager(client, clocks(), election, life.shutdown.clone())
                    });
                    let ended = match start.await {
                        Ok(run) => run.await,
                        Err(error) => Err(error),
                    };
                    trace.note("manager", &format!("ended: {ended:?}"));
                })
            });
            let process = self.live(&name, Sort::Control, start);
            self.control.push(process);
        }
        let clocks = self.clocks();
        let start: Start = Box::new(move |life| {
            let client = life.link.client(coxswain::scheduler_user());
            let run = coxswain::scheduler(client, clocks(), 7, life.shutdown);
            Box::pin(async move { drop(run.await) })
        });
        let scheduler = self.live("scheduler", Sort::Control, start);
        self.control.push(scheduler);
        for number in 1..=self.plan.nodes {
            let node = self.start_node(&format!("node-{number}"));
            self.nodes.push(node);
        }
    }

    fn start_node(&self, name: &str) -> Arc<Process> {
        let (clocks, chance) = (self.clocks(), self.chance.clone());
        let name_of_node = name.to_owned();
        let start: Start = Box::new(move |life| {
            let kubelet = Kubelet {
                name: name_of_node.clone(),
                client: life.link.client(coxswain::node_user(&name_of_node)),
                clock: clocks(),
                chance: chance.clone(),
                rebooted: chance.happens(0.5),
            };
            Box::pin(kubelet.run(life.shutdown))
        });
        self.live(name, Sort::Node, start)
    }

    fn live(&self, name: &str, sort: Sort, start: Start) -> Arc<Process> {
        let process = Process::new(name);
        let stop = self.tasks.shutdown().clone();
        let living = process.clone().live(sort, self.net.clone(), self.trace.clone(), stop, start);
        self.tasks.spawn("process", living);
        process
    }

    /// Clocks of processes: near the true time, seldom far from it.
    fn clocks(&self) -> impl Fn() -> Clock + Send + Sync + use<> {
        let (clock, chance, faulty) = (self.clock, self.chance.clone(), self.plan.faulty);
        move || {
            let wrong = match (faulty, chance.happens(0.2)) {
                (false, _) => 1,
                (true, false) => 500,
                (true, true) => 20_000,
            };
            let skew =
                i64::try_from(chance.number(0..2 * wrong)).unwrap_or(0) - i64::try_from(wrong).unwrap_or(0);
            Clock::starting_at(clock.now() + chrono::Duration::milliseconds(skew))
        }
    }

    async fn pass(self) {
        let mut users = Users {
            client: self.client("user", UserInfo::admin()),
            chance: self.chance.clone(),
            trace: self.trace.clone(),
            view: self.view.clone(),
            made: 0,
        };
        users.begin().await;
        sleep(Duration::from_secs(3)).await;
        self.net.set_faulty(self.plan.faulty);
        let ends = Instant::now() + self.plan.chaos;
        while Instant::now() < ends && !self.trace.has_failed() {
            sleep(self.chance.millis(100..4000)).await;
            self.disturb(&users).await;
            users.step().await;
        }
        self.heal();
        // What was made last is seen before it is calmed.
        sleep(Duration::from_secs(1)).await;
        users.calm().await;
        self.come_to_rest().await;
        self.stop().await;
    }

    /// Perhaps something bad.
    async fn disturb(&self, users: &Users) {
        let plan = &self.plan;
        let weight = |wanted: bool, weight: u64| if wanted { weight } else { 0 };
        let weights = [
            20,
            weight(plan.restarts, 4),
            weight(plan.node_deaths, 3),
            weight(plan.outages, 2),
            weight(plan.clock_jumps, 1),
            weight(plan.node_deaths, 2),
            weight(plan.restarts && plan.faulty, 2),
            weight(plan.server_restarts, 3),
        ];
        match self.chance.weighted(&weights) {
            1 => self.restart(&self.control, 200..8000),
            2 => {
                self.disturbed();
                match self.chance.happens(0.6) {
                    true => self.restart(&self.nodes, 1000..120_000),
                    false => self.cut(&self.nodes, 5_000..120_000),
                }
            }
            3 => {
                self.trace.note("fault", "the server is out of reach");
                self.net.set_down(true);
                sleep(self.chance.millis(500..12_000)).await;
                self.net.set_down(false);
            }
            4 => {
                let jump = Duration::from_secs(self.chance.number(20..3600));
                self.disturbed();
                self.trace.note("fault", &format!("all clocks jump by {jump:?}"));
                tokio::time::advance(jump).await;
                // What the jump brings about begins only now.
                self.disturbed();
                self.view.lock().surroundings.jumped_at = Some(self.started.elapsed());
            }
            5 => {
                self.disturbed();
                users.take_a_pod().await;
            }
            6 => self.cut(&self.control, 2_000..40_000),
            7 => self.server.end(self.chance.happens(0.6), self.chance.millis(200..12_000)),
            _ => {}
        }
    }

    fn disturbed(&self) {
        self.view.lock().surroundings.disturbed_at = Some(self.started.elapsed());
    }

    /// Ends some process, at once or cleanly; it comes back after a while.
    fn restart(&self, among: &[Arc<Process>], away: std::ops::Range<u64>) {
        let Some(process) = self.chance.of(among) else { return };
        let Some(life) = process.life() else { return };
        *process.away.lock() = self.chance.millis(away);
        match self.chance.happens(0.6) {
            true => {
                self.trace.note("fault", &format!("{} is killed", process.name));
                life.link.dead.cancel();
            }
            false => {
                self.trace.note("fault", &format!("{} is stopped", process.name));
                life.shutdown.cancel();
            }
        }
    }

    /// Cuts some process off from the server for a while.
    fn cut(&self, among: &[Arc<Process>], during: std::ops::Range<u64>) {
        let Some(process) = self.chance.of(among) else { return };
        let Some(life) = process.life() else { return };
        let during = self.chance.millis(during);
        self.trace.note("fault", &format!("{} is cut off for {during:?}", process.name));
        life.link.cut.store(true, Ordering::Relaxed);
        self.tasks.spawn_until_shutdown("network", async move {
            sleep(during).await;
            life.link.cut.store(false, Ordering::Relaxed);
        });
    }

    /// No more faults; who is cut off comes back, who is away soon will.
    fn heal(&self) {
        self.trace.note("world", "no more faults");
        self.net.set_faulty(false);
        for process in self.control.iter().chain(&self.nodes) {
            if let Some(life) = process.life() {
                life.link.cut.store(false, Ordering::Relaxed);
            }
        }
    }

    async fn come_to_rest(&self) {
        let limit = Instant::now() + REST_MAX;
        loop {
            if self.trace.has_failed() {
                return;
            }
            sleep(Duration::from_secs(2)).await;
            let (unfinished, quiet) = {
                let view = self.view.lock();
                (view.unfinished(), self.started.elapsed().saturating_sub(view.model.changed_at))
            };
            if unfinished.is_empty() && quiet >= QUIET {
                return self.trace.note("world", "at rest");
            }
            if Instant::now() >= limit {
                let why = match unfinished.is_empty() {
                    true => "something changes all the time".to_owned(),
                    false => unfinished.join("\n    "),
                };
                return self.trace.problem(format!("not at rest after {REST_MAX:?}:\n    {why}"));
            }
        }
    }

    async fn stop(self) {
        self.tasks.shutdown().cancel();
        self.tasks.join().await;
        for process in self.control.iter().chain(&self.nodes) {
            if let Some(life) = process.life() {
                life.link.dead.cancel();
            }
        }
        // Components that were dropped end their tasks on their own, once they are told to.
        sleep(Duration::from_secs(10)).await;
        self.server.finish().await;
    }
}
