//! What of the host's interfaces and addresses concerns containers. Refuses to look at anything but what it is given.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::kernel::host_device::is_host_device;
use crate::kernel::surroundings::Surroundings;

/// The interfaces that lead out: those that are named, or those with a default route. Only such with Ethernet's frames, which are what
/// containers send.
pub fn uplinks(surroundings: &Surroundings, named: &[String]) -> Vec<u32> {
    let chosen = |ifindex: &u32, name: &str| match named {
        [] => surroundings.default_routes.contains(ifindex),
        named => named.iter().any(|wanted| wanted == name),
    };
    let interfaces = surroundings.interfaces.iter();
    let leads_out = interfaces.filter(|(ifindex, interface)| {
        interface.is_ethernet && !is_host_device(&interface.name) && chosen(ifindex, &interface.name)
    });
    leads_out.map(|(ifindex, _)| *ifindex).collect()
}

/// The addresses by which others may know this host: neither of its loopback nor of one link.
pub fn host_addresses(surroundings: &Surroundings) -> BTreeSet<IpAddr> {
    let own: BTreeSet<u32> = surroundings
        .interfaces
        .iter()
        .filter(|(_, one)| is_host_device(&one.name))
        .map(|(ifindex, _)| *ifindex)
        .collect();
    let addresses = surroundings.addresses.iter().filter(|(ifindex, address)| {
        let of_one_link = match address {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        !own.contains(ifindex) && !address.is_loopback() && !of_one_link
    });
    addresses.map(|(_, address)| *address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::surroundings::Interface;

    fn surroundings() -> Surroundings {
        let interface = |name: &str, is_ethernet| Interface { name: name.to_owned(), is_ethernet };
        let addresses = [
            (1, "127.0.0.1"),
            (1, "::1"),
            (2, "192.0.2.7"),
            (2, "fe80::7"),
            (3, "2001:db8::7"),
            (4, "203.0.113.7"),
            (5, "198.18.0.1"),
            (7, "169.254.7.7"),
        ];
        Surroundings {
            interfaces: [
                (1, interface("lo", false)),
                (2, interface("eth0", true)),
                (3, interface("eth1", true)),
                (4, interface("wg0", false)),
                (5, interface("cch0123456789ab", true)),
                (6, interface("ccp0123456789ab", true)),
            ]
            .into(),
            addresses: addresses.map(|(ifindex, text)| (ifindex, text.parse().unwrap())).into(),
            default_routes: [2, 4, 5].into(),
            routes_digest: 0,
        }
    }

    #[test]
    fn interfaces_with_a_default_route_or_a_name_lead_out() {
        assert_eq!(uplinks(&surroundings(), &[]), [2]);
        assert_eq!(uplinks(&surroundings(), &["eth1".to_owned(), "wg0".to_owned(), "none".to_owned()]), [3]);
    }

    #[test]
    fn the_hosts_addresses_are_those_that_others_can_know() {
        let known: Vec<String> = host_addresses(&surroundings()).iter().map(ToString::to_string).collect();
        assert_eq!(known, ["192.0.2.7", "203.0.113.7", "2001:db8::7"]);
    }
}
