//! What the end-to-end tests share. Refuses to hold a test: each promise is a file in tests/tests.

pub mod apart;
pub mod beyond;
pub mod chromium;
pub mod conversations;
pub mod daemon;
pub mod damage;
pub mod debian;
pub mod dns;
pub mod dual_stack;
pub mod echo;
pub mod eventually;
pub mod exposition;
pub mod images;
pub mod iperf;
pub mod lvm;
pub mod netns;
pub mod oci;
pub mod packet;
pub mod page;
pub mod podman;
pub mod power;
pub mod promql;
mod residue;
pub mod scapy;
pub mod skip;
pub mod truth;
pub mod typist;
pub mod watch;
pub mod websocket;
pub mod world;

pub use daemon::{Build, Leave};
pub use eventually::{allowed, eventually, patience};
pub use world::{Ran, World};
