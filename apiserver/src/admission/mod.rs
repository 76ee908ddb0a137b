//! What may enter: a table of plugins, first those that change an object, then those that only refuse.
//!
//! The generic path calls [`mutate`] after the strategy's defaults and [`validate`] after validation. A
//! plugin sees the object as it will be stored and the cluster through [`View`]; it does no I/O.

pub(crate) mod default_toleration_seconds;
pub(crate) mod limit_ranger;
pub(crate) mod namespace_lifecycle;
pub(crate) mod node_restriction;
pub(crate) mod priority;
pub(crate) mod rbac_escalation;
pub(crate) mod service_account;
pub(crate) mod taint_nodes_by_condition;

use api_types::kinds::Kind;
use api_types::status::Status;
use serde_json::Value;

use crate::UserInfo;
use crate::authz::Authorizers;
use crate::view::View;

/// What is done to the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
}

/// One write on its way to the store.
pub(crate) struct Review<'a> {
    pub(crate) operation: Operation,
    pub(crate) kind: &'a Kind,
    /// Empty for the object itself.
    pub(crate) subresource: &'a str,
    pub(crate) namespace: &'a str,
    /// Empty when the server is to generate it.
    pub(crate) name: &'a str,
    pub(crate) user: &'a UserInfo,
    /// The stored object for updates and deletions.
    pub(crate) old: Option<&'a Value>,
    /// The object as it will be stored; the body of a subresource create (Binding, Eviction, TokenRequest).
    pub(crate) new: Option<&'a mut Value>,
    pub(crate) view: &'a dyn View,
    pub(crate) authorizers: &'a Authorizers,
}

impl Review<'_> {
    /// Whether this is a write of the object itself (no subresource) of the storing row `storage`.
    pub(crate) fn is_of(&self, storage: &str) -> bool {
        self.kind.storage == storage && self.subresource.is_empty()
    }

    pub(crate) fn creates(&self, storage: &str) -> bool {
        self.operation == Operation::Create && self.is_of(storage)
    }

    /// A 403 about the object under review.
    pub(crate) fn forbidden(&self, why: &str) -> Status {
        Status::forbidden(self.kind, self.name, why)
    }
}

/// One admission plugin, named as in Kubernetes.
///
/// `admit` may change `review.new`; it runs before validation, so what it leaves is validated. `validate`
/// must not change anything. Both must give the same answer for the same review: a dry run calls them too.
pub(crate) trait Plugin: Send + Sync + 'static {
    const NAME: &'static str;

    fn admit(_review: &mut Review<'_>) -> Result<(), Status> {
        Ok(())
    }

    fn validate(_review: &Review<'_>) -> Result<(), Status> {
        Ok(())
    }
}

/// A plugin's row.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    admit: fn(&mut Review<'_>) -> Result<(), Status>,
    validate: fn(&Review<'_>) -> Result<(), Status>,
}

const fn def<P: Plugin>() -> Row {
    Row { name: P::NAME, admit: P::admit, validate: P::validate }
}

/// All plugins, in the order in which they run.
pub(crate) static PLUGINS: &[Row] = &[
    def::<namespace_lifecycle::NamespaceLifecycle>(),
    def::<limit_ranger::LimitRanger>(),
    def::<service_account::ServiceAccount>(),
    def::<node_restriction::NodeRestriction>(),
    def::<taint_nodes_by_condition::TaintNodesByCondition>(),
    def::<priority::Priority>(),
    def::<default_toleration_seconds::DefaultTolerationSeconds>(),
    def::<rbac_escalation::RbacEscalation>(),
];

/// Runs the mutating half of every plugin.
pub(crate) fn mutate(review: &mut Review<'_>) -> Result<(), Status> {
    PLUGINS.iter().try_for_each(|row| noted(row.name, (row.admit)(review)))
}

/// Runs the validating half of every plugin.
pub(crate) fn validate(review: &Review<'_>) -> Result<(), Status> {
    PLUGINS.iter().try_for_each(|row| noted(row.name, (row.validate)(review)))
}

fn noted(plugin: &str, outcome: Result<(), Status>) -> Result<(), Status> {
    if let Err(refusal) = &outcome {
        tracing::debug!(plugin, %refusal, "admission refused");
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::PLUGINS;

    #[test]
    fn every_file_of_the_folder_is_a_row() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/admission");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "mod.rs")
            .map(|name| name.trim_end_matches(".rs").replace('_', ""))
            .collect();
        let mut rows: Vec<String> = PLUGINS.iter().map(|row| row.name.to_lowercase()).collect();
        files.sort();
        rows.sort();
        assert_eq!(rows, files);
    }
}

#[cfg(test)]
pub(crate) mod fixture {
    //! One plugin on one object.

    use std::sync::Arc;

    use super::{Authorizers, Operation, Plugin, Review, Status, UserInfo, Value, View};
    use crate::view::fixture::Fixture;

    #[expect(clippy::too_many_arguments, reason = "a review has this many parts")]
    pub(crate) fn review<T>(
        view: &dyn View,
        user: &UserInfo,
        operation: Operation,
        storage: &str,
        subresource: &str,
        old: Option<&Value>,
        mut new: Option<Value>,
        ask: impl FnOnce(&mut Review<'_>) -> T,
    ) -> T {
        let kind = api_types::kinds::builtin().iter().find(|k| k.storage == storage).unwrap();
        let authorizers = Authorizers::new(Arc::new(Fixture::default()));
        let subject = new.clone().or(old.cloned()).unwrap_or_default();
        let text = |field: &str| subject["metadata"][field].as_str().unwrap_or_default().to_owned();
        let (namespace, name) = (text("namespace"), text("name"));
        ask(&mut Review {
            operation,
            kind,
            subresource,
            namespace: &namespace,
            name: &name,
            user,
            old,
            new: new.as_mut(),
            view,
            authorizers: &authorizers,
        })
    }

    /// The object as the plugin leaves it at creation.
    pub(crate) fn admit<P: Plugin>(view: Fixture, storage: &str, object: Value) -> Result<Value, Status> {
        let user = UserInfo::admin();
        review(&view, &user, Operation::Create, storage, "", None, Some(object), |review| {
            P::admit(review).map(|()| review.new.as_deref().cloned().unwrap_or_default())
        })
    }

    /// What the validating half says about an operation on a stored object.
    pub(crate) fn validate<P: Plugin>(
        view: Fixture,
        operation: Operation,
        storage: &str,
        old: Value,
    ) -> Result<(), Status> {
        let user = UserInfo::admin();
        review(&view, &user, operation, storage, "", Some(&old), None, |review| P::validate(review))
    }
}
