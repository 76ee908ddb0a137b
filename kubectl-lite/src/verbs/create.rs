//! `create`: new objects, from manifests or from arguments.

use base64::Engine as _;
use clap::{Arg, ArgAction, ArgMatches, Command};
use http::Method;
use serde_json::{Map, Value, json};

use super::Verb;
use super::apply::{dry_run_arg, is_dry_run, report};
use super::target;
use crate::Io;
use crate::cluster::{Cluster, FIELD_MANAGER};
use crate::error::Error;
use crate::manifests::Manifest;
use crate::output::{Format, format_arg};
use crate::path::Path;

/// # Does
/// Creates what manifests or one of the subcommands describe; an object that exists already is an error.
/// # Differs from kubectl
/// Fewer generators: namespace, deployment, job, cronjob, configmap, secret, serviceaccount.
pub(super) struct Create;

#[async_trait::async_trait]
impl Verb for Create {
    const NAME: &'static str = "create";

    fn command(base: Command) -> Command {
        let base = base
            .about("Create objects from manifests or arguments")
            .args(target::file_args())
            .args([format_arg().global(true), dry_run_arg().global(true)]);
        GENERATORS.iter().fold(base, |base, generator| base.subcommand((generator.command)(generator.name)))
    }

    async fn run(cluster: &Cluster, matches: &ArgMatches, io: &mut Io) -> Result<u8, Error> {
        let (objects, flags) = match matches.subcommand() {
            Some((name, sub)) => (vec![generate(name, sub)?], sub),
            None => (target::manifests(matches)?, matches),
        };
        if objects.is_empty() {
            return Err(Error::Usage(
                "nothing to create: name a file with -f or use a subcommand".to_owned(),
            ));
        }
        create(cluster, &objects, is_dry_run(flags), Format::of(flags), io).await?;
        Ok(0)
    }
}

/// Creates `objects` in order; stops at the first that is refused.
pub(super) async fn create(
    cluster: &Cluster,
    objects: &[Manifest],
    dry: bool,
    format: Format,
    io: &mut Io,
) -> Result<(), Error> {
    let resources = cluster.resources().await?;
    let targets: Vec<_> = objects
        .iter()
        .map(|object| target::target_of(cluster, &resources, object))
        .collect::<Result<_, _>>()?;
    for (target, manifest) in targets.iter().zip(objects) {
        let path = Path::new(target.resource.path(target.namespace.as_deref()))
            .query("fieldManager", FIELD_MANAGER)
            .query("fieldValidation", "Strict")
            .query_some("dryRun", dry.then_some("All"))
            .finish();
        let created = cluster.write(Method::POST, &path, "application/json", &manifest.object).await?;
        report(target, &created, "created", dry, format, io)?;
    }
    Ok(())
}

struct Generator {
    name: &'static str,
    command: fn(&'static str) -> Command,
    object: fn(&str, &ArgMatches) -> Result<Value, Error>,
}

static GENERATORS: &[Generator] = &[
    Generator {
        name: "namespace",
        command: |n| named(n).alias("ns"),
        object: |name, _| Ok(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})),
    },
    Generator {
        name: "serviceaccount",
        command: |n| named(n).alias("sa"),
        object: |name, _| {
            Ok(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}))
        },
    },
    Generator {
        name: "deployment",
        command: |n| {
            with_image(n).alias("deploy").arg(
                Arg::new("replicas")
                    .long("replicas")
                    .value_parser(clap::value_parser!(u32))
                    .default_value("1"),
            )
        },
        object: deployment,
    },
    Generator {
        name: "job",
        command: with_image,
        object: |name, m| {
            Ok(
                json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": job_spec(name, m)}),
            )
        },
    },
    Generator {
        name: "cronjob",
        command: |n| with_image(n).alias("cj").arg(Arg::new("schedule").long("schedule").required(true)),
        object: cron_job,
    },
    Generator {
        name: "configmap",
        command: |n| with_data(n).alias("cm"),
        object: |name, m| {
            Ok(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data(m)?}))
        },
    },
    Generator {
        name: "secret",
        command: |n| with_data(n).about("Create a generic (Opaque) secret"),
        object: secret,
    },
];

fn generate(name: &str, matches: &ArgMatches) -> Result<Manifest, Error> {
    let generator = GENERATORS
        .iter()
        .find(|generator| generator.name == name)
        .ok_or_else(|| Error::Usage(format!("nothing creates a {name}")))?;
    let object_name = matches.get_one::<String>("name").map_or("", String::as_str);
    Ok(Manifest { object: (generator.object)(object_name, matches)?, source: "arguments".to_owned() })
}

fn named(name: &'static str) -> Command {
    Command::new(name).about(format!("Create a {name}")).arg(Arg::new("name").required(true))
}

fn with_image(name: &'static str) -> Command {
    named(name)
        .arg(Arg::new("image").long("image").required(true).help("The container's image"))
        .arg(Arg::new("command").last(true).num_args(0..).help("The container's command"))
}

fn with_data(name: &'static str) -> Command {
    named(name)
        .arg(Arg::new("from-literal").long("from-literal").action(ArgAction::Append).value_name("KEY=VALUE"))
        .arg(Arg::new("from-file").long("from-file").action(ArgAction::Append).value_name("[KEY=]FILE"))
}

/// The only container of a generated pod.
pub(super) fn container(name: &str, matches: &ArgMatches) -> Value {
    let mut container = json!({"name": name, "image": matches.get_one::<String>("image")});
    let command: Vec<&String> = matches.get_many("command").into_iter().flatten().collect();
    if !command.is_empty() {
        container["command"] = json!(command);
    }
    container
}

fn deployment(name: &str, matches: &ArgMatches) -> Result<Value, Error> {
    let labels = json!({"app": name});
    Ok(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": labels},
        "spec": {"replicas": matches.get_one::<u32>("replicas"), "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container(name, matches)]}}}}))
}

fn job_spec(name: &str, matches: &ArgMatches) -> Value {
    json!({"template": {"spec": {"restartPolicy": "Never", "containers": [container(name, matches)]}}})
}

fn cron_job(name: &str, matches: &ArgMatches) -> Result<Value, Error> {
    Ok(json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": name},
        "spec": {"schedule": matches.get_one::<String>("schedule"), "jobTemplate": {"spec": job_spec(name, matches)}}}))
}

fn data(matches: &ArgMatches) -> Result<Map<String, Value>, Error> {
    let mut data = Map::new();
    for literal in matches.get_many::<String>("from-literal").into_iter().flatten() {
        let (key, value) = literal
            .split_once('=')
            .ok_or_else(|| Error::Usage(format!("--from-literal \"{literal}\": write KEY=VALUE")))?;
        data.insert(key.to_owned(), json!(value));
    }
    for file in matches.get_many::<String>("from-file").into_iter().flatten() {
        let (key, path) = match file.split_once('=') {
            Some((key, path)) => (key.to_owned(), path),
            None => (file.rsplit('/').next().unwrap_or(file).to_owned(), file.as_str()),
        };
        let text =
            std::fs::read_to_string(path).map_err(|source| Error::ReadFile { path: path.into(), source })?;
        data.insert(key, json!(text));
    }
    Ok(data)
}

fn secret(name: &str, matches: &ArgMatches) -> Result<Value, Error> {
    let encoded: Map<String, Value> = data(matches)?
        .into_iter()
        .map(|(key, value)| {
            let text = base64::engine::general_purpose::STANDARD.encode(value.as_str().unwrap_or_default());
            (key, json!(text))
        })
        .collect();
    Ok(
        json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": {"name": name}, "data": encoded}),
    )
}
