//! Pulling from a registry: a small one in this process that serves one image.

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use component_base::Shutdown;
use nodeagent::runtime::{Runtime, RuntimeError};

use super::{append, digest, open};

/// Paths after `/v2/` to media type and content.
type Content = Arc<HashMap<String, (&'static str, Vec<u8>)>>;

async fn serve(State(content): State<Content>, Path(path): Path<String>) -> Response {
    let Some((media_type, body)) = content.get(&path) else {
        let answer = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"nobody pushed that"}]}"#;
        return (StatusCode::NOT_FOUND, [(header::CONTENT_TYPE, "application/json")], answer).into_response();
    };
    let headers =
        [(header::CONTENT_TYPE.as_str(), (*media_type).to_owned()), ("docker-content-digest", digest(body))];
    (headers, body.clone()).into_response()
}

/// A registry with the image `t/one:1`; `spoil` changes the bytes of its layer on the way.
async fn registry(spoil: bool, shutdown: &Shutdown) -> String {
    let mut layer = tar::Builder::new(Vec::new());
    append(&mut layer, "hello", b"from the registry", 0o644);
    let layer = layer.into_inner().unwrap();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&layer).unwrap();
    let mut packed = packed.finish().unwrap();
    let config = serde_json::json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux",
        "config": { "Cmd": ["/hello"], "User": "1000" },
        "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
    });
    let config = config.to_string().into_bytes();
    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": { "mediaType": CONFIG, "digest": digest(&config), "size": config.len() },
        "layers": [{ "mediaType": LAYER, "digest": digest(&packed), "size": packed.len() }],
    });
    let packed_digest = digest(&packed);
    if spoil {
        let middle = packed.len() / 2;
        packed[middle] ^= 0xff;
    }
    let content = HashMap::from([
        ("t/one/manifests/1".to_owned(), (MANIFEST, manifest.to_string().into_bytes())),
        (format!("t/one/blobs/{}", digest(&config)), (CONFIG, config)),
        (format!("t/one/blobs/{packed_digest}"), (LAYER, packed)),
    ]);
    let routes = Router::new()
        .route("/v2/", axum::routing::get(|| async {}))
        .route("/v2/{*path}", axum::routing::get(serve))
        .with_state(Arc::new(content));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tasks = component_base::supervise::Tasks::new(shutdown.clone());
    tasks.spawn_until_shutdown("registry", async move { axum::serve(listener, routes).await.unwrap() });
    address.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_and_the_registrys_refusal_is_told() {
    let (shutdown, folder) = (Shutdown::new(), tempfile::tempdir().unwrap());
    let address = registry(false, &shutdown).await;
    let runtime = open(folder.path(), &shutdown, |_| {}).await;
    if nix::unistd::geteuid().is_root() {
        let image = runtime.pull_image(&format!("{address}/t/one:1"), None).await.unwrap();
        assert_eq!(image.tags, [format!("{address}/t/one:1")]);
        assert!(image.digests[0].starts_with(&format!("{address}/t/one@sha256:")), "{image:?}");
        assert_eq!(image.user, "1000");
        assert!(runtime.image_status(&image.digests[0]).await.unwrap().is_some());
        runtime.remove_image(&image.id).await.unwrap();
        assert!(runtime.list_images().await.unwrap().is_empty());
        assert_eq!(std::fs::read_dir(folder.path().join("images/layers")).unwrap().count(), 0);
    } else {
        eprintln!("SKIPPED: unpacking files of other users needs root");
    }
    let error = runtime.pull_image(&format!("{address}/t/none:1"), None).await.unwrap_err();
    let RuntimeError::PullImage { answer, .. } = error else { panic!("{error}") };
    assert!(answer.contains("nobody pushed that") || answer.contains("not found"), "{answer}");
    shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_with_other_bytes_than_promised_is_refused() {
    let (shutdown, folder) = (Shutdown::new(), tempfile::tempdir().unwrap());
    let address = registry(true, &shutdown).await;
    let runtime = open(folder.path(), &shutdown, |_| {}).await;
    let error = runtime.pull_image(&format!("{address}/t/one:1"), None).await.unwrap_err();
    assert!(error.to_string().to_lowercase().contains("digest"), "{error}");
    assert!(runtime.list_images().await.unwrap().is_empty());
    assert_eq!(std::fs::read_dir(folder.path().join("images/layers")).unwrap().count(), 0);
    shutdown.cancel();
}
