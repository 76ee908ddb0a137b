//! Names and addresses of pods: the pool of pod addresses, name servers and `/etc/hosts`. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use k8s_openapi::api::core::v1::{HostAlias, Pod, PodSpec};

use crate::runtime::{DnsConfig, IpConfig};

/// Why there is no pool of addresses.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is not an IPv4 network like 10.244.1.0/24")]
pub(crate) struct ParseCidrError {
    text: String,
}

/// The addresses of one node's pods, one per pod. The network's first address is the gateway.
#[derive(Debug)]
pub(crate) struct Pool {
    network: u32,
    prefix_len: u8,
    next: u32,
    taken: BTreeMap<u32, String>,
}

impl Pool {
    pub(crate) fn parse(cidr: &str) -> Result<Self, ParseCidrError> {
        let refused = || ParseCidrError { text: cidr.to_owned() };
        let (address, prefix) = cidr.split_once('/').ok_or_else(refused)?;
        let address: Ipv4Addr = address.parse().map_err(|_| refused())?;
        let prefix_len: u8 = prefix.parse().map_err(|_| refused())?;
        if !(8..=30).contains(&prefix_len) {
            return Err(refused());
        }
        let network = u32::from(address) & (u32::MAX << (32 - prefix_len));
        Ok(Self { network, prefix_len, next: 2, taken: BTreeMap::new() })
    }

    /// The pod's address: the one it has, else the next free one; `None` when all are taken.
    pub(crate) fn take(&mut self, pod_uid: &str) -> Option<IpConfig> {
        if let Some((offset, _)) = self.taken.iter().find(|(_, uid)| *uid == pod_uid) {
            return Some(self.config(*offset));
        }
        let size = (1u32 << (32 - self.prefix_len)) - 1;
        let candidates = (self.next..size).chain(2..self.next.min(size));
        let offset = candidates.into_iter().find(|offset| !self.taken.contains_key(offset))?;
        self.taken.insert(offset, pod_uid.to_owned());
        self.next = offset + 1;
        Some(self.config(offset))
    }

    /// Marks the address of a pod that already runs.
    pub(crate) fn adopt(&mut self, pod_uid: &str, address: IpAddr) {
        let IpAddr::V4(v4) = address else { return };
        let offset = u32::from(v4).wrapping_sub(self.network);
        if offset < (1u32 << (32 - self.prefix_len)) {
            self.taken.insert(offset, pod_uid.to_owned());
        }
    }

    pub(crate) fn release(&mut self, pod_uid: &str) {
        self.taken.retain(|_, uid| uid != pod_uid);
    }

    fn config(&self, offset: u32) -> IpConfig {
        let at = |offset: u32| IpAddr::V4(Ipv4Addr::from(self.network + offset));
        IpConfig { address: at(offset), prefix_len: self.prefix_len, gateway: at(1) }
    }
}

/// How this node's pods resolve names.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dns {
    /// Addresses of the cluster's name server; empty: there is none, and every pod gets the node's.
    pub(crate) cluster: Vec<String>,
    pub(crate) domain: String,
    pub(crate) node: DnsConfig,
}

/// What a pod's `resolv.conf` says, by its `dnsPolicy` and `dnsConfig`.
pub(crate) fn dns_of(pod: &Pod, dns: &Dns) -> DnsConfig {
    let Some(spec) = &pod.spec else { return DnsConfig::default() };
    let on_host = spec.host_network == Some(true);
    let cluster_first = match spec.dns_policy.as_deref() {
        Some("ClusterFirstWithHostNet") => true,
        Some("Default" | "None") => false,
        _ => !on_host,
    };
    let mut config = match (spec.dns_policy.as_deref(), cluster_first && !dns.cluster.is_empty()) {
        (Some("None"), _) => DnsConfig::default(),
        (_, true) => in_cluster(pod.metadata.namespace.as_deref().unwrap_or_default(), dns),
        (_, false) => dns.node.clone(),
    };
    if let Some(own) = &spec.dns_config {
        config.servers.extend(own.nameservers.iter().flatten().cloned());
        config.searches.extend(own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            config.options.retain(|it| it.split(':').next() != Some(name.as_str()));
            config
                .options
                .push(option.value.as_ref().map_or(name.clone(), |value| format!("{name}:{value}")));
        }
    }
    config
}

fn in_cluster(namespace: &str, dns: &Dns) -> DnsConfig {
    let domain = &dns.domain;
    let mut searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
    searches.extend(dns.node.searches.iter().cloned());
    DnsConfig { servers: dns.cluster.clone(), searches, options: vec!["ndots:5".to_owned()] }
}

/// Reads a `resolv.conf`; what is not understood is left out.
pub(crate) fn parse_resolv_conf(text: &str) -> DnsConfig {
    let mut config = DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let keyword = words.next();
        let values = words.map(str::to_owned);
        match keyword {
            Some("nameserver") => config.servers.extend(values.take(1)),
            Some("search") => config.searches = values.collect(),
            Some("options") => config.options.extend(values),
            _ => {}
        }
    }
    config
}

/// The pod's host name inside its sandbox: `spec.hostname` or the pod's name, at most 63 characters.
pub(crate) fn hostname(pod: &Pod) -> String {
    let own = pod.spec.as_ref().and_then(|it| it.hostname.clone()).filter(|it| !it.is_empty());
    let name: String =
        own.or_else(|| pod.metadata.name.clone()).unwrap_or_default().chars().take(63).collect();
    name.trim_end_matches(['-', '.']).to_owned()
}

/// The text of a pod's `/etc/hosts`.
pub(crate) fn etc_hosts(pod: &Pod, ips: &[IpAddr], domain: &str) -> String {
    let mut text = "# Kubernetes-managed hosts file.\n\
        127.0.0.1\tlocalhost\n\
        ::1\tlocalhost ip6-localhost ip6-loopback\n\
        fe00::0\tip6-localnet\n\
        fe00::0\tip6-mcastprefix\n\
        fe00::1\tip6-allnodes\n\
        fe00::2\tip6-allrouters\n"
        .to_owned();
    let name = hostname(pod);
    for ip in ips {
        match subdomain(pod, domain) {
            Some(under) => text.push_str(&format!("{ip}\t{name}.{under}\t{name}\n")),
            None => text.push_str(&format!("{ip}\t{name}\n")),
        }
    }
    text.push_str(&aliases(pod.spec.as_ref()));
    text
}

/// The text of `/etc/hosts` of a pod in the node's own network: the node's, and what the pod adds.
pub(crate) fn etc_hosts_on_node(pod: &Pod, node: &str) -> String {
    format!("# Kubernetes-managed hosts file (host network).\n{node}{}", aliases(pod.spec.as_ref()))
}

fn subdomain(pod: &Pod, domain: &str) -> Option<String> {
    let own = pod.spec.as_ref()?.subdomain.as_deref().filter(|it| !it.is_empty())?;
    Some(format!("{own}.{}.svc.{domain}", pod.metadata.namespace.as_deref().unwrap_or_default()))
}

fn aliases(spec: Option<&PodSpec>) -> String {
    let given: Vec<&HostAlias> = spec.and_then(|it| it.host_aliases.as_ref()).into_iter().flatten().collect();
    if given.is_empty() {
        return String::new();
    }
    let lines: Vec<String> = given
        .iter()
        .map(|it| format!("{}\t{}", it.ip, it.hostnames.clone().unwrap_or_default().join("\t")))
        .collect();
    format!("\n# Entries added by HostAliases.\n{}\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        let meta = serde_json::json!({"name": "web-0", "namespace": "ns"});
        serde_json::from_value(serde_json::json!({"metadata": meta, "spec": spec})).unwrap()
    }

    #[test]
    fn a_pod_keeps_its_address_until_it_is_released() {
        let mut pool = Pool::parse("10.1.2.0/30").unwrap();
        let first = pool.take("a").unwrap();
        assert_eq!(first.address.to_string(), "10.1.2.2");
        assert_eq!(first.gateway.to_string(), "10.1.2.1");
        assert_eq!(pool.take("a"), Some(first.clone()));
        assert_eq!(pool.take("b"), None);
        pool.release("a");
        assert_eq!(pool.take("b"), Some(first));
    }

    #[test]
    fn an_adopted_address_is_not_given_away() {
        let mut pool = Pool::parse("10.1.2.0/24").unwrap();
        pool.adopt("old", "10.1.2.2".parse().unwrap());
        assert_eq!(pool.take("new").unwrap().address.to_string(), "10.1.2.3");
    }

    #[test]
    fn a_network_that_is_none_is_refused_by_name() {
        assert!(Pool::parse("10.1.2.0").unwrap_err().to_string().contains("10.1.2.0"));
    }

    #[test]
    fn cluster_first_searches_the_namespace() {
        let dns = Dns { cluster: vec!["10.0.0.10".into()], domain: "cluster.local".into(), ..Dns::default() };
        let config = dns_of(&pod(serde_json::json!({"containers": []})), &dns);
        assert_eq!(config.searches, ["ns.svc.cluster.local", "svc.cluster.local", "cluster.local"]);
        assert_eq!((config.servers, config.options), (dns.cluster, vec!["ndots:5".to_owned()]));
    }

    #[test]
    fn without_a_cluster_name_server_the_nodes_is_used() {
        let node = parse_resolv_conf("nameserver 1.1.1.1\nsearch a b\n# x\n");
        let dns = Dns { node: node.clone(), ..Dns::default() };
        assert_eq!(dns_of(&pod(serde_json::json!({"containers": []})), &dns), node);
    }

    #[test]
    fn hosts_file_names_the_pod_under_its_subdomain() {
        let pod = pod(serde_json::json!({"containers": [], "subdomain": "web",
            "hostAliases": [{"ip": "9.9.9.9", "hostnames": ["nine"]}]}));
        let text = etc_hosts(&pod, &["10.0.0.4".parse().unwrap()], "cluster.local");
        assert!(text.contains("10.0.0.4\tweb-0.web.ns.svc.cluster.local\tweb-0\n"));
        assert!(text.ends_with("9.9.9.9\tnine\n"));
    }

    #[test]
    fn hosts_file_in_the_nodes_network_is_that_of_the_node_and_the_aliases() {
        let pod = pod(serde_json::json!({"containers": [], "hostNetwork": true,
            "hostAliases": [{"ip": "9.9.9.9", "hostnames": ["nine"]}]}));
        let text = etc_hosts_on_node(&pod, "127.0.0.1 localhost\n");
        assert!(text.starts_with("# Kubernetes-managed hosts file (host network).\n127.0.0.1 localhost\n"));
        assert!(text.ends_with("9.9.9.9\tnine\n"));
    }
}
