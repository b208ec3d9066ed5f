//! What of /proc and /sys a container may not see or change: docker's default lists. Everything is found from the mounts'
//! own descriptors, never by a path through the image. Refuses to decide what else is mounted.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::mounts::mount_failure;
use super::protocol::StartFailure;
use super::rootfs::{KernelMounts, attach_at, clone_of, filesystem, open_in, open_strictly};
use super::sys::mount_setattr;
use crate::mutation::{self, Control};

const MASKED_IN_PROC: [&str; 10] = [
    "acpi",
    "asound",
    "interrupts",
    "kcore",
    "keys",
    "latency_stats",
    "sched_debug",
    "scsi",
    "timer_list",
    "timer_stats",
];
const MASKED_IN_SYS: [&str; 2] = ["devices/virtual/powercap", "firmware"];
const READ_ONLY_IN_PROC: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];

/// After /proc, /sys and /dev are in place.
pub fn apply(kernel: &KernelMounts) -> Result<(), StartFailure> {
    for path in READ_ONLY_IN_PROC {
        make_read_only(&kernel.proc, path)?;
    }
    for (base, paths) in [(&kernel.proc, &MASKED_IN_PROC[..]), (&kernel.sys, &MASKED_IN_SYS[..])] {
        for path in paths {
            mask(base, path)?;
        }
    }
    Ok(())
}

fn make_read_only(base: &OwnedFd, path: &str) -> Result<(), StartFailure> {
    if mutation::off(Control::ReadOnlyPaths) {
        return Ok(());
    }
    let Some(target) = existing(base, path)? else { return Ok(()) };
    let copy = clone_of(target.as_fd(), true)?;
    let attributes =
        libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
    mount_setattr(copy.as_fd(), attributes, None, true)
        .map_err(|source| mount_failure(&format!("make {path} read-only"), source))?;
    attach_at(&copy, &target, path)
}

fn mask(base: &OwnedFd, path: &str) -> Result<(), StartFailure> {
    if mutation::off(Control::MaskedPaths) {
        return Ok(());
    }
    let Some(target) = existing(base, path)? else { return Ok(()) };
    let stat = rustix::fs::fstat(&target).map_err(|source| mount_failure(&format!("look at {path}"), source.into()))?;
    let cover = if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        filesystem("tmpfs", &[("mode", "755"), ("nr_inodes", "2"), ("size", "4k")], attributes)?
    } else {
        clone_of(null_device()?.as_fd(), false)?
    };
    attach_at(&cover, &target, path)
}

/// The node that was mounted a moment ago, by its number and not by its name alone.
fn null_device() -> Result<OwnedFd, StartFailure> {
    let root = rustix::fs::open("/dev", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, rustix::fs::Mode::empty())
        .map_err(|source| mount_failure("open /dev in the container", source.into()))?;
    let null = open_in(&root, "null", OFlags::empty())?;
    let stat = rustix::fs::fstat(&null).map_err(|source| mount_failure("look at /dev/null", source.into()))?;
    if stat.st_rdev != rustix::fs::makedev(1, 3) && !mutation::off(Control::NullVerified) {
        return Err(mount_failure("mask a path", std::io::Error::other("/dev/null is not the null device")));
    }
    Ok(null)
}

/// Kernels differ in what they offer: what is not there needs no mask.
fn existing(base: &OwnedFd, path: &str) -> Result<Option<OwnedFd>, StartFailure> {
    match open_strictly(base, path, OFlags::empty()) {
        Ok(target) => Ok(Some(target)),
        Err(Errno::NOENT) => Ok(None),
        Err(source) => Err(mount_failure(&format!("open {path}, which has to be masked"), source.into())),
    }
}
