//! A set of completion indexes as the status writes it: `0-2,5`. Pure.
//!
//! Kept as ranges, so that a job of a hundred thousand indexes costs what its gaps cost.

use std::collections::BTreeSet;
use std::fmt;

/// First and last of each run of indexes, in order, with a gap between any two.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Indexes(Vec<(i32, i32)>);

impl Indexes {
    /// Reads `0-2,5`; what cannot be read and what is not below `bound` is left out.
    pub(super) fn parse(text: &str, bound: i32) -> Self {
        let range = |part: &str| -> Option<(i32, i32)> {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (first.trim().parse().ok()?, last.trim().parse::<i32>().ok()?);
            let last = last.min(bound - 1);
            (0 <= first && first <= last).then_some((first, last))
        };
        Self::of_ranges(text.split(',').filter_map(range).collect())
    }

    fn of_ranges(mut ranges: Vec<(i32, i32)>) -> Self {
        ranges.sort_unstable();
        let mut joined: Vec<(i32, i32)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match joined.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => joined.push((first, last)),
            }
        }
        Self(joined)
    }

    /// These and `more`.
    pub(super) fn with(&self, more: &BTreeSet<i32>) -> Self {
        Self::of_ranges(self.0.iter().copied().chain(more.iter().map(|one| (*one, *one))).collect())
    }

    /// These and those of `other`.
    pub(super) fn union(&self, other: &Self) -> Self {
        Self::of_ranges(self.0.iter().chain(&other.0).copied().collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn contains(&self, index: i32) -> bool {
        let at = self.0.partition_point(|(_, last)| *last < index);
        self.0.get(at).is_some_and(|(first, _)| *first <= index)
    }

    /// How many there are.
    pub(super) fn count(&self) -> i32 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// How many are in both.
    pub(super) fn count_shared(&self, other: &Self) -> i32 {
        let (mut one, mut two, mut shared) = (0, 0, 0);
        while let (Some(a), Some(b)) = (self.0.get(one), other.0.get(two)) {
            shared += (a.1.min(b.1) - a.0.max(b.0) + 1).max(0);
            if a.1 <= b.1 {
                one += 1;
            }
            if b.1 <= a.1 {
                two += 1;
            }
        }
        shared
    }

    /// The lowest indexes below `bound` that are not in here, `count` at most.
    pub(super) fn missing(&self, count: usize, bound: i32) -> Vec<i32> {
        let mut missing = Vec::new();
        let mut next = 0;
        for (first, last) in self.0.iter().copied().chain([(bound, bound)]) {
            missing.extend((next..first.min(bound)).take(count - missing.len()));
            next = last.saturating_add(1);
        }
        missing
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_written_as_ranges() {
        let indexes = Indexes::default().with(&[0, 1, 2, 5, 7, 8].into());
        assert_eq!(indexes.to_string(), "0-2,5,7,8");
        assert_eq!(Indexes::parse("0-2,5,7,8", 100), indexes);
        assert_eq!(indexes.count(), 6);
    }

    #[test]
    fn what_is_beyond_the_bound_or_no_number_is_left_out() {
        assert_eq!(Indexes::parse("1-2000000000,x,7-", 5).to_string(), "1-4");
        assert_eq!(Indexes::parse("", 5).to_string(), "");
    }

    #[test]
    fn ranges_that_touch_join() {
        let all = Indexes::parse("0-2", 10).union(&Indexes::parse("3,5-6", 10));
        assert_eq!(all.to_string(), "0-3,5,6");
    }

    #[test]
    fn the_lowest_missing_come_first() {
        let indexes = Indexes::parse("0,2-3,6", 10);
        assert_eq!(indexes.missing(3, 10), [1, 4, 5]);
        assert_eq!(indexes.missing(9, 8), [1, 4, 5, 7]);
        assert!(indexes.contains(3) && !indexes.contains(4));
    }

    #[test]
    fn shared_indexes_are_counted() {
        let indexes = Indexes::parse("0-4,8-9", 10);
        assert_eq!(indexes.count_shared(&Indexes::parse("3-8", 10)), 3);
        assert_eq!(indexes.count_shared(&indexes), 7);
    }
}
