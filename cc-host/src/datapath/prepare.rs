//! An endpoint in two halves: programs on an interface and a cgroup, which can be there before anybody knows whose they will be, and the rows
//! that say whose. Refuses to let anything pass between them: without rows the programs drop everything.

use std::path::Path;

use cc_common::net::{Be32, Ip, MacAddr};
use cc_common::port::Port;
use cc_common::route::{EndpointEntry, Route};

use super::error::DatapathError;
use super::links::{self, Tag};
use super::{Datapath, Endpoint, Inner, ip, parse_tag};

/// What is known of an interface that is prepared. To ask again would be to wait for whoever changes any interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prepared {
    port_flags: u16,
}

impl Datapath {
    /// What of `attach` depends on the endpoint's number alone: the programs on an interface and on a cgroup, and that nothing is counted
    /// of an earlier one. Without an endpoint's rows they drop everything, and count nothing. What `attach_prepared` wants to know.
    pub fn prepare(&self, id: u32, ifindex: u32, tag: &str, cgroup_v2_dir: &Path) -> Result<Prepared, DatapathError> {
        let tag = parse_tag(tag)?;
        let inner = &mut *self.inner();
        inner.forget_counters(id)?;
        let port_flags = links::attach_interface(&mut inner.programs, ifindex)?;
        inner.links.attach_cgroup(&mut inner.programs, cgroup_v2_dir, tag)?;
        Ok(Prepared { port_flags })
    }

    /// Puts back what somebody has taken from an interface that is prepared.
    pub fn prepare_again(&self, ifindex: u32) -> Result<(), DatapathError> {
        links::repair_interface(&mut self.inner().programs, ifindex).map(drop)
    }

    /// Of what was prepared and is no endpoint's; what hangs on the interface goes with that.
    pub fn unprepare(&self, tag: &str) -> Result<(), DatapathError> {
        self.inner().links.detach(parse_tag(tag)?).map(drop)
    }

    /// As `attach`, after `prepare` of the same interface, tag and cgroup.
    pub fn attach_prepared(
        &self,
        endpoint: &Endpoint,
        Prepared { port_flags }: Prepared,
        tag: &str,
        cgroup_v2_dir: &Path,
    ) -> Result<(), DatapathError> {
        self.attach_with(endpoint.id, tag, cgroup_v2_dir, |inner, tag, cgroup| {
            let entry = inner.entry(endpoint, tag, cgroup);
            inner.set_endpoint(endpoint.id, entry)?;
            inner.open(endpoint, &entry, port_flags)
        })
    }
}

impl Inner {
    pub(super) fn entry(&mut self, endpoint: &Endpoint, tag: Tag, cgroup: u64) -> EndpointEntry {
        let &Endpoint { vni, rule_set, ifindex, mac, ipv4, ipv6, .. } = endpoint;
        EndpointEntry {
            generation: self.next_generation(),
            container: tag.number(),
            cgroup,
            ifindex,
            vni,
            rule_set,
            flags: endpoint.entry_flags(),
            ipv4: Be32(ipv4.octets()),
            ipv6: ipv6.map_or(Ip::UNSPECIFIED, |address| ip(address.into())),
            mac: MacAddr(mac),
            pad: [0; 6],
        }
    }

    /// Whose the interface is, and the ways to it; the programs are on it. `flags` are the interface's.
    pub(super) fn open(&mut self, endpoint: &Endpoint, entry: &EndpointEntry, flags: u16) -> Result<(), DatapathError> {
        let &Endpoint { id, vni, ipv4, ipv6, .. } = endpoint;
        // Before the port that leads to it.
        self.tables.set_rate(id, endpoint.egress_rate.unwrap_or_default())?;
        self.set_port(id, entry, endpoint.port_flags() | flags)?;
        self.tables.set_route(vni, ip(ipv4.into()), Route::local(id))?;
        ipv6.map_or(Ok(()), |address| self.tables.set_route(vni, ip(address.into()), Route::local(id)))
    }

    pub(super) fn set_port(&mut self, id: u32, entry: &EndpointEntry, flags: u16) -> Result<(), DatapathError> {
        let &EndpointEntry { generation, ifindex, vni, ipv4, ipv6, mac, .. } = entry;
        self.tables.set_port(ifindex, Port { generation, endpoint: id, vni, rule_set: 0, ipv4, ipv6, mac, flags })
    }

    pub(super) fn set_sockets(&mut self, id: u32, entry: EndpointEntry) -> Result<(), DatapathError> {
        self.forget_counters(id)?;
        self.set_endpoint(id, entry)
    }

    /// There are a hundred rows that an earlier endpoint of this number may have lost packets in.
    fn forget_counters(&mut self, id: u32) -> Result<(), DatapathError> {
        self.tables.zero_counters(id)?;
        self.tables.remove_drops(id)
    }

    fn set_endpoint(&mut self, id: u32, entry: EndpointEntry) -> Result<(), DatapathError> {
        self.tables.set_endpoint(id, entry)?;
        self.tables.add_socket(entry.cgroup)
    }
}
