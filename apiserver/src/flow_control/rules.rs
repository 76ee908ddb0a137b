//! FlowSchemas, compiled: which schema a request is of, and which flow within it.

use serde_json::Value;

use crate::UserInfo;
use crate::authn::impersonation::account_of;
use crate::authn::is_in;
use crate::authz::Attributes;

/// A FlowSchema.
pub(super) struct Schema {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) level: String,
    precedence: i64,
    distinguisher: Option<Distinguisher>,
    rules: Vec<Rule>,
}

#[derive(Clone, Copy)]
enum Distinguisher {
    User,
    Namespace,
}

struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<Resources>,
    paths: Vec<Paths>,
}

enum Subject {
    User(String),
    Group(String),
    Account(String, String),
}

struct Resources {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    namespaces: Vec<String>,
    is_cluster_wide: bool,
}

struct Paths {
    verbs: Vec<String>,
    urls: Vec<String>,
}

/// The schemas in the order in which they are tried.
pub(super) fn compile<'a>(objects: impl Iterator<Item = &'a Value>) -> Vec<Schema> {
    let mut schemas: Vec<Schema> = objects.map(Schema::parse).collect();
    schemas.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
    schemas
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

fn list<T>(value: &Value, parse: impl FnMut(&Value) -> T) -> Vec<T> {
    value.as_array().into_iter().flatten().map(parse).collect()
}

impl Schema {
    fn parse(object: &Value) -> Self {
        let spec = &object["spec"];
        Self {
            name: text(&object["metadata"]["name"]),
            uid: text(&object["metadata"]["uid"]),
            level: text(&spec["priorityLevelConfiguration"]["name"]),
            precedence: spec["matchingPrecedence"].as_i64().unwrap_or(1000),
            distinguisher: match spec["distinguisherMethod"]["type"].as_str() {
                Some("ByUser") => Some(Distinguisher::User),
                Some("ByNamespace") => Some(Distinguisher::Namespace),
                _ => None,
            },
            rules: list(&spec["rules"], Rule::parse),
        }
    }

    pub(super) fn fits(&self, attributes: &Attributes) -> bool {
        self.rules.iter().any(|rule| rule.fits(attributes))
    }

    /// What tells this request's flow from the others of the schema.
    pub(super) fn flow<'a>(&self, attributes: &'a Attributes) -> &'a str {
        match self.distinguisher {
            Some(Distinguisher::User) => &attributes.user.name,
            Some(Distinguisher::Namespace) => &attributes.namespace,
            None => "",
        }
    }
}

impl Rule {
    fn parse(rule: &Value) -> Self {
        Self {
            subjects: list(&rule["subjects"], Subject::parse).into_iter().flatten().collect(),
            resources: list(&rule["resourceRules"], |r| Resources {
                verbs: texts(&r["verbs"]),
                groups: texts(&r["apiGroups"]),
                resources: texts(&r["resources"]),
                namespaces: texts(&r["namespaces"]),
                is_cluster_wide: r["clusterScope"] == true,
            }),
            paths: list(&rule["nonResourceRules"], |r| Paths {
                verbs: texts(&r["verbs"]),
                urls: texts(&r["nonResourceURLs"]),
            }),
        }
    }

    fn fits(&self, attributes: &Attributes) -> bool {
        self.subjects.iter().any(|subject| subject.is(&attributes.user))
            && match attributes.is_resource() {
                true => self.resources.iter().any(|resources| resources.fit(attributes)),
                false => self.paths.iter().any(|paths| paths.fit(attributes)),
            }
    }
}

impl Subject {
    fn parse(subject: &Value) -> Option<Self> {
        match subject["kind"].as_str()? {
            "User" => Some(Self::User(text(&subject["user"]["name"]))),
            "Group" => Some(Self::Group(text(&subject["group"]["name"]))),
            "ServiceAccount" => {
                let account = &subject["serviceAccount"];
                Some(Self::Account(text(&account["namespace"]), text(&account["name"])))
            }
            _ => None,
        }
    }

    fn is(&self, user: &UserInfo) -> bool {
        match self {
            Self::User(name) => name == "*" || *name == user.name,
            Self::Group(name) => name == "*" || is_in(user, name),
            Self::Account(namespace, name) => {
                account_of(&user.name).is_some_and(|(ns, n)| ns == namespace && (name == "*" || n == name))
            }
        }
    }
}

impl Resources {
    fn fit(&self, attributes: &Attributes) -> bool {
        let place = match attributes.namespace.as_str() {
            "" => self.is_cluster_wide,
            namespace => has(&self.namespaces, namespace),
        };
        place
            && has(&self.verbs, &attributes.verb)
            && has(&self.groups, &attributes.group)
            && (has(&self.resources, &attributes.resource_path()))
    }
}

impl Paths {
    fn fit(&self, attributes: &Attributes) -> bool {
        let path = attributes.path.as_str();
        has(&self.verbs, &attributes.verb)
            && self.urls.iter().any(|url| match url.strip_suffix('*') {
                Some(prefix) => path.starts_with(prefix),
                None => url == path,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::flow_control;

    fn schema_of(user: UserInfo, verb: &str, resource: &str, namespace: &str) -> String {
        let objects = flow_control::objects();
        let schemas = compile(objects.iter().filter(|o| o["kind"] == "FlowSchema"));
        let group = if resource == "leases" { "coordination.k8s.io" } else { "" };
        let (resource, path) = match resource.starts_with('/') {
            true => ("", resource),
            false => (resource, ""),
        };
        let attributes = Attributes {
            user,
            verb: verb.into(),
            group: group.into(),
            resource: resource.into(),
            namespace: namespace.into(),
            path: path.into(),
            ..Attributes::default()
        };
        schemas.iter().find(|s| s.fits(&attributes)).map(|s| s.name.clone()).unwrap_or_default()
    }

    #[test]
    fn the_default_schemas_sort_requests_as_in_kubernetes() {
        let everyone = "system:authenticated";
        let cases = [
            (UserInfo::admin(), "get", "pods", "a", "exempt"),
            (UserInfo::new("x", &[everyone]), "get", "/healthz", "", "probes"),
            (
                UserInfo::new("system:kube-scheduler", &[everyone]),
                "update",
                "leases",
                "kube-system",
                "system-leader-election",
            ),
            (
                UserInfo::new("system:node:n", &["system:nodes", everyone]),
                "update",
                "leases",
                "kube-node-lease",
                "system-node-high",
            ),
            (
                UserInfo::new("system:node:n", &["system:nodes", everyone]),
                "get",
                "secrets",
                "a",
                "system-nodes",
            ),
            (
                UserInfo::new("system:kube-controller-manager", &[everyone]),
                "list",
                "pods",
                "",
                "kube-controller-manager",
            ),
            (
                UserInfo::new("system:serviceaccount:kube-system:x", &["system:serviceaccounts", everyone]),
                "list",
                "pods",
                "",
                "kube-system-service-accounts",
            ),
            (
                UserInfo::new("system:serviceaccount:a:x", &["system:serviceaccounts", everyone]),
                "list",
                "pods",
                "",
                "service-accounts",
            ),
            (UserInfo::new("jane", &[everyone]), "list", "pods", "", "global-default"),
            (UserInfo::new("nobody", &[]), "list", "pods", "", ""),
        ];
        for (user, verb, resource, namespace, expected) in cases {
            let name = user.name.clone();
            assert_eq!(schema_of(user, verb, resource, namespace), expected, "{name} {verb} {resource}");
        }
    }
}
