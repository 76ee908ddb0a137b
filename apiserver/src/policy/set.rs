//! All policies of one sort with their bindings, as they are now.

use std::collections::HashMap;
use std::sync::Arc;

use api_types::cel::Type;
use api_types::kinds::Kind;
use api_types::policy::Compiled;
use parking_lot::Mutex;
use serde_json::Value;

use crate::matching::{Selection, texts};
use crate::view::{Version, View};

/// The two sorts of policies.
pub(crate) struct Sort {
    pub(crate) policies: &'static str,
    pub(crate) bindings: &'static str,
    pub(crate) mutates: bool,
}

/// A policy that at least one binding puts in force.
pub(crate) struct Policy {
    pub(crate) name: String,
    pub(crate) selection: Selection,
    /// Whether a request passes when the policy cannot be evaluated.
    pub(crate) fails_open: bool,
    /// Version and kind.
    pub(crate) param_kind: Option<(String, String)>,
    /// Whether it is to be evaluated again when others change the object after it.
    pub(crate) reinvoked: bool,
    pub(crate) compiled: Arc<Compiled>,
    pub(crate) bindings: Vec<Binding>,
}

pub(crate) struct Binding {
    pub(crate) name: String,
    pub(crate) selection: Selection,
    pub(crate) param_ref: Option<Value>,
    /// `Deny`, `Warn`, `Audit`.
    pub(crate) actions: Vec<String>,
}

/// Policies do not judge what could lock the administrator out, nor questions that are never stored.
pub(crate) fn is_exempt(kind: &Kind) -> bool {
    const POLICIES: &[&str] = &[
        "mutatingadmissionpolicies",
        "mutatingadmissionpolicybindings",
        "validatingadmissionpolicies",
        "validatingadmissionpolicybindings",
    ];
    match kind.group.as_str() {
        "admissionregistration.k8s.io" => POLICIES.contains(&kind.plural.as_str()),
        "authentication.k8s.io" | "authorization.k8s.io" => true,
        _ => false,
    }
}

/// The policies of one sort; read again only when a policy or a binding has changed, and compiled again only
/// when its generation has.
#[derive(Default)]
pub(crate) struct Policies(Mutex<Option<Kept>>);

struct Kept {
    versions: (Version, Version),
    policies: Arc<[Policy]>,
    compiled: HashMap<(String, i64), Arc<Compiled>>,
}

impl Policies {
    /// Those in force now, ordered by name.
    pub(crate) fn of(&self, view: &dyn View, sort: &Sort) -> Arc<[Policy]> {
        let versions = (view.version(sort.policies), view.version(sort.bindings));
        let mut kept = self.0.lock();
        if let Some(known) = &*kept
            && known.versions.0.is_same(&versions.0)
            && known.versions.1.is_same(&versions.1)
        {
            return known.policies.clone();
        }
        let before = kept.take().map(|kept| kept.compiled).unwrap_or_default();
        let mut compiled = HashMap::new();
        let bindings = view.objects(sort.bindings, None);
        let mut policies = Vec::new();
        for object in view.objects(sort.policies, None) {
            let bindings: Vec<Binding> = bindings
                .iter()
                .filter(|binding| binding["spec"]["policyName"] == object["metadata"]["name"])
                .map(|binding| Binding::parse(binding))
                .collect();
            if bindings.is_empty() {
                continue;
            }
            let generation = object["metadata"]["generation"].as_i64().unwrap_or_default();
            let key = (text(&object["metadata"]["uid"]), generation);
            let ready = before.get(&key).cloned();
            let ready = ready.unwrap_or_else(|| {
                Arc::new(Compiled::compile(&object["spec"], Type::Dyn, Type::Dyn, sort.mutates))
            });
            compiled.insert(key, ready.clone());
            policies.push(Policy::parse(&object, ready, bindings));
        }
        let policies: Arc<[Policy]> = policies.into();
        *kept = Some(Kept { versions, policies: policies.clone(), compiled });
        policies
    }
}

impl Policy {
    fn parse(object: &Value, compiled: Arc<Compiled>, bindings: Vec<Binding>) -> Self {
        let spec = &object["spec"];
        let kind = &spec["paramKind"];
        Self {
            name: text(&object["metadata"]["name"]),
            selection: Selection::parse(&spec["matchConstraints"], "resourceRules"),
            fails_open: spec["failurePolicy"] == "Ignore",
            param_kind: kind.is_object().then(|| (text(&kind["apiVersion"]), text(&kind["kind"]))),
            reinvoked: spec["reinvocationPolicy"] == "IfNeeded",
            compiled,
            bindings,
        }
    }
}

impl Binding {
    fn parse(object: &Value) -> Self {
        let spec = &object["spec"];
        Self {
            name: text(&object["metadata"]["name"]),
            selection: Selection::parse(&spec["matchResources"], "resourceRules"),
            param_ref: Some(&spec["paramRef"]).filter(|reference| reference.is_object()).cloned(),
            actions: texts(&spec["validationActions"]),
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
