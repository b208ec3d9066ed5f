//! The tests of the runtime once more, with shims that were parked before they were told what to run. Refuses to expect anything else of them.

#![expect(clippy::duplicate_mod, reason = "each of these has the runtime's world, as it has in its own program")]

#[path = "runtime_container.rs"]
mod container;
#[path = "runtime_exec.rs"]
mod exec;
#[path = "runtime_limits.rs"]
mod limits;
#[path = "runtime_log.rs"]
mod log;
#[path = "runtime_shim.rs"]
mod shim;
