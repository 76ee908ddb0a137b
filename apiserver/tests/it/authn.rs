//! Tokens of all sorts, as TokenReviews see them, and the documents by which others verify ours.

use std::sync::Arc;

use apiserver::{Config, OidcConfig};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::client::Client;

async fn review(client: &Client, token: &str, audiences: &[&str]) -> Value {
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "spec": {"token": token, "audiences": audiences}});
    let (code, answer) = client.post("/apis/authentication.k8s.io/v1/tokenreviews", &review).await;
    assert_eq!(code, 201, "{answer}");
    answer["status"].clone()
}

#[tokio::test]
async fn a_bootstrap_token_is_good_as_long_as_its_secret() {
    let client = Client::start().await;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bootstrap-token-abcdef", "namespace": "kube-system"},
        "type": "bootstrap.kubernetes.io/token",
        "stringData": {"token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true"}});
    let (code, answer) = client.post("/api/v1/namespaces/kube-system/secrets", &secret).await;
    assert_eq!(code, 201, "{answer}");
    let status = review(&client, "abcdef.0123456789abcdef", &[]).await;
    assert_eq!(status["user"]["username"], "system:bootstrap:abcdef");
    client.delete("/api/v1/namespaces/kube-system/secrets/bootstrap-token-abcdef").await;
    assert_eq!(review(&client, "abcdef.0123456789abcdef", &[]).await["error"], "invalid bearer token");
    client.stop().await;
}

#[tokio::test]
async fn a_service_accounts_token_is_for_its_audiences_and_ends_with_its_secret() {
    let client = Client::start().await;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}});
    client.post("/api/v1/namespaces/default/secrets", &secret).await;
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": ["vault", "other"],
        "boundObjectRef": {"kind": "Secret", "apiVersion": "v1", "name": "s"}}});
    let (code, answer) =
        client.post("/api/v1/namespaces/default/serviceaccounts/default/token", &request).await;
    assert_eq!(code, 201, "{answer}");
    let token = answer["status"]["token"].as_str().unwrap().to_owned();
    let status = review(&client, &token, &["vault", "bank"]).await;
    assert_eq!((&status["authenticated"], &status["audiences"]), (&json!(true), &json!(["vault"])));
    assert!(
        status["user"]["extra"]["authentication.kubernetes.io/credential-id"][0]
            .as_str()
            .unwrap()
            .starts_with("JTI=")
    );
    assert!(review(&client, &token, &[]).await.get("authenticated").is_none());
    client.delete("/api/v1/namespaces/default/secrets/s").await;
    assert!(
        review(&client, &token, &["vault"]).await["error"].as_str().unwrap().contains("invalid bearer token")
    );
    client.stop().await;
}

#[tokio::test]
async fn others_can_verify_our_tokens() {
    let client = Client::start().await;
    let found = client.get("/.well-known/openid-configuration").await.1;
    assert_eq!(found["issuer"], "https://kubernetes.default.svc.cluster.local");
    let keys = client.get("/openid/v1/jwks").await.1;
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let answer = client.post("/api/v1/namespaces/default/serviceaccounts/default/token", &request).await.1;
    let jwk: jsonwebtoken::jwk::Jwk = serde_json::from_value(keys["keys"][0].clone()).unwrap();
    let key = jsonwebtoken::DecodingKey::from_jwk(&jwk).unwrap();
    let mut rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::ES256);
    rules.validate_aud = false;
    jsonwebtoken::decode::<Value>(answer["status"]["token"].as_str().unwrap(), &key, &rules).unwrap();
    client.stop().await;
}

/// An issuer on the loopback, with TLS of its own.
struct Issuer {
    url: String,
    ca: String,
    signing: rcgen::KeyPair,
    serving: tokio::task::JoinHandle<()>,
}

impl Issuer {
    async fn start() -> Self {
        component_base::client::install_crypto_provider();
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://127.0.0.1:{}", socket.local_addr().unwrap().port());
        let serving = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let key = rustls_pki_types::PrivatePkcs8KeyDer::from(serving.signing_key.serialize_der());
        let tls = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![serving.cert.der().clone()], key.into())
            .unwrap();
        let signing = rcgen::KeyPair::generate().unwrap();
        let point = rcgen::PublicKeyData::der_bytes(&signing).to_vec();
        let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..]));
        let keys = json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": "k", "alg": "ES256", "use": "sig", "x": x, "y": y}, {"kty": "new"}]});
        let configuration = json!({"issuer": url, "jwks_uri": format!("{url}/keys")});
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        let answer = move |path: &str| {
            if path.contains("/keys") { keys.to_string() } else { configuration.to_string() }
        };
        #[allow(clippy::disallowed_methods, reason = "the issuer is no part of what is tested")]
        let serving_task = tokio::spawn(async move {
            while let Ok((stream, _)) = socket.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut head = vec![0; 4096];
                let read = stream.read(&mut head).await.unwrap_or(0);
                let head = String::from_utf8_lossy(&head[..read]);
                let body = answer(head.lines().next().unwrap_or_default());
                let text = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
                if stream.write_all(text.as_bytes()).await.is_ok() {
                    drop(stream.shutdown().await);
                }
            }
        });
        Self { url, ca: serving.cert.pem(), signing, serving: serving_task }
    }

    fn token(&self, name: &str) -> String {
        let end = component_base::clock::Clock::system().now().timestamp() + 600;
        let claims = json!({"iss": self.url, "aud": "cluster", "sub": name, "exp": end, "groups": ["dev"]});
        let header = jsonwebtoken::Header {
            kid: Some("k".into()),
            ..jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256)
        };
        let key = jsonwebtoken::EncodingKey::from_ec_der(&self.signing.serialize_der());
        jsonwebtoken::encode(&header, &claims, &key).unwrap()
    }
}

#[tokio::test]
async fn tokens_of_an_outside_issuer_are_verified_with_the_keys_it_publishes() {
    let issuer = Issuer::start().await;
    let dir = tempfile::tempdir().unwrap();
    let ca_file = dir.path().join("ca.pem");
    std::fs::write(&ca_file, &issuer.ca).unwrap();
    let oidc = OidcConfig {
        issuer_url: issuer.url.clone(),
        client_id: "cluster".into(),
        username_claim: "sub".into(),
        username_prefix: Some("oidc:".into()),
        groups_claim: Some("groups".into()),
        groups_prefix: "oidc:".into(),
        required_claims: Vec::new(),
        signing_algorithms: vec!["ES256".into()],
        ca_file: Some(ca_file),
    };
    let client = Client::start_with(Config { oidc: Some(oidc), ..Config::default() }).await;
    let status = review(&client, &issuer.token("jane"), &[]).await;
    assert_eq!(status["user"]["username"], "oidc:jane", "{status}");
    assert_eq!(status["user"]["groups"], json!(["oidc:dev", "system:authenticated"]));
    let mut forged = issuer.token("jane");
    forged.replace_range(forged.len() - 4.., &STANDARD.encode([1, 2, 3]));
    assert_eq!(review(&client, &forged, &[]).await["error"], "invalid bearer token");
    client.stop().await;
    issuer.serving.abort();
}

fn authentication(issuer: &Issuer, prefix: &str) -> String {
    let ca: String = issuer.ca.lines().map(|line| format!("      {line}\n")).collect();
    format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n- issuer:\n    url: {}\n    \
         audiences: [cluster]\n    certificateAuthority: |\n{ca}  claimMappings:\n    username:\n      \
         expression: \"'{prefix}' + claims.sub\"\n  userValidationRules:\n  - expression: \"user.username != 'x:mallory'\"\n\
         anonymous:\n  enabled: true\n  conditions:\n  - path: /livez\n",
        issuer.url
    )
}

#[tokio::test]
async fn a_file_configures_issuers_and_anonymous_requests_and_is_read_again_when_it_changes() {
    let issuer = Issuer::start().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("authentication.yaml");
    std::fs::write(&path, authentication(&issuer, "x:")).unwrap();
    let config = Config { authentication_config: Some(path.clone()), ..Config::default() };
    let client = Client::start_with(config).await;
    let token = issuer.token("jane");
    let status = review(&client, &token, &[]).await;
    assert_eq!(status["user"]["username"], "x:jane", "{status}");
    assert_eq!(review(&client, &issuer.token("mallory"), &[]).await["error"], "invalid bearer token");
    client.reconfigure(&path, "kind: nonsense").await;
    assert_eq!(review(&client, &token, &[]).await["user"]["username"], "x:jane", "nonsense changes nothing");
    client.reconfigure(&path, &authentication(&issuer, "y:")).await;
    assert_eq!(review(&client, &token, &[]).await["user"]["username"], "y:jane");
    client.stop().await;
    issuer.serving.abort();
}
