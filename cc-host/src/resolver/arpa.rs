//! Reverse names: which addresses the labels before `in-addr.arpa` or `ip6.arpa` speak of. Refuses to know whose they are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The start of an address, and what else there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Prefix {
    /// With zeros after it.
    pub address: IpAddr,
    /// In bits.
    pub len: u8,
    /// Labels are left before it.
    pub below: bool,
    /// It is a whole address.
    pub full: bool,
}

impl Prefix {
    /// A label for each octet, the last octet's first. A zero before a number is let pass: rather ours than forwarded.
    pub(super) fn ipv4(labels: &[&[u8]]) -> Prefix {
        let octet = |label: &[u8]| -> Option<u8> {
            let text = std::str::from_utf8(label).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?;
            text.parse().ok()
        };
        let mut octets = [0; 4];
        let mut found = 0;
        for (place, value) in octets.iter_mut().zip(labels.iter().rev().map_while(|label| octet(label))) {
            *place = value;
            found += 1;
        }
        let len = u8::try_from(8 * found).expect("at most four octets");
        Prefix { address: Ipv4Addr::from(octets).into(), len, below: labels.len() > found, full: found == 4 }
    }

    /// A label for each hexadecimal digit, the last one's first.
    pub(super) fn ipv6(labels: &[&[u8]]) -> Prefix {
        let digit = |label: &[u8]| match label {
            [digit] => char::from(*digit).to_digit(16),
            _ => None,
        };
        let mut bits = 0u128;
        let mut found = 0;
        for value in labels.iter().rev().map_while(|label| digit(label)).take(32) {
            bits |= u128::from(value) << (124 - 4 * found);
            found += 1;
        }
        let len = u8::try_from(4 * found).expect("at most 32 digits");
        Prefix { address: Ipv6Addr::from_bits(bits).into(), len, below: labels.len() > found, full: found == 32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::rr::Name as DnsName;
    use proptest::prelude::*;

    proptest! {
        /// What the library makes of an address is read as it, and each cut of it as the start of it.
        #[test]
        fn a_name_of_an_address_is_read_as_it(bits: u128, v6: bool, cut in 0usize..33, deeper: bool) {
            let address = if v6 { IpAddr::from(Ipv6Addr::from_bits(bits)) } else { Ipv4Addr::from_bits(bits as u32).into() };
            let (bits_per_label, labels_max) = if v6 { (4, 32) } else { (8, 4) };
            let cut = cut.min(labels_max);
            let name = DnsName::from(address).trim_to(2 + cut);
            let mut labels: Vec<&[u8]> = name.iter().take(cut).collect();
            if deeper {
                labels.insert(0, b"_udp");
            }
            let found = if v6 { Prefix::ipv6(&labels) } else { Prefix::ipv4(&labels) };
            let len = cut * bits_per_label;
            let start = match address {
                IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() & !u32::MAX.checked_shr(len as u32).unwrap_or(0)).into(),
                IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::MAX.checked_shr(len as u32).unwrap_or(0)).into(),
            };
            let expected = Prefix { address: start, len: len as u8, below: deeper, full: cut == labels_max };
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn any_labels_are_survived(labels in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..4), 0..40)) {
            let labels: Vec<&[u8]> = labels.iter().map(Vec::as_slice).collect();
            prop_assert!(Prefix::ipv4(&labels).len <= 32 && Prefix::ipv6(&labels).len <= 128);
        }
    }
}
