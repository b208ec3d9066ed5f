//! ICMP errors that an endpoint sends: let through if they quote a packet of a flow of its own. Refuses to make errors.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use cc_common::net::{Ipv4Header, Ipv6Header, PROTOCOL_TCP};
use cc_common::packet::{Packet, SHORT_BYTES, has_ports};
use cc_common::verdict::DropReason;
use cc_common::{ipv4, ipv6};

use crate::maps::CC_ENDPOINTS;
use crate::parse::{self, Parsed};
use crate::work::{Outcome, Work};

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

/// An error that the port sends: about a packet that it was sent, to whoever sent it. Leaves that one's endpoint in the work's flow.
///
/// # Safety
/// `skb` is the context that the kernel gave the program.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C" fn cc_related(skb: *mut __sk_buff) -> u64 {
    let Some(work) = Work::mine() else { return Outcome::NONE.bits() };
    match sender_of_quoted(&TcContext::new(skb), work) {
        Ok(endpoint) => {
            work.flow.endpoints[0] = endpoint;
            Outcome::GO.bits()
        }
        Err(reason) => work.refuse(reason).bits(),
    }
}

#[inline(always)]
fn sender_of_quoted(ctx: &TcContext, work: &mut Work) -> Result<u32, DropReason> {
    quoted(ctx, &work.parsed, &mut work.quoted)?;
    let sender = work.key.set(work.port.vni, &work.quoted);
    let Some(flow) = work.known_flow() else { return Err(DropReason::IcmpUnrelated) };
    let (them, us) = (sender.index(), sender.other().index());
    // SAFETY: the row stays mapped until the program ends; what is read of it is compared with the ends it leads to.
    let (endpoint, ours, theirs) =
        unsafe { ((*flow).endpoints[them], (*flow).generations[us], (*flow).generations[them]) };
    let entry = CC_ENDPOINTS.get(endpoint).ok_or(DropReason::IcmpUnrelated)?;
    let fits = ours == work.port.generation
        && theirs == entry.generation
        && work.parsed.packet.destination == work.quoted.source;
    if fits { Ok(endpoint) } else { Err(DropReason::IcmpUnrelated) }
}
