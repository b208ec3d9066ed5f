//! The guard of an uplink: drops what comes from where nothing may come from, and what no honest host sends, before the kernel has
//! made anything of it. Refuses to know containers, and to change a packet.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::helpers::bpf_xdp_load_bytes;
use aya_ebpf::programs::XdpContext;
use cc_common::blocks::{self, Share};
use cc_common::firewall::{Be32Hash, Prefix4Key, Prefix6Key};
use cc_common::guard::{self, GuardDrop, Inside};
use cc_common::ipv6::{self, EXTENSION_BYTES, EXTENSIONS_MAX, Step};
use cc_common::net::{
    Be16, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_QINQ, ETHERTYPE_VLAN, Ipv4Header, Ipv6Header, PROTOCOL_TCP,
};

use crate::maps::{CC_BLOCKED, CC_GUARD, CC_GUARDED, CC_PREFIX4, CC_PREFIX6};
use crate::parse::Header;
use crate::rewrite::ETHERNET_BYTES;

const TAG_BYTES: usize = 4;
/// Bits of a key: the table's number, and an address.
const PREFIX4_BITS: u32 = 64;
const PREFIX6_BITS: u32 = 160;
/// Of TCP's header: where its flags are.
const TCP_FLAGS_AT: u32 = 13;

#[inline(always)]
pub fn run(ctx: &XdpContext) -> u32 {
    match judge(ctx) {
        Ok(()) => XDP_PASS,
        Err(reason) => {
            if let Some(count) = CC_GUARDED.get_ptr_mut(reason as u32) {
                // SAFETY: the element is this CPU's own, and the program does not interrupt itself.
                unsafe { (*count).add(1, (ctx.data_end() - ctx.data()) as u64) }
            }
            XDP_DROP
        }
    }
}

/// What is no IP passes: the kernel knows it, or drops it.
#[inline(always)]
fn judge(ctx: &XdpContext) -> Result<(), GuardDrop> {
    let mut at = ETHERNET_BYTES;
    let mut ethertype = read::<Be16>(ctx, at - 2)?.get();
    // A tag that the card has not taken off.
    if ethertype == ETHERTYPE_VLAN || ethertype == ETHERTYPE_QINQ {
        at += TAG_BYTES;
        ethertype = read::<Be16>(ctx, at - 2)?.get();
    }
    match ethertype {
        ETHERTYPE_IPV4 => judge_ipv4(ctx, at),
        ETHERTYPE_IPV6 => judge_ipv6(ctx, at),
        _ => Ok(()),
    }
}

#[inline(always)]
fn judge_ipv4(ctx: &XdpContext, at: usize) -> Result<(), GuardDrop> {
    let header: Ipv4Header = read(ctx, at)?;
    if is_denied(header.source.0) {
        return Err(GuardDrop::Denied);
    }
    let inside = guard::ipv4(&header, available(ctx, at))?;
    judge_transport(ctx, at, &inside)
}

#[inline(always)]
fn judge_ipv6(ctx: &XdpContext, at: usize) -> Result<(), GuardDrop> {
    let header: Ipv6Header = read(ctx, at)?;
    let table = Be32Hash(CC_GUARD.get(0).map_or(0, |guard| guard.table).to_be_bytes());
    if table.0 != [0; 4]
        && CC_PREFIX6.get(&Key::new(PREFIX6_BITS, Prefix6Key { table, address: header.source })).is_some()
    {
        return Err(GuardDrop::Denied);
    }
    let mut inside = guard::ipv6(&header, available(ctx, at))?;
    for _ in 0..EXTENSIONS_MAX {
        if !ipv6::is_extension(inside.protocol) || inside.is_later {
            break;
        }
        let first: [u8; EXTENSION_BYTES] = load(ctx, at as u32 + inside.offset)?;
        let (next, bytes) = match ipv6::step(inside.protocol, &first) {
            Ok(Step::Skip { next, bytes }) => (next, bytes),
            Ok(Step::Fragment { next, bytes, fragment }) => {
                inside.is_later = fragment.is_later();
                (next, bytes)
            }
            // What the datapath refuses may be the host's own business.
            Ok(Step::Transport) | Err(_) => return Ok(()),
        };
        if bytes > inside.bytes {
            return Err(GuardDrop::Truncated);
        }
        inside.protocol = next;
        inside.offset += bytes;
        inside.bytes -= bytes;
    }
    judge_transport(ctx, at, &inside)
}

#[inline(always)]
fn judge_transport(ctx: &XdpContext, at: usize, inside: &Inside) -> Result<(), GuardDrop> {
    guard::transport(inside)?;
    if inside.protocol != PROTOCOL_TCP || inside.is_later {
        return Ok(());
    }
    let [flags] = load(ctx, at as u32 + inside.offset + TCP_FLAGS_AT)?;
    guard::tcp_flags(flags)
}

/// By the picture of the list, and by the list itself where that is too coarse.
#[inline(always)]
fn is_denied(address: [u8; 4]) -> bool {
    let Some(guard) = CC_GUARD.get(0) else { return false };
    if guard.table == 0 {
        return false;
    }
    let (word, shift) = blocks::place(address);
    if guard.has_picture != 0
        && let Some(&word) = CC_BLOCKED.get(word)
    {
        match blocks::share(word, shift) {
            Share::Nothing => return false,
            Share::All => return true,
            Share::Some => {}
        }
    }
    let table = Be32Hash(guard.table.to_be_bytes());
    CC_PREFIX4.get(&Key::new(PREFIX4_BITS, Prefix4Key { table, address })).is_some()
}

/// Bytes of the frame from there on.
#[inline(always)]
fn available(ctx: &XdpContext, at: usize) -> u32 {
    (ctx.data_end() - ctx.data()).saturating_sub(at) as u32
}

/// Where the verifier sees that it lies within the frame: straight from it.
#[inline(always)]
fn read<T: Header>(ctx: &XdpContext, at: usize) -> Result<T, GuardDrop> {
    let start = ctx.data();
    if start + at + size_of::<T>() > ctx.data_end() {
        return Err(GuardDrop::Truncated);
    }
    // SAFETY: within the frame, as was just looked at; any bytes are a `Header`, and its alignment is 1.
    Ok(unsafe { *((start + at) as *const T) })
}

/// Elsewhere.
#[inline(always)]
fn load<const N: usize>(ctx: &XdpContext, at: u32) -> Result<[u8; N], GuardDrop> {
    let mut bytes = [0; N];
    // SAFETY: the context is valid, there is room for as many bytes as are asked for, and the helper refuses what is not there.
    let result = unsafe { bpf_xdp_load_bytes(ctx.ctx, at, bytes.as_mut_ptr().cast(), N as u32) };
    if result == 0 { Ok(bytes) } else { Err(GuardDrop::Truncated) }
}
