//! `tmpcopyup`: what lies under a tmpfs, copied into it before it covers that. Refuses to follow a link, and to copy what is no file, directory
//! or link.

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;

use crate::shim::mounts::mount_failure;
use crate::shim::protocol::StartFailure;

/// Directories within directories.
const DEPTH_MAX: u32 = 64;

/// Both may be open as places only.
pub fn copy(from: &OwnedFd, to: &OwnedFd) -> Result<(), StartFailure> {
    let failed = |e: Errno| mount_failure("copy what lies under a tmpfs into it", e.into());
    let stat = rustix::fs::fstat(from).map_err(failed)?;
    let source = directory(from, c".").map_err(failed)?;
    let target = directory(to, c".").map_err(failed)?;
    contents(&source, &target, DEPTH_MAX).and_then(|()| own(&target, &stat)).map_err(failed)
}

fn directory(at: &OwnedFd, name: &CStr) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(at, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

fn contents(from: &OwnedFd, to: &OwnedFd, depth: u32) -> Result<(), Errno> {
    let depth = depth.checked_sub(1).ok_or(Errno::NAMETOOLONG)?;
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                rustix::fs::mkdirat(to, name, Mode::from(0o700))?;
                let target = directory(to, name)?;
                contents(&directory(from, name)?, &target, depth)?;
                own(&target, &stat)?;
            }
            FileType::RegularFile => file(from, to, name, &stat)?,
            FileType::Symlink => {
                let link = rustix::fs::readlinkat(from, name, Vec::new())?;
                rustix::fs::symlinkat(&link, to, name)?;
                let (uid, gid) = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
                rustix::fs::chownat(to, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn file(from: &OwnedFd, to: &OwnedFd, name: &CStr, stat: &Stat) -> Result<(), Errno> {
    let source = rustix::fs::openat(from, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let target = rustix::fs::openat(to, name, flags, Mode::from(0o600))?;
    let mut piece = vec![0; 64 << 10];
    loop {
        let count = rustix::io::read(&source, &mut piece[..])?;
        if count == 0 {
            return own(&target, stat);
        }
        let mut written = 0;
        while written < count {
            written += rustix::io::write(&target, &piece[written..count])?;
        }
    }
}

fn own(target: &OwnedFd, stat: &Stat) -> Result<(), Errno> {
    rustix::fs::fchown(target, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    rustix::fs::fchmod(target, Mode::from_raw_mode(stat.st_mode & 0o7777))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_the_same_and_links_are_not_followed() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir_all(from.path().join("a/b")).unwrap();
        std::fs::write(from.path().join("a/b/f"), "x").unwrap();
        std::os::unix::fs::symlink("/etc", from.path().join("link")).unwrap();
        let open = |path: &std::path::Path| {
            rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
        };
        copy(&open(from.path()), &open(to.path())).unwrap();
        assert_eq!(std::fs::read(to.path().join("a/b/f")).unwrap(), b"x");
        assert_eq!(std::fs::read_link(to.path().join("link")).unwrap(), std::path::Path::new("/etc"));
    }
}
