//! The shim: one small process per container, parent of its init. Refuses tokio, networking and everything of the daemon's.
//!
//! Read in the order of a start: `spec` (what to run), `apart` (out of the daemon's cgroup), `launch` (clone3), `mounts` (prepared from outside), `init` (inside:
//! `rootfs`, `masks`, `user`, `privileges`, `exec`), then `supervise` (the poll loop, with `client`, `protocol` and `log`).

mod apart;
mod channel;
mod client;
mod exec;
mod init;
mod launch;
pub mod log;
mod masks;
mod mounts;
mod privileges;
pub mod protocol;
pub mod record;
mod rootfs;
pub mod spec;
mod supervise;
mod sys;
pub mod user;

pub use supervise::run;
#[cfg(feature = "daemon")]
pub use sys::pidfd_exit_status;
