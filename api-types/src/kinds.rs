//! THE table: one row per kind. Routes, storage keys, discovery, OpenAPI, RBAC names, printing and the
//! command line follow from it. A CustomResourceDefinition makes a row of the same type at run time.

use std::sync::{Arc, LazyLock};

mod custom;
mod parse;
mod retired;

pub use retired::{Retired, find_retired, retired};

pub use custom::{Custom, CustomVersion, Family, ScalePaths};

/// Whether objects live in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    Namespaced,
    Cluster,
}

/// A column of the Table that the server prints for a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    /// OpenAPI type: `string`, `integer`, `number`, `boolean`, `date`.
    pub kind: String,
    /// OpenAPI format, `name` for the column that names the object.
    pub format: String,
    pub description: String,
    /// 0 is always printed, 1 only with `-o wide`.
    pub priority: i32,
    /// For custom resources: where the cell comes from. Built-in kinds' cells come from their printer.
    pub json_path: Option<String>,
}

/// A subresource that a kind serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subresource {
    /// The last path segment: `status`, `scale`, `binding`, `log`, …
    pub name: String,
    /// Group, version and kind of its body as discovery names them.
    pub group: String,
    pub version: String,
    pub kind: String,
    pub verbs: Vec<String>,
}

/// One kind at one version: all that the generic path needs to know about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Empty for the core group.
    pub group: String,
    pub version: String,
    pub kind: String,
    pub list_kind: String,
    pub plural: String,
    pub singular: String,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    pub scope: Scope,
    pub verbs: Vec<String>,
    pub subresources: Vec<Subresource>,
    /// Where its objects are kept: `group/plural` of the storing row (`apps/deployments`, `pods`, `events`).
    /// Rows that share a prefix show the same objects under several groups or versions.
    pub storage: String,
    /// Field paths besides `metadata.name` and `metadata.namespace` that `fieldSelector` may name. One that is read
    /// elsewhere is `NAME=PATH|PATH`: the first place that has a text.
    pub selectable_fields: Vec<String>,
    pub columns: Vec<Column>,
    /// Plural and subresource through which a create of this kind is made, where the kind is nothing else.
    pub through: Option<(String, String)>,
    /// What every answer warns of.
    pub deprecation: Option<String>,
    /// The definition's name in the built-in OpenAPI document (`io.k8s.api.apps.v1.Deployment`); empty for custom kinds.
    pub definition: String,
    /// What a custom kind's definition says beyond the row.
    pub custom: Option<Custom>,
}

impl Kind {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// `deployments.apps`, `pods`: the resource's qualified name, as errors and RBAC say it.
    pub fn group_resource(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// Whether objects are kept. Others are answered (reviews) or found out when asked for.
    pub fn is_kept(&self) -> bool {
        !self.storage.is_empty()
    }

    pub fn is_namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// Whether `fieldSelector` may name `path`, besides the name and the namespace.
    pub fn is_selectable(&self, path: &str) -> bool {
        self.selectable_fields.iter().any(|field| field.split('=').next() == Some(path))
    }

    pub fn find_subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// A row for the bodies of a subresource that are of a kind of their own (`Eviction`, `TokenRequest`).
    pub fn body_of(&self, subresource: &str) -> Option<Kind> {
        let body = self.find_subresource(subresource)?;
        Some(Kind {
            group: body.group.clone(),
            version: body.version.clone(),
            kind: body.kind.clone(),
            definition: parse::definition(&body.group, &body.version, &body.kind),
            custom: None,
            ..self.clone()
        })
    }
}

/// All built-in kinds, in discovery order. Rows without storage are reviews: they are answered, never kept.
pub fn builtin() -> &'static [Arc<Kind>] {
    static ROWS: LazyLock<Vec<Arc<Kind>>> = LazyLock::new(|| {
        let rows = parse::table(include_str!("kinds/builtin.txt")).expect("a test reads the built-in table");
        rows.into_iter().map(Arc::new).collect()
    });
    &ROWS
}

/// The kinds of what is measured while pods run. Their objects are found out when somebody asks; they have no
/// definition in the built-in OpenAPI document.
pub fn measured() -> &'static [Arc<Kind>] {
    static ROWS: LazyLock<Vec<Arc<Kind>>> = LazyLock::new(|| {
        let rows = parse::table(include_str!("kinds/measured.txt")).expect("a test reads the table");
        rows.into_iter().map(|row| Arc::new(Kind { definition: String::new(), ..row })).collect()
    });
    &ROWS
}

/// The built-in row that serves `group`/`version`/`plural`.
pub fn find_resource(group: &str, version: &str, plural: &str) -> Option<&'static Arc<Kind>> {
    builtin().iter().find(|k| k.group == group && k.version == version && k.plural == plural)
}

/// The built-in row of `group`/`version`/`kind`.
pub fn find_kind(group: &str, version: &str, kind: &str) -> Option<&'static Arc<Kind>> {
    builtin().iter().find(|k| k.group == group && k.version == version && k.kind == kind)
}

/// Group and version of an `apiVersion` (`v1` is the core group's).
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(group: &str, version: &str, plural: &str, expect: Expect) {
        let k = find_resource(group, version, plural).unwrap();
        let columns: Vec<_> =
            k.columns.iter().map(|c| format!("{}:{}/{}:{}", c.name, c.kind, c.format, c.priority)).collect();
        let subresources: Vec<_> = k
            .subresources
            .iter()
            .map(|s| format!("{} {}/{} {} {:?}", s.name, s.group, s.version, s.kind, s.verbs))
            .collect();
        expect.assert_debug_eq(&(
            (&k.kind, &k.list_kind, &k.singular, k.scope, &k.short_names, &k.categories),
            (&k.storage, &k.definition, &k.selectable_fields, k.verbs.len()),
            columns,
            subresources,
        ));
    }

    #[test]
    fn what_is_measured_is_not_kept() {
        let names: Vec<_> = measured().iter().map(|row| row.group_resource()).collect();
        assert_eq!(names, ["nodes.metrics.k8s.io", "pods.metrics.k8s.io"]);
        assert!(measured().iter().all(|row| !row.is_kept() && row.definition.is_empty()));
    }

    #[test]
    fn a_row_says_everything_about_its_kind() {
        check(
            "apps",
            "v1",
            "replicasets",
            expect![[r#"
            (
                (
                    "ReplicaSet",
                    "ReplicaSetList",
                    "replicaset",
                    Namespaced,
                    [
                        "rs",
                    ],
                    [
                        "all",
                    ],
                ),
                (
                    "apps/replicasets",
                    "io.k8s.api.apps.v1.ReplicaSet",
                    [
                        "status.replicas",
                    ],
                    8,
                ),
                [
                    "Name:string/name:0",
                    "Desired:integer/:0",
                    "Current:integer/:0",
                    "Ready:integer/:0",
                    "Age:string/:0",
                    "Containers:string/:1",
                    "Images:string/:1",
                    "Selector:string/:1",
                ],
                [
                    "scale autoscaling/v1 Scale [\"get\", \"patch\", \"update\"]",
                    "status apps/v1 ReplicaSet [\"get\", \"patch\", \"update\"]",
                ],
            )
        "#]],
        );
    }

    #[test]
    fn both_event_kinds_are_kept_in_one_place() {
        let core = find_resource("", "v1", "events").unwrap();
        let events = find_resource("events.k8s.io", "v1", "events").unwrap();
        assert_eq!(core.storage, events.storage);
    }

    #[test]
    fn reviews_are_created_and_never_kept() {
        let review = find_kind("authorization.k8s.io", "v1", "SubjectAccessReview").unwrap();
        assert_eq!((review.storage.as_str(), review.verbs.as_slice()), ("", &["create".to_owned()][..]));
    }

    #[test]
    fn a_deprecated_kind_says_what_to_use_instead() {
        let endpoints = find_resource("", "v1", "endpoints").unwrap();
        let text = "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice";
        assert_eq!(endpoints.deprecation.as_deref(), Some(text));
        let health = find_resource("", "v1", "componentstatuses").unwrap();
        assert_eq!(health.deprecation.as_deref(), Some("v1 ComponentStatus is deprecated in v1.19+"));
    }

    #[test]
    fn every_row_has_its_own_path_and_every_stored_one_a_place() {
        let mut seen = std::collections::HashSet::new();
        for k in builtin() {
            assert!(seen.insert((&k.group, &k.version, &k.plural)), "{} twice", k.group_resource());
            let is_changed = k.verbs.iter().any(|verb| verb == "update");
            assert_eq!(k.is_kept(), is_changed, "{}", k.group_resource());
        }
    }
}
