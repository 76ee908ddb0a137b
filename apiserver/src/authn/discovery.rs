//! How others verify service-account tokens: the issuer's OpenID configuration and its public keys.

use std::sync::Arc;

use api_types::status::Status;
use axum::body::Body;
use http::{HeaderValue, header};
use serde_json::{Value, json};

use super::service_account::ISSUER;
use crate::request_info::RequestInfo;
use crate::server::Server;

/// The answer at one of the issuer's two documents.
pub(crate) fn answer(
    server: &Arc<Server>,
    info: &RequestInfo,
) -> Option<Result<http::Response<Body>, Status>> {
    let (media, document) = match info.path.as_str() {
        "/.well-known/openid-configuration" => ("application/json", configuration(&server.address)),
        "/openid/v1/jwks" => ("application/jwk-set+json", server.tokens.key_set()),
        _ => return None,
    };
    let mut response = http::Response::new(Body::from(document.to_string()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
    Some(Ok(response))
}

fn configuration(address: &str) -> Value {
    json!({
        "issuer": ISSUER,
        "jwks_uri": format!("https://{address}/openid/v1/jwks"),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    })
}
