//! The OCI runtime command line (runtime-spec 1.2) over the shim's launch code, for podman, containerd and whoever else has a bundle.
//! Refuses the daemon's rooms: it knows no image, no VPC and no store.

pub mod cgroup;
pub mod error;
pub mod features;
pub mod seccomp;

use std::process::ExitCode;

/// What the binary does.
pub fn main() -> ExitCode {
    ExitCode::from(2)
}
