//! What a node agent may say of a pod: conditions with good names, addresses of each family, containers that have ended
//! for good and stay so.

use api_types::names;
use api_types::status::FieldError;
use serde_json::Value;

use super::security_contexts::check_id;
use super::{Check, pod_annotations};
use crate::strategy::rules::{Errors, indexed, invalid_all, items, text};

pub(super) fn status(check: &Check<'_>, errors: &mut Errors) {
    let absent = Value::Null;
    let (new, old) = (&check.new["status"], check.old.map_or(&absent, |old| &old["status"]));
    if let Some(old) = check.old {
        pod_annotations::validate_change(check.new, old, errors);
    }
    check_conditions(new, errors);
    if let Some(node) = text(new, "nominatedNodeName").filter(|node| old["nominatedNodeName"] != *node) {
        invalid_all(names::check_dns_subdomain(node), "status.nominatedNodeName", node, errors);
    }
    if text(old, "qosClass").is_some() && old["qosClass"] != new["qosClass"] {
        errors.push(FieldError::immutable("status.qosClass", new["qosClass"].clone()));
    }
    let spec = &check.new["spec"];
    for list in ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"] {
        check_ended(new, old, spec, list, errors);
    }
    check_claims(new, spec, errors);
    if let Some(first) = items(&new["hostIPs"]).first()
        && first["ip"].as_str() != Some(new["hostIP"].as_str().unwrap_or_default())
    {
        let ip = first["ip"].clone();
        errors.push(FieldError::invalid("status.hostIPs[0].ip", ip, "must be equal to `hostIP`"));
    }
    for field in ["podIPs", "hostIPs"] {
        validate_addresses(new, field, errors);
    }
    check_users(new, spec, errors);
    check_health(new, spec, errors);
}

/// Whom processes of containers run as.
fn check_users(status: &Value, spec: &Value, errors: &mut Errors) {
    for (path, container) in STATUSES.iter().flat_map(|(list, _)| indexed(status, "status", list)) {
        let (user, path) = (&container["user"]["linux"], format!("{path}.linux"));
        match spec["os"]["name"].as_str() {
            Some("windows") if !user.is_null() => {
                errors.push(FieldError::forbidden(path, "cannot be set for a windows pod"));
            }
            None | Some("linux") => {
                for field in ["uid", "gid"] {
                    check_id(&user[field], &format!("{path}.{field}"), errors);
                }
                for (path, group) in indexed(user, &path, "supplementalGroups") {
                    check_id(group, &path, errors);
                }
            }
            _ => {}
        }
    }
}

/// Statuses of containers and where the containers stand.
const STATUSES: &[(&str, &str)] = &[
    ("containerStatuses", "containers"),
    ("initContainerStatuses", "initContainers"),
    ("ephemeralContainerStatuses", "ephemeralContainers"),
];

/// How the devices that a container was given are: of resources that it asks for, each device once.
fn check_health(status: &Value, spec: &Value, errors: &mut Errors) {
    for (list, sort) in STATUSES {
        for (path, own) in indexed(status, "status", list) {
            let at = format!("{path}.allocatedResourcesStatus");
            let given = items(&own["allocatedResourcesStatus"]);
            if *sort == "ephemeralContainers" && !given.is_empty() {
                errors.push(FieldError::forbidden(at, "must not be specified in container status"));
                continue;
            }
            let container = items(&spec[*sort]).iter().find(|container| container["name"] == own["name"]);
            for (index, resource) in given.iter().enumerate() {
                let at = format!("{at}[{index}]");
                let name = resource["name"].as_str().unwrap_or_default();
                if container.is_some_and(|container| !asks_for(container, name)) {
                    let why = "must match one of the container's resource requests or claims";
                    errors.push(FieldError::invalid(format!("{at}.name"), name, why));
                }
                check_devices(resource, &at, errors);
            }
        }
    }
}

fn asks_for(container: &Value, resource: &str) -> bool {
    let Some(claim) = resource.strip_prefix("claim:") else {
        return !container["resources"]["requests"][resource].is_null();
    };
    let (name, request) = claim.split_once('/').unwrap_or((claim, ""));
    let is_meant =
        |own: &Value| own["name"] == name && own["request"].as_str().unwrap_or_default() == request;
    items(&container["resources"]["claims"]).iter().any(is_meant)
}

fn check_devices(resource: &Value, path: &str, errors: &mut Errors) {
    const HEALTH: &[&str] = &["Healthy", "Unhealthy", "Unknown"];
    let all = items(&resource["resources"]);
    for (index, (path, device)) in indexed(resource, path, "resources").enumerate() {
        let health = device["health"].as_str().unwrap_or_default();
        if !HEALTH.contains(&health) {
            errors.push(FieldError::not_supported(format!("{path}.health"), health, HEALTH));
        }
        let id = &device["resourceID"];
        if all[..index].iter().any(|other| other["resourceID"] == *id) {
            errors.push(FieldError::duplicate(format!("{path}.resourceID"), id.clone()));
        }
    }
}

fn check_conditions(status: &Value, errors: &mut Errors) {
    // The path is the one that Kubernetes names.
    for (index, condition) in items(&status["conditions"]).iter().enumerate() {
        let kind = condition["type"].as_str().unwrap_or_default();
        if !matches!(kind, "PodScheduled" | "Ready" | "Initialized") {
            let path = format!("metadata.conditions[{index}].Type");
            invalid_all(names::check_label_key(kind), &path, kind, errors);
        }
    }
}

fn check_ended(new: &Value, old: &Value, spec: &Value, list: &str, errors: &mut Errors) {
    // A debugger never starts again.
    let policy = match list {
        "ephemeralContainerStatuses" => "Never",
        _ => spec["restartPolicy"].as_str().unwrap_or_default(),
    };
    if policy == "Always" {
        return;
    }
    let runs_along = |name: &Value| {
        list == "initContainerStatuses"
            && items(&spec["initContainers"])
                .iter()
                .any(|c| c["name"] == *name && c["restartPolicy"] == "Always")
    };
    for (index, before) in items(&old[list]).iter().enumerate() {
        let ended = &before["state"]["terminated"];
        let failed = ended["exitCode"].as_i64().unwrap_or_default() != 0;
        if !ended.is_object() || (failed && policy == "OnFailure") || runs_along(&before["name"]) {
            continue;
        }
        let again = |c: &&Value| c["name"] == before["name"] && !c["state"]["terminated"].is_object();
        if items(&new[list]).iter().any(|c| again(&c)) {
            let why = "may not be transitioned to non-terminated state";
            errors.push(FieldError::forbidden(format!("status.{list}[{index}].state"), why));
        }
    }
}

fn check_claims(status: &Value, spec: &Value, errors: &mut Errors) {
    let claims = items(&status["resourceClaimStatuses"]);
    for (index, claim) in claims.iter().enumerate() {
        let (name, path) = (&claim["name"], format!("status.resourceClaimStatuses[{index}].name"));
        if !items(&spec["resourceClaims"]).iter().any(|other| other["name"] == *name) {
            let why = "must match the name of an entry in `spec.resourceClaims`";
            errors.push(FieldError::invalid(&path, name.clone(), why));
        }
        if claims[..index].iter().any(|other| other["name"] == *name) {
            errors.push(FieldError::duplicate(&path, name.clone()));
        }
        if let Some(claim) = text(claim, "resourceClaimName") {
            invalid_all(names::check_dns_subdomain(claim), &path, claim, errors);
        }
    }
}

fn validate_addresses(status: &Value, field: &str, errors: &mut Errors) {
    let (mut families, mut seen) = (Vec::new(), Vec::new());
    for (path, entry) in indexed(status, "status", field) {
        let text = entry["ip"].as_str().unwrap_or_default();
        if seen.contains(&text) {
            errors.push(FieldError::duplicate(&path, entry.clone()));
        }
        seen.push(text);
        match text.parse::<std::net::IpAddr>() {
            Err(_) => errors.push(FieldError::invalid(path, text, super::addresses::NOT_AN_IP)),
            Ok(ip) => families.push(ip.is_ipv4()),
        }
    }
    if families.len() > 2
        || families.first().is_some_and(|first| families.iter().skip(1).any(|next| next == first))
    {
        let why = "may specify no more than one IP for each IP family";
        errors.push(FieldError::invalid(format!("status.{field}"), status[field].clone(), why));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::paths;
    use super::*;

    #[test]
    fn a_status_says_what_can_be() {
        let ended = |code: i64| json!({"containerStatuses": [{"name": "a", "state": {"terminated": {"exitCode": code}}}]});
        let again = json!({"containerStatuses": [{"name": "a", "state": {"running": {}}}]});
        for (policy, old, new, wrong) in [
            ("Always", ended(1), again.clone(), vec![]),
            ("OnFailure", ended(1), again.clone(), vec![]),
            ("OnFailure", ended(0), again.clone(), vec!["status.containerStatuses[0].state"]),
            ("Never", ended(1), again.clone(), vec!["status.containerStatuses[0].state"]),
            (
                "Never",
                json!({"qosClass": "Burstable"}),
                json!({"qosClass": "BestEffort"}),
                vec!["status.qosClass"],
            ),
            (
                "Never",
                json!({}),
                json!({"conditions": [{"type": "a b"}, {"type": "Ready"}]}),
                vec!["metadata.conditions[0].Type"],
            ),
            ("Never", json!({}), json!({"nominatedNodeName": "A"}), vec!["status.nominatedNodeName"]),
            ("Never", json!({}), json!({"podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}), vec![]),
            ("Never", json!({}), json!({"podIPs": [{"ip": "x"}]}), vec!["status.podIPs[0]"]),
            (
                "Never",
                json!({}),
                json!({"podIPs": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}]}),
                vec!["status.podIPs"],
            ),
            ("Never", json!({}), json!({"hostIPs": [{"ip": "10.0.0.1"}]}), vec!["status.hostIPs[0].ip"]),
            (
                "Never",
                json!({}),
                json!({"containerStatuses": [{"name": "a", "user": {"linux": {"uid": -1, "gid": 0}}}]}),
                vec!["status.containerStatuses[0].linux.uid"],
            ),
            (
                "Never",
                json!({}),
                json!({"containerStatuses": [{"name": "a", "allocatedResourcesStatus": [{"name": "r", "resources": [
                    {"resourceID": "1", "health": "Healthy"}, {"resourceID": "1", "health": "Odd"}]}]}]}),
                vec![
                    "status.containerStatuses[0].allocatedResourcesStatus[0].resources[1].health",
                    "status.containerStatuses[0].allocatedResourcesStatus[0].resources[1].resourceID",
                ],
            ),
            (
                "Never",
                json!({}),
                json!({"resourceClaimStatuses": [{"name": "c"}]}),
                vec!["status.resourceClaimStatuses[0].name"],
            ),
        ] {
            let pod = |status: &Value| json!({"spec": {"restartPolicy": policy}, "status": status});
            assert_eq!(
                paths("", "pods", "status", &pod(&new), Some(&pod(&old))),
                wrong,
                "{policy} {old} {new}"
            );
        }
    }
}
