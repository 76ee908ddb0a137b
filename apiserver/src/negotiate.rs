//! Which form a client wants its answer in, and answers in that form: JSON or YAML; whole objects,
//! a Table, or metadata only; gzip for large bodies.
//!
//! Protobuf is read but never written: clients that prefer it name JSON as their second choice and get that.

mod forms;
mod yaml;

use std::io::Write as _;

use api_types::status::{Details, Status};
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::Value;

pub(crate) use forms::{Items, list_body, object_body, watch_object};

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    Yaml,
}

/// What of an object is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Whole,
    Table,
    Metadata,
}

/// What the client accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Accept {
    pub(crate) encoding: Encoding,
    pub(crate) form: Form,
    /// The group version of `Table` or `PartialObjectMetadata`: `v1` or `v1beta1`.
    pub(crate) form_version: String,
    pub(crate) gzip: bool,
}

impl Default for Accept {
    fn default() -> Self {
        Self { encoding: Encoding::Json, form: Form::Whole, form_version: "v1".into(), gzip: false }
    }
}

/// One entry of an `Accept` header with its parameters.
pub(crate) struct MediaRange<'a> {
    pub(crate) media: &'a str,
    params: Vec<(&'a str, &'a str)>,
}

impl<'a> MediaRange<'a> {
    pub(crate) fn param(&self, key: &str) -> Option<&'a str> {
        self.params.iter().find(|(k, _)| *k == key).map(|(_, v)| *v)
    }
}

/// The entries of the request's `Accept` headers, in order of preference.
pub(crate) fn media_ranges(headers: &HeaderMap) -> Vec<MediaRange<'_>> {
    let texts = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok());
    let mut ranges: Vec<_> = texts.flat_map(|t| t.split(',')).map(parse_range).collect();
    // A stable sort: equal weights keep the client's order.
    ranges.sort_by(|a, b| weight(b).total_cmp(&weight(a)));
    ranges
}

fn weight(range: &MediaRange<'_>) -> f32 {
    range.param("q").and_then(|q| q.parse().ok()).unwrap_or(1.0)
}

fn parse_range(text: &str) -> MediaRange<'_> {
    let mut parts = text.split(';').map(str::trim);
    let media = parts.next().unwrap_or_default();
    MediaRange { media, params: parts.filter_map(|p| p.split_once('=')).collect() }
}

/// Chooses the first form that the client names and the server has.
///
/// Of what is only answered and never kept (reviews) there are no tables.
pub(crate) fn accept(headers: &HeaderMap, tables: bool) -> Result<Accept, Status> {
    let gzip = headers
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .any(|v| v.split(',').any(|e| e.trim().split(';').next() == Some("gzip")));
    let ranges = media_ranges(headers);
    if ranges.is_empty() {
        return Ok(Accept { gzip, ..Accept::default() });
    }
    let chosen = ranges.iter().filter_map(choose).find(|accept| tables || accept.form != Form::Table);
    chosen.map(|a| Accept { gzip, ..a }).ok_or_else(|| not_acceptable(&ranges))
}

/// What is written, and what Kubernetes names with it.
const WRITTEN: &[&str] = &["application/json", "application/yaml"];

/// No range can be met: be it that the media type is unknown, or only the form in which objects are asked for.
pub(crate) fn not_acceptable(ranges: &[MediaRange<'_>]) -> Status {
    let status = Status::not_acceptable(WRITTEN);
    match ranges.iter().any(|range| encoding(range.media).is_some()) {
        true => status,
        false => status.with_details(Details::default()),
    }
}

/// In what a range of media types is answered, if it can be.
pub(crate) fn encoding(media: &str) -> Option<Encoding> {
    match media {
        "application/json" | "*/*" | "application/*" => Some(Encoding::Json),
        "application/yaml" => Some(Encoding::Yaml),
        _ => None,
    }
}

fn choose(range: &MediaRange<'_>) -> Option<Accept> {
    let encoding = encoding(range.media)?;
    let group_is_meta = range.param("g").is_none_or(|g| g == "meta.k8s.io");
    let form = match range.param("as") {
        None => Form::Whole,
        Some("Table") if group_is_meta => Form::Table,
        Some("PartialObjectMetadata" | "PartialObjectMetadataList") if group_is_meta => Form::Metadata,
        Some(_) => return None,
    };
    let form_version = range.param("v").unwrap_or("v1");
    if !matches!(form_version, "v1" | "v1beta1") {
        return None;
    }
    Some(Accept { encoding, form, form_version: form_version.into(), gzip: false })
}

/// Bodies above this many bytes are compressed when the client can read it; below, the time is not worth it.
const GZIP_BYTES_MIN: usize = 128 * 1024;

/// Answers with a body that is JSON already.
pub(crate) fn answer_json(
    code: StatusCode,
    body: Bytes,
    accept: &Accept,
) -> Result<http::Response<Body>, Status> {
    match accept.encoding {
        Encoding::Json => finish(code, body, "application/json", accept.gzip),
        Encoding::Yaml => {
            let value: Value = serde_json::from_slice(&body)
                .map_err(|e| Status::internal(format!("a stored object is not JSON: {e}")))?;
            finish(code, Bytes::from(yaml::encode(&value)), "application/yaml", accept.gzip)
        }
    }
}

/// Answers with a value.
pub(crate) fn answer_value(
    code: StatusCode,
    value: &Value,
    accept: &Accept,
) -> Result<http::Response<Body>, Status> {
    answer_json(code, encode(value), accept)
}

/// A value as JSON bytes.
pub(crate) fn encode(value: &Value) -> Bytes {
    Bytes::from(serde_json::to_vec(value).expect("a JSON value always encodes"))
}

fn finish(
    code: StatusCode,
    body: Bytes,
    media: &'static str,
    gzip: bool,
) -> Result<http::Response<Body>, Status> {
    let compress = gzip && body.len() > GZIP_BYTES_MIN;
    let body = if compress { compress_gzip(&body)? } else { body };
    let mut response = http::Response::new(Body::from(body));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    if compress {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    Ok(response)
}

fn compress_gzip(body: &[u8]) -> Result<Bytes, Status> {
    // Level 1 as kube-apiserver: the network is faster than a better ratio.
    let mut encoder =
        flate2::write::GzEncoder::new(Vec::with_capacity(body.len() / 4), flate2::Compression::fast());
    let written = encoder.write_all(body).and_then(|()| encoder.finish());
    written.map(Bytes::from).map_err(|e| Status::internal(format!("cannot compress the answer: {e}")))
}

/// An error as every client sees it: a `Status` in JSON.
pub(crate) fn answer_status(status: &Status) -> http::Response<Body> {
    let code = StatusCode::from_u16(status.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = http::Response::new(Body::from(encode(&status.to_value())));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    if code == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"kubernetes\""));
    }
    if matches!(code, StatusCode::TOO_MANY_REQUESTS | StatusCode::GATEWAY_TIMEOUT) {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// All warnings of an answer together have no more characters, so that clients can read its head.
const WARNINGS_CHARS_MAX: usize = 4096;
/// Where that is too little, none is longer.
const WARNING_CHARS_MAX: usize = 256;

/// Adds `Warning: 299 - "text"` headers, which kubectl prints. Of too many, the first are told, and their beginnings.
pub(crate) fn add_warnings(response: &mut http::Response<Body>, warnings: &[String]) {
    for text in limited(warnings) {
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}

fn limited(warnings: &[String]) -> Vec<&str> {
    let total: usize = warnings.iter().map(|text| text.chars().count()).sum();
    if total <= WARNINGS_CHARS_MAX {
        return warnings.iter().map(String::as_str).collect();
    }
    let begin = |text| match str::char_indices(text).nth(WARNING_CHARS_MAX) {
        Some((end, _)) => &text[..end],
        None => text,
    };
    let mut left = WARNINGS_CHARS_MAX;
    let fits = |text: &&str| {
        let rest = left.checked_sub(text.chars().count());
        left = rest.unwrap_or_default();
        rest.is_some()
    };
    warnings.iter().map(|text| begin(text)).take_while(fits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepting(text: &str) -> Result<Accept, Status> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, text.parse().unwrap());
        accept(&headers, true)
    }

    #[test]
    fn the_first_known_form_wins() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        assert_eq!(accepting(table).unwrap().form, Form::Table);
        let protobuf = "application/vnd.kubernetes.protobuf,application/json";
        assert_eq!(accepting(protobuf).unwrap().form, Form::Whole);
        assert_eq!(accepting("application/yaml").unwrap().encoding, Encoding::Yaml);
    }

    #[test]
    fn too_many_warnings_are_told_by_the_beginnings_of_the_first() {
        let few = ["x".repeat(4000), "é".to_owned()];
        assert_eq!(limited(&few), few);
        let many = vec!["é".repeat(300); 100];
        let told = limited(&many);
        assert_eq!((told.len(), told[0].chars().count()), (16, 256));
        let mut response = http::Response::new(Body::empty());
        add_warnings(&mut response, &[r#"unknown field "é\"#.to_owned(), "\u{1}".to_owned()]);
        let told: Vec<_> =
            response.headers().get_all(header::WARNING).iter().map(HeaderValue::as_bytes).collect();
        assert_eq!(told, [r#"299 - "unknown field \"é\\""#.as_bytes()]);
    }

    #[test]
    fn only_unknown_forms_are_not_acceptable() {
        assert_eq!(accepting("application/vnd.kubernetes.protobuf").unwrap_err().code(), 406);
        assert_eq!(accepting("application/json;as=Table;v=v9;g=meta.k8s.io").unwrap_err().code(), 406);
    }

    #[test]
    fn what_is_only_answered_has_no_table() {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, "application/json;as=Table;v=v1;g=meta.k8s.io".parse().unwrap());
        assert_eq!(accept(&headers, false).unwrap_err().code(), 406);
        headers.append(header::ACCEPT, "application/json".parse().unwrap());
        assert_eq!(accept(&headers, false).unwrap().form, Form::Whole);
    }

    #[test]
    fn weights_order_the_choices() {
        assert_eq!(accepting("application/yaml;q=0.5,application/json").unwrap().encoding, Encoding::Json);
    }
}
