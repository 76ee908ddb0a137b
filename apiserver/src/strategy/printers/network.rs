//! Services and what stands behind and before them.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Node, Printed, join, labels, or_none, selector};

pub(super) fn service(printed: &Printed<'_>) -> Vec<Value> {
    vec![
        printed.name(),
        json!(printed.text("/spec/type")),
        or_none(printed.text("/spec/clusterIP")),
        json!(external_address(printed)),
        json!(ports(printed)),
        printed.age(),
        or_none(&labels(printed.at("/spec/selector"))),
    ]
}

/// Where a balancer is reached, each place once.
fn balanced(printed: &Printed<'_>) -> String {
    let points = printed.list("/status/loadBalancer/ingress").iter();
    let places: BTreeSet<&str> =
        points.filter_map(|point| point["ip"].as_str().or(point["hostname"].as_str())).collect();
    join(places.into_iter())
}

fn external_address(printed: &Printed<'_>) -> String {
    let external = join(printed.list("/spec/externalIPs").iter().filter_map(Node::as_str));
    let balanced = balanced(printed);
    match printed.text("/spec/type") {
        "ExternalName" => printed.text("/spec/externalName").to_owned(),
        "LoadBalancer" if balanced.is_empty() && external.is_empty() => "<pending>".to_owned(),
        "LoadBalancer" => {
            [balanced, external].iter().filter(|t| !t.is_empty()).cloned().collect::<Vec<_>>().join(",")
        }
        _ if external.is_empty() => "<none>".to_owned(),
        _ => external,
    }
}

fn ports(printed: &Printed<'_>) -> String {
    let parts: Vec<String> = printed
        .list("/spec/ports")
        .iter()
        .map(|port| {
            let number = |field: &str| port[field].as_i64().unwrap_or(0);
            let protocol = port["protocol"].as_str().unwrap_or("TCP");
            match number("nodePort") {
                0 => format!("{}/{protocol}", number("port")),
                node_port => format!("{}:{node_port}/{protocol}", number("port")),
            }
        })
        .collect();
    if parts.is_empty() { "<none>".to_owned() } else { parts.join(",") }
}

/// The first three of `all`, and how many more there are.
fn first_three(all: &[String]) -> String {
    match all {
        few if few.len() <= 3 => few.join(","),
        many => format!("{} + {} more...", many[..3].join(","), many.len() - 3),
    }
}

pub(super) fn endpoints(printed: &Printed<'_>) -> Vec<Value> {
    let mut all = Vec::new();
    for subset in printed.list("/subsets") {
        let addresses = subset["addresses"].as_array().into_iter().flatten();
        let ips: Vec<&str> = addresses.filter_map(|address| address["ip"].as_str()).collect();
        match subset["ports"].as_array() {
            Some(ports) if !ports.is_empty() => {
                for port in ports {
                    let number = port["port"].as_i64().unwrap_or(0);
                    all.extend(ips.iter().map(|ip| match ip.contains(':') {
                        true => format!("[{ip}]:{number}"),
                        false => format!("{ip}:{number}"),
                    }));
                }
            }
            _ => all.extend(ips.iter().map(|ip| (*ip).to_owned())),
        }
    }
    let is_empty = printed.list("/subsets").is_empty();
    let shown = if is_empty { "<none>".to_owned() } else { first_three(&all) };
    vec![printed.name(), json!(shown), printed.age()]
}

pub(super) fn endpoint_slice(printed: &Printed<'_>) -> Vec<Value> {
    let ports: Vec<String> = printed
        .list("/ports")
        .iter()
        .map(|port| match (port["port"].as_i64(), port["name"].as_str()) {
            (Some(number), _) => number.to_string(),
            (None, Some(name)) => name.to_owned(),
            (None, None) => "*".to_owned(),
        })
        .collect();
    let addresses: Vec<String> = printed
        .list("/endpoints")
        .iter()
        .flat_map(|endpoint| endpoint["addresses"].as_array().into_iter().flatten())
        .filter_map(|address| address.as_str().map(str::to_owned))
        .collect();
    let unset = |text: String| if text.is_empty() { "<unset>".to_owned() } else { text };
    vec![
        printed.name(),
        json!(printed.text("/addressType")),
        json!(unset(first_three(&ports))),
        json!(unset(first_three(&addresses))),
        printed.age(),
    ]
}

pub(super) fn ingress(printed: &Printed<'_>) -> Vec<Value> {
    let hosts: Vec<String> = printed
        .list("/spec/rules")
        .iter()
        .filter_map(|rule| rule["host"].as_str().map(str::to_owned))
        .collect();
    let hosts = if hosts.is_empty() { "*".to_owned() } else { first_three(&hosts) };
    let addresses = balanced(printed);
    let ports = if printed.list("/spec/tls").is_empty() { "80" } else { "80, 443" };
    vec![
        printed.name(),
        or_none(printed.text("/spec/ingressClassName")),
        json!(hosts),
        json!(addresses),
        json!(ports),
        printed.age(),
    ]
}

pub(super) fn ingress_class(printed: &Printed<'_>) -> Vec<Value> {
    let parameters = match (printed.text("/spec/parameters/kind"), printed.text("/spec/parameters/apiGroup"))
    {
        ("", _) => "<none>".to_owned(),
        (kind, "") => format!("{kind}/{}", printed.text("/spec/parameters/name")),
        (kind, group) => format!("{kind}.{group}/{}", printed.text("/spec/parameters/name")),
    };
    vec![printed.name(), json!(printed.text("/spec/controller")), json!(parameters), printed.age()]
}

pub(super) fn network_policy(printed: &Printed<'_>) -> Vec<Value> {
    vec![printed.name(), json!(selector(printed.at("/spec/podSelector"))), printed.age()]
}

pub(super) fn ip_address(printed: &Printed<'_>) -> Vec<Value> {
    let part = |field: &str| printed.text(&format!("/spec/parentRef/{field}"));
    let resource = match part("group") {
        "" => part("resource").to_lowercase(),
        group => format!("{}.{group}", part("resource")).to_lowercase(),
    };
    let parent = [resource.as_str(), part("namespace"), part("name")];
    let parent = parent.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
    vec![printed.name(), or_none(&parent)]
}

pub(super) fn service_cidr(printed: &Printed<'_>) -> Vec<Value> {
    let ranges = join(printed.list("/spec/cidrs").iter().filter_map(Node::as_str));
    vec![printed.name(), json!(ranges), printed.age()]
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use super::*;

    #[test]
    fn a_service_prints_its_addresses_and_ports() {
        let object = json!({"metadata": {"name": "web", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"type": "NodePort", "clusterIP": "10.96.0.9", "selector": {"app": "web"},
            "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}});
        check(
            service,
            &object,
            &["web", "NodePort", "10.96.0.9", "<none>", "80:30080/TCP,53/UDP", "5m", "app=web"],
        );
    }

    #[test]
    fn many_endpoints_are_counted() {
        let addresses: Vec<Value> = (1..=5).map(|n| json!({"ip": format!("10.0.0.{n}")})).collect();
        let object = json!({"metadata": {"name": "web", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "subsets": [{"addresses": addresses, "ports": [{"port": 80}]}]});
        check(endpoints, &object, &["web", "10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 2 more...", "5m"]);
    }

    #[test]
    fn selectors_and_balancers_are_shown_in_order() {
        let object = json!({"metadata": {"name": "web", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.9", "selector": {"b": "2", "a": "1"}},
            "status": {"loadBalancer": {"ingress": [{"hostname": "h"}, {"ip": "1.2.3.4"}, {"hostname": "h"}]}}});
        check(
            service,
            &object,
            &["web", "LoadBalancer", "10.96.0.9", "1.2.3.4,h", "<none>", "5m", "a=1,b=2"],
        );
        let object = json!({"metadata": {"name": "p", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"podSelector": {"matchLabels": {"c": "1"}, "matchExpressions": [{"key": "b", "operator": "In", "values": ["z", "y"]}]}}});
        check(network_policy, &object, &["p", "b in (y,z),c=1", "5m"]);
    }

    #[test]
    fn ports_of_a_slice_are_numbers_or_names() {
        let of = |ports: Value| json!({"metadata": {"name": "s", "creationTimestamp": "2026-01-01T00:00:00Z"}, "addressType": "IPv4", "ports": ports});
        for (ports, shown) in [
            (json!([{"name": "a", "port": 80}, {"name": "b"}]), "80,b"),
            (json!([{"name": ""}]), "<unset>"),
            (json!([]), "<unset>"),
        ] {
            check(endpoint_slice, &of(ports), &["s", "IPv4", shown, "<unset>", "5m"]);
        }
    }

    #[test]
    fn only_endpoints_without_subsets_have_none() {
        let of = |subsets: Value| json!({"metadata": {"name": "e", "creationTimestamp": "2026-01-01T00:00:00Z"}, "subsets": subsets});
        check(endpoints, &of(json!(null)), &["e", "<none>", "5m"]);
        check(endpoints, &of(json!([{"notReadyAddresses": [{"ip": "1.2.3.4"}]}])), &["e", "", "5m"]);
        let six = json!([{"addresses": [{"ip": "fd00::1"}], "ports": [{"port": 80}]}]);
        check(endpoints, &of(six), &["e", "[fd00::1]:80", "5m"]);
    }
}
