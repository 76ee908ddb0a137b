//! Reads a table of kinds from text, because a kind is data: `builtin.txt` shows and states the syntax.

use super::{Column, Kind, Scope, Subresource};

const EVERY_VERB: &str = "create,delete,deletecollection,get,list,patch,update,watch";

#[derive(Debug, thiserror::Error)]
#[error("line {line}: {problem}")]
pub(super) struct TableError {
    line: usize,
    problem: &'static str,
}

/// Parses the rows of a table in the order in which they stand.
pub(super) fn table(text: &str) -> Result<Vec<Kind>, TableError> {
    let mut group = None;
    let mut rows: Vec<Kind> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let fail = |problem| TableError { line: number + 1, problem };
        let (word, rest) = split_word(line);
        match (line.starts_with("  "), word) {
            (_, "") => {}
            (false, w) if w.starts_with('#') => {}
            (false, "group") => group = Some(split_group(rest)),
            (false, _) => {
                let (group, version) = group.ok_or(fail("a kind before any group"))?;
                rows.push(row(group, version, line).ok_or(fail("not a kind"))?);
            }
            (true, _) => {
                let last = rows.last_mut().ok_or(fail("a detail before any kind"))?;
                detail(last, word, rest).ok_or(fail("not a detail of a kind"))?;
            }
        }
    }
    Ok(rows)
}

fn split_word(line: &str) -> (&str, &str) {
    let line = line.trim();
    line.split_once(' ').unwrap_or((line, ""))
}

fn split_group(text: &str) -> (&str, &str) {
    text.rsplit_once('/').unwrap_or(("", text))
}

fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::to_owned).collect()
}

fn verbs(text: &str) -> Vec<String> {
    list(if text == "all" { EVERY_VERB } else { text })
}

fn row(group: &str, version: &str, line: &str) -> Option<Kind> {
    let mut words = line.split_whitespace();
    let (kind, plural, scope) = (words.next()?, words.next()?, words.next()?);
    let scope = match scope {
        "namespaced" => Scope::Namespaced,
        "cluster" => Scope::Cluster,
        _ => return None,
    };
    let mut row = Kind {
        group: group.to_owned(),
        version: version.to_owned(),
        kind: kind.to_owned(),
        list_kind: format!("{kind}List"),
        plural: plural.to_owned(),
        singular: kind.to_lowercase(),
        short_names: vec![],
        categories: vec![],
        scope,
        verbs: verbs(words.next()?),
        subresources: vec![],
        storage: if group.is_empty() { plural.to_owned() } else { format!("{group}/{plural}") },
        selectable_fields: vec![],
        columns: vec![],
        through: None,
        deprecation: None,
        definition: definition(group, version, kind),
        custom: None,
    };
    if row.verbs == ["create"] {
        row.storage.clear();
    }
    for word in words {
        property(&mut row, word)?;
    }
    Some(row)
}

fn property(row: &mut Kind, word: &str) -> Option<()> {
    match word.split_once('=').unwrap_or((word, "")) {
        ("short", names) => row.short_names = list(names),
        ("categories", names) => row.categories = list(names),
        ("storage", place) => row.storage = place.to_owned(),
        ("computed", _) => row.storage.clear(),
        ("through", place) => {
            let (plural, subresource) = place.split_once('/')?;
            row.through = Some((plural.to_owned(), subresource.to_owned()));
        }
        ("deprecated", since) => {
            row.deprecation = Some(format!("{} {} is deprecated in v{since}+", row.api_version(), row.kind));
        }
        ("instead", place) => {
            let (api_version, kind) = place.rsplit_once('/')?;
            row.deprecation.as_mut()?.push_str(&format!("; use {api_version} {kind}"));
        }
        _ => return None,
    }
    Some(())
}

/// Kubernetes names a definition after the Go package, whose name is the group's first label.
pub(super) fn definition(group: &str, version: &str, kind: &str) -> String {
    let package = match group.split('.').next() {
        None | Some("") => "api.core",
        // Two groups have servers, and so repositories, of their own.
        Some(first @ "apiregistration") => {
            return format!("io.k8s.kube-aggregator.pkg.apis.{first}.{version}.{kind}");
        }
        Some(first @ "apiextensions") => {
            return format!("io.k8s.apiextensions-apiserver.pkg.apis.{first}.{version}.{kind}");
        }
        Some(first) => &format!("api.{first}"),
    };
    format!("io.k8s.{package}.{version}.{kind}")
}

fn detail(row: &mut Kind, word: &str, rest: &str) -> Option<()> {
    match word {
        "sub" => row.subresources.push(subresource(row, rest)?),
        "fields" => row.selectable_fields = rest.split_whitespace().map(str::to_owned).collect(),
        "columns" => row.columns = rest.split('|').map(column).collect(),
        _ => return None,
    }
    Some(())
}

fn subresource(row: &Kind, text: &str) -> Option<Subresource> {
    let mut words = text.split_whitespace();
    let (name, body, allowed) = (words.next()?, words.next()?, words.next()?);
    let (group, version, kind) = match body.rsplit_once('/') {
        None => (row.group.as_str(), row.version.as_str(), body),
        Some((api_version, kind)) => {
            let (group, version) = split_group(api_version);
            (group, version, kind)
        }
    };
    Some(Subresource {
        name: name.to_owned(),
        group: group.to_owned(),
        version: version.to_owned(),
        kind: kind.to_owned(),
        verbs: verbs(allowed),
    })
}

fn column(text: &str) -> Column {
    let text = text.trim();
    let (text, priority) = text.strip_suffix('*').map_or((text, 0), |t| (t, 1));
    let (name, ty) = text.split_once(':').unwrap_or((text, "string"));
    let (kind, format) = ty.split_once('/').unwrap_or((ty, ""));
    Column {
        name: name.to_owned(),
        kind: kind.to_owned(),
        format: format.to_owned(),
        description: describe(name).to_owned(),
        priority,
        json_path: None,
    }
}

fn describe(column: &str) -> &str {
    match column {
        "Name" => "Name must be unique within a namespace.",
        "Age" => "Time since the object was created.",
        "Created At" => "When the object was created.",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::table;

    #[test]
    fn a_table_that_makes_no_sense_names_the_line() {
        let problem = |text| table(text).unwrap_err().to_string();
        assert_eq!(problem("Pod pods namespaced all"), "line 1: a kind before any group");
        assert_eq!(problem("group v1\nPod pods everywhere all"), "line 2: not a kind");
        assert_eq!(
            problem("group v1\nPod pods namespaced all\n  colums Name"),
            "line 3: not a detail of a kind"
        );
    }
}
