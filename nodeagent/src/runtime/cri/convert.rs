//! CRI's messages from and to the model.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};

use super::message;
use crate::runtime::{
    Container, ContainerConfig, ContainerState, Image, NetworkMode, Propagation, Protocol, Resources, Result,
    RuntimeError, Sandbox, SandboxConfig, SandboxState, Stats,
};

/// The log folder is not in a sandbox's status, so it is kept as an annotation for the next agent.
const LOG_DIR_ANNOTATION: &str = "coxswain.io/log-directory";

/// `NamespaceMode`.
const POD: i32 = 0;
const CONTAINER: i32 = 1;
const NODE: i32 = 2;

fn map(from: &BTreeMap<String, String>) -> HashMap<String, String> {
    from.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

pub(super) fn sandbox_config(config: &SandboxConfig) -> message::PodSandboxConfig {
    let shared = if config.share_process_namespace { POD } else { CONTAINER };
    let namespaces = message::NamespaceOption {
        network: if config.network == NetworkMode::Host { NODE } else { POD },
        pid: if config.host_pid { NODE } else { shared },
        ipc: if config.host_ipc { NODE } else { POD },
    };
    let mut annotations = map(&config.annotations);
    annotations.insert(LOG_DIR_ANNOTATION.to_owned(), text(&config.log_dir));
    message::PodSandboxConfig {
        metadata: Some(message::SandboxMetadata {
            name: config.name.clone(),
            uid: config.uid.clone(),
            namespace: config.namespace.clone(),
            attempt: config.attempt,
        }),
        hostname: config.hostname.clone(),
        log_directory: text(&config.log_dir),
        dns_config: Some(message::DnsConfig {
            servers: config.dns.servers.clone(),
            searches: config.dns.searches.clone(),
            options: config.dns.options.clone(),
        }),
        port_mappings: config.port_mappings.iter().map(port).collect(),
        labels: map(&config.labels),
        annotations,
        linux: Some(message::LinuxSandbox {
            cgroup_parent: config.cgroup_parent.clone(),
            security_context: Some(message::SandboxSecurity {
                namespace_options: Some(namespaces),
                privileged: false,
            }),
            sysctls: map(&config.sysctls),
        }),
    }
}

fn port(mapping: &crate::runtime::PortMapping) -> message::PortMapping {
    message::PortMapping {
        protocol: match mapping.protocol {
            Protocol::Tcp => 0,
            Protocol::Udp => 1,
            Protocol::Sctp => 2,
        },
        container_port: mapping.container_port.into(),
        host_port: mapping.host_port.into(),
        host_ip: mapping.host_ip.map(|ip| ip.to_string()).unwrap_or_default(),
    }
}

/// What a sandbox of an earlier agent was made from, as far as containers need it.
pub(super) fn remembered(sandbox: &Sandbox) -> message::PodSandboxConfig {
    message::PodSandboxConfig {
        metadata: Some(message::SandboxMetadata {
            name: sandbox.name.clone(),
            uid: sandbox.uid.clone(),
            namespace: sandbox.namespace.clone(),
            attempt: sandbox.attempt,
        }),
        log_directory: sandbox.annotations.get(LOG_DIR_ANNOTATION).cloned().unwrap_or_default(),
        labels: map(&sandbox.labels),
        annotations: map(&sandbox.annotations),
        ..message::PodSandboxConfig::default()
    }
}

pub(super) fn sandbox(status: message::SandboxStatus) -> Sandbox {
    let metadata = status.metadata.unwrap_or_default();
    let ip = status.network.and_then(|network| network.ip.parse().ok());
    Sandbox {
        id: status.id,
        namespace: metadata.namespace,
        name: metadata.name,
        uid: metadata.uid,
        attempt: metadata.attempt,
        state: if status.state == 0 { SandboxState::Ready } else { SandboxState::NotReady },
        created_at: time(status.created_at).unwrap_or_default(),
        ips: ip.into_iter().collect(),
        netns: None,
        labels: status.labels.into_iter().collect(),
        annotations: status.annotations.into_iter().collect(),
    }
}

pub(super) fn container_config(
    config: &ContainerConfig,
    sandbox: &message::PodSandboxConfig,
) -> Result<message::ContainerConfig> {
    let mounts = config.mounts.iter().map(|mount| message::Mount {
        container_path: text(&mount.container_path),
        host_path: text(&mount.host_path),
        readonly: mount.read_only,
        propagation: match mount.propagation {
            Propagation::Private => 0,
            Propagation::HostToContainer => 1,
            Propagation::Bidirectional => 2,
        },
    });
    let devices = config.devices.iter().map(|device| message::Device {
        container_path: text(&device.container_path),
        host_path: text(&device.host_path),
        permissions: device.permissions.clone(),
    });
    if config.log_path.is_absolute() {
        let reason = "it must be relative to the sandbox's log folder".to_owned();
        return Err(RuntimeError::InvalidConfig { field: "log_path", reason });
    }
    let variables = config.env.iter();
    Ok(message::ContainerConfig {
        metadata: Some(message::ContainerMetadata { name: config.name.clone(), attempt: config.attempt }),
        image: Some(message::ImageSpec { image: config.image.clone() }),
        command: config.command.clone(),
        args: config.args.clone(),
        working_dir: config.working_dir.as_deref().map(text).unwrap_or_default(),
        envs: variables
            .map(|(key, value)| message::KeyValue { key: key.clone(), value: value.clone() })
            .collect(),
        mounts: mounts.collect(),
        devices: devices.collect(),
        labels: map(&config.labels),
        annotations: map(&config.annotations),
        log_path: text(&config.log_path),
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        tty: config.tty,
        linux: Some(message::LinuxContainer {
            resources: Some(resources(&config.resources)),
            security_context: Some(security(config, sandbox)),
        }),
    })
}

fn security(config: &ContainerConfig, sandbox: &message::PodSandboxConfig) -> message::ContainerSecurity {
    let wanted = &config.security;
    let number = |value: Option<i64>| value.map(|value| message::Int64Value { value });
    let of_sandbox = sandbox.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    message::ContainerSecurity {
        capabilities: Some(message::Capability {
            add_capabilities: wanted.capabilities_add.clone(),
            drop_capabilities: wanted.capabilities_drop.clone(),
        }),
        privileged: wanted.privileged,
        namespace_options: Some(
            of_sandbox.and_then(|it| it.namespace_options.clone()).unwrap_or(message::NamespaceOption {
                network: POD,
                pid: CONTAINER,
                ipc: POD,
            }),
        ),
        run_as_user: number(wanted.run_as_user),
        run_as_group: number(wanted.run_as_group),
        readonly_rootfs: wanted.read_only_root,
        supplemental_groups: wanted.supplemental_groups.clone(),
        no_new_privs: wanted.no_new_privileges,
    }
}

pub(super) fn resources(wanted: &Resources) -> message::LinuxResources {
    let shares = wanted.cpu_shares.and_then(|shares| i64::try_from(shares).ok());
    let period = wanted.cpu_period_us.and_then(|period| i64::try_from(period).ok());
    message::LinuxResources {
        cpu_period: period.unwrap_or_default(),
        cpu_quota: wanted.cpu_quota_us.unwrap_or_default(),
        cpu_shares: shares.unwrap_or_default(),
        memory_limit_in_bytes: wanted.memory_limit_bytes.unwrap_or_default(),
        oom_score_adj: wanted.oom_score_adj.unwrap_or_default().into(),
    }
}

/// `ContainerState`.
pub(super) fn state(state: i32) -> ContainerState {
    match state {
        0 => ContainerState::Created,
        1 => ContainerState::Running,
        2 => ContainerState::Exited,
        _ => ContainerState::Unknown,
    }
}

pub(super) fn container(status: message::ContainerStatus, sandbox: &str) -> Container {
    let metadata = status.metadata.unwrap_or_default();
    let state = state(status.state);
    let log = Some(status.log_path).filter(|path| !path.is_empty()).map(PathBuf::from);
    Container {
        id: status.id,
        sandbox: sandbox.to_owned(),
        name: metadata.name,
        attempt: metadata.attempt,
        state,
        pid: None,
        created_at: time(status.created_at).unwrap_or_default(),
        started_at: time(status.started_at),
        finished_at: time(status.finished_at),
        exit_code: (state == ContainerState::Exited).then_some(status.exit_code),
        reason: status.reason,
        message: status.message,
        image: status.image.unwrap_or_default().image,
        image_id: status.image_ref,
        log_path: log,
        labels: status.labels.into_iter().collect(),
        annotations: status.annotations.into_iter().collect(),
    }
}

pub(super) fn stats(stats: message::ContainerStats, at: DateTime<Utc>) -> Stats {
    let memory = stats.memory.unwrap_or_default();
    let number = |value: Option<message::UInt64Value>| value.map(|value| value.value).unwrap_or_default();
    Stats {
        cpu_nanoseconds: number(stats.cpu.and_then(|cpu| cpu.usage_core_nano_seconds)),
        memory_working_set_bytes: number(memory.working_set_bytes),
        memory_usage_bytes: number(memory.usage_bytes),
        at,
    }
}

pub(super) fn image(image: message::Image) -> Image {
    let user = image.uid.map(|uid| uid.value.to_string()).unwrap_or(image.username);
    Image { id: image.id, tags: image.repo_tags, digests: image.repo_digests, size_bytes: image.size, user }
}

/// Nanoseconds since 1970; zero is never.
fn time(nanoseconds: i64) -> Option<DateTime<Utc>> {
    (nanoseconds != 0).then(|| DateTime::from_timestamp_nanos(nanoseconds))
}
