//! How arguments name objects: `pods`, `pod web`, `pod/web deploy/x`, `-l app=web`, `-A`, `-f FILE`.

use clap::{Arg, ArgAction, ArgMatches};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::error::Error;
use crate::manifests::{Manifest, read_manifests};
use crate::path::Path;
use crate::resources::{Resource, Resources};

/// A resource, and one name of it or all that the selectors match.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) resource: Resource,
    pub(super) name: Option<String>,
    pub(super) namespace: Option<String>,
}

impl Target {
    /// The path of the object or the collection.
    pub(super) fn path(&self) -> String {
        let collection = self.resource.path(self.namespace.as_deref());
        match &self.name {
            Some(name) => format!("{collection}/{name}"),
            None => collection,
        }
    }

    /// `deployment.apps/web`.
    pub(super) fn named(&self) -> String {
        self.resource.named(self.name.as_deref().unwrap_or_default())
    }
}

pub(super) fn objects_arg() -> Arg {
    Arg::new("objects").num_args(0..).value_name("TYPE[/NAME]").help("TYPE, TYPE NAME…, or TYPE/NAME…")
}

pub(super) fn selector_args() -> [Arg; 3] {
    [
        Arg::new("selector")
            .short('l')
            .long("selector")
            .value_name("QUERY")
            .help("Label selector, as a=b,c!=d,e in (f,g)"),
        Arg::new("field-selector")
            .long("field-selector")
            .value_name("QUERY")
            .help("Field selector, as status.phase=Running"),
        Arg::new("all-namespaces")
            .short('A')
            .long("all-namespaces")
            .action(ArgAction::SetTrue)
            .help("In every namespace"),
    ]
}

pub(super) fn file_args() -> [Arg; 2] {
    [
        Arg::new("filename")
            .short('f')
            .long("filename")
            .action(ArgAction::Append)
            .value_name("FILE")
            .help("A file, a folder, or - for standard input"),
        Arg::new("recursive")
            .short('R')
            .long("recursive")
            .action(ArgAction::SetTrue)
            .help("Folders below folders too"),
    ]
}

/// The collection's path with the selectors of [`selector_args`].
pub(super) fn with_selectors(path: String, matches: &ArgMatches) -> Path {
    let text = |name: &str| matches.get_one::<String>(name).map(String::as_str);
    Path::new(path)
        .query_some("labelSelector", text("selector"))
        .query_some("fieldSelector", text("field-selector"))
}

/// What the positional arguments of [`objects_arg`] name.
pub(super) fn targets(
    cluster: &Cluster,
    resources: &Resources,
    matches: &ArgMatches,
) -> Result<Vec<Target>, Error> {
    let words: Vec<&str> =
        matches.get_many::<String>("objects").into_iter().flatten().map(String::as_str).collect();
    let everywhere = matches.try_get_one::<bool>("all-namespaces").ok().flatten().copied().unwrap_or(false);
    let target = |resource: &Resource, name: Option<&str>| Target {
        namespace: (resource.namespaced && !everywhere).then(|| cluster.namespace.clone()),
        resource: resource.clone(),
        name: name.map(str::to_owned),
    };
    let Some((first, names)) = words.split_first() else {
        return Err(Error::Usage("say which: TYPE, TYPE NAME, TYPE/NAME or -f FILE".to_owned()));
    };
    if words.iter().any(|word| word.contains('/')) {
        return words
            .iter()
            .map(|word| {
                let (kind, name) = word.split_once('/').ok_or_else(|| {
                    Error::Usage(format!("there is no TYPE in \"{word}\": write TYPE/NAME for each"))
                })?;
                Ok(target(resources.find(kind)?, Some(name)))
            })
            .collect();
    }
    let chosen = resources.select(first)?;
    if names.is_empty() {
        return Ok(chosen.into_iter().map(|resource| target(resource, None)).collect());
    }
    Ok(chosen
        .into_iter()
        .flat_map(|resource| names.iter().map(move |name| (resource, name)))
        .map(|(resource, name)| target(resource, Some(name)))
        .collect())
}

/// The one object that the arguments name.
pub(super) fn single(
    cluster: &Cluster,
    resources: &Resources,
    matches: &ArgMatches,
) -> Result<Target, Error> {
    match targets(cluster, resources, matches)?.as_slice() {
        [target] if target.name.is_some() => Ok(target.clone()),
        _ => Err(Error::Usage("name one object: TYPE/NAME or TYPE NAME".to_owned())),
    }
}

/// Every manifest that `-f` names.
pub(super) fn manifests(matches: &ArgMatches) -> Result<Vec<Manifest>, Error> {
    let mut all = Vec::new();
    for path in matches.get_many::<String>("filename").into_iter().flatten() {
        all.extend(read_manifests(path, matches.get_flag("recursive"))?);
    }
    Ok(all)
}

/// Where a manifest's object lives.
pub(super) fn target_of(
    cluster: &Cluster,
    resources: &Resources,
    manifest: &Manifest,
) -> Result<Target, Error> {
    let (api_version, kind) = manifest.type_meta()?;
    let resource = resources.of_manifest(api_version, kind)?;
    let namespace = manifest.text("/metadata/namespace").unwrap_or(&cluster.namespace);
    Ok(Target {
        namespace: resource.namespaced.then(|| namespace.to_owned()),
        resource: resource.clone(),
        name: manifest.text("/metadata/name").map(str::to_owned),
    })
}

/// The items of a list answer, or the object itself as the only item.
pub(super) fn items(answer: Value) -> Vec<Value> {
    match answer {
        Value::Object(mut object) if object.contains_key("items") => match object.remove("items") {
            Some(Value::Array(items)) => items,
            _ => Vec::new(),
        },
        object => vec![object],
    }
}
