//! Out of the daemon's cgroup: whoever ends that cgroup, as a service manager does with a service that stops, must not end the
//! container. The shim is cloned once more, into a cgroup of the shims: for a process that exists already the kernel would wait until
//! none forks or exits anywhere. Refuses to do anything else of a daemon's ritual: there is no terminal and no working directory.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::sys;

/// Which of the two processes the caller is afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Whom the daemon spawned: there is nothing left to do for it.
    Spawned,
    /// The one that goes on, a child of the system's first process.
    Apart,
}

pub fn clone_into(cgroup: &Path) -> io::Result<Which> {
    let cgroup = rustix::fs::open(cgroup, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    // SAFETY: the shim starts no thread, ever.
    match unsafe { sys::clone3(0, Some(cgroup.as_fd())) }? {
        sys::Side::Parent(_) => Ok(Which::Spawned),
        sys::Side::Child => Ok(Which::Apart),
    }
}
