//! One question to a container: exec, HTTP, TCP or gRPC health; also used for lifecycle hooks.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{
    Container, ExecAction, GRPCAction, HTTPGetAction, LifecycleHandler, Probe, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;

use crate::runtime::Runtime;

/// Most bytes of an HTTP answer that are read.
const BODY_BYTES_MAX: usize = 10 * 1024;

/// Whom to ask.
pub(crate) struct Target<'a> {
    pub(crate) runtime: &'a dyn Runtime,
    pub(crate) container_id: &'a str,
    pub(crate) spec: &'a Container,
    pub(crate) ip: Option<IpAddr>,
}

/// Asks as `probe` says; an error is the failure's text.
pub(crate) async fn probe(target: &Target<'_>, probe: &Probe) -> Result<(), String> {
    let seconds = probe.timeout_seconds.and_then(|it| u64::try_from(it).ok()).unwrap_or(1).max(1);
    let limit = Duration::from_secs(seconds);
    let question = async {
        match (&probe.exec, &probe.http_get, &probe.tcp_socket, &probe.grpc) {
            (Some(it), ..) => exec(target, it, limit).await,
            (_, Some(it), ..) => http_get(target, it).await,
            (_, _, Some(it), _) => tcp(target, it).await,
            (_, _, _, Some(it)) => grpc(target, it).await,
            _ => Ok(()),
        }
    };
    match tokio::time::timeout(limit, question).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("command timed out after {seconds}s")),
    }
}

/// Runs a lifecycle hook.
pub(crate) async fn hook(
    target: &Target<'_>,
    hook: &LifecycleHandler,
    limit: Duration,
) -> Result<(), String> {
    match (&hook.exec, &hook.http_get, &hook.sleep, &hook.tcp_socket) {
        (Some(it), ..) => exec(target, it, limit).await,
        (_, Some(it), ..) => http_get(target, it).await,
        (_, _, Some(it), _) => {
            tokio::time::sleep(Duration::from_secs(u64::try_from(it.seconds).unwrap_or(0))).await;
            Ok(())
        }
        (_, _, _, Some(it)) => tcp(target, it).await,
        _ => Ok(()),
    }
}

async fn exec(target: &Target<'_>, action: &ExecAction, limit: Duration) -> Result<(), String> {
    let command = action.command.clone().unwrap_or_default();
    let output = target
        .runtime
        .exec_sync(target.container_id, &command, limit)
        .await
        .map_err(|error| error.to_string())?;
    if output.exit_code == 0 {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    Err(String::from_utf8_lossy(&text).trim().to_owned())
}

fn port(target: &Target<'_>, port: &IntOrString) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let named = target.spec.ports.iter().flatten().find(|it| it.name.as_deref() == Some(name));
            named.map(|it| it.container_port).or_else(|| name.parse().ok())
        }
    };
    number.and_then(|it| u16::try_from(it).ok()).ok_or_else(|| format!("couldn't find port: {port:?}"))
}

async fn connect(target: &Target<'_>, host: Option<&String>, to: u16) -> Result<TcpStream, String> {
    let host = match (host.filter(|it| !it.is_empty()), target.ip) {
        (Some(host), _) => host.clone(),
        (None, Some(ip)) => ip.to_string(),
        (None, None) => return Err("the pod has no address".to_owned()),
    };
    TcpStream::connect((host.as_str(), to)).await.map_err(|error| format!("dial tcp {host}:{to}: {error}"))
}

async fn tcp(target: &Target<'_>, action: &TCPSocketAction) -> Result<(), String> {
    connect(target, action.host.as_ref(), port(target, &action.port)?).await.map(drop)
}

async fn http_get(target: &Target<'_>, action: &HTTPGetAction) -> Result<(), String> {
    let to = port(target, &action.port)?;
    if action.scheme.as_deref() == Some("HTTPS") {
        // The probe does not verify certificates in Kubernetes either; reaching the port is what is checked.
        return connect(target, action.host.as_ref(), to).await.map(drop);
    }
    let stream = connect(target, action.host.as_ref(), to).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let headers = action.http_headers.iter().flatten();
    let given_host =
        headers.clone().find(|it| it.name.eq_ignore_ascii_case("host")).map(|it| it.value.clone());
    let host = given_host.unwrap_or_else(|| target.ip.map(|ip| format!("{ip}:{to}")).unwrap_or_default());
    let mut request = http::Request::get(action.path.as_deref().filter(|it| !it.is_empty()).unwrap_or("/"))
        .header("host", host)
        .header("user-agent", "kube-probe/1.36")
        .header("accept", "*/*")
        .header("connection", "close");
    for header in headers.filter(|it| !it.name.eq_ignore_ascii_case("host")) {
        request = request.header(&header.name, &header.value);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    let ask = async {
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = answer.status();
        // What the body says does not matter; reading it lets the server finish.
        drop(Limited::new(answer.into_body(), BODY_BYTES_MAX).collect().await);
        match status.as_u16() {
            200..=399 => Ok(()),
            code => Err(format!("HTTP probe failed with statuscode: {code}")),
        }
    };
    tokio::pin!(ask);
    tokio::select! {
        answer = &mut ask => answer,
        // A server that closes at once has still answered: what there is to read waits in `ask`.
        ended = connection => match ended {
            Ok(()) => ask.await,
            Err(error) => Err(error.to_string()),
        },
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

const SERVING: i32 = 1;

async fn grpc(target: &Target<'_>, action: &GRPCAction) -> Result<(), String> {
    let ip = target.ip.ok_or("the pod has no address")?;
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{ip}:{}", action.port))
        .map_err(|error| error.to_string())?;
    let channel = endpoint.connect().await.map_err(|error| error.to_string())?;
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(|error| error.to_string())?;
    let request = HealthCheckRequest { service: action.service.clone().unwrap_or_default() };
    let codec = tonic_prost::ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let answer = client
        .unary(tonic::Request::new(request), path, codec)
        .await
        .map_err(|status| status.message().to_owned())?;
    match answer.into_inner().status {
        SERVING => Ok(()),
        other => Err(format!("service unhealthy (responded with {other})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Asks a server that reads, says `answer` and closes.
    async fn ask_server(answer: &'static str) -> Result<(), String> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = i32::from(listener.local_addr().unwrap().port());
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let count = stream.read(&mut request).await.unwrap();
            assert!(String::from_utf8_lossy(&request[..count]).starts_with("GET /healthz HTTP/1.1"));
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        };
        let clock = component_base::clock::Clock::system();
        let tasks = component_base::supervise::Tasks::new(component_base::Shutdown::new());
        let simulation = crate::runtime::simulated::Simulation::immediate(clock);
        let runtime = crate::runtime::simulated::SimulatedRuntime::new(simulation, tasks);
        let spec = Container::default();
        let ip = Some(IpAddr::from([127, 0, 0, 1]));
        let target = Target { runtime: &runtime, container_id: "c", spec: &spec, ip };
        let action = HTTPGetAction {
            path: Some("/healthz".to_owned()),
            port: IntOrString::Int(port),
            ..HTTPGetAction::default()
        };
        let probe = Probe { http_get: Some(action), ..Probe::default() };
        tokio::join!(super::probe(&target, &probe), server).0
    }

    #[tokio::test]
    async fn server_that_answers_and_closes_is_well() {
        for answer in [
            "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
            "HTTP/1.0 302 Found\r\n\r\nuntil the end",
            "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n",
        ] {
            assert_eq!(ask_server(answer).await, Ok(()), "{answer}");
        }
    }

    #[tokio::test]
    async fn answer_of_an_ill_server_and_no_answer_are_failures() {
        let ill = ask_server("HTTP/1.0 503 Nope\r\n\r\n").await;
        assert_eq!(ill, Err("HTTP probe failed with statuscode: 503".to_owned()));
        assert!(ask_server("").await.is_err());
    }
}
