//! One writer at a time in each namespace that has quotas: each charges on top of what the one before charged.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

/// Whose turn it is, by namespace.
#[derive(Default)]
pub(crate) struct Turns(Mutex<HashMap<String, Arc<Turn<()>>>>);

/// Past this many, namespaces in which nobody waits are forgotten.
const NAMESPACES_MAX: usize = 1024;

impl Turns {
    /// Waits for the others in the namespace; the turn ends when the guard is dropped.
    pub(super) async fn take(&self, namespace: &str) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock();
            if turns.len() >= NAMESPACES_MAX {
                turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            }
            turns.entry(namespace.to_owned()).or_default().clone()
        };
        turn.lock_owned().await
    }
}
