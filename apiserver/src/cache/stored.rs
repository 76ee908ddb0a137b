//! An object as the server keeps it: its bytes, encoded once, and on first use its labels and indexed fields.
//!
//! Labels and fields are read apart: labels stand near the beginning of an object's text, indexed fields anywhere.

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
    /// Names and values of all labels in turn.
    labels: OnceLock<Box<Texts>>,
    /// The indexed fields, in their table's order.
    fields: OnceLock<Box<Texts>>,
    /// Of all labels and of all indexed fields, once they are known: see [`Marks`].
    label_marks: AtomicU64,
    field_marks: AtomicU64,
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

    /// Those kept at `known`, or those that `read` finds.
    fn kept(known: &AtomicU64, read: impl FnOnce(&mut Marks)) -> Marks {
        let kept = known.load(Ordering::Relaxed);
        if kept != 0 {
            return Marks(kept);
        }
        let mut marks = Marks(Self::KNOWN);
        read(&mut marks);
        known.store(marks.0, Ordering::Relaxed);
        marks
    }

    fn has(self, wanted: Self) -> bool {
        self.0 & wanted.0 == wanted.0
    }
}

/// The marks of what every object that is looked for has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sought {
    pub(crate) labels: Marks,
    pub(crate) fields: Marks,
}

/// Texts, packed: `text` is all of them, `ends` where each ends.
struct Texts {
    text: Box<str>,
    ends: Box<[u32]>,
}

impl Stored {
    pub(crate) fn new(key: Key, revision: Revision, bytes: Bytes, paths: FieldPaths) -> Self {
        Self {
            key,
            revision,
            bytes,
            paths,
            labels: OnceLock::new(),
            fields: OnceLock::new(),
            label_marks: AtomicU64::new(0),
            field_marks: AtomicU64::new(0),
        }
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
        let texts = self.labels.get_or_init(|| {
            let labels: Vec<_> = labels_of(&self.bytes).collect();
            Box::new(labels.iter().flat_map(|(name, value)| [&**name, &**value]).collect())
        });
        (0..texts.ends.len() / 2).map(|i| (texts.part(2 * i), texts.part(2 * i + 1)))
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
        let fields = self.fields.get_or_init(|| Box::new(self.paths.0.read(&self.bytes)));
        Some(fields.part(index))
    }

    /// The object, parsed.
    pub(crate) fn value(&self) -> Value {
        serde_json::from_slice(&self.bytes).expect("a stored object is the JSON that the server encoded")
    }

    /// Whether the object may have everything that is sought.
    pub(crate) fn may_have(&self, sought: &Sought) -> bool {
        (sought.labels == Marks::default() || self.label_marks().has(sought.labels))
            && (sought.fields == Marks::default() || self.field_marks().has(sought.fields))
    }

    /// Reads the marks of the labels while the text is at hand, so that no list has to come back for them.
    pub(super) fn mark(&self) {
        self.label_marks();
    }

    fn label_marks(&self) -> Marks {
        Marks::kept(&self.label_marks, |marks| {
            labels_of(&self.bytes).for_each(|(name, value)| marks.add(&name, &value));
        })
    }

    fn field_marks(&self) -> Marks {
        Marks::kept(&self.field_marks, |marks| {
            let fields = self.paths.names().iter().filter_map(|path| Some((path, self.field(path)?)));
            fields.for_each(|(path, value)| marks.add(path, value));
        })
    }
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.key, self.revision)
    }
}

impl Paths {
    /// The fields of an encoded object.
    fn read(&self, bytes: &[u8]) -> Texts {
        let mut found = Found { fields: vec![None; self.places.iter().sum()] };
        found.walk(bytes, &self.wanted);
        let mut rest = found.fields.as_slice();
        let fields = self.names.iter().zip(&self.places).map(|(name, places)| {
            let (of_field, others) = rest.split_at(*places);
            rest = others;
            let absent = || ABSENT.iter().find(|(known, _)| known == name).map_or("", |(_, text)| text);
            of_field.iter().flatten().find(|text| !text.is_empty()).map_or_else(absent, |text| &**text)
        });
        fields.collect()
    }
}

impl Texts {
    fn part(&self, index: usize) -> &str {
        let from = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[from as usize..self.ends[index] as usize]
    }
}

impl<'a> FromIterator<&'a str> for Texts {
    fn from_iter<T: IntoIterator<Item = &'a str>>(parts: T) -> Self {
        let mut text = String::new();
        let push = |part: &str| {
            text.push_str(part);
            u32::try_from(text.len()).unwrap_or(u32::MAX)
        };
        let ends = parts.into_iter().map(push).collect();
        Self { text: text.into(), ends }
    }
}

/// Names and values of the labels of an encoded object. What cannot be read has none.
fn labels_of(bytes: &[u8]) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    let labels =
        json_text::enter(bytes, "metadata").and_then(|metadata| json_text::enter(metadata, "labels"));
    let label = |(name, value)| (json_text::name(name), json_text::scalar(value).unwrap_or_default());
    json_text::fields(labels.unwrap_or_default()).map(label)
}

/// Which parts of an object to keep while walking over its text.
#[derive(Default)]
struct Wanted {
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

struct Found<'a> {
    fields: Vec<Option<Cow<'a, str>>>,
}

impl<'a> Found<'a> {
    /// Walks over an object's text, keeping what is wanted.
    fn walk(&mut self, text: &'a [u8], wanted: &Wanted) {
        for place in &wanted.fields {
            self.fields[*place] = json_text::scalar(text);
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
        let sought = |label: &str, field: &str| {
            let mut sought = Sought::default();
            sought.labels.add("app", label);
            sought.fields.add("spec.nodeName", field);
            sought
        };
        assert!(pod.may_have(&Sought::default()));
        assert!(pod.may_have(&sought("a", "n1")));
        let others: Vec<_> = (0..100).map(|i| i.to_string()).collect();
        let by_label = others.iter().filter(|value| !pod.may_have(&sought(value, "n1"))).count();
        let by_field = others.iter().filter(|value| !pod.may_have(&sought("a", value))).count();
        assert!(by_label > 80 && by_field > 80, "{by_label} and {by_field} of 100");
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
