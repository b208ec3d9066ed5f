//! The endpoint behind a network's gateway: its resolver, an endpoint without a container. Refuses to know what it answers.

use cc_common::limits::{CONTAINERS_MAX, ENDPOINTS_MAX};
use cc_common::net::{Be32, Ip, MacAddr};
use cc_common::route::{ENDPOINT_RESOLVER, EndpointEntry, Route};

use super::error::DatapathError;
use super::{Datapath, Endpoint, Inner, ip};

impl Datapath {
    /// Attaches the programs to the interface of a network's resolver, whose addresses are the gateway's. It begins no conversation,
    /// and nothing leads to it before `lead_to_resolver`. Bring its own end of the interface up only after this.
    pub fn attach_resolver(&self, endpoint: &Endpoint) -> Result<(), DatapathError> {
        let id = endpoint.id;
        if !(CONTAINERS_MAX..ENDPOINTS_MAX).contains(&id) {
            return Err(DatapathError::EndpointOutOfRange { id });
        }
        let mut inner = self.inner();
        if inner.tables.endpoint(id)?.generation != 0 {
            return Err(DatapathError::EndpointInUse { id });
        }
        let attached = inner.attach_resolver(endpoint);
        if attached.is_err()
            && let Err(error) = inner.detach(id)
        {
            tracing::warn!(endpoint = id, %error, "a failed attach left something behind");
        }
        attached
    }

    /// From here on, questions for the gateway go to the resolver. `silence` and `detach` end it. Nothing there is fine.
    pub fn lead_to_resolver(&self, id: u32) -> Result<(), DatapathError> {
        let mut inner = self.inner();
        let EndpointEntry { generation, vni, ipv4, ipv6, .. } = inner.tables.endpoint(id)?;
        if generation == 0 {
            return Ok(());
        }
        inner.tables.set_route(vni, Ip::v4(ipv4), Route::gateway(id))?;
        if ipv6.is_unspecified() { Ok(()) } else { inner.tables.set_route(vni, ipv6, Route::gateway(id)) }
    }
}

impl Inner {
    fn attach_resolver(&mut self, endpoint: &Endpoint) -> Result<(), DatapathError> {
        let &Endpoint { id, vni, rule_set, ifindex, mac, ipv4, ipv6, .. } = endpoint;
        self.tables.zero_counters(id)?;
        self.tables.remove_drops(id)?;
        let entry = EndpointEntry {
            generation: self.next_generation(),
            ifindex,
            vni,
            rule_set,
            flags: ENDPOINT_RESOLVER,
            ipv4: Be32(ipv4.octets()),
            ipv6: ipv6.map_or(Ip::UNSPECIFIED, |address| ip(address.into())),
            mac: MacAddr(mac),
            ..EndpointEntry::default()
        };
        self.tables.set_endpoint(id, entry)?;
        self.attach_port(id, &entry, 0)
    }
}
