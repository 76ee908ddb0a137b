//! A PodDisruptionBudget: an eviction takes a ready pod only with a budget's leave, and the budget's figures are true.

use serde_json::Value;

use super::{Invariant, Surroundings};
use crate::model::{Change, Model, count, is_active, is_ready, name, namespace};

pub(super) struct Budgets;

const BUDGETS: &str = "poddisruptionbudgets";

impl Invariant for Budgets {
    fn name(&self) -> &'static str {
        "budgets"
    }

    fn check(&mut self, model: &Model, _: &Surroundings, change: &Change) -> Vec<String> {
        match (&*change.resource, &change.new) {
            (BUDGETS, Some(budget)) => check_figures(budget).into_iter().collect(),
            ("pods", _) if change.begins_to_go() => check_eviction(model, change),
            _ => Vec::new(),
        }
    }

    fn unfinished(&self, model: &Model) -> Vec<String> {
        model.all(BUDGETS).filter_map(|budget| unfinished(model, budget)).collect()
    }
}

fn check_figures(budget: &Value) -> Option<String> {
    let (allowed, spare) = (count(budget, "/status/disruptionsAllowed"), spare(budget));
    let holds = allowed >= 0 && allowed <= spare.max(0);
    (!holds).then(|| format!("{} allows {allowed} disruptions with {spare} to spare", name(budget)))
}

fn check_eviction(model: &Model, change: &Change) -> Vec<String> {
    let Some(pod) = change.old.as_ref().filter(|old| is_ready(old)) else { return Vec::new() };
    let conditions = change.object()["status"]["conditions"].as_array().into_iter().flatten();
    let evicted = |one: &Value| one["type"] == "DisruptionTarget" && one["reason"] == "EvictionByEvictionAPI";
    if !conditions.into_iter().any(evicted) {
        return Vec::new();
    }
    let of_it = model.all(BUDGETS).filter(|budget| covers(budget, pod));
    let without_leave = of_it.filter(|budget| budget["status"]["disruptedPods"][name(pod)].is_null());
    without_leave
        .map(|budget| format!("{} was evicted without leave of {}", name(pod), name(budget)))
        .collect()
}

fn unfinished(model: &Model, budget: &Value) -> Option<String> {
    let healthy =
        model.all("pods").filter(|pod| covers(budget, pod) && is_active(pod) && is_ready(pod)).count();
    let figure = |field: &str| count(budget, &format!("/status/{field}"));
    let seen = figure("observedGeneration") == count(budget, "/metadata/generation");
    // Pods that nobody controls count as healthy and not as expected.
    let allowed = if figure("expectedPods") > 0 { spare(budget).max(0) } else { 0 };
    let is_true = figure("currentHealthy") == healthy as i64 && figure("disruptionsAllowed") == allowed;
    (!seen || !is_true).then(|| format!("budget {} of {healthy} healthy: {}", name(budget), budget["status"]))
}

fn spare(budget: &Value) -> i64 {
    count(budget, "/status/currentHealthy") - count(budget, "/status/desiredHealthy")
}

/// Users select by this label alone.
fn covers(budget: &Value, pod: &Value) -> bool {
    let wanted = &budget["spec"]["selector"]["matchLabels"]["app"];
    namespace(budget) == namespace(pod) && wanted.is_string() && *wanted == pod["metadata"]["labels"]["app"]
}
