//! Ranges of addresses, such as 10.244.0.0/16.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A range of addresses of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefix {
    v6: bool,
    first: u128,
    len: u8,
}

/// Text that is no range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a range of addresses such as 10.244.0.0/16")]
pub struct PrefixError(String);

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let wrong = || PrefixError(text.to_owned());
        let (address, len) = text.split_once('/').ok_or_else(wrong)?;
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let len: u8 = len.parse().map_err(|_| wrong())?;
        let (v6, number) = number_of(address);
        if len > width(v6) {
            return Err(wrong());
        }
        let first = number & !(size_minus_one(v6, len));
        Ok(Self { v6, first, len })
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = match self.v6 {
            true => IpAddr::V6(Ipv6Addr::from(self.first)),
            false => IpAddr::V4(Ipv4Addr::from(u32::try_from(self.first).unwrap_or(u32::MAX))),
        };
        write!(f, "{address}/{}", self.len)
    }
}

fn width(v6: bool) -> u8 {
    if v6 { 128 } else { 32 }
}

fn number_of(address: IpAddr) -> (bool, u128) {
    match address {
        IpAddr::V4(v4) => (false, u128::from(u32::from(v4))),
        IpAddr::V6(v6) => (true, u128::from(v6)),
    }
}

/// The distance from the first to the last address.
fn size_minus_one(v6: bool, len: u8) -> u128 {
    let bits = u32::from(width(v6) - len);
    1u128.checked_shl(bits).map_or(u128::MAX, |size| size - 1)
}

impl Prefix {
    pub(crate) fn is_v6(&self) -> bool {
        self.v6
    }

    fn last(&self) -> u128 {
        self.first + size_minus_one(self.v6, self.len)
    }

    /// Whether the address lies within.
    pub(crate) fn has(&self, address: IpAddr) -> bool {
        let (v6, number) = number_of(address);
        v6 == self.v6 && (self.first..=self.last()).contains(&number)
    }

    /// Whether all of `other` lies within.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        self.v6 == other.v6 && self.first <= other.first && other.last() <= self.last()
    }

    /// Whether the two have an address in common.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.v6 == other.v6 && self.first <= other.last() && other.first <= self.last()
    }

    /// The first part of `len` bits that overlaps with none of `taken`.
    pub(crate) fn free_part(&self, len: u8, taken: &[Self]) -> Option<Self> {
        let mut busy: Vec<&Self> = taken.iter().filter(|one| self.overlaps(one)).collect();
        busy.sort();
        let mut part = Self { len: len.clamp(self.len, width(self.v6)), ..*self };
        for one in busy {
            if part.overlaps(one) {
                // On to the first part after what is in the way.
                let mask = size_minus_one(self.v6, part.len);
                part.first = (one.last() | mask).checked_add(1)?;
            }
        }
        self.covers(&part).then_some(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn a_range_is_masked_and_printed() {
        assert_eq!(prefix("10.244.7.9/16").to_string(), "10.244.0.0/16");
        assert_eq!(prefix("fd00:1::9/64").to_string(), "fd00:1::/64");
        for text in ["10.0.0.0", "10.0.0.0/33", "x/8", "::/129"] {
            assert!(text.parse::<Prefix>().is_err(), "{text}");
        }
    }

    #[test]
    fn ranges_know_what_lies_within() {
        let all = prefix("10.0.0.0/8");
        assert!(all.covers(&prefix("10.1.0.0/16")) && all.has("10.255.255.255".parse().unwrap()));
        assert!(!all.covers(&prefix("0.0.0.0/0")) && all.overlaps(&prefix("0.0.0.0/0")));
        assert!(!prefix("::/0").has("10.0.0.1".parse().unwrap()));
    }

    fn check(range: &str, len: u8, taken: &[&str], expected: Option<&str>) {
        let taken: Vec<Prefix> = taken.iter().map(|text| prefix(text)).collect();
        assert_eq!(prefix(range).free_part(len, &taken).map(|part| part.to_string()).as_deref(), expected);
    }

    #[test]
    fn the_first_part_that_nobody_has_is_free() {
        check("10.0.0.0/16", 24, &[], Some("10.0.0.0/24"));
        check("10.0.0.0/16", 24, &["10.0.1.0/24", "10.0.0.0/24"], Some("10.0.2.0/24"));
        check("10.0.0.0/16", 24, &["10.0.0.0/17"], Some("10.0.128.0/24"));
        check("10.0.0.0/16", 24, &["10.0.0.0/17", "10.0.3.0/24"], Some("10.0.128.0/24"));
        check("10.0.0.0/23", 24, &["10.0.0.5/32", "10.0.1.0/24"], None);
        check("255.255.255.0/24", 25, &["255.255.255.0/24"], None);
        check("fd00::/48", 64, &["fd00::/64"], Some("fd00:0:0:1::/64"));
        check("::/0", 1, &["::/1", "8000::/1"], None);
    }
}
