//! What this machine is and has, from the kernel's files.

use std::fs::read_to_string;

#[cfg(target_arch = "x86_64")]
pub(crate) const ARCHITECTURE: &str = "amd64";
#[cfg(target_arch = "aarch64")]
pub(crate) const ARCHITECTURE: &str = "arm64";
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(crate) const ARCHITECTURE: &str = std::env::consts::ARCH;

/// Facts for a Node's status.
#[derive(Clone, Debug, Default)]
pub(crate) struct Machine {
    pub(crate) cpus: usize,
    pub(crate) memory_bytes: u64,
    pub(crate) disk_bytes: u64,
    pub(crate) boot_id: String,
    pub(crate) machine_id: String,
    pub(crate) kernel: String,
    pub(crate) os: String,
}

impl Machine {
    /// This machine; what cannot be read is empty.
    pub(crate) fn read() -> Self {
        let line = |path: &str| read_to_string(path).unwrap_or_default().trim().to_owned();
        let disk = nix::sys::statvfs::statvfs("/").map(|it| it.blocks() * it.fragment_size());
        Self {
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: memory(&read_to_string("/proc/meminfo").unwrap_or_default()),
            disk_bytes: disk.unwrap_or(0),
            boot_id: line("/proc/sys/kernel/random/boot_id"),
            machine_id: line("/etc/machine-id"),
            kernel: line("/proc/sys/kernel/osrelease"),
            os: os(&read_to_string("/etc/os-release").unwrap_or_default()),
        }
    }

    /// A made-up machine of a usual size, the same every time.
    pub(crate) fn simulated(name: &str) -> Self {
        Self {
            cpus: 8,
            memory_bytes: 32 << 30,
            disk_bytes: 100 << 30,
            boot_id: format!("simulated-{name}"),
            machine_id: format!("simulated-{name}"),
            kernel: "simulated".to_owned(),
            os: "Simulated".to_owned(),
        }
    }
}

/// The name a node has if none is given: the machine's host name in lower case.
pub(crate) fn host_name() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|it| it.into_string().ok()).unwrap_or_default();
    if name.is_empty() { "localhost".to_owned() } else { name.to_lowercase() }
}

fn memory(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes = line.and_then(|it| it.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}

fn os(release: &str) -> String {
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.unwrap_or("Linux").trim_matches('"').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_name_are_read_from_the_kernels_files() {
        assert_eq!(memory("MemFree: 1 kB\nMemTotal:       2048 kB\n"), 2048 * 1024);
        assert_eq!(os("ID=x\nPRETTY_NAME=\"Some Linux 1\"\n"), "Some Linux 1");
    }
}
