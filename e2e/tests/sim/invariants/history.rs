//! What a figure was over the last while, for rules that an actor with an old view must keep too.

use std::collections::BTreeMap;
use std::time::Duration;

use super::STALE_MAX;

/// The values of one figure of each of many objects.
#[derive(Default)]
pub(super) struct History(BTreeMap<String, Vec<(Duration, i64)>>);

impl History {
    /// From `at` on, the figure of `key` is `value`.
    pub(super) fn note(&mut self, key: &str, at: Duration, value: i64) {
        let values = self.0.entry(key.to_owned()).or_default();
        if values.last().is_none_or(|(_, last)| *last != value) {
            values.push((at, value));
        }
    }

    /// All values that somebody may still take as the present one.
    fn recent(&self, key: &str, at: Duration) -> impl Iterator<Item = i64> {
        let values = self.0.get(key).map_or(&[][..], Vec::as_slice);
        let over =
            move |index: usize| values.get(index + 1).map(|(next, _)| at.saturating_sub(*next) > STALE_MAX);
        values
            .iter()
            .enumerate()
            .filter(move |(index, _)| over(*index) != Some(true))
            .map(|(_, (_, value))| *value)
    }

    pub(super) fn highest(&self, key: &str, at: Duration) -> Option<i64> {
        self.recent(key, at).max()
    }

    pub(super) fn lowest(&self, key: &str, at: Duration) -> Option<i64> {
        self.recent(key, at).min()
    }
}
