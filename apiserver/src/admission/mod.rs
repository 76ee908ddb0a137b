//! What may enter: a table of plugins, first those that change an object, then those that only refuse.
//!
//! The generic path calls [`mutate`] after the strategy's defaults and [`validate`] after validation. A
//! plugin sees the object as it will be stored and the cluster through [`Review::view`]. Most plugins decide
//! at once ([`Plugin`]); the few that have to ask or to wait are an [`AsyncPlugin`], and only those cost an
//! allocation, and only for a review that concerns them.

pub(crate) mod certificate_approval;
pub(crate) mod certificate_signing;
pub(crate) mod certificate_subject_restriction;
pub(crate) mod default_ingress_class;
pub(crate) mod default_storage_class;
pub(crate) mod default_toleration_seconds;
pub(crate) mod limit_ranger;
pub(crate) mod mutating_admission_policy;
pub(crate) mod mutating_admission_webhook;
pub(crate) mod namespace_lifecycle;
pub(crate) mod node_restriction;
pub(crate) mod persistent_volume_claim_resize;
pub(crate) mod pod_security;
pub(crate) mod priority;
pub(crate) mod rbac_escalation;
pub(crate) mod resource_claim_status_authorization;
pub(crate) mod resource_quota;
mod review;
pub(crate) mod runtime_class;
pub(crate) mod service_account;
pub(crate) mod storage_object_in_use_protection;
pub(crate) mod taint_nodes_by_condition;
pub(crate) mod validating_admission_policy;
pub(crate) mod validating_admission_webhook;

use std::future::Future;

use api_types::status::Status;
use futures::future::BoxFuture;

pub(crate) use review::{Alongside, AuditAnnotations, Notes, Operation, Options, Review, Rounds, State};

/// One admission plugin, named as in Kubernetes.
///
/// `admit` may change `review.new`; it runs before validation, so what it leaves is validated. `validate`
/// must not change anything. Both must give the same answer for the same review: a dry run calls them too.
/// What they have to say besides yes and no goes into `review.notes`.
pub(crate) trait Plugin: Send + Sync + 'static {
    const NAME: &'static str;

    fn admit(_review: &mut Review<'_>) -> Result<(), Status> {
        Ok(())
    }

    fn validate(_review: &Review<'_>) -> Result<(), Status> {
        Ok(())
    }
}

/// A plugin that asks somebody else or waits for its turn. The rules of [`Plugin`] hold.
pub(crate) trait AsyncPlugin: Send + Sync + 'static {
    const NAME: &'static str;

    /// Whether the plugin has anything to do with the review; asked before both halves, so it is cheap.
    fn concerns(review: &Review<'_>) -> bool;

    fn admit(_review: &mut Review<'_>) -> impl Future<Output = Result<(), Status>> + Send {
        std::future::ready(Ok(()))
    }

    fn validate(_review: &Review<'_>) -> impl Future<Output = Result<(), Status>> + Send {
        std::future::ready(Ok(()))
    }
}

type Outcome<'r> = BoxFuture<'r, Result<(), Status>>;

/// A plugin's row.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    step: Step,
}

enum Step {
    AtOnce {
        admit: fn(&mut Review<'_>) -> Result<(), Status>,
        validate: fn(&Review<'_>) -> Result<(), Status>,
    },
    Awaited {
        concerns: fn(&Review<'_>) -> bool,
        admit: for<'r, 'a> fn(&'r mut Review<'a>) -> Outcome<'r>,
        validate: for<'r, 'a> fn(&'r Review<'a>) -> Outcome<'r>,
    },
}

const fn def<P: Plugin>() -> Row {
    Row { name: P::NAME, step: Step::AtOnce { admit: P::admit, validate: P::validate } }
}

const fn def_async<P: AsyncPlugin>() -> Row {
    let step =
        Step::Awaited { concerns: P::concerns, admit: admit_boxed::<P>, validate: validate_boxed::<P> };
    Row { name: P::NAME, step }
}

fn admit_boxed<'r, P: AsyncPlugin>(review: &'r mut Review<'_>) -> Outcome<'r> {
    Box::pin(P::admit(review))
}

fn validate_boxed<'r, P: AsyncPlugin>(review: &'r Review<'_>) -> Outcome<'r> {
    Box::pin(P::validate(review))
}

/// All plugins, in the order in which they run: that of Kubernetes' `AllOrderedPlugins`. What RBAC refuses is
/// refused there by its storage, before any plugin validates; so is what may not be said of a claim.
pub(crate) static PLUGINS: &[Row] = &[
    def::<rbac_escalation::RbacEscalation>(),
    def::<resource_claim_status_authorization::ResourceClaimStatusAuthorization>(),
    def::<namespace_lifecycle::NamespaceLifecycle>(),
    def::<limit_ranger::LimitRanger>(),
    def_async::<service_account::ServiceAccount>(),
    def::<node_restriction::NodeRestriction>(),
    def::<taint_nodes_by_condition::TaintNodesByCondition>(),
    def::<pod_security::PodSecurity>(),
    def::<priority::Priority>(),
    def::<default_toleration_seconds::DefaultTolerationSeconds>(),
    def::<default_storage_class::DefaultStorageClass>(),
    def::<storage_object_in_use_protection::StorageObjectInUseProtection>(),
    def::<persistent_volume_claim_resize::PersistentVolumeClaimResize>(),
    def::<runtime_class::RuntimeClass>(),
    def::<certificate_approval::CertificateApproval>(),
    def::<certificate_signing::CertificateSigning>(),
    def::<certificate_subject_restriction::CertificateSubjectRestriction>(),
    def::<default_ingress_class::DefaultIngressClass>(),
    def::<mutating_admission_policy::MutatingAdmissionPolicy>(),
    def_async::<mutating_admission_webhook::MutatingAdmissionWebhook>(),
    def::<validating_admission_policy::ValidatingAdmissionPolicy>(),
    def_async::<validating_admission_webhook::ValidatingAdmissionWebhook>(),
    def_async::<resource_quota::ResourceQuota>(),
];

/// Runs the mutating half of every plugin, and once more when one of them has changed something that others
/// asked to see.
pub(crate) async fn mutate(review: &mut Review<'_>) -> Result<(), Status> {
    mutate_once(review).await?;
    if std::mem::take(&mut review.rounds.again) {
        review.rounds.is_second = true;
        mutate_once(review).await?;
    }
    Ok(())
}

async fn mutate_once(review: &mut Review<'_>) -> Result<(), Status> {
    for row in PLUGINS {
        let outcome = match &row.step {
            Step::AtOnce { admit, .. } => admit(review),
            Step::Awaited { concerns, admit, .. } if concerns(review) => admit(review).await,
            Step::Awaited { .. } => Ok(()),
        };
        noted(row.name, outcome)?;
    }
    Ok(())
}

/// Runs the validating half of every plugin.
pub(crate) async fn validate(review: &Review<'_>) -> Result<(), Status> {
    for row in PLUGINS {
        let outcome = match &row.step {
            Step::AtOnce { validate, .. } => validate(review),
            Step::Awaited { concerns, validate, .. } if concerns(review) => validate(review).await,
            Step::Awaited { .. } => Ok(()),
        };
        noted(row.name, outcome)?;
    }
    Ok(())
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
            // A folder holds the parts of the file beside it.
            .filter(|name| name.ends_with(".rs") && name != "mod.rs" && name != "review.rs")
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

    use api_types::status::Status;
    use serde_json::Value;

    use super::{AsyncPlugin, Notes, Operation, Options, Plugin, Review, Rounds, State};
    use crate::UserInfo;
    use crate::authz::Authorizers;
    use crate::discovery::Registry;
    use crate::view::View;
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
            verb: "update",
            kind,
            subresource,
            namespace: &namespace,
            name: &name,
            user,
            old,
            new: new.as_mut(),
            options: Options::Connect,
            view,
            authorizers: &authorizers,
            registry: &Registry::builtin(),
            state: &State::new(Arc::new(Fixture::default())),
            notes: &Notes::default(),
            rounds: Rounds::default(),
        })
    }

    /// The object as the plugin leaves it at creation.
    pub(crate) fn admit<P: Plugin>(view: Fixture, storage: &str, object: Value) -> Result<Value, Status> {
        let user = UserInfo::admin();
        review(&view, &user, Operation::Create, storage, "", None, Some(object), |review| {
            P::admit(review).map(|()| review.new.as_deref().cloned().unwrap_or_default())
        })
    }

    /// As [`admit`], of a plugin that may wait: time runs ahead while it does.
    pub(crate) fn admit_async<P: AsyncPlugin>(
        view: Fixture,
        storage: &str,
        object: Value,
    ) -> Result<Value, Status> {
        let user = UserInfo::admin();
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().expect("a runtime");
        review(&view, &user, Operation::Create, storage, "", None, Some(object), |review| {
            assert!(P::concerns(review));
            runtime.block_on(P::admit(review))?;
            Ok(review.new.as_deref().cloned().unwrap_or_default())
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
