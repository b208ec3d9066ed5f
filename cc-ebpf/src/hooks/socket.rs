//! Leads the host's own sockets to published ports: what they send to one goes to the stand-in of its container, and what they are told
//! of where it went is what they meant. Only the address changes. Refuses to touch a socket of another network namespace.

use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::{bpf_get_netns_cookie, bpf_get_socket_cookie};
use aya_ebpf::programs::SockAddrContext;
use cc_common::nat::{FORWARD_FROM_HOST, ForwardKey, MeantKey};
use cc_common::net::{Be16, Be32, Ip, PROTOCOL_TCP, PROTOCOL_UDP};

use crate::beyond::find_forward;
use crate::maps::{CC_ENDPOINTS, CC_MEANT, CC_SETTINGS};

/// Nothing else may be said where an address is told, and nothing is refused where one is used.
const ALLOW: i32 = 1;

/// Of which family the hook's address is. An IPv6 one may hold an IPv4 one.
#[derive(Clone, Copy)]
pub enum Family {
    V4,
    V6,
}

#[inline(always)]
fn address(address: *mut bpf_sock_addr, family: Family) -> Ip {
    // SAFETY: fields of the context, which the kernel lets a program of this family read word by word.
    unsafe {
        match family {
            Family::V4 => Ip::v4(Be32(read_volatile(&raw const (*address).user_ip4).to_ne_bytes())),
            Family::V6 => {
                let words = &raw const (*address).user_ip6;
                let word = |at: usize| read_volatile(words.cast::<u32>().add(at)).to_ne_bytes();
                let [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]] = [word(0), word(1), word(2), word(3)];
                Ip { octets: [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] }
            }
        }
    }
}

#[inline(always)]
fn set_address(address: *mut bpf_sock_addr, family: Family, to: &Ip) {
    let words = to.words();
    // SAFETY: as in `address`; these may be written as well.
    unsafe {
        match family {
            Family::V4 => write_volatile(&raw mut (*address).user_ip4, words[3]),
            Family::V6 => {
                let at = (&raw mut (*address).user_ip6).cast::<u32>();
                write_volatile(at, words[0]);
                write_volatile(at.add(1), words[1]);
                write_volatile(at.add(2), words[2]);
                write_volatile(at.add(3), words[3]);
            }
        }
    }
}

#[inline(always)]
fn port(address: *mut bpf_sock_addr) -> Be16 {
    // SAFETY: as in `address`; of the word, the first two bytes are the port in network order.
    Be16((unsafe { read_volatile(&raw const (*address).user_port) } as u16).to_ne_bytes())
}

/// Whether the socket is the host's: a container has its own ports, and its own loopback.
#[inline(always)]
fn is_hosts(ctx: &SockAddrContext) -> bool {
    let Some(settings) = CC_SETTINGS.get(0) else { return false };
    // SAFETY: the context is the program's own.
    settings.host_netns != 0 && unsafe { bpf_get_netns_cookie(ctx.as_ptr()) } == settings.host_netns
}

/// Where a socket connects to, or sends.
#[inline(always)]
pub fn to(ctx: &SockAddrContext, family: Family) -> i32 {
    if !is_hosts(ctx) {
        return ALLOW;
    }
    // SAFETY: as in `address`.
    let protocol = unsafe { read_volatile(&raw const (*ctx.sock_addr).protocol) } as u8;
    if protocol != PROTOCOL_TCP && protocol != PROTOCOL_UDP {
        return ALLOW;
    }
    let mut meant = address(ctx.sock_addr, family);
    // Nowhere is here, as the kernel has it.
    if meant.is_unspecified() {
        meant = Ip::LOOPBACK_V6;
    } else if meant == Ip::v4(Be32([0; 4])) {
        meant = Ip::v4(Be32([127, 0, 0, 1]));
    }
    let key = ForwardKey { address: meant, port: port(ctx.sock_addr), protocol, pad: 0 };
    let Some(forward) = find_forward(&key) else { return ALLOW };
    let Some(settings) = CC_SETTINGS.get(0) else { return ALLOW };
    let is_there = CC_ENDPOINTS.get(forward.endpoint).is_some_and(|entry| entry.generation == forward.generation);
    if forward.from >= FORWARD_FROM_HOST || !is_there || !settings.stand_ins.has(meant.is_v4()) {
        return ALLOW;
    }
    let stand_in = settings.stand_ins.of(meant.is_v4(), forward.endpoint);
    let known = meant_key(ctx, stand_in);
    // A full table forgets whom it has not been asked for longest: that socket is told the stand-in.
    let _ = CC_MEANT.insert(known, meant, 0);
    set_address(ctx.sock_addr, family, &stand_in);
    ALLOW
}

/// Where a socket is told that it is connected to, or that it has received from.
#[inline(always)]
pub fn told(ctx: &SockAddrContext, family: Family) -> i32 {
    if !is_hosts(ctx) {
        return ALLOW;
    }
    let key = meant_key(ctx, address(ctx.sock_addr, family));
    // SAFETY: copied at once.
    if let Some(meant) = unsafe { CC_MEANT.get(key) } {
        set_address(ctx.sock_addr, family, meant);
    }
    ALLOW
}

#[inline(always)]
fn meant_key(ctx: &SockAddrContext, address: Ip) -> MeantKey {
    // SAFETY: the context is the program's own.
    let socket = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    MeantKey { socket, address, port: port(ctx.sock_addr), pad: [0; 6] }
}
