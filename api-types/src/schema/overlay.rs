//! The table of facts about built-in types that their JSON schemas lack; `overlay.txt` states its syntax.

use super::{ListType, PatchStrategy};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::LazyLock;

/// What is known of a definition.
#[derive(Debug, Default)]
pub(super) struct Definition {
    pub(super) atomic: bool,
    pub(super) fields: HashMap<&'static str, Field>,
}

/// What is known of a field.
#[derive(Clone, Debug, Default)]
pub(super) struct Field {
    /// Said of the list; none if nothing is said, which means atomic.
    pub(super) list: Option<ListType>,
    pub(super) atomic: bool,
    /// Shared by its fields, although its definition is atomic.
    pub(super) granular: bool,
    pub(super) patch: PatchStrategy,
    /// Always there, an empty object at least.
    pub(super) structure: bool,
    /// An empty text, zero or false is kept, because it says something else than none.
    pub(super) pointer: bool,
    /// Always there, null at least.
    pub(super) written: bool,
    pub(super) default: Option<Value>,
    /// Whether it may be absent although the Rust type demands it.
    pub(super) optional: bool,
}

/// The facts about a definition.
pub(super) fn find(definition: &str) -> Option<&'static Definition> {
    static TABLE: LazyLock<HashMap<&str, Definition>> =
        LazyLock::new(|| parse(include_str!("overlay.txt")).expect("a test reads the overlay"));
    TABLE.get(definition)
}

/// Whether a field may be absent although the Rust type demands it.
pub(super) fn is_optional(facts: Option<&Definition>, field: &str) -> bool {
    facts.and_then(|f| f.fields.get(field)).is_some_and(|f| f.optional)
}

#[derive(Debug, thiserror::Error)]
#[error("overlay, line {line}: unknown word {word:?}")]
struct OverlayError {
    line: usize,
    word: &'static str,
}

fn parse(text: &'static str) -> Result<HashMap<&'static str, Definition>, OverlayError> {
    let mut table = HashMap::new();
    let mut current: Option<&mut Definition> = None;
    for (number, line) in text.lines().enumerate() {
        let mut words = line.split_whitespace();
        let Some(name) = words.next().filter(|w| !w.starts_with('#')) else { continue };
        if !line.starts_with(' ') {
            let atomic = words.next() == Some("atomic");
            current = Some(table.entry(name).or_insert(Definition { atomic, fields: HashMap::new() }));
            continue;
        }
        let mut field = Field::default();
        for word in words {
            read(&mut field, word).ok_or(OverlayError { line: number + 1, word })?;
        }
        let definition = current.as_mut().ok_or(OverlayError { line: number + 1, word: name })?;
        definition.fields.insert(name, field);
    }
    Ok(table)
}

fn read(field: &mut Field, word: &str) -> Option<()> {
    match word.split_once('=').unwrap_or((word, "")) {
        ("set", _) => field.list = Some(ListType::Set),
        ("atomic", _) => {
            field.list = Some(ListType::Atomic);
            field.atomic = true;
        }
        ("list", keys) => field.list = Some(ListType::Map(keys.split(',').map(str::to_owned).collect())),
        ("patch", strategy) => {
            field.patch.merge = strategy.split(',').any(|s| s == "merge");
            field.patch.retain_keys = strategy.split(',').any(|s| s == "retainKeys");
        }
        ("key", name) => field.patch.merge_key = Some(name.to_owned()),
        ("granular", _) => field.granular = true,
        ("struct", _) => field.structure = true,
        ("null", _) => field.written = true,
        ("pointer", _) => field.pointer = true,
        ("optional", _) => field.optional = true,
        ("default", json) => field.default = Some(serde_json::from_str(json).ok()?),
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_overlay_is_understood() {
        let ports = &find("io.k8s.api.core.v1.ServiceSpec").unwrap().fields["ports"];
        assert_eq!(ports.list, Some(ListType::Map(vec!["port".into(), "protocol".into()])));
        assert_eq!(ports.patch.merge_key.as_deref(), Some("port"));
    }

    #[test]
    fn an_unknown_word_is_named_with_its_line() {
        assert_eq!(parse("a\n  b lst=c").unwrap_err().to_string(), "overlay, line 2: unknown word \"lst=c\"");
    }
}
