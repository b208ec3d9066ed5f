//! The tree below the root: directories found or made, names cleared, whiteouts. Every path is resolved inside the root by
//! openat2; the last step is an `*at` call with a single name. Refuses to hand out paths. (pathrs, which the daemon's side
//! uses, panics here when a path is missing: it looks for a /proc, and the child has none.)

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::UnpackError;
use super::path::join;
use crate::image::limits::OPAQUE_BYTES_MAX;
use crate::inside;
use crate::mutation::{self, Control};

pub struct Tree {
    root: OwnedFd,
    /// The directory of the last entry: the next one is mostly its neighbour.
    recent: Option<(Vec<OsString>, OwnedFd)>,
    opaque: BTreeSet<Vec<u8>>,
    opaque_bytes: usize,
}

pub fn disk(operation: &'static str, path: impl AsRef<OsStr>, source: impl Into<std::io::Error>) -> UnpackError {
    UnpackError::Disk { operation, path: path.as_ref().to_string_lossy().into_owned(), source: source.into() }
}

fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn is_dir(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

impl Tree {
    pub fn new(root: OwnedFd) -> Self {
        Tree { root, recent: None, opaque: BTreeSet::new(), opaque_bytes: 0 }
    }

    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    pub fn into_opaque(self) -> Vec<Vec<u8>> {
        self.opaque.into_iter().collect()
    }

    /// The directory, made if the layer did not name it.
    pub fn dir(&mut self, parts: &[OsString]) -> Result<OwnedFd, UnpackError> {
        let path = join(parts);
        let copy = |fd: &OwnedFd| fd.try_clone().map_err(|e| disk("open", &path, e));
        if let Some((recent, fd)) = &self.recent
            && recent == parts
        {
            return copy(fd);
        }
        let fd = match self.existing(parts)? {
            Some((fd, stat)) if is_dir(&stat) => fd,
            _ => self.make(parts)?,
        };
        self.recent = Some((parts.to_vec(), copy(&fd)?));
        Ok(fd)
    }

    /// The directory, if it is one.
    pub fn find(&self, parts: &[OsString]) -> Result<Option<OwnedFd>, UnpackError> {
        Ok(self.existing(parts)?.filter(|(_, stat)| is_dir(stat)).map(|(fd, _)| fd))
    }

    /// What is there, symlinks followed inside the root.
    fn existing(&self, parts: &[OsString]) -> Result<Option<(OwnedFd, Stat)>, UnpackError> {
        let path = join(parts);
        let resolve = match mutation::off(Control::UnpackInRoot) {
            true => ResolveFlags::empty(),
            false => ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV,
        };
        match inside::open(&self.root, &path, OFlags::PATH, Mode::empty(), resolve) {
            Ok(fd) => {
                let stat = rustix::fs::fstat(&fd).map_err(|e| disk("inspect", &path, e))?;
                Ok(Some((fd, stat)))
            }
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(Errno::LOOP) => Err(UnpackError::Refused(format!("{path:?} goes through a loop of symlinks"))),
            Err(e) => Err(disk("resolve", &path, e)),
        }
    }

    fn make(&mut self, parts: &[OsString]) -> Result<OwnedFd, UnpackError> {
        let mut here = self.root.as_fd().try_clone_to_owned().map_err(|e| disk("open", "/", e))?;
        for depth in 1..=parts.len() {
            let (prefix, name) = (&parts[..depth], parts[depth - 1].as_os_str());
            match self.existing(prefix)? {
                Some((fd, stat)) if is_dir(&stat) => {
                    here = fd;
                    continue;
                }
                // The layer hides what was there and then puts a new directory in its place.
                Some((_, stat)) if is_whiteout(&stat) => self.replace_whiteout(here.as_fd(), prefix, name)?,
                Some(_) => {
                    return Err(UnpackError::Refused(format!(
                        "{:?} is not a directory, yet an entry lies below it",
                        join(prefix)
                    )));
                }
                None => {}
            }
            rustix::fs::mkdirat(&here, name, Mode::from_raw_mode(0o755)).map_err(|e| match e {
                Errno::EXIST => UnpackError::Refused(format!(
                    "{:?} is a symlink to nothing, yet an entry lies below it",
                    join(prefix)
                )),
                e => disk("make directory", join(prefix), e),
            })?;
            let (fd, _) = self.existing(prefix)?.ok_or_else(|| disk("open", join(prefix), Errno::NOENT))?;
            here = fd;
        }
        Ok(here)
    }

    fn replace_whiteout(&mut self, dir: BorrowedFd<'_>, path: &[OsString], name: &OsStr) -> Result<(), UnpackError> {
        self.recent = None;
        rustix::fs::unlinkat(dir, name, AtFlags::empty()).map_err(|e| disk("remove", join(path), e))?;
        self.set_opaque(path)
    }

    /// Removes what an earlier entry left under this name. A directory that is to be a directory again stays: true.
    pub fn clear(&mut self, dir: BorrowedFd<'_>, path: &[OsString], for_dir: bool) -> Result<bool, UnpackError> {
        let Some(name) = path.last() else { return Ok(true) };
        let follow = if mutation::off(Control::UnpackNoFollow) { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
        let stat = match rustix::fs::statat(dir, name.as_os_str(), follow) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(false),
            Err(e) => return Err(disk("inspect", join(path), e)),
        };
        if for_dir && is_dir(&stat) {
            return Ok(true);
        }
        self.recent = None;
        if for_dir && is_whiteout(&stat) {
            self.replace_whiteout(dir, path, name)?;
        } else {
            remove_all(dir, name).map_err(|e| disk("remove", join(path), e))?;
        }
        Ok(false)
    }

    /// A symlink may have changed what a path means.
    pub fn forget(&mut self) {
        self.recent = None;
    }

    /// Hides `name` of the layers below; what this layer itself has under that name stays.
    pub fn whiteout(&mut self, dir: BorrowedFd<'_>, parent: &[OsString], name: &OsStr) -> Result<(), UnpackError> {
        let mut path = parent.to_vec();
        path.push(name.to_owned());
        match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if is_dir(&stat) => self.set_opaque(&path),
            Ok(_) => Ok(()),
            Err(Errno::NOENT) => rustix::fs::mknodat(dir, name, FileType::CharacterDevice, Mode::empty(), 0)
                .map_err(|e| disk("make whiteout", join(&path), e)),
            Err(e) => Err(disk("inspect", join(&path), e)),
        }
    }

    pub fn set_opaque(&mut self, path: &[OsString]) -> Result<(), UnpackError> {
        let bytes = join(path).as_os_str().as_bytes().to_vec();
        self.opaque_bytes = self.opaque_bytes.saturating_add(bytes.len());
        if self.opaque_bytes > OPAQUE_BYTES_MAX {
            return Err(UnpackError::Refused("it has too many opaque directories".to_owned()));
        }
        self.opaque.insert(bytes);
        Ok(())
    }
}

/// Removes a name and all below it, never through a symlink.
fn remove_all(dir: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        other => return other,
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inner = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    for entry in Dir::read_from(&inner)? {
        let entry = entry?;
        let child = entry.file_name().to_bytes();
        if child != b"." && child != b".." {
            remove_all(inner.as_fd(), OsStr::from_bytes(child))?;
        }
    }
    rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)
}
