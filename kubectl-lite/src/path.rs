//! Request paths with their queries.

/// A path under construction; values are percent-encoded.
pub(crate) struct Path {
    text: String,
    has_query: bool,
}

impl Path {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), has_query: false }
    }

    pub(crate) fn query(mut self, key: &str, value: &str) -> Self {
        self.text.push(if self.has_query { '&' } else { '?' });
        self.has_query = true;
        self.text.push_str(key);
        self.text.push('=');
        for byte in value.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                    self.text.push(byte as char)
                }
                _ => self.text.push_str(&format!("%{byte:02X}")),
            }
        }
        self
    }

    pub(crate) fn query_some(self, key: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.query(key, value),
            None => self,
        }
    }

    pub(crate) fn finish(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_encoded_and_joined() {
        let path = Path::new("/api/v1/pods").query("labelSelector", "a in (b,c)").query_some("limit", None);
        assert_eq!(
            path.query("watch", "true").finish(),
            "/api/v1/pods?labelSelector=a%20in%20%28b%2Cc%29&watch=true"
        );
    }
}
