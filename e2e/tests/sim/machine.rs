//! What of the API server a machine keeps on its disk: the certificates and keys by which it signs, and a store with
//! what every cluster starts with. Set up once for all runs of a test, as it is the same for each.

use std::path::Path;
use std::time::Duration;

use component_base::clock::Clock;
use coxswain::{Backend, Cluster, KeptMemory, Options};
use tempfile::TempDir;

use crate::chance::Chance;

/// In which the server's own objects get their last conditions.
const SETTLING: Duration = Duration::from_secs(5);

/// Gone when it is dropped.
pub(crate) struct Machine {
    keys: TempDir,
    memory: KeptMemory,
}

impl Machine {
    /// The time at which all begins.
    pub(crate) fn clock() -> Clock {
        Clock::starting_at("2026-01-05T10:00:30Z".parse().expect("a time"))
    }

    /// Lets a server start once. Needs a paused clock.
    pub(crate) async fn set_up() -> Self {
        let (keys, memory) = (tempfile::tempdir().expect("a directory"), KeptMemory::default());
        let mut options = Options { nodes: 0, controllers: false, scheduler: false, ..Options::default() };
        options.server.backend = Backend::kept_in(memory.clone());
        options.server.pki_dir = Some(keys.path().to_owned());
        (options.server.clock, options.server.random) = (Self::clock(), Chance::seeded(0).random());
        let cluster = Cluster::start(options).await.expect("a server");
        tokio::time::sleep(SETTLING).await;
        cluster.stop().await;
        Self { keys, memory }
    }

    pub(crate) fn keys(&self) -> &Path {
        self.keys.path()
    }

    /// A store of its own.
    pub(crate) fn memory(&self) -> KeptMemory {
        self.memory.copy()
    }
}
