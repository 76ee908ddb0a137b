//! NamespaceLifecycle: nothing is created in a namespace that is missing or going, and the namespaces that
//! the cluster itself needs are not deleted.

use api_types::kinds;
use api_types::status::{Cause, Details, Status};
use serde_json::Value;

use super::{Operation, Plugin, Review};

pub(crate) struct NamespaceLifecycle;

const PERMANENT: &[&str] = &["default", "kube-system", "kube-public"];

/// Reviews of access are answered, never stored, so their namespace need not exist.
const ASKED_ONLY: &[&str] = &["authorization.k8s.io", "authentication.k8s.io"];

impl Plugin for NamespaceLifecycle {
    const NAME: &'static str = "NamespaceLifecycle";

    fn admit(review: &mut Review<'_>) -> Result<(), Status> {
        check(review)
    }

    fn validate(review: &Review<'_>) -> Result<(), Status> {
        // Deletions are only validated.
        if review.operation == Operation::Delete { check(review) } else { Ok(()) }
    }
}

fn check(review: &Review<'_>) -> Result<(), Status> {
    if review.operation == Operation::Delete && review.is_of("namespaces") && PERMANENT.contains(&review.name)
    {
        return Err(review.forbidden("this namespace may not be deleted"));
    }
    let creates = review.operation == Operation::Create && review.subresource.is_empty();
    let is_asked = ASKED_ONLY.contains(&review.kind.group.as_str());
    if !creates || review.namespace.is_empty() || is_asked || review.kind.storage == "namespaces" {
        return Ok(());
    }
    let namespace =
        review.view.object("namespaces", "", review.namespace).ok_or_else(|| missing(review.namespace))?;
    match is_going(&namespace) {
        true => Err(terminating(review)),
        false => Ok(()),
    }
}

fn is_going(namespace: &Value) -> bool {
    namespace["status"]["phase"] == "Terminating" || namespace["metadata"]["deletionTimestamp"].is_string()
}

fn missing(namespace: &str) -> Status {
    match kinds::find_resource("", "v1", "namespaces") {
        Some(row) => Status::not_found(row, namespace),
        None => Status::unknown_resource(),
    }
}

fn terminating(review: &Review<'_>) -> Status {
    let namespace = review.namespace;
    let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
    let status = review.forbidden(&why);
    let cause = Cause {
        reason: "NamespaceTerminating".to_owned(),
        message: format!("namespace {namespace} is being terminated"),
        field: "metadata.namespace".to_owned(),
    };
    let details = status.details().cloned().unwrap_or_default();
    status.with_details(Details { causes: vec![cause], ..details })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admission::fixture::{admit, validate};
    use crate::view::fixture::Fixture;

    fn world() -> Fixture {
        Fixture::default()
            .with("namespaces", json!({"metadata": {"name": "here"}, "status": {"phase": "Active"}}))
            .with("namespaces", json!({"metadata": {"name": "going"}, "status": {"phase": "Terminating"}}))
    }

    fn create_in(namespace: &str) -> Result<Value, Status> {
        admit::<NamespaceLifecycle>(
            world(),
            "configmaps",
            json!({"metadata": {"name": "a", "namespace": namespace}}),
        )
    }

    #[test]
    fn objects_are_created_in_living_namespaces_only() {
        assert!(create_in("here").is_ok());
        let missing = create_in("nowhere").unwrap_err();
        assert_eq!((missing.code(), missing.message.as_str()), (404, r#"namespaces "nowhere" not found"#));
        let going = create_in("going").unwrap_err();
        assert_eq!(going.code(), 403);
        assert_eq!(
            going.message,
            r#"configmaps "a" is forbidden: unable to create new content in namespace going because it is being terminated"#
        );
        assert_eq!(going.details().unwrap().causes[0].reason, "NamespaceTerminating");
    }

    #[test]
    fn the_clusters_own_namespaces_stay() {
        let delete = |name: &str| {
            validate::<NamespaceLifecycle>(
                world(),
                Operation::Delete,
                "namespaces",
                json!({"metadata": {"name": name}}),
            )
        };
        assert_eq!(delete("kube-system").unwrap_err().code(), 403);
        assert!(delete("here").is_ok());
    }
}
