//! The service `kubernetes` and where it leads: made at the start, and kept as they are to be from then on.
//!
//! Its endpoints are the addresses at which API servers say that they are reached, which need not be those at
//! which they listen. Where several servers share a store each sees to its own address and leaves the others.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use component_base::Shutdown;
use http::Method;
use serde_json::{Value, json};
use tracing::debug;

use crate::server::{Loopback, Server, send};
use crate::view::View;

/// Looked at this often.
const INTERVAL: Duration = Duration::from_secs(10);
/// The port of a server that does not listen.
const PORT: u16 = 6443;
const NAMESPACE: &str = "default";
const NAME: &str = "kubernetes";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const ENDPOINTS: &str = "/api/v1/namespaces/default/endpoints";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

/// What a server tells of itself.
#[derive(Clone, Debug)]
pub(crate) struct Advertised {
    /// The address of the service.
    pub(crate) service: IpAddr,
    /// Where the server is reached; none if it does not listen, or this machine has no address.
    pub(crate) server: Option<SocketAddr>,
    /// Whether other servers keep the same objects.
    pub(crate) shared: bool,
}

/// Where a server is reached that listens at `listening`: at `wanted`, or else there, or else where this machine
/// is reached from others. Endpoints may not be loopback addresses.
pub(crate) fn advertised(wanted: Option<IpAddr>, listening: Option<SocketAddr>) -> Option<SocketAddr> {
    let listening = listening?;
    let ip = match (wanted, listening.ip()) {
        (Some(wanted), _) => wanted,
        (None, ip) if ip.is_unspecified() || ip.is_loopback() => own_address(ip.is_ipv4())?,
        (None, ip) => ip,
    };
    Some(SocketAddr::new(ip, listening.port()))
}

/// The address from which this machine would talk to the world; one in use for documentation stands for it.
/// The kernel only looks up the route: nothing is sent.
fn own_address(is_ipv4: bool) -> Option<IpAddr> {
    let (any, world) = if is_ipv4 { ("0.0.0.0:0", "192.0.2.1:9") } else { ("[::]:0", "[2001:db8::1]:9") };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(world).ok()?;
    socket.local_addr().ok().map(|own| own.ip()).filter(|own| !own.is_loopback())
}

/// Works until the server stops, and then takes its address out where others go on.
pub(crate) async fn keep(server: Arc<Server>, loopback: Loopback, mine: Advertised, shutdown: Shutdown) {
    while !shutdown.is_cancelled() {
        look(&server, &loopback, &mine).await;
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = shutdown.cancelled() => {}
        }
    }
    if mine.shared {
        write(&loopback, leave(&*server.view, &mine)).await;
    }
}

/// Puts right what is not as it is to be.
pub(crate) async fn look(server: &Server, loopback: &Loopback, mine: &Advertised) {
    write(loopback, plan(&*server.view, mine)).await;
}

async fn write(loopback: &Loopback, steps: Vec<Step>) {
    for Step { method, path, body } in steps {
        if let Err(status) = send(loopback.clone(), method, &path, "application/json", &body).await {
            // Another server was faster, or is; it is looked at again.
            debug!(path, why = status.message, "an object of the service kubernetes was not written");
        }
    }
}

/// One write.
#[derive(Debug, PartialEq)]
struct Step {
    method: Method,
    path: String,
    body: Value,
}

impl Step {
    /// Makes `wanted`, or brings what there is to it in these fields.
    fn to(list: &str, live: Option<&Value>, wanted: Value, fields: &[&str]) -> Option<Self> {
        let Some(live) = live else {
            return Some(Self { method: Method::POST, path: list.to_owned(), body: wanted });
        };
        let mut next = live.clone();
        for field in fields {
            let pointer = format!("/{field}");
            let value = wanted.pointer(&pointer).cloned().unwrap_or_default();
            match (next.pointer_mut(&pointer), field.rsplit_once('/')) {
                (Some(place), _) => *place = value,
                (None, None) => next[*field] = value,
                (None, Some((outer, last))) => {
                    let outer = next.pointer_mut(&format!("/{outer}")).and_then(Value::as_object_mut)?;
                    outer.insert(last.to_owned(), value);
                }
            }
        }
        let path = format!("{list}/{NAME}");
        (next != *live).then_some(Self { method: Method::PUT, path, body: next })
    }
}

fn plan(view: &dyn View, mine: &Advertised) -> Vec<Step> {
    let live = view.object("services", NAMESPACE, NAME);
    let mut steps = Vec::from_iter(Step::to(SERVICES, live.as_deref(), service(mine), &["spec/ports"]));
    if let Some(server) = mine.server {
        let mut addresses = if mine.shared { others(view, server) } else { BTreeSet::new() };
        addresses.insert(server.ip());
        steps.extend(lead_to(view, server, &addresses));
    }
    steps
}

/// Takes the server's own address out, unless it is the last.
fn leave(view: &dyn View, mine: &Advertised) -> Vec<Step> {
    let Some(server) = mine.server else { return Vec::new() };
    let mut addresses = others(view, server);
    addresses.remove(&server.ip());
    if addresses.is_empty() { Vec::new() } else { lead_to(view, server, &addresses) }
}

fn lead_to(view: &dyn View, server: SocketAddr, addresses: &BTreeSet<IpAddr>) -> Vec<Step> {
    let live = view.object("endpoints", NAMESPACE, NAME);
    let endpoints = Step::to(ENDPOINTS, live.as_deref(), endpoints(server, addresses), &["subsets"]);
    let live = view.object("discovery.k8s.io/endpointslices", NAMESPACE, NAME);
    let fields = &["endpoints", "ports", "metadata/labels"];
    let slice = Step::to(SLICES, live.as_deref(), slice(server, addresses), fields);
    endpoints.into_iter().chain(slice).collect()
}

/// The addresses of all servers of the family, as they were written last.
fn others(view: &dyn View, server: SocketAddr) -> BTreeSet<IpAddr> {
    let Some(live) = view.object("endpoints", NAMESPACE, NAME) else { return BTreeSet::new() };
    let subsets = live["subsets"].as_array().into_iter().flatten();
    let addresses = subsets.flat_map(|subset| subset["addresses"].as_array().into_iter().flatten());
    let parsed = addresses.filter_map(|address| address["ip"].as_str()?.parse::<IpAddr>().ok());
    parsed.filter(|address| address.is_ipv4() == server.is_ipv4()).collect()
}

/// The service with the first address of the range.
pub(super) fn service(mine: &Advertised) -> Value {
    let address = mine.service.to_string();
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": NAME, "namespace": NAMESPACE,
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "sessionAffinity": "None",
            "ports": [{
                "name": "https", "port": 443, "protocol": "TCP",
                "targetPort": mine.server.map_or(PORT, |server| server.port()),
            }],
        },
    })
}

fn slice(server: SocketAddr, addresses: &BTreeSet<IpAddr>) -> Value {
    let endpoint = |ip: &IpAddr| json!({"addresses": [ip.to_string()], "conditions": {"ready": true}});
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": NAME, "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": NAME},
        },
        "addressType": if server.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": addresses.iter().map(endpoint).collect::<Vec<_>>(),
        "ports": [{"name": "https", "port": server.port(), "protocol": "TCP"}],
    })
}

/// The same for clients that read the older kind.
fn endpoints(server: SocketAddr, addresses: &BTreeSet<IpAddr>) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {
            "name": NAME, "namespace": NAMESPACE,
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [{
            "addresses": addresses.iter().map(|ip| json!({"ip": ip.to_string()})).collect::<Vec<_>>(),
            "ports": [{"name": "https", "port": server.port(), "protocol": "TCP"}],
        }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::fixture::Fixture;

    fn mine(ip: &str, shared: bool) -> Advertised {
        let server = SocketAddr::new(ip.parse().unwrap(), 6443);
        Advertised { service: "10.96.0.1".parse().unwrap(), server: Some(server), shared }
    }

    fn told(steps: &[Step]) -> Vec<String> {
        let address = |step: &Step| step.body.pointer("/subsets/0/addresses").cloned().unwrap_or_default();
        steps.iter().map(|step| format!("{} {} {}", step.method, step.path, address(step))).collect()
    }

    /// The cluster after the steps that this server takes first.
    fn after(mine: &Advertised) -> Fixture {
        let resource = |step: &Step| match step.body["kind"].as_str() {
            Some("Service") => "services",
            Some("Endpoints") => "endpoints",
            _ => "discovery.k8s.io/endpointslices",
        };
        let steps = plan(&Fixture::default(), mine);
        steps.into_iter().fold(Fixture::default(), |world, step| world.with(resource(&step), step.body))
    }

    #[test]
    fn what_is_missing_is_made_and_what_is_right_is_left_alone() {
        let mine = mine("192.0.2.5", false);
        let made = told(&plan(&Fixture::default(), &mine));
        assert_eq!(
            made,
            [
                format!("POST {SERVICES} null"),
                format!("POST {ENDPOINTS} [{{\"ip\":\"192.0.2.5\"}}]"),
                format!("POST {SLICES} null"),
            ]
        );
        assert_eq!(plan(&after(&mine), &mine), []);
    }

    #[test]
    fn a_server_that_is_alone_replaces_an_address_that_it_no_longer_has() {
        let steps = plan(&after(&mine("192.0.2.5", false)), &mine("192.0.2.6", false));
        assert_eq!(
            told(&steps),
            [
                format!("PUT {ENDPOINTS}/kubernetes [{{\"ip\":\"192.0.2.6\"}}]"),
                format!("PUT {SLICES}/kubernetes null")
            ]
        );
    }

    #[test]
    fn servers_that_share_a_store_stand_side_by_side_until_one_leaves() {
        let (first, second) = (mine("192.0.2.5", true), mine("192.0.2.6", true));
        let steps = plan(&after(&first), &second);
        assert_eq!(
            steps[0].body["subsets"][0]["addresses"],
            json!([{"ip": "192.0.2.5"}, {"ip": "192.0.2.6"}])
        );
        let both = Fixture::default().with("endpoints", steps[0].body.clone());
        let left = leave(&both, &first);
        assert_eq!(left[0].body["subsets"][0]["addresses"], json!([{"ip": "192.0.2.6"}]));
        assert_eq!(leave(&after(&first), &first), [], "the last stays");
    }

    #[test]
    fn a_server_is_reached_where_it_says_or_listens() {
        let at = |wanted: &str, listening: &str| {
            advertised(wanted.parse().ok(), listening.parse().ok()).map(|address| address.to_string())
        };
        assert_eq!(at("", ""), None, "a server that does not listen is not reached");
        assert_eq!(at("", "192.0.2.5:1234").as_deref(), Some("192.0.2.5:1234"));
        assert_eq!(at("192.0.2.9", "127.0.0.1:1234").as_deref(), Some("192.0.2.9:1234"));
        let own = at("", "127.0.0.1:1234");
        assert!(own.is_none_or(|own| !own.starts_with("127.")), "endpoints are no loopback addresses");
    }
}
