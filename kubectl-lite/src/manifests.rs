//! Manifests from files, folders and standard input: YAML or JSON, several documents a file.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize as _;
use serde_json::Value;

use crate::error::Error;

/// One object as somebody wrote it, and where.
#[derive(Clone, Debug)]
pub struct Manifest {
    pub object: Value,
    /// The file's path, or `STDIN`.
    pub source: String,
}

impl Manifest {
    pub(crate) fn text(&self, pointer: &str) -> Option<&str> {
        self.object.pointer(pointer).and_then(Value::as_str)
    }

    /// `apiVersion` and `kind`, or an error that says which is missing.
    pub fn type_meta(&self) -> Result<(&str, &str), Error> {
        let missing = |field: &str| Error::Syntax {
            file: self.source.clone(),
            message: format!("an object has no {field}: each needs apiVersion, kind and metadata.name"),
        };
        let api_version = self.text("/apiVersion").ok_or_else(|| missing("apiVersion"))?;
        let kind = self.text("/kind").ok_or_else(|| missing("kind"))?;
        Ok((api_version, kind))
    }
}

/// Reads every manifest of `path`: a file, a folder's `.yaml`, `.yml` and `.json` files in order of name
/// (below it too when `recursive`), or standard input for `-`. `List` objects are taken apart.
///
/// # Errors
/// A file that cannot be read, or a syntax error with its file, line and column.
pub fn read_manifests(path: &str, recursive: bool) -> Result<Vec<Manifest>, Error> {
    if path == "-" {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .map_err(|source| Error::ReadFile { path: "STDIN".into(), source })?;
        return parse("STDIN", &text);
    }
    let mut manifests = Vec::new();
    for file in files_of(Path::new(path), recursive)? {
        let text = std::fs::read_to_string(&file)
            .map_err(|source| Error::ReadFile { path: file.clone(), source })?;
        manifests.extend(parse(&file.display().to_string(), &text)?);
    }
    Ok(manifests)
}

fn files_of(path: &Path, recursive: bool) -> Result<Vec<PathBuf>, Error> {
    let unreadable = |source| Error::ReadFile { path: path.to_owned(), source };
    if !std::fs::metadata(path).map_err(unreadable)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        entries.push(entry.map_err(unreadable)?.path());
    }
    entries.sort();
    let mut files = Vec::new();
    for entry in entries {
        if entry.is_dir() {
            if recursive {
                files.extend(files_of(&entry, true)?);
            }
        } else if entry
            .extension()
            .is_some_and(|ext| ["yaml", "yml", "json"].iter().any(|known| ext == *known))
        {
            files.push(entry);
        }
    }
    Ok(files)
}

/// The documents of a text; `source` is what errors call it.
///
/// # Errors
/// A syntax error with its line and column.
pub fn parse(source: &str, text: &str) -> Result<Vec<Manifest>, Error> {
    let syntax =
        |error: serde_yaml::Error| Error::Syntax { file: source.to_owned(), message: error.to_string() };
    let mut manifests = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let mut yaml = serde_yaml::Value::deserialize(document).map_err(syntax)?;
        yaml.apply_merge().map_err(syntax)?;
        let object: Value = serde_yaml::from_value(yaml).map_err(syntax)?;
        flatten(source, object, &mut manifests)?;
    }
    Ok(manifests)
}

fn flatten(source: &str, mut object: Value, manifests: &mut Vec<Manifest>) -> Result<(), Error> {
    if object.is_null() {
        return Ok(());
    }
    if !object.is_object() {
        let message = "a document is not an object: it must start with apiVersion and kind".to_owned();
        return Err(Error::Syntax { file: source.to_owned(), message });
    }
    if object["kind"] == "List"
        && let Value::Array(items) = object["items"].take()
    {
        return items.into_iter().try_for_each(|item| flatten(source, item, manifests));
    }
    manifests.push(Manifest { object, source: source.to_owned() });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_lists_and_blanks_become_objects() {
        let text = "kind: A\n---\n---\nkind: List\nitems: [{kind: B}, {kind: C}]\n";
        let kinds: Vec<_> =
            parse("f", text).expect("parses").iter().map(|m| m.text("/kind").unwrap().to_owned()).collect();
        assert_eq!(kinds, ["A", "B", "C"]);
    }

    #[test]
    fn a_syntax_error_names_file_line_and_column() {
        let said = parse("web.yaml", "kind: A\nspec:\n  a: [1\nb: 2\n").expect_err("broken").for_humans();
        assert!(said.starts_with("error: web.yaml: "), "{said}");
        assert!(said.contains("line 4 column 2"), "{said}");
    }

    #[test]
    fn merge_keys_are_resolved() {
        let manifests = parse("f", "base: &b {x: 1}\nkind: A\nspec:\n  <<: *b\n  y: 2\n").expect("parses");
        assert_eq!(manifests[0].object["spec"], serde_json::json!({"y": 2, "x": 1}));
    }
}
