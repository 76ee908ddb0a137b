//! Addresses and ranges of addresses.

use std::net::IpAddr;

use api_types::status::FieldError;

use crate::strategy::rules::Errors;

pub(super) const NOT_AN_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const NOT_A_CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

pub(super) fn check_ip(text: &str, path: &str, errors: &mut Errors) {
    if text.parse::<IpAddr>().is_err() {
        errors.push(FieldError::invalid(path, text, NOT_AN_IP));
    }
}

/// As `check_ip`, and written in the one form that each address has.
pub(super) fn check_canonical_ip(text: &str, path: &str, errors: &mut Errors) {
    match text.parse::<IpAddr>() {
        Err(_) => errors.push(FieldError::invalid(path, text, NOT_AN_IP)),
        Ok(ip) => {
            if let IpAddr::V6(six) = ip
                && six.to_ipv4_mapped().is_some()
            {
                errors.push(FieldError::invalid(path, text, "must not be an IPv4-mapped IPv6 address"));
            } else if ip.to_string() != text {
                let why = format!("must be in canonical form ({:?})", ip.to_string());
                errors.push(FieldError::invalid(path, text, why));
            }
        }
    }
}

pub(super) fn check_cidr(text: &str, path: &str, errors: &mut Errors) {
    if Range::parse(text).is_none() {
        errors.push(FieldError::invalid(path, text, NOT_A_CIDR));
    }
}

/// As `check_cidr`, no bits are set beyond the prefix, and it is written in the one form that it has.
pub(super) fn check_canonical_cidr(text: &str, path: &str, errors: &mut Errors) {
    match Range::parse(text) {
        None => errors.push(FieldError::invalid(path, text, NOT_A_CIDR)),
        Some(range) if !range.is_network() => {
            errors.push(FieldError::invalid(path, text, "must not have bits set beyond the prefix length"));
        }
        Some(range) if range.canonical() != text => {
            let why = format!("must be in canonical form ({:?})", range.canonical());
            errors.push(FieldError::invalid(path, text, why));
        }
        Some(_) => {}
    }
}

/// An address with the size of its network, written in the one form that both have.
pub(super) fn check_interface_address(text: &str, path: &str, errors: &mut Errors) {
    match Range::parse(text) {
        None => {
            let why = "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)";
            errors.push(FieldError::invalid(path, text, why));
        }
        Some(range) => {
            let canonical = range.canonical();
            if canonical != text {
                let why = format!("must be in canonical form ({canonical:?})");
                errors.push(FieldError::invalid(path, text, why));
            }
        }
    }
}

/// What no service and no endpoint may have as its address.
pub(super) fn check_not_special(text: &str, path: &str, errors: &mut Errors) {
    let Ok(ip) = text.parse::<IpAddr>() else {
        errors.push(FieldError::invalid(path, text, NOT_AN_IP));
        return;
    };
    let is_link_local = match ip {
        IpAddr::V4(four) => four.is_link_local(),
        IpAddr::V6(six) => six.is_unicast_link_local(),
    };
    let is_local_multicast = match ip {
        IpAddr::V4(four) => four.octets()[..3] == [224, 0, 0],
        IpAddr::V6(six) => six.segments()[0] == 0xff02,
    };
    let cases = [
        (ip.is_unspecified(), format!("may not be unspecified ({ip})")),
        (ip.is_loopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned()),
        (is_link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned()),
        (
            is_local_multicast,
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned(),
        ),
    ];
    errors
        .extend(cases.into_iter().filter(|(is, _)| *is).map(|(_, why)| FieldError::invalid(path, text, why)));
}

/// An address and how many of its bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    address: IpAddr,
    bits: u32,
}

impl Range {
    pub(super) fn parse(text: &str) -> Option<Range> {
        let (address, bits) = text.split_once('/')?;
        let is_plain = !bits.is_empty() && bits.bytes().all(|b| b.is_ascii_digit());
        let range = Range { address: address.parse().ok()?, bits: bits.parse().ok()? };
        (is_plain && range.bits <= range.width()).then_some(range)
    }

    pub(super) fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }

    /// The one text of it; a mapped address is the one that it maps.
    fn canonical(&self) -> String {
        match self.address.to_canonical() {
            IpAddr::V4(four) if !self.is_ipv4() => format!("{four}/{}", self.bits.saturating_sub(96)),
            address => format!("{address}/{}", self.bits),
        }
    }

    fn width(&self) -> u32 {
        if self.is_ipv4() { 32 } else { 128 }
    }

    fn number(&self) -> u128 {
        match self.address {
            IpAddr::V4(four) => u32::from(four).into(),
            IpAddr::V6(six) => six.into(),
        }
    }

    fn prefix(&self, bits: u32) -> u128 {
        self.number().checked_shr(self.width() - bits).unwrap_or(0)
    }

    fn is_network(&self) -> bool {
        let shift = self.width() - self.bits;
        self.prefix(self.bits).checked_shl(shift).unwrap_or(0) == self.number()
    }

    /// Whether `other` is smaller and wholly inside.
    pub(super) fn strictly_contains(&self, other: &Range) -> bool {
        self.is_ipv4() == other.is_ipv4()
            && self.bits < other.bits
            && self.prefix(self.bits) == other.prefix(self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_an_interface_is_written_in_one_form() {
        let of = |text: &str| {
            let mut errors = Errors::new();
            check_interface_address(text, "ip", &mut errors);
            errors.into_iter().map(|error| error.message).collect::<Vec<_>>()
        };
        assert!(of("10.9.8.7/24").is_empty());
        assert!(of("2001:db8::1/64").is_empty());
        assert_eq!(of("::ffff:10.9.8.7/120"), ["must be in canonical form (\"10.9.8.7/24\")"]);
        assert_eq!(of("2001:DB8::1/64"), ["must be in canonical form (\"2001:db8::1/64\")"]);
        assert_eq!(of("10.9.8.7").len(), 1);
    }

    #[test]
    fn ranges_hold_smaller_ranges() {
        let range = |text| Range::parse(text).unwrap();
        assert!(range("10.0.0.0/8").strictly_contains(&range("10.1.0.0/16")));
        assert!(!range("10.0.0.0/8").strictly_contains(&range("10.0.0.0/8")));
        assert!(!range("10.0.0.0/8").strictly_contains(&range("11.0.0.0/16")));
        assert!(range("::/0").strictly_contains(&range("2001:db8::/64")));
        for bad in ["10.0.0.0", "10.0.0.0/33", "x/8", "10.0.0.0/", "10.0.0.0/+8"] {
            assert_eq!(Range::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn addresses_have_one_form() {
        let check = |text: &str| {
            let mut errors = Errors::new();
            check_canonical_ip(text, "ip", &mut errors);
            errors.len()
        };
        assert_eq!(check("10.0.0.1"), 0);
        assert_eq!(check("2001:db8::1"), 0);
        assert_eq!(check("2001:0db8::1"), 1);
        assert_eq!(check("::ffff:10.0.0.1"), 1);
        assert_eq!(check("010.0.0.1"), 1);
    }
}
