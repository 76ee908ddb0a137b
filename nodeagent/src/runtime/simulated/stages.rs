//! What a simulated container does and uses, as the annotations of its pod say.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::pod::qos::value;

/// Annotations of a pod that say how its containers behave. `CONTAINER.` may stand before the last part,
/// as in `simulation.coxswain.dev/app.exit-code`.
pub const ANNOTATION_PREFIX: &str = "simulation.coxswain.dev/";
/// One thing that a container does after it has started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    Log(String),
    Wait(Duration),
    Exit { code: i32, reason: String },
}

/// The stages that annotations ask for: `run-for` (`5s`, `2m`, `100ms`), `exit-code`, `reason`, `log`.
/// Without `run-for` and `exit-code` a container runs until it is stopped, or, when it `is_work` (an init
/// container, or one of a Job), ends well at once.
pub fn stages(container: &str, annotations: &BTreeMap<String, String>, is_work: bool) -> Vec<Stage> {
    let get = |key: &str| {
        let own = format!("{ANNOTATION_PREFIX}{container}.{key}");
        annotations.get(&own).or_else(|| annotations.get(&format!("{ANNOTATION_PREFIX}{key}")))
    };
    let started = get("log").cloned().unwrap_or_else(|| format!("{container} started"));
    let mut stages: Vec<Stage> = started.lines().map(|line| Stage::Log(line.to_owned())).collect();
    let run_for = get("run-for").and_then(|text| parse_duration(text));
    let code = get("exit-code").and_then(|text| text.parse().ok());
    if run_for.is_none() && code.is_none() && !is_work {
        return stages;
    }
    stages.extend(run_for.map(Stage::Wait));
    let reason = get("reason").cloned().unwrap_or_default();
    stages.push(Stage::Exit { code: code.unwrap_or(0), reason });
    stages
}

/// What a container uses all the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) cpu_milli: u64,
    pub(super) memory_bytes: u64,
}

/// The usage that the annotations `cpu` (`250m`) and `memory` (`64Mi`) say; else a thousandth of a core and 1 MiB.
pub(super) fn usage(container: &str, annotations: &BTreeMap<String, String>) -> Usage {
    let get = |key: &str| {
        let own = format!("{ANNOTATION_PREFIX}{container}.{key}");
        let text = annotations.get(&own).or_else(|| annotations.get(&format!("{ANNOTATION_PREFIX}{key}")))?;
        Some(value(&Quantity(text.clone())))
    };
    // Below zero becomes zero, beyond the range the end of it.
    Usage {
        cpu_milli: get("cpu").map_or(1, |cores| (cores * 1000.0).round() as u64),
        memory_bytes: get("memory").map_or(1 << 20, |bytes| bytes as u64),
    }
}

fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    match &text[digits..] {
        "ms" => Some(Duration::from_millis(number)),
        "s" | "" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_secs(number * 60)),
        "h" => Some(Duration::from_secs(number * 3600)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotations(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| (format!("{ANNOTATION_PREFIX}{key}"), (*value).to_owned())).collect()
    }

    #[test]
    fn without_annotations_a_container_runs_until_stopped() {
        assert_eq!(stages("app", &BTreeMap::new(), false), [Stage::Log("app started".to_owned())]);
    }

    #[test]
    fn annotation_of_one_container_wins_over_the_pods() {
        let given = annotations(&[("exit-code", "1"), ("app.exit-code", "3"), ("run-for", "2m")]);
        let expected = [
            Stage::Log("app started".to_owned()),
            Stage::Wait(Duration::from_secs(120)),
            Stage::Exit { code: 3, reason: String::new() },
        ];
        assert_eq!(stages("app", &given, false), expected);
    }

    #[test]
    fn annotations_say_what_a_container_uses() {
        let given = annotations(&[("cpu", "250m"), ("app.cpu", "2"), ("memory", "64Mi")]);
        assert_eq!(usage("app", &given), Usage { cpu_milli: 2000, memory_bytes: 64 << 20 });
        assert_eq!(usage("side", &given).cpu_milli, 250);
        assert_eq!(usage("app", &BTreeMap::new()), Usage { cpu_milli: 1, memory_bytes: 1 << 20 });
    }
}
