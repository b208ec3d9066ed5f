//! Everything that maps and pins hold of one endpoint. Refuses to interpret and to change it.

use std::path::PathBuf;

use aya::Ebpf;
use aya::maps::{Array, MapData};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::loaded_programs;
use cc_common::event::{Told, told_row};
use cc_common::firewall::RuleSet;
use cc_common::limits::{ENDPOINTS_MAX, RULE_SETS_MAX};
use cc_common::names::{self, MAP_QUOTAS};
use cc_common::net::Ip;
use cc_common::port::Port;
use cc_common::quota::Quota;
use cc_common::rate::Rate;
use cc_common::route::{EndpointEntry, Route};
use cc_common::settings::Settings;

use super::error::DatapathError;
use super::links::Tag;
use super::object::take_map;
use super::{Datapath, EndpointCounters, counters};

/// A program, as the kernel knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProgramSeen {
    pub id: u32,
    pub name: String,
    pub tag: u64,
}

/// A pinned link, and what runs by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkSeen {
    pub pin: PathBuf,
    pub id: u32,
    pub program: ProgramSeen,
}

#[derive(Debug, Clone)]
pub struct Inspection {
    pub entry: EndpointEntry,
    pub port: Option<Port>,
    /// To its addresses.
    pub routes: Vec<(Ip, Route)>,
    pub links: Vec<LinkSeen>,
    pub rule_set: RuleSet,
    pub quota: Quota,
    pub rate: Rate,
    pub settings: Settings,
    pub told: Told,
    pub counters: EndpointCounters,
}

/// The books of who holds how many flows: read only.
pub(super) struct Books(Array<MapData, Quota>);

impl Books {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        let failed = |source| DatapathError::Map { operation: "open", name: MAP_QUOTAS, source };
        Ok(Books(Array::try_from(take_map(ebpf, MAP_QUOTAS)?).map_err(failed)?))
    }

    /// In the row after the last endpoint, of the pool.
    pub(super) fn of(&self, endpoint: u32) -> Result<Quota, DatapathError> {
        let failed = |source| DatapathError::Map { operation: "read", name: MAP_QUOTAS, source };
        self.0.get(&endpoint, 0).map_err(failed)
    }
}

impl Datapath {
    pub fn inspect(&self, endpoint_id: u32) -> Result<Inspection, DatapathError> {
        if endpoint_id >= ENDPOINTS_MAX {
            return Err(DatapathError::EndpointOutOfRange { id: endpoint_id });
        }
        let quota = self.books.of(endpoint_id)?;
        let inner = self.inner();
        let tables = &inner.tables;
        let entry = tables.endpoint(endpoint_id)?;
        let port = tables.port(entry.ifindex)?.filter(|port| port.endpoint == endpoint_id);
        let mut routes = Vec::new();
        for address in [Ip::v4(entry.ipv4), entry.ipv6] {
            if address.is_unspecified() || entry.ipv4.is_unspecified() {
                continue;
            }
            routes.extend(tables.route(entry.vni, address)?.map(|route| (address, route)));
        }
        let is_set = (1..RULE_SETS_MAX).contains(&entry.rule_set);
        let seen = Inspection {
            port,
            routes,
            rule_set: if is_set { tables.rules.set(entry.rule_set)? } else { RuleSet::default() },
            quota,
            rate: tables.rate(endpoint_id)?,
            settings: tables.settings()?,
            told: tables.told(told_row(endpoint_id))?,
            counters: counters::read(tables, endpoint_id)?,
            links: Vec::new(),
            entry,
        };
        let dir = inner.pin_dir.join(names::PIN_LINKS_DIR);
        drop(inner);
        // Opening pins and asking the kernel for programs takes a while, and needs no lock.
        let tag = Tag::from_number(entry.container);
        let pins = names::LINKS.map(|suffix| dir.join(format!("{tag}-{suffix}")));
        let links = pins.into_iter().filter_map(|pin| link(pin).transpose()).collect::<Result<_, _>>()?;
        Ok(Inspection { links, ..seen })
    }
}

/// `None` if nothing is pinned there.
fn link(pin: PathBuf) -> Result<Option<LinkSeen>, DatapathError> {
    if !pin.exists() {
        return Ok(None);
    }
    let failed = |source| DatapathError::InspectLink { path: pin.clone(), source };
    let link = FdLink::from(PinnedLink::from_pin(&pin).map_err(failed)?);
    let info = link.info().map_err(failed)?;
    Ok(Some(LinkSeen { id: info.id(), program: program(info.program_id()), pin }))
}

/// Without a name and a tag if it goes at this very moment.
fn program(id: u32) -> ProgramSeen {
    let found = loaded_programs().filter_map(Result::ok).find(|info| info.id() == id);
    let seen = |info: aya::programs::ProgramInfo| {
        let name = info.name_as_str().unwrap_or_default().to_owned();
        ProgramSeen { id, name, tag: info.tag() }
    };
    found.map_or(ProgramSeen { id, ..ProgramSeen::default() }, seen)
}
