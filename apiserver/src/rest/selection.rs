//! Label and field selectors of a request, matched against stored objects without parsing them.

use std::sync::Arc;

use api_types::kinds::Kind;
use api_types::selectors::{FieldSelector, LabelSelector};
use api_types::status::Status;
use serde_json::Value;

use crate::cache::{Sought, Stored};
use crate::request_info::Query;
use crate::strategy::conversion;

/// Which objects a list, watch or deletion is about.
#[derive(Clone, Debug, Default)]
pub(super) struct Selection {
    labels: LabelSelector,
    fields: FieldSelector,
    /// What every object that matches has.
    sought: Sought,
}

impl Selection {
    /// Reads `labelSelector` and `fieldSelector`; a field that the kind does not offer is an error.
    pub(super) fn parse(kind: &Kind, query: &Query) -> Result<Self, Status> {
        let labels = LabelSelector::parse(query.get("labelSelector").unwrap_or_default())
            .map_err(|e| Status::bad_request(e.to_string()))?;
        let mut fields = FieldSelector::parse(query.get("fieldSelector").unwrap_or_default())
            .map_err(|e| Status::bad_request(e.to_string()))?;
        for term in &mut fields.terms {
            let known = matches!(term.path.as_str(), "metadata.name")
                || (term.path == "metadata.namespace" && names_namespaces(kind))
                || kind.is_selectable(&term.path);
            // Where a group has no conversions of its own, those of all kinds refuse.
            let is_plain =
                kind.custom.is_none() && !kind.group.is_empty() && kind.selectable_fields.is_empty();
            if !known && is_plain {
                return Err(Status::bad_request(format!(
                    "{:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
                    term.path
                )));
            }
            if !known && kind.custom.is_some() {
                return Err(Status::bad_request(format!("field label not supported: {}", term.path)));
            }
            if !known {
                let path = &term.path;
                return Err(Status::bad_request(format!(
                    "Unable to find {:?} that match label selector {:?}, field selector {:?}: \
                     field label not supported: {path}",
                    format!("{}, Resource={}", kind.api_version(), kind.plural),
                    query.get("labelSelector").unwrap_or_default(),
                    query.get("fieldSelector").unwrap_or_default(),
                )));
            }
            term.path = conversion::stored_field(kind, &term.path).into_owned();
        }
        let mut sought = Sought::default();
        labels.required().for_each(|(name, value)| sought.labels.add(name, value));
        // Name and namespace are no indexed fields, and the empty value is that of an absent one, too.
        let indexed = fields
            .terms
            .iter()
            .filter(|term| term.equal && !term.value.is_empty() && !term.path.starts_with("metadata."));
        indexed.for_each(|term| sought.fields.add(&term.path, &term.value));
        Ok(Self { labels, fields, sought })
    }

    pub(super) fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    /// The one name that matches, if the selector says so.
    pub(super) fn name(&self) -> Option<&str> {
        self.fields.required("metadata.name")
    }

    /// The one node whose pods match, if the selector says so.
    pub(super) fn node(&self) -> Option<&str> {
        self.fields.required("spec.nodeName").filter(|n| !n.is_empty())
    }

    pub(super) fn namespace(&self) -> Option<&str> {
        self.fields.required("metadata.namespace").filter(|n| !n.is_empty())
    }

    pub(super) fn matches(&self, stored: &Stored) -> bool {
        stored.may_have(&self.sought)
            && self.labels.matches_with(|key| stored.label(key))
            && self.fields.matches_with(|path| stored.field(path))
    }

    /// The same for an object that is not stored.
    pub(super) fn matches_object(&self, object: &Value) -> bool {
        self.labels.matches_object(object) && self.fields.matches_object(object)
    }

    /// The selection as a watch's filter.
    pub(super) fn filter(&self) -> Arc<dyn Fn(&Stored) -> bool + Send + Sync> {
        let selection = self.clone();
        Arc::new(move |stored| selection.matches(stored))
    }
}

/// Whether a selector may name the namespace: also of objects that have none, where the kind has no rules of its own
/// for what may be named.
fn names_namespaces(kind: &Kind) -> bool {
    kind.is_namespaced() || (kind.custom.is_none() && kind.selectable_fields.is_empty())
}

#[cfg(test)]
mod tests {
    use api_types::kinds::find_resource;

    use super::*;

    #[test]
    fn the_namespace_is_named_where_the_kind_knows_it() {
        for (group, plural, named) in [
            ("", "pods", true),
            ("", "nodes", false),
            ("", "namespaces", false),
            ("", "persistentvolumes", true),
            ("certificates.k8s.io", "certificatesigningrequests", false),
        ] {
            assert_eq!(names_namespaces(find_resource(group, "v1", plural).unwrap()), named, "{plural}");
        }
    }
}
