//! `exec`: a command inside a running container.

use std::os::fd::AsFd;

use clap::{Arg, ArgAction, ArgMatches, Command};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, AttachParams, TerminalSize};
use nix::sys::termios::{self, SetArg, Termios};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use super::Verb;
use super::logs::{default_container, pod_of};
use super::target;
use crate::Io;
use crate::cluster::Cluster;
use crate::error::Error;

/// # Does
/// Runs a command in a container and ends with its exit code; `-it` gives it this terminal.
/// # Differs from kubectl
/// Only WebSocket streaming; the old `POD COMMAND` form without `--` is refused.
pub(super) struct Exec;

#[async_trait::async_trait]
impl Verb for Exec {
    const NAME: &'static str = "exec";

    fn command(base: Command) -> Command {
        base.about("Run a command in a container")
            .arg(Arg::new("objects").required(true).value_name("POD|TYPE/NAME"))
            .arg(Arg::new("container").short('c').long("container").value_name("NAME"))
            .arg(
                Arg::new("stdin")
                    .short('i')
                    .long("stdin")
                    .action(ArgAction::SetTrue)
                    .help("Pass standard input on"),
            )
            .arg(
                Arg::new("tty")
                    .short('t')
                    .long("tty")
                    .action(ArgAction::SetTrue)
                    .help("Standard input is a terminal"),
            )
            .arg(Arg::new("command").last(true).num_args(1..).required(true))
    }

    async fn run(cluster: &Cluster, matches: &ArgMatches, io: &mut Io) -> Result<u8, Error> {
        let named = matches.get_one::<String>("objects").map_or("", String::as_str);
        let pod = if named.contains('/') {
            let resources = cluster.resources().await?;
            pod_of(cluster, &target::single(cluster, &resources, matches)?).await?
        } else {
            cluster
                .get(&format!("/api/v1/namespaces/{}/pods/{named}", cluster.namespace), "application/json")
                .await?
        };
        let text = |key: &str| pod["metadata"][key].as_str().unwrap_or_default();
        let tty = matches.get_flag("tty") && std::io::IsTerminal::is_terminal(&std::io::stdin());
        let params = AttachParams {
            container: matches.get_one::<String>("container").cloned().or_else(|| default_container(&pod)),
            stdin: matches.get_flag("stdin"),
            stdout: true,
            stderr: !tty,
            tty,
            ..AttachParams::default()
        };
        let command: Vec<&String> = matches.get_many("command").into_iter().flatten().collect();
        let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), text("namespace"));
        let process = pods.exec(text("name"), command, &params).await?;
        let _raw = if tty { Some(RawTerminal::enter()?) } else { None };
        stream(process, tty, io).await
    }
}

async fn stream(mut process: kube::api::AttachedProcess, tty: bool, io: &mut Io) -> Result<u8, Error> {
    let status = process.take_status();
    let (stdin, stdout, stderr) = (process.stdin(), process.stdout(), process.stderr());
    let sizes = process.terminal_size();
    let input = async {
        if let Some(mut remote) = stdin {
            // The remote side may close first; then there is nobody to write to.
            drop(tokio::io::copy(&mut tokio::io::stdin(), &mut remote).await);
            drop(remote.shutdown().await);
        }
        std::future::pending::<()>().await;
    };
    let resize = async {
        if let (true, Some(mut sizes)) = (tty, sizes) {
            drop(follow_size(&mut sizes).await);
        }
        std::future::pending::<()>().await;
    };
    let output = async { tokio::try_join!(copy(stdout, &mut io.out), copy(stderr, &mut io.err)) };
    tokio::select! {
        copied = output => { copied?; }
        () = input => {}
        () = resize => {}
    }
    let ended = match status {
        Some(status) => status.await,
        None => None,
    };
    ended.map_or(Ok(0), exit_code)
}

async fn copy(
    from: Option<impl AsyncRead + Unpin>,
    to: &mut Box<dyn std::io::Write + Send>,
) -> Result<(), Error> {
    let Some(mut from) = from else { return Ok(()) };
    let mut chunk = vec![0; 16 * 1024];
    loop {
        match from.read(&mut chunk).await? {
            0 => return Ok(()),
            count => {
                to.write_all(&chunk[..count])?;
                to.flush()?;
            }
        }
    }
}

/// The exit code in the server's closing Status (reason NonZeroExitCode, cause ExitCode).
fn exit_code(status: k8s_openapi::apimachinery::pkg::apis::meta::v1::Status) -> Result<u8, Error> {
    if status.status.as_deref() == Some("Success") {
        return Ok(0);
    }
    let causes = status.details.and_then(|details| details.causes).unwrap_or_default();
    let code = causes.iter().find(|cause| cause.reason.as_deref() == Some("ExitCode"));
    match code.and_then(|cause| cause.message.as_deref()).and_then(|text| text.parse::<i32>().ok()) {
        Some(code) => Ok(u8::try_from(code).unwrap_or(1)),
        None => Err(Error::Answer(status.message.unwrap_or_default())),
    }
}

async fn follow_size(sizes: &mut (impl futures::Sink<TerminalSize> + Unpin)) -> std::io::Result<()> {
    use futures::SinkExt as _;
    let mut changed = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::window_change())?;
    loop {
        if let Some(size) = terminal_size()
            && sizes.send(size).await.is_err()
        {
            return Ok(());
        }
        if changed.recv().await.is_none() {
            return Ok(());
        }
    }
}

fn terminal_size() -> Option<TerminalSize> {
    let (width, height) = terminal::size_of(std::io::stdout().as_fd())?;
    (width > 0 && height > 0).then_some(TerminalSize { width, height })
}

mod terminal {
    //! One ioctl.

    use std::os::fd::{AsRawFd, BorrowedFd};

    nix::ioctl_read_bad!(winsize, nix::libc::TIOCGWINSZ, nix::libc::winsize);

    /// Columns and rows of the terminal behind `fd`.
    pub(super) fn size_of(fd: BorrowedFd<'_>) -> Option<(u16, u16)> {
        let mut size = nix::libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
        #[expect(unsafe_code, reason = "TIOCGWINSZ only writes the struct that it is given")]
        let answered = unsafe { winsize(fd.as_raw_fd(), &mut size) };
        answered.ok().map(|_| (size.ws_col, size.ws_row))
    }
}

/// The terminal in raw mode; dropped, it is as before.
struct RawTerminal(Termios);

impl RawTerminal {
    fn enter() -> Result<Self, Error> {
        let stdin = std::io::stdin();
        let before = termios::tcgetattr(stdin.as_fd()).map_err(std::io::Error::from)?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(stdin.as_fd(), SetArg::TCSADRAIN, &raw).map_err(std::io::Error::from)?;
        Ok(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // A terminal that has gone away needs no restoring.
        termios::tcsetattr(std::io::stdin().as_fd(), SetArg::TCSADRAIN, &self.0).ok();
    }
}
