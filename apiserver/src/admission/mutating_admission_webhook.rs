//! MutatingAdmissionWebhook: webhooks that may change an object, one after the other in the order of their
//! configurations' names. One that wants to know what later ones changed is asked once more.

use api_types::patch;
use api_types::status::Status;
use serde_json::json;

use super::{AsyncPlugin, Review};
use crate::matching::is_exempt;
use crate::rest::set_defaults;
use crate::webhook::{Answer, Half, Hook, ask, from_row, shown};

pub(crate) struct MutatingAdmissionWebhook;

const CONFIGURATIONS: &str = "admissionregistration.k8s.io/mutatingwebhookconfigurations";

impl AsyncPlugin for MutatingAdmissionWebhook {
    const NAME: &'static str = "MutatingAdmissionWebhook";

    fn concerns(review: &Review<'_>) -> bool {
        !is_exempt(review.kind) && !review.state.mutating.of(review.view, CONFIGURATIONS).is_empty()
    }

    async fn admit(review: &mut Review<'_>) -> Result<(), Status> {
        let hooks = review.state.mutating.of(review.view, CONFIGURATIONS);
        if review.rounds.is_second && review.rounds.webhooks.left.as_ref() != review.new.as_deref() {
            // The built-in plugins changed what the webhooks had left: all that care look again.
            let attentive = std::mem::take(&mut review.rounds.webhooks.attentive);
            review.rounds.webhooks.due.extend(attentive);
        }
        for (place, hook) in hooks.iter().enumerate() {
            if review.rounds.is_second && !review.rounds.webhooks.due.contains(&hook.id()) {
                continue;
            }
            if let Some(row) = hook.find_row(review)? {
                let answer = ask(review, hook, &row, Half::Mutating, place).await?;
                let changed = apply(review, hook, &row, answer)?;
                note(review, hook, place, changed);
            }
        }
        if !review.rounds.webhooks.attentive.is_empty() {
            review.rounds.webhooks.left = review.new.as_deref().cloned();
        }
        Ok(())
    }
}

/// Makes the answer's patch part of the object; whether it changed anything.
fn apply(
    review: &mut Review<'_>,
    hook: &Hook,
    row: &api_types::kinds::Kind,
    answer: Answer,
) -> Result<bool, Status> {
    let Some(wanted) = answer.patch.filter(|p| p.as_array().is_none_or(|ops| !ops.is_empty())) else {
        return Ok(false);
    };
    if review.new.is_none() {
        let name = &hook.name;
        let why = format!(
            "admission webhook {name:?} attempted to modify the object, which is not supported for this operation"
        );
        return Err(Status::internal(why));
    }
    let patched = patch::json(&shown(review, row), &wanted).map_err(Status::internal)?;
    let mut patched = from_row(review, row, patched);
    if review.subresource.is_empty() {
        set_defaults(review.kind, &mut patched);
    }
    let Some(object) = review.new.as_deref_mut().filter(|object| **object != patched) else {
        return Ok(false);
    };
    *object = patched;
    Ok(true)
}

/// Remembers who was asked, and who must be asked again because of it.
fn note(review: &mut Review<'_>, hook: &Hook, place: usize, changed: bool) {
    let round = u8::from(review.rounds.is_second);
    let fact = json!({ "configuration": hook.configuration, "webhook": hook.name, "mutated": changed });
    let key = format!("mutation.webhook.admission.k8s.io/round_{round}_index_{place}");
    review.notes.annotate(key, fact.to_string());
    let called = &mut review.rounds.webhooks;
    if changed {
        let attentive = std::mem::take(&mut called.attentive);
        called.due.extend(attentive);
        review.rounds.again = true;
    }
    if hook.reinvoked {
        review.rounds.webhooks.attentive.insert(hook.id());
    }
}
