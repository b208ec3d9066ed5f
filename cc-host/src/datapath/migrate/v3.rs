//! Version 3 of the pinned maps, as it was: what of it is another by now, in bytes, and how that becomes ours. Refuses to change: hosts
//! out there have it.

use std::path::Path;

use aya::Pod;
use aya::maps::{Array, Map, MapData};
use cc_common::flow::{self, FlowKey};
use cc_common::life::{LIFE_DEAD, LIFE_MASK};
use cc_common::names as n;
use cc_common::net::{Be16, Ip};
use cc_common::tcp::Tracked;

use super::super::error::DatapathError;
use super::Way::{Carried, Same};
use super::rows::{self, Turn};
use super::{Carry, Migration};

pub(super) const MIGRATION: Migration = Migration {
    version: 3,
    maps: &[
        (n::MAP_PORTS, Same),
        (n::MAP_ROUTES, Same),
        (n::MAP_ENDPOINTS, Same),
        (n::MAP_COUNTERS, Same),
        (n::MAP_DROPS, Same),
        (n::MAP_SOCKETS, Same),
        (n::MAP_SETTINGS, Same),
        (n::MAP_RULE_SETS, Same),
        (n::MAP_RULES, Same),
        (n::MAP_PREFIXES_V4, Same),
        (n::MAP_PREFIXES_V6, Same),
        (n::MAP_FLOWS, Carried(flows)),
        (n::MAP_QUOTAS, Same),
        (n::MAP_FRAGMENTS, Same),
        (n::MAP_NAT, Same),
        (n::MAP_BLOCKS, Same),
        (n::MAP_FORWARDS, Same),
        (n::MAP_UPLINKS, Same),
        (n::MAP_RATES, Same),
        (n::MAP_EVENTS, Same),
        (n::MAP_TOLD, Same),
        (n::MAP_WATCH, Same),
        (n::MAP_LOGGED, Same),
        (n::MAP_GUARD, Same),
        (n::MAP_GUARDED, Same),
        (n::MAP_BLOCKED, Same),
        (n::MAP_MEANT, Same),
        (n::MAP_BEGUN, Same),
    ],
    limit,
};

/// A value of `CC_FLOWS`; its key is ours.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
struct Flow {
    rules: [u64; 2],
    generations: [u64; 2],
    endpoints: [u32; 2],
    allowed_by: [u32; 2],
    initiator: u8,
    owner: u8,
    flags: u8,
    pad: u8,
    ifindex: u32,
    outer_addresses: [Ip; 2],
    outer_ports: [Be16; 2],
    beyond_version: u32,
    life: u64,
    created_ns: u64,
    last_seen_ns: u64,
    tracked: Tracked,
    packets: [u64; 2],
    bytes: [u64; 2],
}
const _: () = assert!(size_of::<Flow>() == 176);
const _: () = assert!(size_of::<FlowKey>() == 44);
const FLOW_ROWS: u32 = 1 << 20;

// SAFETY: `repr(C)`, made of integers and of structs of them, every byte of it a named field (its size is asserted above).
unsafe impl Pod for Flow {}

const FLOWS: Turn<Flow, flow::Flow> = Turn {
    shape: [size_of::<FlowKey>() as u32, size_of::<Flow>() as u32, FLOW_ROWS],
    last_seen_ns: |flow| flow.last_seen_ns,
    turn,
    join: flow::Flow::join,
};

fn flows(carry: &Carry<'_>) -> Result<usize, DatapathError> {
    rows::carry::<FlowKey, _, _>(carry, n::MAP_FLOWS, &FLOWS)
}

fn turn(old: &Flow) -> Option<flow::Flow> {
    if old.life & LIFE_MASK == LIFE_DEAD {
        return None;
    }
    #[cfg_attr(not(feature = "next-abi"), expect(clippy::needless_update, reason = "a later layout has more fields"))]
    Some(flow::Flow {
        rules: old.rules,
        generations: old.generations,
        endpoints: old.endpoints,
        allowed_by: old.allowed_by,
        initiator: old.initiator,
        owner: old.owner,
        flags: old.flags,
        pad: 0,
        ifindex: old.ifindex,
        outer_addresses: old.outer_addresses,
        outer_ports: old.outer_ports,
        beyond_version: old.beyond_version,
        life: old.life,
        created_ns: old.created_ns,
        last_seen_ns: old.last_seen_ns,
        tracked: old.tracked,
        packets: old.packets,
        bytes: old.bytes,
        ..flow::Flow::default()
    })
}

/// A value of `CC_SETTINGS`, and where in it is how many flows an endpoint may have.
const SETTINGS_BYTES: usize = 128;
const FLOWS_PER_ENDPOINT_AT: usize = 88;

fn limit(dir: &Path, flows: u32) -> Result<(), DatapathError> {
    let path = dir.join(n::MAP_SETTINGS);
    let map = MapData::from_pin(&path).map_err(|source| DatapathError::OpenMap { path, source })?;
    let failed = |source| DatapathError::Map { operation: "limit flows by", name: n::MAP_SETTINGS, source };
    let mut settings: Array<_, [u8; SETTINGS_BYTES]> = Array::try_from(Map::Array(map)).map_err(failed)?;
    let mut now = settings.get(&0, 0).map_err(failed)?;
    now[FLOWS_PER_ENDPOINT_AT..][..4].copy_from_slice(&flows.to_ne_bytes());
    settings.set(0, now, 0).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cc_common::life::{LIFE_HALF_OPEN, LIFE_LIVE};
    use cc_common::net::Be32;

    fn old() -> Flow {
        Flow {
            rules: [1, 2],
            generations: [3, 4],
            endpoints: [5, 6],
            allowed_by: [7, 8],
            initiator: 1,
            owner: 1,
            flags: 9,
            pad: 0,
            ifindex: 10,
            outer_addresses: [Ip::v4(Be32([192, 0, 2, 1])), Ip { octets: [11; 16] }],
            outer_ports: [Be16::new(12), Be16::new(13)],
            beyond_version: 14,
            life: LIFE_LIVE | LIFE_HALF_OPEN,
            created_ns: 15,
            last_seen_ns: 16,
            tracked: Tracked { acknowledged: [17, 18], window: [19, 20], scale: [1, 2], ..Tracked::default() },
            packets: [21, 22],
            bytes: [23, 24],
        }
    }

    #[test]
    fn a_flow_goes_on_whole_and_a_dead_one_not() {
        let (old, new) = (old(), turn(&old()).unwrap());
        assert_eq!((new.rules, new.generations, new.endpoints), (old.rules, old.generations, old.endpoints));
        assert_eq!((new.allowed_by, new.initiator, new.owner, new.flags), (old.allowed_by, 1, 1, 9));
        assert_eq!((new.ifindex, new.outer_addresses, new.outer_ports), (10, old.outer_addresses, old.outer_ports));
        assert_eq!((new.beyond_version, new.life, new.created_ns), (14, old.life, 15));
        assert_eq!((new.last_seen_ns, new.tracked, new.packets, new.bytes), (16, old.tracked, [21, 22], [23, 24]));
        assert!(turn(&Flow { life: LIFE_DEAD, ..old }).is_none());
    }

    /// As long as this build's layout is version 3, it is what is written here: whoever changes it raises the number.
    #[cfg(not(feature = "next-abi"))]
    #[test]
    fn version_3_is_as_it_was() {
        use cc_common::settings::Settings;
        use std::mem::offset_of;
        assert_eq!(n::ABI, 3, "from here on this test is of the past: remove it");
        let (old, new) = (old(), turn(&old()).unwrap());
        // SAFETY: both are plain bytes of that size, as asserted above and by their common size.
        let bytes = |at: *const u8| unsafe { std::slice::from_raw_parts(at, size_of::<Flow>()).to_vec() };
        assert_eq!(size_of::<Flow>(), size_of::<flow::Flow>());
        assert_eq!(bytes((&raw const old).cast()), bytes((&raw const new).cast()));
        assert_eq!(
            (size_of::<Settings>(), offset_of!(Settings, flows_per_endpoint)),
            (SETTINGS_BYTES, FLOWS_PER_ENDPOINT_AT)
        );
        // Those that came later begin empty: pins of the time before have none to go on with.
        let later = [n::MAP_EARLY, n::MAP_EARLY_BYTES];
        let carried = |name: &&str| MIGRATION.maps.iter().any(|(one, _)| one == name);
        let (carried, empty): (Vec<&str>, Vec<&str>) = n::MAPS.into_iter().partition(carried);
        assert_eq!((carried.len(), empty.as_slice()), (MIGRATION.maps.len(), &later[..]));
        assert_eq!(FLOW_ROWS, cc_common::limits::FLOWS_MAX);
    }
}
