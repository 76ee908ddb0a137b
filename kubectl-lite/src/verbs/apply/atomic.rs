//! `apply --atomic`: all manifests in one transaction of the server.

use clap::ArgMatches;
use http::Method;
use serde_json::{Value, json};

use super::is_dry_run;
use crate::Io;
use crate::cluster::{Cluster, FIELD_MANAGER};
use crate::error::Error;
use crate::manifests::Manifest;
use crate::path::Path;
use crate::verbs::target::Target;

const TRANSACTIONS: &str = "/coxswain/v1/transactions";

/// Applies all of `planned` in one revision, or nothing of it, and says what is different.
pub(super) async fn apply(
    cluster: &Cluster,
    mut planned: Vec<(Target, Manifest)>,
    matches: &ArgMatches,
    io: &mut Io,
) -> Result<u8, Error> {
    // What others are in comes before them, wherever the files have it.
    planned.sort_by_key(|(target, _)| target.resource.namespaced);
    let force = matches.get_flag("force-conflicts").to_string();
    let operations: Vec<_> =
        planned.iter().map(|(target, manifest)| operation(target, manifest, &force)).collect();
    let dry = is_dry_run(matches);
    let path = Path::new(TRANSACTIONS).query_some("dryRun", dry.then_some("All")).finish();
    let body = json!({ "operations": operations });
    let done = match cluster.write(Method::POST, &path, "application/json", &body).await {
        Ok(done) => done,
        Err(error) => return refused(&error, &planned, io),
    };
    let suffix = if dry { " (server dry run)" } else { "" };
    for ((target, manifest), result) in planned.iter().zip(done["results"].as_array().into_iter().flatten()) {
        let change = change_of(&done, target);
        let said = match change.map(|change| change["change"].as_str().unwrap_or_default()) {
            None => "unchanged",
            Some("Created") => "created",
            Some(_) => "configured",
        };
        writeln!(io.out, "{} {said}{suffix}", target.named())?;
        for warning in result["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            writeln!(io.err, "Warning: {warning} ({})", manifest.source)?;
        }
        for field in change.into_iter().flat_map(|c| c["fields"].as_array().into_iter().flatten()) {
            writeln!(io.out, "    {}", crate::verbs::history::field_line(field))?;
        }
    }
    match done["metadata"]["resourceVersion"].as_str() {
        Some(revision) => writeln!(io.out, "All of it at revision {revision}.")?,
        None => writeln!(io.out, "Nothing was changed.")?,
    }
    Ok(0)
}

fn operation(target: &Target, manifest: &Manifest, force: &str) -> Value {
    let path = Path::new(target.path()).query("fieldManager", FIELD_MANAGER).query("force", force).finish();
    json!({
        "method": "PATCH", "path": path, "contentType": "application/apply-patch+yaml",
        "body": manifest.object,
    })
}

/// What the transaction did to a target.
fn change_of<'a>(done: &'a Value, target: &Target) -> Option<&'a Value> {
    let resource = match target.resource.group.as_str() {
        "" => target.resource.plural.clone(),
        group => format!("{group}/{}", target.resource.plural),
    };
    done["changes"].as_array()?.iter().find(|change| {
        let text = |field: &str| change[field].as_str();
        text("name") == target.name.as_deref()
            && text("namespace") == target.namespace.as_deref()
            && text("resource") == Some(resource.as_str())
    })
}

/// Says what is wrong with each manifest, and that nothing was changed.
fn refused(error: &Error, planned: &[(Target, Manifest)], io: &mut Io) -> Result<u8, Error> {
    let causes = error.status().and_then(|status| status.details.as_ref()).map(|details| &details.causes);
    let Some(causes) = causes.filter(|causes| !causes.is_empty()) else {
        writeln!(io.err, "{}", error.for_humans())?;
        return Ok(1);
    };
    for cause in causes {
        let index = cause.field.strip_prefix("operations[").and_then(|text| text.strip_suffix(']'));
        let place = index.and_then(|text| text.parse().ok()).and_then(|index: usize| planned.get(index));
        let why = cause.message.split_once("): ").map_or(cause.message.as_str(), |(_, why)| why);
        match place {
            Some((target, manifest)) => {
                writeln!(io.err, "error: {}: {why} ({})", target.named(), manifest.source)?;
            }
            None => writeln!(io.err, "error: {why}")?,
        }
    }
    writeln!(io.err, "Nothing was changed.")?;
    Ok(1)
}
