//! A service outside that decides: asked with a SubjectAccessReview, its answers kept for a while.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api_types::cel::{Activation, Environment, Type, Value as Cel};
use api_types::policy::Conditions;
use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::warn;

use super::{Attributes, Decision, Requirement};
use crate::backend::Backends;
use crate::remote::Remote;

/// What a webhook is configured with.
pub(crate) struct WebhookConfig {
    pub(crate) name: String,
    pub(crate) remote: Remote,
    pub(crate) timeout: Duration,
    /// How long answers are kept; zero keeps none.
    pub(crate) authorized_ttl: Duration,
    pub(crate) unauthorized_ttl: Duration,
    /// `v1` or `v1beta1`.
    pub(crate) version: String,
    /// Whether a request is refused when the webhook cannot be asked.
    pub(crate) denies_on_failure: bool,
    pub(crate) conditions: Conditions,
}

/// Answers kept, and the longest question that one is kept of.
const KEPT_MAX: usize = 8192;
const KEPT_BYTES_MAX: usize = 10_000;

pub(crate) struct Webhook {
    config: WebhookConfig,
    backends: Arc<Backends>,
    kept: Mutex<HashMap<String, (Decision, Instant)>>,
}

/// The variable `request` of match conditions.
pub(crate) fn environment() -> Environment {
    let texts = |names: &[&str]| -> Vec<(String, Type)> {
        names.iter().map(|name| ((*name).to_owned(), Type::String)).collect()
    };
    let requirement = || {
        let mut fields = texts(&["key", "operator"]);
        fields.push(("values".to_owned(), Type::list(Type::String)));
        Type::object("kubernetes.SelectorRequirement", fields)
    };
    let selector = |name: &str| {
        let mut fields = texts(&["rawSelector"]);
        fields.push(("requirements".to_owned(), Type::list(requirement())));
        Type::object(name, fields)
    };
    let mut resource = texts(&["namespace", "verb", "group", "version", "resource", "subresource", "name"]);
    resource.push(("fieldSelector".to_owned(), selector("kubernetes.FieldSelectorAttributes")));
    resource.push(("labelSelector".to_owned(), selector("kubernetes.LabelSelectorAttributes")));
    let mut request = texts(&["user", "uid"]);
    request.extend([
        ("resourceAttributes".to_owned(), Type::object("kubernetes.ResourceAttributes", resource)),
        (
            "nonResourceAttributes".to_owned(),
            Type::object("kubernetes.NonResourceAttributes", texts(&["path", "verb"])),
        ),
        ("groups".to_owned(), Type::list(Type::String)),
        ("extra".to_owned(), Type::map(Type::String, Type::list(Type::String))),
    ]);
    Environment::new().variable("request", Type::object("kubernetes.SubjectAccessReviewSpec", request))
}

impl Webhook {
    pub(crate) fn new(config: WebhookConfig, backends: Arc<Backends>) -> Self {
        Self { config, backends, kept: Mutex::default() }
    }

    /// The decision, asked for if it is not kept.
    pub(crate) async fn ask(&self, attributes: &Attributes) -> Decision {
        let spec = match self.question(attributes) {
            Ok(spec) => spec,
            Err(decision) => return decision,
        };
        let question = spec.to_string();
        if let Some(kept) = self.find(&question) {
            return kept;
        }
        let review = json!({"apiVersion": format!("authorization.k8s.io/{}", self.config.version),
            "kind": "SubjectAccessReview", "metadata": {}, "spec": self.in_version(spec)});
        let asked =
            self.config.remote.post(&self.backends, Bytes::from(review.to_string()), self.config.timeout);
        match asked.await {
            Ok(answer) => self.keep(question, decision(&answer["status"])),
            Err(problem) => {
                warn!(webhook = self.config.name, %problem, "the authorization webhook cannot be asked");
                self.failed(String::new())
            }
        }
    }

    /// The decision where nobody can wait for the webhook: what is kept, or a refusal.
    pub(crate) fn known(&self, attributes: &Attributes) -> Decision {
        match self.question(attributes) {
            Err(decision) => decision,
            Ok(spec) => self.find(&spec.to_string()).unwrap_or_else(|| {
                Decision::Deny(format!("the authorizer {:?} was not asked about it before", self.config.name))
            }),
        }
    }

    /// What to ask, or the decision if the webhook is not concerned.
    fn question(&self, attributes: &Attributes) -> Result<Value, Decision> {
        if !self.config.conditions.is_empty() {
            let seen = json_of(attributes, true);
            let activation = Activation::new().with("request", Cel::json(&seen));
            match self.config.conditions.hold(&activation) {
                Ok(true) => {}
                Ok(false) => return Err(Decision::NoOpinion(String::new())),
                Err(why) => {
                    warn!(webhook = self.config.name, why, "the match conditions of an authorizer failed");
                    return Err(self.failed(String::new()));
                }
            }
        }
        Ok(json_of(attributes, false))
    }

    fn failed(&self, why: String) -> Decision {
        match self.config.denies_on_failure {
            true => Decision::Deny(why),
            false => Decision::NoOpinion(why),
        }
    }

    /// The old version calls the groups otherwise.
    fn in_version(&self, mut spec: Value) -> Value {
        if self.config.version == "v1beta1"
            && let Some(fields) = spec.as_object_mut()
            && let Some(groups) = fields.shift_remove("groups")
        {
            fields.insert("group".to_owned(), groups);
        }
        spec
    }

    fn find(&self, question: &str) -> Option<Decision> {
        let kept = self.kept.lock();
        kept.get(question).filter(|(_, until)| *until > Instant::now()).map(|(decision, _)| decision.clone())
    }

    fn keep(&self, question: String, decision: Decision) -> Decision {
        let life = match decision {
            Decision::Allow(_) => self.config.authorized_ttl,
            _ => self.config.unauthorized_ttl,
        };
        if !life.is_zero() && question.len() <= KEPT_BYTES_MAX {
            let (now, mut kept) = (Instant::now(), self.kept.lock());
            if kept.len() >= KEPT_MAX {
                kept.retain(|_, (_, until)| *until > now);
            }
            if kept.len() >= KEPT_MAX {
                kept.clear();
            }
            kept.insert(question, (decision.clone(), now + life));
        }
        decision
    }
}

fn decision(status: &Value) -> Decision {
    let reason = status["reason"].as_str().unwrap_or_default().to_owned();
    match (status["denied"] == true, status["allowed"] == true) {
        (true, true) => {
            Decision::Deny("webhook subject access review returned both allow and deny response".into())
        }
        (true, false) => Decision::Deny(reason),
        (false, true) => Decision::Allow(reason),
        (false, false) => Decision::NoOpinion(reason),
    }
}

/// The spec of a review; `whole` has empty fields too, as expressions see it.
fn json_of(attributes: &Attributes, whole: bool) -> Value {
    let user = &attributes.user;
    let mut spec = json!({"user": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra});
    let mut about = match attributes.is_resource() {
        false => json!({"path": attributes.path, "verb": attributes.verb}),
        true => json!({
            "namespace": attributes.namespace, "verb": attributes.verb, "group": attributes.group,
            "version": attributes.version, "resource": attributes.resource,
            "subresource": attributes.subresource, "name": attributes.name,
        }),
    };
    for (field, requirements) in
        [("fieldSelector", &attributes.field_requirements), ("labelSelector", &attributes.label_requirements)]
    {
        if !requirements.is_empty() {
            about[field] =
                json!({"requirements": requirements.iter().map(Requirement::to_json).collect::<Vec<_>>()});
        }
    }
    if !whole {
        for object in [&mut spec, &mut about] {
            drop_empty(object);
        }
    }
    let field = if attributes.is_resource() { "resourceAttributes" } else { "nonResourceAttributes" };
    spec[field] = about;
    spec
}

fn drop_empty(object: &mut Value) {
    if let Some(fields) = object.as_object_mut() {
        fields.retain(|_, value| {
            let is_empty = match value {
                Value::String(text) => text.is_empty(),
                Value::Array(items) => items.is_empty(),
                Value::Object(fields) => fields.is_empty(),
                _ => false,
            };
            !is_empty
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::UserInfo;

    fn list_pods() -> Attributes {
        let pods = Requirement { key: "a".into(), operator: "In", values: vec!["b".into()] };
        Attributes {
            user: UserInfo::new("jane", &["dev"]),
            verb: "list".into(),
            version: "v1".into(),
            resource: "pods".into(),
            label_requirements: vec![pods],
            ..Attributes::default()
        }
    }

    #[test]
    fn a_request_is_asked_about_as_kubernetes_does() {
        assert_eq!(
            json_of(&list_pods(), false),
            json!({"user": "jane", "groups": ["dev"], "resourceAttributes": {"verb": "list", "version": "v1", "resource": "pods",
                "labelSelector": {"requirements": [{"key": "a", "operator": "In", "values": ["b"]}]}}})
        );
        let path = Attributes { path: "/metrics".into(), verb: "get".into(), ..Attributes::default() };
        assert_eq!(
            json_of(&path, false),
            json!({"nonResourceAttributes": {"path": "/metrics", "verb": "get"}})
        );
    }

    #[test]
    fn conditions_see_whether_a_resource_is_asked_for_and_with_what() {
        let hold = |text: &str, attributes: &Attributes| {
            let conditions = Conditions::compile(&environment(), &json!([{"expression": text}]));
            assert!(conditions.expressions().all(|(_, e)| e.error().is_none()), "{text}");
            let seen = json_of(attributes, true);
            conditions.hold(&Activation::new().with("request", Cel::json(&seen)))
        };
        assert_eq!(hold("has(request.resourceAttributes)", &list_pods()), Ok(true));
        assert_eq!(hold("has(request.nonResourceAttributes)", &list_pods()), Ok(false));
        assert_eq!(hold("request.resourceAttributes.namespace == ''", &list_pods()), Ok(true));
        assert_eq!(hold("!('system:masters' in request.groups)", &list_pods()), Ok(true));
        let selected = "request.resourceAttributes.labelSelector.requirements.exists(r, r.key == 'a' && 'b' in r.values)";
        assert_eq!(hold(selected, &list_pods()), Ok(true));
    }

    #[test]
    fn an_answer_allows_refuses_or_says_nothing() {
        assert_eq!(decision(&json!({"allowed": true, "reason": "x"})), Decision::Allow("x".into()));
        assert_eq!(decision(&json!({"denied": true})), Decision::Deny(String::new()));
        assert_eq!(decision(&json!({})), Decision::NoOpinion(String::new()));
        assert!(matches!(decision(&json!({"allowed": true, "denied": true})), Decision::Deny(_)));
    }
}
