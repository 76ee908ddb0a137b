//! Parameters: the objects that a binding names, one evaluation of the policy for each.

use std::sync::Arc;

use api_types::kinds::Kind;
use api_types::selectors::LabelSelector;
use serde_json::Value;

use super::{Binding, Policy};
use crate::admission::Review;
use crate::rest::convert_object;

/// The parameters of a binding for this request; `None` in the list is one evaluation without any. An empty
/// list is none at all.
pub(crate) fn find(
    review: &Review<'_>,
    policy: &Policy,
    binding: &Binding,
) -> Result<Vec<Option<Arc<Value>>>, String> {
    let (Some((api_version, kind)), Some(reference)) = (&policy.param_kind, &binding.param_ref) else {
        return Ok(vec![None]);
    };
    let Some(row) = row_of(review, api_version, kind) else {
        return Err(format!(
            "failed to find resource referenced by paramKind: '{}'",
            shown(api_version, kind)
        ));
    };
    let namespace = namespace_of(review, &row, reference)?;
    let found = select(review, &row, &namespace, reference)?;
    if found.is_empty() && reference["parameterNotFoundAction"] == "Deny" {
        return Err("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned());
    }
    Ok(found.into_iter().map(Some).collect())
}

fn row_of(review: &Review<'_>, api_version: &str, kind: &str) -> Option<Arc<Kind>> {
    let table = review.registry.table();
    table.rows().iter().find(|row| row.kind == kind && row.api_version() == api_version).cloned()
}

fn shown(api_version: &str, kind: &str) -> String {
    format!("{api_version}, Kind={kind}")
}

fn namespace_of(review: &Review<'_>, row: &Kind, reference: &Value) -> Result<String, String> {
    let named = reference["namespace"].as_str().unwrap_or_default();
    match (row.is_namespaced(), named.is_empty()) {
        (false, false) => {
            Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".to_owned())
        }
        (false, true) => Ok(String::new()),
        (true, false) => Ok(named.to_owned()),
        (true, true) if review.namespace.is_empty() => {
            Err("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources"
                .to_owned())
        }
        (true, true) => Ok(review.namespace.to_owned()),
    }
}

fn select(
    review: &Review<'_>,
    row: &Arc<Kind>,
    namespace: &str,
    reference: &Value,
) -> Result<Vec<Arc<Value>>, String> {
    let storing = review.registry.storing(row);
    let converted = |object: Arc<Value>| match storing.version == row.version && storing.group == row.group {
        true => object,
        false => Arc::new(convert_object(&storing, row, (*object).clone())),
    };
    if let Some(name) = reference["name"].as_str().filter(|name| !name.is_empty()) {
        let found = review.view.object(&row.storage, namespace, name);
        return Ok(found.map(converted).into_iter().collect());
    }
    let selector = LabelSelector::from_value(&reference["selector"]).map_err(|why| why.to_string())?;
    let mut found = review.view.objects(&row.storage, Some(namespace));
    found.retain(|object| selector.matches_object(object));
    Ok(found.into_iter().map(converted).collect())
}
