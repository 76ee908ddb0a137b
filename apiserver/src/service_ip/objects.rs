//! The objects that stand for addresses of services and for the ranges that they come from.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::addresses_of;
use crate::view::View;

/// Where IPAddresses are kept.
pub(crate) const ADDRESSES: &str = "networking.k8s.io/ipaddresses";
/// Where ServiceCIDRs are kept.
pub(super) const RANGES: &str = "networking.k8s.io/servicecidrs";
const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";
const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const ALLOCATOR: &str = "ipallocator.k8s.io";

/// An IPAddress for each cluster address of a service.
pub(crate) fn of_service(service: &Value) -> Vec<Value> {
    let metadata = &service["metadata"];
    let made = addresses_of(service).into_iter().map(|address| {
        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        json!({
            "kind": "IPAddress", "apiVersion": "networking.k8s.io/v1",
            "metadata": { "name": address.to_string(), "labels": { FAMILY: family, MANAGED_BY: ALLOCATOR } },
            "spec": { "parentRef": {
                "resource": "services", "namespace": metadata["namespace"], "name": metadata["name"],
            } },
        })
    });
    made.collect()
}

/// Whether somebody has the address: a service, or a user who wants it kept.
pub(super) fn is_taken(view: &dyn View, address: &IpAddr) -> bool {
    view.object(ADDRESSES, "", &address.to_string()).is_some()
}

/// Whether addresses of a range may be given out. One that nobody has looked at yet is ready.
pub(super) fn is_ready(range: &Value) -> bool {
    let conditions = range["status"]["conditions"].as_array();
    let ready = conditions.into_iter().flatten().find(|condition| condition["type"] == "Ready");
    range["metadata"]["deletionTimestamp"].is_null() && ready.is_none_or(|ready| ready["status"] == "True")
}

/// Whether an IPAddress was made for a service, and not by a user.
pub(super) fn is_of_allocator(address: &Value) -> bool {
    address["metadata"]["labels"][MANAGED_BY] == ALLOCATOR
}

/// Whether the service that an IPAddress names is there and has the address.
pub(super) fn is_in_use(view: &dyn View, address: &Value) -> bool {
    let (metadata, parent) = (&address["metadata"], &address["spec"]["parentRef"]);
    let text = |field: &str| parent[field].as_str().unwrap_or_default();
    let name = metadata["name"].as_str().and_then(|name| name.parse::<IpAddr>().ok());
    text("group").is_empty()
        && text("resource") == "services"
        && view
            .object("services", text("namespace"), text("name"))
            .is_some_and(|service| name.is_some_and(|name| addresses_of(&service).contains(&name)))
}
