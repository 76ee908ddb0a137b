//! The API server of a run: a process like the others, which ends at any step and comes back over the same store.
//!
//! What lives in the server's process goes with it: cache, watches, sessions, flow control, requests under way.
//! What a machine's disk would keep stays: the store, and the keys by which it signs.

use std::sync::Arc;
use std::time::Duration;

use component_base::Shutdown;
use component_base::supervise::Tasks;
use coxswain::{Backend, Cluster, Options, UserInfo};
use parking_lot::Mutex;
use tokio::time::sleep;

use crate::machine::Machine;
use crate::trace::Trace;

/// How long somebody who cannot do without the server waits before trying again.
const RETRY: Duration = Duration::from_millis(100);

pub(crate) struct ApiServer {
    options: Options,
    trace: Trace,
    tasks: Tasks,
    state: Mutex<State>,
}

struct State {
    /// None while it is away.
    life: Option<Life>,
    lives: usize,
}

/// One life of the process.
struct Life {
    cluster: Cluster,
    dead: Shutdown,
}

/// A way into one life of the server.
#[derive(Clone)]
pub(crate) struct Entrance {
    pub(crate) life: usize,
    pub(crate) client: kube::Client,
    /// It was killed: what is under way gets no answer.
    pub(crate) dead: Shutdown,
}

impl ApiServer {
    /// Starts it on a machine that has only just been set up.
    pub(crate) async fn start(
        options: Options,
        machine: &Machine,
        trace: Trace,
        tasks: Tasks,
    ) -> anyhow::Result<Arc<Self>> {
        let mut options = Options { nodes: 0, controllers: false, scheduler: false, ..options };
        options.server.backend = Backend::kept_in(machine.memory());
        options.server.pki_dir = Some(machine.keys().to_owned());
        let life = Life { cluster: Cluster::start(options.clone()).await?, dead: Shutdown::new() };
        let state = Mutex::new(State { life: Some(life), lives: 1 });
        Ok(Arc::new(Self { options, trace, tasks, state }))
    }

    /// A way in for `user`, unless the server is away. `known` is the one that the caller used before.
    pub(crate) fn enter(&self, user: &UserInfo, known: Option<&Entrance>) -> Option<Entrance> {
        let state = self.state.lock();
        let life = state.life.as_ref()?;
        if let Some(known) = known.filter(|known| known.life == state.lives) {
            return Some(known.clone());
        }
        let client = life.cluster.client_as(user.clone());
        Some(Entrance { life: state.lives, client, dead: life.dead.clone() })
    }

    /// Does something with the cluster, as soon as its server is there.
    pub(crate) async fn with<T>(&self, act: impl Fn(&Cluster) -> T) -> T {
        loop {
            if let Some(life) = &self.state.lock().life {
                return act(&life.cluster);
            }
            sleep(RETRY).await;
        }
    }

    /// Waits for a way in.
    pub(crate) async fn wait_to_enter(&self, user: &UserInfo, known: Option<&Entrance>) -> Entrance {
        loop {
            if let Some(entrance) = self.enter(user, known) {
                return entrance;
            }
            sleep(RETRY).await;
        }
    }

    /// Ends it, without a word (`kills`) or cleanly; it comes back after a while.
    pub(crate) fn end(self: &Arc<Self>, kills: bool, away: Duration) {
        let Some(life) = self.state.lock().life.take() else { return };
        let how = if kills { "killed" } else { "stopped" };
        self.trace.note("fault", &format!("the server is {how}, away for {away:?}"));
        if kills {
            life.dead.cancel();
        }
        self.tasks.spawn("server that ends", life.cluster.stop());
        let server = self.clone();
        self.tasks.spawn("server that comes back", async move {
            sleep(away).await;
            server.come_back().await;
        });
    }

    async fn come_back(&self) {
        match Cluster::start(self.options.clone()).await {
            Ok(cluster) => {
                let mut state = self.state.lock();
                state.lives += 1;
                state.life = Some(Life { cluster, dead: Shutdown::new() });
                self.trace.note("server", "starts again");
            }
            Err(error) => self.trace.problem(format!("the server does not start again: {error:#}")),
        }
    }

    /// Ends it for good.
    pub(crate) async fn finish(&self) {
        let life = self.state.lock().life.take();
        if let Some(life) = life {
            life.cluster.stop().await;
        }
    }
}
