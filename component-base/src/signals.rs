//! From the operating system's signals to a [`Shutdown`].

use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use crate::Shutdown;
use crate::supervise::Tasks;

/// A signal to stop that is given on SIGTERM or SIGINT (Ctrl-C). Call once, in `main`.
pub fn shutdown_on_signals() -> std::io::Result<Shutdown> {
    let shutdown = Shutdown::new();
    let (mut term, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (tasks, stop) = (Tasks::new(shutdown.clone()), shutdown.clone());
    tasks.spawn("signals", async move {
        tokio::select! {
            _ = term.recv() => info!("stopping: SIGTERM"),
            _ = interrupt.recv() => info!("stopping: interrupted"),
            () = stop.cancelled() => {}
        }
        stop.cancel();
        interrupt.recv().await;
        warn!("interrupted again: ending at once");
        std::process::exit(130);
    });
    Ok(shutdown)
}
