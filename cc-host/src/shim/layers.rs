//! How overlayfs is told of a layer: by the descriptor of a mount that is nowhere, which it takes from Linux 6.15 on, or, before that, by a
//! path to a mount in the mount namespace of who tells it. Refuses to attach anything where the host would see it.

use std::fs::File;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, fsconfig_set_fd, fsconfig_set_string, mount_change, move_mount,
};

use super::launch::failed;
use super::mounts::mount_failure;
use super::protocol::StartFailure;

pub trait Layers {
    /// Before it is given.
    fn show(&self, mount: &OwnedFd) -> Result<(), Errno>;
    fn give(&self, context: &OwnedFd, key: &str, dir: &OwnedFd) -> Result<(), Errno>;
}

pub struct Nowhere;

impl Layers for Nowhere {
    fn show(&self, _: &OwnedFd) -> Result<(), Errno> {
        Ok(())
    }

    fn give(&self, context: &OwnedFd, key: &str, dir: &OwnedFd) -> Result<(), Errno> {
        fsconfig_set_fd(context, key, dir)
    }
}

/// This process's time in a mount namespace of its own, with the host's mounts. It ends with the namespace, and what was attached there
/// with it; the overlay has its own copies by then.
pub struct Away {
    home: File,
}

impl Away {
    /// The caller has one thread: another could not come back.
    pub fn from_host() -> Result<Away, StartFailure> {
        let home = File::open("/proc/self/ns/mnt").map_err(|e| failed("open the host's mount namespace", e))?;
        unshare(CloneFlags::CLONE_NEWNS).map_err(|e| failed("make a mount namespace for the layers", e.into()))?;
        let away = Away { home };
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        match mount_change("/", private) {
            Ok(()) => Ok(away),
            Err(source) => away.back().and(Err(mount_failure("make mounts private", source.into()))),
        }
    }

    pub fn back(self) -> Result<(), StartFailure> {
        setns(self.home, CloneFlags::CLONE_NEWNS).map_err(|e| failed("return to the host's mounts", e.into()))
    }
}

impl Layers for Away {
    /// One over the other, on the one place that every host has: they are told apart by descriptors.
    fn show(&self, mount: &OwnedFd) -> Result<(), Errno> {
        move_mount(mount, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
    }

    fn give(&self, context: &OwnedFd, key: &str, dir: &OwnedFd) -> Result<(), Errno> {
        fsconfig_set_string(context, key, format!("/proc/self/fd/{}", dir.as_raw_fd()))
    }
}
