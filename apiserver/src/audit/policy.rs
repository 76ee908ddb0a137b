//! `audit.k8s.io/v1` Policy: the first rule that fits a request says how much of it is kept.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::authn::is_in;
use crate::authz::Attributes;

/// A policy file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    #[error("--audit-policy-file: cannot read {}", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("--audit-policy-file: {} is not a Policy of audit.k8s.io/v1: {why}", .path.display())]
    Parse { path: PathBuf, why: String },
}

/// How much of a request is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
pub(super) enum Level {
    None,
    Metadata,
    Request,
    RequestResponse,
}

/// When in a request's life an event is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) enum Stage {
    RequestReceived,
    ResponseStarted,
    ResponseComplete,
    Panic,
}

/// What the policy says of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) level: Level,
    pub(super) omits: Vec<Stage>,
    pub(super) omits_managed_fields: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Policy {
    api_version: String,
    kind: String,
    #[serde(default)]
    #[allow(dead_code, reason = "a policy may carry metadata, which says nothing")]
    metadata: Option<serde_json::Value>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: bool,
    #[serde(default)]
    rules: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<Resources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    urls: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Resources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

impl Policy {
    pub(super) fn read(path: &Path) -> Result<Self, PolicyError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| PolicyError::Read { path: path.to_path_buf(), source })?;
        Self::parse(&text).map_err(|why| PolicyError::Parse { path: path.to_path_buf(), why })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let policy: Self = serde_yaml::from_str(text).map_err(|e| e.to_string())?;
        if (policy.api_version.as_str(), policy.kind.as_str()) != ("audit.k8s.io/v1", "Policy") {
            return Err(format!("it is a {} of {}", policy.kind, policy.api_version));
        }
        for (index, rule) in policy.rules.iter().enumerate() {
            let names_objects = !rule.resources.is_empty() || !rule.namespaces.is_empty();
            if !rule.urls.is_empty() && names_objects {
                return Err(format!(
                    "rules[{index}].nonResourceURLs: rules cannot apply to both regular resources and non-resource URLs"
                ));
            }
            for url in &rule.urls {
                let inner = url.strip_suffix('*').unwrap_or(url);
                if url != "*" && (!url.starts_with('/') || inner.contains('*')) {
                    return Err(format!(
                        "rules[{index}].nonResourceURLs: {url:?} is not a path with at most one star, at its end"
                    ));
                }
            }
        }
        Ok(policy)
    }

    /// What is kept of a request; nothing, if no rule fits.
    pub(super) fn judge(&self, attributes: &Attributes) -> Verdict {
        let Some(rule) = self.rules.iter().find(|rule| rule.fits(attributes)) else {
            return Verdict { level: Level::None, omits: Vec::new(), omits_managed_fields: false };
        };
        let mut omits = rule.omit_stages.clone();
        omits.extend(&self.omit_stages);
        let omits_managed_fields = rule.omit_managed_fields.unwrap_or(self.omit_managed_fields);
        Verdict { level: rule.level, omits, omits_managed_fields }
    }
}

fn names(list: &[String], text: &str) -> bool {
    list.iter().any(|item| item == text)
}

impl Rule {
    fn fits(&self, attributes: &Attributes) -> bool {
        let user = &attributes.user;
        let who = (self.users.is_empty() || names(&self.users, &user.name))
            && (self.user_groups.is_empty() || self.user_groups.iter().any(|group| is_in(user, group)))
            && (self.verbs.is_empty() || names(&self.verbs, &attributes.verb));
        if !who {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return attributes.is_resource() && self.fits_resource(attributes);
        }
        if self.urls.is_empty() {
            return true;
        }
        let path = attributes.path.as_str();
        !attributes.is_resource()
            && self.urls.iter().any(|url| match url.strip_suffix('*') {
                Some(prefix) => path.starts_with(prefix),
                None => url == path,
            })
    }

    fn fits_resource(&self, attributes: &Attributes) -> bool {
        (self.namespaces.is_empty() || names(&self.namespaces, &attributes.namespace))
            && (self.resources.is_empty() || self.resources.iter().any(|r| r.fits(attributes)))
    }
}

impl Resources {
    fn fits(&self, attributes: &Attributes) -> bool {
        if self.group != attributes.group {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        if !self.resource_names.is_empty() && !names(&self.resource_names, &attributes.name) {
            return false;
        }
        let whole = attributes.resource_path();
        self.resources.iter().any(|pattern| match pattern.split_once('/') {
            _ if *pattern == whole || pattern == "*" => true,
            Some(("*", sub)) => !sub.is_empty() && sub == attributes.subresource,
            Some((resource, "*")) => resource == attributes.resource,
            _ => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::UserInfo;

    fn policy(rules: &str) -> Policy {
        Policy::parse(&format!("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n{rules}")).unwrap()
    }

    fn get(resource: &str, namespace: &str) -> Attributes {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        Attributes {
            user: UserInfo::new("jane", &["dev"]),
            verb: "get".into(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: namespace.into(),
            name: "a".into(),
            ..Attributes::default()
        }
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let policy = policy(
            "- {level: None, users: [robot]}\n- {level: RequestResponse, resources: [{group: '', resources: [pods]}]}\n- {level: Request, namespaces: [prod]}\n- {level: Metadata}",
        );
        let level = |attributes: &Attributes| policy.judge(attributes).level;
        assert_eq!(level(&get("pods", "x")), Level::RequestResponse);
        assert_eq!(level(&get("pods/log", "x")), Level::Metadata);
        assert_eq!(level(&get("secrets", "prod")), Level::Request);
        let robot = Attributes { user: UserInfo::new("robot", &[]), ..get("pods", "x") };
        assert_eq!(level(&robot), Level::None);
    }

    #[test]
    fn resources_name_subresources_and_groups() {
        let cases = [
            ("{group: '', resources: ['pods/*']}", "pods/log", true),
            ("{group: '', resources: ['*/log']}", "pods/log", true),
            ("{group: '', resources: ['*']}", "pods/log", true),
            ("{group: apps}", "pods", false),
            ("{group: '', resources: [pods], resourceNames: [b]}", "pods", false),
            ("{group: ''}", "pods", true),
        ];
        for (resources, path, fits) in cases {
            let level = policy(&format!("- {{level: Metadata, resources: [{resources}]}}"))
                .judge(&get(path, "ns"))
                .level;
            assert_eq!(level == Level::Metadata, fits, "{resources} {path}");
        }
    }

    #[test]
    fn paths_match_by_a_final_star_and_a_policy_without_a_fitting_rule_keeps_nothing() {
        let policy = policy("- {level: Metadata, nonResourceURLs: ['/healthz*']}");
        let path = |path: &str| Attributes { path: path.into(), verb: "get".into(), ..Attributes::default() };
        assert_eq!(policy.judge(&path("/healthz/ping")).level, Level::Metadata);
        assert_eq!(policy.judge(&path("/version")).level, Level::None);
        assert_eq!(policy.judge(&get("pods", "x")).level, Level::None);
    }

    #[test]
    fn a_bad_policy_says_what_is_wrong() {
        let parse = |text: &str| Policy::parse(text).unwrap_err();
        assert!(parse("apiVersion: audit.k8s.io/v1beta1\nkind: Policy").contains("v1beta1"));
        let both = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: None, namespaces: [a], nonResourceURLs: [/x]}]";
        assert!(parse(both).contains("rules[0].nonResourceURLs"));
        assert!(parse("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Some}]").contains("Some"));
    }
}
