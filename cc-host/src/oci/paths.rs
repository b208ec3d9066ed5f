//! `linux.maskedPaths` and `linux.readonlyPaths`: covered by a null device that is known by its number, or by an empty directory; or mounted over
//! themselves, read-only. Refuses to make a path that is not there.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::mount::MountAttrFlags;

use super::mounts::existing;
use crate::shim::mounts::mount_failure;
use crate::shim::protocol::StartFailure;
use crate::shim::rootfs::{attach_at, clone_of, filesystem};
use crate::shim::sys::mount_setattr;

/// Inside, while the host's /dev is there.
pub fn mask(root: &OwnedFd, paths: &[String]) -> Result<(), StartFailure> {
    for path in paths {
        let Some((target, is_directory)) = existing(root, path)? else { continue };
        let cover = match is_directory {
            true => {
                let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
                    | MountAttrFlags::MOUNT_ATTR_NOSUID
                    | MountAttrFlags::MOUNT_ATTR_NODEV
                    | MountAttrFlags::MOUNT_ATTR_NOEXEC;
                filesystem("tmpfs", &[("mode", "755"), ("nr_inodes", "2"), ("size", "4k")], attributes)?
            }
            false => clone_of(null_device()?.as_fd(), false)?,
        };
        attach_at(&cover, &target, path)?;
    }
    Ok(())
}

pub fn make_read_only(root: &OwnedFd, paths: &[String]) -> Result<(), StartFailure> {
    for path in paths {
        let Some((target, _)) = existing(root, path)? else { continue };
        let copy = clone_of(target.as_fd(), true)?;
        mount_setattr(copy.as_fd(), libc::MOUNT_ATTR_RDONLY, None, true)
            .map_err(|e| mount_failure(&format!("make {path} read-only"), e))?;
        attach_at(&copy, &target, path)?;
    }
    Ok(())
}

fn null_device() -> Result<OwnedFd, StartFailure> {
    let failed = |e: rustix::io::Errno| mount_failure("open the host's /dev/null", e.into());
    let null = rustix::fs::open("/dev/null", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
    let stat = rustix::fs::fstat(&null).map_err(failed)?;
    let is_device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    if !is_device || stat.st_rdev != rustix::fs::makedev(1, 3) {
        return Err(mount_failure("mask a path", std::io::Error::other("the host's /dev/null is not the null device")));
    }
    Ok(null)
}
