//! Where a proxied request goes: the address behind `[scheme:]name[:port]` of a pod, service or node.

use std::net::IpAddr;

use api_types::status::Status;
use rand::seq::IteratorRandom as _;
use serde_json::Value;

use crate::backend::{self, Security};
use crate::node_proxy;
use crate::rest::Call;

/// The address of a backend.
#[derive(Clone)]
pub(super) struct Location {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) security: Security,
}

impl Location {
    /// `host:port` as in a URL.
    pub(super) fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

/// `[scheme:]name[:port]`.
#[derive(Debug, PartialEq, Eq)]
struct Id<'a> {
    scheme: &'a str,
    name: &'a str,
    port: &'a str,
}

impl<'a> Id<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let parts: Vec<_> = text.split(':').collect();
        let id = match parts.as_slice() {
            [name] => Self { scheme: "", name, port: "" },
            [name, port] => Self { scheme: "", name, port },
            [scheme, name, port] => Self { scheme, name, port },
            _ => return None,
        };
        (!id.name.is_empty() && matches!(id.scheme, "" | "http" | "https")).then_some(id)
    }

    fn security(&self) -> Security {
        if self.scheme == "https" { Security::Unverified } else { Security::Plain }
    }

    fn default_port(&self) -> u16 {
        if self.scheme == "https" { 443 } else { 80 }
    }
}

type Locate = fn(&Call, &Id<'_>) -> Result<Location, Status>;

/// The resources that can be proxied to.
static PROXIED: &[(&str, Locate)] = &[("pods", of_pod), ("services", of_service), ("nodes", of_node)];

/// Where the request goes.
pub(super) fn find(call: &Call) -> Result<Location, Status> {
    let row = PROXIED.iter().find(|(plural, _)| *plural == call.kind.plural);
    let (_, locate) = row.ok_or_else(Status::unknown_resource)?;
    let id = Id::parse(&call.info.name).ok_or_else(|| {
        Status::bad_request(format!("invalid {} request {:?}", call.kind.singular, call.info.name))
    })?;
    locate(call, &id)
}

fn stored(call: &Call, name: &str) -> Result<Value, Status> {
    let stored = call.server.objects.get(&call.key_of(name));
    stored.map(|s| call.value_of(&s)).ok_or_else(|| Status::not_found(&call.kind, name))
}

fn of_pod(call: &Call, id: &Id<'_>) -> Result<Location, Status> {
    let pod = stored(call, id.name)?;
    let host = check_address(call, pod["status"]["podIP"].as_str().unwrap_or_default())?;
    let mut ports = pod["spec"]["containers"].as_array().into_iter().flatten().filter_map(|c| {
        let ports = c["ports"].as_array()?;
        u16::try_from(ports.first()?["containerPort"].as_u64()?).ok()
    });
    let port = match id.port {
        "" => ports.next().unwrap_or_else(|| id.default_port()),
        text => number(text)?,
    };
    Ok(Location { host, port, security: id.security() })
}

fn number(text: &str) -> Result<u16, Status> {
    text.parse().map_err(|_| {
        Status::unavailable(format!(
            "error trying to reach service: dial tcp: lookup tcp/{text}: unknown port"
        ))
    })
}

/// Only addresses that other machines can have, too: the server's own neighbours are not for its clients.
fn check_address(call: &Call, text: &str) -> Result<String, Status> {
    let is_allowed = |ip: IpAddr| {
        let own = match ip {
            IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        let loopback = ip.is_loopback() && !call.server.limits.proxy_to_loopback;
        !(own || loopback || ip.is_unspecified() || ip.is_multicast())
    };
    match text.parse::<IpAddr>() {
        Ok(ip) if is_allowed(ip) => Ok(ip.to_string()),
        _ => Err(Status::bad_request("address not allowed")),
    }
}

fn of_service(call: &Call, id: &Id<'_>) -> Result<Location, Status> {
    let none = || Status::unavailable(format!("no endpoints available for service {:?}", id.name));
    let service = stored(call, id.name)?;
    let port_name = match id.port.parse::<u64>() {
        Err(_) => id.port,
        Ok(number) => {
            let mut ports = service["spec"]["ports"].as_array().into_iter().flatten();
            let found = ports.find(|p| p["port"] == number).ok_or_else(|| {
                Status::unavailable(format!("no service port {number} found for service {:?}", id.name))
            })?;
            found["name"].as_str().unwrap_or_default()
        }
    };
    let found = backend::endpoints(&call.server.objects, call.namespace(), id.name, port_name);
    let (ip, port) = found.into_iter().choose(&mut rand::rng()).ok_or_else(none)?;
    let host = check_address(call, &ip)?;
    Ok(Location { host, port, security: id.security() })
}

fn of_node(call: &Call, id: &Id<'_>) -> Result<Location, Status> {
    let (host, agent_port) = node_proxy::address_of(call, id.name)?;
    if id.port.is_empty() || id.port == agent_port.to_string() {
        return Ok(Location { host, port: agent_port, security: Security::Node });
    }
    let host = check_address(call, &host)?;
    Ok(Location { host, port: number(id.port)?, security: id.security() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_have_a_scheme_and_a_port() {
        assert_eq!(Id::parse("a"), Some(Id { scheme: "", name: "a", port: "" }));
        assert_eq!(Id::parse("a:http"), Some(Id { scheme: "", name: "a", port: "http" }));
        assert_eq!(Id::parse("https:a:443"), Some(Id { scheme: "https", name: "a", port: "443" }));
        assert_eq!(Id::parse("https:a:"), Some(Id { scheme: "https", name: "a", port: "" }));
        assert_eq!(Id::parse("ftp:a:1"), None);
        assert_eq!(Id::parse("a:b:c:d"), None);
        assert_eq!(Id::parse(":80"), None);
    }
}
