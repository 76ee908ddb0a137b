//! `/stats/summary`, thin: CPU and memory of the node's pods and of each of their containers.
//!
//! The rate of CPU use is that since the reading before, or since the container's start. Nothing is read
//! while nobody asks.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use chrono::{DateTime, TimeDelta, Utc};
use component_base::clock::time_of;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::Refusal;
use crate::agent::Agent;
use crate::runtime::{Container, ContainerFilter, ContainerState, SandboxFilter, Stats};

/// A reading is compared with one that is at least this much older.
const WINDOW_MIN: TimeDelta = TimeDelta::seconds(10);

/// Earlier readings of running containers, by id.
#[derive(Default)]
pub(crate) struct Readings {
    by_container: Mutex<HashMap<String, Reading>>,
}

/// CPU time used by a moment.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Point {
    at: DateTime<Utc>,
    cpu_nanoseconds: u64,
}

/// What a container's next reading is compared with, and what the one after that will be.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Reading {
    base: Point,
    newest: Point,
}

impl Reading {
    /// The reading after this one.
    fn then(self, now: Point) -> Self {
        let base = if now.at - self.newest.at >= WINDOW_MIN { self.newest } else { self.base };
        let newest = if now.at - self.newest.at >= WINDOW_MIN { now } else { self.newest };
        Self { base, newest }
    }

    /// Billionths of a core used between the base and `now`.
    fn rate(&self, now: Point) -> Option<u64> {
        let elapsed = u64::try_from((now.at - self.base.at).num_nanoseconds()?).ok().filter(|ns| *ns > 0)?;
        let used = now.cpu_nanoseconds.checked_sub(self.base.cpu_nanoseconds)?;
        u64::try_from(u128::from(used) * 1_000_000_000 / u128::from(elapsed)).ok()
    }
}

impl Readings {
    /// Notes a reading and returns the rate that follows from it.
    fn note(&self, container: &Container, stats: &Stats) -> Option<u64> {
        let now = Point { at: stats.at, cpu_nanoseconds: stats.cpu_nanoseconds };
        let start = Point { at: container.started_at.unwrap_or(now.at), cpu_nanoseconds: 0 };
        let mut readings = self.by_container.lock();
        let reading = readings.entry(container.id.clone()).or_insert(Reading { base: start, newest: start });
        *reading = reading.then(now);
        reading.rate(now)
    }

    fn forget_all_but(&self, running: &[String]) {
        self.by_container.lock().retain(|id, _| running.contains(id));
    }
}

pub(super) async fn summary(State(agent): State<Arc<Agent>>) -> Result<Response, Refusal> {
    let mut pods = Vec::new();
    let mut running = Vec::new();
    for sandbox in agent.runtime.list_sandboxes(&SandboxFilter::default()).await? {
        let filter = ContainerFilter { sandbox: Some(sandbox.id.clone()), ..ContainerFilter::default() };
        let mut containers = Vec::new();
        for container in agent.runtime.list_containers(&filter).await? {
            if container.state != ContainerState::Running {
                continue;
            }
            // A container may end between the list and this question; then it has no figures.
            let Ok(stats) = agent.runtime.container_stats(&container.id).await else { continue };
            let rate = agent.readings.note(&container, &stats);
            containers.push(shown(&container, &stats, rate));
            running.push(container.id);
        }
        pods.push(json!({
            "podRef": {"name": sandbox.name, "namespace": sandbox.namespace, "uid": sandbox.uid},
            "startTime": time_of(sandbox.created_at),
            "cpu": sum(&containers, "/cpu", &["usageNanoCores", "usageCoreNanoSeconds"]),
            "memory": sum(&containers, "/memory", &["usageBytes", "workingSetBytes"]),
            "containers": containers,
        }));
    }
    agent.readings.forget_all_but(&running);
    let mut node = json!({
        "nodeName": agent.node_name,
        "cpu": sum(&pods, "/cpu", &["usageNanoCores", "usageCoreNanoSeconds"]),
        "memory": sum(&pods, "/memory", &["usageBytes", "workingSetBytes"]),
    });
    for field in ["cpu", "memory"] {
        node[field]["time"] = json!(time_of(agent.clock.now()));
    }
    super::json(&json!({"node": node, "pods": pods}))
}

fn shown(container: &Container, stats: &Stats, rate: Option<u64>) -> Value {
    let time = time_of(stats.at);
    json!({
        "name": container.name,
        "startTime": container.started_at.map(time_of),
        "cpu": {
            "time": time,
            "usageNanoCores": rate.unwrap_or(0),
            "usageCoreNanoSeconds": stats.cpu_nanoseconds,
        },
        "memory": {
            "time": time,
            "usageBytes": stats.memory_usage_bytes,
            "workingSetBytes": stats.memory_working_set_bytes,
        },
    })
}

/// The sums of these fields over all parts.
fn sum(parts: &[Value], place: &str, fields: &[&str]) -> Value {
    let total = |field: &str| -> u64 {
        parts.iter().filter_map(|part| part.pointer(place)?.get(field)?.as_u64()).sum()
    };
    fields.iter().map(|field| (*field, total(field))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(second: i64, cpu_seconds: u64) -> Point {
        let at = DateTime::from_timestamp(second, 0).unwrap();
        Point { at, cpu_nanoseconds: cpu_seconds * 1_000_000_000 }
    }

    #[test]
    fn the_first_rate_is_that_since_the_start() {
        let start = Reading { base: point(0, 0), newest: point(0, 0) };
        assert_eq!(start.then(point(4, 2)).rate(point(4, 2)), Some(500_000_000));
    }

    #[test]
    fn later_rates_look_back_to_the_reading_before() {
        let start = Reading { base: point(0, 0), newest: point(0, 0) };
        let second = start.then(point(20, 20));
        assert_eq!(second.rate(point(20, 20)), Some(1_000_000_000));
        let third = second.then(point(30, 20));
        assert_eq!(third.rate(point(30, 20)), Some(0));
        // One that follows soon looks back as far.
        assert_eq!(third.then(point(31, 31)).base, point(20, 20));
    }

    #[test]
    fn a_counter_that_went_back_gives_no_rate() {
        let start = Reading { base: point(0, 9), newest: point(0, 9) };
        assert_eq!(start.rate(point(10, 1)), None);
        assert_eq!(start.rate(point(0, 9)), None);
    }
}
