//! One webhook asked about one review: the call, what is counted, what goes into the client's warnings and the
//! audit event.

use std::collections::HashSet;

use api_types::kinds::Kind;
use api_types::status::Status;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use serde_json::Value;

use super::conversation::{self, Answer};
use super::hook::Hook;
use crate::admission::Review;

/// Which half asks, as metrics and annotations say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    Mutating,
    Validating,
}

impl Half {
    fn as_str(self) -> &'static str {
        match self {
            Self::Mutating => "admit",
            Self::Validating => "validating",
        }
    }

    fn failed_open(self) -> &'static str {
        match self {
            Self::Mutating => "failed-open.mutation.webhook.admission.k8s.io",
            Self::Validating => "failed-open.validation.webhook.admission.k8s.io",
        }
    }
}

/// Which mutating webhooks of one request have been asked, and which must be asked again.
#[derive(Default)]
pub(crate) struct Called {
    /// Those that want to see what others change after them.
    pub(crate) attentive: HashSet<String>,
    pub(crate) due: HashSet<String>,
    /// The object as the last of them left it.
    pub(crate) left: Option<Value>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    name: String,
    r#type: &'static str,
    operation: &'static str,
    rejected: &'static str,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DurationLabels {
    name: String,
    r#type: &'static str,
    operation: &'static str,
    rejected: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RejectionLabels {
    name: String,
    r#type: &'static str,
    operation: &'static str,
    error_type: &'static str,
    rejection_code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OpenLabels {
    name: String,
    r#type: &'static str,
}

/// How webhooks answer.
pub(crate) struct WebhookMetrics {
    requests: Family<Labels, Counter>,
    durations: Family<DurationLabels, Histogram>,
    rejections: Family<RejectionLabels, Gauge>,
    failed_open: Family<OpenLabels, Gauge>,
}

impl Default for WebhookMetrics {
    fn default() -> Self {
        const SECONDS: [f64; 7] = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0];
        Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            rejections: Family::default(),
            failed_open: Family::default(),
        }
    }
}

impl WebhookMetrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        let name = |what: &str| format!("apiserver_admission_webhook_{what}");
        registry.register(
            name("request"),
            "Admission webhook requests by name, operation and code",
            self.requests.clone(),
        );
        registry.register(
            name("admission_duration_seconds"),
            "Time that an admission webhook took",
            self.durations.clone(),
        );
        registry.register(
            name("rejection_count"),
            "Requests that an admission webhook or its failure refused",
            self.rejections.clone(),
        );
        registry.register(
            name("fail_open_count"),
            "Requests that passed because a webhook failed and may",
            self.failed_open.clone(),
        );
    }
}

/// How a webhook's turn ended when it did not end well.
enum Trouble {
    Failed(String),
    Refused(Value),
}

/// Asks; an answer is leave to go on. `place` is the webhook's place among all.
pub(crate) async fn ask(
    review: &Review<'_>,
    hook: &Hook,
    row: &Kind,
    half: Half,
    place: usize,
) -> Result<Answer, Status> {
    if review.options.is_dry_run() && !hook.knows_dry_run {
        let why = format!("admission webhook {:?} does not support dry run", hook.name);
        return Err(Status::bad_request(why));
    }
    let begun = tokio::time::Instant::now();
    let outcome = exchange(review, hook, row, half).await;
    let metrics = &review.state.webhook_metrics;
    let (operation, kind) = (review.operation.as_str(), half.as_str());
    let outcome = conclude(review, hook, half, place, outcome);
    let (rejected, code) = match &outcome {
        Ok(_) => ("false", 200),
        Err((status, _)) => ("true", status.code()),
    };
    let name = || hook.name.clone();
    let labels = DurationLabels { name: name(), r#type: kind, operation, rejected };
    metrics.durations.get_or_create(&labels).observe(begun.elapsed().as_secs_f64());
    metrics.requests.get_or_create(&Labels { name: name(), r#type: kind, operation, rejected, code }).inc();
    outcome.map_err(|(status, error_type)| {
        let rejection_code = if error_type == "no_error" { status.code() } else { 0 };
        let labels = RejectionLabels { name: name(), r#type: kind, operation, error_type, rejection_code };
        metrics.rejections.get_or_create(&labels).inc();
        status
    })
}

async fn exchange(review: &Review<'_>, hook: &Hook, row: &Kind, half: Half) -> Result<Answer, Trouble> {
    let Some(version) = hook.review_version else {
        return Err(Trouble::Failed("could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)".to_owned()));
    };
    let uid = uuid::Uuid::new_v4().to_string();
    let question = conversation::question(review, row, version, &uid);
    let answer = review.state.webhooks.call(&hook.target, hook.timeout, &question).await;
    let answer = answer.map_err(|e| Trouble::Failed(format!("failed to call webhook: {e}")))?;
    let mut answer = conversation::read(&answer, version, &uid, half == Half::Mutating)
        .map_err(|e| Trouble::Failed(format!("received invalid webhook response: {e}")))?;
    for (key, value) in std::mem::take(&mut answer.annotations) {
        review.notes.annotate(format!("{}/{key}", hook.name), value);
    }
    for warning in std::mem::take(&mut answer.warnings) {
        review.notes.warn(warning);
    }
    match answer.refused.take() {
        Some(status) => Err(Trouble::Refused(status)),
        None => Ok(answer),
    }
}

/// What the trouble means for the request, with the word that metrics have for it.
fn conclude(
    review: &Review<'_>,
    hook: &Hook,
    half: Half,
    place: usize,
    outcome: Result<Answer, Trouble>,
) -> Result<Answer, (Status, &'static str)> {
    match outcome {
        Ok(answer) => Ok(answer),
        Err(Trouble::Refused(status)) => Err((conversation::refusal(&hook.name, &status), "no_error")),
        Err(Trouble::Failed(why)) if hook.fails_open => {
            tracing::warn!(webhook = hook.name, why, "a webhook failed, and the request goes on");
            let labels = OpenLabels { name: hook.name.clone(), r#type: half.as_str() };
            review.state.webhook_metrics.failed_open.get_or_create(&labels).inc();
            let round = u8::from(review.rounds.is_second);
            let key = format!("{}/round_{round}_index_{place}", half.failed_open());
            review.notes.annotate(key, hook.name.clone());
            Ok(Answer::default())
        }
        Err(Trouble::Failed(why)) => {
            tracing::warn!(webhook = hook.name, why, "a webhook failed, and the request with it");
            let why = format!("failed calling webhook {:?}: {why}", hook.name);
            Err((Status::internal(why), "calling_webhook_error"))
        }
    }
}
