//! What the server serves, from its discovery, and how arguments name it.

use serde_json::Value;

use crate::cluster::Cluster;
use crate::error::Error;

const AGGREGATED: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

/// One served resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resource {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) kind: String,
    pub(crate) short_names: Vec<String>,
    pub(crate) categories: Vec<String>,
    pub(crate) verbs: Vec<String>,
    pub(crate) namespaced: bool,
}

impl Resource {
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// `deployments.apps`, `pods`.
    pub(crate) fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// `deployment.apps/web`: how results name an object.
    pub(crate) fn named(&self, name: &str) -> String {
        if self.group.is_empty() {
            format!("{}/{name}", self.singular)
        } else {
            format!("{}.{}/{name}", self.singular, self.group)
        }
    }

    /// The collection's path, in `namespace` when the resource is namespaced and one is given.
    pub(crate) fn path(&self, namespace: Option<&str>) -> String {
        let root = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        match namespace {
            Some(namespace) if self.namespaced => format!("{root}/namespaces/{namespace}/{}", self.plural),
            _ => format!("{root}/{}", self.plural),
        }
    }

    fn answers_to(&self, name: &str) -> bool {
        self.plural == name
            || self.singular == name
            || self.kind.to_lowercase() == name
            || self.short_names.iter().any(|short| short == name)
            || (!self.group.is_empty()
                && name.split_once('.').is_some_and(|(plain, rest)| {
                    (rest == self.group || rest == format!("{}.{}", self.version, self.group))
                        && (plain == self.plural || plain == self.singular)
                }))
    }
}

/// Everything the server serves, in its order of preference.
pub(crate) struct Resources(Vec<Resource>);

impl Resources {
    pub(crate) async fn discover(cluster: &Cluster) -> Result<Self, Error> {
        let (core, groups) =
            futures::try_join!(cluster.get("/api", AGGREGATED), cluster.get("/apis", AGGREGATED))?;
        let mut all = Vec::new();
        for document in [&core, &groups] {
            for group in items(document, "items") {
                read_group(group, &mut all);
            }
        }
        Ok(Self(all))
    }

    pub(crate) fn all(&self) -> &[Resource] {
        &self.0
    }

    /// The resource an argument means: plural, singular, kind, short name, `plural.group`.
    pub(crate) fn find(&self, name: &str) -> Result<&Resource, Error> {
        let wanted = name.to_lowercase();
        self.0
            .iter()
            .find(|resource| resource.answers_to(&wanted))
            .ok_or_else(|| Error::UnknownResource(name.to_owned(), self.suggestion(&wanted)))
    }

    /// All resources that an argument such as `pods`, `po,svc` or the category `all` means.
    pub(crate) fn select(&self, argument: &str) -> Result<Vec<&Resource>, Error> {
        let mut chosen = Vec::new();
        for name in argument.split(',').filter(|name| !name.is_empty()) {
            let category: Vec<_> =
                self.0.iter().filter(|resource| resource.categories.iter().any(|c| c == name)).collect();
            if category.is_empty() { chosen.push(self.find(name)?) } else { chosen.extend(category) }
        }
        Ok(chosen)
    }

    /// The resource of a manifest's `apiVersion` and `kind`.
    pub(crate) fn of_manifest(&self, api_version: &str, kind: &str) -> Result<&Resource, Error> {
        self.0
            .iter()
            .find(|resource| resource.kind == kind && resource.api_version() == api_version)
            .ok_or_else(|| {
                Error::Usage(format!(
                    "no matches for kind \"{kind}\" in version \"{api_version}\"{}",
                    self.near_kinds(kind)
                ))
            })
    }

    fn near_kinds(&self, kind: &str) -> String {
        near_kinds(kind, self.0.iter().map(|resource| (resource.kind.clone(), resource.api_version())))
    }

    fn suggestion(&self, wanted: &str) -> String {
        self.0
            .iter()
            .map(|resource| (distance(&resource.plural, wanted), &resource.plural))
            .min()
            .filter(|(distance, _)| *distance <= 2)
            .map(|(_, plural)| format!("; did you mean \"{plural}\"?"))
            .unwrap_or_default()
    }
}

fn items<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

fn read_group(group: &Value, all: &mut Vec<Resource>) {
    let name = group["metadata"]["name"].as_str().unwrap_or_default();
    for version in items(group, "versions") {
        for resource in items(version, "resources") {
            let text = |key: &str| resource[key].as_str().unwrap_or_default().to_owned();
            let plural = text("resource");
            let singular = match text("singularResource") {
                empty if empty.is_empty() => plural.clone(),
                singular => singular,
            };
            all.push(Resource {
                group: name.to_owned(),
                version: version["version"].as_str().unwrap_or_default().to_owned(),
                plural,
                singular,
                kind: resource["responseKind"]["kind"].as_str().unwrap_or_default().to_owned(),
                short_names: strings(&resource["shortNames"]),
                categories: strings(&resource["categories"]),
                verbs: strings(&resource["verbs"]),
                namespaced: resource["scope"] == "Namespaced",
            });
        }
    }
}

/// `; near: Deployment (apps/v1), …`: the kinds of `served` (kind, apiVersion) that somebody may have meant, or
/// nothing when none is near.
pub fn near_kinds(kind: &str, served: impl Iterator<Item = (String, String)>) -> String {
    let wanted = kind.to_lowercase();
    let mut near: Vec<(usize, String)> = served
        .map(|(kind, version)| (distance(&kind.to_lowercase(), &wanted), format!("{kind} ({version})")))
        .filter(|(distance, _)| *distance <= 2)
        .collect();
    near.sort();
    near.dedup();
    let names: Vec<_> = near.into_iter().take(3).map(|(_, name)| name).collect();
    if names.is_empty() { String::new() } else { format!("; near: {}", names.join(", ")) }
}

/// Edits between two words (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn served() -> Resources {
        let group = json!({"metadata": {"name": "apps"}, "versions": [{"version": "v1", "resources": [
            {"resource": "deployments", "singularResource": "deployment", "scope": "Namespaced",
             "responseKind": {"kind": "Deployment"}, "shortNames": ["deploy"], "categories": ["all"],
             "verbs": ["get", "list"]}]}]});
        let mut all = Vec::new();
        read_group(&group, &mut all);
        Resources(all)
    }

    #[test]
    fn every_spelling_finds_the_resource() {
        for name in
            ["deployments", "deployment", "Deployment", "deploy", "deployments.apps", "deployment.v1.apps"]
        {
            assert_eq!(served().find(name).expect(name).plural, "deployments", "{name}");
        }
    }

    #[test]
    fn a_slip_of_the_finger_gets_a_suggestion() {
        let said = served().find("deploymets").expect_err("unknown").for_humans();
        assert_eq!(
            said,
            "error: the server doesn't have a resource type \"deploymets\"; did you mean \"deployments\"?"
        );
    }

    #[test]
    fn an_unknown_kind_names_its_neighbours() {
        let said = served().of_manifest("apps/v1", "Deploymnt").expect_err("unknown").for_humans();
        assert_eq!(
            said,
            "error: no matches for kind \"Deploymnt\" in version \"apps/v1\"; near: Deployment (apps/v1)"
        );
    }
}
