//! Taking over what an earlier daemon attached: compare, then replace the programs in place. Refuses to repair: an endpoint that is
//! not whole is for its owner to end.

use std::net::IpAddr;
use std::path::Path;

use cc_common::net::{Be32, Ip, MacAddr};
use cc_common::port::Port;
use cc_common::route::{EndpointEntry, Route};

use super::error::DatapathError;
use super::{Datapath, Endpoint, Inner, ip, links, parse_target};

impl Datapath {
    /// Takes over an endpoint that an earlier daemon attached: its rows are compared with what is known, counters and all stay, and
    /// this daemon's programs replace the earlier one's in place. Not one packet passes undecided meanwhile.
    pub fn adopt(&self, endpoint: &Endpoint, tag: &str, cgroup_v2_dir: &Path) -> Result<(), DatapathError> {
        self.adopt_with(endpoint.id, tag, cgroup_v2_dir, |inner, entry| {
            inner.check_traffic(endpoint, entry)?;
            inner.set_rule_set(endpoint.id, endpoint.rule_set)?;
            links::replace_on_interface(&mut inner.programs, endpoint.ifindex)
        })
    }

    /// As `adopt`, for a container without an interface.
    pub fn adopt_sockets(&self, id: u32, tag: &str, cgroup_v2_dir: &Path) -> Result<(), DatapathError> {
        self.adopt_with(id, tag, cgroup_v2_dir, |_, _| Ok(()))
    }

    fn adopt_with(
        &self,
        id: u32,
        tag: &str,
        cgroup_v2_dir: &Path,
        replace_on_interface: impl FnOnce(&mut Inner, &EndpointEntry) -> Result<(), DatapathError>,
    ) -> Result<(), DatapathError> {
        let (tag, cgroup) = parse_target(id, tag, cgroup_v2_dir)?;
        let mut inner = self.inner();
        let entry = inner.tables.endpoint(id)?;
        if (entry.container, entry.cgroup) != (tag.number(), cgroup) || entry.generation == 0 {
            return Err(DatapathError::NotWhole { id, what: "its row is another container's, or nobody's" });
        }
        replace_on_interface(&mut inner, &entry)?;
        inner.links.replace_on_cgroup(&inner.programs, tag)
    }
}

impl Inner {
    /// That port and route are there, and say what they must: a daemon that died half-way through an end has removed them.
    fn check_traffic(&self, endpoint: &Endpoint, entry: &EndpointEntry) -> Result<(), DatapathError> {
        let &Endpoint { id, vni, ifindex, mac, ipv4, ipv6, .. } = endpoint;
        let not_whole = |what| DatapathError::NotWhole { id, what };
        if entry.vni == 0 {
            return Err(not_whole("its traffic was ended"));
        }
        let (mac, address) = (MacAddr(mac), Be32(ipv4.octets()));
        let address_v6 = ipv6.map_or(Ip::UNSPECIFIED, |address| ip(address.into()));
        let known = (entry.ifindex, entry.vni, entry.ipv4, entry.ipv6, entry.mac);
        if known != (ifindex, vni, address, address_v6, mac) {
            return Err(not_whole("its row has another interface, network or address"));
        }
        if entry.flags != endpoint.entry_flags() {
            return Err(not_whole("its row has another way to its interface"));
        }
        // The groups are the store's to know: a daemon may have died while it changed them.
        // A row of an older daemon's names the groups too.
        let port = self.tables.port(ifindex)?.map(|port| Port { rule_set: 0, ..port });
        let expected = Port {
            generation: entry.generation,
            endpoint: id,
            vni,
            rule_set: 0,
            ipv4: address,
            ipv6: address_v6,
            mac,
            flags: endpoint.port_flags() | links::port_flags(ifindex)?,
        };
        if port != Some(expected) {
            return Err(not_whole("its interface is not in the table of ports"));
        }
        for address in std::iter::once(IpAddr::from(ipv4)).chain(ipv6.map(IpAddr::from)) {
            if self.tables.route(vni, ip(address))? != Some(Route::local(id)) {
                return Err(not_whole("no route leads to it"));
            }
        }
        Ok(())
    }
}
