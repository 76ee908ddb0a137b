//! ValidatingAdmissionWebhook: webhooks that only refuse, all asked at once.

use api_types::status::Status;
use futures::future::join_all;

use super::{AsyncPlugin, Review};
use crate::matching::is_exempt;
use crate::webhook::{Half, ask};

pub(crate) struct ValidatingAdmissionWebhook;

const CONFIGURATIONS: &str = "admissionregistration.k8s.io/validatingwebhookconfigurations";

impl AsyncPlugin for ValidatingAdmissionWebhook {
    const NAME: &'static str = "ValidatingAdmissionWebhook";

    fn concerns(review: &Review<'_>) -> bool {
        !is_exempt(review.kind) && !review.state.validating.of(review.view, CONFIGURATIONS).is_empty()
    }

    async fn validate(review: &Review<'_>) -> Result<(), Status> {
        let hooks = review.state.validating.of(review.view, CONFIGURATIONS);
        let mut asked = Vec::new();
        for (place, hook) in hooks.iter().enumerate() {
            if let Some(row) = hook.find_row(review)? {
                asked.push(async move { ask(review, hook, &row, Half::Validating, place).await });
            }
        }
        join_all(asked).await.into_iter().try_for_each(|answer| answer.map(drop))
    }
}
