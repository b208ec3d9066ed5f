//! The kernel programs on the host: the very sources of `cc-ebpf`, compiled for this machine, over packets and maps in memory. What they
//! use of aya and of the kernel is here in the same names. Refuses to be another datapath: the only file of theirs that is replaced is
//! `atomic`, which holds instructions of the kernel's machine.

extern crate self as aya_ebpf;
extern crate self as aya_log_ebpf;

// What stands in for aya and the kernel.
mod atomic;
pub mod btf_maps;
pub mod context;
pub mod frame;
pub mod helpers;
pub mod kernel;

pub use aya_ebpf_bindings::bindings;
pub use context::{EbpfContext, Global};

pub mod programs {
    //! As aya names them.
    pub use crate::context::{SkBuffContext, SockAddrContext, TcContext, XdpContext};
}

pub mod macros {
    //! Maps go into a section of their own here, too; nobody looks for them there.
    pub use aya_ebpf_macros::btf_map;
}

// The programs.
#[path = "../../../cc-ebpf/src/admit.rs"]
mod admit;
#[path = "../../../cc-ebpf/src/again.rs"]
mod again;
#[path = "../../../cc-ebpf/src/beyond.rs"]
mod beyond;
#[path = "../../../cc-ebpf/src/conntrack.rs"]
mod conntrack;
#[path = "../../../cc-ebpf/src/counters.rs"]
mod counters;
#[path = "../../../cc-ebpf/src/course.rs"]
mod course;
#[path = "../../../cc-ebpf/src/decisions.rs"]
mod decisions;
#[path = "../../../cc-ebpf/src/early.rs"]
mod early;
#[path = "../../../cc-ebpf/src/events.rs"]
mod events;
#[path = "../../../cc-ebpf/src/firewall.rs"]
mod firewall;
#[path = "../../../cc-ebpf/src/hairpin.rs"]
mod hairpin;
#[path = "../../../cc-ebpf/src/hooks/mod.rs"]
pub mod hooks;
#[path = "../../../cc-ebpf/src/icmp.rs"]
pub mod icmp;
#[path = "../../../cc-ebpf/src/inbound.rs"]
mod inbound;
#[path = "../../../cc-ebpf/src/maps.rs"]
pub mod maps;
#[path = "../../../cc-ebpf/src/nat.rs"]
mod nat;
#[path = "../../../cc-ebpf/src/parse.rs"]
pub mod parse;
#[path = "../../../cc-ebpf/src/rate.rs"]
mod rate;
#[path = "../../../cc-ebpf/src/recycle.rs"]
mod recycle;
#[path = "../../../cc-ebpf/src/rewrite.rs"]
mod rewrite;
#[path = "../../../cc-ebpf/src/send.rs"]
mod send;
#[path = "../../../cc-ebpf/src/tell.rs"]
mod tell;
#[path = "../../../cc-ebpf/src/trace.rs"]
mod trace;
#[path = "../../../cc-ebpf/src/translate.rs"]
mod translate;
#[path = "../../../cc-ebpf/src/work.rs"]
pub mod work;

/// Logs of the programs are off.
#[macro_export]
macro_rules! debug {
    ($ctx:expr, $text:literal $(, $value:expr)*) => {{ $(let _ = $value;)* }};
}
