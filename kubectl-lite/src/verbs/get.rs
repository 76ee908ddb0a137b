//! `get`: shows objects.

use clap::{Arg, ArgAction, ArgMatches, Command};
use futures::StreamExt;
use serde_json::{Value, json};

use super::Verb;
use super::target::{self, Target};
use crate::Io;
use crate::cluster::Cluster;
use crate::error::Error;
use crate::output::{Format, TABLE, TablePrinter, format_arg};
use crate::path::Path;

/// # Does
/// Shows one object, some, or all of a type, in the server's own table or as YAML, JSON or names; with
/// `-w` goes on with each change.
/// # Differs from kubectl
/// No `jsonpath`, `go-template` or `custom-columns`; several types with `-w` are refused.
pub(super) struct Get;

#[async_trait::async_trait]
impl Verb for Get {
    const NAME: &'static str = "get";

    fn command(base: Command) -> Command {
        base.about("Show objects")
            .args([target::objects_arg(), format_arg()])
            .args(target::selector_args())
            .arg(
                Arg::new("watch")
                    .short('w')
                    .long("watch")
                    .action(ArgAction::SetTrue)
                    .help("Go on with every change"),
            )
            .arg(
                Arg::new("no-headers")
                    .long("no-headers")
                    .action(ArgAction::SetTrue)
                    .help("Leave the table's header out"),
            )
            .arg(
                Arg::new("at")
                    .long("at")
                    .value_name("WHEN")
                    .conflicts_with("watch")
                    .help("As it was at a revision or a time, as 2026-01-02T15:04:05Z"),
            )
    }

    async fn run(cluster: &Cluster, matches: &ArgMatches, io: &mut Io) -> Result<u8, Error> {
        let resources = cluster.resources().await?;
        let targets = target::targets(cluster, &resources, matches)?;
        let format = Format::of(matches);
        if matches.get_flag("watch") {
            return match targets.as_slice() {
                [target] => watch(cluster, target, matches, format, io).await,
                _ => Err(Error::Usage("you may only watch one type at a time".to_owned())),
            };
        }
        match format {
            Format::Table { wide } => tables(cluster, &targets, matches, wide, io).await,
            _ => objects(cluster, &targets, matches, format, io).await,
        }
    }
}

async fn tables(
    cluster: &Cluster,
    targets: &[Target],
    matches: &ArgMatches,
    wide: bool,
    io: &mut Io,
) -> Result<u8, Error> {
    let everywhere = matches.get_flag("all-namespaces");
    let several = targets.iter().any(|target| target.resource != targets[0].resource);
    let mut printed: Option<(&Target, TablePrinter)> = None;
    for target in targets {
        let table = cluster.get(&path_of(target, matches), TABLE).await?;
        if table["rows"].as_array().is_none_or(Vec::is_empty) {
            continue;
        }
        let same = printed.as_ref().is_some_and(|(before, _)| before.resource == target.resource);
        if !same {
            if printed.is_some() {
                writeln!(io.out)?;
            }
            let prefix = several.then(|| target.resource.named(""));
            let namespaces = everywhere && target.resource.namespaced;
            printed = Some((target, TablePrinter::new(wide, namespaces, prefix)));
        }
        if let Some((_, printer)) = &mut printed {
            printer.print(&mut io.out, &table)?;
        }
    }
    if printed.is_none() {
        let place = if everywhere || !targets.iter().any(|target| target.resource.namespaced) {
            String::new()
        } else {
            format!(" in {} namespace", cluster.namespace)
        };
        writeln!(io.err, "No resources found{place}.")?;
    }
    Ok(0)
}

async fn objects(
    cluster: &Cluster,
    targets: &[Target],
    matches: &ArgMatches,
    format: Format,
    io: &mut Io,
) -> Result<u8, Error> {
    let mut found = Vec::new();
    for target in targets {
        let answer = cluster.get(&path_of(target, matches), "application/json").await?;
        for mut item in target::items(answer) {
            complete(&mut item, target);
            found.push((target, item));
        }
    }
    if format == Format::Name {
        for (target, item) in &found {
            format.print_object(&mut io.out, &target.resource, item)?;
        }
        return Ok(0);
    }
    let Some((first, _)) = found.first() else {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": []});
        return targets
            .first()
            .map_or(Ok(0), |t| format.print_object(&mut io.out, &t.resource, &list).map(|()| 0));
    };
    let resource = first.resource.clone();
    let object = match targets {
        [Target { name: Some(_), .. }] => found.remove(0).1,
        _ => json!({"apiVersion": "v1", "kind": "List",
            "items": found.into_iter().map(|(_, item)| item).collect::<Vec<Value>>()}),
    };
    format.print_object(&mut io.out, &resource, &object)?;
    Ok(0)
}

/// The path of what is shown, with selectors, now or as it was.
fn path_of(target: &Target, matches: &ArgMatches) -> String {
    let at = matches.get_one::<String>("at").map(String::as_str);
    target::with_selectors(target.path(), matches).query_some("at", at).finish()
}

/// Items of a typed list carry no type of their own; a reader of the output wants it.
fn complete(item: &mut Value, target: &Target) {
    if item.get("kind").is_none() {
        item["kind"] = json!(target.resource.kind);
        item["apiVersion"] = json!(target.resource.api_version());
    }
}

async fn watch(
    cluster: &Cluster,
    target: &Target,
    matches: &ArgMatches,
    format: Format,
    io: &mut Io,
) -> Result<u8, Error> {
    let by_name = target.name.as_ref().map(|name| format!("metadata.name={name}"));
    let collection = target.resource.path(target.namespace.as_deref());
    let path = |query: Path| query.query_some("fieldSelector", by_name.as_deref());
    let (accept, wide) = match format {
        Format::Table { wide } => (TABLE, wide),
        _ => ("application/json", false),
    };
    let mut printer = TablePrinter::new(wide, matches.get_flag("all-namespaces"), None);
    let list =
        cluster.get(&path(target::with_selectors(collection.clone(), matches)).finish(), accept).await?;
    show(format, &mut printer, target, &list, io)?;
    let revision = list["metadata"]["resourceVersion"].as_str().unwrap_or("0").to_owned();
    let query = path(target::with_selectors(collection, matches))
        .query("watch", "true")
        .query("resourceVersion", &revision)
        .finish();
    let mut events = cluster.events(&query, accept).await?;
    while let Some(event) = events.next().await {
        let event = event?;
        match event["type"].as_str() {
            Some("BOOKMARK") => {}
            Some("ERROR") => return Err(Error::Answer(event["object"]["message"].to_string())),
            _ => show(format, &mut printer, target, &event["object"], io)?,
        }
    }
    Ok(0)
}

fn show(
    format: Format,
    printer: &mut TablePrinter,
    target: &Target,
    answer: &Value,
    io: &mut Io,
) -> Result<(), Error> {
    if let Format::Table { .. } = format {
        if answer["rows"].as_array().is_some_and(|rows| !rows.is_empty()) {
            printer.print(&mut io.out, answer)?;
        }
    } else {
        for mut item in target::items(answer.clone()) {
            complete(&mut item, target);
            format.print_object(&mut io.out, &target.resource, &item)?;
        }
    }
    Ok(io.out.flush()?)
}
