//! Owner references and labels: who controls an object, and which objects a selector means.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::Resource;

use crate::key::ObjectKey;

/// The owner that controls the object, if one does.
pub(crate) fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.as_ref()?.iter().find(|owner| owner.controller == Some(true))
}

/// The key of the controlling owner when it is of kind `K`.
pub(crate) fn controller_key<K: Resource<DynamicType = ()>>(meta: &ObjectMeta) -> Option<ObjectKey> {
    let owner = controller_of(meta)?;
    let group_matches =
        owner.api_version.split('/').next().filter(|_| owner.api_version.contains('/')).unwrap_or("")
            == K::group(&());
    let namespace = meta.namespace.clone().unwrap_or_default();
    (owner.kind == K::kind(&()) && group_matches).then(|| ObjectKey::new(namespace, owner.name.clone()))
}

/// The reference with which `owner` controls what it creates.
pub(crate) fn controller_reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.meta().name.clone().unwrap_or_default(),
        uid: owner.meta().uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Whether the object is being deleted.
pub(crate) fn is_deleting(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some()
}

/// The name in the metadata, empty when there is none.
pub(crate) fn name_of(meta: &ObjectMeta) -> &str {
    meta.name.as_deref().unwrap_or_default()
}

/// The uid in the metadata, empty when there is none.
pub(crate) fn uid_of(meta: &ObjectMeta) -> &str {
    meta.uid.as_deref().unwrap_or_default()
}

/// The value of an annotation.
pub(crate) fn annotation<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(name).map(String::as_str)
}

/// The value of a label.
pub(crate) fn label<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    meta.labels.as_ref()?.get(name).map(String::as_str)
}

/// Whether `selector` selects `labels`. An empty selector selects everything, as `metav1.LabelSelector` does;
/// a requirement with an unknown operator selects nothing.
pub(crate) fn selects(selector: &LabelSelector, labels: Option<&BTreeMap<String, String>>) -> bool {
    let empty = BTreeMap::new();
    let labels = labels.unwrap_or(&empty);
    let exact = selector.match_labels.iter().flatten().all(|(name, value)| labels.get(name) == Some(value));
    exact
        && selector.match_expressions.iter().flatten().all(|requirement| {
            let value = labels.get(&requirement.key);
            let listed = |value: &String| requirement.values.iter().flatten().any(|one| one == value);
            match requirement.operator.as_str() {
                "In" => value.is_some_and(listed),
                "NotIn" => !value.is_some_and(listed),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

/// Whether the selector has no requirement; the workload kinds take that as "nothing".
pub(crate) fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

/// What to do about an object that an owner of this kind might control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// It is ours and stays.
    Keep,
    /// It has no controller and our labels: take it.
    Adopt,
    /// It is ours but its labels are not: let it go.
    Release,
    /// It is none of our business.
    Ignore,
}

/// Decides about `object` for the owner with this uid and selector (Kubernetes' ControllerRefManager).
pub(crate) fn claim(owner: &ObjectMeta, selector: &LabelSelector, object: &ObjectMeta) -> Claim {
    let matches = !is_empty(selector) && selects(selector, object.labels.as_ref());
    let ours = controller_of(object).map(|reference| Some(&reference.uid) == owner.uid.as_ref());
    match (ours, matches) {
        (Some(true), true) => Claim::Keep,
        (Some(true), false) if is_deleting(owner) => Claim::Ignore,
        (Some(true), false) => Claim::Release,
        (None, true) if !is_deleting(owner) && !is_deleting(object) => Claim::Adopt,
        _ => Claim::Ignore,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(text: &str) -> LabelSelector {
        let (name, value) = text.split_once('=').unwrap();
        LabelSelector { match_labels: Some([(name.into(), value.into())].into()), ..Default::default() }
    }

    fn object(labels: &str, owner: Option<&str>) -> ObjectMeta {
        let (name, value) = labels.split_once('=').unwrap();
        let owner = owner.map(|uid| {
            vec![OwnerReference { uid: uid.into(), controller: Some(true), ..Default::default() }]
        });
        ObjectMeta {
            labels: Some([(name.into(), value.into())].into()),
            owner_references: owner,
            ..Default::default()
        }
    }

    fn check(labels: &str, owner: Option<&str>, expected: Claim) {
        let us = ObjectMeta { uid: Some("us".into()), ..Default::default() };
        assert_eq!(claim(&us, &selector("app=a"), &object(labels, owner)), expected);
    }

    #[test]
    fn an_orphan_with_our_labels_is_adopted() {
        check("app=a", None, Claim::Adopt);
    }

    #[test]
    fn ours_with_other_labels_is_released() {
        check("app=b", Some("us"), Claim::Release);
    }

    #[test]
    fn what_another_controls_is_ignored() {
        check("app=a", Some("them"), Claim::Ignore);
    }

    #[test]
    fn an_orphan_is_not_adopted_by_an_owner_that_goes() {
        let now = component_base::clock::time_of(chrono::DateTime::UNIX_EPOCH);
        let us = ObjectMeta { uid: Some("us".into()), deletion_timestamp: Some(now), ..Default::default() };
        assert_eq!(claim(&us, &selector("app=a"), &object("app=a", None)), Claim::Ignore);
    }
}
