//! Volumes: ext4 file systems of a project that outlive containers, each mounted once on this host and shown to any number of containers.
//! What is wanted is written to the store before anything of it is made, and boot finishes or undoes what was begun. Refuses to know
//! containers: it is told who holds a volume, and it never makes a file system over what is there.

pub(crate) mod backend;
mod change;
mod check;
mod delete;
pub mod enter;
mod error;
pub(crate) mod filesystem;
mod hold;
mod ioctl;
mod loop_device;
pub(crate) mod mount;
mod record;
mod repair;
mod room;
mod space;
pub(crate) mod tool;
mod watch;

pub use backend::{Advice, Attached, Backend, BackendError, LoopFiles, LvmThin, Vold};
pub use check::Checked;
pub use error::VolumeError;
pub use hold::Held;
pub(crate) use hold::exclusive;
pub(crate) use loop_device::LoopDevice;
pub use record::{VolumeRecord, VolumeState};
pub use room::{NewVolume, POOL, POOL_PERSISTENT, SIZE_BYTES_MAX, SIZE_BYTES_MIN, Volumes, VolumesParts, round};
pub use space::{Lender, Measure, NoSpace};

/// For a look at what the host lacks.
pub fn has_tool(tool: &'static str) -> bool {
    tool::find(tool).is_ok()
}
