//! ICMP errors: let through if they quote a packet of a flow, and told where a packet cannot go on. Refuses to write the frames of
//! its own errors: `tell` does.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::bindings::bpf_check_mtu_flags;
use aya_ebpf::helpers::bpf_check_mtu;
use aya_ebpf::programs::TcContext;
use cc_common::flow::{Ends, FLAG_TRANSLATED, Side, VNI_OUTSIDE, is_beyond};
use cc_common::net::{Ipv4Header, Ipv6Header, PROTOCOL_TCP};
use cc_common::packet::{Kind, Packet, SHORT_BYTES, has_ports};
use cc_common::verdict::{Direction, DropReason};
use cc_common::{ipv4, ipv6};

use crate::maps::CC_ENDPOINTS;
use crate::parse::{self, Parsed};
use crate::rewrite::ETHERNET_BYTES;
use crate::work::{Outcome, TRANSLATE_ERROR, Work};
use crate::{counters, tell};

/// The error's own header; behind it is what it quotes.
const ERROR_BYTES: u32 = 8;
/// A quoted packet is as long as it was, whatever of it is there.
const ANY_LENGTH: u32 = u32::MAX;

/// The packet that an error quotes: as much of it as says whose it was. Errors quote eight bytes of the transport header at least.
#[inline(always)]
pub fn quoted(ctx: &TcContext, error: &Parsed, quoted: &mut Packet) -> Result<(), DropReason> {
    let at = error.transport + ERROR_BYTES;
    let transport = if error.packet.source.is_v4() {
        let header: Ipv4Header = parse::header(ctx, at as usize)?;
        ipv4::begin(quoted, &header);
        at + ipv4::accept(&header, ANY_LENGTH)?.header_bytes
    } else {
        let header: Ipv6Header = parse::header(ctx, at as usize)?;
        ipv6::accept(&header, ANY_LENGTH)?;
        ipv6::begin(quoted, &header);
        at + ipv6::HEADER_BYTES
    };
    if !has_ports(quoted.protocol) {
        return Ok(());
    }
    let short: [u8; SHORT_BYTES] = parse::header(ctx, transport as usize)?;
    if quoted.protocol == PROTOCOL_TCP {
        quoted.set_ports(&short)
    } else {
        quoted.set_short(&short)
    }
    Ok(())
}

/// An error that the port sends: about a packet that it was sent, to whoever sent it, wherever that is. Not inlined: what is quoted
/// needs a stack of its own.
///
/// # Safety
/// `skb` is the context that the kernel gave the program.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn cc_related(skb: *mut __sk_buff) -> u64 {
    let Some(work) = Work::mine() else { return Outcome::NONE.bits() };
    let found = sender_of_quoted(&TcContext::new(skb), work);
    work.outcome(found.map(|()| Outcome::GO))
}

#[inline(always)]
fn sender_of_quoted(ctx: &TcContext, work: &mut Work) -> Result<(), DropReason> {
    quoted(ctx, &work.parsed, &mut work.quoted)?;
    let sender = work.key.set(work.port.vni, &work.quoted);
    let Some(flow) = work.known_flow() else { return Err(DropReason::IcmpUnrelated) };
    let (them, us) = (sender.index(), sender.other().index());
    // SAFETY: the row stays mapped until the program ends; what is read of it is compared with the ends it leads to.
    let flow = unsafe { &*flow };
    if flow.generations[us] != work.port.generation || work.parsed.packet.destination != work.quoted.source {
        return Err(DropReason::IcmpUnrelated);
    }
    let to = flow.endpoints[them];
    if !is_beyond(to) {
        let entry = CC_ENDPOINTS.get(to).ok_or(DropReason::IcmpUnrelated)?;
        if entry.generation != flow.generations[them] {
            return Err(DropReason::IcmpUnrelated);
        }
    }
    (work.to, work.to_ifindex) = (to, flow.ifindex);
    if flow.flags & FLAG_TRANSLATED != 0 {
        // The error goes the other way than what it quotes, and to the same ends.
        work.quoted_out = flow.outward(sender);
        work.out = Ends {
            source: flow.outer_addresses[us],
            destination: flow.outer_addresses[them],
            ..Ends::of(&work.parsed.packet)
        };
        work.translate = TRANSLATE_ERROR;
    }
    Ok(())
}

/// An error from outside, for `from_uplink`: about a packet of a translated flow.
///
/// # Safety
/// `skb` is the context that the kernel gave the program.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn cc_related_outside(skb: *mut __sk_buff) -> u64 {
    let Some(work) = Work::mine() else { return Outcome::PASS.bits() };
    match receiver_of_quoted(&TcContext::new(skb), work) {
        Some(()) => Outcome::GO.bits(),
        // About a conversation of the host's own, or of nobody's: the host's to judge.
        None => Outcome::PASS.bits(),
    }
}

#[inline(always)]
fn receiver_of_quoted(ctx: &TcContext, work: &mut Work) -> Option<()> {
    quoted(ctx, &work.parsed, &mut work.quoted).ok()?;
    if work.parsed.packet.destination != work.quoted.source {
        return None;
    }
    work.other_key.set(VNI_OUTSIDE, &work.quoted);
    let entry = work.outside()?;
    work.key = entry.flow;
    let beyond = Side::from_index(entry.beyond);
    let flow = work.known_flow()?;
    // SAFETY: the row stays mapped until the program ends; what is read of it is compared with the endpoint it leads to.
    let flow = unsafe { &*flow };
    // As in `inbound`: `work.to` says where it came from.
    if flow.endpoints[beyond.index()] != work.to {
        return None;
    }
    let ours = beyond.other();
    let endpoint = flow.endpoints[ours.index()];
    let entry = CC_ENDPOINTS.get(endpoint)?;
    if entry.generation != flow.generations[ours.index()] {
        return None;
    }
    work.to = endpoint;
    // What is quoted was ours: it gets its inner ends back, and the error goes to its sender. Whoever tells may be anywhere on the way.
    work.quoted_out = work.key.inward(ours);
    work.out = Ends { destination: work.quoted_out.source, ..Ends::of(&work.parsed.packet) };
    work.translate = TRANSLATE_ERROR;
    Some(())
}

const TIME_EXCEEDED_V4: [u8; 2] = [11, 0];
const TIME_EXCEEDED_V6: [u8; 2] = [3, 0];
const FRAGMENTATION_NEEDED: [u8; 2] = [3, 4];
const PACKET_TOO_BIG: [u8; 2] = [2, 0];
const DONT_FRAGMENT: u8 = 0x40;

/// Nobody is told of an error about an error (or advice), nor of a later fragment (RFC 1122, 3.2.2).
#[inline(always)]
pub fn may_be_told(work: &Work) -> bool {
    matches!(work.parsed.packet.kind, Kind::Plain) && !work.parsed.fragment.is_later()
}

/// "Its time to live ended here."
///
/// # Safety
/// `skb` is the context that the kernel gave the program.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn cc_expired(skb: *mut __sk_buff) -> u64 {
    let Some(work) = Work::mine() else { return Outcome::NONE.bits() };
    let kind = if work.parsed.packet.source.is_v4() { TIME_EXCEEDED_V4 } else { TIME_EXCEEDED_V6 };
    let told = tell::error(&TcContext::new(skb), work, kind, 0);
    work.outcome(told.map(|()| Outcome::ANSWER))
}

/// Smaller packets fit every interface (RFC 8200).
pub const ALWAYS_FITS_BYTES: u32 = 1280 + ETHERNET_BYTES as u32;

/// What would fit the interface, if the packet does not. An interface that is gone says so when the packet is sent.
#[inline(always)]
pub fn too_big(ctx: &TcContext, ifindex: u32, flags: bpf_check_mtu_flags::Type) -> Option<u32> {
    let mut mtu = 0u32;
    // SAFETY: the context is valid, and the kernel writes one word.
    let result = unsafe { bpf_check_mtu(ctx.skb.skb.cast(), ifindex, &mut mtu, 0, u64::from(flags)) };
    (result > 0).then_some(mtu)
}

/// Whether the packet fits the way out; if not, and it must not be cut, the sender is told what would.
///
/// # Safety
/// `skb` is the context that the kernel gave the program.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn cc_fits(skb: *mut __sk_buff) -> u64 {
    let Some(work) = Work::mine() else { return Outcome::NONE.bits() };
    let fits = fits_or_told(&TcContext::new(skb), work);
    work.outcome(fits)
}

#[inline(always)]
fn fits_or_told(ctx: &TcContext, work: &mut Work) -> Result<Outcome, DropReason> {
    let Some(mtu) = too_big(ctx, work.to_ifindex, bpf_check_mtu_flags::BPF_MTU_CHK_SEGS) else {
        return Ok(Outcome::GO);
    };
    if !may_be_told(work) {
        return Err(DropReason::TooBig);
    }
    let v4 = work.parsed.packet.source.is_v4();
    if v4 {
        let flags: [u8; 1] = parse::header(ctx, ETHERNET_BYTES + 6)?;
        if flags[0] & DONT_FRAGMENT == 0 {
            return Err(DropReason::TooBig);
        }
    }
    let kind = if v4 { FRAGMENTATION_NEEDED } else { PACKET_TOO_BIG };
    counters::dropped(ctx, work.port.endpoint, Direction::Egress, DropReason::TooBig as u16);
    tell::error(ctx, work, kind, mtu)?;
    Ok(Outcome::ANSWER)
}
