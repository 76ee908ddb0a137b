//! `run`: one pod from an image.

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::{Value, json};

use super::Verb;
use super::apply::{dry_run_arg, is_dry_run};
use super::create::{container, create};
use crate::Io;
use crate::cluster::Cluster;
use crate::error::Error;
use crate::manifests::Manifest;
use crate::output::{Format, format_arg};

/// # Does
/// Creates a pod with one container.
/// # Differs from kubectl
/// Words after `--` are the container's command, not its arguments; no `--rm`, `-it`, `--expose`.
pub(super) struct Run;

#[async_trait::async_trait]
impl Verb for Run {
    const NAME: &'static str = "run";

    fn command(base: Command) -> Command {
        base.about("Run an image in a pod")
            .arg(Arg::new("name").required(true))
            .arg(Arg::new("image").long("image").required(true).help("The container's image"))
            .arg(
                Arg::new("restart")
                    .long("restart")
                    .value_parser(["Always", "OnFailure", "Never"])
                    .default_value("Always"),
            )
            .arg(Arg::new("env").long("env").action(ArgAction::Append).value_name("KEY=VALUE"))
            .arg(Arg::new("port").long("port").value_parser(clap::value_parser!(u16)))
            .arg(Arg::new("labels").long("labels").value_name("A=B,C=D"))
            .args([format_arg(), dry_run_arg()])
            .arg(Arg::new("command").last(true).num_args(0..).help("The container's command"))
    }

    async fn run(cluster: &Cluster, matches: &ArgMatches, io: &mut Io) -> Result<u8, Error> {
        let object = Manifest { object: pod(matches)?, source: "arguments".to_owned() };
        create(cluster, &[object], is_dry_run(matches), Format::of(matches), io).await?;
        Ok(0)
    }
}

fn pod(matches: &ArgMatches) -> Result<Value, Error> {
    let name = matches.get_one::<String>("name").map_or("", String::as_str);
    let mut container = container(name, matches);
    let mut env = Vec::new();
    for pair in matches.get_many::<String>("env").into_iter().flatten() {
        let (key, value) = split_pair("--env", pair)?;
        env.push(json!({"name": key, "value": value}));
    }
    if !env.is_empty() {
        container["env"] = json!(env);
    }
    if let Some(port) = matches.get_one::<u16>("port") {
        container["ports"] = json!([{"containerPort": port}]);
    }
    let mut labels = json!({"run": name});
    for pair in matches.get_one::<String>("labels").into_iter().flat_map(|text| text.split(',')) {
        let (key, value) = split_pair("--labels", pair)?;
        labels[key] = json!(value);
    }
    Ok(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels},
        "spec": {"restartPolicy": matches.get_one::<String>("restart"), "containers": [container]}}))
}

fn split_pair<'a>(flag: &str, pair: &'a str) -> Result<(&'a str, &'a str), Error> {
    pair.split_once('=').ok_or_else(|| Error::Usage(format!("{flag} \"{pair}\": write KEY=VALUE")))
}
