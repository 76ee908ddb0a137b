//! An object as the server keeps it: its bytes, encoded once, and on first use its labels and indexed fields.

use std::borrow::Cow;
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};

use bytes::Bytes;
use serde_json::Value;

use crate::json_text;
use crate::store::{Body, Key, Revision};

/// The field paths that selectors may name for a resource: `spec.nodeName`, `status.phase`. Cheap to clone: all
/// objects of a resource share them.
#[derive(Clone)]
pub(crate) struct FieldPaths(Arc<Paths>);

struct Paths {
    names: Vec<String>,
    /// At how many places the text of each may be, the first that has one counting.
    places: Vec<usize>,
    wanted: Wanted,
}

impl FieldPaths {
    /// Of fields that are paths, or `NAME=PATH|PATH` where they are read elsewhere.
    pub(crate) fn new(fields: Vec<String>) -> Self {
        let mut paths = Paths { names: Vec::new(), places: Vec::new(), wanted: Wanted::default() };
        paths.wanted.at("metadata.labels").is_labels = true;
        let mut count = 0;
        for field in fields {
            let (name, places) = field.split_once('=').unwrap_or((&field, &field));
            paths.names.push(name.to_owned());
            paths.places.push(places.split('|').count());
            for place in places.split('|') {
                paths.wanted.at(place).fields.push(count);
                count += 1;
            }
        }
        Self(Arc::new(paths))
    }

    fn names(&self) -> &[String] {
        &self.0.names
    }
}

impl Default for FieldPaths {
    /// Of a resource of which nothing is indexed but labels.
    fn default() -> Self {
        static NONE: LazyLock<FieldPaths> = LazyLock::new(|| FieldPaths::new(Vec::new()));
        NONE.clone()
    }
}

/// Fields whose absence means something else than the empty string, as in Kubernetes' own selectors.
const ABSENT: &[(&str, &str)] = &[
    ("spec.unschedulable", "false"),
    ("spec.hostNetwork", "false"),
    ("status.successful", "0"),
    ("status.replicas", "0"),
];

/// One object at one revision. Everything that is sent of it is `bytes`.
pub(crate) struct Stored {
    pub(crate) key: Key,
    pub(crate) revision: Revision,
    /// The complete JSON, `metadata.resourceVersion` included.
    pub(crate) bytes: Bytes,
    paths: FieldPaths,
    facts: OnceLock<Facts>,
    /// Of all labels and indexed fields, once they are known: see [`Marks`].
    marks: AtomicU64,
}

/// A few bits of names and values. Whoever lacks a bit of what is asked for does not match, and that is seen
/// without touching anything else of the object; whoever has them all may match.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks(u64);

impl Marks {
    /// Tells marks that nothing was asked of from those of an object with nothing.
    const KNOWN: u64 = 1 << 63;

    pub(crate) fn add(&mut self, name: &str, value: &str) {
        let mut hasher = DefaultHasher::new();
        (name, value).hash(&mut hasher);
        self.0 |= 1 << (hasher.finish() % 63);
    }

    /// Whether an object with these marks may have everything that `wanted` marks.
    pub(crate) fn may_have(self, wanted: Self) -> bool {
        self.0 & wanted.0 == wanted.0
    }
}

/// Labels and fields, packed: `text` is all names and values, `ends` where each ends.
struct Facts {
    text: Box<str>,
    ends: Box<[u32]>,
    labels: u32,
}

impl Stored {
    pub(crate) fn new(key: Key, revision: Revision, bytes: Bytes, paths: FieldPaths) -> Self {
        Self { key, revision, bytes, paths, facts: OnceLock::new(), marks: AtomicU64::new(0) }
    }

    /// The same state as if it had been written at `revision`.
    pub(crate) fn at(&self, revision: Revision) -> Self {
        let bytes = Body::encode(&self.value()).at(revision);
        Self::new(self.key.clone(), revision, bytes, self.paths.clone())
    }

    /// The same object under another table of field paths.
    pub(crate) fn with_paths(&self, paths: FieldPaths) -> Self {
        Self::new(self.key.clone(), self.revision, self.bytes.clone(), paths)
    }

    /// All labels, in the object's order.
    pub(crate) fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        let facts = self.facts();
        (0..facts.labels as usize).map(|i| (facts.part(2 * i), facts.part(2 * i + 1)))
    }

    pub(crate) fn label(&self, name: &str) -> Option<&str> {
        self.labels().find(|(label, _)| *label == name).map(|(_, value)| value)
    }

    /// The text of an indexed field; for one that the object lacks, what Kubernetes compares with (mostly
    /// `""`). None for a path that is not in the resource's table.
    pub(crate) fn field(&self, path: &str) -> Option<&str> {
        match path {
            "metadata.name" => return Some(&self.key.name),
            "metadata.namespace" => return Some(&self.key.namespace),
            _ => {}
        }
        let index = self.paths.names().iter().position(|known| known == path)?;
        let facts = self.facts();
        Some(facts.part(2 * facts.labels as usize + index))
    }

    /// The object, parsed.
    pub(crate) fn value(&self) -> Value {
        serde_json::from_slice(&self.bytes).expect("a stored object is the JSON that the server encoded")
    }

    /// The marks of all labels and indexed fields.
    pub(crate) fn marks(&self) -> Marks {
        let known = self.marks.load(Ordering::Relaxed);
        if known != 0 {
            return Marks(known);
        }
        let mut marks = Marks(Marks::KNOWN);
        self.labels().for_each(|(name, value)| marks.add(name, value));
        let fields = self.paths.names().iter().filter_map(|path| Some((path, self.field(path)?)));
        fields.for_each(|(path, value)| marks.add(path, value));
        self.marks.store(marks.0, Ordering::Relaxed);
        marks
    }

    fn facts(&self) -> &Facts {
        self.facts.get_or_init(|| Facts::read(&self.bytes, &self.paths))
    }
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.key, self.revision)
    }
}

impl Facts {
    fn read(bytes: &[u8], paths: &FieldPaths) -> Self {
        let mut found = Found { labels: Vec::new(), fields: vec![None; paths.0.places.iter().sum()] };
        found.walk(bytes, &paths.0.wanted);
        Self::pack(found, &paths.0)
    }

    fn pack(found: Found, paths: &Paths) -> Self {
        let labels = u32::try_from(found.labels.len()).unwrap_or(u32::MAX);
        let mut text = String::new();
        let mut ends = Vec::with_capacity(found.labels.len() * 2 + paths.names.len());
        let mut push = |part: &str| {
            text.push_str(part);
            ends.push(u32::try_from(text.len()).unwrap_or(u32::MAX));
        };
        for (name, value) in &found.labels {
            push(name);
            push(value);
        }
        let mut rest = found.fields.as_slice();
        for (name, places) in paths.names.iter().zip(&paths.places) {
            let (of_field, others) = rest.split_at(*places);
            rest = others;
            let absent = || ABSENT.iter().find(|(known, _)| known == name).map_or("", |(_, text)| text);
            let mut texts = of_field.iter().flatten();
            push(texts.find(|text| !text.is_empty()).map_or_else(absent, String::as_str));
        }
        Self { text: text.into(), ends: ends.into(), labels }
    }

    fn part(&self, index: usize) -> &str {
        let from = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[from as usize..self.ends[index] as usize]
    }
}

/// Which parts of an object to keep while walking over its text.
#[derive(Default)]
struct Wanted {
    is_labels: bool,
    /// The numbers of the places of fields that this is.
    fields: Vec<usize>,
    /// A few names at most, so that looking through them is faster than hashing.
    below: Vec<(String, Wanted)>,
}

impl Wanted {
    fn at(&mut self, path: &str) -> &mut Self {
        path.split('.').fold(self, |at, name| {
            let index = at.below.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
                at.below.push((name.to_owned(), Wanted::default()));
                at.below.len() - 1
            });
            &mut at.below[index].1
        })
    }
}

struct Found {
    labels: Vec<(String, String)>,
    fields: Vec<Option<String>>,
}

impl Found {
    /// Walks over an object's text, keeping what is wanted. What cannot be read has no labels; the server itself
    /// encoded it.
    fn walk(&mut self, text: &[u8], wanted: &Wanted) {
        if wanted.is_labels {
            self.labels.extend(json_text::fields(text).map(label));
        }
        for place in &wanted.fields {
            self.fields[*place] = json_text::scalar(text).map(Cow::into_owned);
        }
        if wanted.below.is_empty() {
            return;
        }
        for (name, value) in json_text::fields(text) {
            if let Some((_, wanted)) = wanted.below.iter().find(|(known, _)| known.as_bytes() == name) {
                self.walk(value, wanted);
            }
        }
    }
}

fn label((name, value): (&[u8], &[u8])) -> (String, String) {
    let value = json_text::scalar(value).unwrap_or_default().into_owned();
    (String::from_utf8_lossy(name).into_owned(), value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(json: &str) -> Stored {
        let paths: FieldPaths = FieldPaths::new(
            ["spec.nodeName", "status.phase", "spec.unschedulable"].map(str::to_owned).into(),
        );
        Stored::new(Key::new("pods", "ns", "a"), 5, Bytes::copy_from_slice(json.as_bytes()), paths)
    }

    #[test]
    fn labels_and_fields_are_read_from_the_bytes() {
        let pod = stored(
            r#"{"metadata":{"labels":{"app":"a\"b","tier":""}},"spec":{"nodeName":"n1","c":[{"nodeName":"x"}]},"status":{"phase":null}}"#,
        );
        assert_eq!(pod.labels().collect::<Vec<_>>(), [("app", "a\"b"), ("tier", "")]);
        assert_eq!(pod.label("app"), Some("a\"b"));
        assert_eq!(pod.field("spec.nodeName"), Some("n1"));
        assert_eq!(pod.field("status.phase"), Some(""));
    }

    #[test]
    fn a_field_that_is_read_elsewhere_has_the_first_text_that_is_there() {
        let source = |json: &str| {
            let paths = FieldPaths::new(["by", "source=source.component|by"].map(str::to_owned).into());
            let bytes = Bytes::copy_from_slice(json.as_bytes());
            let event = Stored::new(Key::new("events", "ns", "a"), 5, bytes, paths);
            (event.field("by").unwrap().to_owned(), event.field("source").unwrap().to_owned())
        };
        assert_eq!(source(r#"{"source":{"component":"kubelet"},"by":"x"}"#), ("x".into(), "kubelet".into()));
        assert_eq!(source(r#"{"source":{},"by":"scheduler"}"#), ("scheduler".into(), "scheduler".into()));
        assert_eq!(source(r#"{"source":{"component":""}}"#), (String::new(), String::new()));
    }

    #[test]
    fn marks_rule_out_only_what_does_not_match() {
        let pod = stored(r#"{"metadata":{"labels":{"app":"a"}},"spec":{"nodeName":"n1"}}"#);
        let marks_of = |pairs: &[(&str, &str)]| {
            let mut marks = Marks::default();
            pairs.iter().for_each(|(name, value)| marks.add(name, value));
            marks
        };
        assert!(pod.marks().may_have(Marks::default()));
        assert!(pod.marks().may_have(marks_of(&[("app", "a"), ("spec.nodeName", "n1")])));
        let others = (0..100).map(|i| i.to_string());
        let ruled_out = others.filter(|value| !pod.marks().may_have(marks_of(&[("app", value)]))).count();
        assert!(ruled_out > 80, "{ruled_out} of 100");
    }

    #[test]
    fn an_absent_field_is_what_kubernetes_compares_with() {
        let pod = stored(r#"{"metadata":{"labels":null}}"#);
        assert_eq!(pod.labels().count(), 0);
        assert_eq!(pod.field("spec.nodeName"), Some(""));
        assert_eq!(pod.field("spec.unschedulable"), Some("false"));
        assert_eq!(pod.field("metadata.name"), Some("a"));
        assert_eq!(pod.field("spec.other"), None);
    }
}
