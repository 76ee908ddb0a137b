//! How many replicas bring one metric to its target. Pure.
//!
//! Pods without figures and pods that are not ready yet are taken so that they make the change smaller, never
//! larger, and never turn it round.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api_types::pods;
use api_types::quantity::Quantity;
use chrono::{DateTime, TimeDelta, Utc};
use component_base::clock::moment_of;
use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};

use crate::owners::{is_deleting, name_of};

/// A pod's CPU use says nothing while it starts.
const CPU_INITIALIZATION: TimeDelta = TimeDelta::minutes(5);
/// A pod that became unready this soon after its start has never been ready.
const INITIAL_READINESS_DELAY: TimeDelta = TimeDelta::seconds(30);

/// A pod's figure, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sample {
    pub value: i64,
    pub at: DateTime<Utc>,
    pub window: TimeDelta,
}

/// Figures by pod.
pub(super) type Samples = BTreeMap<String, Sample>;

/// How far from the target is still on target, as parts of one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tolerance {
    pub up: f64,
    pub down: f64,
}

impl Tolerance {
    fn holds(&self, ratio: f64) -> bool {
        ratio >= 1.0 - self.down && ratio <= 1.0 + self.up
    }
}

/// What a metric asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Proposal {
    pub replicas: i32,
    /// Percent of the request, where the target is one.
    pub utilization: Option<i32>,
    /// The value now, in thousandths; per pod where the target is.
    pub value: i64,
}

/// What is known of the scale target.
pub(super) struct Target<'a> {
    pub replicas: i32,
    /// The pods that it selects.
    pub pods: &'a [Arc<Pod>],
    pub tolerance: Tolerance,
    pub now: DateTime<Utc>,
}

const NO_PODS: &str = "no pods returned by selector while calculating replica count";
const NO_FIGURES: &str = "did not receive metrics for targeted pods (pods might be unready)";

/// The target's pods by what their figures are worth.
#[derive(Debug, Default, PartialEq)]
struct Groups {
    ready: usize,
    unready: BTreeSet<String>,
    missing: BTreeSet<String>,
    ignored: BTreeSet<String>,
}

impl Groups {
    fn of(target: &Target<'_>, samples: &Samples, is_cpu: bool) -> Self {
        let mut groups = Self::default();
        for pod in target.pods {
            let name = name_of(&pod.metadata).to_owned();
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            match samples.get(&name) {
                _ if is_deleting(&pod.metadata) || phase == Some("Failed") => groups.ignored.insert(name),
                _ if phase == Some("Pending") => groups.unready.insert(name),
                None => groups.missing.insert(name),
                Some(sample) if is_cpu && is_starting(pod, sample, target.now) => groups.unready.insert(name),
                Some(_) => {
                    groups.ready += 1;
                    true
                }
            };
        }
        groups
    }
}

/// Whether the pod's CPU use is that of its start.
fn is_starting(pod: &Pod, sample: &Sample, now: DateTime<Utc>) -> bool {
    let status = pod.status.as_ref();
    let ready = status.and_then(|status| status.conditions.iter().flatten().find(|one| one.type_ == "Ready"));
    let started = status.and_then(|status| status.start_time.as_ref()).map(moment_of);
    let (Some(ready), Some(started)) = (ready, started) else { return true };
    let changed = ready.last_transition_time.as_ref().map(moment_of).unwrap_or_default();
    let unready = ready.status == "False";
    match started + CPU_INITIALIZATION > now {
        true => unready || sample.at < changed + sample.window,
        false => unready && started + INITIAL_READINESS_DELAY > changed,
    }
}

/// The ratio of what is to what should be, with the figures that go into it.
struct Ratio {
    ratio: f64,
    utilization: Option<i32>,
    value: i64,
}

fn replicas_for(count: usize, ratio: f64) -> i32 {
    let wanted = (ratio * count as f64).ceil();
    // Beyond its range a float becomes the nearest integer.
    wanted as i32
}

/// Decides by an average over the target's pods. `ratio` compares figures with the target, `full` is what a pod
/// without figures is taken to use when the others use less than they should.
fn by_average(
    target: &Target<'_>,
    mut samples: Samples,
    is_cpu: bool,
    ratio: impl Fn(&Samples) -> Result<Ratio, String>,
    full: impl Fn(&str) -> i64,
) -> Result<Proposal, String> {
    if target.pods.is_empty() {
        return Err(NO_PODS.to_owned());
    }
    let groups = Groups::of(target, &samples, is_cpu);
    samples.retain(|name, _| !groups.ignored.contains(name) && !groups.unready.contains(name));
    if samples.is_empty() {
        return Err(NO_FIGURES.to_owned());
    }
    let first = ratio(&samples)?;
    let proposal = |replicas| Proposal { replicas, utilization: first.utilization, value: first.value };
    let counts_unready = !groups.unready.is_empty() && first.ratio > 1.0;
    if !counts_unready && groups.missing.is_empty() {
        let stays = target.tolerance.holds(first.ratio);
        return Ok(proposal(if stays { target.replicas } else { replicas_for(groups.ready, first.ratio) }));
    }
    let assumed = |value| Sample { value, at: target.now, window: TimeDelta::zero() };
    for name in &groups.missing {
        let value = if first.ratio < 1.0 { full(name) } else { 0 };
        samples.insert(name.clone(), assumed(value));
    }
    if counts_unready {
        samples.extend(groups.unready.iter().map(|name| (name.clone(), assumed(0))));
    }
    let second = ratio(&samples)?.ratio;
    let turns = (first.ratio < 1.0 && second > 1.0) || (first.ratio > 1.0 && second < 1.0);
    let wanted = replicas_for(samples.len(), second);
    let against = (second < 1.0 && wanted > target.replicas) || (second > 1.0 && wanted < target.replicas);
    let stays = target.tolerance.holds(second) || turns || against;
    Ok(proposal(if stays { target.replicas } else { wanted }))
}

/// A resource in percent of what the pods request; of one container of each if it is named.
pub(super) fn by_utilization(
    target: &Target<'_>,
    samples: Samples,
    resource: &str,
    container: Option<&str>,
    percent: i32,
) -> Result<Proposal, String> {
    if target.pods.is_empty() {
        return Err(NO_PODS.to_owned());
    }
    let mut requests = BTreeMap::new();
    for pod in target.pods {
        requests.insert(name_of(&pod.metadata).to_owned(), request_of(pod, resource, container)?);
    }
    let ratio = |samples: &Samples| {
        let known = samples.iter().filter_map(|(name, sample)| Some((sample.value, *requests.get(name)?)));
        let (mut used, mut requested, mut count) = (0i64, 0i64, 0i64);
        for (value, request) in known {
            (used, requested, count) = (used + value, requested + request, count + 1);
        }
        if requested == 0 {
            return Err("no metrics returned matched known pods".to_owned());
        }
        let now = i32::try_from(used.saturating_mul(100) / requested).unwrap_or(i32::MAX);
        let ratio = f64::from(now) / f64::from(percent);
        Ok(Ratio { ratio, utilization: Some(now), value: used / count })
    };
    // A pod without figures is taken to use all of its request, or its target if that is more.
    let full = |name: &str| {
        requests.get(name).copied().unwrap_or(0).saturating_mul(i64::from(percent.max(100))) / 100
    };
    by_average(target, samples, resource == "cpu", ratio, full)
}

fn request_of(pod: &Pod, resource: &str, container: Option<&str>) -> Result<i64, String> {
    let amount = |resources: Option<&ResourceRequirements>| {
        let amount = resources?.requests.as_ref()?.get(resource)?;
        Some(Quantity::parse_or_zero(&amount.0).milli())
    };
    let Some(spec) = &pod.spec else { return Ok(0) };
    if let Some(whole) = amount(spec.resources.as_ref()).filter(|_| container.is_none()) {
        return Ok(whole);
    }
    let sidecars = spec.init_containers.iter().flatten().filter(|one| pods::is_sidecar(one));
    let all = spec.containers.iter().chain(sidecars);
    let mut sum = 0;
    for one in all.filter(|one| container.is_none_or(|name| one.name == name)) {
        let (name, pod) = (&one.name, name_of(&pod.metadata));
        sum += amount(one.resources.as_ref())
            .ok_or_else(|| format!("missing request for {resource} in container {name} of Pod {pod}"))?;
    }
    Ok(sum)
}

/// A value per pod; `is_cpu` where it is the use of CPU.
pub(super) fn by_average_value(
    target: &Target<'_>,
    samples: Samples,
    is_cpu: bool,
    wanted: i64,
) -> Result<Proposal, String> {
    let ratio = |samples: &Samples| {
        let count = i64::try_from(samples.len()).unwrap_or(i64::MAX).max(1);
        let now = samples.values().map(|sample| sample.value).sum::<i64>() / count;
        Ok(Ratio { ratio: now as f64 / wanted as f64, utilization: None, value: now })
    };
    by_average(target, samples, is_cpu, ratio, |_| wanted)
}

/// One value for the whole target, to be brought to `wanted`.
pub(super) fn by_value(target: &Target<'_>, value: i64, wanted: i64) -> Result<Proposal, String> {
    let ratio = value as f64 / wanted as f64;
    let replicas = if target.replicas == 0 {
        ratio.ceil() as i32
    } else if target.tolerance.holds(ratio) {
        target.replicas
    } else {
        if target.pods.is_empty() {
            return Err(format!("unable to calculate ready pods: {NO_PODS}"));
        }
        let runs = |pod: &&Arc<Pod>| {
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            phase == Some("Running") && pods::is_ready(pod)
        };
        replicas_for(target.pods.iter().filter(runs).count(), ratio)
    };
    Ok(Proposal { replicas, utilization: None, value })
}

/// One value for the whole target, of which each of its `existing` pods has a part.
pub(super) fn by_share(target: &Target<'_>, existing: i32, value: i64, wanted: i64) -> Proposal {
    let ratio = value as f64 / (wanted as f64 * f64::from(existing));
    let replicas = if existing > 0 && target.tolerance.holds(ratio) {
        existing
    } else {
        (value as f64 / wanted as f64).ceil() as i32
    };
    let share = if existing > 0 { (value as f64 / f64::from(existing)).ceil() as i64 } else { value };
    Proposal { replicas, utilization: None, value: share }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(100_000, 0).unwrap()
    }

    /// A pod that asks for a core, in a state: `ready`, `unready` from the start, `pending`, `failed`, `going`.
    fn pod(index: usize, state: &str) -> Arc<Pod> {
        let phase = match state {
            "pending" => "Pending",
            "failed" => "Failed",
            _ => "Running",
        };
        let ready = if state == "unready" { "False" } else { "True" };
        let started = now() - TimeDelta::hours(1);
        let at = component_base::clock::time_of(started);
        let mut metadata = json!({"name": format!("p{index}")});
        if state == "going" {
            metadata["deletionTimestamp"] = json!(at);
        }
        let container = json!({"name": "c", "resources": {"requests": {"cpu": "1"}}});
        Arc::new(
            serde_json::from_value(json!({"metadata": metadata, "spec": {"containers": [container]},
                "status": {"phase": phase, "startTime": at, "conditions": [
                    {"type": "Ready", "status": ready, "lastTransitionTime": at}]}}))
            .unwrap(),
        )
    }

    fn samples(values: &[i64]) -> Samples {
        let sample = |value| Sample { value, at: now(), window: TimeDelta::minutes(1) };
        values.iter().enumerate().map(|(index, value)| (format!("p{index}"), sample(*value))).collect()
    }

    const TENTH: Tolerance = Tolerance { up: 0.1, down: 0.1 };

    /// `replicas` pods in these states use these thousandths of a core; the target is `percent` of the request.
    fn check(states: &[&str], values: &[i64], percent: i32, expected: Result<(i32, i32), &str>) {
        let pods: Vec<_> = states.iter().enumerate().map(|(index, state)| pod(index, state)).collect();
        let replicas = i32::try_from(pods.len()).unwrap();
        let target = Target { replicas, pods: &pods, tolerance: TENTH, now: now() };
        let found = by_utilization(&target, samples(values), "cpu", None, percent);
        let found = found.map(|proposal| (proposal.replicas, proposal.utilization.unwrap()));
        assert_eq!(found, expected.map_err(str::to_owned));
    }

    #[test]
    fn replicas_follow_the_ratio_of_use_to_target() {
        check(&["ready"; 3], &[300, 500, 700], 30, Ok((5, 50)));
        check(&["ready"; 5], &[100, 300, 500, 250, 250], 50, Ok((3, 28)));
    }

    #[test]
    fn a_small_difference_changes_nothing() {
        check(&["ready"; 3], &[1010, 1030, 1020], 100, Ok((3, 102)));
        check(&["ready"; 3], &[910, 910, 910], 100, Ok((3, 91)));
    }

    #[test]
    fn pods_that_start_are_taken_to_use_nothing_when_it_goes_up() {
        check(&["ready", "ready", "unready"], &[700, 700, 100], 30, Ok((5, 70)));
        check(&["ready", "unready", "unready"], &[400, 500, 700], 30, Ok((3, 40)));
        check(&["ready", "pending", "pending"], &[900], 30, Ok((3, 90)));
    }

    #[test]
    fn pods_that_start_do_not_count_when_it_goes_down() {
        check(
            &["ready", "ready", "ready", "unready", "unready"],
            &[100, 300, 500, 250, 250],
            50,
            Ok((2, 30)),
        );
    }

    #[test]
    fn pods_that_failed_or_go_do_not_count() {
        check(&["ready", "ready", "failed"], &[500, 500], 25, Ok((4, 50)));
        check(&["ready", "ready", "going"], &[500, 500, 900], 25, Ok((4, 50)));
    }

    #[test]
    fn pods_without_figures_make_the_change_smaller() {
        // Up: they use nothing; down: they use all they asked for.
        check(&["ready"; 3], &[900, 900], 50, Ok((4, 90)));
        check(&["ready"; 4], &[100, 100, 100], 50, Ok((3, 10)));
        check(&["ready"; 3], &[480, 480], 50, Ok((3, 48)));
    }

    #[test]
    fn what_cannot_be_computed_is_said() {
        check(&[], &[], 50, Err(NO_PODS));
        check(&["ready"], &[], 50, Err(NO_FIGURES));
        let bare: Pod = serde_json::from_value(json!({"metadata": {"name": "p0"}, "spec": {"containers": [
            {"name": "c"}]}, "status": {"phase": "Running"}}))
        .unwrap();
        let pods = [Arc::new(bare)];
        let target = Target { replicas: 1, pods: &pods, tolerance: TENTH, now: now() };
        let found = by_utilization(&target, samples(&[10]), "cpu", None, 50);
        assert_eq!(found, Err("missing request for cpu in container c of Pod p0".to_owned()));
    }

    #[test]
    fn a_value_per_pod_is_averaged() {
        let pods: Vec<_> = (0..3).map(|index| pod(index, "ready")).collect();
        let target = Target { replicas: 3, pods: &pods, tolerance: TENTH, now: now() };
        let found = by_average_value(&target, samples(&[20_000, 10_000, 30_000]), false, 15_000).unwrap();
        assert_eq!((found.replicas, found.value), (4, 20_000));
        let found = by_average_value(&target, samples(&[20_000]), false, 15_000).unwrap();
        assert_eq!(found.replicas, 3, "two without figures use nothing, and that turns it round");
    }

    #[test]
    fn one_value_for_all_scales_the_ready_ones() {
        let pods: Vec<_> = ["ready", "ready", "unready"].iter().enumerate().map(|(i, s)| pod(i, s)).collect();
        let target = |replicas| Target { replicas, pods: &pods, tolerance: TENTH, now: now() };
        assert_eq!(by_value(&target(3), 40_000, 20_000).unwrap().replicas, 4);
        assert_eq!(by_value(&target(3), 20_001, 20_000).unwrap().replicas, 3);
        assert_eq!(by_value(&target(0), 50_000, 20_000).unwrap().replicas, 3);
        let shared = by_share(&target(3), 3, 90_000, 10_000);
        assert_eq!((shared.replicas, shared.value), (9, 30_000));
        assert_eq!(by_share(&target(3), 3, 31_000, 10_000).replicas, 3);
    }

    #[test]
    fn a_tolerance_of_its_own_holds_in_each_direction() {
        let tolerance = Tolerance { up: 0.5, down: 0.0 };
        assert!(tolerance.holds(1.4) && !tolerance.holds(1.6) && !tolerance.holds(0.99));
    }
}
