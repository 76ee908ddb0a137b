//! Names for states of a template, such as the `pod-template-hash` label.
//!
//! Kubernetes hashes a dump of its Go structs, so its values cannot be had elsewhere; what must hold is that equal
//! templates give equal hashes and that a collision count gives another one.

use serde_json::Value;

/// The hash of a template, safe to stand in a name. `collisions` is how often the name was taken already.
pub fn template_hash(template: &Value, collisions: Option<i32>) -> String {
    let mut hash = Fnv32::new();
    feed(&mut hash, template);
    if let Some(count) = collisions {
        hash.write(&count.to_le_bytes());
    }
    safe_encode(&hash.0.to_string())
}

/// Replaces each character by one that cannot spell a word, as Kubernetes does.
pub fn safe_encode(text: &str) -> String {
    let alphabet = crate::names::SUFFIX_ALPHABET;
    text.bytes().map(|b| alphabet[b as usize % alphabet.len()] as char).collect()
}

/// 32-bit FNV-1a.
struct Fnv32(u32);

impl Fnv32 {
    fn new() -> Self {
        Fnv32(0x811c_9dc5)
    }

    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.0 = (self.0 ^ u32::from(*b)).wrapping_mul(0x0100_0193);
        }
    }
}

/// Feeds the value so that neither the order of keys nor absent and null fields make a difference.
fn feed(hash: &mut Fnv32, value: &Value) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().filter(|(_, v)| !v.is_null()).collect();
            entries.sort_by_key(|(k, _)| *k);
            hash.write(b"{");
            for (key, value) in entries {
                hash.write(key.as_bytes());
                hash.write(b":");
                feed(hash, value);
            }
            hash.write(b"}");
        }
        Value::Array(items) => {
            hash.write(b"[");
            items.iter().for_each(|item| feed(hash, item));
            hash.write(b"]");
        }
        scalar => {
            hash.write(scalar.to_string().as_bytes());
            hash.write(b",");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn equal_templates_hash_alike_and_different_ones_do_not() {
        let hash = |v| template_hash(&v, None);
        assert_eq!(hash(json!({"a": 1, "b": [true]})), hash(json!({"b": [true], "a": 1, "c": null})));
        assert_ne!(hash(json!({"a": 1})), hash(json!({"a": 2})));
        assert_ne!(hash(json!({"a": 1})), template_hash(&json!({"a": 1}), Some(1)));
    }

    #[test]
    fn hashes_are_safe_in_names() {
        assert_eq!(safe_encode("0129"), "456f");
        let hash = template_hash(&json!({"spec": {"containers": []}}), Some(0));
        assert!(crate::names::check_dns_label(&hash).is_empty());
    }
}
