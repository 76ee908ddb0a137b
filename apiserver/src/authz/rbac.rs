//! RBAC over the live Role and Binding objects.
//!
//! The objects are compiled into an index by subject, so that a request looks at the grants of its user and
//! groups and at nothing else. The index is compiled again when the objects have changed since.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use serde_json::Value;

use super::{Attributes, Authorizer, Decision};
use crate::UserInfo;
use crate::view::{Version, View};

const GROUP: &str = "rbac.authorization.k8s.io";
const ROLES: &str = "rbac.authorization.k8s.io/roles";
const CLUSTER_ROLES: &str = "rbac.authorization.k8s.io/clusterroles";
const ROLE_BINDINGS: &str = "rbac.authorization.k8s.io/rolebindings";
const CLUSTER_ROLE_BINDINGS: &str = "rbac.authorization.k8s.io/clusterrolebindings";

/// One rule of a role, as in `rbac.authorization.k8s.io/v1` PolicyRule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) verbs: Vec<String>,
    pub(crate) groups: Vec<String>,
    pub(crate) resources: Vec<String>,
    pub(crate) names: Vec<String>,
    pub(crate) urls: Vec<String>,
}

impl Rule {
    pub(crate) fn parse(rule: &Value) -> Self {
        Self {
            verbs: texts(&rule["verbs"]),
            groups: texts(&rule["apiGroups"]),
            resources: texts(&rule["resources"]),
            names: texts(&rule["resourceNames"]),
            urls: texts(&rule["nonResourceURLs"]),
        }
    }

    /// Whether the rule allows what `attributes` want.
    pub(crate) fn allows(&self, attributes: &Attributes) -> bool {
        if !has(&self.verbs, &attributes.verb) {
            return false;
        }
        match attributes.is_resource() {
            true => {
                has(&self.groups, &attributes.group)
                    && has_resource(&self.resources, &attributes.resource, &attributes.subresource)
                    && (self.names.is_empty() || self.names.contains(&attributes.name))
            }
            false => self.urls.iter().any(|url| url_matches(url, &attributes.path)),
        }
    }

    /// Whether everything that `other`, a rule of single elements, allows is allowed by this rule.
    fn covers(&self, other: &Rule) -> bool {
        let within = |ours: &[String], theirs: &[String]| theirs.iter().all(|t| has(ours, t));
        let resources = other.resources.iter().all(|resource| {
            let (resource, sub) = resource.split_once('/').unwrap_or((resource, ""));
            has_resource(&self.resources, resource, sub)
        });
        within(&self.verbs, &other.verbs)
            && within(&self.groups, &other.groups)
            && resources
            && (self.names.is_empty() || (!other.names.is_empty() && within(&self.names, &other.names)))
            && other.urls.iter().all(|url| self.urls.iter().any(|ours| ours == url || url_matches(ours, url)))
    }

    /// The rule as many rules of one verb, group, resource and name each.
    fn singles(&self) -> Vec<Rule> {
        let mut singles = Vec::new();
        for verb in &self.verbs {
            singles.extend(self.urls.iter().map(|url| Rule {
                verbs: vec![verb.clone()],
                urls: vec![url.clone()],
                ..Rule::default()
            }));
            for (group, resource) in
                self.groups.iter().flat_map(|g| self.resources.iter().map(move |r| (g, r)))
            {
                let one = Rule {
                    verbs: vec![verb.clone()],
                    groups: vec![group.clone()],
                    resources: vec![resource.clone()],
                    ..Rule::default()
                };
                match self.names.as_slice() {
                    [] => singles.push(one),
                    names => singles
                        .extend(names.iter().map(|name| Rule { names: vec![name.clone()], ..one.clone() })),
                }
            }
        }
        singles
    }

    /// The rule in the words of Kubernetes' escalation message.
    pub(crate) fn describe(&self) -> String {
        let part = |name: &str, values: &[String]| match values {
            [] => None,
            values => Some(format!(
                "{name}:[{}]",
                values.iter().map(|v| format!("{v:?}")).collect::<Vec<_>>().join(" ")
            )),
        };
        let parts = [
            part("APIGroups", &self.groups),
            part("Resources", &self.resources),
            part("ResourceNames", &self.names),
            part("NonResourceURLs", &self.urls),
            part("Verbs", &self.verbs),
        ];
        format!("{{{}}}", parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

fn has_resource(list: &[String], resource: &str, subresource: &str) -> bool {
    list.iter().any(|item| match (item.split_once('/'), subresource) {
        (None, _) if item == "*" => true,
        (None, "") => item == resource,
        (None, _) | (Some(_), "") => false,
        (Some((r, s)), sub) => (r == "*" || r == resource) && s == sub,
    })
}

fn url_matches(url: &str, path: &str) -> bool {
    match url.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => url == path,
    }
}

/// Rules that a binding gives to a subject.
struct Grant {
    /// Empty: everywhere.
    namespace: String,
    rules: Arc<[Rule]>,
    why: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    User(String),
    Group(String),
}

#[derive(Default)]
struct Index {
    grants: HashMap<Subject, Vec<Grant>>,
    /// Bindings to roles that do not exist, by subject: they explain a refusal.
    dangling: HashMap<Subject, Vec<(String, String)>>,
}

struct Compiled {
    versions: [Version; 4],
    index: Index,
}

/// The authorizer, and what escalation checks and rules reviews ask of it.
pub(crate) struct Rbac {
    view: Arc<dyn View>,
    compiled: ArcSwapOption<Compiled>,
    compiling: Mutex<()>,
}

impl Rbac {
    pub(crate) fn new(view: Arc<dyn View>) -> Self {
        Self { view, compiled: ArcSwapOption::empty(), compiling: Mutex::new(()) }
    }

    fn versions(&self) -> [Version; 4] {
        [ROLES, CLUSTER_ROLES, ROLE_BINDINGS, CLUSTER_ROLE_BINDINGS]
            .map(|resource| self.view.version(resource))
    }

    fn index(&self) -> Arc<Compiled> {
        let now = self.versions();
        let fresh = |c: &Compiled| c.versions.iter().zip(&now).all(|(a, b)| a.is_same(b));
        if let Some(compiled) = self.compiled.load_full().filter(|c| fresh(c)) {
            return compiled;
        }
        let _one_at_a_time = self.compiling.lock();
        let now = self.versions();
        let fresh = |c: &Compiled| c.versions.iter().zip(&now).all(|(a, b)| a.is_same(b));
        if let Some(compiled) = self.compiled.load_full().filter(|c| fresh(c)) {
            return compiled;
        }
        // The versions are read before the objects: at worst the index is newer than it says.
        let compiled = Arc::new(Compiled { index: compile(&*self.view), versions: now });
        self.compiled.store(Some(compiled.clone()));
        compiled
    }

    /// All rules that hold for the user in the namespace, those of the whole cluster included.
    pub(crate) fn rules_for(&self, user: &UserInfo, namespace: &str) -> Vec<Rule> {
        let compiled = self.index();
        let grants = subjects_of(user).flat_map(|s| {
            compiled
                .index
                .grants
                .get(&s)
                .into_iter()
                .flatten()
                .map(|g| (g.namespace.clone(), g.rules.clone()))
                .collect::<Vec<_>>()
        });
        grants.filter(|(n, _)| n.is_empty() || n == namespace).flat_map(|(_, rules)| rules.to_vec()).collect()
    }

    /// The rules of the role that a binding in `namespace` refers to; nothing if there is no such role.
    pub(crate) fn rules_of(&self, role_ref: &Value, namespace: &str) -> Option<Vec<Rule>> {
        let name = role_ref["name"].as_str()?;
        let role = match role_ref["kind"].as_str()? {
            "Role" => self.view.object(ROLES, namespace, name)?,
            _ => self.view.object(CLUSTER_ROLES, "", name)?,
        };
        Some(rules_in(&role))
    }

    /// Which of `wanted` the user does not hold in the namespace.
    pub(crate) fn missing(&self, user: &UserInfo, namespace: &str, wanted: &[Rule]) -> Vec<Rule> {
        let held = self.rules_for(user, namespace);
        let singles = wanted.iter().flat_map(Rule::singles);
        singles.filter(|single| !held.iter().any(|rule| rule.covers(single))).collect()
    }
}

impl Authorizer for Rbac {
    fn authorize(&self, attributes: &Attributes) -> Decision {
        let compiled = self.index();
        let mut missing = Vec::new();
        for subject in subjects_of(&attributes.user) {
            for grant in compiled.index.grants.get(&subject).into_iter().flatten() {
                let here = grant.namespace.is_empty()
                    || (attributes.is_resource() && grant.namespace == attributes.namespace);
                if here && grant.rules.iter().any(|rule| rule.allows(attributes)) {
                    return Decision::Allow(grant.why.clone());
                }
            }
            let dangling = compiled.index.dangling.get(&subject).into_iter().flatten();
            missing.extend(
                dangling
                    .filter(|(n, _)| n.is_empty() || *n == attributes.namespace)
                    .map(|(_, why)| why.clone()),
            );
        }
        match missing.as_slice() {
            [] => Decision::NoOpinion(String::new()),
            [one] => Decision::NoOpinion(format!("RBAC: {one}")),
            many => Decision::NoOpinion(format!("RBAC: [{}]", many.join(", "))),
        }
    }
}

fn subjects_of(user: &UserInfo) -> impl Iterator<Item = Subject> + '_ {
    let groups = user.groups.iter().map(|group| Subject::Group(group.clone()));
    std::iter::once(Subject::User(user.name.clone())).chain(groups)
}

fn rules_in(role: &Value) -> Vec<Rule> {
    role["rules"].as_array().into_iter().flatten().map(Rule::parse).collect()
}

fn compile(view: &dyn View) -> Index {
    let mut roles: HashMap<(bool, String, String), Arc<[Rule]>> = HashMap::new();
    for (is_cluster, resource) in [(false, ROLES), (true, CLUSTER_ROLES)] {
        for role in view.objects(resource, None) {
            let (namespace, name) = names(&role);
            roles.insert((is_cluster, namespace, name), rules_in(&role).into());
        }
    }
    let mut index = Index::default();
    for (kind, resource) in [("ClusterRoleBinding", CLUSTER_ROLE_BINDINGS), ("RoleBinding", ROLE_BINDINGS)] {
        for binding in view.objects(resource, None) {
            add_binding(&mut index, &roles, kind, &binding);
        }
    }
    index
}

fn add_binding(
    index: &mut Index,
    roles: &HashMap<(bool, String, String), Arc<[Rule]>>,
    kind: &str,
    binding: &Value,
) {
    let (namespace, name) = names(binding);
    let role_kind = binding["roleRef"]["kind"].as_str().unwrap_or_default();
    let role_name = binding["roleRef"]["name"].as_str().unwrap_or_default();
    let is_cluster = role_kind == "ClusterRole";
    let role_namespace = if is_cluster { String::new() } else { namespace.clone() };
    let rules = roles.get(&(is_cluster, role_namespace, role_name.to_owned()));
    let shown = if namespace.is_empty() { name.clone() } else { format!("{name}/{namespace}") };
    for (subject, shown_subject) in
        binding["subjects"].as_array().into_iter().flatten().filter_map(|s| subject(s, &namespace))
    {
        match rules {
            Some(rules) => index.grants.entry(subject).or_default().push(Grant {
                namespace: namespace.clone(),
                rules: rules.clone(),
                why: format!(
                    "RBAC: allowed by {kind} {shown:?} of {role_kind} {role_name:?} to {shown_subject}"
                ),
            }),
            None => {
                let what = format!("{}.{GROUP} {role_name:?} not found", role_kind.to_lowercase());
                index.dangling.entry(subject).or_default().push((namespace.clone(), what));
            }
        }
    }
}

fn names(object: &Value) -> (String, String) {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    (text("namespace"), text("name"))
}

/// Who a binding's subject is, and how reasons say it.
fn subject(subject: &Value, binding_namespace: &str) -> Option<(Subject, String)> {
    let name = subject["name"].as_str()?;
    match subject["kind"].as_str()? {
        "User" => Some((Subject::User(name.to_owned()), format!("User {name:?}"))),
        "Group" => Some((Subject::Group(name.to_owned()), format!("Group {name:?}"))),
        "ServiceAccount" => {
            let namespace =
                subject["namespace"].as_str().filter(|n| !n.is_empty()).unwrap_or(binding_namespace);
            let user = Subject::User(format!("system:serviceaccount:{namespace}:{name}"));
            Some((user, format!("ServiceAccount \"{name}/{namespace}\"")))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::authn::authenticated;
    use crate::view::fixture::Fixture;

    fn rule(verbs: &[&str], groups: &[&str], resources: &[&str], names: &[&str]) -> Rule {
        let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        Rule {
            verbs: owned(verbs),
            groups: owned(groups),
            resources: owned(resources),
            names: owned(names),
            urls: vec![],
        }
    }

    fn wants(verb: &str, resource: &str, sub: &str, name: &str) -> Attributes {
        Attributes {
            user: authenticated("jane", &["dev"]),
            verb: verb.into(),
            resource: resource.into(),
            subresource: sub.into(),
            namespace: "ns".into(),
            name: name.into(),
            ..Attributes::default()
        }
    }

    #[test]
    fn rules_match_as_documented() {
        let cases = [
            (rule(&["get"], &[""], &["pods"], &[]), wants("get", "pods", "", "a"), true),
            (rule(&["get"], &[""], &["pods"], &[]), wants("list", "pods", "", ""), false),
            (rule(&["*"], &["*"], &["*"], &[]), wants("delete", "pods", "log", "a"), true),
            (rule(&["get"], &[""], &["pods"], &[]), wants("get", "pods", "log", "a"), false),
            (rule(&["get"], &[""], &["pods/log"], &[]), wants("get", "pods", "log", "a"), true),
            (rule(&["get"], &[""], &["pods/log"], &[]), wants("get", "pods", "", "a"), false),
            (rule(&["update"], &[""], &["*/scale"], &[]), wants("update", "pods", "scale", "a"), true),
            (rule(&["get"], &["apps"], &["pods"], &[]), wants("get", "pods", "", "a"), false),
            (rule(&["get"], &[""], &["pods"], &["a"]), wants("get", "pods", "", "a"), true),
            (rule(&["get"], &[""], &["pods"], &["a"]), wants("get", "pods", "", "b"), false),
            (rule(&["list"], &[""], &["pods"], &["a"]), wants("list", "pods", "", ""), false),
        ];
        for (rule, attributes, allowed) in cases {
            assert_eq!(rule.allows(&attributes), allowed, "{rule:?} for {attributes:?}");
        }
    }

    #[test]
    fn paths_match_whole_or_by_a_final_star() {
        for (url, path, matches) in [
            ("/healthz", "/healthz", true),
            ("/healthz", "/healthz/ping", false),
            ("/api/*", "/api/v1", true),
            ("*", "/x", true),
        ] {
            assert_eq!(url_matches(url, path), matches, "{url} {path}");
        }
    }

    fn world() -> Fixture {
        Fixture::default()
            .with(CLUSTER_ROLES, json!({"metadata": {"name": "view"}, "rules": [
                {"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}]}))
            .with(ROLE_BINDINGS, json!({"metadata": {"name": "devs", "namespace": "ns"},
                "roleRef": {"kind": "ClusterRole", "name": "view"}, "subjects": [{"kind": "Group", "name": "dev"}]}))
            .with(ROLE_BINDINGS, json!({"metadata": {"name": "robots", "namespace": "ns"},
                "roleRef": {"kind": "Role", "name": "gone"}, "subjects": [{"kind": "ServiceAccount", "name": "r"}]}))
    }

    #[test]
    fn a_role_binding_gives_a_cluster_role_in_its_namespace_only() {
        let rbac = Arc::new(Rbac::new(Arc::new(world())));
        let allowed = rbac.authorize(&wants("get", "pods", "", "a"));
        assert_eq!(
            allowed,
            Decision::Allow(
                r#"RBAC: allowed by RoleBinding "devs/ns" of ClusterRole "view" to Group "dev""#.into()
            )
        );
        let elsewhere = Attributes { namespace: "other".into(), ..wants("get", "pods", "", "a") };
        assert_eq!(rbac.authorize(&elsewhere), Decision::NoOpinion(String::new()));
        let everywhere = Attributes { namespace: String::new(), ..wants("list", "pods", "", "") };
        assert_eq!(rbac.authorize(&everywhere), Decision::NoOpinion(String::new()));
    }

    #[test]
    fn a_binding_to_a_missing_role_explains_the_refusal() {
        let rbac = Arc::new(Rbac::new(Arc::new(world())));
        let robot = Attributes {
            user: authenticated("system:serviceaccount:ns:r", &[]),
            ..wants("get", "pods", "", "a")
        };
        assert_eq!(
            rbac.authorize(&robot),
            Decision::NoOpinion(r#"RBAC: role.rbac.authorization.k8s.io "gone" not found"#.into())
        );
    }

    #[test]
    fn what_a_user_does_not_hold_is_missing_one_by_one() {
        let rbac = Rbac::new(Arc::new(world()));
        let user = authenticated("jane", &["dev"]);
        let missing = rbac.missing(&user, "ns", &[rule(&["get", "delete"], &[""], &["pods"], &[])]);
        assert_eq!(missing, [rule(&["delete"], &[""], &["pods"], &[])]);
        assert_eq!(missing[0].describe(), r#"{APIGroups:[""], Resources:["pods"], Verbs:["delete"]}"#);
    }
}
