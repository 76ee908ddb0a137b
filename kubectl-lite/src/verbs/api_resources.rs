//! `api-resources`: what the server serves.

use clap::{Arg, ArgMatches, Command};
use serde_json::json;

use super::Verb;
use crate::Io;
use crate::cluster::Cluster;
use crate::error::Error;
use crate::output::TablePrinter;
use crate::resources::Resource;

/// # Does
/// Lists every resource with its short names, version, scope and kind.
/// # Differs from kubectl
/// One output: the wide one has verbs and categories too.
pub(super) struct ApiResources;

#[async_trait::async_trait]
impl Verb for ApiResources {
    const NAME: &'static str = "api-resources";

    fn command(base: Command) -> Command {
        base.about("List what the server serves")
            .arg(Arg::new("output").short('o').long("output").value_parser(["wide", "name"]))
            .arg(Arg::new("api-group").long("api-group").value_name("GROUP"))
    }

    async fn run(cluster: &Cluster, matches: &ArgMatches, io: &mut Io) -> Result<u8, Error> {
        let resources = cluster.resources().await?;
        let group = matches.get_one::<String>("api-group");
        let output = matches.get_one::<String>("output").map(String::as_str);
        let chosen = resources.all().iter().filter(|r| group.is_none_or(|group| r.group == *group));
        if output == Some("name") {
            for resource in chosen {
                writeln!(io.out, "{}", resource.qualified())?;
            }
            return Ok(0);
        }
        let columns = [
            ("Name", 0),
            ("Shortnames", 0),
            ("Apiversion", 0),
            ("Namespaced", 0),
            ("Kind", 0),
            ("Verbs", 1),
            ("Categories", 1),
        ]
        .map(|(name, priority)| json!({"name": name, "priority": priority}));
        let rows: Vec<_> = chosen.map(|resource| json!({"cells": cells(resource)})).collect();
        let table = json!({"columnDefinitions": columns, "rows": rows});
        TablePrinter::new(output == Some("wide"), false, None).print(&mut io.out, &table)?;
        Ok(0)
    }
}

fn cells(resource: &Resource) -> [String; 7] {
    [
        resource.plural.clone(),
        resource.short_names.join(","),
        resource.api_version(),
        resource.namespaced.to_string(),
        resource.kind.clone(),
        resource.verbs.join(","),
        resource.categories.join(","),
    ]
}
