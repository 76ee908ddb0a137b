//! How fast nodes in trouble are emptied, by zone: when much of a zone fails at once, the trouble is rather
//! in between, and moving all its pods would do harm.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::EvictionRates;

/// How long to wait when nothing may be evicted at all.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// How a zone is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Health {
    #[default]
    Normal,
    /// Much of it is not ready.
    Partial,
    /// Nothing of it is ready.
    Full,
}

/// The zone of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ZoneKey {
    pub region: String,
    pub zone: String,
}

/// What is known of the zones, and when each of them may lose its next node.
pub(super) struct Zones {
    rates: EvictionRates,
    zones: BTreeMap<ZoneKey, Zone>,
    all_down: bool,
}

#[derive(Default)]
struct Zone {
    health: Health,
    size: usize,
    next: Option<Instant>,
}

impl Zones {
    pub(super) fn new(rates: EvictionRates) -> Self {
        Self { rates, zones: BTreeMap::new(), all_down: false }
    }

    /// Whether no node is ready anywhere: then this process is rather cut off itself, and nothing is evicted.
    pub(super) fn all_down(&self) -> bool {
        self.all_down
    }

    /// Notes of each node the zone and whether it is ready. Says whether [`Self::all_down`] changed.
    pub(super) fn observe(&mut self, nodes: impl Iterator<Item = (ZoneKey, bool)>) -> bool {
        let mut counts: BTreeMap<ZoneKey, (usize, usize)> = BTreeMap::new();
        for (zone, ready) in nodes {
            let (up, down) = counts.entry(zone).or_default();
            *(if ready { up } else { down }) += 1;
        }
        self.zones.retain(|zone, _| counts.contains_key(zone));
        for (key, (up, down)) in counts {
            let zone = self.zones.entry(key).or_default();
            zone.size = up + down;
            zone.health = health(up, down, self.rates.unhealthy_zone_threshold);
        }
        let was = self.all_down;
        self.all_down = !self.zones.is_empty() && self.zones.values().all(|zone| zone.health == Health::Full);
        was != self.all_down
    }

    /// Takes the right to evict from one node of the zone, or says when to ask again.
    pub(super) fn take(&mut self, key: &ZoneKey, now: Instant) -> Result<(), Duration> {
        let zone = self.zones.entry(key.clone()).or_default();
        let rate = match zone.health {
            _ if self.all_down => 0.0,
            Health::Normal | Health::Full => self.rates.primary,
            Health::Partial if zone.size > self.rates.large_cluster_size => self.rates.secondary,
            Health::Partial => 0.0,
        };
        if rate <= 0.0 {
            return Err(LOOK_AGAIN);
        }
        let pause = Duration::from_secs_f64((1.0 / rate).min(1e6));
        match zone.next.map(|next| next.min(now + pause)) {
            Some(next) if next > now => Err(next - now),
            _ => {
                zone.next = Some(now + pause);
                Ok(())
            }
        }
    }
}

fn health(up: usize, down: usize, threshold: f64) -> Health {
    let share = down as f64 / (up + down).max(1) as f64;
    match (up, down) {
        (0, 1..) => Health::Full,
        (_, 3..) if share >= threshold => Health::Partial,
        _ => Health::Normal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(name: &str) -> ZoneKey {
        ZoneKey { region: String::new(), zone: name.to_owned() }
    }

    /// Zones of (name, ready nodes, nodes that are not).
    fn zones(of: &[(&str, usize, usize)]) -> Zones {
        let mut zones = Zones::new(EvictionRates::default());
        observe(&mut zones, of);
        zones
    }

    fn observe(zones: &mut Zones, of: &[(&str, usize, usize)]) -> bool {
        let nodes = of.iter().flat_map(|(name, up, down)| {
            (0..*up).map(|_| (zone(name), true)).chain((0..*down).map(|_| (zone(name), false)))
        });
        zones.observe(nodes)
    }

    /// After how many seconds each of three nodes of the zone is emptied, none when not at all.
    fn check(of: &[(&str, usize, usize)], expected: [Option<u64>; 3]) {
        let mut zones = zones(of);
        let start = Instant::now();
        let mut now = start;
        let times = [(); 3].map(|()| {
            for _ in 0..2 {
                match zones.take(&zone("a"), now) {
                    Ok(()) => return Some((now - start).as_secs()),
                    Err(wait) => now += wait,
                }
            }
            None
        });
        assert_eq!(times, expected);
    }

    #[test]
    fn few_nodes_are_emptied_one_in_ten_seconds() {
        check(&[("a", 3, 2)], [Some(0), Some(10), Some(20)]);
    }

    #[test]
    fn a_small_zone_with_many_failures_is_left_alone() {
        check(&[("a", 2, 3)], [None, None, None]);
    }

    #[test]
    fn a_large_zone_with_many_failures_is_emptied_slowly() {
        check(&[("a", 20, 40)], [Some(0), Some(100), Some(200)]);
    }

    #[test]
    fn a_zone_that_is_down_is_emptied_while_another_is_up() {
        check(&[("a", 0, 4), ("b", 1, 0)], [Some(0), Some(10), Some(20)]);
    }

    #[test]
    fn nothing_is_evicted_while_every_node_is_down() {
        let mut zones = zones(&[("a", 1, 1)]);
        assert!(observe(&mut zones, &[("a", 0, 2)]) && zones.all_down());
        assert_eq!(zones.take(&zone("a"), Instant::now()), Err(LOOK_AGAIN));
        assert!(!observe(&mut zones, &[("a", 0, 2)]), "nothing changed");
        assert!(observe(&mut zones, &[("a", 1, 1)]) && !zones.all_down());
        assert!(!observe(&mut zones, &[]) && !zones.all_down(), "a cluster without nodes is not down");
    }
}
