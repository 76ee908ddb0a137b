//! `history`: what happened to one object, revision by revision.

use clap::{Arg, ArgMatches, Command};
use serde_json::Value;

use super::Verb;
use super::target;
use crate::Io;
use crate::cluster::Cluster;
use crate::error::Error;
use crate::output::{Format, format_arg};
use crate::path::Path;

/// # Does
/// Tells every change of an object that the server still knows: when, who, through what, acting on which
/// revision, which fields it changed, and what admission changed.
/// # Differs from kubectl
/// Not there.
pub(super) struct History;

#[async_trait::async_trait]
impl Verb for History {
    const NAME: &'static str = "history";

    fn command(base: Command) -> Command {
        base.about("Tell what happened to an object: who changed which field, when and why")
            .args([target::objects_arg(), format_arg()])
            .arg(Arg::new("limit").long("limit").value_name("N").help("Only the newest N changes"))
            .arg(Arg::new("since").long("since").value_name("REVISION").help("Only what came after"))
    }

    async fn run(cluster: &Cluster, matches: &ArgMatches, io: &mut Io) -> Result<u8, Error> {
        let resources = cluster.resources().await?;
        let target = target::single(cluster, &resources, matches)?;
        let text = |name: &str| matches.get_one::<String>(name).map(String::as_str);
        let path = Path::new(target.path())
            .query("history", "true")
            .query_some("limit", text("limit"))
            .query_some("since", text("since"))
            .finish();
        let history = cluster.get(&path, "application/json").await?;
        let format = Format::of(matches);
        if matches!(format, Format::Json | Format::Yaml) {
            format.print_object(&mut io.out, &target.resource, &history)?;
            return Ok(0);
        }
        for item in history["items"].as_array().into_iter().flatten() {
            write!(io.out, "{}", told(item))?;
        }
        Ok(0)
    }
}

/// Objects of the same transaction that are named; the others are counted.
const TOGETHER_MAX: usize = 5;

/// One revision, some lines.
pub(super) fn told(item: &Value) -> String {
    let text = |field: &str| item[field].as_str();
    let mut out = format!(
        "revision {}  {}  {}",
        text("revision").unwrap_or_default(),
        text("time").unwrap_or_default(),
        text("change").unwrap_or_default().to_lowercase(),
    );
    if let Some(user) = text("user") {
        out.push_str(&format!(" by {user}"));
    }
    if let Some(manager) = text("manager") {
        out.push_str(&format!(" ({manager})"));
    }
    out.push('\n');
    if let Some(request) = text("request") {
        out.push_str(&format!("    {request}\n"));
    }
    if let Some(revision) = text("actedOn") {
        out.push_str(&format!("    because of revision {revision}\n"));
    }
    let items = |field: &str| item[field].as_array().into_iter().flatten();
    for field in items("fields") {
        out.push_str(&format!("    {}\n", field_line(field)));
    }
    for field in items("admission") {
        out.push_str(&format!("    admission: {}\n", field_line(field)));
    }
    let together: Vec<_> = items("together").filter_map(Value::as_str).collect();
    if !together.is_empty() {
        let shown = together.iter().take(TOGETHER_MAX).copied().collect::<Vec<_>>().join(", ");
        let more = match together.len().saturating_sub(TOGETHER_MAX) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        out.push_str(&format!("    together with {shown}{more}\n"));
    }
    out
}

/// `.spec.replicas: 1 -> 3`
pub(super) fn field_line(field: &Value) -> String {
    let path = field["path"].as_str().unwrap_or_default();
    match (field.get("from"), field.get("to")) {
        (Some(from), Some(to)) => format!("{path}: {from} -> {to}"),
        (None, Some(to)) => format!("{path}: + {to}"),
        (Some(from), None) => format!("{path}: - {from}"),
        (None, None) => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_change_is_told_with_its_fields_and_its_cause() {
        let item = json!({
            "revision": "7", "time": "2026-01-02T15:04:05.000Z", "change": "Updated", "user": "ada",
            "manager": "kubectl", "request": "PATCH /api/v1/namespaces/a/configmaps/b", "actedOn": "5",
            "fields": [{"path": ".data.k", "from": "1", "to": "2"}, {"path": ".data.n", "to": "x"},
                {"path": ".data.o", "from": "y"}],
            "admission": [{"path": ".spec.priority", "to": 0}], "together": ["pods/a/p"],
        });
        expect![[r#"
            revision 7  2026-01-02T15:04:05.000Z  updated by ada (kubectl)
                PATCH /api/v1/namespaces/a/configmaps/b
                because of revision 5
                .data.k: "1" -> "2"
                .data.n: + "x"
                .data.o: - "y"
                admission: .spec.priority: + 0
                together with pods/a/p
        "#]]
        .assert_eq(&told(&item));
    }
}
