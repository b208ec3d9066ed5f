//! An archive's files, put where a path of the container leads. `tar` parses only; nothing of its own unpacking is used. Refuses to put a
//! directory in the place of a file, or the other way round.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use tar::{Archive, Entry, EntryType};

use super::place::{self, Place, kind};
use super::{Copied, CopyError, What, disk};
use crate::image::limits::ID_END;

/// Directories whose times are set at the end; of more, they are the copy's.
const DIRECTORY_TIMES_MAX: usize = 100_000;

struct Putting<'r> {
    root: BorrowedFd<'r>,
    target: Place,
    /// The archive's one entry at the top is the target itself.
    is_one: bool,
    keep_owner: bool,
    copied: Copied,
    /// Making a file touches its directory.
    times: Vec<(Place, Timespec)>,
    buffer: Vec<u8>,
}

struct Meta {
    uid: Uid,
    gid: Gid,
    mode: Mode,
    mtime: Timespec,
}

fn broken(source: std::io::Error) -> CopyError {
    CopyError::Refused(format!("the archive is broken: {source}"))
}

pub fn receive(
    root: &OwnedFd,
    path: &str,
    what: &What,
    keep_owner: bool,
    from: &mut impl Read,
) -> Result<Copied, CopyError> {
    let target = target(root.as_fd(), path, what)?;
    let is_one = !matches!(what, What::Archive);
    let mut putting = Putting {
        root: root.as_fd(),
        target,
        is_one,
        keep_owner,
        copied: Copied::default(),
        times: Vec::new(),
        buffer: vec![0; 128 << 10],
    };
    let mut from = std::io::BufReader::with_capacity(128 << 10, from);
    let mut archive = Archive::new(&mut from);
    for entry in archive.entries().map_err(broken)? {
        putting.one(entry.map_err(broken)?)?;
    }
    if is_one && putting.copied.entries == 0 {
        return Err(CopyError::Refused("the archive is empty".to_owned()));
    }
    putting.set_times()?;
    // Whoever sends it may have more padding.
    std::io::copy(&mut from, &mut std::io::sink()).map_err(CopyError::Stream)?;
    Ok(putting.copied)
}

/// Where the one entry at the top goes, or the directory for many: as `cp -r` and docker's copy decide it.
fn target(root: BorrowedFd<'_>, path: &str, what: &What) -> Result<Place, CopyError> {
    let (place, stat) = place::follow(root, Place::parse(path)?)?;
    let shown = place.path().display().to_string();
    let is = stat.as_ref().map(kind);
    let named = |name: &str| {
        let mut components = Path::new(name).components();
        match (components.next(), components.next()) {
            (Some(Component::Normal(only)), None) => Ok(place.join(Path::new(only))),
            _ => Err(CopyError::Refused(format!("{name:?} is no name of a file"))),
        }
    };
    match (what, is) {
        (What::Archive, Some(FileType::Directory))
        | (What::Directory { contents: true, .. }, Some(FileType::Directory)) => Ok(place),
        (What::File { name } | What::Directory { name, .. }, Some(FileType::Directory)) => named(name),
        (What::Archive, None) => Err(CopyError::NotFound(format!("there is no directory {shown} in the container"))),
        (What::Archive | What::Directory { .. }, Some(_)) => {
            Err(CopyError::Refused(format!("{shown} in the container is no directory")))
        }
        (What::File { .. }, Some(_)) if place.is_directory => {
            Err(CopyError::Refused(format!("{shown} in the container is no directory")))
        }
        (What::File { .. }, None) if place.is_directory => {
            Err(CopyError::NotFound(format!("there is no directory {shown} in the container")))
        }
        (What::File { .. }, _) | (What::Directory { .. }, None) => {
            place::open_directory(root, &place.parent())?;
            Ok(place)
        }
    }
}

impl Putting<'_> {
    fn one<R: Read>(&mut self, mut entry: Entry<'_, R>) -> Result<(), CopyError> {
        let kind = entry.header().entry_type();
        if kind == EntryType::XGlobalHeader {
            return Ok(());
        }
        let raw = entry.path_bytes().into_owned();
        let place = self.place(&raw)?;
        match kind {
            EntryType::Directory => self.directory(&entry, &place),
            EntryType::Regular if raw.ends_with(b"/") => self.directory(&entry, &place),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => self.file(&mut entry, &place),
            EntryType::Symlink => self.symlink(&entry, &place),
            EntryType::Link => self.hard_link(&entry, &place),
            EntryType::Fifo => self.fifo(&entry, &place),
            EntryType::Char | EntryType::Block => {
                self.copied.skipped += 1;
                Ok(())
            }
            other => Err(CopyError::Refused(format!(
                "{} in the archive is of the unknown type {:?}",
                place.path().display(),
                other.as_byte()
            ))),
        }
    }

    /// Where an entry, or the target of a hard link, goes.
    fn place(&self, raw: &[u8]) -> Result<Place, CopyError> {
        let path = PathBuf::from(OsString::from_vec(raw.to_vec()));
        if raw.contains(&0) || path.components().any(|part| part == Component::ParentDir) {
            return Err(CopyError::Refused(format!("the archive has the name {:?}", path)));
        }
        let below = path.components().filter(|part| matches!(part, Component::Normal(_)));
        let below: PathBuf = below.skip(usize::from(self.is_one)).collect();
        Ok(self.target.join(&below))
    }

    /// The parent, made if the archive did not name it, and the name.
    fn parent<'p>(&mut self, place: &'p Place) -> Result<(OwnedFd, &'p OsStr), CopyError> {
        let name = place.name().ok_or_else(|| CopyError::Refused("an entry replaces the root".to_owned()))?;
        let parent = place.parent();
        let opened = match place::open_directory(self.root, &parent) {
            Err(CopyError::NotFound(_)) if parent.name().is_some() => {
                let (above, inner) = self.parent(&parent)?;
                rustix::fs::mkdirat(&above, inner, Mode::from_raw_mode(0o755))
                    .map_err(|e| disk("make the directory", parent.path(), e))?;
                place::open_directory(self.root, &parent)
            }
            other => other,
        };
        Ok((opened?, name.as_os_str()))
    }

    /// The same, with nothing under the name any more.
    fn cleared<'p>(&mut self, place: &'p Place) -> Result<(OwnedFd, &'p OsStr), CopyError> {
        let (dir, name) = self.parent(place)?;
        match rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if kind(&stat) == FileType::Directory => {
                return Err(CopyError::Refused(format!("{} in the container is a directory", place.path().display())));
            }
            Ok(_) => {
                rustix::fs::unlinkat(&dir, name, AtFlags::empty()).map_err(|e| disk("replace", place.path(), e))?
            }
            Err(Errno::NOENT) => {}
            Err(e) => return Err(disk("inspect", place.path(), e)),
        }
        self.copied.entries += 1;
        Ok((dir, name))
    }

    fn directory<R: Read>(&mut self, entry: &Entry<'_, R>, place: &Place) -> Result<(), CopyError> {
        let meta = self.meta(entry)?;
        self.copied.entries += 1;
        // One that is there stays as it is.
        if let Ok(Some(stat)) = place::look(self.root, place) {
            return match kind(&stat) {
                FileType::Directory => Ok(()),
                _ => Err(CopyError::Refused(format!("{} in the container is no directory", place.path().display()))),
            };
        }
        let (dir, name) = self.parent(place)?;
        let shown = place.path();
        rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o700))
            .map_err(|e| disk("make the directory", &shown, e))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(&dir, name, flags, Mode::empty()).map_err(|e| disk("open", &shown, e))?;
        apply(&made, &meta, &shown)?;
        if self.times.len() < DIRECTORY_TIMES_MAX {
            self.times.push((place.clone(), meta.mtime));
        }
        Ok(())
    }

    fn file<R: Read>(&mut self, entry: &mut Entry<'_, R>, place: &Place) -> Result<(), CopyError> {
        let (meta, size, shown) = (self.meta(entry)?, entry.size(), place.path());
        let (dir, name) = self.cleared(place)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(&dir, name, flags, Mode::from_raw_mode(0o600));
        let mut file = std::fs::File::from(made.map_err(|e| disk("create", &shown, e))?);
        let mut copied = 0;
        loop {
            let count = entry.read(&mut self.buffer).map_err(broken)?;
            if count == 0 {
                break;
            }
            file.write_all(&self.buffer[..count]).map_err(|e| disk("write", &shown, e))?;
            copied += count as u64;
        }
        if copied != size {
            return Err(CopyError::Refused(format!("the archive breaks off in {}", shown.display())));
        }
        self.copied.bytes += size;
        apply(&file.into(), &meta, &shown)
    }

    fn symlink<R: Read>(&mut self, entry: &Entry<'_, R>, place: &Place) -> Result<(), CopyError> {
        let (meta, shown) = (self.meta(entry)?, place.path());
        let target = entry.link_name_bytes().map(|target| target.into_owned()).unwrap_or_default();
        if target.is_empty() || target.contains(&0) {
            return Err(CopyError::Refused(format!("the symlink {} in the archive leads nowhere", shown.display())));
        }
        let (dir, name) = self.cleared(place)?;
        rustix::fs::symlinkat(OsStr::from_bytes(&target), &dir, name)
            .map_err(|e| disk("make the symlink", &shown, e))?;
        apply_by_name(&dir, name, &meta, &shown)
    }

    fn hard_link<R: Read>(&mut self, entry: &Entry<'_, R>, place: &Place) -> Result<(), CopyError> {
        let target = entry.link_name_bytes().map(|target| target.into_owned()).unwrap_or_default();
        let target = self.place(&target)?;
        if target == *place {
            return Err(CopyError::Refused(format!("{} in the archive is a link to itself", place.path().display())));
        }
        let gone =
            || CopyError::Refused(format!("the archive links to {}, which is not there", target.path().display()));
        let (from, from_name) = place::parent_of(self.root, &target)?.ok_or_else(gone)?;
        let (dir, name) = self.cleared(place)?;
        // Without AT_SYMLINK_FOLLOW a symlink is linked itself and never followed.
        rustix::fs::linkat(&from, from_name.as_os_str(), &dir, name, AtFlags::empty()).map_err(|e| match e {
            Errno::NOENT => gone(),
            e => disk("link", place.path(), e),
        })
    }

    fn fifo<R: Read>(&mut self, entry: &Entry<'_, R>, place: &Place) -> Result<(), CopyError> {
        let (meta, shown) = (self.meta(entry)?, place.path());
        let (dir, name) = self.cleared(place)?;
        rustix::fs::mknodat(&dir, name, FileType::Fifo, meta.mode, 0).map_err(|e| disk("make the fifo", &shown, e))?;
        apply_by_name(&dir, name, &meta, &shown)
    }

    fn meta<R: Read>(&self, entry: &Entry<'_, R>) -> Result<Meta, CopyError> {
        let header = entry.header();
        let id = |id: std::io::Result<u64>| match id {
            _ if !self.keep_owner => Ok(0),
            Ok(id) if id < ID_END => Ok(id as u32),
            Ok(id) => Err(CopyError::Refused(format!(
                "the owner {id} in the archive does not fit a container's 65536 ids; leave -a out to give its files to root"
            ))),
            Err(e) => Err(broken(e)),
        };
        let seconds = i64::try_from(header.mtime().unwrap_or(0)).unwrap_or(0);
        Ok(Meta {
            uid: Uid::from_raw(id(header.uid())?),
            gid: Gid::from_raw(id(header.gid())?),
            mode: Mode::from_raw_mode(header.mode().map_err(broken)? & 0o7777),
            mtime: Timespec { tv_sec: seconds, tv_nsec: 0 },
        })
    }

    fn set_times(&mut self) -> Result<(), CopyError> {
        for (place, mtime) in std::mem::take(&mut self.times).into_iter().rev() {
            let Some((dir, name)) = place::parent_of(self.root, &place)? else { continue };
            match rustix::fs::utimensat(&dir, name.as_os_str(), &times(mtime), AtFlags::SYMLINK_NOFOLLOW) {
                // Somebody inside removed it.
                Ok(()) | Err(Errno::NOENT) => {}
                Err(e) => return Err(disk("set the times of", place.path(), e)),
            }
        }
        Ok(())
    }
}

fn times(mtime: Timespec) -> Timestamps {
    Timestamps { last_access: mtime, last_modification: mtime }
}

fn apply(fd: &OwnedFd, meta: &Meta, shown: &Path) -> Result<(), CopyError> {
    // In this order: a change of owner clears the setuid bits.
    rustix::fs::fchown(fd, Some(meta.uid), Some(meta.gid)).map_err(|e| disk("change the owner of", shown, e))?;
    rustix::fs::fchmod(fd, meta.mode).map_err(|e| disk("change the mode of", shown, e))?;
    rustix::fs::futimens(fd, &times(meta.mtime)).map_err(|e| disk("set the times of", shown, e))
}

fn apply_by_name(dir: &OwnedFd, name: &OsStr, meta: &Meta, shown: &Path) -> Result<(), CopyError> {
    rustix::fs::chownat(dir, name, Some(meta.uid), Some(meta.gid), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| disk("change the owner of", shown, e))?;
    rustix::fs::utimensat(dir, name, &times(meta.mtime), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| disk("set the times of", shown, e))
}

#[cfg(test)]
#[path = "put_tests.rs"]
mod tests;
