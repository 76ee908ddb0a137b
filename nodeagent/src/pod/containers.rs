//! From a pod's object to what the runtime is told: sandbox and container configurations. Pure.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, SecurityContext, VolumeMount};

use super::plan;
use super::qos::{self, Qos};
use crate::env;
use crate::network;
use crate::runtime::{
    ContainerConfig, DnsConfig, Mount, NetworkMode, PortMapping, Propagation, Protocol, SandboxConfig,
    Security, labels,
};

/// Why a container cannot be configured; the pod waits with `CreateContainerConfigError`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum ConfigError {
    #[error("volume mount {mount:?} names no volume of the pod")]
    NoVolume { mount: String },
    #[error("subPath {path:?} must be relative and without \"..\"")]
    SubPath { path: String },
    #[error("container has runAsNonRoot and image will run as root")]
    RunsAsRoot,
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root"
    )]
    NamedUser { user: String },
}

/// Where a pod's things are on the node's disk.
#[derive(Clone, Debug)]
pub(crate) struct Folders {
    pub(crate) root: PathBuf,
}

impl Folders {
    pub(crate) fn pod(&self, uid: &str) -> PathBuf {
        self.root.join("pods").join(uid)
    }

    pub(crate) fn logs(&self, pod: &Pod) -> PathBuf {
        let meta = &pod.metadata;
        let text = |it: &Option<String>| it.clone().unwrap_or_default();
        self.root.join("logs").join(format!(
            "{}_{}_{}",
            text(&meta.namespace),
            text(&meta.name),
            text(&meta.uid)
        ))
    }

    pub(crate) fn termination_log(&self, uid: &str, container: &str, attempt: u32) -> PathBuf {
        self.pod(uid).join("containers").join(container).join(format!("{attempt}.message"))
    }
}

fn pod_labels(pod: &Pod) -> BTreeMap<String, String> {
    let meta = &pod.metadata;
    let mut all = meta.labels.clone().unwrap_or_default();
    all.extend([
        (labels::POD_NAME.to_owned(), meta.name.clone().unwrap_or_default()),
        (labels::POD_NAMESPACE.to_owned(), meta.namespace.clone().unwrap_or_default()),
        (labels::POD_UID.to_owned(), meta.uid.clone().unwrap_or_default()),
    ]);
    all
}

/// The sandbox of `pod`.
pub(crate) fn sandbox_config(
    pod: &Pod,
    attempt: u32,
    folders: &Folders,
    network: NetworkMode,
    dns: DnsConfig,
) -> SandboxConfig {
    let none = PodSpec::default();
    let (meta, spec) = (&pod.metadata, pod.spec.as_ref().unwrap_or(&none));
    let uid = meta.uid.clone().unwrap_or_default();
    let on_host = network == NetworkMode::Host;
    let sysctls = spec.security_context.iter().flat_map(|it| it.sysctls.iter().flatten());
    SandboxConfig {
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        uid: uid.clone(),
        attempt,
        hostname: if on_host { String::new() } else { network::hostname(pod) },
        dns,
        labels: pod_labels(pod),
        annotations: meta.annotations.clone().unwrap_or_default(),
        network,
        host_pid: spec.host_pid == Some(true),
        host_ipc: spec.host_ipc == Some(true),
        share_process_namespace: spec.share_process_namespace == Some(true),
        log_dir: folders.logs(pod),
        port_mappings: if on_host { Vec::new() } else { port_mappings(spec) },
        cgroup_parent: Qos::of(spec).cgroup_parent(&uid),
        sysctls: sysctls.map(|it| (it.name.clone(), it.value.clone())).collect(),
        resources: qos::pod_resources(spec),
    }
}

fn port_mappings(spec: &PodSpec) -> Vec<PortMapping> {
    let ports = spec.containers.iter().flat_map(|it| it.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let number = |it: i32| u16::try_from(it).ok().filter(|it| *it > 0);
            Some(PortMapping {
                protocol: match port.protocol.as_deref() {
                    Some("UDP") => Protocol::Udp,
                    Some("SCTP") => Protocol::Sctp,
                    _ => Protocol::Tcp,
                },
                container_port: number(port.container_port)?,
                host_port: number(port.host_port?)?,
                host_ip: port.host_ip.as_deref().and_then(|ip| ip.parse().ok()),
            })
        })
        .collect()
}

/// What the worker has found out for one start of a container.
pub(crate) struct Prepared<'a> {
    pub(crate) attempt: u32,
    /// What `pull_image` returned.
    pub(crate) image: &'a str,
    /// The image's `USER`.
    pub(crate) image_user: &'a str,
    pub(crate) env: Vec<(String, String)>,
    /// Host folders of the pod's volumes by name.
    pub(crate) volumes: &'a BTreeMap<String, PathBuf>,
    /// Files that every container of the pod gets: `/etc/hosts`, the termination log.
    pub(crate) extra_mounts: Vec<Mount>,
    pub(crate) node_memory: u64,
}

/// The configuration of `container` for one start.
pub(crate) fn container_config(
    pod: &Pod,
    container: &Container,
    prepared: Prepared<'_>,
) -> Result<ContainerConfig, ConfigError> {
    let none = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&none);
    let known: BTreeMap<String, String> = prepared.env.iter().cloned().collect();
    let expanded = |texts: &Option<Vec<String>>| -> Vec<String> {
        texts.iter().flatten().map(|text| env::expand(text, &known)).collect()
    };
    let mut labels = pod_labels(pod);
    labels.insert(labels::CONTAINER_NAME.to_owned(), container.name.clone());
    labels.insert(labels::CONTAINER_ROLE.to_owned(), role(spec, container).to_owned());
    let security = security(spec, container);
    check_non_root(spec, container, &security, prepared.image_user)?;
    let mut mounts = prepared.extra_mounts;
    for mount in container.volume_mounts.iter().flatten() {
        mounts.push(volume_mount(mount, prepared.volumes, &known)?);
    }
    Ok(ContainerConfig {
        name: container.name.clone(),
        attempt: prepared.attempt,
        image: prepared.image.to_owned(),
        command: expanded(&container.command),
        args: expanded(&container.args),
        working_dir: container.working_dir.as_ref().filter(|it| !it.is_empty()).map(PathBuf::from),
        env: prepared.env,
        mounts,
        devices: Vec::new(),
        resources: qos::container_resources(spec, container, prepared.node_memory),
        security,
        log_path: PathBuf::from(&container.name).join(format!("{}.log", prepared.attempt)),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        labels,
        annotations: BTreeMap::new(),
    })
}

fn role(spec: &PodSpec, container: &Container) -> &'static str {
    match plan::init_containers(spec).iter().any(|it| it.name == container.name) {
        true if plan::is_sidecar(container) => labels::ROLE_SIDECAR,
        true => labels::ROLE_INIT,
        false => labels::ROLE_MAIN,
    }
}

fn volume_mount(
    mount: &VolumeMount,
    volumes: &BTreeMap<String, PathBuf>,
    known: &BTreeMap<String, String>,
) -> Result<Mount, ConfigError> {
    let no_volume = || ConfigError::NoVolume { mount: mount.name.clone() };
    let mut host_path = volumes.get(&mount.name).ok_or_else(no_volume)?.clone();
    let expanded = mount.sub_path_expr.as_ref().map(|it| env::expand(it, known));
    let sub_path = expanded.or_else(|| mount.sub_path.clone()).unwrap_or_default();
    if !Path::new(&sub_path).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
    {
        return Err(ConfigError::SubPath { path: sub_path });
    }
    if !sub_path.is_empty() {
        host_path.push(sub_path);
    }
    Ok(Mount {
        host_path,
        container_path: PathBuf::from(&mount.mount_path),
        read_only: mount.read_only == Some(true),
        propagation: match mount.mount_propagation.as_deref() {
            Some("HostToContainer") => Propagation::HostToContainer,
            Some("Bidirectional") => Propagation::Bidirectional,
            _ => Propagation::Private,
        },
    })
}

fn security(spec: &PodSpec, container: &Container) -> Security {
    let none = SecurityContext::default();
    let own = container.security_context.as_ref().unwrap_or(&none);
    let pod = spec.security_context.as_ref();
    let groups =
        pod.into_iter().flat_map(|it| it.supplemental_groups.iter().flatten().chain(it.fs_group.iter()));
    let capabilities = own.capabilities.as_ref();
    let plain = |names: Option<&Vec<String>>| -> Vec<String> {
        names.into_iter().flatten().map(|it| it.trim_start_matches("CAP_").to_owned()).collect()
    };
    Security {
        run_as_user: own.run_as_user.or_else(|| pod?.run_as_user),
        run_as_group: own.run_as_group.or_else(|| pod?.run_as_group),
        supplemental_groups: groups.copied().collect(),
        capabilities_add: plain(capabilities.and_then(|it| it.add.as_ref())),
        capabilities_drop: plain(capabilities.and_then(|it| it.drop.as_ref())),
        privileged: own.privileged == Some(true),
        read_only_root: own.read_only_root_filesystem == Some(true),
        no_new_privileges: own.allow_privilege_escalation == Some(false),
    }
}

fn check_non_root(
    spec: &PodSpec,
    container: &Container,
    security: &Security,
    image_user: &str,
) -> Result<(), ConfigError> {
    let own = container.security_context.as_ref().and_then(|it| it.run_as_non_root);
    let wanted = own.or_else(|| spec.security_context.as_ref()?.run_as_non_root);
    let image_user = image_user.split(':').next().unwrap_or_default();
    match (wanted == Some(true), security.run_as_user, image_user.parse::<i64>()) {
        (false, _, _) => Ok(()),
        (true, Some(0), _) | (true, None, Ok(0)) => Err(ConfigError::RunsAsRoot),
        (true, Some(_), _) | (true, None, Ok(_)) => Ok(()),
        (true, None, Err(_)) if image_user.is_empty() || image_user == "root" => Err(ConfigError::RunsAsRoot),
        (true, None, Err(_)) => Err(ConfigError::NamedUser { user: image_user.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn config(container: Value, user: &str) -> Result<ContainerConfig, ConfigError> {
        let pod = json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "spec": {"containers": [container]}});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let volumes = BTreeMap::from([("data".to_owned(), PathBuf::from("/v/data"))]);
        let prepared = Prepared {
            attempt: 2,
            image: "i",
            image_user: user,
            env: vec![("A".into(), "1".into())],
            volumes: &volumes,
            extra_mounts: Vec::new(),
            node_memory: 0,
        };
        container_config(&pod, &pod.spec.as_ref().unwrap().containers[0], prepared)
    }

    #[test]
    fn arguments_are_expanded() {
        assert_eq!(config(json!({"name": "c", "args": ["$(A)", "$(B)"]}), "").unwrap().args, ["1", "$(B)"]);
    }

    #[test]
    fn runtime_is_told_what_a_container_is() {
        let inits = json!([{"name": "a"}, {"name": "b", "restartPolicy": "Always"}]);
        let spec = json!({"initContainers": inits, "containers": [{"name": "c"}]});
        let spec: PodSpec = serde_json::from_value(spec).unwrap();
        let all = plan::init_containers(&spec).iter().chain(&spec.containers);
        let roles: Vec<&str> = all.map(|it| role(&spec, it)).collect();
        assert_eq!(roles, [labels::ROLE_INIT, labels::ROLE_SIDECAR, labels::ROLE_MAIN]);
    }

    #[test]
    fn log_path_names_container_and_attempt() {
        assert_eq!(config(json!({"name": "c"}), "").unwrap().log_path, PathBuf::from("c/2.log"));
    }

    #[test]
    fn mount_of_an_unknown_volume_is_refused() {
        let mounts = json!([{"name": "nope", "mountPath": "/x"}]);
        let error = config(json!({"name": "c", "volumeMounts": mounts}), "").unwrap_err();
        assert_eq!(error, ConfigError::NoVolume { mount: "nope".into() });
    }

    #[test]
    fn sub_path_stays_in_its_volume() {
        let mounts = |sub: &str| json!([{"name": "data", "mountPath": "/x", "subPath": sub}]);
        let inside = config(json!({"name": "c", "volumeMounts": mounts("a/b")}), "").unwrap();
        assert_eq!(inside.mounts[0].host_path, PathBuf::from("/v/data/a/b"));
        for sub in ["../x", "/etc", "a/../../x"] {
            assert!(config(json!({"name": "c", "volumeMounts": mounts(sub)}), "").is_err(), "{sub}");
        }
    }

    #[test]
    fn non_root_refuses_what_may_be_root() {
        let container = json!({"name": "c", "securityContext": {"runAsNonRoot": true}});
        assert_eq!(config(container.clone(), "").unwrap_err(), ConfigError::RunsAsRoot);
        assert_eq!(
            config(container.clone(), "web").unwrap_err(),
            ConfigError::NamedUser { user: "web".into() }
        );
        assert!(config(container, "1000:1000").is_ok());
    }
}
