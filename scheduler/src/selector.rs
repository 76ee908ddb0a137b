//! Label and node selectors, compiled once from the API's form.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

pub(crate) type Labels = BTreeMap<String, String>;

/// A list of requirements that must all hold; an empty one matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Selector {
    requirements: Vec<Requirement>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
    Above(i64),
    Below(i64),
    /// An operator or a value that cannot be understood: matches nothing.
    Never,
}

impl Selector {
    pub(crate) fn from_labels(labels: &Labels) -> Self {
        let equal = |(key, value): (&String, &String)| Requirement {
            key: key.clone(),
            test: Test::In(vec![value.clone()]),
        };
        Self { requirements: labels.iter().map(equal).collect() }
    }

    pub(crate) fn from_label_selector(selector: &LabelSelector) -> Self {
        let mut compiled = selector.match_labels.as_ref().map(Self::from_labels).unwrap_or_default();
        for expression in selector.match_expressions.iter().flatten() {
            let test = test_of(&expression.operator, expression.values.as_deref().unwrap_or_default());
            compiled.requirements.push(Requirement { key: expression.key.clone(), test });
        }
        compiled.requirements.sort();
        compiled
    }

    fn from_node_requirements(requirements: Option<&Vec<NodeSelectorRequirement>>) -> Self {
        let compile = |r: &NodeSelectorRequirement| Requirement {
            key: r.key.clone(),
            test: test_of(&r.operator, r.values.as_deref().unwrap_or_default()),
        };
        Self { requirements: requirements.into_iter().flatten().map(compile).collect() }
    }

    /// The same with `key` required to be one of (or, `included` false, none of) `values`.
    pub(crate) fn with(mut self, key: &str, value: &str, included: bool) -> Self {
        let values = vec![value.to_owned()];
        let test = if included { Test::In(values) } else { Test::NotIn(values) };
        let added = Requirement { key: key.to_owned(), test };
        if !self.requirements.contains(&added) {
            self.requirements.push(added);
            self.requirements.sort();
        }
        self
    }

    /// The same with `key` required to be one of `values`.
    pub(crate) fn with_any(mut self, key: &str, values: &[String]) -> Self {
        self.requirements.push(Requirement { key: key.to_owned(), test: Test::In(values.to_vec()) });
        self
    }

    pub(crate) fn matches(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|r| r.test.holds(labels.get(&r.key).map(String::as_str)))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }
}

fn test_of(operator: &str, values: &[String]) -> Test {
    let number = || values.first().and_then(|value| value.parse().ok());
    match operator {
        "In" => Test::In(values.to_vec()),
        "NotIn" => Test::NotIn(values.to_vec()),
        "Exists" => Test::Exists,
        "DoesNotExist" => Test::Absent,
        "Gt" => number().map_or(Test::Never, Test::Above),
        "Lt" => number().map_or(Test::Never, Test::Below),
        _ => Test::Never,
    }
}

impl Test {
    fn holds(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match (self, value) {
            (Self::In(values), Some(value)) => values.iter().any(|one| one == value),
            (Self::NotIn(values), Some(value)) => values.iter().all(|one| one != value),
            (Self::NotIn(_), None) | (Self::Absent, None) | (Self::Exists, Some(_)) => true,
            (Self::Above(bound), Some(_)) => number().is_some_and(|number| number > *bound),
            (Self::Below(bound), Some(_)) => number().is_some_and(|number| number < *bound),
            _ => false,
        }
    }
}

/// One alternative of a node selector: labels and fields (only `metadata.name`) together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeTerm {
    labels: Selector,
    fields: Selector,
    /// The names that `metadata.name In` allows, where the term has such a requirement.
    pub(crate) names: Option<Vec<String>>,
}

impl NodeTerm {
    /// An empty term matches nothing, as the API says, and so is none.
    pub(crate) fn compile(term: &NodeSelectorTerm) -> Option<Self> {
        let labels = Selector::from_node_requirements(term.match_expressions.as_ref());
        let fields = Selector::from_node_requirements(term.match_fields.as_ref());
        if labels.is_empty() && fields.is_empty() {
            return None;
        }
        let named = fields.requirements.iter().find_map(|r| match (&*r.key, &r.test) {
            ("metadata.name", Test::In(values)) => Some(values.clone()),
            _ => None,
        });
        Some(Self { labels, fields, names: named })
    }

    pub(crate) fn matches(&self, name: &str, labels: &Labels) -> bool {
        let field_holds = |r: &Requirement| r.test.holds((r.key == "metadata.name").then_some(name));
        self.fields.requirements.iter().all(field_holds) && self.labels.matches(labels)
    }
}

/// Alternatives of which one must match.
pub(crate) fn compile_terms(selector: &NodeSelector) -> Vec<NodeTerm> {
    selector.node_selector_terms.iter().filter_map(NodeTerm::compile).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn check(operator: &str, values: &[&str], matching: &[(&str, &str)]) -> bool {
        let values: Vec<String> = values.iter().map(|v| (*v).to_owned()).collect();
        let selector = Selector {
            requirements: vec![Requirement { key: "k".into(), test: test_of(operator, &values) }],
        };
        selector.matches(&labels(matching))
    }

    #[test]
    fn operators_follow_the_api() {
        assert!(check("In", &["a", "b"], &[("k", "b")]));
        assert!(!check("In", &["a"], &[]));
        assert!(check("NotIn", &["a"], &[]));
        assert!(!check("NotIn", &["a"], &[("k", "a")]));
        assert!(check("Exists", &[], &[("k", "")]));
        assert!(check("DoesNotExist", &[], &[("other", "")]));
        assert!(check("Gt", &["4"], &[("k", "5")]));
        assert!(!check("Gt", &["4"], &[("k", "x")]));
        assert!(check("Lt", &["4"], &[("k", "3")]));
        assert!(!check("Near", &["4"], &[("k", "4")]));
    }

    #[test]
    fn empty_node_term_matches_nothing() {
        assert_eq!(NodeTerm::compile(&NodeSelectorTerm::default()), None);
    }
}
