//! Links in what a proxied server answers: those to itself get the proxy's path in front.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::{GzDecoder, GzEncoder};
use http::{HeaderMap, header};

/// A tag that is longer is passed on as it is.
const TAG_BYTES_MAX: usize = 64 * 1024;

/// Elements and their attributes that hold URLs.
static LINKS: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["formaction", "src", "usemap"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// How links are rewritten.
pub(super) struct Links {
    /// The proxy's path to the backend, without a slash at its end.
    pub(super) prefix: String,
    /// Names under which the backend may speak of itself.
    pub(super) hosts: Vec<String>,
}

impl Links {
    /// The link as it works through the proxy. Relative ones do already; others' are not touched.
    pub(super) fn rewrite(&self, link: &str) -> String {
        let path = match link.split_once("://") {
            Some(("http" | "https", rest)) => {
                let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                if !self.hosts.iter().any(|host| host == &rest[..end]) {
                    return link.to_owned();
                }
                &rest[end..]
            }
            _ => link,
        };
        let is_rooted = path.starts_with('/') && !path.starts_with("//");
        let is_done =
            path.strip_prefix(&self.prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        match (is_rooted, is_done) {
            (true, false) => format!("{}{path}", self.prefix),
            (true, true) => path.to_owned(),
            (false, _) => link.to_owned(),
        }
    }
}

/// How a page is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Plain,
    Gzip,
}

impl Encoding {
    /// The packing of a page of HTML; `None` when it is none, or packed in a way that is not known here.
    pub(super) fn of_html(headers: &HeaderMap) -> Option<Self> {
        let text =
            |name| headers.get(name).and_then(|v: &http::HeaderValue| v.to_str().ok()).unwrap_or_default();
        let media = text(header::CONTENT_TYPE).split(';').next().unwrap_or_default().trim();
        match (media.eq_ignore_ascii_case("text/html"), text(header::CONTENT_ENCODING)) {
            (true, "" | "identity") => Some(Self::Plain),
            (true, "gzip") => Some(Self::Gzip),
            _ => None,
        }
    }
}

/// Takes a page out of its packing, and packs it again.
type Repacking = (GzDecoder<Vec<u8>>, GzEncoder<Vec<u8>>);

/// Rewrites a page as it passes.
pub(super) struct Html {
    scanner: Scanner,
    packing: Option<Repacking>,
}

impl Html {
    pub(super) fn new(links: Links, encoding: Encoding) -> Self {
        let pack = || (GzDecoder::new(Vec::new()), GzEncoder::new(Vec::new(), Compression::fast()));
        let packing = (encoding == Encoding::Gzip).then(pack);
        Self { scanner: Scanner { links, pending: Vec::new(), until: None }, packing }
    }

    /// What can be passed on after `chunk`.
    pub(super) fn feed(&mut self, chunk: &[u8]) -> std::io::Result<Vec<u8>> {
        let Some((unpack, pack)) = &mut self.packing else { return Ok(self.scanner.feed(chunk)) };
        unpack.write_all(chunk)?;
        unpack.flush()?;
        let plain = std::mem::take(unpack.get_mut());
        pack.write_all(&self.scanner.feed(&plain))?;
        Ok(std::mem::take(pack.get_mut()))
    }

    /// The end of the page.
    pub(super) fn finish(mut self) -> std::io::Result<Vec<u8>> {
        let Some((mut unpack, mut pack)) = self.packing else { return Ok(self.scanner.pending) };
        unpack.try_finish()?;
        let plain = std::mem::take(unpack.get_mut());
        pack.write_all(&self.scanner.feed(&plain))?;
        pack.write_all(&self.scanner.pending)?;
        pack.finish()
    }
}

/// Finds tags; everything else passes untouched.
struct Scanner {
    links: Links,
    /// The beginning of a tag whose end has not come yet.
    pending: Vec<u8>,
    /// Inside a comment, script or style: what ends it.
    until: Option<&'static [u8]>,
}

impl Scanner {
    fn feed(&mut self, chunk: &[u8]) -> Vec<u8> {
        let mut input = std::mem::take(&mut self.pending);
        input.extend_from_slice(chunk);
        let mut out = Vec::with_capacity(input.len() + 64);
        let mut rest = input.as_slice();
        loop {
            rest = match self.until {
                Some(end) => match self.skip_raw(end, rest, &mut out) {
                    Some(rest) => rest,
                    None => return out,
                },
                None => match self.skip_markup(rest, &mut out) {
                    Some(rest) => rest,
                    None => return out,
                },
            };
        }
    }

    /// Passes raw text up to its end; `None` when the end has not come yet.
    fn skip_raw<'a>(&mut self, end: &'static [u8], rest: &'a [u8], out: &mut Vec<u8>) -> Option<&'a [u8]> {
        let found = rest.windows(end.len()).position(|window| window.eq_ignore_ascii_case(end));
        let Some(at) = found else {
            // The end may be cut in two by the end of the chunk.
            let keep = rest.len().min(end.len() - 1);
            let (pass, kept) = rest.split_at(rest.len() - keep);
            out.extend_from_slice(pass);
            self.pending = kept.to_vec();
            return None;
        };
        self.until = None;
        let (pass, rest) = rest.split_at(at + if end == b"-->" { end.len() } else { 0 });
        out.extend_from_slice(pass);
        Some(rest)
    }

    /// Passes text and one tag; `None` when no whole tag is left.
    fn skip_markup<'a>(&mut self, rest: &'a [u8], out: &mut Vec<u8>) -> Option<&'a [u8]> {
        let Some(at) = rest.iter().position(|b| *b == b'<') else {
            out.extend_from_slice(rest);
            return None;
        };
        let (text, tag) = rest.split_at(at);
        out.extend_from_slice(text);
        if tag.get(1).is_some_and(|b| !b.is_ascii_alphabetic() && !matches!(b, b'/' | b'!' | b'?')) {
            out.push(b'<');
            return Some(&tag[1..]);
        }
        if tag.starts_with(b"<!--") {
            self.until = Some(b"-->");
            return Some(tag);
        }
        match tag_length(tag) {
            Some(length) => {
                let (tag, rest) = tag.split_at(length);
                self.write_tag(tag, out);
                Some(rest)
            }
            None if tag.len() > TAG_BYTES_MAX => {
                out.extend_from_slice(tag);
                None
            }
            None => {
                // Also what may become the beginning of a comment.
                self.pending = tag.to_vec();
                None
            }
        }
    }

    fn write_tag(&mut self, tag: &[u8], out: &mut Vec<u8>) {
        let end = tag[1..].iter().position(|b| !b.is_ascii_alphanumeric()).map_or(tag.len(), |at| at + 1);
        let name = String::from_utf8_lossy(&tag[1..end]).to_ascii_lowercase();
        self.until = match name.as_str() {
            "script" => Some(b"</script"),
            "style" => Some(b"</style"),
            _ => None,
        };
        let Some((_, attributes)) = LINKS.iter().find(|(element, _)| *element == name) else {
            return out.extend_from_slice(tag);
        };
        let mut copied = 0;
        for (attribute, value) in values(tag, end) {
            let text = std::str::from_utf8(&tag[value.clone()]).unwrap_or_default();
            if attributes.iter().any(|a| attribute.eq_ignore_ascii_case(a.as_bytes())) && !text.is_empty() {
                out.extend_from_slice(&tag[copied..value.start]);
                out.extend_from_slice(self.links.rewrite(text).as_bytes());
                copied = value.end;
            }
        }
        out.extend_from_slice(&tag[copied..]);
    }
}

/// The length of the tag that `rest` begins with, quotes respected.
fn tag_length(rest: &[u8]) -> Option<usize> {
    let mut quote = None;
    for (at, byte) in rest.iter().enumerate() {
        match (quote, byte) {
            (Some(open), byte) if open == *byte => quote = None,
            (None, b'"' | b'\'') => quote = Some(*byte),
            (None, b'>') => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// The attributes of a tag: names, and where their values stand.
fn values(tag: &[u8], from: usize) -> Vec<(&[u8], std::ops::Range<usize>)> {
    let mut found = Vec::new();
    let mut at = from;
    while let Some(start) =
        tag[at..].iter().position(|b| !b.is_ascii_whitespace() && *b != b'/').map(|o| at + o)
    {
        let is_end = |b: &u8| b.is_ascii_whitespace() || matches!(b, b'=' | b'>' | b'/');
        let end = tag[start..].iter().position(is_end).map_or(tag.len(), |o| start + o);
        let after = tag[end..].iter().position(|b| !b.is_ascii_whitespace()).map_or(tag.len(), |o| end + o);
        if tag.get(after) != Some(&b'=') {
            at = end.max(start + 1);
            continue;
        }
        let value = tag[after + 1..]
            .iter()
            .position(|b| !b.is_ascii_whitespace())
            .map_or(tag.len(), |o| after + 1 + o);
        let (first, last) = match tag.get(value) {
            Some(quote @ (b'"' | b'\'')) => {
                let close = tag[value + 1..].iter().position(|b| b == quote);
                (value + 1, close.map_or(tag.len(), |o| value + 1 + o))
            }
            _ => {
                let close = tag[value..].iter().position(|b| b.is_ascii_whitespace() || *b == b'>');
                (value, close.map_or(tag.len(), |o| value + o))
            }
        };
        found.push((&tag[start..end], first..last));
        at = (last + 1).min(tag.len());
    }
    found
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    const PREFIX: &str = "/api/v1/namespaces/n/pods/p/proxy";

    fn links() -> Links {
        Links { prefix: PREFIX.into(), hosts: vec!["10.0.0.1:80".into(), "api:6443".into()] }
    }

    fn page(text: &str) -> String {
        // Byte by byte, so that every cut is tried.
        let mut html = Html::new(links(), Encoding::Plain);
        let mut out: Vec<u8> = text.bytes().flat_map(|b| html.feed(&[b]).unwrap()).collect();
        out.extend(html.finish().unwrap());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn links_to_the_backend_lead_through_the_proxy() {
        assert_eq!(links().rewrite("/a?b=c"), format!("{PREFIX}/a?b=c"));
        assert_eq!(links().rewrite("http://10.0.0.1:80/a/"), format!("{PREFIX}/a/"));
        assert_eq!(links().rewrite(&format!("{PREFIX}/a")), format!("{PREFIX}/a"));
        for untouched in ["a/b", "../c", "http://elsewhere/a", "//elsewhere/a", "#here", "mailto:x@y"] {
            assert_eq!(links().rewrite(untouched), untouched);
        }
    }

    #[test]
    fn attributes_that_hold_links_are_rewritten_and_nothing_else() {
        let text = r#"<p>a < b <A class=x HREF="/k">k</a><img src='/i.png' alt="/i"><form action=/f></form>"#;
        let expected = format!(
            r#"<p>a < b <A class=x HREF="{PREFIX}/k">k</a><img src='{PREFIX}/i.png' alt="/i"><form action={PREFIX}/f></form>"#
        );
        assert_eq!(page(text), expected);
    }

    #[test]
    fn scripts_and_comments_pass_as_they_are() {
        let text = r#"<!-- <a href="/x"> --><script>if (a<b) { c = '<a href="/y">' }</script><a href="/z">"#;
        let expected = text.replace("/z", &format!("{PREFIX}/z"));
        assert_eq!(page(text), expected);
        assert_eq!(page("<a href=\"/cut"), "<a href=\"/cut");
    }

    #[test]
    fn a_packed_page_is_unpacked_and_packed_again() {
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(b"<a href=/x>").unwrap();
        let mut html = Html::new(links(), Encoding::Gzip);
        let mut out = html.feed(&packed.finish().unwrap()).unwrap();
        out.extend(html.finish().unwrap());
        let mut text = String::new();
        flate2::read::GzDecoder::new(out.as_slice()).read_to_string(&mut text).unwrap();
        assert_eq!(text, format!("<a href={PREFIX}/x>"));
    }
}
