//! Which requests a webhook or a policy concerns: rules, then the labels of the namespace and the object.

use std::sync::Arc;

use api_types::kinds::{self, Kind};
use api_types::selectors::LabelSelector;
use api_types::status::Status;
use serde_json::Value;

use crate::admission::{Operation, Review};

/// A broken webhook must not be able to keep anybody from removing it.
const EXEMPT: &[&str] = &[
    "mutatingadmissionpolicies",
    "mutatingadmissionpolicybindings",
    "mutatingwebhookconfigurations",
    "validatingadmissionpolicies",
    "validatingadmissionpolicybindings",
    "validatingwebhookconfigurations",
];

/// Whether the request is about what configures admission itself.
pub(crate) fn is_exempt(kind: &Kind) -> bool {
    kind.group == "admissionregistration.k8s.io" && EXEMPT.contains(&kind.plural.as_str())
}

/// What an entry of a webhook configuration, or a policy or its binding, is about.
pub(crate) struct Selection {
    rules: Vec<Rule>,
    /// What the rules do not mean, though they say it.
    excluded: Vec<Rule>,
    /// Whether rules also speak for the other versions of what they name.
    equivalent: bool,
    namespaces: LabelSelector,
    objects: LabelSelector,
}

/// Which requests a rule is for.
struct Rule {
    groups: Vec<String>,
    versions: Vec<String>,
    /// Resource and subresource; a star is any.
    resources: Vec<(String, String)>,
    operations: Vec<String>,
    scope: String,
    /// Names of objects; none is any.
    names: Vec<String>,
}

impl Selection {
    /// Reads what `given` says; its rules are in the field `rules`.
    pub(crate) fn parse(given: &Value, rules: &str) -> Self {
        let selector = |field: &str| match &given[field] {
            Value::Null => LabelSelector::everything(),
            // Validated when it was written; a selector that cannot be read selects nothing.
            given => LabelSelector::from_value(given).unwrap_or_else(|_| LabelSelector::nothing()),
        };
        let read = |field: &str| given[field].as_array().into_iter().flatten().map(Rule::parse).collect();
        Self {
            rules: read(rules),
            excluded: read("excludeResourceRules"),
            equivalent: given["matchPolicy"] != "Exact",
            namespaces: selector("namespaceSelector"),
            objects: selector("objectSelector"),
        }
    }

    /// The row in whose version the request is to be seen; nothing when it is not concerned.
    pub(crate) fn find_row(&self, review: &Review<'_>) -> Result<Option<Arc<Kind>>, Status> {
        let row = match self.named_row(review) {
            Some(row) if self.selects_object(review) => row,
            _ => return Ok(None),
        };
        Ok(self.selects_namespace(review)?.then_some(row))
    }

    /// As `find_row`, for what may leave rules out to mean every request.
    pub(crate) fn selects(&self, review: &Review<'_>) -> Result<bool, Status> {
        let named = match self.rules.is_empty() {
            true => !self.excludes(review),
            false => self.named_row(review).is_some(),
        };
        Ok(named && self.selects_object(review) && self.selects_namespace(review)?)
    }

    fn excludes(&self, review: &Review<'_>) -> bool {
        !self.excluded.is_empty() && self.matching_row(&self.excluded, review).is_some()
    }

    fn named_row(&self, review: &Review<'_>) -> Option<Arc<Kind>> {
        let row = self.matching_row(&self.rules, review)?;
        (!self.excludes(review)).then_some(row)
    }

    fn matching_row(&self, rules: &[Rule], review: &Review<'_>) -> Option<Arc<Kind>> {
        let names = |kind: &Kind| rules.iter().any(|rule| rule.matches(kind, review));
        let own = || {
            let found = review.registry.find(&review.kind.group, &review.kind.version, &review.kind.plural);
            found.unwrap_or_else(|| Arc::new(review.kind.clone()))
        };
        if names(review.kind) {
            return Some(own());
        }
        if !self.equivalent || review.kind.storage.is_empty() {
            return None;
        }
        let table = review.registry.table();
        let mut equivalent = table.rows().iter().filter(|row| row.storage == review.kind.storage);
        equivalent.find(|row| names(row)).cloned()
    }

    /// Either state of the object will do: a label that is being taken away must not take a webhook away.
    fn selects_object(&self, review: &Review<'_>) -> bool {
        let selects =
            |object: Option<&Value>| object.is_some_and(|object| self.objects.matches_object(object));
        self.objects.is_everything() || selects(review.new.as_deref()) || selects(review.old)
    }

    fn selects_namespace(&self, review: &Review<'_>) -> Result<bool, Status> {
        if self.namespaces.is_everything() {
            return Ok(true);
        }
        let writes = matches!(review.operation, Operation::Create | Operation::Update);
        if writes && review.is_of("namespaces") {
            return Ok(review.new.as_deref().is_some_and(|new| self.namespaces.matches_object(new)));
        }
        let name = namespace_of(review);
        if name.is_empty() {
            return Ok(true);
        }
        match review.view.object("namespaces", "", name) {
            Some(namespace) => Ok(self.namespaces.matches_object(&namespace)),
            None => Err(match kinds::find_resource("", "v1", "namespaces") {
                Some(row) => Status::not_found(row, name),
                None => Status::unknown_resource(),
            }),
        }
    }
}

impl Rule {
    fn parse(rule: &Value) -> Self {
        let split = |resource: String| match resource.split_once('/') {
            Some((resource, sub)) => (resource.to_owned(), sub.to_owned()),
            None => (resource, String::new()),
        };
        Self {
            groups: texts(&rule["apiGroups"]),
            versions: texts(&rule["apiVersions"]),
            resources: texts(&rule["resources"]).into_iter().map(split).collect(),
            operations: texts(&rule["operations"]),
            scope: rule["scope"].as_str().unwrap_or("*").to_owned(),
            names: texts(&rule["resourceNames"]),
        }
    }

    fn matches(&self, kind: &Kind, review: &Review<'_>) -> bool {
        let has = |list: &[String], wanted: &str| list.iter().any(|item| item == "*" || item == wanted);
        let mut resources = self.resources.iter();
        let scope = match self.scope.as_str() {
            "Namespaced" => kind.is_namespaced(),
            "Cluster" => !kind.is_namespaced(),
            _ => true,
        };
        scope
            && has(&self.operations, review.operation.as_str())
            && has(&self.groups, &kind.group)
            && has(&self.versions, &kind.version)
            && (self.names.is_empty() || self.names.iter().any(|name| name == review.name))
            && resources.any(|(resource, sub)| {
                (resource == "*" || *resource == kind.plural) && (sub == "*" || sub == review.subresource)
            })
    }
}

pub(crate) fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

/// The namespace that a request is about: that of the object, or the one that the object is.
pub(crate) fn namespace_of<'a>(review: &Review<'a>) -> &'a str {
    if review.kind.storage == "namespaces" { review.name } else { review.namespace }
}
