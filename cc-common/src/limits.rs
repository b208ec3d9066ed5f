//! Every limit of the datapath, with its arithmetic. What happens at a limit is said beside it. Refuses to hold a number
//! that is not a limit.

/// Containers on one host: the lower half of the endpoints.
pub const CONTAINERS_MAX: u32 = 4096;

/// Endpoints on one host: the containers', and above them the resolvers' of VPCs. Attaching one more is refused by `attach`.
pub const ENDPOINTS_MAX: u32 = 2 * CONTAINERS_MAX;

/// The endpoint that drops of an unknown interface are counted under.
pub const ENDPOINT_UNKNOWN: u32 = u32::MAX;

/// VNIs are 24 bits on the wire; 0 is nobody's.
pub const VNI_MAX: u32 = (1 << 24) - 1;

/// One port per endpoint. 8,192 × (4 + 48) bytes and the table's overhead of 48: about 0.8 MiB.
pub const PORTS_MAX: u32 = ENDPOINTS_MAX;

/// Two per endpoint, and of each of as many VPCs as containers: gateway, own range and everything else, in both families.
/// 32,768 × (20 + 8 + 40 of a node's) bytes: 3 MiB when full, allocated as used. Full: the write fails, and with it what asked.
pub const ROUTES_MAX: u32 = 8 * CONTAINERS_MAX;

/// Rows per endpoint of a table with room for every endpoint to show this many reasons. 8,192 × 8 × (8 + 16 per CPU): 1.6 MiB
/// per CPU when full, allocated as used. A drop that finds no room is counted under the reason `uncounted`.
pub const DROPS_MAX: u32 = 8 * ENDPOINTS_MAX;

/// One row per container's cgroup, made by `attach`, which fails when there is none left: the programs never add one.
pub const SOCKETS_MAX: u32 = CONTAINERS_MAX;

/// Different sets of groups that endpoints of one host are in, and so rule sets: never more than containers; 0 is none.
/// Twice as many numbers, so that a set can be made before the one that it replaces is gone. 8,192 × 24 bytes.
pub const RULE_SETS_MAX: u32 = 2 * CONTAINERS_MAX;

/// Rows of all rule sets, two generations of each at the moment of a change. A rule of one protocol and one port takes a row per
/// class of peers that it names. 2^20 × (16 + 8 + 40): 64 MiB when full, allocated as used. Full: the change is refused whole.
pub const RULES_MAX: u32 = 1 << 20;

/// Prefixes of all lists and rules of a host, in two generations at the moment of a change: 2 × 2^20 and some.
/// 2^22 × (8 + 8 + 40 → 64) bytes, twice as many nodes as prefixes at worst: 130 MiB for a million, allocated as used.
/// Full: the change is refused whole.
pub const PREFIXES_MAX: u32 = 1 << 22;

/// Flows that nobody can take from an endpoint.
pub const FLOWS_GUARANTEED: u32 = 64;
/// What all endpoints share beyond that, first come first served.
pub const FLOWS_POOL: u32 = 1 << 19;
/// 8,192 × 64 + 2^19 = 2^20 rows. Each takes 48 + 44 + 176 bytes and its place in the table 16: 268 MiB when full, allocated as used
/// but for the places (16 MiB). An endpoint beyond its own share is refused when the pool is empty, and counted
/// (`flow_table_full`).
pub const FLOWS_MAX: u32 = ENDPOINTS_MAX * FLOWS_GUARANTEED + FLOWS_POOL;
/// An endpoint that has so many is refused the next one, counted (`flow_quota`). A quarter of the pool: 30,000 connections a
/// second, remembered for 3 s after their end, fit.
pub const FLOWS_PER_ENDPOINT: u32 = 1 << 17;
/// Of these, not established: a flood of SYNs is its sender's alone (`half_open_quota`). One that came in from outside gives way to the
/// next (`half_open_recycled`): any of them, so that at 5,000 a second a client has 0.8 s on average to answer.
pub const HALF_OPEN_PER_ENDPOINT: u32 = 1 << 12;
/// Beginnings from outside that are remembered so that they can give way: those of 16 endpoints under a flood at the same time.
/// 2^16 × (8 + 44 + 64) bytes: 7.3 MiB. Full: what was remembered longest ago is not, and stays for as long as nobody answers.
pub const BEGUN_MAX: u32 = 16 * HALF_OPEN_PER_ENDPOINT;

/// Translated conversations as the outside sees them: one for each flow at most, so flows end first, and with them each endpoint's
/// share. 2^20 × (44 + 48 + 48) bytes: 147 MiB when full, allocated as used but for 16 MiB of places.
pub const NAT_MAX: u32 = FLOWS_MAX;
/// Ports are leased to endpoints in blocks.
pub const NAT_BLOCK_PORTS: u32 = 64;
/// 65,536 ports in blocks.
pub const NAT_BLOCKS_MAX: u32 = 65_536 / NAT_BLOCK_PORTS;
/// Blocks that one endpoint may hold for itself; beyond them it shares. 1,024 conversations with one and the same remote port.
pub const NAT_BLOCKS_PER_ENDPOINT: u32 = 16;
/// Ports of others' blocks that one endpoint may have: of a host's 4,480, eight endpoints together cannot take what is left towards one
/// and the same remote port.
pub const NAT_SHARED_PER_ENDPOINT: u32 = 256;
/// Ports that are tried before a conversation is refused (`nat_exhausted`).
pub const NAT_TRIES_MAX: u32 = 48;

/// Published ports of a host, one row for each of its addresses that they are published at. 65,536 × (20 + 16 + 48) bytes: 5.3 MiB
/// when full, allocated as used. Full: publishing is refused.
pub const FORWARDS_MAX: u32 = 1 << 16;
/// Interfaces that lead out.
pub const UPLINKS_MAX: u32 = 64;
/// Sockets of the host's that are remembered with the published port that they meant. 2^14 × (32 + 16 + 48) bytes: 1.6 MiB. Full: the one
/// that was asked for longest ago is told its peer's stand-in.
pub const MEANT_MAX: u32 = 1 << 14;

/// Packets of one endpoint whose fragments are on their way. One more takes the place of an earlier one of the same endpoint's, and what then
/// comes of that is dropped or judged without its port.
pub const FRAGMENTS_EACH: u32 = 16;
/// Of all that come from outside or from the host, together.
pub const FRAGMENTS_OUTSIDE: u32 = 1 << 12;
/// It is never full: 135,168 × (8 + 52 + 48) bytes are 14 MiB, allocated as used, beside 4 MiB of buckets.
pub const FRAGMENTS_MAX: u32 = ENDPOINTS_MAX * FRAGMENTS_EACH + FRAGMENTS_OUTSIDE;

/// Packets of one endpoint of which fragments wait for their first. One more takes the place of an earlier one of the same endpoint's.
pub const EARLY_EACH: u32 = 2;
/// Of all that come from outside, together.
pub const EARLY_OUTSIDE: u32 = 16;
/// Fragments of one packet that wait: a packet of any size, in fragments for an Ethernet.
pub const EARLY_FRAGMENTS: u32 = 48;
/// A larger frame does not wait.
pub const EARLY_BYTES: u32 = 2000;
/// How long one waits. A host's own reassembly has 30 s of patience for what is lost; this is for what was overtaken.
pub const EARLY_NS: u64 = 1_000_000_000;
/// It is never full: 16,400 × (8 + 56 + 48) bytes are 1.8 MiB, allocated as used, beside 0.5 MiB of buckets.
pub const EARLY_MAX: u32 = ENDPOINTS_MAX * EARLY_EACH + EARLY_OUTSIDE;
/// Fragments that wait on a host. 2,048 × (2,048 + 12 + 48) bytes: 4.1 MiB, at once. One more takes the place of one that nobody has looked
/// at for long: one endpoint has 96 at most, all outside together 768, and where more than some ten endpoints fill theirs, they displace
/// each other's.
pub const EARLY_ALL_FRAGMENTS: u32 = 1 << 11;
const _: () = assert!(EARLY_ALL_FRAGMENTS >= 2 * EARLY_OUTSIDE * EARLY_FRAGMENTS);

/// Lines of the guard's deny list, each a CIDR or a prefix list. Their prefixes are in the tables of prefixes, `PREFIXES_MAX`. One more
/// is refused.
pub const GUARD_LINES_MAX: usize = 1024;

/// Bytes of the ring of records; a power of two and of pages. At 80 + 8 bytes each it holds 11,900 drops. Full: the record is counted as lost.
pub const EVENTS_BYTES: u32 = 1 << 20;
/// Records of drops that one endpoint may cause in a second, and as many of what its rules decide; the rest is counted as lost.
pub const EVENTS_PER_SECOND: u32 = 50;

/// Longest name the kernel keeps of a map or a program, without the terminating zero.
pub const NAME_LEN_MAX: usize = 15;
