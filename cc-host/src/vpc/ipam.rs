//! Which address a new container gets: the next free one after the last that was given, around the range. So a freed address
//! is not given again while another is free that was freed before it or never used. Refuses to remember anything: the
//! cursor lives in the VPC's record.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::cidr::Cidr;

/// The address after `last` that is not in `taken`; `None` when all are.
pub fn next_address(cidr: Cidr, last: Option<Ipv4Addr>, taken: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
    let (first, end) = cidr.container_range();
    let (first, end) = (first.to_bits(), end.to_bits());
    let start = match last.map(Ipv4Addr::to_bits) {
        Some(last) if (first..end).contains(&last) => last + 1,
        _ => first,
    };
    // At most `taken.len() + 1` candidates are looked at: each that is not free is one of `taken`.
    (start..=end).chain(first..start).map(Ipv4Addr::from_bits).find(|address| !taken.contains(address))
}

/// The MAC address that belongs to a container's address: locally administered, unique within its VPC.
pub fn mac_of(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0xcc, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cidr() -> Cidr {
        Cidr::parse("10.0.0.0/29").unwrap()
    }

    #[test]
    fn addresses_go_up_and_around() {
        let mut taken = BTreeSet::new();
        let mut last = None;
        for d in 2..=6 {
            last = next_address(cidr(), last, &taken);
            assert_eq!(last, Some(Ipv4Addr::new(10, 0, 0, d)));
            taken.extend(last);
        }
        assert_eq!(next_address(cidr(), last, &taken), None);
        taken.remove(&Ipv4Addr::new(10, 0, 0, 4));
        assert_eq!(next_address(cidr(), last, &taken), Some(Ipv4Addr::new(10, 0, 0, 4)));
    }

    #[test]
    fn a_freed_address_waits_for_the_unused_ones() {
        let taken = BTreeSet::from([Ipv4Addr::new(10, 0, 0, 3)]);
        // .2 was freed, .3 was the last one given.
        assert_eq!(next_address(cidr(), Some(Ipv4Addr::new(10, 0, 0, 3)), &taken), Some(Ipv4Addr::new(10, 0, 0, 4)));
    }

    proptest! {
        #[test]
        fn never_a_taken_one_nor_the_gateway(taken in proptest::collection::btree_set(0u8..8, 0..8), last: Option<u8>) {
            let taken: BTreeSet<_> = taken.into_iter().map(|d| Ipv4Addr::new(10, 0, 0, d)).collect();
            match next_address(cidr(), last.map(|d| Ipv4Addr::new(10, 0, 0, d)), &taken) {
                Some(address) => {
                    prop_assert!(!taken.contains(&address));
                    prop_assert!((2..=6).contains(&address.octets()[3]));
                }
                None => prop_assert!((2..=6).all(|d| taken.contains(&Ipv4Addr::new(10, 0, 0, d)))),
            }
        }
    }
}
