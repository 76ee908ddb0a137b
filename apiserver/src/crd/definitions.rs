//! The rows of all custom kinds, read again when a definition was written or deleted.

use std::collections::HashMap;
use std::sync::Arc;

use api_types::kinds::Kind;
use parking_lot::Mutex;
use serde_json::Value;

use super::{STORAGE, names, rows};
use crate::cache::{Objects, Snapshot};
use crate::discovery::RowSource;

pub(crate) struct Definitions {
    objects: Arc<Objects>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    seen: Option<Snapshot>,
    read: HashMap<String, Read>,
    rows: Arc<Vec<Arc<Kind>>>,
}

/// A definition as it was read, and what was made of it.
#[derive(Clone)]
struct Read {
    revision: u64,
    object: Arc<Value>,
    /// What the rows follow from; as long as it is the same, they are.
    state: String,
    rows: Vec<Arc<Kind>>,
}

impl Definitions {
    pub(crate) fn new(objects: Arc<Objects>) -> Self {
        Self { objects, state: Mutex::default() }
    }

    /// Reads the definitions of `snapshot` anew, compiling only those that say something else.
    fn read(&self, state: &mut State, snapshot: &Snapshot) {
        let before = std::mem::take(&mut state.read);
        let objects: Vec<(u64, Arc<Value>)> = snapshot
            .iter()
            .map(|stored| match before.get(&*stored.key.name).filter(|r| r.revision == stored.revision) {
                Some(read) => (stored.revision, read.object.clone()),
                None => (stored.revision, Arc::new(stored.value())),
            })
            .collect();
        let accepted = names::accept(objects.iter().map(|(_, object)| &**object));
        for ((revision, object), accepted) in objects.into_iter().zip(accepted) {
            let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let read = self.compile(before.get(&name), revision, object, &accepted);
            state.read.insert(name, read);
        }
        let mut all: Vec<_> = state.read.values().flat_map(|read| read.rows.iter().cloned()).collect();
        all.sort_by(|a, b| rows::order(a).cmp(&rows::order(b)));
        if *state.rows != all {
            state.rows = Arc::new(all);
        }
    }

    fn compile(
        &self,
        before: Option<&Read>,
        revision: u64,
        object: Arc<Value>,
        accepted: &names::Acceptance,
    ) -> Read {
        let state = rows::state(&object, accepted);
        let rows = match before.filter(|b| b.state == state) {
            Some(before) => before.rows.clone(),
            None => {
                let rows = rows::compile(&object, accepted, &state, revision);
                rows.first().into_iter().for_each(|row| self.index(row));
                rows
            }
        };
        Read { revision, object, state, rows }
    }

    /// Tells the cache which fields selectors may name, in any version.
    fn index(&self, row: &Kind) {
        let Some(custom) = &row.custom else { return };
        let mut paths: Vec<String> = custom.family.selectable.clone();
        paths.sort();
        paths.dedup();
        self.objects.index_fields(&row.storage, paths);
    }
}

impl RowSource for Definitions {
    fn rows(&self) -> Arc<Vec<Arc<Kind>>> {
        let snapshot = self.objects.list(STORAGE, None);
        let mut state = self.state.lock();
        if !state.seen.as_ref().is_some_and(|seen| seen.is_same(&snapshot)) {
            self.read(&mut state, &snapshot);
            state.seen = Some(snapshot);
        }
        state.rows.clone()
    }
}
