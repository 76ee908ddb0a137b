//! Services: cluster addresses and node ports, and what goes when the type changes.

mod families;
mod ports;

use std::collections::BTreeSet;
use std::net::IpAddr;

use api_types::status::{FieldError, Status};
use serde_json::{Value, json};

use super::metadata::NameRule;
use super::rules::{Errors, items, text};
use super::validation::is_same;
use super::{Context, Strategy, isolate};
use crate::service_ip::{Claim, ServiceAddresses, objects, ports_of};
use crate::view::View;

pub(super) struct Services;

impl Strategy for Services {
    fn prepare_for_create(&self, context: &Context<'_>, new: &mut Value) {
        isolate::for_create(context.kind, new);
        new["status"] = json!({"loadBalancer": {}});
        if new["spec"].is_object() {
            agree_on_addresses(&mut new["spec"], None);
        }
    }

    fn default(&self, new: &mut Value) {
        if new["spec"]["type"] != "LoadBalancer" {
            return;
        }
        let points = new.pointer_mut("/status/loadBalancer/ingress").and_then(Value::as_array_mut);
        for point in points.into_iter().flatten() {
            if point["ip"].as_str().is_some_and(|ip| !ip.is_empty()) && point["ipMode"].is_null() {
                point["ipMode"] = json!("VIP");
            }
        }
    }

    fn prepare_for_update(&self, context: &Context<'_>, new: &mut Value, old: &Value) {
        isolate::for_update(context.kind, context.subresource, new, old);
        if context.subresource.is_empty() {
            keep_assigned(new, old);
            if new["spec"].is_object() {
                agree_on_addresses(&mut new["spec"], Some(&old["spec"]));
            }
            drop_of_type(new, old);
        }
    }

    fn assign(&self, context: &Context<'_>, new: &mut Value, old: Option<&Value>) -> Result<Claim, Status> {
        let mut claim = context.services.claim();
        if !context.subresource.is_empty() || !new["spec"].is_object() {
            return Ok(claim);
        }
        let name = new["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let invalid = |errors: Errors| Status::invalid(context.kind, &name, errors);
        let family = if context.services.cidr().is_ipv4() { "IPv4" } else { "IPv6" };
        let was = old.map(|old| &old["spec"]);
        let errors = families::settle(&mut new["spec"], was, family);
        if !errors.is_empty() {
            return Err(invalid(errors));
        }
        if has_address(&new["spec"]) && !was.is_some_and(has_address) {
            assign_address(&mut claim, context.view, &mut new["spec"]).map_err(invalid)?;
        }
        ports::assign(&mut claim, new, old).map_err(invalid)?;
        if let Some(old) = old {
            let ports = ports_of(new);
            claim.free_later(ports_of(old).into_iter().filter(|p| !ports.contains(p)).collect());
        }
        Ok(claim)
    }

    fn release(&self, services: &ServiceAddresses, gone: &Value) {
        services.release(gone);
    }

    fn companions(&self, object: &Value) -> Vec<Value> {
        objects::of_service(object)
    }

    fn name_rule(&self) -> NameRule {
        NameRule::Label
    }
}

/// What the server gave and the client left out stays.
fn keep_assigned(new: &mut Value, old: &Value) {
    if !new["spec"].is_object() {
        return;
    }
    let (was, spec) = (&old["spec"], &mut new["spec"]);
    if has_address(was) && has_address(spec) {
        if text(spec, "clusterIP").is_none() && !was["clusterIP"].is_null() {
            spec["clusterIP"] = was["clusterIP"].clone();
        }
        if items(&spec["clusterIPs"]).is_empty() && spec["clusterIP"] == was["clusterIP"] {
            spec["clusterIPs"] = was["clusterIPs"].clone();
        }
    }
    if ports::needed(was) && ports::needed(spec) {
        keep_ports(spec, was);
    }
    let is_unchecked = spec["healthCheckNodePort"].as_i64().unwrap_or(0) == 0;
    if ports::needs_check(was) && ports::needs_check(spec) && is_unchecked {
        spec["healthCheckNodePort"] = was["healthCheckNodePort"].clone();
    }
}

/// A port is known by its name, whatever else of it changed.
fn keep_ports(spec: &mut Value, was: &Value) {
    let numbers = |spec: &Value| items(&spec["ports"]).iter().map(ports::number).collect::<BTreeSet<_>>();
    let used: BTreeSet<i64> = numbers(spec).intersection(&numbers(was)).copied().collect();
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let same = |old: &&Value| text(old, "name") == text(port, "name");
        let before = items(&was["ports"]).iter().rfind(same).map_or(0, ports::number);
        if ports::number(port) == 0 && before != 0 && !used.contains(&before) {
            port["nodePort"] = json!(before);
        }
    }
}

/// The one address and the list that it is the first of: who says only the one means the list too.
fn agree_on_addresses(spec: &mut Value, was: Option<&Value>) {
    let is_repeated = match was {
        None => items(&spec["clusterIPs"]).is_empty(),
        Some(was) => {
            is_same(&was["clusterIPs"], &spec["clusterIPs"])
                && !is_same(&was["clusterIP"], &spec["clusterIP"])
        }
    };
    match text(spec, "clusterIP").map(str::to_owned) {
        Some(address) if is_repeated => spec["clusterIPs"] = json!([address]),
        None if is_repeated && was.is_some() => drop_fields(spec, &["clusterIP", "clusterIPs"]),
        _ => {}
    }
}

fn has_address(spec: &Value) -> bool {
    spec["type"] != "ExternalName"
}

/// Whether clients outside the cluster may reach the service.
fn is_external(spec: &Value) -> bool {
    ports::needed(spec) || (spec["type"] == "ClusterIP" && !items(&spec["externalIPs"]).is_empty())
}

fn drop_fields(spec: &mut Value, fields: &[&str]) {
    let Some(spec) = spec.as_object_mut() else { return };
    fields.iter().for_each(|field| drop(spec.shift_remove(*field)));
}

type Rule = fn(&Value) -> bool;

/// Fields of services that the rule holds for; they go where it no longer holds, if the client only repeats them.
const OF_TYPE: &[(Rule, &str)] = &[
    (has_address, "ipFamilies"),
    (has_address, "ipFamilyPolicy"),
    (has_address, "internalTrafficPolicy"),
    (is_external, "externalTrafficPolicy"),
    (ports::needs_check, "healthCheckNodePort"),
    (|spec| spec["type"] == "LoadBalancer", "allocateLoadBalancerNodePorts"),
    (|spec| spec["type"] == "LoadBalancer", "loadBalancerClass"),
];

/// What belonged to the service as it was goes with it, if the client only repeats what it read.
fn drop_of_type(new: &mut Value, old: &Value) {
    let (was, spec) = (&old["spec"], &mut new["spec"]);
    if !spec.is_object() {
        return;
    }
    let is_addressed = ["clusterIP", "clusterIPs"].iter().all(|field| is_same(&spec[*field], &was[*field]));
    if has_address(was) && !has_address(spec) && is_addressed {
        drop_fields(spec, &["clusterIP", "clusterIPs"]);
    }
    for (holds, field) in OF_TYPE {
        if holds(was) && !holds(spec) && spec.get(*field) == was.get(*field) {
            drop_fields(spec, &[field]);
        }
    }
    let before: Vec<i64> = items(&was["ports"]).iter().map(ports::number).collect();
    let is_new = |port: &Value| ports::number(port) != 0 && !before.contains(&ports::number(port));
    if ports::needed(was) && !ports::needed(spec) && !items(&spec["ports"]).iter().any(is_new) {
        let listed = spec.get_mut("ports").and_then(Value::as_array_mut);
        listed.into_iter().flatten().for_each(|port| drop_fields(port, &["nodePort"]));
    }
    if spec["type"] != "LoadBalancer" {
        new["status"]["loadBalancer"] = json!({});
    }
}

/// The cluster address of a service that has none yet.
fn assign_address(claim: &mut Claim, view: &dyn View, spec: &mut Value) -> Result<(), Errors> {
    let wanted = text(spec, "clusterIP").map(str::to_owned);
    let given = match wanted.as_deref() {
        Some("None") => return Ok(()),
        None => {
            let given = claim.any_address(view);
            given.map_err(|why| vec![FieldError::invalid("spec.clusterIPs", json!([]), why.to_string())])?
        }
        Some(wanted) => {
            let Ok(address) = wanted.parse::<IpAddr>() else { return Ok(()) };
            claim.address(view, address).map_err(|why| {
                let why = format!("failed to allocate IP {wanted}: {why}");
                vec![FieldError::invalid("spec.clusterIPs", spec["clusterIPs"].clone(), why)]
            })?;
            address
        }
    };
    spec["clusterIP"] = given.to_string().into();
    spec["clusterIPs"] = json!([given.to_string()]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assign(services: &ServiceAddresses, spec: Value, old: Option<&Value>) -> Result<Value, Status> {
        let kind = api_types::kinds::find_resource("", "v1", "services").unwrap();
        let context = Context::fixture(kind, services);
        let mut new = json!({"metadata": {"name": "s", "namespace": "ns"}, "spec": spec});
        match old {
            None => Services.prepare_for_create(&context, &mut new),
            Some(old) => Services.prepare_for_update(&context, &mut new, old),
        }
        Services.assign(&context, &mut new, old)?.keep();
        Ok(new)
    }

    fn services() -> ServiceAddresses {
        ServiceAddresses::new("10.96.0.0/24".parse().unwrap())
    }

    #[test]
    fn a_service_gets_an_address_and_keeps_it() {
        let all = services();
        let first = assign(&all, json!({"type": "ClusterIP", "ports": [{"port": 80}]}), None).unwrap();
        let address = first["spec"]["clusterIP"].as_str().unwrap();
        assert_eq!(first["spec"]["clusterIPs"], json!([address]));
        assert_eq!(first["spec"]["ipFamilies"], json!(["IPv4"]));
        let updated =
            assign(&all, json!({"type": "ClusterIP", "ports": [{"port": 81}]}), Some(&first)).unwrap();
        assert_eq!(updated["spec"]["clusterIP"], address);
        let made = Services.companions(&first);
        assert_eq!(made.len(), 1);
        assert_eq!(made[0]["metadata"]["name"], address);
        assert_eq!(
            made[0]["spec"]["parentRef"],
            json!({"resource": "services", "namespace": "ns", "name": "s"})
        );
    }

    #[test]
    fn a_headless_service_has_no_address_and_an_external_name_neither() {
        let headless =
            assign(&services(), json!({"clusterIP": "None", "selector": {"a": "b"}}), None).unwrap();
        assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
        let external =
            assign(&services(), json!({"type": "ExternalName", "externalName": "x.y"}), None).unwrap();
        assert!(external["spec"].get("clusterIP").is_none());
    }

    #[test]
    fn a_service_becomes_a_name_whether_its_address_is_repeated_or_cleared() {
        let all = services();
        let first = assign(&all, json!({"type": "NodePort", "ports": [{"port": 80}]}), None).unwrap();
        for cleared in [false, true] {
            let mut spec = first["spec"].clone();
            spec["type"] = "ExternalName".into();
            if cleared {
                spec["clusterIP"] = "".into();
            }
            let named = assign(&all, spec, Some(&first)).unwrap();
            for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                assert!(named["spec"].get(field).is_none(), "{field}");
            }
            assert!(named["spec"]["ports"][0].get("nodePort").is_none());
        }
    }

    #[test]
    fn node_ports_are_given_kept_and_freed() {
        let all = services();
        let first = assign(&all, json!({"type": "NodePort", "ports": [{"port": 80}]}), None).unwrap();
        let port = first["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
        let again = assign(&all, json!({"type": "NodePort", "ports": [{"port": 80}]}), Some(&first)).unwrap();
        assert_eq!(again["spec"]["ports"][0]["nodePort"], port);
        let plain = assign(
            &all,
            json!({"type": "ClusterIP", "ports": [{"port": 80, "nodePort": port}]}),
            Some(&again),
        )
        .unwrap();
        assert!(plain["spec"]["ports"][0].get("nodePort").is_none());
        let other = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]});
        assert!(assign(&all, other, None).is_ok());
    }

    #[test]
    fn ports_of_one_number_share_a_node_port_and_others_do_not() {
        let all = services();
        let ports = |second: u16, numbers: [u16; 2]| {
            let port = |name: &str, port: u16, protocol: &str, number: u16| json!({"name": name, "port": port, "protocol": protocol, "nodePort": number});
            json!({"type": "NodePort", "ports": [port("a", 80, "TCP", numbers[0]), port("b", second, "UDP", numbers[1])]})
        };
        let numbers = |service: Value| [0, 1].map(|at| ports::number(&service["spec"]["ports"][at]));
        let [one, other] = numbers(assign(&all, ports(80, [0, 0]), None).unwrap());
        assert!(one == other && one != 0);
        let [one, other] = numbers(assign(&all, ports(80, [0, 31000]), None).unwrap());
        assert_eq!((one, other), (31000, 31000));
        let [one, other] = numbers(assign(&all, ports(81, [0, 0]), None).unwrap());
        assert_ne!(one, other);
        for numbers in [[31001, 31001], [31001, 80]] {
            let refused = assign(&all, ports(81, numbers), None).unwrap_err();
            assert_eq!(refused.details().unwrap().causes[0].field, "spec.ports[1].nodePort");
        }
    }

    #[test]
    fn a_balancer_of_local_traffic_has_a_port_for_health_checks() {
        let all = services();
        let spec = |policy: &str| json!({"type": "LoadBalancer", "externalTrafficPolicy": policy, "ports": [{"port": 80}]});
        let local = assign(&all, spec("Local"), None).unwrap();
        let port = local["spec"]["healthCheckNodePort"].clone();
        assert!(port.is_number());
        let again = assign(&all, spec("Local"), Some(&local)).unwrap();
        assert_eq!(again["spec"]["healthCheckNodePort"], port);
        let mut everywhere = local["spec"].clone();
        everywhere["externalTrafficPolicy"] = "Cluster".into();
        let everywhere = assign(&all, everywhere, Some(&local)).unwrap();
        assert!(everywhere["spec"].get("healthCheckNodePort").is_none());
        let wanted = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 70000, "ports": [{"port": 80}]});
        assert!(assign(&all, wanted, None).is_err());
    }
}
