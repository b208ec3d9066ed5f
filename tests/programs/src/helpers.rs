//! The kernel's helpers, as far as the programs call them. Refuses what the kernel would refuse.
#![expect(clippy::missing_safety_doc, reason = "each asks for what the kernel's helper of that name asks for")]

use std::ffi::{c_int, c_long, c_void};
use std::slice;

use crate::bindings::{__sk_buff, bpf_fib_lookup as Fib, bpf_redir_neigh};
use crate::btf_maps;
use crate::frame::Skb;
use crate::kernel::said;

const FAULT: c_long = -14;
const INVALID: c_long = -22;
const UNSUPPORTED: c_long = -524;
const REDIRECT: c_long = 7;
const ETHERNET_BYTES: usize = 14;
const FRAME_BYTES_MAX: u32 = 0xffff;
const ROOM_MAX: i32 = 0xfff;
const AF_INET: u8 = 2;

/// The kernel's sum of words as they lie in memory; of bytes in multiples of four.
unsafe fn sum(bytes: *const u8, length: u32) -> u32 {
    if length == 0 {
        return 0;
    }
    // SAFETY: the caller's bytes, as many as it says.
    let bytes = unsafe { slice::from_raw_parts(bytes, length as usize) };
    bytes.chunks_exact(4).fold(0, |sum, word| add(sum, u32::from_ne_bytes(word.try_into().expect("four bytes"))))
}

/// In one's complement.
fn add(a: u32, b: u32) -> u32 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u32::from(carry)
}

pub unsafe fn bpf_csum_diff(from: *mut u32, from_size: u32, to: *mut u32, to_size: u32, seed: u32) -> i64 {
    if (from_size | to_size) & 3 != 0 {
        return INVALID;
    }
    // SAFETY: as the contract says.
    let (from, to) = unsafe { (sum(from.cast(), from_size), sum(to.cast(), to_size)) };
    i64::from(add(add(to, !from), seed))
}

pub unsafe fn bpf_skb_load_bytes(skb: *const c_void, offset: u32, to: *mut c_void, length: u32) -> c_long {
    // SAFETY: as the contract says: a packet's context, and room for as many bytes.
    let (skb, to) = unsafe { (Skb::of(skb.cast_mut().cast()), slice::from_raw_parts_mut(to.cast(), length as usize)) };
    if skb.read(offset as usize, to) { 0 } else { FAULT }
}

pub unsafe fn bpf_skb_store_bytes(
    skb: *mut __sk_buff,
    offset: u32,
    from: *const c_void,
    length: u32,
    _flags: u64,
) -> c_long {
    // SAFETY: as the contract says: a packet's context, and as many bytes.
    let (skb, from) = unsafe { (Skb::of(skb), slice::from_raw_parts(from.cast(), length as usize)) };
    if skb.write(offset as usize, from) { 0 } else { FAULT }
}

/// Only to where packets come in.
pub unsafe fn bpf_clone_redirect(skb: *mut __sk_buff, ifindex: u32, flags: u64) -> c_long {
    if flags != u64::from(crate::bindings::BPF_F_INGRESS) {
        return INVALID;
    }
    // SAFETY: as the contract says.
    let bytes = unsafe { Skb::of(skb) }.bytes.clone();
    said(|said| said.again.push((ifindex, bytes)));
    0
}

pub unsafe fn bpf_skb_change_tail(skb: *mut __sk_buff, length: u32, flags: u64) -> c_long {
    if flags != 0 || (length as usize) < ETHERNET_BYTES || length > FRAME_BYTES_MAX {
        return INVALID;
    }
    // SAFETY: as the contract says.
    unsafe { Skb::of(skb) }.resize(length as usize);
    0
}

pub unsafe fn bpf_skb_change_type(skb: *mut __sk_buff, kind: u32) -> c_long {
    // SAFETY: as the contract says.
    unsafe { (*skb).pkt_type = kind }
    0
}

/// At the Ethernet header; only larger.
pub unsafe fn bpf_skb_adjust_room(skb: *mut __sk_buff, by: i32, mode: u32, flags: u64) -> c_long {
    if flags != 0 || mode != crate::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC {
        return INVALID;
    }
    if !(0..=ROOM_MAX).contains(&by) {
        return FAULT;
    }
    // SAFETY: as the contract says.
    let skb = unsafe { Skb::of(skb) };
    if !matches!(u16::from_be(skb.context.protocol as u16), 0x0800 | 0x86dd) {
        return UNSUPPORTED;
    }
    skb.make_room(by as usize);
    0
}

pub unsafe fn bpf_xdp_load_bytes(frame: *const [u8], offset: u32, to: *mut c_void, length: u32) -> c_long {
    // SAFETY: as the contract says.
    let (frame, to) = unsafe { (&*frame, slice::from_raw_parts_mut(to.cast::<u8>(), length as usize)) };
    let Some(found) = (offset as usize).checked_add(to.len()).and_then(|end| frame.get(offset as usize..end)) else {
        return INVALID;
    };
    to.copy_from_slice(found);
    0
}

pub unsafe fn bpf_check_mtu(ctx: *mut c_void, _ifindex: u32, mtu: *mut u32, _by: i32, _flags: u64) -> c_long {
    // SAFETY: as the contract says.
    let length = unsafe { Skb::of(ctx.cast()) }.bytes.len() - ETHERNET_BYTES;
    let most = said(|said| said.mtu);
    // SAFETY: likewise.
    unsafe { *mtu = most }
    c_long::from(length > most as usize)
}

pub unsafe fn bpf_fib_lookup(_ctx: *mut c_void, fib: *mut Fib, _length: c_int, _flags: u32) -> c_long {
    // SAFETY: as the contract says.
    let fib = unsafe { &mut *fib };
    said(|said| {
        fib.ifindex = said.route_ifindex;
        if fib.family == AF_INET {
            fib.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(said.sources[0].last().0);
        } else {
            fib.__bindgen_anon_3.ipv6_src = said.sources[1].words();
        }
        said.route
    })
}

pub unsafe fn bpf_for_each_map_elem(map: *mut c_void, callback: *mut c_void, argument: *mut c_void, _: u64) -> c_long {
    // SAFETY: as the contract says.
    unsafe { btf_maps::for_each(map, callback, argument) }
    0
}

pub unsafe fn bpf_ringbuf_output(_ring: *mut c_void, _data: *mut c_void, _bytes: u64, _flags: u64) -> c_long {
    0
}

pub unsafe fn bpf_probe_read_kernel_buf(from: *const u8, to: &mut [u8]) -> Result<(), i32> {
    // SAFETY: as the contract says.
    unsafe { from.copy_to_nonoverlapping(to.as_mut_ptr(), to.len()) }
    Ok(())
}

pub unsafe fn bpf_get_prandom_u32() -> u32 {
    said(|said| {
        said.random = said.random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        said.random
    })
}

pub unsafe fn bpf_ktime_get_ns() -> u64 {
    said(|said| said.now_ns)
}

pub unsafe fn bpf_ktime_get_coarse_ns() -> u64 {
    said(|said| said.now_ns)
}

pub unsafe fn bpf_redirect(_ifindex: u32, _flags: u64) -> c_long {
    REDIRECT
}

pub unsafe fn bpf_redirect_peer(_ifindex: u32, _flags: u64) -> c_long {
    REDIRECT
}

pub unsafe fn bpf_redirect_neigh(_ifindex: u32, _to: *mut bpf_redir_neigh, _length: c_int, _flags: u64) -> c_long {
    REDIRECT
}

/// Sockets and cgroups are no packet's business: here there are none.
pub unsafe fn bpf_skb_ancestor_cgroup_id(_skb: *mut __sk_buff, _level: c_int) -> u64 {
    0
}

pub unsafe fn bpf_get_netns_cookie(_ctx: *mut c_void) -> u64 {
    0
}

pub unsafe fn bpf_get_socket_cookie(_ctx: *mut c_void) -> u64 {
    0
}
