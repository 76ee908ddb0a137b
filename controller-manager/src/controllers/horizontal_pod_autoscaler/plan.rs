//! From all figures to the size that the target gets, and what the status says about it. Pure.

use std::sync::Arc;

use api_types::conditions;
use api_types::quantity::Quantity;
use chrono::{DateTime, Utc};
use component_base::clock::time_of;
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, ExternalMetricStatus, HorizontalPodAutoscaler,
    HorizontalPodAutoscalerCondition, MetricSpec, MetricStatus, MetricTarget, MetricValueStatus,
    ObjectMetricStatus, PodsMetricStatus, ResourceMetricStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Amount;

use super::behavior::{self, Bounds, History};
use super::metrics::{Measured, written};
use super::replicas::{self, Proposal, Target, Tolerance};

const TOLERANCE: f64 = 0.1;

/// What is known when an autoscaler is looked at.
pub(super) struct Observed<'a> {
    pub hpa: &'a HorizontalPodAutoscaler,
    /// How many replicas the target shall have and has.
    pub wanted: i32,
    pub existing: i32,
    /// The pods that it selects.
    pub pods: &'a [Arc<Pod>],
    /// What each metric's source said, in the order of the spec.
    pub measured: Vec<Result<Measured, String>>,
    pub now: DateTime<Utc>,
}

/// What to do.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Decision {
    /// The new size, if it is another, and why.
    pub rescale: Option<(i32, String)>,
    pub conditions: Vec<HorizontalPodAutoscalerCondition>,
    /// The metrics as they stand; `None` leaves what the status said before.
    pub metrics: Option<Vec<MetricStatus>>,
    /// Warnings to record: reason and message.
    pub warnings: Vec<(&'static str, String)>,
    /// Why no size could be computed.
    pub failure: Option<String>,
}

impl Decision {
    fn say(&mut self, type_: &str, holds: bool, reason: &str, message: String, now: DateTime<Utc>) {
        let condition = HorizontalPodAutoscalerCondition {
            type_: type_.to_owned(),
            status: if holds { "True" } else { "False" }.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: Some(time_of(now)),
        };
        conditions::set(&mut self.conditions, condition);
    }
}

/// Decides, and notes in `history` what was recommended.
pub(super) fn plan(observed: &Observed<'_>, history: &mut History) -> Decision {
    let (now, current) = (observed.now, observed.wanted);
    let spec = &observed.hpa.spec;
    let (min, max) = (spec.min_replicas.unwrap_or(1), spec.max_replicas);
    let old = observed.hpa.status.as_ref().and_then(|status| status.conditions.clone());
    let mut decision = Decision { conditions: old.unwrap_or_default(), ..Decision::default() };
    let message = "the HPA controller was able to get the target's current scale".to_owned();
    decision.say("AbleToScale", true, "SucceededGetScale", message, now);
    history.begin(current, now);
    if current == 0 && min != 0 {
        let message = "scaling is disabled since the replica count of the target is zero".to_owned();
        decision.say("ScalingActive", false, "ScalingDisabled", message, now);
        decision.metrics = Some(Vec::new());
    } else if current > max {
        decision.metrics = Some(Vec::new());
        decision.rescale = Some((max, "Current number of replicas above Spec.MaxReplicas".to_owned()));
    } else if current < min {
        decision.metrics = Some(Vec::new());
        decision.rescale = Some((min, "Current number of replicas below Spec.MinReplicas".to_owned()));
    } else if let Some((desired, metric)) = by_metrics(observed, &mut decision) {
        let bounds = Bounds { current, min, max };
        let allowed = behavior::normalize(history, bounds, desired, spec.behavior.as_ref(), now);
        let (reason, message) = allowed.able;
        decision.say("AbleToScale", true, reason, message.to_owned(), now);
        let (limited, reason, message) = allowed.limited;
        decision.say("ScalingLimited", limited, reason, message.to_owned(), now);
        let why = if desired > current { format!("{metric} above target") } else { String::new() };
        let why = if desired < current { "All metrics below target".to_owned() } else { why };
        decision.rescale = (allowed.replicas != current).then_some((allowed.replicas, why));
    }
    decision
}

/// The largest size that a metric asks for, and which one. A metric without figures keeps the target from
/// shrinking; without any figure nothing is decided.
fn by_metrics(observed: &Observed<'_>, decision: &mut Decision) -> Option<(i32, String)> {
    let specs = observed.hpa.spec.metrics.as_deref().unwrap_or_default();
    let (mut best, mut statuses) = (None::<(i32, String)>, Vec::new());
    let mut failed: Vec<(&'static str, String, String)> = Vec::new();
    for (spec, measured) in specs.iter().zip(&observed.measured) {
        let rule = Rule::of(spec);
        match rule.apply(observed, measured) {
            Ok((replicas, status)) => {
                statuses.push(status);
                if best.as_ref().is_none_or(|(most, _)| replicas > *most) {
                    best = Some((replicas, rule.title.clone()));
                }
            }
            Err(why) => {
                decision.warnings.push((rule.failure, why.clone()));
                failed.push((rule.failure, format!("failed to get {} value: {why}", rule.noun), why));
            }
        }
    }
    let shrinks = best.as_ref().is_none_or(|(replicas, _)| *replicas < observed.wanted);
    if let Some((reason, first, why)) = failed.first().filter(|_| failed.len() >= specs.len() || shrinks) {
        let message = format!("the HPA was unable to compute the replica count: {why}");
        decision.say("ScalingActive", false, reason, message, observed.now);
        let failure = format!(
            "invalid metrics ({} invalid out of {}), first error is: {first}",
            failed.len(),
            specs.len()
        );
        decision.warnings.push(("FailedComputeMetricsReplicas", failure.clone()));
        decision.failure = Some(failure);
        return None;
    }
    decision.metrics = Some(statuses);
    let (replicas, metric) = best?;
    let message = format!("the HPA was able to successfully calculate a replica count from {metric}");
    decision.say("ScalingActive", true, "ValidMetricFound", message, observed.now);
    Some((replicas, metric))
}

/// How a metric is called where it is spoken of, and its target.
struct Rule<'a> {
    spec: &'a MetricSpec,
    target: MetricTarget,
    /// In reasons and conditions.
    title: String,
    /// In errors.
    noun: String,
    /// The reason when it fails.
    failure: &'static str,
}

impl<'a> Rule<'a> {
    fn of(spec: &'a MetricSpec) -> Self {
        let of = |target: &MetricTarget, title: String, noun: String, failure| Self {
            spec,
            target: target.clone(),
            title,
            noun,
            failure,
        };
        let percent = |target: &MetricTarget, title: String| match target.average_value {
            Some(_) => title,
            None => format!("{title} utilization (percentage of request)"),
        };
        match (&spec.resource, &spec.container_resource, &spec.pods, &spec.object, &spec.external) {
            (Some(one), ..) => {
                let title = percent(&one.target, format!("{} resource", one.name));
                of(&one.target, title, format!("{} resource metric", one.name), "FailedGetResourceMetric")
            }
            (_, Some(one), ..) => {
                let title = percent(&one.target, format!("{} container resource", one.name));
                let noun = format!("{} container metric", one.name);
                of(&one.target, title, noun, "FailedGetContainerResourceMetric")
            }
            (_, _, Some(one), ..) => {
                let title = format!("pods metric {}", one.metric.name);
                of(&one.target, title, "pods metric".to_owned(), "FailedGetPodsMetric")
            }
            (_, _, _, Some(one), _) => {
                let title = format!("{} metric {}", one.described_object.kind, one.metric.name);
                of(&one.target, title, "object metric".to_owned(), "FailedGetObjectMetric")
            }
            (_, _, _, _, Some(one)) => {
                let title =
                    format!("external metric {}({})", one.metric.name, written(one.metric.selector.as_ref()));
                let noun = format!("{} external metric", one.metric.name);
                of(&one.target, title, noun, "FailedGetExternalMetric")
            }
            _ => of(&MetricTarget::default(), String::new(), "metric".to_owned(), "InvalidMetricSourceType"),
        }
    }

    fn apply(
        &self,
        observed: &Observed<'_>,
        measured: &Result<Measured, String>,
    ) -> Result<(i32, MetricStatus), String> {
        let resource = self.spec.resource.as_ref().map(|one| (&one.name, None));
        let resource = resource.or_else(|| {
            self.spec.container_resource.as_ref().map(|one| (&one.name, Some(one.container.as_str())))
        });
        let failed = |why: String| match resource {
            Some((name, _)) if self.target.average_value.is_some() => {
                format!("failed to get {name} usage: {why}")
            }
            Some((name, _)) => format!("failed to get {name} utilization: {why}"),
            None => why,
        };
        let measured = measured.clone().map_err(failed)?;
        let target = target_of(observed);
        let proposal = match (measured, &self.target.average_value, &self.target.value) {
            (Measured::Pods(samples), Some(average), _) => {
                let is_cpu = resource.is_some_and(|(name, _)| name == "cpu");
                replicas::by_average_value(&target, samples, is_cpu, milli(average))
            }
            (Measured::Pods(samples), None, _) => match (resource, self.target.average_utilization) {
                (Some((name, container)), Some(percent)) => {
                    replicas::by_utilization(&target, samples, name, container, percent)
                }
                _ => Err(self.invalid()),
            },
            (Measured::Value(value), Some(average), _) => {
                Ok(replicas::by_share(&target, observed.existing, value, milli(average)))
            }
            (Measured::Value(value), None, Some(wanted)) => replicas::by_value(&target, value, milli(wanted)),
            (Measured::Value(_), None, None) => Err(self.invalid()),
        };
        proposal.map(|proposal| (proposal.replicas, self.status(&proposal))).map_err(failed)
    }

    fn invalid(&self) -> String {
        let kind = self.spec.type_.to_lowercase();
        format!("invalid {kind} metric source: neither a utilization target nor a value target was set")
    }

    fn status(&self, proposal: &Proposal) -> MetricStatus {
        let amount = Some(Amount(Quantity::from_milli(proposal.value).to_string()));
        let whole = self.target.average_value.is_none() && self.target.average_utilization.is_none();
        let current = MetricValueStatus {
            average_utilization: proposal.utilization,
            average_value: amount.clone().filter(|_| !whole),
            value: amount.filter(|_| whole),
        };
        let mut status = MetricStatus { type_: self.spec.type_.clone(), ..MetricStatus::default() };
        let MetricSpec { resource, container_resource, pods, object, external, .. } = self.spec;
        if let Some(one) = resource {
            status.resource = Some(ResourceMetricStatus { name: one.name.clone(), current });
        } else if let Some(one) = container_resource {
            let (container, name) = (one.container.clone(), one.name.clone());
            status.container_resource = Some(ContainerResourceMetricStatus { container, name, current });
        } else if let Some(one) = pods {
            status.pods = Some(PodsMetricStatus { metric: one.metric.clone(), current });
        } else if let Some(one) = object {
            let (described_object, metric) = (one.described_object.clone(), one.metric.clone());
            status.object = Some(ObjectMetricStatus { described_object, metric, current });
        } else if let Some(one) = external {
            status.external = Some(ExternalMetricStatus { metric: one.metric.clone(), current });
        }
        status
    }
}

fn target_of<'a>(observed: &'a Observed<'_>) -> Target<'a> {
    let rules = observed.hpa.spec.behavior.as_ref();
    let part = |amount: Option<&Amount>| amount.map_or(TOLERANCE, |amount| milli(amount) as f64 / 1000.0);
    let up = part(rules.and_then(|rules| rules.scale_up.as_ref()?.tolerance.as_ref()));
    let down = part(rules.and_then(|rules| rules.scale_down.as_ref()?.tolerance.as_ref()));
    let tolerance = Tolerance { up, down };
    Target { replicas: observed.wanted, pods: observed.pods, tolerance, now: observed.now }
}

fn milli(amount: &Amount) -> i64 {
    Quantity::parse_or_zero(&amount.0).milli()
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use serde_json::{Value, json};

    use super::super::replicas::Sample;
    use super::*;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(100_000, 0).unwrap()
    }

    fn pods(count: usize) -> Vec<Arc<Pod>> {
        let at = time_of(now() - TimeDelta::hours(1));
        let container = json!({"name": "c", "resources": {"requests": {"cpu": "1"}}});
        let pod = |index: usize| {
            json!({"metadata": {"name": format!("p{index}")}, "spec": {"containers": [container]},
            "status": {"phase": "Running", "startTime": at, "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": at}]}})
        };
        (0..count).map(|index| Arc::new(serde_json::from_value(pod(index)).unwrap())).collect()
    }

    fn cpu(percent: i32) -> Value {
        json!({"type": "Resource", "resource": {"name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": percent}}})
    }

    fn external(wanted: &str) -> Value {
        json!({"type": "External", "external": {"metric": {"name": "queue"},
            "target": {"type": "Value", "value": wanted}}})
    }

    fn each(count: usize, value: i64) -> Result<Measured, String> {
        let sample = Sample { value, at: now(), window: TimeDelta::minutes(1) };
        Ok(Measured::Pods((0..count).map(|index| (format!("p{index}"), sample)).collect()))
    }

    fn decide(wanted: usize, metrics: Value, measured: Vec<Result<Measured, String>>) -> Decision {
        let hpa: HorizontalPodAutoscaler =
            serde_json::from_value(json!({"metadata": {"name": "h"}, "spec": {
            "minReplicas": 2, "maxReplicas": 6, "metrics": metrics,
            "scaleTargetRef": {"kind": "Deployment", "name": "d"}}}))
            .unwrap();
        let pods = pods(wanted);
        let replicas = i32::try_from(wanted).unwrap();
        let observed =
            Observed { hpa: &hpa, wanted: replicas, existing: replicas, pods: &pods, measured, now: now() };
        plan(&observed, &mut History::default())
    }

    fn check(decision: &Decision, rescale: Option<(i32, &str)>, conditions: &[(&str, &str, &str)]) {
        let found = decision.rescale.as_ref().map(|(size, why)| (*size, why.as_str()));
        assert_eq!(found, rescale);
        let told: Vec<_> = decision
            .conditions
            .iter()
            .map(|one| (one.type_.as_str(), one.status.as_str(), one.reason.as_deref().unwrap()))
            .collect();
        assert_eq!(told, conditions);
    }

    #[test]
    fn use_above_the_target_scales_up() {
        let decision = decide(3, json!([cpu(50)]), vec![each(3, 800)]);
        let why = "cpu resource utilization (percentage of request) above target";
        let conditions = [
            ("AbleToScale", "True", "ReadyForNewScale"),
            ("ScalingActive", "True", "ValidMetricFound"),
            ("ScalingLimited", "False", "DesiredWithinRange"),
        ];
        check(&decision, Some((5, why)), &conditions);
        let status = decision.metrics.unwrap().remove(0).resource.unwrap().current;
        assert_eq!(
            (status.average_utilization, status.average_value.unwrap().0.as_str()),
            (Some(80), "800m")
        );
    }

    #[test]
    fn the_largest_proposal_of_several_metrics_counts() {
        let measured = vec![each(3, 500), Ok(Measured::Value(40_000))];
        let decision = decide(3, json!([cpu(50), external("20")]), measured);
        assert_eq!(decision.rescale, Some((6, "external metric queue(nil) above target".to_owned())));
    }

    #[test]
    fn a_new_autoscaler_does_not_shrink_at_once() {
        let conditions = [
            ("AbleToScale", "True", "ScaleDownStabilized"),
            ("ScalingActive", "True", "ValidMetricFound"),
            ("ScalingLimited", "False", "DesiredWithinRange"),
        ];
        check(&decide(4, json!([cpu(50)]), vec![each(4, 10)]), None, &conditions);
    }

    #[test]
    fn a_target_outside_its_bounds_is_brought_inside() {
        let able = [("AbleToScale", "True", "SucceededGetScale")];
        let above = "Current number of replicas above Spec.MaxReplicas";
        check(&decide(9, json!([cpu(50)]), vec![]), Some((6, above)), &able);
        let below = "Current number of replicas below Spec.MinReplicas";
        check(&decide(1, json!([cpu(50)]), vec![]), Some((2, below)), &able);
    }

    #[test]
    fn a_target_of_zero_is_left_alone() {
        let conditions =
            [("AbleToScale", "True", "SucceededGetScale"), ("ScalingActive", "False", "ScalingDisabled")];
        check(&decide(0, json!([cpu(50)]), vec![]), None, &conditions);
    }

    #[test]
    fn without_any_figure_nothing_is_decided_and_it_is_said() {
        let why = "unable to get metrics for resource cpu: no metrics returned from resource metrics API";
        let decision = decide(3, json!([cpu(50)]), vec![Err(why.to_owned())]);
        let conditions = [
            ("AbleToScale", "True", "SucceededGetScale"),
            ("ScalingActive", "False", "FailedGetResourceMetric"),
        ];
        check(&decision, None, &conditions);
        let message = format!("failed to get cpu utilization: {why}");
        assert_eq!(decision.warnings[0], ("FailedGetResourceMetric", message.clone()));
        let all = format!(
            "invalid metrics (1 invalid out of 1), first error is: failed to get cpu resource metric value: {message}"
        );
        assert_eq!(decision.warnings[1], ("FailedComputeMetricsReplicas", all));
    }

    #[test]
    fn a_metric_without_figures_lets_the_others_grow_but_not_shrink() {
        let metrics = json!([cpu(50), external("20")]);
        let grows = decide(3, metrics.clone(), vec![Err("no".to_owned()), Ok(Measured::Value(30_000))]);
        assert_eq!(grows.rescale.unwrap().0, 5);
        let shrinks = decide(3, metrics, vec![Err("no".to_owned()), Ok(Measured::Value(10_000))]);
        assert!(shrinks.rescale.is_none() && shrinks.failure.is_some());
    }
}
