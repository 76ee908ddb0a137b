//! JSON of an object with a hole for its revision, so that bytes are encoded once, before it is known.

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::{Map, Value};

use super::Revision;

/// An object's JSON without the digits of `metadata.resourceVersion`, which go in at `hole`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Body {
    text: Bytes,
    hole: u32,
}

impl Body {
    /// Encodes `object`; the `resourceVersion` it carries, if any, does not matter.
    pub(crate) fn encode(object: &Value) -> Self {
        let mut out = Vec::with_capacity(1024);
        let mut hole = None;
        out.push(b'{');
        for (name, value) in object.as_object().into_iter().flatten() {
            write_name(&mut out, name);
            match value {
                Value::Object(metadata) if name == "metadata" => {
                    hole = Some(write_metadata(&mut out, metadata))
                }
                other => write_value(&mut out, other),
            }
        }
        let hole = hole.unwrap_or_else(|| {
            write_name(&mut out, "metadata");
            write_metadata(&mut out, &Map::new())
        });
        out.push(b'}');
        Self { text: out.into(), hole }
    }

    /// From the parts that [`Body::parts`] gave. None if the hole is not inside the text.
    pub(crate) fn from_parts(text: Bytes, hole: u32) -> Option<Self> {
        (hole as usize <= text.len()).then_some(Self { text, hole })
    }

    pub(crate) fn parts(&self) -> (&Bytes, u32) {
        (&self.text, self.hole)
    }

    /// The complete JSON at `revision`.
    pub(crate) fn at(&self, revision: Revision) -> Bytes {
        let digits = revision.to_string();
        let (before, after) = self.text.split_at(self.hole as usize);
        let mut out = BytesMut::with_capacity(self.text.len() + digits.len());
        out.put_slice(before);
        out.put_slice(digits.as_bytes());
        out.put_slice(after);
        out.freeze()
    }
}

fn write_name(out: &mut Vec<u8>, name: &str) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
    write_value(out, name);
    out.push(b':');
}

fn write_value<T: serde::Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(out, value).expect("a JSON value always encodes into memory");
}

/// Writes `metadata` and returns where the revision's digits go.
fn write_metadata(out: &mut Vec<u8>, metadata: &Map<String, Value>) -> u32 {
    let mut hole = None;
    out.push(b'{');
    for (name, value) in metadata {
        write_name(out, name);
        match name.as_str() {
            "resourceVersion" => hole = Some(write_hole(out)),
            _ => write_value(out, value),
        }
    }
    let hole = hole.unwrap_or_else(|| {
        write_name(out, "resourceVersion");
        write_hole(out)
    });
    out.push(b'}');
    hole
}

fn write_hole(out: &mut Vec<u8>) -> u32 {
    out.extend_from_slice(b"\"\"");
    u32::try_from(out.len() - 1).expect("an object is far smaller than 4 GiB")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(object: Value) {
        let bytes = Body::encode(&object).at(1234);
        let parsed: Value = serde_json::from_slice(&bytes).unwrap();
        let mut expected = object;
        expected["metadata"]["resourceVersion"] = json!("1234");
        assert_eq!(parsed, expected);
    }

    #[test]
    fn the_revision_fills_the_hole_wherever_the_field_was() {
        check(
            json!({"kind": "Pod", "metadata": {"name": "a", "resourceVersion": "7", "uid": "u"}, "spec": {}}),
        );
    }

    #[test]
    fn an_object_without_revision_gets_one() {
        check(json!({"metadata": {"name": "a\"{"}, "data": {"metadata": {"resourceVersion": "no"}}}));
    }

    #[test]
    fn an_object_without_metadata_gets_one() {
        check(json!({}));
    }
}
