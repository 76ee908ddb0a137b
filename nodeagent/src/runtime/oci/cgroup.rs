//! cgroups by path, on the unified hierarchy (v2) and on one hierarchy per controller (v1).
//!
//! libcontainer makes a container's own cgroup and sets its limits; here is what lies around it: limits of
//! the pod, changes of limits, figures, the end of all processes, and removal up to what is not empty.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::runtime::Resources;

/// Rounds in which the processes of a cgroup are killed until none is left.
const KILL_ROUNDS_MAX: usize = 50;

/// A path below the root of each hierarchy.
#[derive(Clone, Debug)]
pub(crate) struct Cgroup {
    path: PathBuf,
    hierarchies: Vec<Hierarchy>,
}

#[derive(Clone, Debug)]
struct Hierarchy {
    mount: PathBuf,
    unified: bool,
    /// `cpu`, `memory` and so on; empty for v2.
    controllers: Vec<String>,
}

/// Figures of a cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) cpu_nanoseconds: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) inactive_file_bytes: u64,
}

impl Cgroup {
    /// The cgroup at an absolute path such as `/kubepods/poduid`; it need not exist.
    pub(crate) fn at(path: &str) -> Self {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let relative = Path::new(path).strip_prefix("/").unwrap_or(Path::new(path)).to_owned();
        Self { path: relative, hierarchies: mounts.lines().filter_map(parse_mount).collect() }
    }

    /// Makes it with the limits of a pod.
    pub(crate) fn create(&self, resources: &Resources) -> std::io::Result<()> {
        for hierarchy in &self.hierarchies {
            if hierarchy.unified {
                self.create_unified(hierarchy)?;
            } else {
                std::fs::create_dir_all(hierarchy.mount.join(&self.path))?;
            }
        }
        self.set(resources)
    }

    /// Hands the controllers down the path: a v2 cgroup has only those that its parent gives.
    fn create_unified(&self, hierarchy: &Hierarchy) -> std::io::Result<()> {
        let mut here = hierarchy.mount.clone();
        for part in self.path.components() {
            let available = std::fs::read_to_string(here.join("cgroup.controllers")).unwrap_or_default();
            for controller in available.split_whitespace() {
                // One that cannot be given (a real-time process is in the way) must not stop the rest.
                drop(std::fs::write(here.join("cgroup.subtree_control"), format!("+{controller}")));
            }
            here.push(part);
            std::fs::create_dir_all(&here)?;
        }
        Ok(())
    }

    /// Sets the limits that are given.
    pub(crate) fn set(&self, resources: &Resources) -> std::io::Result<()> {
        if let Some(shares) = resources.cpu_shares {
            // The formula by which all runtimes map v1 shares to v2 weights.
            let weight = 1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142;
            self.write("cpu", "cpu.shares", &shares.to_string(), "cpu.weight", &weight.to_string())?;
        }
        let period = resources.cpu_period_us.unwrap_or(100_000);
        if let Some(quota) = resources.cpu_quota_us {
            let text = if quota > 0 { format!("{quota} {period}") } else { format!("max {period}") };
            self.write("cpu", "cpu.cfs_period_us", &period.to_string(), "cpu.max", &text)?;
            self.write_v1("cpu", "cpu.cfs_quota_us", &quota.to_string())?;
        }
        if let Some(limit) = resources.memory_limit_bytes {
            let text = if limit > 0 { limit.to_string() } else { "max".to_owned() };
            self.write("memory", "memory.limit_in_bytes", &limit.to_string(), "memory.max", &text)?;
        }
        Ok(())
    }

    pub(crate) fn usage(&self) -> Usage {
        let number = |controller: &str, v1: &str, v2: &str| {
            let file = self.file(controller, v1, v2)?;
            std::fs::read_to_string(file).ok()?.trim().parse().ok()
        };
        let cpu = number("cpuacct", "cpuacct.usage", "").or_else(|| {
            let microseconds = field(&self.file("", "", "cpu.stat")?, "usage_usec")?;
            Some(microseconds * 1_000)
        });
        let memory = number("memory", "memory.usage_in_bytes", "memory.current");
        let inactive = self
            .file("memory", "memory.stat", "memory.stat")
            .and_then(|file| field(&file, "total_inactive_file").or_else(|| field(&file, "inactive_file")));
        Usage {
            cpu_nanoseconds: cpu.unwrap_or_default(),
            memory_bytes: memory.unwrap_or_default(),
            inactive_file_bytes: inactive.unwrap_or_default(),
        }
    }

    /// How often the kernel killed something here for want of memory.
    pub(crate) fn oom_kills(&self) -> u64 {
        let file = self.file("memory", "memory.oom_control", "memory.events");
        file.and_then(|file| field(&file, "oom_kill")).unwrap_or_default()
    }

    /// Kills every process in it and below, and returns when none is left or nothing helps.
    pub(crate) fn kill_all(&self) {
        if self.path.components().next().is_none() {
            return;
        }
        for hierarchy in self.hierarchies.iter().filter(|hierarchy| hierarchy.unified) {
            // Kernels before 5.14 have no such file; the loop below does it there.
            drop(std::fs::write(hierarchy.mount.join(&self.path).join("cgroup.kill"), "1"));
        }
        for _ in 0..KILL_ROUNDS_MAX {
            let pids = self.pids();
            if pids.is_empty() {
                return;
            }
            for pid in pids {
                // One that has just ended is what is wanted.
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL).ok();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Removes it, and its parents as long as they are empty.
    pub(crate) fn remove(&self) {
        for hierarchy in &self.hierarchies {
            let mut path = Some(self.path.as_path());
            while let Some(here) = path.filter(|path| path.components().next().is_some()) {
                match std::fs::remove_dir(hierarchy.mount.join(here)) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => break,
                    _ => path = here.parent(),
                }
            }
        }
    }

    fn pids(&self) -> Vec<i32> {
        let mut pids = Vec::new();
        for hierarchy in &self.hierarchies {
            let file = hierarchy.mount.join(&self.path).join("cgroup.procs");
            let text = std::fs::read_to_string(file).unwrap_or_default();
            pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 1));
        }
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    fn write(&self, controller: &str, v1: &str, text1: &str, v2: &str, text2: &str) -> std::io::Result<()> {
        if self.file(controller, v1, "").is_some() {
            return self.write_v1(controller, v1, text1);
        }
        match self.file("", "", v2) {
            Some(file) => std::fs::write(file, text2),
            None => Ok(()),
        }
    }

    fn write_v1(&self, controller: &str, name: &str, text: &str) -> std::io::Result<()> {
        self.file(controller, name, "").map_or(Ok(()), |file| std::fs::write(file, text))
    }

    /// The file that exists: `v1` in the controller's hierarchy or `v2` in the unified one.
    fn file(&self, controller: &str, v1: &str, v2: &str) -> Option<PathBuf> {
        let mut files = self.hierarchies.iter().filter_map(|hierarchy| {
            let name = match hierarchy.unified {
                true => v2,
                false if hierarchy.controllers.iter().any(|there| there == controller) => v1,
                false => "",
            };
            (!name.is_empty()).then(|| hierarchy.mount.join(&self.path).join(name))
        });
        files.find(|file| file.is_file())
    }
}

/// A line of mountinfo, if it is a cgroup hierarchy.
fn parse_mount(line: &str) -> Option<Hierarchy> {
    let (left, right) = line.split_once(" - ")?;
    let mount = PathBuf::from(left.split(' ').nth(4)?);
    let mut right = right.split(' ');
    let kind = right.next()?;
    let options = right.nth(1)?;
    match kind {
        "cgroup2" => Some(Hierarchy { mount, unified: true, controllers: Vec::new() }),
        "cgroup" => {
            let controllers = options.split(',').map(str::to_owned).collect();
            Some(Hierarchy { mount, unified: false, controllers })
        }
        _ => None,
    }
}

/// The number after a key in a file of `key number` lines.
fn field(file: &Path, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.split_once(' ').filter(|(name, _)| *name == key)?.1.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_of_both_versions_are_recognised() {
        let v1 = parse_mount("30 24 0:26 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct")
            .unwrap();
        assert!(!v1.unified && v1.controllers.contains(&"cpuacct".to_owned()));
        let v2 = parse_mount("30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate").unwrap();
        assert!(v2.unified && v2.mount == Path::new("/sys/fs/cgroup"));
        assert!(parse_mount("30 24 0:26 / /proc rw - proc proc rw").is_none());
    }

    #[test]
    fn the_root_is_never_killed() {
        Cgroup { path: PathBuf::new(), hierarchies: Vec::new() }.kill_all();
    }
}
