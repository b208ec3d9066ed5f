//! The names of our kernel objects: maps, programs, pins, and the tag by which we know our own links after a crash. Refuses
//! to make any of them.

use crate::limits::NAME_LEN_MAX;

/// Version of the pinned maps' layout. Changed whenever a shared struct or a map's meaning changes: pins go to `v<ABI>`, and what the
/// daemon finds in an earlier one is carried over (`cc-host/src/datapath/migrate`). Tests build the next one, too.
pub const ABI: u32 = 3 + cfg!(feature = "next-abi") as u32;

pub const MAP_PORTS: &str = "CC_PORTS";
pub const MAP_ROUTES: &str = "CC_ROUTES";
pub const MAP_ENDPOINTS: &str = "CC_ENDPOINTS";
pub const MAP_COUNTERS: &str = "CC_COUNTERS";
pub const MAP_DROPS: &str = "CC_DROPS";
pub const MAP_SOCKETS: &str = "CC_SOCKETS";
pub const MAP_SETTINGS: &str = "CC_SETTINGS";
pub const MAP_RULE_SETS: &str = "CC_RULESETS";
pub const MAP_RULES: &str = "CC_RULES";
pub const MAP_PREFIXES_V4: &str = "CC_PREFIX4";
pub const MAP_PREFIXES_V6: &str = "CC_PREFIX6";
pub const MAP_FLOWS: &str = "CC_FLOWS";
pub const MAP_QUOTAS: &str = "CC_QUOTAS";
pub const MAP_FRAGMENTS: &str = "CC_FRAGMENTS";
pub const MAP_NAT: &str = "CC_NAT";
pub const MAP_BLOCKS: &str = "CC_BLOCKS";
pub const MAP_FORWARDS: &str = "CC_FORWARDS";
pub const MAP_UPLINKS: &str = "CC_UPLINKS";
pub const MAP_RATES: &str = "CC_RATES";
pub const MAP_EVENTS: &str = "CC_EVENTS";
pub const MAP_TOLD: &str = "CC_TOLD";
pub const MAP_LOGGED: &str = "CC_LOGGED";
pub const MAP_WATCH: &str = "CC_WATCH";
pub const MAP_GUARD: &str = "CC_GUARD";
pub const MAP_GUARDED: &str = "CC_GUARDED";
pub const MAP_BLOCKED: &str = "CC_BLOCKED";
pub const MAP_MEANT: &str = "CC_MEANT";
pub const MAP_BEGUN: &str = "CC_BEGUN";
pub const MAP_EARLY: &str = "CC_EARLY";
pub const MAP_EARLY_BYTES: &str = "CC_EARLY_BYTES";
pub const MAPS: [&str; 30] = [
    MAP_PORTS,
    MAP_ROUTES,
    MAP_ENDPOINTS,
    MAP_COUNTERS,
    MAP_DROPS,
    MAP_SOCKETS,
    MAP_SETTINGS,
    MAP_RULE_SETS,
    MAP_RULES,
    MAP_PREFIXES_V4,
    MAP_PREFIXES_V6,
    MAP_FLOWS,
    MAP_QUOTAS,
    MAP_FRAGMENTS,
    MAP_NAT,
    MAP_BLOCKS,
    MAP_FORWARDS,
    MAP_UPLINKS,
    MAP_RATES,
    MAP_EVENTS,
    MAP_TOLD,
    MAP_LOGGED,
    MAP_WATCH,
    MAP_GUARD,
    MAP_GUARDED,
    MAP_BLOCKED,
    MAP_MEANT,
    MAP_BEGUN,
    MAP_EARLY,
    MAP_EARLY_BYTES,
];

pub const PROGRAM_FROM_ENDPOINT: &str = "cc_from_ep";
pub const PROGRAM_TO_ENDPOINT: &str = "cc_to_ep";
pub const PROGRAM_CGROUP_INGRESS: &str = "cc_cg_in";
pub const PROGRAM_CGROUP_EGRESS: &str = "cc_cg_out";
pub const PROGRAM_SWEEP: &str = "cc_sweep";
pub const PROGRAM_FROM_UPLINK: &str = "cc_from_up";
pub const PROGRAM_FROM_HOST: &str = "cc_from_host";
pub const PROGRAM_GUARD: &str = "cc_xdp_guard";
pub const PROGRAM_CONNECT4: &str = "cc_connect4";
pub const PROGRAM_CONNECT6: &str = "cc_connect6";
pub const PROGRAM_SENDMSG4: &str = "cc_sendmsg4";
pub const PROGRAM_SENDMSG6: &str = "cc_sendmsg6";
pub const PROGRAM_RECVMSG4: &str = "cc_recvmsg4";
pub const PROGRAM_RECVMSG6: &str = "cc_recvmsg6";
pub const PROGRAM_PEERNAME4: &str = "cc_peername4";
pub const PROGRAM_PEERNAME6: &str = "cc_peername6";
/// Those of the host's sockets.
pub const SOCKET_PROGRAMS: [&str; 8] = [
    PROGRAM_CONNECT4,
    PROGRAM_CONNECT6,
    PROGRAM_SENDMSG4,
    PROGRAM_SENDMSG6,
    PROGRAM_RECVMSG4,
    PROGRAM_RECVMSG6,
    PROGRAM_PEERNAME4,
    PROGRAM_PEERNAME6,
];
pub const PROGRAMS: [&str; 16] = [
    PROGRAM_FROM_ENDPOINT,
    PROGRAM_TO_ENDPOINT,
    PROGRAM_CGROUP_INGRESS,
    PROGRAM_CGROUP_EGRESS,
    PROGRAM_SWEEP,
    PROGRAM_FROM_UPLINK,
    PROGRAM_FROM_HOST,
    PROGRAM_GUARD,
    PROGRAM_CONNECT4,
    PROGRAM_CONNECT6,
    PROGRAM_SENDMSG4,
    PROGRAM_SENDMSG6,
    PROGRAM_RECVMSG4,
    PROGRAM_RECVMSG6,
    PROGRAM_PEERNAME4,
    PROGRAM_PEERNAME6,
];

/// Pinned below the bpffs directory's `v<ABI>`.
pub const PIN_LINKS_DIR: &str = "links";
/// The guard's links, each by the number of its interface.
pub const PIN_GUARD_DIR: &str = "guard";
pub const PIN_PROGRAMS_DIR: &str = "programs";
/// Behind `v<ABI>`: pins that are being made, and pins that are being removed. Nobody works with either.
pub const PIN_COMING: &str = "-coming";
pub const PIN_GOING: &str = "-going";

/// Suffixes of an endpoint's pinned links.
pub const LINK_CGROUP_INGRESS: &str = "cgin";
pub const LINK_CGROUP_EGRESS: &str = "cgout";
pub const LINKS: [&str; 2] = [LINK_CGROUP_INGRESS, LINK_CGROUP_EGRESS];

/// Leads the name of an uplink's pinned link; its interface's number follows.
pub const LINK_UPLINK: &str = "uplink-";

/// Leads the name of a pinned link of the host's sockets; its program's name follows.
pub const LINK_SOCKETS: &str = "sockets-";

/// Where our filters are on an interface: first, and under one handle, so that one replaces the other.
pub const FILTER_PRIORITY: u16 = 1;
pub const FILTER_HANDLE: u16 = 1;
/// Beside them, and before them for packets that leave by the interface: the one that tells when to, of an interface with a rate.
pub const DEPARTURE_HANDLE: u16 = 2;
pub const PROGRAM_DEPARTURE: &str = "cc_depart";

/// Leads the alias of every interface that we make.
pub const OWNER_TAG: &str = "cc:";

/// Depth of a container's cgroup below the v2 root, set when the object is loaded.
pub const GLOBAL_CGROUP_LEVEL: &str = "CC_CGROUP_LEVEL";

/// Whether the programs are to change nothing that is shared, set when the object is loaded: read-only data, never a word of a packet
/// or of a context, which a real packet could carry.
pub const GLOBAL_DRY_RUN: &str = "CC_DRY_RUN";
/// What a dry run comes upon. Not pinned.
pub const MAP_TRACE: &str = "CC_TRACE";

/// The mark of a packet that the datapath sends out of a host-side interface. The kernel clears marks where a packet enters
/// another network namespace, so no container can make one.
pub const MARK_OURS: u32 = 0xcc00_0001;

const fn all_fit(names: &[&str]) -> bool {
    let mut i = 0;
    while i < names.len() {
        if names[i].len() > NAME_LEN_MAX {
            return false;
        }
        i += 1;
    }
    true
}
const _: () = assert!(all_fit(&MAPS) && all_fit(&PROGRAMS), "the kernel would cut the name");
