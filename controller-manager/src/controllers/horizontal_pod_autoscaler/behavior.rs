//! How fast and within which bounds replicas may change, by what was recommended and done before. Pure.

use chrono::{DateTime, TimeDelta, Utc};
use k8s_openapi::api::autoscaling::v2::{HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscalerBehavior};

/// How long a higher recommendation holds up a smaller one, unless the rules say otherwise.
const DOWNSCALE_WINDOW_SECONDS: i32 = 300;

/// What was recommended and done, as far as windows and policies look back.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct History {
    recommended: Vec<(DateTime<Utc>, i32)>,
    added: Vec<(DateTime<Utc>, i32)>,
    removed: Vec<(DateTime<Utc>, i32)>,
}

/// The size that may be taken, and what kept it from another.
#[derive(Debug, PartialEq)]
pub(super) struct Allowed {
    pub replicas: i32,
    /// Reason and message of `AbleToScale`.
    pub able: (&'static str, &'static str),
    /// Whether the size was limited; reason and message of `ScalingLimited`.
    pub limited: (bool, &'static str, &'static str),
}

/// The bounds of the autoscaler and where it stands.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    pub current: i32,
    pub min: i32,
    pub max: i32,
}

const READY: (&str, &str) = ("ReadyForNewScale", "recommended size matches current size");
const UP_STABILIZED: (&str, &str) = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);
const DOWN_STABILIZED: (&str, &str) = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
);
const WITHIN: (&str, &str) = ("DesiredWithinRange", "the desired count is within the acceptable range");
const TOO_FEW: (&str, &str) =
    ("TooFewReplicas", "the desired replica count is less than the minimum replica count");
const TOO_MANY: (&str, &str) =
    ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const UP_LIMIT: (&str, &str) =
    ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const DOWN_LIMIT: (&str, &str) =
    ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");

impl History {
    /// Notes where the autoscaler began, so that it does not shrink at its first look.
    pub(super) fn begin(&mut self, current: i32, now: DateTime<Utc>) {
        if self.recommended.is_empty() {
            self.recommended.push((now, current));
        }
    }

    /// Notes a change that was made.
    pub(super) fn note(
        &mut self,
        from: i32,
        to: i32,
        rules: Option<&HorizontalPodAutoscalerBehavior>,
        now: DateTime<Utc>,
    ) {
        let Some(rules) = rules else { return };
        let (events, side) = match to > from {
            true => (&mut self.added, up(rules)),
            false => (&mut self.removed, down(rules)),
        };
        let longest = side.policies.iter().map(|policy| policy.period_seconds).max().unwrap_or(0);
        forget_before(events, now - seconds(longest));
        events.push((now, (to - from).abs()));
    }

    fn recommend(&mut self, desired: i32, longest: i32, now: DateTime<Utc>) {
        forget_before(&mut self.recommended, now - seconds(longest));
        self.recommended.push((now, desired));
    }
}

fn seconds(count: i32) -> TimeDelta {
    TimeDelta::seconds(i64::from(count))
}

fn forget_before(events: &mut Vec<(DateTime<Utc>, i32)>, cutoff: DateTime<Utc>) {
    events.retain(|(at, _)| *at >= cutoff);
}

/// The rules of one direction, with Kubernetes' defaults.
struct Side {
    window: i32,
    select: String,
    policies: Vec<HPAScalingPolicy>,
}

fn side(rules: Option<&HPAScalingRules>, window: i32, policies: &[(&str, i32)]) -> Side {
    let default = policies.iter().map(|(type_, value)| HPAScalingPolicy {
        type_: (*type_).to_owned(),
        value: *value,
        period_seconds: 15,
    });
    let given = rules.and_then(|rules| rules.policies.clone()).filter(|policies| !policies.is_empty());
    Side {
        window: rules.and_then(|rules| rules.stabilization_window_seconds).unwrap_or(window),
        select: rules.and_then(|rules| rules.select_policy.clone()).unwrap_or_else(|| "Max".to_owned()),
        policies: given.unwrap_or_else(|| default.collect()),
    }
}

fn up(rules: &HorizontalPodAutoscalerBehavior) -> Side {
    side(rules.scale_up.as_ref(), 0, &[("Pods", 4), ("Percent", 100)])
}

fn down(rules: &HorizontalPodAutoscalerBehavior) -> Side {
    side(rules.scale_down.as_ref(), DOWNSCALE_WINDOW_SECONDS, &[("Percent", 100)])
}

/// Brings the size that metrics ask for within bounds, rates and windows, and notes it.
pub(super) fn normalize(
    history: &mut History,
    bounds: Bounds,
    desired: i32,
    rules: Option<&HorizontalPodAutoscalerBehavior>,
    now: DateTime<Utc>,
) -> Allowed {
    let (stable, told) = match rules {
        None => stabilize_down(history, desired, now),
        Some(rules) => stabilize(history, bounds, desired, rules, now),
    };
    let (replicas, why) = match rules {
        None => within_fixed_rate(bounds, stable),
        Some(rules) => within_rates(history, bounds, stable, rules, now),
    };
    let able = if stable == desired { READY } else { told };
    Allowed { replicas, able, limited: (replicas != stable, why.0, why.1) }
}

fn stabilize_down(
    history: &mut History,
    desired: i32,
    now: DateTime<Utc>,
) -> (i32, (&'static str, &'static str)) {
    let cutoff = now - seconds(DOWNSCALE_WINDOW_SECONDS);
    let recent = history.recommended.iter().filter(|(at, _)| *at >= cutoff).map(|(_, size)| *size);
    let highest = recent.max().unwrap_or(desired).max(desired);
    history.recommend(desired, DOWNSCALE_WINDOW_SECONDS, now);
    (highest, DOWN_STABILIZED)
}

/// The recommendations of the up window hold growth down to the lowest, those of the down window hold
/// shrinking up to the highest.
fn stabilize(
    history: &mut History,
    bounds: Bounds,
    desired: i32,
    rules: &HorizontalPodAutoscalerBehavior,
    now: DateTime<Utc>,
) -> (i32, (&'static str, &'static str)) {
    let (up, down) = (up(rules).window, down(rules).window);
    let within = |window: i32| {
        let cutoff = now - seconds(window);
        history.recommended.iter().filter(move |(at, _)| *at > cutoff).map(|(_, size)| *size)
    };
    let lowest = within(up).min().unwrap_or(desired).min(desired);
    let highest = within(down).max().unwrap_or(desired).max(desired);
    let stable = if bounds.current < lowest {
        lowest
    } else if bounds.current > highest {
        highest
    } else {
        bounds.current
    };
    history.recommend(desired, up.max(down), now);
    (stable, if desired >= bounds.current { UP_STABILIZED } else { DOWN_STABILIZED })
}

/// Without rules a target at most doubles, or grows to four.
fn within_fixed_rate(bounds: Bounds, desired: i32) -> (i32, (&'static str, &'static str)) {
    let limit = bounds.current.saturating_mul(2).max(4);
    let (most, why) = if bounds.max > limit { (limit, UP_LIMIT) } else { (bounds.max, TOO_MANY) };
    match desired {
        less if less < bounds.min => (bounds.min, TOO_FEW),
        more if more > most => (most, why),
        fits => (fits, WITHIN),
    }
}

fn within_rates(
    history: &History,
    bounds: Bounds,
    desired: i32,
    rules: &HorizontalPodAutoscalerBehavior,
    now: DateTime<Utc>,
) -> (i32, (&'static str, &'static str)) {
    let Bounds { current, min, max } = bounds;
    if desired > current {
        let limit = up_limit(history, current, &up(rules), now).max(current);
        let (most, why) = if max > limit { (limit, UP_LIMIT) } else { (max, TOO_MANY) };
        if desired > most {
            return (most, why);
        }
    } else if desired < current {
        let limit = down_limit(history, current, &down(rules), now).min(current);
        let (least, why) = if min < limit { (limit, DOWN_LIMIT) } else { (min, TOO_FEW) };
        if desired < least {
            return (least, why);
        }
    }
    (desired, WITHIN)
}

fn changed_within(events: &[(DateTime<Utc>, i32)], period: i32, now: DateTime<Utc>) -> i32 {
    let cutoff = now - seconds(period);
    events.iter().filter(|(at, _)| *at > cutoff).map(|(_, change)| change).sum()
}

/// The size that no policy, or with `Max` not every one, lets the target outgrow.
fn up_limit(history: &History, current: i32, side: &Side, now: DateTime<Utc>) -> i32 {
    let added = |policy: &HPAScalingPolicy| changed_within(&history.added, policy.period_seconds, now);
    let removed = |policy: &HPAScalingPolicy| changed_within(&history.removed, policy.period_seconds, now);
    let limits = side.policies.iter().map(|policy| {
        let before = current - added(policy) + removed(policy);
        match policy.type_.as_str() {
            "Percent" => (f64::from(before) * (1.0 + f64::from(policy.value) / 100.0)).ceil() as i32,
            _ => before.saturating_add(policy.value),
        }
    });
    match side.select.as_str() {
        "Disabled" => current,
        "Min" => limits.min().unwrap_or(current),
        _ => limits.max().unwrap_or(current),
    }
}

fn down_limit(history: &History, current: i32, side: &Side, now: DateTime<Utc>) -> i32 {
    let added = |policy: &HPAScalingPolicy| changed_within(&history.added, policy.period_seconds, now);
    let removed = |policy: &HPAScalingPolicy| changed_within(&history.removed, policy.period_seconds, now);
    let limits = side.policies.iter().map(|policy| {
        let before = current - added(policy) + removed(policy);
        match policy.type_.as_str() {
            "Percent" => (f64::from(before) * (1.0 - f64::from(policy.value) / 100.0)) as i32,
            _ => before.saturating_sub(policy.value),
        }
    });
    match side.select.as_str() {
        "Disabled" => current,
        "Min" => limits.max().unwrap_or(current),
        _ => limits.min().unwrap_or(current),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(100_000 + second, 0).unwrap()
    }

    fn rules(value: Value) -> HorizontalPodAutoscalerBehavior {
        serde_json::from_value(value).unwrap()
    }

    fn bounds(current: i32, max: i32) -> Bounds {
        Bounds { current, min: 1, max }
    }

    fn check(
        bounds: Bounds,
        desired: i32,
        rules: Option<&HorizontalPodAutoscalerBehavior>,
        expected: (i32, &str),
    ) {
        let allowed = normalize(&mut History::default(), bounds, desired, rules, at(0));
        assert_eq!((allowed.replicas, allowed.limited.1), expected);
    }

    #[test]
    fn without_rules_a_target_at_most_doubles() {
        check(bounds(3, 100), 50, None, (6, "ScaleUpLimit"));
        check(bounds(1, 100), 50, None, (4, "ScaleUpLimit"));
        check(bounds(3, 5), 50, None, (5, "TooManyReplicas"));
        check(bounds(3, 100), 0, None, (1, "TooFewReplicas"));
        check(bounds(3, 100), 4, None, (4, "DesiredWithinRange"));
    }

    #[test]
    fn without_rules_a_higher_recommendation_holds_for_five_minutes() {
        let mut history = History::default();
        history.begin(5, at(0));
        let soon = normalize(&mut history, bounds(5, 10), 2, None, at(60));
        assert_eq!((soon.replicas, soon.able.0), (5, "ScaleDownStabilized"));
        let late = normalize(&mut history, bounds(5, 10), 2, None, at(301));
        assert_eq!((late.replicas, late.able.0), (2, "ReadyForNewScale"));
    }

    #[test]
    fn policies_limit_each_direction() {
        let pods =
            rules(json!({"scaleUp": {"policies": [{"type": "Pods", "value": 2, "periodSeconds": 60}]}}));
        check(bounds(10, 100), 50, Some(&pods), (12, "ScaleUpLimit"));
        let percent = rules(json!({"scaleDown": {"stabilizationWindowSeconds": 0,
            "policies": [{"type": "Percent", "value": 10, "periodSeconds": 60}]}}));
        check(bounds(10, 100), 1, Some(&percent), (9, "ScaleDownLimit"));
        let disabled =
            rules(json!({"scaleDown": {"selectPolicy": "Disabled", "stabilizationWindowSeconds": 0}}));
        check(bounds(10, 100), 1, Some(&disabled), (10, "ScaleDownLimit"));
    }

    #[test]
    fn of_several_policies_the_chosen_one_counts() {
        let both = |select: &str| {
            rules(json!({"scaleUp": {"selectPolicy": select, "policies": [
                {"type": "Pods", "value": 4, "periodSeconds": 60},
                {"type": "Percent", "value": 100, "periodSeconds": 60}]}}))
        };
        check(bounds(10, 100), 50, Some(&both("Max")), (20, "ScaleUpLimit"));
        check(bounds(10, 100), 50, Some(&both("Min")), (14, "ScaleUpLimit"));
        check(bounds(10, 100), 50, Some(&both("Disabled")), (10, "ScaleUpLimit"));
    }

    #[test]
    fn what_was_added_in_the_period_counts_against_the_policy() {
        let pods =
            rules(json!({"scaleUp": {"policies": [{"type": "Pods", "value": 4, "periodSeconds": 60}]}}));
        let mut history = History::default();
        history.note(1, 4, Some(&pods), at(0));
        let soon = normalize(&mut history.clone(), bounds(4, 100), 50, Some(&pods), at(30));
        assert_eq!(soon.replicas, 5);
        let late = normalize(&mut history, bounds(4, 100), 50, Some(&pods), at(61));
        assert_eq!(late.replicas, 8);
    }

    #[test]
    fn a_window_upwards_takes_the_lowest_recommendation() {
        let slow = rules(json!({"scaleUp": {"stabilizationWindowSeconds": 60}}));
        let mut history = History::default();
        history.begin(3, at(0));
        let soon = normalize(&mut history, bounds(3, 100), 7, Some(&slow), at(30));
        assert_eq!((soon.replicas, soon.able.0), (3, "ScaleUpStabilized"));
        let late = normalize(&mut history, bounds(3, 100), 7, Some(&slow), at(90));
        assert_eq!((late.replicas, late.able.0), (7, "ReadyForNewScale"));
    }

    #[test]
    fn history_does_not_grow_beyond_what_is_looked_at() {
        let mut history = History::default();
        for second in 0..10_000 {
            normalize(&mut history, bounds(3, 9), 3, None, at(second));
        }
        assert!(history.recommended.len() <= 302);
    }
}
