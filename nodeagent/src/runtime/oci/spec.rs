//! A container's OCI configuration, from what the pod asks for, the image and the machine's limits. Pure.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::image::{ImageConfig, user::User};
use crate::runtime::{ContainerConfig, Mount, Propagation, RuntimeError, Security};

/// What containers get unless the pod drops it (docker's and containerd's list).
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// By bit number, capabilities(7).
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

const MASKED_PATHS: [&str; 10] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READ_ONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What this machine allows.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    /// The agent's bounding set, as bits.
    pub(super) capabilities: u64,
    pub(super) open_files_max: u64,
}

impl Limits {
    pub(super) fn of_this_process() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
        let capabilities = line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0);
        let (_, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)
            .unwrap_or((1024, 1024));
        Self { capabilities, open_files_max: hard.min(1_048_576) }
    }
}

/// Everything a configuration is made from.
pub(super) struct Input<'a> {
    pub(super) config: &'a ContainerConfig,
    pub(super) image: &'a ImageConfig,
    pub(super) user: &'a User,
    pub(super) limits: &'a Limits,
    pub(super) rootfs: &'a Path,
    pub(super) hostname: &'a str,
    pub(super) namespaces: Namespaces,
    pub(super) cgroup: &'a str,
    /// Mounts that the runtime makes itself: resolv.conf, hostname, shared memory.
    pub(super) own_mounts: &'a [Mount],
}

/// Paths of namespaces to join; `None` is the node's.
pub(super) struct Namespaces {
    pub(super) network: Option<PathBuf>,
    pub(super) ipc: Option<PathBuf>,
    pub(super) uts: Option<PathBuf>,
    pub(super) pid: PidNamespace,
}

pub(super) enum PidNamespace {
    Node,
    Own,
    Join(PathBuf),
}

/// `config.json`.
pub(super) fn spec(input: &Input<'_>) -> Result<Value, RuntimeError> {
    let security = &input.config.security;
    let mut linux = json!({
        "cgroupsPath": input.cgroup,
        "namespaces": namespaces(&input.namespaces),
        "resources": resources(input.config),
        "devices": devices(input.config),
    });
    if !security.privileged {
        linux["maskedPaths"] = json!(MASKED_PATHS);
        linux["readonlyPaths"] = json!(READ_ONLY_PATHS);
    }
    Ok(json!({
        "ociVersion": "1.0.2",
        "root": { "path": input.rootfs, "readonly": security.read_only_root },
        "process": process(input)?,
        "mounts": mounts(input)?,
        "linux": linux,
    }))
}

fn process(input: &Input<'_>) -> Result<Value, RuntimeError> {
    let security = &input.config.security;
    let capabilities = capabilities(security, input.limits.capabilities);
    let cwd = match (&input.config.working_dir, input.image.working_dir.as_str()) {
        (Some(own), _) => own.clone(),
        (None, "") => PathBuf::from("/"),
        (None, image) => PathBuf::from(image),
    };
    let mut process = json!({
        "terminal": input.config.tty,
        "user": { "uid": input.user.uid, "gid": input.user.gid, "additionalGids": input.user.groups },
        "args": command(input.config, input.image)?,
        "env": environment(input),
        "cwd": cwd,
        "noNewPrivileges": security.no_new_privileges,
        "rlimits": [{
            "type": "RLIMIT_NOFILE",
            "soft": input.limits.open_files_max,
            "hard": input.limits.open_files_max,
        }],
    });
    process["capabilities"] = json!({
        "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
        "inheritable": [], "ambient": [],
    });
    Ok(process)
}

/// Entrypoint and cmd by the rules of Kubernetes: `command` replaces both, `args` only the cmd.
fn command(config: &ContainerConfig, image: &ImageConfig) -> Result<Vec<String>, RuntimeError> {
    let (first, rest) = match (config.command.is_empty(), config.args.is_empty()) {
        (false, _) => (&config.command, &config.args),
        (true, false) => (&image.entrypoint, &config.args),
        (true, true) => (&image.entrypoint, &image.cmd),
    };
    let command: Vec<String> = first.iter().chain(rest).cloned().collect();
    if command.is_empty() {
        let reason = format!("no command is given, and the image {} has none", config.image);
        return Err(RuntimeError::InvalidConfig { field: "command", reason });
    }
    Ok(command)
}

fn environment(input: &Input<'_>) -> Vec<String> {
    let mut variables: Vec<(String, String)> = Vec::new();
    let mut set = |name: &str, value: &str| {
        variables.retain(|(there, _)| there != name);
        variables.push((name.to_owned(), value.to_owned()));
    };
    set("PATH", DEFAULT_PATH.trim_start_matches("PATH="));
    if !input.hostname.is_empty() {
        set("HOSTNAME", input.hostname);
    }
    if input.config.tty {
        set("TERM", "xterm");
    }
    set("HOME", input.user.home.as_deref().unwrap_or("/"));
    for variable in &input.image.env {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        set(name, value);
    }
    for (name, value) in &input.config.env {
        set(name, value);
    }
    variables.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// What is asked for, without what this machine itself does not have.
fn capabilities(security: &Security, bounding: u64) -> Vec<String> {
    let name = |name: &String| name.to_uppercase().trim_start_matches("CAP_").to_owned();
    let add: Vec<String> = security.capabilities_add.iter().map(name).collect();
    let drop: Vec<String> = security.capabilities_drop.iter().map(name).collect();
    let has = |list: &[String], name: &str| list.iter().any(|there| there == name);
    let wanted = |capability: &str| {
        let by_default = DEFAULT_CAPABILITIES.contains(&capability) && !has(&drop, "ALL");
        let all = security.privileged || has(&add, "ALL");
        all || has(&add, capability) || by_default
    };
    let kept = |capability: &str| security.privileged || has(&add, capability) || !has(&drop, capability);
    CAPABILITIES
        .iter()
        .enumerate()
        .filter(|(bit, capability)| bounding & (1 << bit) != 0 && wanted(capability) && kept(capability))
        .map(|(_, capability)| format!("CAP_{capability}"))
        .collect()
}

fn namespaces(wanted: &Namespaces) -> Vec<Value> {
    let mut list = vec![json!({ "type": "mount" })];
    match &wanted.pid {
        PidNamespace::Node => {}
        PidNamespace::Own => list.push(json!({ "type": "pid" })),
        PidNamespace::Join(path) => list.push(json!({ "type": "pid", "path": path })),
    }
    for (kind, path) in [("network", &wanted.network), ("ipc", &wanted.ipc), ("uts", &wanted.uts)] {
        if let Some(path) = path {
            list.push(json!({ "type": kind, "path": path }));
        }
    }
    list
}

fn resources(config: &ContainerConfig) -> Value {
    let wanted = &config.resources;
    let mut resources = json!({ "devices": device_rules(config) });
    if let Some(limit) = wanted.memory_limit_bytes.filter(|limit| *limit > 0) {
        resources["memory"] = json!({ "limit": limit });
    }
    let mut cpu = serde_json::Map::new();
    if let Some(shares) = wanted.cpu_shares {
        cpu.insert("shares".into(), json!(shares));
    }
    if let Some(quota) = wanted.cpu_quota_us {
        cpu.insert("quota".into(), json!(quota));
        cpu.insert("period".into(), json!(wanted.cpu_period_us.unwrap_or(100_000)));
    }
    if !cpu.is_empty() {
        resources["cpu"] = Value::Object(cpu);
    }
    resources
}

fn device_rules(config: &ContainerConfig) -> Vec<Value> {
    if config.security.privileged {
        return vec![json!({ "allow": true, "access": "rwm" })];
    }
    let mut rules = vec![json!({ "allow": false, "access": "rwm" })];
    // Making device nodes is not using them; then null, zero, full, random, urandom, tty, ptmx, pts.
    rules.push(json!({ "allow": true, "type": "c", "access": "m" }));
    rules.push(json!({ "allow": true, "type": "b", "access": "m" }));
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)] {
        let rule = json!({ "allow": true, "type": "c", "major": major, "minor": minor, "access": "rwm" });
        rules.push(rule);
    }
    rules.push(json!({ "allow": true, "type": "c", "major": 136, "access": "rwm" }));
    for device in config.devices.iter().filter_map(|device| numbers(device).map(|there| (device, there))) {
        let (device, (kind, major, minor)) = device;
        let access = &device.permissions;
        let rule = json!({ "allow": true, "type": kind, "major": major, "minor": minor, "access": access });
        rules.push(rule);
    }
    rules
}

fn devices(config: &ContainerConfig) -> Vec<Value> {
    let device = |device: &crate::runtime::Device| {
        let (kind, major, minor) = numbers(device)?;
        let path = &device.container_path;
        Some(json!({ "path": path, "type": kind, "major": major, "minor": minor, "fileMode": 0o666 }))
    };
    config.devices.iter().filter_map(device).collect()
}

fn numbers(device: &crate::runtime::Device) -> Option<(&'static str, u64, u64)> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let metadata = std::fs::metadata(&device.host_path).ok()?;
    let kind = if metadata.file_type().is_block_device() { "b" } else { "c" };
    let number = metadata.rdev();
    Some((kind, nix::sys::stat::major(number), nix::sys::stat::minor(number)))
}

fn mounts(input: &Input<'_>) -> Result<Vec<Value>, RuntimeError> {
    let privileged = input.config.security.privileged;
    let access = if privileged { "rw" } else { "ro" };
    let mount = |to: &str, kind: &str, from: &str, options: &[&str]| json!({ "destination": to, "type": kind, "source": from, "options": options });
    let mut list = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", access]),
    ];
    let own = input.own_mounts.iter();
    let wanted = &input.config.mounts;
    let free = |own: &&Mount| !wanted.iter().any(|mount| mount.container_path == own.container_path);
    for own in own.filter(free).chain(wanted) {
        list.push(bind(own)?);
    }
    Ok(list)
}

fn bind(mount: &Mount) -> Result<Value, RuntimeError> {
    let propagation = match mount.propagation {
        Propagation::Private => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => {
            return Err(RuntimeError::Unsupported { what: "propagate mounts from a container".into() });
        }
    };
    if !mount.host_path.exists() {
        let reason = format!("there is no {} to mount", mount.host_path.display());
        return Err(RuntimeError::InvalidConfig { field: "mounts", reason });
    }
    let access = if mount.read_only { "ro" } else { "rw" };
    Ok(json!({
        "destination": mount.container_path,
        "type": "bind",
        "source": mount.host_path,
        "options": ["rbind", propagation, access],
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_replaces_entrypoint_and_cmd_and_args_only_the_cmd() {
        let image =
            ImageConfig { entrypoint: vec!["/e".into()], cmd: vec!["c".into()], ..ImageConfig::default() };
        let run = |command: &[&str], args: &[&str]| {
            let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
            let config =
                ContainerConfig { command: words(command), args: words(args), ..ContainerConfig::default() };
            super::command(&config, &image).unwrap().join(" ")
        };
        assert_eq!(run(&[], &[]), "/e c");
        assert_eq!(run(&[], &["a"]), "/e a");
        assert_eq!(run(&["/x"], &[]), "/x");
        assert_eq!(run(&["/x"], &["a"]), "/x a");
    }

    #[test]
    fn nothing_to_run_is_an_error_that_names_the_image() {
        let config = ContainerConfig { image: "empty:1".into(), ..ContainerConfig::default() };
        let error = command(&config, &ImageConfig::default()).unwrap_err().to_string();
        assert!(error.contains("empty:1"), "{error}");
    }

    #[test]
    fn capabilities_are_masked_by_what_the_machine_has() {
        let without_chown = !1;
        let given = capabilities(&Security::default(), without_chown);
        assert!(!given.contains(&"CAP_CHOWN".to_owned()) && given.contains(&"CAP_KILL".to_owned()));
    }

    #[test]
    fn dropping_all_and_adding_one_leaves_one() {
        let security = Security {
            capabilities_add: vec!["NET_ADMIN".into()],
            capabilities_drop: vec!["ALL".into()],
            ..Security::default()
        };
        assert_eq!(capabilities(&security, u64::MAX), ["CAP_NET_ADMIN"]);
        let all = Security { capabilities_add: vec!["ALL".into()], ..Security::default() };
        assert_eq!(capabilities(&all, u64::MAX).len(), CAPABILITIES.len());
    }
}
