//! Which devices the processes of a cgroup may open and make: a program of a few instructions for each container, which hangs on the cgroup
//! itself and goes with it, whoever runs. No map, no pin: nothing of it has a layout that an upgrade would have to take over. For the daemon
//! and for `cc-oci`. Refuses to know why a device is allowed.

mod attach;
mod program;

pub use attach::{attach, is_attached, replace};
pub use program::{Access, Kind, Rule};
