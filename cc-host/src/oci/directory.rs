//! One container's directory: it appears whole, is locked while it is changed, and goes as a whole. Refuses to lock one that has gone, or that
//! another container's has taken the place of.
//!
//! What is being made or removed has a name that is no id, so that whoever is killed halfway leaves nothing in an id's place.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, fcntl_lock};

use super::error::OciError;

const LOCK_FILE: &str = "lock";
/// No id begins so.
const ASIDE: &str = "@";
/// Another process of that number, in another process namespace, can have the name.
const NAMES_MAX: u32 = 1000;
/// Whoever opened the lock by the old name makes it anew in between.
const REMOVALS_MAX: u32 = 100;

/// Of the process and not of the open file: what is cloned from here does not have it.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// A new one, which `fill` fills, at `dir`. None if there is one already.
pub fn make<T>(
    root: &Path,
    dir: &Path,
    fill: impl FnOnce(&Path) -> Result<T, OciError>,
) -> Result<Option<(Lock, T)>, OciError> {
    let (aside, lock) = begin(root)?;
    let filled = fill(&aside).and_then(|filled| {
        // Over an empty directory too, which is nobody's.
        match std::fs::rename(&aside, dir) {
            Ok(()) => Ok(Some((lock, filled))),
            Err(e) if is_taken(&e) => Ok(None),
            Err(source) => Err(OciError::File { operation: "make", path: dir.to_owned(), source }),
        }
    });
    if !matches!(filled, Ok(Some(_))) {
        // It holds nothing of anybody's.
        let _ = std::fs::remove_dir_all(&aside);
    }
    filled
}

fn is_taken(error: &io::Error) -> bool {
    use io::ErrorKind::{AlreadyExists, DirectoryNotEmpty, NotADirectory};
    matches!(error.kind(), AlreadyExists | DirectoryNotEmpty | NotADirectory)
}

/// An empty one that is locked.
fn begin(root: &Path) -> Result<(PathBuf, Lock), OciError> {
    for path in names(root, "new") {
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(source) => return Err(OciError::File { operation: "make", path, source }),
        }
        // None if it was taken for one that somebody left.
        if let Some(lock) = lock(&path, true)? {
            return Ok((path, lock));
        }
    }
    Err(exhausted(root))
}

fn names(root: &Path, what: &str) -> impl Iterator<Item = PathBuf> {
    let prefix = format!("{ASIDE}{what}-{}", std::process::id());
    (0..NAMES_MAX).map(move |number| root.join(format!("{prefix}-{number}")))
}

fn exhausted(root: &Path) -> OciError {
    let source = io::ErrorKind::AlreadyExists.into();
    OciError::File { operation: "find a free name in", path: root.to_owned(), source }
}

/// Waits for whoever has it. None if the directory is not there, or has gone by then: what has come to its place is another container's. The file
/// is made only for a directory that has none.
pub fn lock(dir: &Path, make: bool) -> Result<Option<Lock>, OciError> {
    let path = dir.join(LOCK_FILE);
    let opened = OpenOptions::new().write(true).create(make).truncate(false).mode(0o600).open(&path);
    let locked = opened.and_then(|file| {
        fcntl_lock(&file, FlockOperation::LockExclusive)?;
        is_at(&file, &path).map(|is_there| is_there.then_some(Lock { _file: file }))
    });
    match locked {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        other => other.map_err(|source| OciError::File { operation: "lock", path, source }),
    }
}

/// One that has no lock, as none is left by whoever makes or removes it.
pub fn is_bare(dir: &Path) -> bool {
    dir.is_dir() && !dir.join(LOCK_FILE).exists()
}

/// By its name and not opened again: closing that would end the lock.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let (held, found) = (file.metadata()?, std::fs::metadata(path)?);
    Ok((held.dev(), held.ino()) == (found.dev(), found.ino()))
}

/// By whoever has its lock. One that is gone is removed.
pub fn remove(root: &Path, dir: &Path) -> Result<(), OciError> {
    for aside in names(root, "old") {
        match std::fs::rename(dir, &aside) {
            Ok(()) => return remove_all(&aside),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) if is_taken(&e) => {}
            Err(source) => return Err(OciError::File { operation: "remove", path: dir.to_owned(), source }),
        }
    }
    Err(exhausted(root))
}

fn remove_all(aside: &Path) -> Result<(), OciError> {
    let mut removed = Ok(());
    for _ in 0..REMOVALS_MAX {
        removed = std::fs::remove_dir_all(aside);
        match &removed {
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            _ => break,
        }
    }
    match removed {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(OciError::File { operation: "remove", path: aside.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// What others left who were killed while they made or removed one. What still has its maker, which holds the lock, stays.
pub fn sweep(root: &Path) {
    for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(ASIDE) {
            continue;
        }
        let lock = OpenOptions::new().write(true).open(entry.path().join(LOCK_FILE));
        let is_left = match &lock {
            Ok(file) => fcntl_lock(file, FlockOperation::NonBlockingLockExclusive).is_ok(),
            // A maker that has not got that far begins again.
            Err(e) => e.kind() == io::ErrorKind::NotFound,
        };
        if is_left {
            // The next sweep finds what stays.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_appears_whole_and_once() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("one");
        let fill = |dir: &Path| {
            std::fs::write(dir.join("state"), "").unwrap();
            Ok(())
        };
        let _held = make(root.path(), &dir, fill).unwrap().unwrap();
        assert!(dir.join("state").exists() && dir.join(LOCK_FILE).exists());
        assert!(make(root.path(), &dir, fill).unwrap().is_none());
        assert!(make(root.path(), &root.path().join("two"), |_| Err::<(), _>(OciError::NotRoot)).is_err());
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn what_is_gone_is_not_locked() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("one");
        assert!(lock(&dir, false).unwrap().is_none());
        drop(make(root.path(), &dir, |_| Ok(())).unwrap());
        assert!(lock(&dir, false).unwrap().is_some());
        remove(root.path(), &dir).unwrap();
        remove(root.path(), &dir).unwrap();
        assert!(lock(&dir, false).unwrap().is_none());
        assert!(lock(&dir, true).unwrap().is_none());
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_was_left_half_made_is_swept_away() {
        let root = tempfile::tempdir().unwrap();
        for name in ["@new-1-0", "@old-1-0", "id"] {
            std::fs::create_dir(root.path().join(name)).unwrap();
        }
        std::fs::write(root.path().join("@old-1-0/state.json"), "").unwrap();
        std::fs::write(root.path().join("@new-1-0/lock"), "").unwrap();
        sweep(root.path());
        let left: Vec<_> = std::fs::read_dir(root.path()).unwrap().flatten().map(|one| one.file_name()).collect();
        assert_eq!(left, ["id"]);
    }
}
