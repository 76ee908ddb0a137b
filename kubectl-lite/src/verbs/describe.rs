//! `describe`: everything about an object, with its events.

use std::fmt::Write as _;

use clap::{ArgMatches, Command};
use serde_json::Value;

use super::Verb;
use super::target::{self, Target};
use crate::Io;
use crate::cluster::Cluster;
use crate::error::Error;
use crate::output::TABLE;
use crate::path::Path;

/// # Does
/// Writes every field of an object as an indented outline, conditions as a table, then its events.
/// # Differs from kubectl
/// One outline for every kind, custom ones too, instead of a layout per kind.
pub(super) struct Describe;

#[async_trait::async_trait]
impl Verb for Describe {
    const NAME: &'static str = "describe";

    fn command(base: Command) -> Command {
        base.about("Show all about an object, with its events")
            .arg(target::objects_arg())
            .args(target::selector_args())
    }

    async fn run(cluster: &Cluster, matches: &ArgMatches, io: &mut Io) -> Result<u8, Error> {
        let resources = cluster.resources().await?;
        let mut first = true;
        for target in target::targets(cluster, &resources, matches)? {
            let path = target::with_selectors(target.path(), matches).finish();
            for object in target::items(cluster.get(&path, "application/json").await?) {
                if !first {
                    writeln!(io.out, "\n")?;
                }
                first = false;
                write!(io.out, "{}", outline(&object))?;
                write!(io.out, "{}", events(cluster, &target, &object).await?)?;
            }
        }
        Ok(0)
    }
}

fn outline(object: &Value) -> String {
    let mut text = String::new();
    let meta = &object["metadata"];
    for (label, field) in [("Name", "name"), ("Namespace", "namespace")] {
        if let Some(value) = meta[field].as_str() {
            line(&mut text, 0, label, value);
        }
    }
    for (label, field) in [("Labels", "labels"), ("Annotations", "annotations")] {
        pairs(&mut text, label, &meta[field]);
    }
    for (label, field) in [("Created", "creationTimestamp"), ("Deletion asked", "deletionTimestamp")] {
        if let Some(value) = meta[field].as_str() {
            line(&mut text, 0, label, value);
        }
    }
    for owner in meta["ownerReferences"].as_array().into_iter().flatten() {
        let (kind, name) =
            (owner["kind"].as_str().unwrap_or_default(), owner["name"].as_str().unwrap_or_default());
        line(&mut text, 0, "Controlled By", &format!("{kind}/{name}"));
    }
    for (key, value) in object.as_object().into_iter().flatten() {
        if !["apiVersion", "kind", "metadata"].contains(&key.as_str()) {
            field(&mut text, 0, key, value);
        }
    }
    text
}

fn line(text: &mut String, depth: usize, label: &str, value: &str) {
    let label = format!("{}{label}:", "  ".repeat(depth));
    // Writing to a String cannot fail.
    writeln!(text, "{label:<22} {value}").expect("a string takes every line");
}

fn pairs(text: &mut String, label: &str, map: &Value) {
    let all: Vec<String> = map
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    if all.is_empty() {
        return line(text, 0, label, "<none>");
    }
    for (index, pair) in all.iter().enumerate() {
        if index == 0 {
            line(text, 0, label, pair)
        } else {
            writeln!(text, "{:<22} {pair}", "").expect("string")
        }
    }
}

/// `podIP` as `Pod IP`, `restartPolicy` as `Restart Policy`.
fn title(key: &str) -> String {
    let mut title = String::new();
    let mut before_lower = false;
    for (index, letter) in key.chars().enumerate() {
        if index == 0 {
            title.extend(letter.to_uppercase());
        } else {
            if letter.is_uppercase() && before_lower {
                title.push(' ');
            }
            title.push(letter);
        }
        before_lower = letter.is_lowercase() || letter.is_numeric();
    }
    title
}

fn field(text: &mut String, depth: usize, key: &str, value: &Value) {
    let label = title(key);
    match value {
        Value::Null => {}
        Value::Object(map) if map.is_empty() => line(text, depth, &label, "{}"),
        Value::Object(map) => {
            line(text, depth, &label, "");
            map.iter().for_each(|(key, value)| field(text, depth + 1, key, value));
        }
        Value::Array(items) if items.iter().all(|item| !item.is_object() && !item.is_array()) => {
            let words: Vec<String> = items.iter().map(scalar).collect();
            line(text, depth, &label, &words.join(", "));
        }
        Value::Array(items) => {
            line(text, depth, &label, "");
            for (index, item) in items.iter().enumerate() {
                let name =
                    item["name"].as_str().or(item["type"].as_str()).map_or(index.to_string(), str::to_owned);
                line(text, depth + 1, &name, "");
                for (key, value) in item.as_object().into_iter().flatten() {
                    if key != "name" {
                        field(text, depth + 2, key, value);
                    }
                }
            }
        }
        other => line(text, depth, &label, &scalar(other)),
    }
}

fn scalar(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

async fn events(cluster: &Cluster, target: &Target, object: &Value) -> Result<String, Error> {
    let meta = &object["metadata"];
    let namespace = meta["namespace"].as_str().unwrap_or("default");
    let selector = format!(
        "involvedObject.name={},involvedObject.kind={},involvedObject.uid={}",
        meta["name"].as_str().unwrap_or_default(),
        target.resource.kind,
        meta["uid"].as_str().unwrap_or_default()
    );
    let path = Path::new(format!("/api/v1/namespaces/{namespace}/events"))
        .query("fieldSelector", &selector)
        .finish();
    let table = cluster.get(&path, TABLE).await?;
    let rows = table["rows"].as_array().map_or(&[][..], Vec::as_slice);
    if rows.is_empty() {
        return Ok(format!("{:<22} <none>\n", "Events:"));
    }
    let mut text = Vec::new();
    crate::output::TablePrinter::new(false, false, None).print(&mut text, &table)?;
    Ok(format!("Events:\n{}", indent(&String::from_utf8_lossy(&text))))
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    #[test]
    fn any_object_has_an_outline() {
        let object = json!({"kind": "Pod", "metadata": {"name": "web", "namespace": "default", "labels": {"a": "b"}},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i", "args": ["x", "y"]}]},
            "status": {"podIP": "10.0.0.1"}});
        expect![[r#"
            Name:                  web
            Namespace:             default
            Labels:                a=b
            Annotations:           <none>
            Spec:                  
              Node Name:           n1
              Containers:          
                c:                 
                  Image:           i
                  Args:            x, y
            Status:                
              Pod IP:              10.0.0.1
        "#]]
        .assert_eq(&outline(&object));
    }
}
