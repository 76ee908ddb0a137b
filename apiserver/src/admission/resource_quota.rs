//! ResourceQuota: what a namespace may hold. The usage is charged in the revision that stores the object, so
//! that of two writers who both would just fit one is refused; a namespace's writers take turns for it.

mod turns;

use api_types::quantity::Quantity;
use api_types::quota::{self, Usage};
use api_types::status::Status;
use serde_json::{Map, Value, json};

pub(crate) use self::turns::Turns;
use super::{Alongside, AsyncPlugin, Operation, Review};
use crate::store::Key;

pub(crate) struct ResourceQuota;

const QUOTAS: &str = "resourcequotas";

impl AsyncPlugin for ResourceQuota {
    const NAME: &'static str = "ResourceQuota";

    fn concerns(review: &Review<'_>) -> bool {
        is_charged(review) && !review.view.objects(QUOTAS, Some(review.namespace)).is_empty()
    }

    async fn validate(review: &Review<'_>) -> Result<(), Status> {
        let Some(new) = review.new.as_deref() else { return Ok(()) };
        let delta = delta(review, new);
        // Nothing is kept of a dry run, so it waits for nobody.
        let mut turn = match review.options.is_dry_run() {
            true => None,
            false => Some(review.state.turns.take(review.namespace).await),
        };
        for stored in review.view.objects(QUOTAS, Some(review.namespace)) {
            if let Some(used) = charge(review, new, &delta, &stored)? {
                let mut next = Value::clone(&stored);
                next["status"]["used"] = used;
                let text = |field: &str| stored["metadata"][field].as_str().unwrap_or_default();
                review.notes.write_alongside(Alongside {
                    key: Key::new(QUOTAS, review.namespace, text("name")),
                    revision: text("resourceVersion").parse().map_err(Status::internal)?,
                    object: next,
                    _turn: turn.take(),
                });
            }
        }
        Ok(())
    }
}

/// Creations are charged, and updates of what can grow.
fn is_charged(review: &Review<'_>) -> bool {
    let grows = match review.kind.storage.as_str() {
        "services" | "persistentvolumeclaims" => review.subresource.is_empty(),
        "pods" => review.subresource == "resize",
        _ => false,
    };
    let charged = match review.operation {
        Operation::Create => review.subresource.is_empty() && !review.kind.storage.is_empty(),
        Operation::Update => grows,
        _ => false,
    };
    charged && !review.namespace.is_empty()
}

/// What the object uses more than before.
fn delta(review: &Review<'_>, new: &Value) -> Usage {
    let usage = |object: &Value| quota::usage(&review.kind.group, &review.kind.plural, object);
    let before = review.old.map(usage).unwrap_or_default();
    let mut delta = usage(new);
    for (name, amount) in &mut delta {
        *amount = *amount - before.get(name).copied().unwrap_or(Quantity::ZERO);
    }
    delta.retain(|_, amount| !amount.is_zero() && !amount.is_negative());
    delta
}

/// The quota's new `status.used`, if the object is counted in it.
fn charge(review: &Review<'_>, new: &Value, delta: &Usage, stored: &Value) -> Result<Option<Value>, Status> {
    let (group, plural) = (&review.kind.group, &review.kind.plural);
    let name = stored["metadata"]["name"].as_str().unwrap_or_default();
    // Until the controller has seen a new quota, it is what its author wants.
    let status = &stored["status"];
    let hard =
        quota::read(if status["hard"].is_object() { &status["hard"] } else { &stored["spec"]["hard"] });
    let used = quota::read(&status["used"]);
    let mine: Vec<&str> =
        hard.keys().map(String::as_str).filter(|name| quota::is_about(group, plural, name)).collect();
    if mine.is_empty() || !quota::is_in_scope(&stored["spec"], group, plural, new) {
        return Ok(None);
    }
    if let Some(missing) = quota::undeclared(group, plural, mine.iter().copied(), new) {
        return Err(review.forbidden(&format!("failed quota: {name}: must specify {missing}")));
    }
    if mine.iter().any(|resource| !used.contains_key(*resource)) {
        let resources = mine.join(",");
        return Err(review.forbidden(&format!("status unknown for quota: {name}, resources: {resources}")));
    }
    let requested: Usage =
        delta.iter().filter(|(name, _)| hard.contains_key(*name)).map(|(n, q)| (n.clone(), *q)).collect();
    let sum = |resource: &str| used.get(resource).copied().unwrap_or_default() + requested[resource];
    let exceeded: Vec<&str> =
        requested.keys().map(String::as_str).filter(|resource| sum(resource) > hard[*resource]).collect();
    if !exceeded.is_empty() {
        let shown = |amounts: &Usage| -> String {
            let one = |resource: &&str| {
                format!("{resource}={}", amounts.get(*resource).copied().unwrap_or_default())
            };
            exceeded.iter().map(one).collect::<Vec<_>>().join(",")
        };
        let (wanted, had, limit) = (shown(&requested), shown(&used), shown(&hard));
        return Err(review.forbidden(&format!(
            "exceeded quota: {name}, requested: {wanted}, used: {had}, limited: {limit}"
        )));
    }
    if requested.is_empty() {
        return Ok(None);
    }
    let mut next = stored["status"]["used"].as_object().cloned().unwrap_or_else(Map::new);
    for resource in requested.keys() {
        next.insert(resource.clone(), json!(sum(resource).to_string()));
    }
    Ok(Some(Value::Object(next)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::UserInfo;
    use crate::admission::fixture::review;
    use crate::view::fixture::Fixture;

    fn quota(hard: Value, used: Value) -> Fixture {
        let metadata = json!({"name": "q", "namespace": "ns", "resourceVersion": "7"});
        let quota =
            json!({"metadata": metadata, "spec": {"hard": hard}, "status": {"hard": hard, "used": used}});
        Fixture::default().with(QUOTAS, quota)
    }

    fn charged(world: &Fixture, object: Value) -> Result<Value, String> {
        let user = UserInfo::admin();
        review(world, &user, Operation::Create, "pods", "", None, Some(object), |review| {
            let delta = delta(review, review.new.as_deref().unwrap_or(&Value::Null));
            let stored = review.view.object(QUOTAS, "ns", "q").unwrap();
            let charged = charge(review, review.new.as_deref().unwrap_or(&Value::Null), &delta, &stored);
            charged.map(Option::unwrap_or_default).map_err(|status| status.message)
        })
    }

    fn pod(cpu: &str) -> Value {
        json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": {"containers": [
            {"name": "a", "resources": {"requests": {"cpu": cpu}}}]}})
    }

    #[test]
    fn what_fits_is_charged_and_what_does_not_is_told_why() {
        let world =
            quota(json!({"pods": "2", "requests.cpu": "1"}), json!({"pods": "1", "requests.cpu": "500m"}));
        assert_eq!(charged(&world, pod("200m")), Ok(json!({"pods": "2", "requests.cpu": "700m"})));
        assert_eq!(
            charged(&world, pod("600m")).unwrap_err(),
            "pods \"p\" is forbidden: exceeded quota: q, requested: requests.cpu=600m, used: requests.cpu=500m, limited: requests.cpu=1"
        );
    }

    #[test]
    fn what_is_limited_must_be_declared_and_known() {
        let world = quota(json!({"limits.memory": "1Gi"}), json!({"limits.memory": "0"}));
        assert_eq!(
            charged(&world, pod("1")).unwrap_err(),
            "pods \"p\" is forbidden: failed quota: q: must specify limits.memory for: a"
        );
        assert_eq!(
            charged(&quota(json!({"pods": "1"}), json!({})), pod("1")).unwrap_err(),
            "pods \"p\" is forbidden: status unknown for quota: q, resources: pods"
        );
        assert_eq!(charged(&quota(json!({"secrets": "1"}), json!({})), pod("1")), Ok(Value::Null));
    }
}
