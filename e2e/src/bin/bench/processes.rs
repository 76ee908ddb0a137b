//! Processes of the control plane: their start, memory, CPU time and writes, as `/proc` has them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::sys::time::{TimeVal, TimeValLike as _};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::connection::{Cluster, get};
use crate::figures::Figures;

/// A command that has not answered by then does not start.
const READY_WITHIN: Duration = Duration::from_secs(120);
const STOP_WITHIN: Duration = Duration::from_secs(30);

/// Processes with all their descendants.
pub(crate) struct Watched {
    given: Vec<u32>,
    /// Looked at anew each time: it may have been started again.
    launched: Option<Arc<Launched>>,
}

/// What processes have used so far.
#[derive(Clone, Copy, Debug, Default)]
struct Usage {
    cpu: Duration,
    resident_bytes: u64,
    written_bytes: u64,
}

/// One process.
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) name: String,
    pub(crate) cpu: Duration,
    pub(crate) resident_bytes: u64,
}

impl Watched {
    pub(crate) fn new(given: Vec<u32>, launched: Option<Arc<Launched>>) -> Self {
        Self { given, launched }
    }

    fn pids(&self) -> Vec<u32> {
        let launched = self.launched.as_ref().map(|launched| launched.pid());
        self.given.iter().copied().chain(launched).collect()
    }

    /// CPU time so far; none without processes to look at.
    pub(crate) fn cpu(&self) -> Option<Duration> {
        let pids = self.pids();
        (!pids.is_empty()).then(|| usage_below(pids).cpu)
    }

    /// Resident memory now; none without processes to look at.
    pub(crate) fn resident_bytes(&self) -> Option<u64> {
        let pids = self.pids();
        (!pids.is_empty()).then(|| usage_below(pids).resident_bytes)
    }

    /// Each process by itself, as it is now.
    pub(crate) fn each(&self) -> Vec<Process> {
        let look = |pid: &u32| {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim().to_owned();
            let Usage { cpu, resident_bytes, .. } = usage_of(*pid)?;
            Some(Process { pid: *pid, name, cpu, resident_bytes })
        };
        self.pids().iter().filter_map(look).collect()
    }
}

/// What processes and their descendants have used.
fn usage_below(mut open: Vec<u32>) -> Usage {
    let children = children();
    let mut sum = Usage::default();
    while let Some(pid) = open.pop() {
        open.extend(children.get(&pid).into_iter().flatten());
        let one = usage_of(pid).unwrap_or_default();
        sum.cpu += one.cpu;
        sum.resident_bytes += one.resident_bytes;
        sum.written_bytes += one.written_bytes;
    }
    sum
}

/// Fields of `/proc/PID/stat` after the name, which may have spaces in it.
fn stat_of(pid: &str) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

fn children() -> HashMap<u32, Vec<u32>> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        let parent = stat_of(&name.to_string_lossy()).and_then(|fields| fields.get(1)?.parse().ok());
        if let Some(parent) = parent {
            children.entry(parent).or_default().push(pid);
        }
    }
    children
}

fn usage_of(pid: u32) -> Option<Usage> {
    let fields = stat_of(&pid.to_string())?;
    let number = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    // Linux counts in hundredths of a second and pages of 4 KiB on every machine this runs on.
    let cpu = Duration::from_millis((number(11) + number(12)) * 10);
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let written =
        io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).and_then(|text| text.parse().ok());
    Some(Usage { cpu, resident_bytes: number(21) * 4096, written_bytes: written.unwrap_or(0) })
}

/// A control plane that this run has started.
pub(crate) struct Launched {
    command: String,
    kubeconfig: PathBuf,
    running: Mutex<Child>,
    pid: AtomicU32,
}

/// By then a launched command has done what its start left to do.
const SETTLE: Duration = Duration::from_secs(15);

impl Launched {
    /// Starts the command and waits until the cluster answers `/readyz`.
    pub(crate) async fn start(
        command: &str,
        kubeconfig: &Path,
        figures: &mut Figures,
    ) -> anyhow::Result<Arc<Self>> {
        let begun = Instant::now();
        let (child, pid) = run(command, kubeconfig).await?;
        figures.add("start to /readyz", begun.elapsed().as_secs_f64() * 1000.0, "ms");
        let (command, kubeconfig) = (command.to_owned(), kubeconfig.to_owned());
        Ok(Arc::new(Self { command, kubeconfig, running: Mutex::new(child), pid: pid.into() }))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid.load(Ordering::Relaxed)
    }

    /// Stops it and starts it again; gives how long it then took to be ready, and the CPU time of that.
    pub(crate) async fn restart(&self) -> anyhow::Result<(Duration, Duration)> {
        let mut running = self.running.lock().await;
        self.end(&mut running).await?;
        let begun = Instant::now();
        let (child, pid) = run(&self.command, &self.kubeconfig).await?;
        let elapsed = begun.elapsed();
        *running = child;
        self.pid.store(pid, Ordering::Relaxed);
        Ok((elapsed, usage_below(vec![pid]).cpu))
    }

    /// Lets it idle, and says what it used.
    pub(crate) async fn idle(&self, length: Duration, figures: &mut Figures) -> anyhow::Result<()> {
        eprintln!("idle: {} s of nothing", length.as_secs());
        // What a start leaves to be written and given back is no idling.
        tokio::time::sleep(SETTLE.min(length)).await;
        let before = usage_below(vec![self.pid()]);
        tokio::time::sleep(length).await;
        let after = usage_below(vec![self.pid()]);
        let share = (after.cpu - before.cpu).as_secs_f64() / length.as_secs_f64().max(1e-9) * 100.0;
        let hourly = 3600.0 / length.as_secs_f64().max(1e-9);
        figures.add("resident memory when idle", mebibytes(after.resident_bytes), "MiB");
        figures.add("CPU when idle", share, "% of a core");
        figures.add(
            "written when idle",
            mebibytes(after.written_bytes - before.written_bytes) * hourly,
            "MiB/h",
        );
        Ok(())
    }

    pub(crate) async fn stop(&self, figures: &mut Figures) -> anyhow::Result<()> {
        let usage = usage_below(vec![self.pid()]);
        figures.add("resident memory at the end", mebibytes(usage.resident_bytes), "MiB");
        self.end(&mut *self.running.lock().await).await
    }

    async fn end(&self, running: &mut Child) -> anyhow::Result<()> {
        kill(Pid::from_raw(i32::try_from(self.pid())?), Signal::SIGTERM)?;
        match tokio::time::timeout(STOP_WITHIN, running.wait()).await {
            Ok(_) => Ok(()),
            Err(_) => Ok(running.kill().await?),
        }
    }
}

pub(crate) fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Starts a command and waits until the cluster answers `/readyz`.
async fn run(command: &str, kubeconfig: &Path) -> anyhow::Result<(Child, u32)> {
    let begun = Instant::now();
    let mut child = Command::new("sh")
        .args(["-c", &format!("exec {command}")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("cannot start the command")?;
    let pid = child.id().context("the command ended at once")?;
    while !is_ready(kubeconfig).await {
        if let Some(status) = child.try_wait()? {
            bail!("the launched command ended with {status} before it was ready");
        }
        if begun.elapsed() > READY_WITHIN {
            bail!("the launched command is not ready after {READY_WITHIN:?}");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok((child, pid))
}

/// CPU time of the commands that this run has started and seen end.
pub(crate) fn cpu_of_ended() -> anyhow::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let time = |of: TimeVal| Duration::from_micros(u64::try_from(of.num_microseconds()).unwrap_or(0));
    Ok(time(usage.user_time()) + time(usage.system_time()))
}

async fn is_ready(kubeconfig: &Path) -> bool {
    let Ok(cluster) = Cluster::read(kubeconfig).await else { return false };
    get(&cluster.client, "/readyz").await.is_ok()
}
