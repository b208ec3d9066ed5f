//! What a dry run comes upon on its way, for `cc net why`: written by the daemon's unattached copy of the programs alone, read by
//! nobody else. Refuses to hold what the packet says of itself.

use crate::flow::{Ends, Flow, FlowKey};
use crate::net::Ip;
use crate::port::Port;
use crate::route::Route;

/// Value of `CC_TRACE`, one per CPU; all zeros before a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Trace {
    /// Whose interface the packet came by.
    pub port: Port,
    /// The flow that was found, as it would be after this packet; and the one that goes with it, of two containers by a
    /// published port.
    pub found: Flow,
    pub partner: Flow,
    /// The key of the flow that was looked up.
    pub key: FlowKey,
    /// What the rules were asked, and said, by direction.
    pub judged: [Judged; 2],
    /// The ends that the packet gets, if it is translated.
    pub out: Ends,
    pub route: Route,
    /// Bits: `SEEN_…`.
    pub seen: u32,
    /// One of `STANDING_…`.
    pub standing: u32,
    /// The side of `key` that sent the packet.
    pub sender: u32,
    /// The endpoint whose published port it is for.
    pub forward: u32,
    pub forward_port: u32,
    /// An endpoint, or one of `BEYOND_…`, and the interface by which; meant only if the packet goes.
    pub to: u32,
    pub to_ifindex: u32,
    /// `FLAG_…` of the flow that would be opened.
    pub opened: u32,
    /// Whose drop it is, and in which direction.
    pub refused_at: u32,
    pub refused_direction: u32,
    /// What the rules were asked last, as they were asked it: the other end's address, and the port or the ICMP type and code.
    pub service: u32,
    pub peer: Ip,
    pub pad: u32,
}
const _: () = assert!(size_of::<Trace>() == 232 + 2 * size_of::<Flow>() && align_of::<Trace>() == 8);

/// One question to the rules, with its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Judged {
    /// Whose rules.
    pub rule_set: u32,
    /// Number of the peer's set of groups.
    pub groups: u32,
    /// The number of the rule that decided; 0 if none matched.
    pub rule: u32,
    /// `JUDGED_…`; 0 if nothing was asked.
    pub bits: u32,
}
const _: () = assert!(size_of::<Judged>() == 16);

/// It was asked at all.
pub const JUDGED_ASKED: u32 = 1;
pub const JUDGED_ALLOWED: u32 = 2;
/// None matched because the peer's address is closed to whatever does not name it.
pub const JUDGED_CLOSED: u32 = 4;
/// The peer is beyond the network.
pub const JUDGED_BEYOND: u32 = 8;

/// A program has run: of all CPUs' rows, this is the one.
pub const SEEN_END: u32 = 1;
/// The interface is an endpoint's.
pub const SEEN_PORT: u32 = 1 << 1;
/// The packet is sound, and says that it is from where it is from.
pub const SEEN_ADMITTED: u32 = 1 << 2;
/// A flow was found.
pub const SEEN_FLOW: u32 = 1 << 3;
/// A flow would be forgotten.
pub const SEEN_FORGOTTEN: u32 = 1 << 4;
/// A route was looked up, and there is one.
pub const SEEN_ROUTE: u32 = 1 << 5;
/// The destination is a published port.
pub const SEEN_FORWARD: u32 = 1 << 6;
/// A flow would be opened.
pub const SEEN_OPENED: u32 = 1 << 7;
/// The packet would be translated.
pub const SEEN_TRANSLATED: u32 = 1 << 8;
/// The drop was counted.
pub const SEEN_DROP: u32 = 1 << 9;

/// What a flow was judged by still holds.
pub const STANDING_HOLDS: u32 = 1;
/// The rules, or the world, have changed since: it is judged again.
pub const STANDING_CHANGED: u32 = 2;
/// It is another's, or over.
pub const STANDING_FOREIGN: u32 = 3;
