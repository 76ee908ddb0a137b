//! Services: cluster addresses and node ports, and what goes when the type changes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use api_types::status::{FieldError, Status};
use serde_json::{Value, json};

use super::metadata::NameRule;
use super::rules::{Errors, items, text};
use super::{Context, Strategy, isolate};
use crate::service_ip::{Claim, ServiceAddresses, addresses_of, objects, ports_of};

pub(super) struct Services;

impl Strategy for Services {
    fn prepare_for_create(&self, context: &Context<'_>, new: &mut Value) {
        isolate::for_create(context.kind, new);
        new["status"] = json!({"loadBalancer": {}});
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
            drop_of_type(new, old);
        }
    }

    fn assign(&self, context: &Context<'_>, new: &mut Value, old: Option<&Value>) -> Result<Claim, Status> {
        let mut claim = context.services.claim();
        if !context.subresource.is_empty() || !new["spec"].is_object() {
            return Ok(claim);
        }
        let mut errors = Errors::new();
        assign_address(&mut claim, context, new, old, &mut errors);
        assign_ports(&mut claim, new, old, &mut errors);
        if !errors.is_empty() {
            let name = new["metadata"]["name"].as_str().unwrap_or_default();
            return Err(Status::invalid(context.kind, name, errors));
        }
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
    if new["spec"]["type"] == "ExternalName" {
        drop_repeated(new, old);
        return;
    }
    let came_from_name = old["spec"]["type"] == "ExternalName";
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        let is_missing = match &new["spec"][field] {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            _ => false,
        };
        if is_missing && !came_from_name && !old["spec"][field].is_null() {
            new["spec"][field] = old["spec"][field].clone();
        }
    }
    let wants_ports = has_node_ports(&new["spec"]);
    let old_ports: Vec<Value> = items(&old["spec"]["ports"]).to_vec();
    for port in new.pointer_mut("/spec/ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let same = |o: &&Value| {
            o["port"] == port["port"]
                && o["protocol"].as_str().unwrap_or("TCP") == port["protocol"].as_str().unwrap_or("TCP")
        };
        let before = old_ports
            .iter()
            .find(same)
            .map(|o| o["nodePort"].clone())
            .filter(|n| n.as_u64().is_some_and(|n| n != 0));
        let Some(before) = before else { continue };
        match wants_ports {
            true if port["nodePort"].as_u64().unwrap_or(0) == 0 => port["nodePort"] = before,
            // The type changed to one without node ports, and the client only repeats what it read.
            false if port["nodePort"] == before && has_node_ports(&old["spec"]) => {
                port.as_object_mut().map(|p| p.shift_remove("nodePort"));
            }
            _ => {}
        }
    }
}

/// Fields of the former type go with it, if the client only repeats what it read.
fn drop_of_type(new: &mut Value, old: &Value) {
    if new["spec"]["type"] == old["spec"]["type"] {
        return;
    }
    let keeps_external = has_node_ports(&new["spec"]) || !items(&new["spec"]["externalIPs"]).is_empty();
    let is_balanced = new["spec"]["type"] == "LoadBalancer";
    let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) else { return };
    for (field, keeps) in [
        ("externalTrafficPolicy", keeps_external),
        ("healthCheckNodePort", is_balanced),
        ("allocateLoadBalancerNodePorts", is_balanced),
        ("loadBalancerClass", is_balanced),
    ] {
        if !keeps && spec.get(field) == old["spec"].get(field) {
            spec.shift_remove(field);
        }
    }
}

/// A service that becomes a name loses its addresses and ports of nodes, as far as the client cleared them or
/// only repeats what it read.
fn drop_repeated(new: &mut Value, old: &Value) {
    if old["spec"]["type"] == "ExternalName" {
        return;
    }
    let address = new["spec"]["clusterIP"].as_str().unwrap_or_default();
    let keeps_address = !address.is_empty() && new["spec"]["clusterIP"] != old["spec"]["clusterIP"];
    let old_ports: Vec<Value> =
        items(&old["spec"]["ports"]).iter().map(|port| port["nodePort"].clone()).collect();
    let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) else { return };
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"] {
        let is_repeated = spec.get(field) == old["spec"].get(field);
        if is_repeated || (field.starts_with("clusterIP") && !keeps_address) {
            spec.shift_remove(field);
        }
    }
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        if old_ports.contains(&port["nodePort"]) {
            port.as_object_mut().map(|port| port.shift_remove("nodePort"));
        }
    }
}

fn has_node_ports(spec: &Value) -> bool {
    match spec["type"].as_str() {
        Some("NodePort") => true,
        Some("LoadBalancer") => spec["allocateLoadBalancerNodePorts"] != false,
        _ => false,
    }
}

fn assign_address(
    claim: &mut Claim,
    context: &Context<'_>,
    new: &mut Value,
    old: Option<&Value>,
    errors: &mut Errors,
) {
    let spec = &mut new["spec"];
    if spec["type"] == "ExternalName" {
        return;
    }
    let listed = items(&spec["clusterIPs"]).first().and_then(Value::as_str).map(str::to_owned);
    let wanted = text(spec, "clusterIP").map(str::to_owned).or(listed).unwrap_or_default();
    let held: Vec<IpAddr> = old.map(addresses_of).unwrap_or_default();
    let given = match wanted.as_str() {
        "None" => "None".to_owned(),
        "" => match claim.any_address(context.view) {
            Ok(address) => address.to_string(),
            Err(why) => {
                errors.push(FieldError::invalid("spec.clusterIPs", json!([]), why.to_string()));
                return;
            }
        },
        wanted => {
            let Ok(address) = wanted.parse::<IpAddr>() else { return };
            if !held.contains(&address)
                && old.is_none_or(|o| text(&o["spec"], "clusterIP").is_none())
                && let Err(why) = claim.address(context.view, address)
            {
                let shown = json!([wanted]);
                errors.push(FieldError::invalid(
                    "spec.clusterIPs",
                    shown,
                    format!("failed to allocate IP {wanted}: {why}"),
                ));
                return;
            }
            wanted.to_owned()
        }
    };
    spec["clusterIP"] = given.as_str().into();
    if items(&spec["clusterIPs"]).is_empty() {
        spec["clusterIPs"] = json!([given]);
    }
    set_families(spec, context.services, given == "None");
}

fn set_families(spec: &mut Value, services: &ServiceAddresses, is_headless: bool) {
    let (family, other) = if services.cidr().is_ipv4() { ("IPv4", "IPv6") } else { ("IPv6", "IPv4") };
    let has_selector = spec["selector"].as_object().is_some_and(|s| !s.is_empty());
    let dual = is_headless && !has_selector && spec["ipFamilyPolicy"].is_null();
    if spec["ipFamilyPolicy"].is_null() {
        spec["ipFamilyPolicy"] = if dual { "RequireDualStack" } else { "SingleStack" }.into();
    }
    if items(&spec["ipFamilies"]).is_empty() {
        spec["ipFamilies"] = if dual { json!([family, other]) } else { json!([family]) };
    }
}

fn assign_ports(claim: &mut Claim, new: &mut Value, old: Option<&Value>, errors: &mut Errors) {
    if !has_node_ports(&new["spec"]) {
        return;
    }
    let mut held: BTreeSet<u16> = old.map(ports_of).unwrap_or_default().into_iter().collect();
    for (index, port) in
        new.pointer_mut("/spec/ports").and_then(Value::as_array_mut).into_iter().flatten().enumerate()
    {
        let wanted = port["nodePort"].as_u64().and_then(|p| u16::try_from(p).ok()).unwrap_or(0);
        if wanted == 0 {
            match claim.any_port() {
                Ok(given) => port["nodePort"] = json!(given),
                Err(why) => errors.push(FieldError::invalid(
                    format!("spec.ports[{index}].nodePort"),
                    0,
                    why.to_string(),
                )),
            }
            continue;
        }
        // One number may serve TCP and UDP of the same service.
        if !held.contains(&wanted) {
            match claim.port(wanted) {
                Ok(()) => {
                    held.insert(wanted);
                }
                Err(why) => {
                    errors.push(FieldError::invalid(
                        format!("spec.ports[{index}].nodePort"),
                        wanted,
                        why.to_string(),
                    ));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assign(services: &ServiceAddresses, spec: Value, old: Option<&Value>) -> Result<Value, Status> {
        let kind = api_types::kinds::find_resource("", "v1", "services").unwrap();
        let context = Context::fixture(kind, services);
        let mut new = json!({"metadata": {"name": "s", "namespace": "ns"}, "spec": spec});
        if let Some(old) = old {
            Services.prepare_for_update(&context, &mut new, old);
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
}
