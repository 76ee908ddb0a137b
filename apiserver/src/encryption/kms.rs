//! A key management service on this machine (KMS v2): it keeps the key, this server only what the key wraps.
//!
//! Values are encrypted here, each with a key of its own that is derived from a secret seed; the seed stands beside
//! the value, wrapped by the service. So the service is asked at the start, when its key changes, and once for each
//! seed that is met in the store. It is asked by a thread of its own: who reads the store cannot wait in a future.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use aws_lc_rs::hkdf;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::{mpsc, watch};
use tonic::transport::{Channel, Endpoint};
use tracing::{info, warn};

use super::cipher::Cipher;

/// Seeds kept in memory.
const SEEDS_MAX: usize = 1024;
const QUESTIONS_MAX: usize = 64;
/// How often a service is looked at that is not well.
const UNWELL_LOOK: Duration = Duration::from_secs(3);
const SEED: usize = 32;
/// What each value's key is derived with, in front of the value.
const INFO: usize = 32;
/// Values whose key is the unwrapped secret itself, as older servers wrote them.
const PLAIN_KEY: i32 = 0;
const DERIVED_KEY: i32 = 1;

/// Where the service is, and how patiently it is asked.
#[derive(Clone, Debug)]
pub(super) struct KmsConfig {
    pub(super) name: String,
    pub(super) socket: PathBuf,
    pub(super) timeout: Duration,
    /// How often it is asked whether its key is still the same.
    pub(super) look: Duration,
}

pub(super) struct Kms {
    name: String,
    timeout: Duration,
    current: watch::Receiver<Seed>,
    known: Mutex<HashMap<Vec<u8>, Vec<u8>>>,
    problem: Problem,
    questions: mpsc::Sender<Question>,
}

/// The seed that new values are written with, and how the service has wrapped it.
#[derive(Clone)]
struct Seed {
    secret: Vec<u8>,
    wrapped: Vec<u8>,
    key_id: String,
    annotations: BTreeMap<String, Vec<u8>>,
}

/// What is wrong with the service, by the last look at it.
type Problem = Arc<Mutex<Option<String>>>;

type Question = (DecryptRequest, SyncSender<Result<Vec<u8>, String>>);

impl std::fmt::Debug for Kms {
    /// Never shows a seed.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kms").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Kms {
    /// Starts asking the service; it must answer now.
    pub(super) fn start(config: KmsConfig) -> Result<Self, String> {
        let (questions, asked) = mpsc::channel(QUESTIONS_MAX);
        let (tell, told) = sync_channel(1);
        let (name, timeout, problem) = (config.name.clone(), config.timeout, Problem::default());
        let noted = problem.clone();
        std::thread::Builder::new()
            .name(format!("kms-{name}"))
            .spawn(move || run(config, asked, &tell, &noted))
            .map_err(|error| error.to_string())?;
        // The first answer is of two calls.
        let current =
            told.recv_timeout(timeout * 3).map_err(|_| "it does not answer in time".to_owned())??;
        Ok(Self { name, timeout, current, known: Mutex::default(), problem, questions })
    }

    /// What is wrong with the service, by the last look at it.
    pub(super) fn problem(&self) -> Option<String> {
        self.problem.lock().clone()
    }

    /// The bytes to store after the mark, for what stands at `path`.
    pub(super) fn seal(&self, plain: &[u8], path: &[u8]) -> Vec<u8> {
        let seed = self.current.borrow().clone();
        let info: [u8; INFO] = rand::random();
        let cipher = derived(&seed.secret, &info).expect("the seed has the length that is asked for");
        let stored = EncryptedObject {
            encrypted_data: [&info[..], &cipher.seal(plain, path)].concat(),
            key_id: seed.key_id,
            encrypted_dek_source: seed.wrapped,
            annotations: seed.annotations,
            encrypted_dek_source_type: DERIVED_KEY,
        };
        stored.encode_to_vec()
    }

    /// What was sealed, and whether it would be written with another key now; or why it cannot be read.
    pub(super) fn open(&self, sealed: &[u8], path: &[u8]) -> Result<(Vec<u8>, bool), String> {
        let stored = EncryptedObject::decode(sealed).map_err(|error| error.to_string())?;
        let is_stale = stored.key_id != self.current.borrow().key_id;
        let secret = self.secret(&stored)?;
        let opened = match stored.encrypted_dek_source_type {
            PLAIN_KEY => Cipher::new("aesgcm", &secret)?.open(&stored.encrypted_data, path),
            _ => {
                let data = stored.encrypted_data.split_first_chunk::<INFO>();
                let (info, text) = data.ok_or("the value is cut off")?;
                derived(&secret, info)?.open(text, path)
            }
        };
        opened.map(|plain| (plain, is_stale)).ok_or_else(|| "the key does not fit the value".to_owned())
    }

    fn secret(&self, stored: &EncryptedObject) -> Result<Vec<u8>, String> {
        let current = self.current.borrow();
        if current.wrapped == stored.encrypted_dek_source {
            return Ok(current.secret.clone());
        }
        drop(current);
        if let Some(known) = self.known.lock().get(&stored.encrypted_dek_source) {
            return Ok(known.clone());
        }
        let secret = self.ask(DecryptRequest {
            ciphertext: stored.encrypted_dek_source.clone(),
            uid: uuid::Uuid::new_v4().to_string(),
            key_id: stored.key_id.clone(),
            annotations: stored.annotations.clone(),
        })?;
        let mut known = self.known.lock();
        if known.len() >= SEEDS_MAX {
            known.clear();
        }
        known.insert(stored.encrypted_dek_source.clone(), secret.clone());
        Ok(secret)
    }

    fn ask(&self, request: DecryptRequest) -> Result<Vec<u8>, String> {
        let (answer, answered) = sync_channel(1);
        self.questions.try_send((request, answer)).map_err(|_| "too much is asked at once".to_owned())?;
        answered.recv_timeout(self.timeout * 2).map_err(|_| "it does not answer in time".to_owned())?
    }
}

/// The cipher of one value.
fn derived(secret: &[u8], info: &[u8; INFO]) -> Result<Cipher, String> {
    let mut key = [0; SEED];
    hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, secret)
        .expand(&[info], hkdf::HKDF_SHA256)
        .and_then(|material| material.fill(&mut key))
        .map_err(|error| error.to_string())?;
    Cipher::new("aesgcm", &key)
}

/// The thread: answers questions and looks after the key, until nobody can ask any more.
fn run(
    config: KmsConfig,
    asked: mpsc::Receiver<Question>,
    tell: &SyncSender<Result<watch::Receiver<Seed>, String>>,
    problem: &Problem,
) {
    let told = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Err(error) => tell.send(Err(error.to_string())),
        Ok(runtime) => runtime.block_on(async {
            let service = Service::new(&config);
            match service.new_seed().await {
                Err(why) => tell.send(Err(why)),
                Ok(seed) => {
                    let (current, seen) = watch::channel(seed);
                    let told = tell.send(Ok(seen));
                    service.attend(&config, &current, asked, problem).await;
                    told
                }
            }
        }),
    };
    if told.is_err() {
        warn!(service = config.name, "the key management service answered after nobody waited any more");
    }
}

/// A client of the service.
struct Service {
    channel: Channel,
    timeout: Duration,
}

impl Service {
    fn new(config: &KmsConfig) -> Self {
        let path = config.socket.clone();
        let connector = tower::service_fn(move |_: http::Uri| {
            let path = path.clone();
            async move { tokio::net::UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
        });
        // The address is not looked at: the connector knows the socket.
        let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector);
        Self { channel, timeout: config.timeout }
    }

    async fn attend(
        &self,
        config: &KmsConfig,
        current: &watch::Sender<Seed>,
        mut asked: mpsc::Receiver<Question>,
        problem: &Problem,
    ) {
        let mut next = tokio::time::Instant::now() + config.look;
        loop {
            tokio::select! {
                question = asked.recv() => {
                    let Some((request, answer)) = question else { return };
                    let answered = self.call("Decrypt", request).await;
                    // Who asked may have given up.
                    drop(answer.send(answered.map(|answer: DecryptResponse| answer.plaintext)));
                }
                () = tokio::time::sleep_until(next) => {
                    let seen = self.look(current).await;
                    // One that is not well is looked at more often.
                    let wait = if seen.is_ok() { config.look } else { config.look.min(UNWELL_LOOK) };
                    next = tokio::time::Instant::now() + wait;
                    match &seen {
                        Ok(None) => {}
                        Ok(Some(key)) => info!(service = config.name, key, "the key management service has a new key"),
                        Err(why) => warn!(service = config.name, why, "the key management service is not well"),
                    }
                    *problem.lock() = seen.err();
                }
            }
        }
    }

    /// Takes a new seed when the service has a new key; says which.
    async fn look(&self, current: &watch::Sender<Seed>) -> Result<Option<String>, String> {
        let status = self.status().await?;
        if status.key_id == current.borrow().key_id {
            return Ok(None);
        }
        let seed = self.new_seed().await?;
        let key = seed.key_id.clone();
        current.send_replace(seed);
        Ok(Some(key))
    }

    async fn status(&self) -> Result<StatusResponse, String> {
        let status: StatusResponse = self.call("Status", StatusRequest {}).await?;
        match (status.healthz.as_str(), status.version.as_str()) {
            ("ok", "v2" | "v2beta1") => Ok(status),
            ("ok", other) => Err(format!("it speaks version {other:?} and not v2")),
            (other, _) => Err(format!("it says of itself {other:?}")),
        }
    }

    async fn new_seed(&self) -> Result<Seed, String> {
        self.status().await?;
        let secret: [u8; SEED] = rand::random();
        let request = EncryptRequest { plaintext: secret.to_vec(), uid: uuid::Uuid::new_v4().to_string() };
        let wrapped: EncryptResponse = self.call("Encrypt", request).await?;
        if wrapped.ciphertext.is_empty() || wrapped.key_id.is_empty() {
            return Err("it wraps a key into nothing".to_owned());
        }
        Ok(Seed {
            secret: secret.to_vec(),
            wrapped: wrapped.ciphertext,
            key_id: wrapped.key_id,
            annotations: wrapped.annotations,
        })
    }

    async fn call<Q, A>(&self, method: &'static str, request: Q) -> Result<A, String>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let call = async {
            let mut grpc = tonic::client::Grpc::new(self.channel.clone());
            grpc.ready().await.map_err(|error| error.to_string())?;
            let path = format!("/v2.KeyManagementService/{method}").try_into();
            let path: http::uri::PathAndQuery = path.map_err(|_| "the method is no path".to_owned())?;
            let codec = tonic_prost::ProstCodec::<Q, A>::default();
            let answered = grpc.unary(tonic::Request::new(request), path, codec).await;
            answered.map(tonic::Response::into_inner).map_err(|status| status.message().to_owned())
        };
        let limited = tokio::time::timeout(self.timeout, call).await;
        limited.unwrap_or_else(|_| Err(format!("{method} took longer than {:?}", self.timeout)))
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusRequest {}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusResponse {
    #[prost(string, tag = "1")]
    version: String,
    #[prost(string, tag = "2")]
    healthz: String,
    #[prost(string, tag = "3")]
    key_id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct DecryptRequest {
    #[prost(bytes = "vec", tag = "1")]
    ciphertext: Vec<u8>,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    key_id: String,
    #[prost(btree_map = "string, bytes", tag = "4")]
    annotations: BTreeMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct DecryptResponse {
    #[prost(bytes = "vec", tag = "1")]
    plaintext: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct EncryptRequest {
    #[prost(bytes = "vec", tag = "1")]
    plaintext: Vec<u8>,
    #[prost(string, tag = "2")]
    uid: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct EncryptResponse {
    #[prost(bytes = "vec", tag = "1")]
    ciphertext: Vec<u8>,
    #[prost(string, tag = "2")]
    key_id: String,
    #[prost(btree_map = "string, bytes", tag = "3")]
    annotations: BTreeMap<String, Vec<u8>>,
}

/// How a value stands in the store, as Kubernetes' servers write it.
#[derive(Clone, PartialEq, prost::Message)]
struct EncryptedObject {
    #[prost(bytes = "vec", tag = "1")]
    encrypted_data: Vec<u8>,
    #[prost(string, tag = "2")]
    key_id: String,
    #[prost(bytes = "vec", tag = "3")]
    encrypted_dek_source: Vec<u8>,
    #[prost(btree_map = "string, bytes", tag = "4")]
    annotations: BTreeMap<String, Vec<u8>>,
    #[prost(int32, tag = "5")]
    encrypted_dek_source_type: i32,
}

#[cfg(test)]
pub(crate) mod tests {
    use bytes::Bytes;
    use http_body_util::{BodyExt as _, StreamBody};
    use hyper::body::Frame;
    use hyper_util::rt::{TokioExecutor, TokioIo};

    use super::*;

    /// A service that wraps by turning bits over; a thread of its own serves it.
    pub(crate) fn serve(socket: PathBuf, key: Arc<Mutex<String>>) {
        let (ready, is_ready) = sync_channel(1);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::UnixListener::bind(socket).unwrap();
                ready.send(()).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    let key = key.clone();
                    let service =
                        hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                            let key = key.lock().clone();
                            async move { Ok::<_, std::convert::Infallible>(answer(request, key).await) }
                        });
                    drop(
                        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                            .serve_connection(TokioIo::new(stream), service)
                            .await,
                    );
                }
            });
        });
        is_ready.recv().unwrap();
    }

    type Answer = http::Response<
        StreamBody<futures::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, std::convert::Infallible>>>>,
    >;

    async fn answer(request: http::Request<hyper::body::Incoming>, key_id: String) -> Answer {
        let method = request.uri().path().rsplit('/').next().unwrap().to_owned();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let turned = |bytes: Vec<u8>| bytes.into_iter().map(|byte| !byte).collect::<Vec<u8>>();
        let message = match method.as_str() {
            "Status" => StatusResponse { version: "v2".into(), healthz: "ok".into(), key_id }.encode_to_vec(),
            "Encrypt" => {
                let ciphertext = turned(EncryptRequest::decode(&body[5..]).unwrap().plaintext);
                EncryptResponse { ciphertext, key_id, annotations: BTreeMap::default() }.encode_to_vec()
            }
            _ => {
                let plaintext = turned(DecryptRequest::decode(&body[5..]).unwrap().ciphertext);
                DecryptResponse { plaintext }.encode_to_vec()
            }
        };
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        let framed = [&[0][..], &length, &message].concat();
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
        let frames = vec![Ok(Frame::data(Bytes::from(framed))), Ok(Frame::trailers(trailers))];
        http::Response::builder()
            .header("content-type", "application/grpc")
            .body(StreamBody::new(futures::stream::iter(frames)))
            .unwrap()
    }

    fn kms(socket: PathBuf) -> Kms {
        let (timeout, look) = (Duration::from_secs(3), Duration::from_millis(20));
        Kms::start(KmsConfig { name: "k".into(), socket, timeout, look }).unwrap()
    }

    fn wait_for_key(kms: &Kms, key: &str) {
        let mut current = kms.current.clone();
        let limit = Duration::from_secs(20);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let noticed =
            async { tokio::time::timeout(limit, current.wait_for(|seed| seed.key_id == key)).await.is_ok() };
        assert!(runtime.block_on(noticed), "the new key is noticed");
    }

    #[test]
    fn values_are_read_again_by_another_server_and_are_stale_when_the_key_is_new() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("kms.sock");
        let key = Arc::new(Mutex::new("one".to_owned()));
        serve(socket.clone(), key.clone());
        let first = kms(socket.clone());
        let sealed = first.seal(b"plain text", b"secrets/a");
        assert!(!sealed.windows(5).any(|part| part == b"plain"));
        assert_ne!(sealed, first.seal(b"plain text", b"secrets/a"));
        assert_eq!(first.open(&sealed, b"secrets/a").unwrap(), (b"plain text".to_vec(), false));
        assert!(first.open(&sealed, b"secrets/b").is_err(), "it is bound to its place");
        *key.lock() = "two".to_owned();
        wait_for_key(&first, "two");
        assert_eq!(first.open(&sealed, b"secrets/a").unwrap(), (b"plain text".to_vec(), true));
        drop(first);
        let second = kms(socket);
        assert_eq!(second.open(&sealed, b"secrets/a").unwrap().0, b"plain text");
    }

    #[test]
    fn a_service_that_is_not_there_is_told() {
        let config = KmsConfig {
            name: "k".into(),
            socket: "/nowhere/kms.sock".into(),
            timeout: Duration::from_secs(1),
            look: Duration::from_secs(60),
        };
        assert!(Kms::start(config).is_err());
    }
}
