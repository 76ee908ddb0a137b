//! The environment of a container: `env`, `envFrom`, services, and `$(VAR)` in values, command and args.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVar, Pod, Secret, Service};
use kube::{Api, Client};

use crate::downward::{self, Facts};

/// Why a container's environment cannot be made; the pod waits with `CreateContainerConfigError`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnvError {
    #[error("{kind} {name:?} not found")]
    Missing { kind: &'static str, name: String },
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    MissingKey { kind: &'static str, namespace: String, name: String, key: String },
    #[error("unsupported field path {path:?}")]
    Field { path: String },
    #[error("cannot read {kind} {name:?}: {source}")]
    Read {
        kind: &'static str,
        name: String,
        #[source]
        source: Box<kube::Error>,
    },
}

/// The objects that a container's environment refers to; what does not exist is absent.
#[derive(Default)]
pub(crate) struct Sources {
    pub(crate) config_maps: BTreeMap<String, ConfigMap>,
    pub(crate) secrets: BTreeMap<String, Secret>,
    pub(crate) services: Vec<Service>,
}

impl Sources {
    /// Reads what `container` refers to.
    pub(crate) async fn read(
        client: &Client,
        namespace: &str,
        container: &Container,
    ) -> Result<Self, EnvError> {
        let (config_maps, secrets) = referenced(container);
        let mut sources = Self::default();
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        for name in config_maps {
            let found = api.get_opt(&name).await.map_err(|source| read_error("configmap", &name, source))?;
            sources.config_maps.extend(found.map(|it| (name, it)));
        }
        let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
        for name in secrets {
            let found = api.get_opt(&name).await.map_err(|source| read_error("secret", &name, source))?;
            sources.secrets.extend(found.map(|it| (name, it)));
        }
        Ok(sources)
    }

    fn entries(&self, kind: &'static str, name: &str) -> Option<BTreeMap<String, String>> {
        if kind == "configmap" {
            return Some(self.config_maps.get(name)?.data.clone().unwrap_or_default());
        }
        let data = self.secrets.get(name)?.data.clone().unwrap_or_default();
        Some(
            data.into_iter()
                .map(|(key, bytes)| (key, String::from_utf8_lossy(&bytes.0).into_owned()))
                .collect(),
        )
    }
}

fn read_error(kind: &'static str, name: &str, source: kube::Error) -> EnvError {
    EnvError::Read { kind, name: name.to_owned(), source: Box::new(source) }
}

fn referenced(container: &Container) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut config_maps, mut secrets) = (BTreeSet::new(), BTreeSet::new());
    for from in container.env_from.iter().flatten() {
        config_maps.extend(from.config_map_ref.as_ref().map(|it| it.name.clone()));
        secrets.extend(from.secret_ref.as_ref().map(|it| it.name.clone()));
    }
    for from in container.env.iter().flatten().filter_map(|it| it.value_from.as_ref()) {
        config_maps.extend(from.config_map_key_ref.as_ref().map(|it| it.name.clone()));
        secrets.extend(from.secret_key_ref.as_ref().map(|it| it.name.clone()));
    }
    (config_maps, secrets)
}

/// All variables of `container`, in order: services, `envFrom`, `env`.
pub(crate) fn resolve(
    pod: &Pod,
    container: &Container,
    facts: &Facts,
    sources: &Sources,
) -> Result<Vec<(String, String)>, EnvError> {
    let mut known: BTreeMap<String, String> = service_variables(&sources.services).into_iter().collect();
    let mut ordered: Vec<String> = known.keys().cloned().collect();
    let mut set = |known: &mut BTreeMap<String, String>, name: String, value: String| {
        if known.insert(name.clone(), value).is_none() {
            ordered.push(name);
        }
    };
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let (kind, name, optional) = match (&from.config_map_ref, &from.secret_ref) {
            (Some(it), _) => ("configmap", &it.name, it.optional),
            (None, Some(it)) => ("secret", &it.name, it.optional),
            (None, None) => continue,
        };
        match sources.entries(kind, name) {
            Some(entries) => {
                entries.into_iter().for_each(|(key, value)| set(&mut known, format!("{prefix}{key}"), value));
            }
            None if optional == Some(true) => {}
            None => return Err(EnvError::Missing { kind, name: name.clone() }),
        }
    }
    for variable in container.env.iter().flatten() {
        if let Some(value) = value_of(pod, container, variable, facts, sources, &known)? {
            set(&mut known, variable.name.clone(), value);
        }
    }
    Ok(ordered.into_iter().map(|name| (name.clone(), known.remove(&name).unwrap_or_default())).collect())
}

fn value_of(
    pod: &Pod,
    container: &Container,
    variable: &EnvVar,
    facts: &Facts,
    sources: &Sources,
    known: &BTreeMap<String, String>,
) -> Result<Option<String>, EnvError> {
    let Some(from) = &variable.value_from else {
        return Ok(Some(expand(variable.value.as_deref().unwrap_or_default(), known)));
    };
    if let Some(wanted) = &from.field_ref {
        let value = downward::field(pod, &wanted.field_path, facts);
        return value.map(Some).ok_or_else(|| EnvError::Field { path: wanted.field_path.clone() });
    }
    if let Some(wanted) = &from.resource_field_ref {
        let value = downward::resource(pod, &container.name, wanted, facts);
        return value.map(Some).ok_or_else(|| EnvError::Field { path: wanted.resource.clone() });
    }
    let (kind, name, key, optional) = match (&from.config_map_key_ref, &from.secret_key_ref) {
        (Some(it), _) => ("configmap", &it.name, &it.key, it.optional == Some(true)),
        (None, Some(it)) => ("secret", &it.name, &it.key, it.optional == Some(true)),
        (None, None) => return Ok(Some(String::new())),
    };
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    match (sources.entries(kind, name), optional) {
        (Some(mut entries), _) if entries.contains_key(key) => Ok(entries.remove(key)),
        (_, true) => Ok(None),
        (Some(_), false) => {
            Err(EnvError::MissingKey { kind, namespace, name: name.clone(), key: key.clone() })
        }
        (None, false) => Err(EnvError::Missing { kind, name: name.clone() }),
    }
}

/// Replaces `$(NAME)` by what is known; unknown names stay as written, `$$` is `$`.
pub(crate) fn expand(text: &str, known: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
            continue;
        }
        let inner = after.strip_prefix('(').and_then(|it| it.split_once(')'));
        match inner {
            Some((name, tail)) => {
                match known.get(name) {
                    Some(value) => out.push_str(value),
                    None => out.push_str(&format!("$({name})")),
                }
                rest = tail;
            }
            None => {
                out.push('$');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

/// `NAME_SERVICE_HOST`, `NAME_SERVICE_PORT` and the variables of Docker links, for services with an address.
fn service_variables(services: &[Service]) -> Vec<(String, String)> {
    let mut variables = Vec::new();
    for service in services {
        let Some(spec) = &service.spec else { continue };
        let host = spec.cluster_ip.clone().filter(|ip| !ip.is_empty() && ip != "None");
        let ports = spec.ports.clone().unwrap_or_default();
        let (Some(host), Some(first)) = (host, ports.first()) else { continue };
        let name = variable_name(service.metadata.name.as_deref().unwrap_or_default());
        variables.push((format!("{name}_SERVICE_HOST"), host.clone()));
        variables.push((format!("{name}_SERVICE_PORT"), first.port.to_string()));
        for port in &ports {
            if let Some(port_name) = port.name.as_deref().filter(|it| !it.is_empty()) {
                let key = format!("{name}_SERVICE_PORT_{}", variable_name(port_name));
                variables.push((key, port.port.to_string()));
            }
        }
        let url = |protocol: &str, port: i32| format!("{protocol}://{host}:{port}");
        let protocol = |it: &Option<String>| it.as_deref().unwrap_or("TCP").to_lowercase();
        variables.push((format!("{name}_PORT"), url(&protocol(&first.protocol), first.port)));
        for port in &ports {
            let low = protocol(&port.protocol);
            let link = format!("{name}_PORT_{}_{}", port.port, low.to_uppercase());
            variables.push((link.clone(), url(&low, port.port)));
            variables.push((format!("{link}_PROTO"), low));
            variables.push((format!("{link}_PORT"), port.port.to_string()));
            variables.push((format!("{link}_ADDR"), host.clone()));
        }
    }
    variables
}

fn variable_name(name: &str) -> String {
    name.to_uppercase().replace(['-', '.'], "_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn container(value: serde_json::Value) -> Container {
        serde_json::from_value(value).unwrap()
    }

    fn pod() -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns"}})).unwrap()
    }

    fn sources() -> Sources {
        let map: ConfigMap = serde_json::from_value(json!({"data": {"colour": "red"}})).unwrap();
        let secret: Secret = serde_json::from_value(json!({"data": {"key": "aGlkZGVu"}})).unwrap();
        Sources {
            config_maps: [("m".to_owned(), map)].into(),
            secrets: [("s".to_owned(), secret)].into(),
            services: Vec::new(),
        }
    }

    fn resolved(spec: serde_json::Value) -> Result<Vec<(String, String)>, String> {
        resolve(&pod(), &container(spec), &Facts::default(), &sources()).map_err(|error| error.to_string())
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn values_see_the_variables_before_them() {
        let env = json!([{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)$(C)$$(A)"}]);
        assert_eq!(
            resolved(json!({"name": "c", "env": env})).unwrap(),
            [pair("A", "1"), pair("B", "1$(C)$(A)")]
        );
    }

    #[test]
    fn env_from_takes_a_prefix_and_env_wins() {
        let spec = json!({"name": "c",
            "envFrom": [{"prefix": "X_", "configMapRef": {"name": "m"}}, {"secretRef": {"name": "s"}}],
            "env": [{"name": "X_colour", "value": "blue"}]});
        assert_eq!(resolved(spec).unwrap(), [pair("X_colour", "blue"), pair("key", "hidden")]);
    }

    #[test]
    fn missing_key_names_key_and_object() {
        let from = json!({"configMapKeyRef": {"name": "m", "key": "size"}});
        let spec = json!({"name": "c", "env": [{"name": "A", "valueFrom": from}]});
        assert_eq!(resolved(spec).unwrap_err(), "couldn't find key size in configmap ns/m");
    }

    #[test]
    fn optional_reference_to_nothing_sets_nothing() {
        let from = json!({"secretKeyRef": {"name": "none", "key": "k", "optional": true}});
        let spec = json!({"name": "c", "env": [{"name": "A", "valueFrom": from}]});
        assert_eq!(resolved(spec).unwrap(), []);
    }

    #[test]
    fn missing_secret_is_named() {
        let spec = json!({"name": "c", "envFrom": [{"secretRef": {"name": "none"}}]});
        assert_eq!(resolved(spec).unwrap_err(), "secret \"none\" not found");
    }

    #[test]
    fn services_give_host_and_port() {
        let service = json!({"metadata": {"name": "my-db"},
            "spec": {"clusterIP": "10.0.0.9", "ports": [{"port": 5432, "name": "sql"}]}});
        let given = service_variables(&[serde_json::from_value(service).unwrap()]);
        assert_eq!(given[0], pair("MY_DB_SERVICE_HOST", "10.0.0.9"));
        assert_eq!(given[1], pair("MY_DB_SERVICE_PORT", "5432"));
        assert!(given.contains(&pair("MY_DB_PORT", "tcp://10.0.0.9:5432")));
    }
}
