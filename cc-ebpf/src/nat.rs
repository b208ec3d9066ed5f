//! Leases ports for translated conversations, and asks the host's routes for the way out. Refuses to translate.

use core::ffi::c_void;

use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_NOT_FWDED, BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LOOKUP_SKIP_NEIGH, BPF_FIB_LOOKUP_SRC,
};
use aya_ebpf::helpers::{bpf_fib_lookup, bpf_for_each_map_elem, bpf_get_prandom_u32};
use aya_ebpf::programs::TcContext;
use cc_common::flow::{FLAG_SHARED, Side};
use cc_common::limits::{NAT_BLOCKS_PER_ENDPOINT, NAT_TRIES_MAX};
use cc_common::nat::{self, Block};
use cc_common::net::{Be16, Be32, Ip};
use cc_common::port::PortKey;
use cc_common::quota;
use cc_common::settings::Settings;
use cc_common::verdict::DropReason;

use crate::conntrack::Counter;
use crate::maps::{CC_BLOCKS, CC_ENDPOINTS, CC_QUOTAS, CC_UPLINKS};
use crate::work::{Outcome, Work};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const LOOKUP_FLAGS: u32 = BPF_FIB_LOOKUP_SKIP_NEIGH | BPF_FIB_LOOKUP_SRC;

/// Tries ports until `insert` takes one, and leases it. Bounded; `insert` says whether the conversation is unique with it, or why no port
/// would help, and is a function that is verified by itself, so that each try is a few instructions.
#[inline(always)]
pub fn lease(settings: &Settings, work: &mut Work, insert: impl Fn(Be16) -> Outcome) -> Result<Be16, Outcome> {
    let generation = work.port.generation;
    // SAFETY: draws a number.
    let seed = unsafe { bpf_get_prandom_u32() };
    for attempt in 0..NAT_TRIES_MAX {
        let Some(candidate) = nat::candidate(settings, generation, seed, attempt) else { break };
        if candidate.own {
            if !claim(candidate.block, generation, work.port.endpoint) {
                continue;
            }
        } else if !share(work.port.endpoint) {
            break;
        }
        let inserted = insert(candidate.port);
        if !candidate.own && inserted != Outcome::GO {
            unshare(work.port.endpoint);
        }
        if inserted != Outcome::TAKEN {
            if inserted != Outcome::GO {
                return Err(inserted);
            }
            work.hairpin.shared = if candidate.own { 0 } else { FLAG_SHARED };
            if let Some(block) = CC_BLOCKS.get_ptr_mut(candidate.block) {
                // SAFETY: only an address is computed.
                Counter::at(unsafe { &raw mut (*block).uses }).add();
            }
            return Ok(candidate.port);
        }
    }
    Err(work.refuse(DropReason::NatExhausted))
}

fn shared_of(endpoint: u32) -> Option<Counter> {
    // SAFETY: only an address is computed.
    CC_QUOTAS.get_ptr_mut(endpoint).map(|quota| Counter::at(unsafe { &raw mut (*quota).nat_shared }))
}

/// Whether the endpoint may have another port of somebody else's block; then it has.
#[inline(always)]
fn share(endpoint: u32) -> bool {
    let Some(shared) = shared_of(endpoint) else { return false };
    if quota::shared_port(shared.add()) {
        return true;
    }
    shared.sub(1);
    false
}

#[inline(always)]
fn unshare(endpoint: u32) {
    if let Some(shared) = shared_of(endpoint) {
        shared.sub(1);
    }
}

/// For a slot that changes hands.
#[inline(always)]
pub fn forget_shared(endpoint: u32) {
    if let Some(shared) = shared_of(endpoint) {
        shared.take();
    }
}

/// Whether a block is the endpoint's, or becomes it.
#[inline(always)]
fn claim(block: u32, generation: u64, endpoint: u32) -> bool {
    let (Some(block), Some(quota)) = (CC_BLOCKS.get_ptr_mut(block), CC_QUOTAS.get_ptr_mut(endpoint)) else {
        return false;
    };
    // SAFETY: only addresses are computed.
    let (owner, held) = unsafe { (Counter::at(&raw mut (*block).owner), Counter::at(&raw mut (*quota).nat_blocks)) };
    let found = owner.get();
    if found != 0 {
        return found == generation;
    }
    if held.add() >= u64::from(NAT_BLOCKS_PER_ENDPOINT) || !owner.change(0, generation) {
        held.sub(1);
        return false;
    }
    true
}

/// A conversation with a leased port is over. A block without any is nobody's, but for one that others shared last: its owner has it
/// until he uses it again, or goes.
#[inline(always)]
pub fn release(flags: u8, port: Be16, endpoint: u32, generation: u64) {
    if flags & FLAG_SHARED != 0 && CC_ENDPOINTS.get(endpoint).is_some_and(|entry| entry.generation == generation) {
        unshare(endpoint);
    }
    let Some(block) = CC_BLOCKS.get_ptr_mut(nat::block_of(port)) else { return };
    // SAFETY: only addresses are computed.
    let (owner, uses) = unsafe { (Counter::at(&raw mut (*block).owner), Counter::at(&raw mut (*block).uses)) };
    if uses.sub(1) == 1 {
        disown(owner, endpoint, generation);
    }
}

/// The block is nobody's, if it is this owner's. Once per claim: whoever changes it does the books.
#[inline(always)]
fn disown(owner: Counter, endpoint: u32, generation: u64) {
    if owner.change(generation, 0)
        && let Some(quota) = CC_QUOTAS.get_ptr_mut(endpoint)
    {
        // SAFETY: only an address is computed.
        Counter::at(unsafe { &raw mut (*quota).nat_blocks }).sub(1);
    }
}

/// An endpoint that has gone.
#[repr(C)]
struct Gone {
    generation: u64,
    endpoint: u32,
}

/// Its blocks are everybody's. Conversations that still have a port of one are orphans, and go by themselves.
#[inline(always)]
pub fn retire(endpoint: u32, generation: u64) {
    let mut gone = Gone { generation, endpoint };
    let (map, callback) = (&raw const CC_BLOCKS, visit as unsafe extern "C" fn(_, _, _, _) -> i64);
    // SAFETY: the kernel calls `visit` with each element of the map, and with the pointer to `gone`, which outlives the call.
    unsafe {
        bpf_for_each_map_elem(map.cast_mut().cast(), callback as *mut c_void, (&raw mut gone).cast(), 0);
    }
}

/// # Safety
/// `block` is an element of `CC_BLOCKS`, and `gone` is what `retire` has passed.
#[inline(never)]
unsafe extern "C" fn visit(_map: *mut c_void, _number: *const u32, block: *mut Block, gone: *mut Gone) -> i64 {
    // SAFETY: as this function's contract says; of the block only an address is computed.
    let (owner, gone) = unsafe { (Counter::at(&raw mut (*block).owner), &*gone) };
    disown(owner, gone.endpoint, gone.generation);
    0
}

/// What the host's routes say of a destination.
pub enum Way {
    /// Out by this interface, from the address that is in `work.fib`.
    Out { ifindex: u32 },
    /// None: it is the host's own, or nobody's.
    Host,
}

/// Asks as a packet that came in by the host's own side of the datapath would be forwarded, to `them` of the key.
#[inline(always)]
pub fn way(ctx: &TcContext, settings: &Settings, work: &mut Work, them: Side) -> Result<Way, DropReason> {
    let (fib, destination) = (&mut work.fib, &work.key.addresses[them.index()]);
    // SAFETY: plain numbers, for which zeros are a value.
    unsafe { core::ptr::write_bytes(&raw mut *fib, 0, 1) };
    fib.ifindex = settings.host_ifindex;
    if destination.is_v4() {
        fib.family = AF_INET;
        fib.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(destination.last().0);
    } else {
        fib.family = AF_INET6;
        fib.__bindgen_anon_4.ipv6_dst = destination.words();
    }
    // SAFETY: the context is valid, and the parameters are as long as is said.
    let result = unsafe { bpf_fib_lookup(ctx.skb.skb.cast(), fib, size_of_val(fib) as i32, LOOKUP_FLAGS) };
    match result as u32 {
        BPF_FIB_LKUP_RET_SUCCESS => {
            let ifindex = fib.ifindex;
            // SAFETY: only its presence is looked at.
            match unsafe { CC_UPLINKS.get(PortKey { ifindex }) } {
                Some(_) => Ok(Way::Out { ifindex }),
                None => Err(DropReason::NoWayOut),
            }
        }
        BPF_FIB_LKUP_RET_NOT_FWDED => Ok(Way::Host),
        aya_ebpf::bindings::BPF_FIB_LKUP_RET_FRAG_NEEDED => Err(DropReason::TooBig),
        _ => Err(DropReason::NoWayOut),
    }
}

/// The address that the routes send from.
#[inline(always)]
pub fn source(work: &Work) -> Ip {
    let v4 = work.parsed.packet.destination.is_v4();
    // SAFETY: every bit pattern is a value of either; the lookup has written the one of this family.
    unsafe {
        if v4 {
            return Ip::v4(Be32(work.fib.__bindgen_anon_3.ipv4_src.to_ne_bytes()));
        }
        let [a, b, c, d] = work.fib.__bindgen_anon_3.ipv6_src.map(u32::to_ne_bytes);
        Ip { octets: [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]] }
    }
}
