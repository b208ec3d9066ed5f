//! The IPv6 range of a VPC, beside its IPv4 one: parsed at the door, so that nothing inside re-checks it. Refuses ranges that a
//! kernel or a network treats as something else than machines' addresses.

use std::fmt;
use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};

/// Longest prefix: 256 addresses, as many as the IPv4 /24 beside it.
const PREFIX_LEN_MAX: u8 = 120;
/// Shortest prefix: what a site gets, of its provider or as a unique local range. A shorter one would take others' addresses.
const PREFIX_LEN_MIN: u8 = 48;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Cidr6Error {
    #[error("it is not ADDRESS/LENGTH, as in fd00:1::/64")]
    Syntax,
    #[error("it is IPv4")]
    Ipv4,
    #[error("it has host bits set; the network is {0}")]
    HostBits(Cidr6),
    #[error("/{0} is too small: the smallest IPv6 range of a VPC is a /120")]
    TooSmall(u8),
    #[error("/{0} is too large: the largest IPv6 range of a VPC is a /48, as much as a site gets")]
    TooLarge(u8),
    #[error("it is {0}")]
    Reserved(&'static str),
}

/// An IPv6 network in which containers can have addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr6 {
    network: Ipv6Addr,
    prefix_len: u8,
}

impl Cidr6 {
    pub fn parse(text: &str) -> Result<Self, Cidr6Error> {
        let (address, length) = text.split_once('/').ok_or(Cidr6Error::Syntax)?;
        if !address.contains(':') && address.contains('.') {
            return Err(Cidr6Error::Ipv4);
        }
        let address: Ipv6Addr = address.parse().map_err(|_| Cidr6Error::Syntax)?;
        // `u8::from_str` takes "+64" and "064" too; a length is written one way.
        let prefix_len: u8 = length.parse().map_err(|_| Cidr6Error::Syntax)?;
        if prefix_len > 128 || prefix_len.to_string() != length {
            return Err(Cidr6Error::Syntax);
        }
        if let Some(what) = reserved(address) {
            return Err(Cidr6Error::Reserved(what));
        }
        if prefix_len > PREFIX_LEN_MAX {
            return Err(Cidr6Error::TooSmall(prefix_len));
        }
        if prefix_len < PREFIX_LEN_MIN {
            return Err(Cidr6Error::TooLarge(prefix_len));
        }
        let network = Cidr6 { network: Ipv6Addr::from_bits(address.to_bits() & mask(prefix_len)), prefix_len };
        if network.network != address {
            return Err(Cidr6Error::HostBits(network));
        }
        Ok(network)
    }

    pub fn network(self) -> Ipv6Addr {
        self.network
    }

    pub fn prefix_len(self) -> u8 {
        self.prefix_len
    }

    /// How many bits tell its addresses apart.
    pub fn host_bits(self) -> u8 {
        128 - self.prefix_len
    }

    /// The first address after the network's own, which is every router's.
    pub fn gateway(self) -> Ipv6Addr {
        self.address(1)
    }

    /// The address of this host part, which must be one of its.
    pub fn address(self, host: u32) -> Ipv6Addr {
        debug_assert!(self.host_bits() >= 32 || host >> self.host_bits() == 0, "{host} is beyond {self}");
        Ipv6Addr::from_bits(self.network.to_bits() | u128::from(host))
    }
}

fn mask(prefix_len: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(prefix_len)).unwrap_or(0)
}

/// What is neither unique local (fc00::/7) nor global (2000::/3), and of the latter what stands for somebody's IPv4 address.
/// Ranges for documentation are as good as others: nobody else has them.
fn reserved(address: Ipv6Addr) -> Option<&'static str> {
    let segments = address.segments();
    match segments {
        [0, 0, 0, 0, 0, 0xffff, ..] => Some("IPv4 mapped into IPv6 (::ffff:0:0/96)"),
        [0x0000..=0x00ff, ..] => Some("unspecified, loopback, or a translation of IPv4 (::/8, 64:ff9b::/96)"),
        [0x2001, 0, ..] => Some("Teredo's (2001::/32), whose addresses stand for IPv4 ones"),
        [0x2002, ..] => Some("6to4's (2002::/16), whose addresses stand for IPv4 ones"),
        [0x2000..=0x3fff, ..] | [0xfc00..=0xfdff, ..] => None,
        [0xfe80..=0xfebf, ..] => Some("link-local (fe80::/10)"),
        [0xff00..=0xffff, ..] => Some("multicast (ff00::/8)"),
        _ => Some("neither unique local (fc00::/7) nor global (2000::/3)"),
    }
}

impl fmt::Display for Cidr6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix_len)
    }
}

impl TryFrom<String> for Cidr6 {
    type Error = Cidr6Error;
    fn try_from(text: String) -> Result<Self, Cidr6Error> {
        Cidr6::parse(&text)
    }
}

impl From<Cidr6> for String {
    fn from(cidr: Cidr6) -> String {
        cidr.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bad_ones_are_explained() {
        for text in ["fd00::", "fd00::/+64", "fd00::/064", "fd00::/129", "fd00::/", "/64", "fd00::%lo/64", "fd00:::/64"]
        {
            assert_eq!(Cidr6::parse(text), Err(Cidr6Error::Syntax), "{text}");
        }
        assert_eq!(Cidr6::parse("10.0.0.0/24"), Err(Cidr6Error::Ipv4));
        assert_eq!(Cidr6::parse("fd00::/121"), Err(Cidr6Error::TooSmall(121)));
        assert_eq!(Cidr6::parse("fd00::/47"), Err(Cidr6Error::TooLarge(47)));
        let host_bits = Cidr6::parse("fd00:1::7/64").unwrap_err().to_string();
        assert!(host_bits.contains("fd00:1::/64"), "{host_bits}");
        for text in [
            "::/64",
            "::1/120",
            "::ffff:10.0.0.0/120",
            "64:ff9b::/96",
            "2001::/48",
            "2002:a00::/48",
            "fe80::/64",
            "fec0::/64",
            "ff02::/64",
            "4000::/64",
            "100::/64",
        ] {
            assert!(matches!(Cidr6::parse(text), Err(Cidr6Error::Reserved(_))), "{text}");
        }
    }

    #[test]
    fn good_ones_and_their_parts() {
        for text in ["fd00:1::/64", "2001:db8::/48", "3fff::/48", "2a00:1:2:3::/120", "fc00::/48"] {
            assert_eq!(Cidr6::parse(text).unwrap().to_string(), text);
        }
        let cidr = Cidr6::parse("FD00:0001:0000::/64").unwrap();
        assert_eq!(cidr.to_string(), "fd00:1::/64");
        assert_eq!(cidr.gateway(), "fd00:1::1".parse::<Ipv6Addr>().unwrap());
        assert_eq!(cidr.address(0x0102_0304), "fd00:1::102:304".parse::<Ipv6Addr>().unwrap());
        assert_eq!((cidr.host_bits(), cidr.prefix_len()), (64, 64));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "([0-9a-f:.]{0,40}/[0-9]{0,3}|.{0,40})") {
            let _ = Cidr6::parse(&text);
        }

        #[test]
        fn what_parses_prints_the_same_and_holds_its_addresses(bits: u128, length in 48u8..=120, host in 1u32..256) {
            let network = Ipv6Addr::from_bits(((bits >> 7) | 0xfd << 120) & mask(length));
            prop_assume!(network.segments()[0] >> 9 == 0xfc00 >> 9);
            let text = format!("{network}/{length}");
            let cidr = Cidr6::parse(&text).unwrap();
            prop_assert_eq!(cidr.to_string(), text);
            let address = cidr.address(host);
            prop_assert_eq!(address.to_bits() & mask(length), cidr.network().to_bits());
            prop_assert_eq!(address.to_bits() & !mask(length), u128::from(host));
            let kept: Cidr6 = serde_json::from_str(&serde_json::to_string(&cidr).unwrap()).unwrap();
            prop_assert_eq!(kept, cidr);
        }
    }
}
