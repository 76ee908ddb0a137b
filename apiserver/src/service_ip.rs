//! Cluster addresses and node ports of services: who has which, so that no two have the same.
//!
//! An address is taken while there is an IPAddress of its name (`objects`), which is written and deleted in the
//! same revision as the service that has it; `repair` puts right what others did to these objects. Addresses may
//! be of any range that a ServiceCIDR names. Node ports are kept in memory and rebuilt from the services at start.

pub(crate) mod objects;
pub(crate) mod repair;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;

use crate::view::View;

/// A range of addresses, as `--service-cidr` gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ServiceCidr {
    network: IpAddr,
    prefix: u8,
}

/// Text that is not a usable range of service addresses.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum CidrError {
    #[error("{0:?} is not a range of addresses such as 10.96.0.0/16")]
    Malformed(String),
    #[error("{0:?} leaves no room for services: use a prefix of at most /30 (IPv4) or /126 (IPv6)")]
    TooSmall(String),
}

impl std::str::FromStr for ServiceCidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let malformed = || CidrError::Malformed(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(malformed)?;
        let address: IpAddr = address.parse().map_err(|_| malformed())?;
        let prefix: u8 = prefix.parse().map_err(|_| malformed())?;
        let bits = width(&address);
        if prefix > bits {
            return Err(malformed());
        }
        if bits - prefix < 2 {
            return Err(CidrError::TooSmall(text.to_owned()));
        }
        let network =
            from_number(to_number(&address) >> (bits - prefix) << (bits - prefix), address.is_ipv4());
        Ok(Self { network, prefix })
    }
}

impl std::fmt::Display for ServiceCidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl ServiceCidr {
    /// The range that Kubernetes installers use: 10.96.0.0/16.
    #[cfg(test)]
    pub(crate) fn usual() -> Self {
        Self { network: IpAddr::V4(Ipv4Addr::new(10, 96, 0, 0)), prefix: 16 }
    }

    /// The first usable address, which the service `kubernetes` has.
    pub(crate) fn first(&self) -> IpAddr {
        self.nth(1)
    }

    /// Whether the address lies in the range.
    pub(crate) fn contains(&self, address: &IpAddr) -> bool {
        let shift = width(address) - self.prefix.min(width(address));
        address.is_ipv4() == self.network.is_ipv4()
            && to_number(address).checked_shr(shift.into())
                == to_number(&self.network).checked_shr(shift.into())
    }

    /// Whether a service may have the address: all of the range but the network and the broadcast address.
    fn offers(&self, address: &IpAddr) -> bool {
        let count = 1u128.checked_shl(u32::from(width(&self.network) - self.prefix)).unwrap_or(u128::MAX);
        let is_last = |offset| address.is_ipv4() && offset == count - 1;
        self.contains(address)
            && !matches!(to_number(address) - to_number(&self.network), offset if offset == 0 || is_last(offset))
    }

    pub(crate) fn is_ipv4(&self) -> bool {
        self.network.is_ipv4()
    }

    fn nth(&self, offset: u128) -> IpAddr {
        from_number(to_number(&self.network) + offset, self.network.is_ipv4())
    }

    /// How many addresses may be given out: all but the network and, for IPv4, the broadcast address.
    fn usable(&self) -> u128 {
        let bits = u32::from(width(&self.network) - self.prefix).min(64);
        (1u128 << bits) - 2
    }
}

fn width(address: &IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn to_number(address: &IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(*v4)),
        IpAddr::V6(v6) => u128::from(*v6),
    }
}

fn from_number(number: u128, is_ipv4: bool) -> IpAddr {
    match is_ipv4 {
        true => IpAddr::V4(Ipv4Addr::from((number & u128::from(u32::MAX)) as u32)),
        false => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

/// Why an address or port was not given.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum ClaimError {
    #[error("the provided network does not match the current range")]
    OutsideOfRange,
    #[error("provided IP is already allocated")]
    AddressTaken,
    #[error("provided port is already allocated")]
    PortTaken,
    #[error("provided port is not in the valid range. The range of valid ports is {}-{}", PORTS.start(), PORTS.end())]
    PortOutsideOfRange,
    #[error("range is full")]
    Full,
}

/// Node ports that services may have.
const PORTS: std::ops::RangeInclusive<u16> = 30000..=32767;

#[derive(Default)]
struct Taken {
    /// Those of writes that are on their way; all others have an object.
    addresses: BTreeSet<IpAddr>,
    ports: BTreeSet<u16>,
    /// Where the search for a free address goes on, so that an address is not reused at once.
    next_address: u128,
    next_port: u16,
}

impl Taken {
    /// Takes a free address of the range. The very first is that of the service `kubernetes`.
    fn find_free(&mut self, range: &ServiceCidr, first: &ServiceCidr, view: &dyn View) -> Option<IpAddr> {
        let usable = range.usable();
        let reserved = (usable / 16).min(256);
        for step in 0..usable.min(1 << 20) {
            let offset = (reserved + self.next_address + step) % usable;
            let address = range.nth(offset + 1);
            if address == first.first()
                || self.addresses.contains(&address)
                || objects::is_taken(view, &address)
            {
                continue;
            }
            self.addresses.insert(address);
            self.next_address = (self.next_address + step + 1) % usable;
            return Some(address);
        }
        None
    }
}

/// The allocator: shared by all writes.
#[derive(Clone)]
pub(crate) struct ServiceAddresses {
    cidr: ServiceCidr,
    taken: Arc<Mutex<Taken>>,
}

impl ServiceAddresses {
    pub(crate) fn new(cidr: ServiceCidr) -> Self {
        Self { cidr, taken: Arc::default() }
    }

    pub(crate) fn cidr(&self) -> &ServiceCidr {
        &self.cidr
    }

    /// Notes the ports that a stored service has; used at start.
    pub(crate) fn note(&self, service: &Value) {
        self.taken.lock().ports.extend(ports_of(service));
    }

    /// Frees the ports that a service that is gone had.
    pub(crate) fn release(&self, service: &Value) {
        self.release_all(&[], &ports_of(service));
    }

    fn release_all(&self, addresses: &[IpAddr], ports: &[u16]) {
        let mut taken = self.taken.lock();
        addresses.iter().for_each(|address| {
            taken.addresses.remove(address);
        });
        ports.iter().for_each(|port| {
            taken.ports.remove(port);
        });
    }

    /// An empty claim to collect addresses and ports in.
    pub(crate) fn claim(&self) -> Claim {
        Claim { of: Some(self.clone()), addresses: Vec::new(), ports: Vec::new(), freed_ports: Vec::new() }
    }

    /// The ranges that addresses may be taken from now: of the family of the first, which is also the only one
    /// as long as there are no objects for ranges.
    fn ranges(&self, view: &dyn View) -> Vec<ServiceCidr> {
        let all = view.objects(objects::RANGES, None);
        if all.is_empty() {
            return vec![self.cidr];
        }
        let ready = all.iter().filter(|range| objects::is_ready(range));
        let texts = ready.flat_map(|range| range["spec"]["cidrs"].as_array().into_iter().flatten());
        let parsed = texts.filter_map(|text| text.as_str()?.parse::<ServiceCidr>().ok());
        parsed.filter(|range| range.is_ipv4() == self.cidr.is_ipv4()).collect()
    }
}

/// Addresses and ports taken for a write that has not happened yet. Dropped without [`Claim::keep`], they are
/// free again.
#[derive(Default)]
pub(crate) struct Claim {
    of: Option<ServiceAddresses>,
    addresses: Vec<IpAddr>,
    ports: Vec<u16>,
    freed_ports: Vec<u16>,
}

impl Claim {
    /// A given address.
    pub(crate) fn address(&mut self, view: &dyn View, address: IpAddr) -> Result<(), ClaimError> {
        let Some(owner) = &self.of else { return Ok(()) };
        if !owner.ranges(view).iter().any(|range| range.offers(&address)) {
            return Err(ClaimError::OutsideOfRange);
        }
        if objects::is_taken(view, &address) || !owner.taken.lock().addresses.insert(address) {
            return Err(ClaimError::AddressTaken);
        }
        self.addresses.push(address);
        Ok(())
    }

    /// Any free address. The lower part of a range is kept for addresses that users choose.
    pub(crate) fn any_address(&mut self, view: &dyn View) -> Result<IpAddr, ClaimError> {
        let Some(owner) = &self.of else { return Err(ClaimError::Full) };
        let mut taken = owner.taken.lock();
        for range in owner.ranges(view) {
            if let Some(address) = taken.find_free(&range, &owner.cidr, view) {
                self.addresses.push(address);
                return Ok(address);
            }
        }
        Err(ClaimError::Full)
    }

    /// A given node port.
    pub(crate) fn port(&mut self, port: u16) -> Result<(), ClaimError> {
        let Some(owner) = &self.of else { return Ok(()) };
        if !PORTS.contains(&port) {
            return Err(ClaimError::PortOutsideOfRange);
        }
        if !owner.taken.lock().ports.insert(port) {
            return Err(ClaimError::PortTaken);
        }
        self.ports.push(port);
        Ok(())
    }

    /// Any free node port.
    pub(crate) fn any_port(&mut self) -> Result<u16, ClaimError> {
        let Some(owner) = &self.of else { return Err(ClaimError::Full) };
        let count = PORTS.end() - PORTS.start() + 1;
        let mut taken = owner.taken.lock();
        for step in 0..count {
            let port = PORTS.start() + (taken.next_port + step) % count;
            if taken.ports.insert(port) {
                taken.next_port = (taken.next_port + step + 1) % count;
                self.ports.push(port);
                return Ok(port);
            }
        }
        Err(ClaimError::Full)
    }

    /// What the object no longer has once the write has happened.
    pub(crate) fn free_later(&mut self, ports: Vec<u16>) {
        self.freed_ports.extend(ports);
    }

    /// The write has happened: what was claimed belongs to the object, whose addresses have objects now.
    pub(crate) fn keep(mut self) {
        self.ports.clear();
        if let Some(owner) = &self.of {
            owner.release_all(&[], &self.freed_ports);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(owner) = &self.of {
            owner.release_all(&self.addresses, &self.ports);
        }
    }
}

/// The cluster addresses in a service; `None` (headless) is not one.
pub(crate) fn addresses_of(service: &Value) -> Vec<IpAddr> {
    let list = service.pointer("/spec/clusterIPs").and_then(Value::as_array).into_iter().flatten();
    let first = service.pointer("/spec/clusterIP").into_iter();
    let found: BTreeSet<IpAddr> =
        first.chain(list).filter_map(Value::as_str).filter_map(|a| a.parse().ok()).collect();
    found.into_iter().collect()
}

/// The node ports in a service, the health check's among them.
pub(crate) fn ports_of(service: &Value) -> Vec<u16> {
    let ports = service.pointer("/spec/ports").and_then(Value::as_array).into_iter().flatten();
    let ports = ports.filter_map(|p| p.get("nodePort")).chain(service.pointer("/spec/healthCheckNodePort"));
    let found: BTreeSet<u16> =
        ports.filter_map(Value::as_u64).filter_map(|p| u16::try_from(p).ok()).filter(|p| *p != 0).collect();
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::view::fixture::Fixture;

    fn addresses(cidr: &str) -> ServiceAddresses {
        ServiceAddresses::new(cidr.parse().unwrap())
    }

    #[test]
    fn a_range_is_parsed_masked_and_printed() {
        let cidr: ServiceCidr = "10.96.3.4/16".parse().unwrap();
        assert_eq!((cidr.to_string(), cidr.first().to_string()), ("10.96.0.0/16".into(), "10.96.0.1".into()));
        assert!(
            cidr.contains(&"10.96.255.1".parse().unwrap()) && !cidr.contains(&"10.97.0.1".parse().unwrap())
        );
        assert_eq!("10.96.0.0/31".parse::<ServiceCidr>(), Err(CidrError::TooSmall("10.96.0.0/31".into())));
        assert!("nonsense".parse::<ServiceCidr>().is_err());
    }

    fn taken(world: Fixture, address: &str) -> Fixture {
        world.with(objects::ADDRESSES, json!({"metadata": {"name": address}}))
    }

    #[test]
    fn an_address_is_taken_while_it_is_claimed_or_has_an_object() {
        let (all, world) = (addresses("10.0.0.0/24"), Fixture::default());
        let wanted: IpAddr = "10.0.0.7".parse().unwrap();
        all.claim().address(&world, wanted).unwrap();
        let mut claim = all.claim();
        claim.address(&world, wanted).unwrap();
        assert_eq!(all.claim().address(&world, wanted), Err(ClaimError::AddressTaken));
        claim.keep();
        assert_eq!(all.claim().address(&taken(world, "10.0.0.7"), wanted), Err(ClaimError::AddressTaken));
    }

    #[test]
    fn every_address_is_given_once_until_the_range_is_full() {
        let (all, world) = (addresses("10.0.0.0/28"), taken(Fixture::default(), "10.0.0.3"));
        let mut claim = all.claim();
        let given: BTreeSet<IpAddr> = std::iter::from_fn(|| claim.any_address(&world).ok()).collect();
        assert_eq!(
            given.len(),
            12,
            "sixteen less network, broadcast, the address of the service kubernetes and the one with an object"
        );
        assert!(!given.contains(&"10.0.0.1".parse().unwrap()));
        assert_eq!(claim.any_address(&world), Err(ClaimError::Full));
    }

    #[test]
    fn addresses_come_from_every_range_that_is_ready() {
        let range = |name: &str, cidr: &str, status: &str| {
            json!({"metadata": {"name": name}, "spec": {"cidrs": [cidr]},
                "status": {"conditions": [{"type": "Ready", "status": status}]}})
        };
        let all = addresses("10.0.0.0/30");
        let world = Fixture::default()
            .with(objects::RANGES, range("kubernetes", "10.0.0.0/30", "True"))
            .with(objects::RANGES, range("more", "10.7.0.0/24", "True"))
            .with(objects::RANGES, range("going", "10.8.0.0/24", "False"))
            .with(objects::RANGES, range("other", "fd00::/64", "True"));
        let mut claim = all.claim();
        assert_eq!(claim.any_address(&world).unwrap().to_string(), "10.0.0.2");
        assert!(claim.any_address(&world).unwrap().to_string().starts_with("10.7.0."));
        for (address, expected) in [
            ("10.7.0.9", Ok(())),
            ("10.7.0.0", Err(ClaimError::OutsideOfRange)),
            ("10.7.0.255", Err(ClaimError::OutsideOfRange)),
            ("10.8.0.9", Err(ClaimError::OutsideOfRange)),
        ] {
            assert_eq!(claim.address(&world, address.parse().unwrap()), expected, "{address}");
        }
    }

    #[test]
    fn node_ports_outside_of_the_range_are_refused() {
        let all = addresses("10.0.0.0/24");
        let mut claim = all.claim();
        assert_eq!(claim.port(80), Err(ClaimError::PortOutsideOfRange));
        assert_eq!(claim.any_port(), Ok(30000));
        assert_eq!(claim.port(30000), Err(ClaimError::PortTaken));
    }
}
