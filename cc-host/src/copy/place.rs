//! Paths in the container, as its root would have them resolved: symlinks stay inside, `..` ends at the root. Refuses to name a file of the
//! host, whatever a path says.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::{CopyError, disk};
use crate::inside;

/// As many symlinks as the kernel follows in one path.
const LINKS_MAX: usize = 40;
const PATH_BYTES_MAX: usize = 4095;

/// A path of the container's, from its root, without `.` and `..`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    parts: Vec<OsString>,
    /// It was written as one that can only be a directory.
    pub is_directory: bool,
}

impl Place {
    /// Relative paths are taken from the root. `..` goes up in the text, as docker's copy has it, and never above the root.
    pub fn parse(path: &str) -> Result<Place, CopyError> {
        if path.is_empty() {
            return Err(CopyError::Refused("the path in the container is empty".to_owned()));
        }
        if path.len() > PATH_BYTES_MAX || path.contains('\0') {
            return Err(CopyError::Refused("the path in the container is too long, or holds a NUL".to_owned()));
        }
        let is_directory = path.ends_with('/') || path.ends_with("/.") || path.ends_with("..") || path == ".";
        Ok(Place { parts: clean(Vec::new(), Path::new(path)), is_directory })
    }

    pub fn path(&self) -> PathBuf {
        Path::new("/").join(self.parts.iter().collect::<PathBuf>())
    }

    pub fn name(&self) -> Option<&OsString> {
        self.parts.last()
    }

    pub fn parent(&self) -> Place {
        let parts = self.parts.split_last().map_or_else(Vec::new, |(_, parent)| parent.to_vec());
        Place { parts, is_directory: true }
    }

    pub fn join(&self, below: &Path) -> Place {
        Place { parts: clean(self.parts.clone(), below), is_directory: false }
    }
}

/// As the text says, without asking what is there.
fn clean(mut parts: Vec<OsString>, path: &Path) -> Vec<OsString> {
    for component in path.components() {
        match component {
            Component::RootDir => parts.clear(),
            Component::ParentDir => {
                parts.pop();
            }
            Component::Normal(name) => parts.push(name.to_owned()),
            Component::CurDir | Component::Prefix(_) => {}
        }
    }
    parts
}

/// A directory of the container's; symlinks on the way are followed inside its root.
pub fn open_directory(root: BorrowedFd<'_>, place: &Place) -> Result<OwnedFd, CopyError> {
    let path = place.path();
    open(root, &path, OFlags::RDONLY | OFlags::DIRECTORY).map_err(|e| match e {
        Errno::NOENT => CopyError::NotFound(format!("there is no directory {} in the container", path.display())),
        Errno::NOTDIR => CopyError::Refused(format!("{} in the container is not a directory", path.display())),
        e => disk("open", &path, e),
    })
}

fn open(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = path.strip_prefix("/").unwrap_or(path);
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    inside::open(root, path, flags, Mode::empty(), resolve)
}

/// What is there, without following a symlink at the end. `None` if nothing is.
pub fn look(root: BorrowedFd<'_>, place: &Place) -> Result<Option<Stat>, CopyError> {
    let Some(name) = place.name() else {
        let dir = open_directory(root, place)?;
        return rustix::fs::fstat(&dir).map(Some).map_err(|e| disk("inspect", place.path(), e));
    };
    let parent = open_directory(root, &place.parent())?;
    match rustix::fs::statat(&parent, name.as_os_str(), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(disk("inspect", place.path(), e)),
    }
}

/// Where the path leads, without any symlink in it; and what is there, if only the last name is missing.
pub fn follow(root: BorrowedFd<'_>, place: Place) -> Result<(Place, Option<Stat>), CopyError> {
    let shown = place.path();
    let mut is_directory = place.is_directory;
    let mut todo: VecDeque<OsString> = place.parts.into();
    let mut here = Place { parts: Vec::new(), is_directory: true };
    let mut links = 0;
    while let Some(name) = todo.pop_front() {
        if name == ".." {
            here = here.parent();
            continue;
        }
        let next = Place { is_directory, ..here.join(Path::new(&name)) };
        match look(root, &next)? {
            None if todo.is_empty() => return Ok((next, None)),
            None => {
                return Err(CopyError::NotFound(format!(
                    "there is no directory {} in the container",
                    next.path().display()
                )));
            }
            Some(stat) if kind(&stat) == FileType::Symlink => {
                links += 1;
                if links > LINKS_MAX {
                    return Err(CopyError::Refused(format!(
                        "{} in the container is a loop of symlinks",
                        shown.display()
                    )));
                }
                let dir = open_directory(root, &here)?;
                let target = rustix::fs::readlinkat(&dir, name.as_os_str(), Vec::new())
                    .map_err(|e| disk("read the symlink", next.path(), e))?;
                let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                is_directory |= todo.is_empty() && target.as_os_str().as_bytes().ends_with(b"/");
                if target.is_absolute() {
                    here.parts.clear();
                }
                for part in target.components().rev() {
                    match part {
                        Component::Normal(name) => todo.push_front(name.to_owned()),
                        Component::ParentDir => todo.push_front("..".into()),
                        Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
                    }
                }
            }
            Some(_) => here = next,
        }
    }
    let here = Place { is_directory, ..here };
    let stat = look(root, &here)?;
    Ok((here, stat))
}

pub fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// The parent, open, and the name in it; `None` for the root.
pub fn parent_of<'p>(root: BorrowedFd<'_>, place: &'p Place) -> Result<Option<(OwnedFd, &'p OsString)>, CopyError> {
    place.name().map(|name| Ok((open_directory(root.as_fd(), &place.parent())?, name))).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(path: &str) -> (PathBuf, bool) {
        let place = Place::parse(path).unwrap();
        (place.path(), place.is_directory)
    }

    #[test]
    fn paths_are_cleaned_and_stay_below_the_root() {
        assert_eq!(place("/etc/hosts"), ("/etc/hosts".into(), false));
        assert_eq!(place("etc//./hosts/"), ("/etc/hosts".into(), true));
        assert_eq!(place("../../etc/../tmp/."), ("/tmp".into(), true));
        assert_eq!(place("/.."), ("/".into(), true));
        assert!(
            Place::parse("").is_err() && Place::parse("a\0b").is_err() && Place::parse(&"a/".repeat(3000)).is_err()
        );
    }

    #[test]
    fn symlinks_lead_to_the_containers_own_files() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("etc/real")).unwrap();
        std::fs::write(dir.path().join("etc/real/file"), b"x").unwrap();
        let link = |target: &str, name: &str| std::os::unix::fs::symlink(target, dir.path().join(name)).unwrap();
        link("/etc/real", "absolute");
        link("../../../etc/real/file", "etc/up");
        link("loop", "loop");
        link("/etc/passwd-of-the-host", "outside");
        let root = rustix::fs::open(dir.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let follow = |path: &str| follow(root.as_fd(), Place::parse(path).unwrap());
        let (at, stat) = follow("/absolute").unwrap();
        assert_eq!((at.path(), kind(&stat.unwrap())), ("/etc/real".into(), FileType::Directory));
        let (at, stat) = follow("/etc/up").unwrap();
        assert_eq!((at.path(), kind(&stat.unwrap())), ("/etc/real/file".into(), FileType::RegularFile));
        assert_eq!(follow("/absolute/file").unwrap().0.path(), PathBuf::from("/etc/real/file"));
        // What is above a symlink's target is above where it really is.
        link("/etc/real", "etc/deep");
        link("../there", "etc/real/tool");
        std::fs::write(dir.path().join("etc/there"), b"x").unwrap();
        assert_eq!(follow("/etc/deep/tool").unwrap().0.path(), PathBuf::from("/etc/there"));
        assert_eq!(follow("/absolute/new").unwrap().0.path(), PathBuf::from("/etc/real/new"));
        assert!(follow("/outside").unwrap().1.is_none(), "there is no such file here");
        assert!(matches!(follow("/loop"), Err(CopyError::Refused(_))));
        assert!(matches!(follow("/nowhere/file"), Err(CopyError::NotFound(_))));
        assert!(matches!(follow("/etc/real/file/below"), Err(CopyError::Refused(_))));
    }
}
