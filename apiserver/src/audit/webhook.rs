//! Audit events sent to a service outside, in batches (`--audit-webhook-config-file`).
//!
//! A batch goes when it is full or its first event has waited long enough. One that is not taken is sent again a
//! few times, later each time, and then dropped; meanwhile events wait in the bounded buffer.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use component_base::Shutdown;
use component_base::supervise::Tasks;
use tokio::sync::mpsc;
use tracing::error;

use super::buffer::Buffer;
use crate::backend::Backends;
use crate::remote::{Remote, RemoteConfigError};

/// Where events are sent, and the bounds of their batches.
#[derive(Clone, Debug)]
pub struct AuditWebhook {
    /// A kubeconfig that names the service.
    pub kubeconfig: PathBuf,
    pub batch_events_max: usize,
    pub batch_wait_max: Duration,
    pub waiting_max: usize,
    /// Before a batch is sent for the second time; later ones wait longer.
    pub backoff_first: Duration,
}

impl AuditWebhook {
    /// Kubernetes' bounds.
    pub fn new(kubeconfig: PathBuf) -> Self {
        Self {
            kubeconfig,
            batch_events_max: 400,
            batch_wait_max: Duration::from_secs(30),
            waiting_max: 10_000,
            backoff_first: Duration::from_secs(10),
        }
    }
}

const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// At the end one send has this long.
const LAST_SEND_TIMEOUT: Duration = Duration::from_secs(2);
const TRIES_MAX: u32 = 5;

/// Opens the way to the service; its sender is one of `tasks` and sends what waits before it ends with them.
pub(super) fn open(
    config: &AuditWebhook,
    backends: &Backends,
    tasks: &Tasks,
) -> Result<Buffer, RemoteConfigError> {
    let (buffer, waiting) = Buffer::new("webhook", config.waiting_max.max(1));
    let sender = Sender {
        remote: Remote::read(&config.kubeconfig)?,
        // Connections of its own, which the last events still find at the end.
        backends: backends.with_tasks(Tasks::new(Shutdown::new())),
        config: config.clone(),
        shutdown: tasks.shutdown().clone(),
    };
    tasks.spawn("audit webhook", sender.run(waiting));
    Ok(buffer)
}

struct Sender {
    remote: Remote,
    backends: Backends,
    config: AuditWebhook,
    shutdown: Shutdown,
}

impl Sender {
    async fn run(self, mut waiting: mpsc::Receiver<Vec<u8>>) {
        while let Some(batch) = self.collect(&mut waiting).await {
            self.send(&batch).await;
        }
    }

    /// The next batch; none when all is sent and the server ends.
    async fn collect(&self, waiting: &mut mpsc::Receiver<Vec<u8>>) -> Option<Vec<Vec<u8>>> {
        let (mut batch, full) = (Vec::new(), self.config.batch_events_max.max(1));
        if self.shutdown.run_until_cancelled(waiting.recv_many(&mut batch, full)).await.is_none() {
            waiting.close();
            let left = waiting.recv_many(&mut batch, full).await;
            return (left > 0).then_some(batch);
        }
        let due = tokio::time::Instant::now() + self.config.batch_wait_max;
        while batch.len() < full && !batch.is_empty() {
            let room = full - batch.len();
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => break,
                more = tokio::time::timeout_at(due, waiting.recv_many(&mut batch, room)) => {
                    if !more.is_ok_and(|more| more > 0) {
                        break;
                    }
                }
            }
        }
        (!batch.is_empty()).then_some(batch)
    }

    async fn send(&self, batch: &[Vec<u8>]) {
        let document = list_of(batch);
        let mut pause = self.config.backoff_first;
        for attempt in 1..=TRIES_MAX {
            let limit = if self.shutdown.is_cancelled() { LAST_SEND_TIMEOUT } else { SEND_TIMEOUT };
            let Err(problem) = self.remote.post(&self.backends, document.clone(), limit).await else {
                return;
            };
            if attempt == TRIES_MAX || self.shutdown.is_cancelled() {
                error!(%problem, events = batch.len(), "audit events could not be sent and are lost");
                return;
            }
            // At the end it is tried once more without waiting.
            self.shutdown.run_until_cancelled(tokio::time::sleep(pause)).await;
            pause = pause.mul_f64(1.5);
        }
    }
}

/// The events, which are JSON already, as an EventList.
fn list_of(batch: &[Vec<u8>]) -> Bytes {
    let mut text = br#"{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":["#.to_vec();
    text.extend_from_slice(&batch.join(&b','));
    text.extend_from_slice(b"]}");
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_sent_as_a_list() {
        let list = list_of(&[b"{\"a\":1}\n".to_vec(), b"{}\n".to_vec()]);
        let list: serde_json::Value = serde_json::from_slice(&list).unwrap();
        assert_eq!(list["kind"], "EventList");
        assert_eq!(list["items"].as_array().unwrap().len(), 2);
    }
}
