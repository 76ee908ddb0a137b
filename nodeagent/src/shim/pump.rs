//! Moves bytes between one process, its log and whoever is attached, in one poll loop.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use super::frame::{Decoder, Frame};
use super::log_file::{LogFile, Stream};
use super::{ShimError, now};
use crate::runtime::TerminalSize;

const READ_BYTES: usize = 32 * 1024;
/// Output that may wait for one peer. Above it an attached viewer is dropped, and an exec's caller is waited for.
const WAITING_BYTES_MAX: usize = 1024 * 1024;
/// After the process has ended, output of what it left behind is read until it is silent for so long.
const SILENCE_MS: u16 = 300;

/// Who reads and writes the streams from outside.
pub(super) struct Peer {
    read: OwnedFd,
    write: OwnedFd,
    decoder: Decoder,
    waiting: VecDeque<u8>,
    gone: bool,
}

impl Peer {
    pub(super) fn new(read: OwnedFd, write: OwnedFd) -> Result<Self, ShimError> {
        set_nonblocking(&read)?;
        set_nonblocking(&write)?;
        Ok(Self { read, write, decoder: Decoder::default(), waiting: VecDeque::new(), gone: false })
    }

    pub(super) fn queue(&mut self, frame: &Frame) {
        self.waiting.extend(frame.encode());
    }

    /// Writes what the other side takes now.
    fn flush(&mut self) {
        while !self.waiting.is_empty() && !self.gone {
            let (front, _) = self.waiting.as_slices();
            match nix::unistd::write(&self.write, front) {
                Ok(count) => drop(self.waiting.drain(..count)),
                Err(Errno::EAGAIN) => return,
                Err(Errno::EINTR) => {}
                Err(_) => self.gone = true,
            }
        }
    }
}

/// What happens when the only peer of an exec goes, and what a slow peer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PeerRule {
    /// Attached viewers come and go; none may slow the container.
    Viewers { stdin_once: bool },
    /// The process belongs to its caller: it waits for it and ends with it.
    Owner,
}

/// The descriptors of the process and of those outside.
pub(super) struct Pump {
    pub(super) child: Pid,
    /// Becomes readable when the process has ended.
    pub(super) pidfd: OwnedFd,
    /// Emptied slot by slot as they end.
    pub(super) outputs: Vec<Option<(Stream, OwnedFd)>>,
    pub(super) input: Option<OwnedFd>,
    /// The terminal's master side, for its size.
    pub(super) terminal: Option<OwnedFd>,
    pub(super) log: Option<LogFile>,
    pub(super) listener: Option<UnixListener>,
    pub(super) peers: Vec<Peer>,
    pub(super) rule: PeerRule,
    pub(super) waiting_input: VecDeque<u8>,
    pub(super) input_ends: bool,
}

/// What a descriptor of the poll set belongs to.
#[derive(Clone, Copy)]
enum Source {
    Child,
    Listener,
    Output(usize),
    Input,
    PeerRead(usize),
    PeerWrite(usize),
}

impl Pump {
    /// Runs until the process and its output have ended; `on_exit` runs as soon as the process has.
    pub(super) fn run(&mut self, on_exit: impl FnOnce()) -> Result<i32, ShimError> {
        for (_, output) in self.outputs.iter().flatten() {
            set_nonblocking(output)?;
        }
        if let Some(input) = &self.input {
            set_nonblocking(input)?;
        }
        let mut on_exit = Some(on_exit);
        let mut code = None;
        while code.is_none() || self.outputs.iter().any(Option::is_some) {
            let ready = self.wait(code.is_none())?;
            if ready.is_empty() && code.is_some() {
                break;
            }
            for (source, flags) in ready {
                if let Source::Child = source {
                    code = Some(exit_code(self.child)?);
                    if let Some(on_exit) = on_exit.take() {
                        on_exit();
                    }
                } else {
                    self.serve(source, flags)?;
                }
            }
            self.drop_closed();
        }
        if let Some(log) = &mut self.log {
            log.finish(now()).map_err(ShimError::io("writing the log"))?;
        }
        Ok(code.unwrap_or(-1))
    }

    /// Tells all peers the last frame and waits for them to take it, at most a second each.
    pub(super) fn say_goodbye(&mut self, frame: &Frame) {
        for peer in &mut self.peers {
            peer.queue(frame);
            for _ in 0..10 {
                peer.flush();
                if peer.waiting.is_empty() || peer.gone {
                    break;
                }
                let mut fds = [PollFd::new(peer.write.as_fd(), PollFlags::POLLOUT)];
                if poll(&mut fds, PollTimeout::from(100_u16)).is_err() {
                    break;
                }
            }
        }
        self.peers.clear();
    }

    fn wait(&self, child_runs: bool) -> Result<Vec<(Source, PollFlags)>, ShimError> {
        let mut sources = Vec::new();
        let mut fds = Vec::new();
        let mut add = |source, fd, flags| {
            sources.push(source);
            fds.push(PollFd::new(fd, flags));
        };
        if child_runs {
            add(Source::Child, self.pidfd.as_fd(), PollFlags::POLLIN);
        }
        if let Some(listener) = &self.listener {
            add(Source::Listener, listener.as_fd(), PollFlags::POLLIN);
        }
        let full = self.rule == PeerRule::Owner
            && self.peers.iter().any(|peer| peer.waiting.len() > WAITING_BYTES_MAX);
        for (index, output) in self.outputs.iter().enumerate() {
            if let Some((_, output)) = output.as_ref().filter(|_| !full) {
                add(Source::Output(index), output.as_fd(), PollFlags::POLLIN);
            }
        }
        if let Some(input) = self.input.as_ref().filter(|_| !self.waiting_input.is_empty()) {
            add(Source::Input, input.as_fd(), PollFlags::POLLOUT);
        }
        for (index, peer) in self.peers.iter().enumerate() {
            if self.waiting_input.len() < WAITING_BYTES_MAX {
                add(Source::PeerRead(index), peer.read.as_fd(), PollFlags::POLLIN);
            }
            if !peer.waiting.is_empty() {
                add(Source::PeerWrite(index), peer.write.as_fd(), PollFlags::POLLOUT);
            }
        }
        let timeout = if child_runs { PollTimeout::NONE } else { PollTimeout::from(SILENCE_MS) };
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(ShimError::os("waiting for the streams")(errno)),
        }
        let ready = sources.into_iter().zip(fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty())));
        Ok(ready.filter(|(_, flags)| !flags.is_empty()).collect())
    }

    fn serve(&mut self, source: Source, flags: PollFlags) -> Result<(), ShimError> {
        match source {
            Source::Child => Ok(()),
            Source::Listener => self.accept(),
            Source::Output(index) => self.read_output(index),
            Source::Input => {
                self.write_input(flags);
                Ok(())
            }
            Source::PeerRead(index) => self.read_peer(index),
            Source::PeerWrite(index) => {
                if let Some(peer) = self.peers.get_mut(index) {
                    peer.flush();
                }
                Ok(())
            }
        }
    }

    fn accept(&mut self) -> Result<(), ShimError> {
        let Some(listener) = &self.listener else { return Ok(()) };
        if let Ok((stream, _)) = listener.accept() {
            let write = stream.try_clone().map_err(ShimError::io("attaching a viewer"))?;
            self.peers.push(Peer::new(stream.into(), write.into())?);
        }
        Ok(())
    }

    fn read_output(&mut self, index: usize) -> Result<(), ShimError> {
        let mut bytes = vec![0; READ_BYTES];
        let (stream, count) = match self.outputs.get(index) {
            Some(Some((stream, output))) => (*stream, nix::unistd::read(output, &mut bytes)),
            _ => return Ok(()),
        };
        let bytes = match count {
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(()),
            Ok(count) if count > 0 => &bytes[..count],
            // A terminal whose last process has gone answers EIO.
            _ => {
                self.outputs[index] = None;
                return Ok(());
            }
        };
        if let Some(log) = &mut self.log {
            log.write(stream, bytes, now()).map_err(ShimError::io("writing the log"))?;
        }
        let frame = match stream {
            Stream::Stdout => Frame::Stdout(bytes.to_vec()),
            Stream::Stderr => Frame::Stderr(bytes.to_vec()),
        };
        let rule = self.rule;
        for peer in &mut self.peers {
            peer.queue(&frame);
            peer.flush();
            if rule != PeerRule::Owner && peer.waiting.len() > WAITING_BYTES_MAX {
                peer.gone = true;
            }
        }
        Ok(())
    }

    fn read_peer(&mut self, index: usize) -> Result<(), ShimError> {
        let Some(peer) = self.peers.get_mut(index) else { return Ok(()) };
        let mut bytes = vec![0; READ_BYTES];
        match nix::unistd::read(&peer.read, &mut bytes) {
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(()),
            Ok(count) if count > 0 => peer.decoder.push(&bytes[..count]),
            _ => peer.gone = true,
        }
        let mut frames = Vec::new();
        loop {
            match peer.decoder.next() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => {
                    peer.gone = true;
                    break;
                }
            }
        }
        for frame in frames {
            self.obey(frame);
        }
        Ok(())
    }

    fn obey(&mut self, frame: Frame) {
        match frame {
            Frame::Stdin(bytes) => self.waiting_input.extend(bytes),
            Frame::StdinEnd => self.end_input(),
            Frame::Resize(size) => self.resize(size),
            Frame::Stdout(_) | Frame::Stderr(_) | Frame::Exit(_) | Frame::Failed(_) => {}
        }
        self.write_input(PollFlags::POLLOUT);
    }

    fn end_input(&mut self) {
        let ends = match self.rule {
            PeerRule::Owner => true,
            PeerRule::Viewers { stdin_once } => stdin_once,
        };
        self.input_ends |= ends;
    }

    fn write_input(&mut self, flags: PollFlags) {
        while let Some(input) = &self.input {
            let (front, _) = self.waiting_input.as_slices();
            if front.is_empty() {
                break;
            }
            match nix::unistd::write(input, front) {
                Ok(count) => drop(self.waiting_input.drain(..count)),
                Err(Errno::EAGAIN) if !flags.contains(PollFlags::POLLERR) => return,
                Err(Errno::EINTR) => {}
                Err(_) => {
                    // Nobody reads any more.
                    self.input = None;
                    self.waiting_input.clear();
                }
            }
        }
        if self.input.is_none() {
            self.waiting_input.clear();
        } else if self.input_ends && self.waiting_input.is_empty() {
            self.close_input();
        }
    }

    /// A pipe is closed; a terminal is told the end of input as a person would.
    fn close_input(&mut self) {
        match &self.terminal {
            Some(_) => self.waiting_input.push_back(4),
            None => self.input = None,
        }
        self.input_ends = false;
    }

    fn resize(&self, size: TerminalSize) {
        if let Some(terminal) = &self.terminal {
            let size = rustix::termios::Winsize {
                ws_col: size.width,
                ws_row: size.height,
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            // A terminal that has just gone has no size to set.
            rustix::termios::tcsetwinsize(terminal, size).ok();
        }
    }

    fn drop_closed(&mut self) {
        let before = self.peers.len();
        self.peers.retain(|peer| !peer.gone);
        if self.peers.len() == before {
            return;
        }
        match self.rule {
            PeerRule::Owner => {
                // The caller has gone; an error says that the process has, too.
                nix::sys::signal::kill(self.child, nix::sys::signal::Signal::SIGKILL).ok();
            }
            PeerRule::Viewers { stdin_once: true } => {
                self.input_ends = true;
                self.write_input(PollFlags::POLLOUT);
            }
            PeerRule::Viewers { stdin_once: false } => {}
        }
    }
}

pub(super) fn set_nonblocking(fd: &OwnedFd) -> Result<(), ShimError> {
    let doing = "making a stream non-blocking";
    let flags = fcntl(fd, FcntlArg::F_GETFL).map_err(ShimError::os(doing))?;
    let flags = OFlag::from_bits_truncate(flags) | OFlag::O_NONBLOCK;
    fcntl(fd, FcntlArg::F_SETFL(flags)).map(drop).map_err(ShimError::os(doing))
}

/// 128 + signal when a signal ended it.
fn exit_code(child: Pid) -> Result<i32, ShimError> {
    loop {
        match waitpid(child, None) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(code),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(128 + signal as i32),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(ShimError::os("waiting for the container")(errno)),
        }
    }
}
