//! What a pod may know of itself: fields and resources for environment variables and files.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::pod::qos::value;

/// What a pod learns from its node rather than from its object.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) pod_ips: Vec<String>,
    pub(crate) host_ips: Vec<String>,
    /// Stands in for limits that are not set.
    pub(crate) allocatable: BTreeMap<String, Quantity>,
}

/// The value of a `fieldRef`; `None` if there is no such field.
pub(crate) fn field(pod: &Pod, path: &str, facts: &Facts) -> Option<String> {
    let meta = &pod.metadata;
    if let Some((map, key)) = path.strip_suffix("']").and_then(|it| it.split_once("['")) {
        let map = match map {
            "metadata.labels" => &meta.labels,
            "metadata.annotations" => &meta.annotations,
            _ => return None,
        };
        return Some(map.as_ref().and_then(|it| it.get(key)).cloned().unwrap_or_default());
    }
    let spec = pod.spec.as_ref();
    let text = |value: Option<&String>| Some(value.cloned().unwrap_or_default());
    match path {
        "metadata.name" => text(meta.name.as_ref()),
        "metadata.namespace" => text(meta.namespace.as_ref()),
        "metadata.uid" => text(meta.uid.as_ref()),
        "metadata.labels" => Some(lines(meta.labels.as_ref())),
        "metadata.annotations" => Some(lines(meta.annotations.as_ref())),
        "spec.nodeName" => text(spec.and_then(|it| it.node_name.as_ref())),
        "spec.serviceAccountName" => text(spec.and_then(|it| it.service_account_name.as_ref())),
        "status.podIP" => text(facts.pod_ips.first()),
        "status.podIPs" => Some(facts.pod_ips.join(",")),
        "status.hostIP" => text(facts.host_ips.first()),
        "status.hostIPs" => Some(facts.host_ips.join(",")),
        _ => None,
    }
}

fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> =
        map.into_iter().flatten().map(|(key, value)| format!("{key}={value:?}")).collect();
    lines.join("\n")
}

/// The value of a `resourceFieldRef`, in units of its divisor, rounded up. `container` is used if the
/// reference names none.
pub(crate) fn resource(
    pod: &Pod,
    container: &str,
    wanted: &ResourceFieldSelector,
    facts: &Facts,
) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let name = wanted.container_name.as_deref().filter(|it| !it.is_empty()).unwrap_or(container);
    let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let container = all.into_iter().find(|it| it.name == name)?;
    let resources = container.resources.as_ref();
    let (side, what) = wanted.resource.split_once('.')?;
    let amount = match side {
        "limits" => {
            resources.and_then(|it| it.limits.as_ref()?.get(what)).or_else(|| facts.allocatable.get(what))
        }
        "requests" => resources.and_then(|it| it.requests.as_ref()?.get(what)),
        _ => return None,
    };
    let divisor = wanted.divisor.as_ref().map(value).filter(|it| *it > 0.0).unwrap_or(1.0);
    let units = (amount.map_or(0.0, value) / divisor).ceil();
    Some(format!("{units:.0}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "namespace": "ns", "labels": {"a": "1", "b": "2"}},
            "spec": {"nodeName": "n", "containers": [
                {"name": "app", "resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}}}
            ]},
        }))
        .unwrap()
    }

    #[test]
    fn fields_and_map_entries_are_found() {
        let facts = Facts { pod_ips: vec!["10.0.0.1".into()], ..Facts::default() };
        assert_eq!(field(&pod(), "metadata.name", &facts).unwrap(), "p");
        assert_eq!(field(&pod(), "metadata.labels['b']", &facts).unwrap(), "2");
        assert_eq!(field(&pod(), "metadata.labels", &facts).unwrap(), "a=\"1\"\nb=\"2\"");
        assert_eq!(field(&pod(), "status.podIP", &facts).unwrap(), "10.0.0.1");
        assert_eq!(field(&pod(), "spec.nope", &facts), None);
    }

    #[test]
    fn resources_are_rounded_up_to_their_divisor() {
        let wanted = |resource: &str, divisor: &str| ResourceFieldSelector {
            resource: resource.to_owned(),
            divisor: Some(Quantity(divisor.to_owned())),
            container_name: None,
        };
        let facts = Facts::default();
        assert_eq!(resource(&pod(), "app", &wanted("limits.cpu", "1"), &facts).unwrap(), "2");
        assert_eq!(resource(&pod(), "app", &wanted("limits.memory", "1Mi"), &facts).unwrap(), "64");
    }
}
