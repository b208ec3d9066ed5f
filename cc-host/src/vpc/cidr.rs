//! The IPv4 range of a VPC, which each has: parsed at the door, so that nothing inside re-checks it. Refuses IPv6, which `cidr6`
//! parses.

use std::fmt;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// Longest prefix: network, gateway, one container and broadcast need four addresses.
const PREFIX_LEN_MAX: u8 = 30;
/// Shortest prefix: 10/8, the largest private range. Address search is linear only in what is taken.
const PREFIX_LEN_MIN: u8 = 8;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    #[error("it is not ADDRESS/LENGTH, as in 10.0.0.0/24")]
    Syntax,
    #[error("it is IPv6, which a VPC has beside an IPv4 range")]
    Ipv6,
    #[error("it has host bits set; the network is {0}")]
    HostBits(Cidr),
    #[error("/{0} is too small: a VPC needs a network, a gateway, a broadcast and at least one address (/30)")]
    TooSmall(u8),
    #[error("/{0} is too large: the largest VPC is a /8")]
    TooLarge(u8),
    #[error("it is {0}")]
    Reserved(&'static str),
}

/// An IPv4 network in which containers can have addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    network: Ipv4Addr,
    prefix_len: u8,
}

impl Cidr {
    pub fn parse(text: &str) -> Result<Self, CidrError> {
        let (address, length) = text.split_once('/').ok_or(CidrError::Syntax)?;
        if address.contains(':') {
            return Err(CidrError::Ipv6);
        }
        let address: Ipv4Addr = address.parse().map_err(|_| CidrError::Syntax)?;
        // `u8::from_str` takes "+8" and "08" too; a length is written one way.
        let prefix_len: u8 = length.parse().map_err(|_| CidrError::Syntax)?;
        if prefix_len > 32 || prefix_len.to_string() != length {
            return Err(CidrError::Syntax);
        }
        if let Some(what) = reserved(address) {
            return Err(CidrError::Reserved(what));
        }
        if prefix_len > PREFIX_LEN_MAX {
            return Err(CidrError::TooSmall(prefix_len));
        }
        if prefix_len < PREFIX_LEN_MIN {
            return Err(CidrError::TooLarge(prefix_len));
        }
        let network = Cidr { network: Ipv4Addr::from_bits(address.to_bits() & mask(prefix_len)), prefix_len };
        if network.network != address {
            return Err(CidrError::HostBits(network));
        }
        Ok(network)
    }

    pub fn network(self) -> Ipv4Addr {
        self.network
    }

    pub fn prefix_len(self) -> u8 {
        self.prefix_len
    }

    /// The first usable address.
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.to_bits() + 1)
    }

    /// How many bits tell its addresses apart.
    pub fn host_bits(self) -> u8 {
        32 - self.prefix_len
    }

    /// What is left of an address of its without the network's bits.
    pub fn host_part(self, address: Ipv4Addr) -> u32 {
        address.to_bits() & !mask(self.prefix_len)
    }

    pub fn broadcast(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.to_bits() | !mask(self.prefix_len))
    }

    /// First and last address that a container can have.
    pub fn container_range(self) -> (Ipv4Addr, Ipv4Addr) {
        (Ipv4Addr::from_bits(self.gateway().to_bits() + 1), Ipv4Addr::from_bits(self.broadcast().to_bits() - 1))
    }
}

fn mask(prefix_len: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix_len)).unwrap_or(0)
}

fn reserved(address: Ipv4Addr) -> Option<&'static str> {
    match address.octets() {
        [0, ..] => Some("\"this network\" (0.0.0.0/8)"),
        [127, ..] => Some("loopback (127.0.0.0/8)"),
        [169, 254, ..] => Some("link-local (169.254.0.0/16), where metadata services live"),
        [224..=239, ..] => Some("multicast (224.0.0.0/4)"),
        [240..=255, ..] => Some("reserved (240.0.0.0/4)"),
        _ => None,
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix_len)
    }
}

impl TryFrom<String> for Cidr {
    type Error = CidrError;
    fn try_from(text: String) -> Result<Self, CidrError> {
        Cidr::parse(&text)
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> String {
        cidr.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bad_ones_are_explained() {
        assert_eq!(Cidr::parse("10.0.0.0"), Err(CidrError::Syntax));
        assert_eq!(Cidr::parse("10.0.0.0/+8"), Err(CidrError::Syntax));
        assert_eq!(Cidr::parse("10.0.0.0/33"), Err(CidrError::Syntax));
        assert_eq!(Cidr::parse("fd00::/64"), Err(CidrError::Ipv6));
        assert_eq!(Cidr::parse("10.0.0.0/31"), Err(CidrError::TooSmall(31)));
        assert_eq!(Cidr::parse("10.0.0.0/7"), Err(CidrError::TooLarge(7)));
        let host_bits = Cidr::parse("10.0.0.7/24").unwrap_err().to_string();
        assert!(host_bits.contains("10.0.0.0/24"), "{host_bits}");
        for text in ["127.0.0.0/8", "224.0.0.0/24", "255.255.255.0/24", "0.0.0.0/8", "169.254.0.0/16"] {
            assert!(matches!(Cidr::parse(text), Err(CidrError::Reserved(_))), "{text}");
        }
    }

    #[test]
    fn the_parts_of_a_network() {
        let cidr = Cidr::parse("10.1.2.0/30").unwrap();
        assert_eq!(cidr.gateway(), Ipv4Addr::new(10, 1, 2, 1));
        assert_eq!(cidr.container_range(), (Ipv4Addr::new(10, 1, 2, 2), Ipv4Addr::new(10, 1, 2, 2)));
        assert_eq!(cidr.broadcast(), Ipv4Addr::new(10, 1, 2, 3));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in ".{0,40}") {
            let _ = Cidr::parse(&text);
        }

        #[test]
        fn what_parses_prints_the_same(a in 1u8..127, b: u8, length in 8u8..=30) {
            let network = Ipv4Addr::from_bits(Ipv4Addr::new(a, b, 0, 0).to_bits() & mask(length));
            prop_assume!(network.octets()[0] != 0);
            let text = format!("{network}/{length}");
            prop_assert_eq!(Cidr::parse(&text).unwrap().to_string(), text);
        }
    }
}
