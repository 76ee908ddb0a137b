//! Addresses and networks.

use std::fmt;
use std::net::IpAddr;

use super::super::error::EvalError;
use super::super::value::{Opaque, Value};
use super::{Arguments, Cost, ONE, Row, bool, global, member, text};

/// An address with the length of its network's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

const READ: Cost = Cost::Text(0);

pub(super) static ROWS: &[Row] = &[
    global("ip", "string", "IP", READ, |a| parse_ip(a.text(0)?).map(ip)),
    global("isIP", "string", "bool", READ, |a| bool(parse_ip(a.text(0)?).is_ok())),
    global("ip.isCanonical", "string", "bool", READ, |a| {
        let address = parse_ip(a.text(0)?)?;
        bool(address.to_string() == a.text(0)?)
    }),
    member("family", "IP", "int", ONE, |a| Ok(Value::Int(if address(&a)?.is_ipv4() { 4 } else { 6 }))),
    member("isUnspecified", "IP", "bool", ONE, |a| bool(address(&a)?.is_unspecified())),
    member("isLoopback", "IP", "bool", ONE, |a| bool(address(&a)?.is_loopback())),
    member("isLinkLocalMulticast", "IP", "bool", ONE, |a| {
        bool(match address(&a)? {
            IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
            IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
        })
    }),
    member("isLinkLocalUnicast", "IP", "bool", ONE, |a| {
        bool(match address(&a)? {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
        })
    }),
    member("isGlobalUnicast", "IP", "bool", ONE, |a| {
        let address = address(&a)?;
        let is_link_local = match address {
            IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
            IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
        };
        bool(!address.is_unspecified() && !address.is_loopback() && !address.is_multicast() && !is_link_local)
    }),
    global("cidr", "string", "CIDR", READ, |a| {
        parse_cidr(a.text(0)?).map(|c| Value::Opaque(Opaque::Cidr(c)))
    }),
    global("isCIDR", "string", "bool", READ, |a| bool(parse_cidr(a.text(0)?).is_ok())),
    member("containsIP", "CIDR, string", "bool", READ, |a| {
        bool(contains(network(&a, 0)?, parse_ip(a.text(1)?)?))
    }),
    member("containsIP", "CIDR, IP", "bool", ONE, |a| match a.opaque(1)? {
        Opaque::Ip(address) => bool(contains(network(&a, 0)?, *address)),
        _ => Err(EvalError::no_overload()),
    }),
    member("containsCIDR", "CIDR, string", "bool", READ, |a| {
        bool(contains_cidr(network(&a, 0)?, parse_cidr(a.text(1)?)?))
    }),
    member("containsCIDR", "CIDR, CIDR", "bool", ONE, |a| {
        bool(contains_cidr(network(&a, 0)?, network(&a, 1)?))
    }),
    member("ip", "CIDR", "IP", ONE, |a| Ok(ip(network(&a, 0)?.address))),
    member("masked", "CIDR", "CIDR", ONE, |a| {
        let Cidr { address, prefix } = network(&a, 0)?;
        Ok(Value::Opaque(Opaque::Cidr(Cidr { address: masked(address, prefix), prefix })))
    }),
    member("prefixLength", "CIDR", "int", ONE, |a| Ok(Value::Int(network(&a, 0)?.prefix.into()))),
    member("string", "CIDR", "string", ONE, |a| text(network(&a, 0)?.to_string())),
];

fn ip<'a>(address: IpAddr) -> Value<'a> {
    Value::Opaque(Opaque::Ip(address))
}

fn address(a: &Vec<Value<'_>>) -> Result<IpAddr, EvalError> {
    match a.opaque(0)? {
        Opaque::Ip(address) => Ok(*address),
        _ => Err(EvalError::no_overload()),
    }
}

fn network(a: &Vec<Value<'_>>, at: usize) -> Result<Cidr, EvalError> {
    match a.opaque(at)? {
        Opaque::Cidr(cidr) => Ok(*cidr),
        _ => Err(EvalError::no_overload()),
    }
}

/// Kubernetes refuses addresses with zones and IPv4 addresses written as IPv6.
fn parse_ip(text: &str) -> Result<IpAddr, EvalError> {
    let wrong = |why: String| {
        EvalError::failed(format!("IP Address '{text}' parse error during conversion from string: {why}"))
    };
    let address: IpAddr =
        text.parse().map_err(|_| wrong(format!("ParseAddr(\"{text}\"): unable to parse IP")))?;
    match address {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Err(wrong(format!("IPv4-mapped IPv6 address \"{text}\" is not allowed")))
        }
        _ => Ok(address),
    }
}

fn parse_cidr(text: &str) -> Result<Cidr, EvalError> {
    let wrong = || {
        EvalError::failed(format!(
            "network address parse error during conversion from string: netip.ParsePrefix(\"{text}\"): no '/'"
        ))
    };
    let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
    let address = parse_ip(address)?;
    let is_plain = prefix == "0" || !prefix.starts_with('0') && prefix.bytes().all(|b| b.is_ascii_digit());
    let prefix = prefix.parse::<u8>().ok().filter(|_| is_plain).ok_or_else(wrong)?;
    match prefix <= bits(address) {
        true => Ok(Cidr { address, prefix }),
        false => Err(wrong()),
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    }
}

fn contains(network: Cidr, address: IpAddr) -> bool {
    network.address.is_ipv4() == address.is_ipv4()
        && masked(network.address, network.prefix) == masked(address, network.prefix)
}

fn contains_cidr(network: Cidr, other: Cidr) -> bool {
    network.prefix <= other.prefix && contains(network, masked(other.address, other.prefix))
}
