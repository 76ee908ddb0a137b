//! Streams as the real kubectl opens them: over WebSocket, and over SPDY as older clients do.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::world::{World, condition};

const LIMIT: Duration = Duration::from_secs(30);
/// What kubectl is told to speak: its own choice, or SPDY.
const PROTOCOLS: [&str; 2] = ["true", "false"];

struct Kubectl {
    home: tempfile::TempDir,
    websockets: &'static str,
}

impl Kubectl {
    fn new(world: &World, websockets: &'static str) -> Self {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("config"), world.kubeconfig()).unwrap();
        Self { home, websockets }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.args(args).env("KUBECONFIG", self.home.path().join("config")).env("HOME", self.home.path());
        for feature in ["KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "KUBECTL_PORT_FORWARD_WEBSOCKETS"] {
            command.env(feature, self.websockets);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
        command
    }
}

fn is_installed() -> bool {
    std::env::var_os("PATH")
        .is_some_and(|paths| std::env::split_paths(&paths).any(|dir| dir.join("kubectl").exists()))
}

async fn running_pod() -> World {
    let world = World::start().await;
    world.create("shell", json!({}), json!({"containers": [{"name": "app", "image": "app:1"}]})).await;
    world.wait("shell", "ready", |pod| condition(pod, "Ready")).await;
    world
}

#[tokio::test]
async fn kubectl_exec_gives_output_and_exit_code_over_both_protocols() {
    if !is_installed() {
        return;
    }
    let world = running_pod().await;
    for websockets in PROTOCOLS {
        let kubectl = Kubectl::new(&world, websockets);
        let exec = kubectl.command(&["exec", "shell", "--", "echo", "hello"]).output();
        let said = tokio::time::timeout(LIMIT, exec).await.expect("kubectl ends").unwrap();
        assert_eq!(String::from_utf8_lossy(&said.stdout), "hello\n", "websockets {websockets}: {said:?}");
        let exec = kubectl.command(&["exec", "shell", "--", "sh", "-c", "exit 7"]).output();
        let failed = tokio::time::timeout(LIMIT, exec).await.expect("kubectl ends").unwrap();
        assert_eq!(failed.status.code(), Some(7), "websockets {websockets}: {failed:?}");
    }
    world.stop().await;
}

/// Says `text` to a forwarded port and reads as much back.
async fn echo(address: SocketAddr, text: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back).await.unwrap();
    String::from_utf8(back).unwrap()
}

#[tokio::test]
async fn kubectl_forwards_several_ports_and_connections_over_both_protocols() {
    if !is_installed() {
        return;
    }
    let world = running_pod().await;
    for websockets in PROTOCOLS {
        let kubectl = Kubectl::new(&world, websockets);
        let mut forward = kubectl
            .command(&["port-forward", "--address=127.0.0.1", "pod/shell", ":8080", ":9090"])
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(forward.stdout.take().unwrap()).lines();
        let talk = async {
            let mut ports = Vec::new();
            while ports.len() < 2 {
                let line = lines.next_line().await.unwrap().expect("kubectl forwards");
                let from = line.strip_prefix("Forwarding from ").and_then(|it| it.split(' ').next());
                ports.extend(from.and_then(|it| it.parse::<SocketAddr>().ok()));
            }
            let large = "x".repeat(100_000);
            let echoes = (0..6).map(|index| echo(ports[index % 2], if index < 4 { "hello" } else { &large }));
            futures::future::join_all(echoes).await
        };
        let said = tokio::time::timeout(LIMIT, talk).await.expect("the ports answer");
        assert!(said[..4].iter().all(|it| it == "hello") && said[4..].iter().all(|it| it.len() == 100_000));
        forward.kill().await.unwrap();
    }
    world.stop().await;
}
