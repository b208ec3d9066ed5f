//! What a program knows of the packet it works on, and what it may come to. One per CPU; refuses to be kept from one packet to
//! the next.

use aya_ebpf::bindings::bpf_fib_lookup;
use cc_common::event::DropRecord;
use cc_common::flow::{Ends, Flow, FlowKey, NatEntry, Side};
use cc_common::fragment::EarlyFrame;
use cc_common::nat::ForwardKey;
use cc_common::packet::Packet;
use cc_common::port::Port;
use cc_common::trace::Judged;
use cc_common::verdict::{Direction, DropReason};

use crate::decisions::Decided;
use crate::firewall::Question;
use crate::hairpin::Hairpin;
use crate::maps::{CC_FLOWS, CC_NAT, CC_WORK};
use crate::parse::Parsed;
use crate::trace;

#[repr(C)]
pub struct Work {
    /// Whose packet it is.
    pub port: Port,
    pub parsed: Parsed,
    pub key: FlowKey,
    /// The side of `key` that sent it: see `side`.
    pub sender: u8,
    /// A later fragment whose first one was not seen: judged without its port, and no flow is opened.
    pub headless: bool,
    /// A fragment of the host's own.
    pub hosts: bool,
    /// The packet that an ICMP error is about, or one as whoever began its flow would send it.
    pub quoted: Packet,
    /// The flow that is being opened.
    pub flow: Flow,
    /// Where the packet goes: an endpoint, or one of `BEYOND_…` and the interface by which.
    pub to: u32,
    pub to_ifindex: u32,
    /// One of `TRANSLATE_…`.
    pub translate: u32,
    /// The ends that the packet gets, and those of the packet that it quotes.
    pub out: Ends,
    pub quoted_out: Ends,
    /// The other key of a flow: in `CC_NAT`, or in another network.
    pub other_key: FlowKey,
    pub nat: NatEntry,
    /// Of a flow that may have to give way, and the place that one has left for this packet's, or `NO_PLACE`.
    pub begun: FlowKey,
    pub left: u32,
    pub forward: ForwardKey,
    pub hairpin: Hairpin,
    pub question: Question,
    pub decided: Decided,
    /// In a dry run, by direction: what the rules were asked, and have said.
    pub judged: [Judged; 2],
    pub fib: bpf_fib_lookup,
    /// What is told of its drop.
    pub record: DropRecord,
    /// Bytes of the packet that an error of ours quotes.
    pub quote: [u8; QUOTE_BYTES],
    /// A copy of it, which is to wait.
    pub early: EarlyFrame,
}

/// Nobody has given way.
pub const NO_PLACE: u32 = u32::MAX;

/// The packet keeps its addresses.
pub const TRANSLATE_NOT: u32 = 0;
pub const TRANSLATE_PACKET: u32 = 1;
/// It is an error, and what it quotes is translated too.
pub const TRANSLATE_ERROR: u32 = 2;

/// An IPv4 header of any length, and eight bytes of the transport's.
pub const QUOTE_BYTES: usize = 68;

impl Work {
    /// This CPU's own. `None` cannot happen, and the verifier wants to see that it would do no harm.
    #[inline(always)]
    pub fn mine() -> Option<&'static mut Work> {
        // SAFETY: programs that use it do not interrupt each other on one CPU, and each takes it once.
        CC_WORK.get_ptr_mut(0).map(|work| unsafe { &mut *work })
    }

    /// The side of the key that sent the packet. Made anew from the stored byte each time: the verifier wants to see that it is 0
    /// or 1, and the compiler would believe a stored `Side` to be that.
    #[inline(always)]
    pub fn side(&self) -> Side {
        Side::from_index(self.sender)
    }

    /// The flow that the key names.
    #[inline(always)]
    #[expect(clippy::needless_borrows_for_generic_args, reason = "by value it would be copied onto the stack")]
    pub fn known_flow(&self) -> Option<*mut Flow> {
        trace::flow(CC_FLOWS.get_ptr_mut(&self.key))
    }

    /// What the outside knows by the other key.
    #[inline(always)]
    #[expect(clippy::needless_borrows_for_generic_args, reason = "by value it would be copied onto the stack")]
    pub fn outside(&self) -> Option<NatEntry> {
        // SAFETY: copied at once; what it names is looked up again, and compared.
        unsafe { CC_NAT.get(&self.other_key) }.copied()
    }

    /// As a function that is verified by itself returns it.
    #[inline(always)]
    pub fn outcome(&self, result: Result<Outcome, DropReason>) -> u64 {
        match result {
            Ok(outcome) => outcome.bits(),
            Err(reason) => self.refuse(reason).bits(),
        }
    }

    /// A drop at the sender's own door.
    #[inline(always)]
    pub fn refuse(&self, reason: DropReason) -> Outcome {
        Outcome::refused(self.port.endpoint, Direction::Egress, reason)
    }

    /// Of a conversation that was to get a port: whether it is unique with it.
    #[inline(always)]
    pub fn unique(&self, inserted: Result<bool, DropReason>) -> Outcome {
        match inserted {
            Ok(true) => Outcome::GO,
            Ok(false) => Outcome::TAKEN,
            Err(reason) => self.refuse(reason),
        }
    }
}

/// What comes of a packet, packed into the one register that a program's function returns: a drop's reason, direction and
/// endpoint (the destination's rules are the destination's drop), or what else to do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Outcome(u64);

impl Outcome {
    /// The question was answered with yes.
    pub const GO: Outcome = Outcome(0);
    /// There is no work to look at, which cannot be.
    pub const NONE: Outcome = Outcome(0xfffe);
    /// It leaves the network: the next function's.
    pub const BEYOND: Outcome = Outcome(0xfffc);
    /// It is for a published port: likewise.
    pub const PUBLISHED: Outcome = Outcome(0xfffb);
    /// Another conversation has that port.
    pub const TAKEN: Outcome = Outcome(0xfff8);
    /// It comes in once more.
    pub const AGAIN: Outcome = Outcome(0xfff7);
    /// It is none of ours.
    pub const PASS: Outcome = Outcome(0xfff9);
    /// It asks for a neighbour.
    pub const NEIGHBOR: Outcome = Outcome(0xfffd);
    /// The frame was rewritten into an answer.
    pub const ANSWER: Outcome = Outcome(0xffff);

    #[inline(always)]
    pub fn refused(endpoint: u32, direction: Direction, reason: DropReason) -> Self {
        Outcome((endpoint as u64) << 32 | (direction as u64) << 16 | reason as u64)
    }
    #[inline(always)]
    pub fn endpoint(self) -> u32 {
        (self.0 >> 32) as u32
    }
    #[inline(always)]
    pub fn direction(self) -> Direction {
        if self.0 >> 16 & 1 == 0 { Direction::Egress } else { Direction::Ingress }
    }
    /// The number of the reason.
    #[inline(always)]
    pub fn reason(self) -> u16 {
        self.0 as u16
    }
    #[inline(always)]
    pub fn from_bits(bits: u64) -> Self {
        Outcome(bits)
    }
    #[inline(always)]
    pub fn bits(self) -> u64 {
        self.0
    }
}
