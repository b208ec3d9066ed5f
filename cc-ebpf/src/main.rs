//! The kernel programs: entry points only. Each hook parses, asks `cc-common` for a decision, and applies it. Refuses to
//! decide anything here.
#![no_std]
#![no_main]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

mod admit;
mod again;
mod atomic;
mod beyond;
mod conntrack;
mod counters;
mod course;
mod decisions;
mod early;
mod events;
mod firewall;
mod hairpin;
mod hooks;
mod icmp;
mod inbound;
mod maps;
mod nat;
mod parse;
mod rate;
mod recycle;
mod rewrite;
mod send;
mod tell;
mod trace;
mod translate;
mod work;

use aya_ebpf::macros::{cgroup_skb, cgroup_sock_addr, classifier, xdp};
use aya_ebpf::programs::{SkBuffContext, SockAddrContext, TcContext, XdpContext};
use hooks::socket::{self, Family};

/// Clsact ingress of the host-side interface: what a container sends.
#[classifier]
pub fn cc_from_ep(ctx: TcContext) -> i32 {
    hooks::from_endpoint::run(&ctx)
}

/// Clsact egress of the host-side interface: what the host would send to a container.
#[classifier]
pub fn cc_to_ep(ctx: TcContext) -> i32 {
    hooks::to_endpoint::run(&ctx)
}

/// Ingress of an uplink: what comes from outside.
#[classifier]
pub fn cc_from_up(ctx: TcContext) -> i32 {
    hooks::from_uplink::run(&ctx)
}

/// Clsact ingress of the datapath's end of the host's own interface: what the host's sockets send to containers.
#[classifier]
pub fn cc_from_host(ctx: TcContext) -> i32 {
    hooks::from_host::run(&ctx)
}

/// On no packet: the daemon runs it to forget flows.
#[classifier]
pub fn cc_sweep(ctx: TcContext) -> i32 {
    hooks::sweep::run(&ctx)
}

/// What the sockets of a container's cgroup receive.
#[cgroup_skb(ingress)]
pub fn cc_cg_in(ctx: SkBuffContext) -> i32 {
    hooks::cgroup::ingress(&ctx)
}

/// What they send.
#[cgroup_skb(egress)]
pub fn cc_cg_out(ctx: SkBuffContext) -> i32 {
    hooks::cgroup::egress(&ctx)
}

/// Before anything else on an uplink.
#[xdp]
pub fn cc_xdp_guard(ctx: XdpContext) -> u32 {
    hooks::xdp_guard::run(&ctx)
}

/// Where a socket of the host's connects to.
#[cgroup_sock_addr(connect4)]
pub fn cc_connect4(ctx: SockAddrContext) -> i32 {
    socket::to(&ctx, Family::V4)
}

/// As `cc_connect4`.
#[cgroup_sock_addr(connect6)]
pub fn cc_connect6(ctx: SockAddrContext) -> i32 {
    socket::to(&ctx, Family::V6)
}

/// Where one sends that is not connected.
#[cgroup_sock_addr(sendmsg4)]
pub fn cc_sendmsg4(ctx: SockAddrContext) -> i32 {
    socket::to(&ctx, Family::V4)
}

/// As `cc_sendmsg4`.
#[cgroup_sock_addr(sendmsg6)]
pub fn cc_sendmsg6(ctx: SockAddrContext) -> i32 {
    socket::to(&ctx, Family::V6)
}

/// Whom it is told to have received from.
#[cgroup_sock_addr(recvmsg4)]
pub fn cc_recvmsg4(ctx: SockAddrContext) -> i32 {
    socket::told(&ctx, Family::V4)
}

/// As `cc_recvmsg4`.
#[cgroup_sock_addr(recvmsg6)]
pub fn cc_recvmsg6(ctx: SockAddrContext) -> i32 {
    socket::told(&ctx, Family::V6)
}

/// Whom it is told to be connected to.
#[cgroup_sock_addr(getpeername4)]
pub fn cc_peername4(ctx: SockAddrContext) -> i32 {
    socket::told(&ctx, Family::V4)
}

/// As `cc_peername4`.
#[cgroup_sock_addr(getpeername6)]
pub fn cc_peername6(ctx: SockAddrContext) -> i32 {
    socket::told(&ctx, Family::V6)
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// The kernel lends GPL-only helpers to programs that say this.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
