//! Records of what rules have decided about new conversations, of rules that are to be told: to the ring, at a rate per endpoint, and
//! counted where they are not written. Refuses to be asked for a packet of a flow that stands, and to write anything in a dry run.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use cc_common::event::RuleRecord;
use cc_common::firewall::{ACTION_ALLOW, ACTION_DENY};
use cc_common::net::{Be16, PROTOCOL_TCP, PROTOCOL_UDP};
use cc_common::verdict::{Direction, DropReason};

use crate::events::Tally;
use crate::maps::{CC_ENDPOINTS, CC_LOGGED};
use crate::trace::dry_run;
use crate::work::{Outcome, Work};

/// What is to be told of this packet's conversation, while it is decided.
#[repr(C)]
pub struct Decided {
    /// By direction: the rule that decided, if it is to be told.
    pub rules: [u32; 2],
    /// Whether the conversation came in by a published port: then `Work::quoted` is what the endpoint gets to see.
    pub published: u32,
    pub pad: u32,
    pub record: RuleRecord,
}

impl Decided {
    /// Nobody has been asked yet.
    #[inline(always)]
    pub fn begin(&mut self, published: bool) {
        self.rules = [0; 2];
        self.published = published.into();
    }

    /// A rule has decided.
    #[inline(always)]
    pub fn note(&mut self, direction: Direction, rule: u32) {
        self.rules[direction as usize & 1] = rule;
    }
}

/// The conversation has come to this: it was opened, or refused.
#[inline(always)]
pub fn tell(work: &Work, outcome: Outcome) {
    if !dry_run() && work.decided.rules != [0; 2] {
        cc_tell_rules(outcome.bits());
    }
}

/// Verified by itself, as `admit`'s.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn cc_tell_rules(outcome: u64) -> u64 {
    let Some(work) = Work::mine() else { return 0 };
    let outcome = Outcome::from_bits(outcome);
    if outcome == Outcome::GO {
        // A part of a packet without its first makes no flow: it goes on with no conversation that we know of.
        if !work.headless {
            let (from, to) = (work.port.endpoint, work.to);
            record(work, Direction::Egress, from, ACTION_ALLOW);
            record(work, Direction::Ingress, to, ACTION_ALLOW);
        }
    } else if outcome.reason() == DropReason::FirewallEgress as u16 {
        record(work, Direction::Egress, outcome.endpoint(), ACTION_DENY);
    } else if outcome.reason() == DropReason::FirewallIngress as u16 {
        record(work, Direction::Ingress, outcome.endpoint(), ACTION_DENY);
    }
    0
}

#[inline(never)]
fn record(work: &mut Work, direction: Direction, endpoint: u32, action: u8) {
    let rule = work.decided.rules[direction as usize & 1];
    if rule == 0 {
        return;
    }
    let (Some(entry), Some(logged)) = (CC_ENDPOINTS.get(endpoint), CC_LOGGED.get_ptr_mut(endpoint)) else { return };
    let tally = Tally::of(logged);
    // SAFETY: reads a clock.
    let now = unsafe { bpf_ktime_get_ns() };
    if !tally.admit(now) {
        return;
    }
    let packet = &work.parsed.packet;
    let by_published_port = matches!(direction, Direction::Ingress) && work.decided.published != 0;
    let record = &mut work.decided.record;
    record.at_ns = now;
    record.container = entry.container;
    record.endpoint = endpoint;
    record.rule = rule;
    record.protocol = packet.protocol;
    record.action = action;
    record.direction = direction as u8;
    record.pad = 0;
    record.pad2 = [0; 6];
    record.source = packet.source;
    record.destination = packet.destination;
    record.source_port = packet.source_port;
    record.destination_port = packet.destination_port;
    if by_published_port {
        record.destination = work.quoted.destination;
        record.destination_port = work.quoted.destination_port;
        if action == ACTION_DENY {
            // As it was asked about: who comes from another network is the host, and has got no port of the host's yet.
            record.source = work.question.peer;
            if record.source != packet.source {
                record.source_port = Be16([0; 2]);
            }
        } else {
            record.source = work.quoted.source;
            record.source_port = work.quoted.source_port;
        }
    }
    record.icmp = [0; 2];
    if packet.is_icmp() {
        record.icmp = packet.icmp;
    }
    if !matches!(packet.protocol, PROTOCOL_TCP | PROTOCOL_UDP) {
        record.source_port = Be16([0; 2]);
        record.destination_port = Be16([0; 2]);
    }
    tally.write(record);
}
