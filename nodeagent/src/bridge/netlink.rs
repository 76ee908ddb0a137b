//! The few requests to the kernel's routing socket that pods need, so that no `ip` program is.
//!
//! Requests are encoded by hand as rtnetlink(7) lays them out: a header, a fixed part, then attributes of
//! length, type and value, each padded to four bytes. One request at a time; each is acknowledged.

use std::io;
use std::net::IpAddr;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

const REQUEST_ACK: u16 = 1 | 4;
const CREATE: u16 = 0x400;
const EXCLUSIVE: u16 = 0x200;
const REPLACE: u16 = 0x100;
const DUMP: u16 = 0x300;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_PID: u16 = 19;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFF_UP: u32 = 1;

/// A connection to the kernel of the network namespace in which it was opened.
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
}

/// A link as listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) master: Option<u32>,
}

impl Netlink {
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    pub(crate) fn links(&mut self) -> io::Result<Vec<Link>> {
        let answers = self.request(RTM_GETLINK, 1 | DUMP, &link_head(0, 0, 0))?;
        Ok(answers.iter().filter_map(|answer| decode_link(answer)).collect())
    }

    /// The number of the link, or `NotFound`.
    pub(crate) fn index_of(&mut self, name: &str) -> io::Result<u32> {
        let found = self.links()?.into_iter().find(|link| link.name == name);
        found.map(|link| link.index).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, name.to_owned()))
    }

    pub(crate) fn add_bridge(&mut self, name: &str) -> io::Result<()> {
        let mut message = link_head(0, 0, 0);
        attribute(&mut message, IFLA_IFNAME, &zero_ended(name));
        nest(&mut message, IFLA_LINKINFO, |info| attribute(info, IFLA_INFO_KIND, b"bridge"));
        self.request(RTM_NEWLINK, REQUEST_ACK | CREATE | EXCLUSIVE, &message).map(drop)
    }

    /// A pair of links: `host` on the bridge with index `master`, `peer` in the network namespace of process `pid`.
    pub(crate) fn add_veth(&mut self, host: &str, master: u32, peer: &str, pid: i32) -> io::Result<()> {
        let mut message = link_head(0, IFF_UP, IFF_UP);
        attribute(&mut message, IFLA_IFNAME, &zero_ended(host));
        attribute(&mut message, IFLA_MASTER, &master.to_ne_bytes());
        nest(&mut message, IFLA_LINKINFO, |info| {
            attribute(info, IFLA_INFO_KIND, b"veth");
            nest(info, IFLA_INFO_DATA, |data| {
                nest(data, VETH_INFO_PEER, |link| {
                    link.extend(link_head(0, 0, 0));
                    attribute(link, IFLA_IFNAME, &zero_ended(peer));
                    attribute(link, IFLA_NET_NS_PID, &pid.to_ne_bytes());
                });
            });
        });
        self.request(RTM_NEWLINK, REQUEST_ACK | CREATE | EXCLUSIVE, &message).map(drop)
    }

    pub(crate) fn set_up(&mut self, index: u32) -> io::Result<()> {
        self.request(RTM_NEWLINK, REQUEST_ACK, &link_head(index, IFF_UP, IFF_UP)).map(drop)
    }

    /// A fixed hardware address: without one a bridge takes its ports' lowest, and pods lose their neighbour.
    pub(crate) fn set_hardware_address(&mut self, index: u32, address: [u8; 6]) -> io::Result<()> {
        let mut message = link_head(index, 0, 0);
        attribute(&mut message, IFLA_ADDRESS, &address);
        self.request(RTM_NEWLINK, REQUEST_ACK, &message).map(drop)
    }

    pub(crate) fn delete_link(&mut self, index: u32) -> io::Result<()> {
        self.request(RTM_DELLINK, REQUEST_ACK, &link_head(index, 0, 0)).map(drop)
    }

    pub(crate) fn add_address(&mut self, index: u32, address: IpAddr, prefix_len: u8) -> io::Result<()> {
        let mut message = vec![family(address), prefix_len, 0, 0];
        message.extend(index.to_ne_bytes());
        attribute(&mut message, 2, &octets(address));
        attribute(&mut message, 1, &octets(address));
        self.request(RTM_NEWADDR, REQUEST_ACK | CREATE | REPLACE, &message).map(drop)
    }

    pub(crate) fn add_default_route(&mut self, index: u32, gateway: IpAddr) -> io::Result<()> {
        let mut message = route_head(family(gateway), 0);
        attribute(&mut message, 5, &octets(gateway));
        attribute(&mut message, 4, &index.to_ne_bytes());
        self.request(RTM_NEWROUTE, REQUEST_ACK | CREATE | REPLACE, &message).map(drop)
    }

    /// A route to another node's pods by that node's address.
    pub(crate) fn add_route(&mut self, to: IpAddr, prefix_len: u8, gateway: IpAddr) -> io::Result<()> {
        let message = route_by_gateway(to, prefix_len, gateway);
        self.request(RTM_NEWROUTE, REQUEST_ACK | CREATE | REPLACE, &message).map(drop)
    }

    pub(crate) fn delete_route(&mut self, to: IpAddr, prefix_len: u8, gateway: IpAddr) -> io::Result<()> {
        self.request(RTM_DELROUTE, REQUEST_ACK, &route_by_gateway(to, prefix_len, gateway)).map(drop)
    }

    /// Sends one request and returns the bodies of what it answers, without the acknowledgement.
    fn request(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        self.sequence += 1;
        let length = u32::try_from(16 + body.len()).map_err(io::Error::other)?;
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend(0_u32.to_ne_bytes());
        message.extend_from_slice(body);
        self.socket.send(&message, 0)?;
        let mut answers = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            if read_datagram(&datagram, &mut answers)? {
                return Ok(answers);
            }
        }
    }
}

/// True when the last message of the answer was in it.
fn read_datagram(datagram: &[u8], answers: &mut Vec<Vec<u8>>) -> io::Result<bool> {
    let mut rest = datagram;
    while let Some(length) = number(rest, 0) {
        let length = (length as usize).max(16);
        let Some(message) = rest.get(..length) else { break };
        let kind = u16::from_ne_bytes([message[4], message[5]]);
        let body = &message[16..];
        match (kind, number(body, 0)) {
            (NLMSG_ERROR, Some(0)) | (NLMSG_DONE, _) => return Ok(true),
            (NLMSG_ERROR, code) => {
                let code = code.map_or(0, u32::cast_signed);
                return Err(io::Error::from_raw_os_error(-code));
            }
            _ => answers.push(body.to_vec()),
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

fn decode_link(body: &[u8]) -> Option<Link> {
    let index = number(body, 4)?;
    let mut link = Link { index, name: String::new(), master: None };
    let mut rest = body.get(16..)?;
    while rest.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([rest[0], rest[1]])).max(4);
        let value = rest.get(4..length)?;
        match u16::from_ne_bytes([rest[2], rest[3]]) {
            IFLA_IFNAME => link.name = String::from_utf8_lossy(value).trim_end_matches('\0').to_owned(),
            IFLA_MASTER => link.master = number(value, 0),
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(link)
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).map(u32::from_ne_bytes)
}

/// struct ifinfomsg: family, padding, type, index, flags, change mask.
fn link_head(index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut head = vec![0; 4];
    head.extend(index.to_ne_bytes());
    head.extend(flags.to_ne_bytes());
    head.extend(change.to_ne_bytes());
    head
}

/// struct rtmsg: main table, static, global, unicast.
fn route_head(family: u8, prefix_len: u8) -> Vec<u8> {
    vec![family, prefix_len, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0]
}

fn route_by_gateway(to: IpAddr, prefix_len: u8, gateway: IpAddr) -> Vec<u8> {
    let mut message = route_head(family(to), prefix_len);
    attribute(&mut message, 1, &octets(to));
    attribute(&mut message, 5, &octets(gateway));
    message
}

fn attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend_from_slice(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

fn nest(message: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    fill(&mut inner);
    attribute(message, kind, &inner);
}

fn zero_ended(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}

fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 2,
        IpAddr::V6(_) => 10,
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_but_their_length_is_not() {
        let mut message = Vec::new();
        attribute(&mut message, 3, b"abc\0d");
        assert_eq!(message.len(), 12);
        assert_eq!(u16::from_ne_bytes([message[0], message[1]]), 9);
    }

    #[test]
    fn an_error_answer_is_the_kernels_error() {
        let mut datagram = 20_u32.to_ne_bytes().to_vec();
        datagram.extend(NLMSG_ERROR.to_ne_bytes());
        datagram.extend([0; 10]);
        datagram.extend((-libc::EEXIST).to_ne_bytes());
        let error = read_datagram(&datagram, &mut Vec::new()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EEXIST));
    }
}
