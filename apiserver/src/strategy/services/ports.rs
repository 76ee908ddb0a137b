//! Node ports of services, the health check's among them.

use std::collections::BTreeMap;

use api_types::status::FieldError;
use serde_json::{Value, json};

use crate::service_ip::{Claim, ClaimError, ports_of};
use crate::strategy::rules::{Errors, items};

/// Whether ports of this type of service may be reached on nodes.
pub(super) fn needed(spec: &Value) -> bool {
    matches!(spec["type"].as_str(), Some("NodePort" | "LoadBalancer"))
}

/// Whether a balancer asks the nodes which of them have endpoints.
pub(super) fn needs_check(spec: &Value) -> bool {
    spec["type"] == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local"
}

pub(super) fn number(port: &Value) -> i64 {
    port["nodePort"].as_i64().unwrap_or(0)
}

/// Takes what the service asks for and gives what it left open. The first that cannot be had ends the write.
pub(super) fn assign(claim: &mut Claim, new: &mut Value, old: Option<&Value>) -> Result<(), Errors> {
    if needed(&new["spec"]) {
        match old {
            None => init(claim, new)?,
            Some(old) => update(claim, new, old)?,
        }
    }
    if needs_check(&new["spec"]) && !old.is_some_and(|old| needs_check(&old["spec"])) {
        let wanted = new["spec"]["healthCheckNodePort"].as_i64().unwrap_or(0);
        let given = take(claim, wanted)
            .map_err(|why| vec![FieldError::invalid("spec.healthCheckNodePort", wanted, why.to_string())])?;
        new["spec"]["healthCheckNodePort"] = json!(given);
    }
    Ok(())
}

/// The port that is wanted, any for 0.
fn take(claim: &mut Claim, wanted: i64) -> Result<u16, ClaimError> {
    if wanted == 0 {
        return claim.any_port();
    }
    let port = u16::try_from(wanted).map_err(|_| ClaimError::PortOutsideOfRange)?;
    claim.port(port).map(|()| port)
}

fn take_at(claim: &mut Claim, wanted: i64, index: usize) -> Result<u16, Errors> {
    let path = format!("spec.ports[{index}].nodePort");
    take(claim, wanted).map_err(|why| vec![FieldError::invalid(path, wanted, why.to_string())])
}

/// Whether ports that did not ask get one.
fn gives(spec: &Value) -> bool {
    spec["type"] != "LoadBalancer" || spec["allocateLoadBalancerNodePorts"] != false
}

/// Ports of one number, of several protocols, share a node port unless they ask for different ones.
fn init(claim: &mut Claim, new: &mut Value) -> Result<(), Errors> {
    let gives = gives(&new["spec"]);
    let asked = items(&new["spec"]["ports"]).to_vec();
    let mut shared: BTreeMap<i64, i64> = BTreeMap::new();
    let ports = new.pointer_mut("/spec/ports").and_then(Value::as_array_mut);
    for (index, port) in ports.into_iter().flatten().enumerate() {
        let (own, of) = (number(port), port["port"].as_i64().unwrap_or(0));
        let given = match shared.get(&of) {
            _ if own == 0 && !gives => continue,
            None => {
                let same = asked.iter().filter(|p| p["port"].as_i64() == Some(of));
                let wanted = same.map(number).find(|wanted| *wanted != 0).unwrap_or(0);
                let given = i64::from(take_at(claim, wanted, index)?);
                shared.insert(of, given);
                given
            }
            Some(given) if own == 0 || own == *given => *given,
            Some(_) => i64::from(take_at(claim, own, index)?),
        };
        port["nodePort"] = json!(given);
    }
    Ok(())
}

fn update(claim: &mut Claim, new: &mut Value, old: &Value) -> Result<(), Errors> {
    let gives = gives(&new["spec"]);
    let mut held: Vec<i64> = ports_of(old).into_iter().map(i64::from).collect();
    let ports = new.pointer_mut("/spec/ports").and_then(Value::as_array_mut);
    for (index, port) in ports.into_iter().flatten().enumerate() {
        let own = number(port);
        if (own == 0 && !gives) || held.contains(&own) {
            continue;
        }
        let given = take_at(claim, own, index)?;
        held.push(given.into());
        port["nodePort"] = json!(given);
    }
    Ok(())
}
