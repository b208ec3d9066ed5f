//! The shim: one small process per container, parent of its init. Refuses tokio, networking and everything of the daemon's.
//!
//! Read in the order of a start: `spec` (what to run), or `place` (where, if that is all that is known yet), `own` (its own file), `apart` (out of the daemon's cgroup), `launch` (clone3), `mounts` (prepared from outside), `init` (inside:
//! `rootfs`, `masks`, `user`, `terminal`, `privileges`, `reaper`, `exec`, `filter`), then `supervise` (the poll loop, with `client`, `streams`, `protocol` and `log`), and `enter` for
//! further programs in the same container.

mod apart;
pub(crate) mod channel;
mod client;
mod enter;
pub(crate) mod exec;
pub mod exec_spec;
pub mod filter;
pub(crate) mod init;
pub(crate) mod launch;
mod layers;
pub mod log;
mod masks;
pub(crate) mod mounts;
pub(crate) mod own;
pub mod place;
pub mod privileges;
pub mod protocol;
mod reaper;
pub mod record;
pub(crate) mod rootfs;
pub mod spec;
mod streams;
mod supervise;
pub(crate) mod sys;
pub mod terminal;
pub mod user;

pub use supervise::run;
#[cfg(feature = "daemon")]
pub use sys::pidfd_exit_status;
