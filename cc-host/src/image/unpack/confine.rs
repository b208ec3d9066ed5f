//! What the child gives up: the host's mounts, network and ids of processes' sharing, capabilities, resources, and by Landlock all but its
//! layer. Refuses to go on if any of it fails; that the kernel has no Landlock is no failure.

use std::io;
use std::os::fd::OwnedFd;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Resource, Rlimit};
use rustix::thread::CapabilitySet;

use super::landlock;
use crate::image::limits::{CHILD_MEMORY_BYTES, LAYER_BYTES_MAX};
use crate::mutation::{self, Control};

/// CHOWN gives files to the layer's owners; DAC_OVERRIDE then writes into their directories; FOWNER sets modes and times on
/// them; FSETID keeps setgid where the group is not ours; SETFCAP writes security.capability. MKNOD is not here: a
/// whiteout (0, 0) and a fifo need none, and other devices are left out.
fn kept() -> CapabilitySet {
    CapabilitySet::CHOWN
        | CapabilitySet::DAC_OVERRIDE
        | CapabilitySet::FOWNER
        | CapabilitySet::FSETID
        | CapabilitySet::SETFCAP
}

fn step<T, E: std::fmt::Display>(what: &str, result: Result<T, E>) -> Result<T, String> {
    result.map_err(|e| format!("{what}: {e}"))
}

/// Makes the working directory the whole of the file system, and returns it.
pub fn enter() -> Result<OwnedFd, String> {
    let none: Option<&str> = None;
    step(
        "new namespaces",
        unshare(
            CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS,
        ),
    )?;
    step("private mounts", mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none))?;
    let here = step("working directory", std::env::current_dir())?;
    let flags = MsFlags::MS_BIND;
    step("bind the layer", mount(Some(&here), &here, none, flags, none))?;
    step("enter the layer", std::env::set_current_dir(&here))?;
    let quiet = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    step("restrict the layer's mount", mount(none, ".", none, quiet, none))?;
    step("pivot_root", nix::unistd::pivot_root(".", "."))?;
    step("drop the host's mounts", umount2(".", MntFlags::MNT_DETACH))?;
    step("enter the root", std::env::set_current_dir("/"))?;
    let root = step(
        "open the root",
        rustix::fs::open("/", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()),
    )?;
    step("limits", limits())?;
    step("privileges", privileges())?;
    step("landlock", landlock::restrict_to(&root))?;
    rustix::process::umask(Mode::empty());
    Ok(root)
}

fn limits() -> io::Result<()> {
    for (resource, limit) in [
        (Resource::Nofile, 1024),
        (Resource::Core, 0),
        (Resource::Fsize, LAYER_BYTES_MAX),
        (Resource::As, CHILD_MEMORY_BYTES),
    ] {
        // Never above what we were given: raising a hard limit needs a capability that some hosts lack.
        let old = rustix::process::getrlimit(resource);
        let new = old.maximum.map_or(limit, |max| max.min(limit));
        rustix::process::setrlimit(resource, Rlimit { current: Some(new), maximum: Some(new) })?;
    }
    Ok(())
}

fn privileges() -> io::Result<()> {
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    if mutation::off(Control::UnpackCapabilities) {
        return Ok(());
    }
    crate::shim::privileges::confine_to(kept())
}
