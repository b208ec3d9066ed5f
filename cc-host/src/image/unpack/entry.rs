//! Entries of a layer, one by one: what each becomes on disk, and with which owner, mode, times and attributes. `tar` parses
//! only; nothing of its own unpacking is used. Refuses entries that no honest layer has.

use std::cell::Cell;
use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use tar::{Archive, EntryType};

use super::path::{LayerPath, Name, classify, join};
use super::tree::{Tree, disk};
use super::{Report, UnpackError};
use crate::image::limits::{ENTRIES_MAX, ID_END, LAYER_BYTES_MAX, XATTR_BYTES_MAX, XATTRS_MAX};
use crate::mutation::{self, Control};

/// Owner, mode, times and attributes.
struct Meta {
    uid: Uid,
    gid: Gid,
    mode: Mode,
    mtime: Timespec,
    xattrs: Vec<(String, Vec<u8>)>,
}

struct Unpacking {
    tree: Tree,
    bytes: u64,
    entries: u64,
    devices_skipped: u64,
    /// Making a file touches its directory: directories get their times last.
    dir_times: Vec<(LayerPath, Timespec)>,
}

/// A tar archive is a sequence of these.
const BLOCK_BYTES: u64 = 512;

/// Knows how much of the archive there was.
struct Counting<'a, R> {
    tar: R,
    read_bytes: &'a Cell<u64>,
}

impl<R: Read> Read for Counting<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.tar.read(buffer)?;
        self.read_bytes.set(self.read_bytes.get() + n as u64);
        Ok(n)
    }
}

fn refused(reason: impl Into<String>) -> UnpackError {
    UnpackError::Refused(reason.into())
}

fn broken(error: std::io::Error) -> UnpackError {
    UnpackError::Refused(format!("its archive is broken: {error}"))
}

pub fn unpack_all(tar: impl Read, root: OwnedFd) -> Result<Report, UnpackError> {
    let mut to = Unpacking { tree: Tree::new(root), bytes: 0, entries: 0, devices_skipped: 0, dir_times: Vec::new() };
    let read_bytes = Cell::new(0);
    let mut archive = Archive::new(Counting { tar, read_bytes: &read_bytes });
    let mut data_end = 0;
    // By the headers alone, as tools read that know nothing of PAX.
    let headers_only = mutation::off(Control::PaxSize);
    for entry in archive.entries().map_err(broken)?.raw(headers_only) {
        to.entries += 1;
        if to.entries > ENTRIES_MAX {
            return Err(refused(format!("it has more than {ENTRIES_MAX} entries")));
        }
        let entry = match entry {
            // Some builders leave out what pads the last file to a whole block, and the end mark: nothing of it is missing.
            Err(_) if data_end > 0 && read_bytes.get() >= data_end && !read_bytes.get().is_multiple_of(BLOCK_BYTES) => {
                break;
            }
            entry => entry.map_err(broken)?,
        };
        data_end = entry.raw_file_position() + entry.size();
        to.one(entry)?;
    }
    to.finish()
}

impl Unpacking {
    fn one<R: Read>(&mut self, mut entry: tar::Entry<'_, R>) -> Result<(), UnpackError> {
        let kind = entry.header().entry_type();
        if kind == EntryType::XGlobalHeader || (kind == EntryType::XHeader && mutation::off(Control::PaxSize)) {
            return Ok(());
        }
        let raw_path = entry.path_bytes().into_owned();
        let path = LayerPath::parse("entry", &raw_path)?;
        let Some((parent, name)) = path.split() else { return self.root_entry(&mut entry, kind) };
        match classify(name)? {
            Name::Ignored => return Ok(()),
            Name::Opaque => {
                self.tree.dir(parent)?;
                return self.tree.set_opaque(parent);
            }
            Name::Whiteout(hidden) => {
                let dir = self.tree.dir(parent)?;
                return self.tree.whiteout(dir.as_fd(), parent, hidden);
            }
            Name::Plain(_) => {}
        }
        match kind {
            EntryType::Char | EntryType::Block => {
                self.devices_skipped += 1;
                Ok(())
            }
            // Before POSIX a directory was a file whose name ends with a slash.
            EntryType::Directory => self.directory(&mut entry, &path),
            EntryType::Regular if raw_path.ends_with(b"/") => self.directory(&mut entry, &path),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => self.file(&mut entry, &path),
            EntryType::Symlink => self.symlink(&mut entry, &path),
            EntryType::Link => self.hard_link(&entry, &path),
            EntryType::Fifo => self.fifo(&mut entry, &path),
            other => {
                Err(refused(format!("entry {:?} is of the unknown type {:?}", join(path.parts()), other.as_byte())))
            }
        }
    }

    fn root_entry<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>, kind: EntryType) -> Result<(), UnpackError> {
        if kind != EntryType::Directory {
            return Err(refused("its root is not a directory"));
        }
        let meta = meta(entry)?;
        let root = self.tree.root().try_clone_to_owned().map_err(|e| disk("open", "/", e))?;
        apply(&root, &meta, OsStr::new("/"))
    }

    /// The directory that holds `path`, with nothing left under the last name unless `for_dir` and it is one: then true.
    fn place<'p>(&mut self, path: &'p LayerPath, for_dir: bool) -> Result<(OwnedFd, &'p OsStr, bool), UnpackError> {
        let (parent, name) = path.split().ok_or_else(|| refused("an entry replaces the root"))?;
        let dir = self.tree.dir(parent)?;
        let kept = self.tree.clear(dir.as_fd(), path.parts(), for_dir)?;
        Ok((dir, name, kept))
    }

    fn directory<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>, path: &LayerPath) -> Result<(), UnpackError> {
        let meta = meta(entry)?;
        let shown = join(path.parts());
        let (dir, name, kept) = self.place(path, true)?;
        if !kept {
            rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o700))
                .map_err(|e| disk("make directory", &shown, e))?;
        }
        let follow = if mutation::off(Control::UnpackNoFollow) { OFlags::empty() } else { OFlags::NOFOLLOW };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | follow | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&dir, name, flags, Mode::empty()).map_err(|e| disk("open", &shown, e))?;
        apply(&fd, &meta, shown.as_os_str())?;
        self.dir_times.push((path.clone(), meta.mtime));
        Ok(())
    }

    fn file<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>, path: &LayerPath) -> Result<(), UnpackError> {
        let meta = meta(entry)?;
        let shown = join(path.parts());
        let size = entry.size();
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > LAYER_BYTES_MAX {
            return Err(refused(format!("its files are larger than {LAYER_BYTES_MAX} bytes")));
        }
        let (dir, name, _) = self.place(path, false)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd =
            rustix::fs::openat(&dir, name, flags, Mode::from_raw_mode(0o600)).map_err(|e| disk("create", &shown, e))?;
        let mut file = std::fs::File::from(fd);
        let copied = copy_sparse(entry, &mut file, shown.as_os_str())?;
        if copied != size {
            return Err(refused(format!("entry {shown:?} breaks off after {copied} of {size} bytes")));
        }
        apply(&OwnedFd::from(file), &meta, shown.as_os_str())
    }

    fn symlink<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>, path: &LayerPath) -> Result<(), UnpackError> {
        let meta = meta(entry)?;
        let shown = join(path.parts());
        let target = entry.link_name_bytes().map(|t| t.into_owned()).unwrap_or_default();
        // The target may be anything: it is text, and means something only inside the container.
        if target.is_empty() || target.len() > crate::image::limits::PATH_BYTES_MAX || target.contains(&0) {
            return Err(refused(format!("symlink {shown:?} has no usable target")));
        }
        let (dir, name, _) = self.place(path, false)?;
        rustix::fs::symlinkat(target.as_slice(), &dir, name).map_err(|e| disk("make symlink", &shown, e))?;
        self.tree.forget();
        self.apply_by_name(&dir, name, &meta, shown.as_os_str())
    }

    fn hard_link<R: Read>(&mut self, entry: &tar::Entry<'_, R>, path: &LayerPath) -> Result<(), UnpackError> {
        let shown = join(path.parts());
        let target = entry.link_name_bytes().map(|t| t.into_owned()).unwrap_or_default();
        let target = LayerPath::parse("hard link target", &target)?;
        let (target_parent, target_name) = target.split().ok_or_else(|| refused("a hard link names the root"))?;
        if target == *path {
            return Err(refused(format!("{shown:?} is a hard link to itself")));
        }
        let target_dir = self.tree.dir(target_parent)?;
        let (dir, name, _) = self.place(path, false)?;
        // Without AT_SYMLINK_FOLLOW a symlink is linked itself and never followed.
        rustix::fs::linkat(&target_dir, target_name, &dir, name, AtFlags::empty()).map_err(|e| match e {
            rustix::io::Errno::NOENT | rustix::io::Errno::PERM => refused(format!(
                "hard link {shown:?} names {:?}, which this layer has not or which is a directory",
                join(target.parts())
            )),
            e => disk("make hard link", &shown, e),
        })
    }

    fn fifo<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>, path: &LayerPath) -> Result<(), UnpackError> {
        let meta = meta(entry)?;
        let shown = join(path.parts());
        let (dir, name, _) = self.place(path, false)?;
        rustix::fs::mknodat(&dir, name, FileType::Fifo, meta.mode, 0).map_err(|e| disk("make fifo", &shown, e))?;
        self.apply_by_name(&dir, name, &meta, shown.as_os_str())
    }

    fn apply_by_name(&self, dir: &OwnedFd, name: &OsStr, meta: &Meta, shown: &OsStr) -> Result<(), UnpackError> {
        rustix::fs::chownat(dir, name, Some(meta.uid), Some(meta.gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| disk("chown", shown, e))?;
        rustix::fs::utimensat(dir, name, &times(meta.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| disk("set times of", shown, e))
    }

    fn finish(mut self) -> Result<Report, UnpackError> {
        let dirs: Vec<(Vec<OsString>, Timespec)> =
            std::mem::take(&mut self.dir_times).into_iter().map(|(p, t)| (p.parts().to_vec(), t)).collect();
        for (parts, mtime) in dirs.into_iter().rev() {
            let Some((name, parent)) = parts.split_last() else { continue };
            let Some(dir) = self.tree.find(parent)? else { continue };
            match rustix::fs::utimensat(&dir, name.as_os_str(), &times(mtime), AtFlags::SYMLINK_NOFOLLOW) {
                // A later entry put something else in its place.
                Ok(()) | Err(rustix::io::Errno::NOENT) => {}
                Err(e) => return Err(disk("set times of", join(&parts), e)),
            }
        }
        let (bytes, entries, devices_skipped) = (self.bytes, self.entries, self.devices_skipped);
        Ok(Report::Done { bytes, entries, devices_skipped, opaque: self.tree.into_opaque() })
    }
}

fn times(mtime: Timespec) -> Timestamps {
    Timestamps { last_access: mtime, last_modification: mtime }
}

fn apply(fd: &OwnedFd, meta: &Meta, shown: &OsStr) -> Result<(), UnpackError> {
    // In this order: a change of owner clears the setuid bits and the file capabilities.
    rustix::fs::fchown(fd, Some(meta.uid), Some(meta.gid)).map_err(|e| disk("chown", shown, e))?;
    rustix::fs::fchmod(fd, meta.mode).map_err(|e| disk("chmod", shown, e))?;
    for (name, value) in &meta.xattrs {
        rustix::fs::fsetxattr(fd, name.as_str(), value, XattrFlags::empty())
            .map_err(|e| disk("set an attribute of", shown, e))?;
    }
    rustix::fs::futimens(fd, &times(meta.mtime)).map_err(|e| disk("set times of", shown, e))
}

fn meta<R: Read>(entry: &mut tar::Entry<'_, R>) -> Result<Meta, UnpackError> {
    let shown: String = String::from_utf8_lossy(&entry.path_bytes()).chars().take(120).collect();
    let id = |what: &str, id: std::io::Result<u64>| match id {
        Ok(id) if id < ID_END => Ok(id as u32),
        Ok(id) => Err(refused(format!("{what} {id} of {shown:?} does not fit a container's 65536 ids"))),
        Err(e) => Err(broken(e)),
    };
    let uid = Uid::from_raw(id("owner", entry.header().uid())?);
    let gid = Gid::from_raw(id("group", entry.header().gid())?);
    let mode = Mode::from_raw_mode(entry.header().mode().map_err(broken)? & 0o7777);
    let seconds = i64::try_from(entry.header().mtime().unwrap_or(0)).unwrap_or(0);
    let mut meta = Meta { uid, gid, mode, mtime: Timespec { tv_sec: seconds, tv_nsec: 0 }, xattrs: Vec::new() };
    let Some(extensions) = entry.pax_extensions().map_err(broken)? else { return Ok(meta) };
    for extension in extensions {
        let extension = extension.map_err(broken)?;
        let (Ok(key), value) = (extension.key(), extension.value_bytes()) else { continue };
        if key.starts_with("GNU.sparse.") {
            return Err(refused(format!("{shown:?} is stored sparse in the PAX form, which is not supported")));
        }
        if key == "mtime"
            && let Some(mtime) = std::str::from_utf8(value).ok().and_then(pax_time)
        {
            meta.mtime = mtime;
        }
        let Some(name) = key.strip_prefix("SCHILY.xattr.") else { continue };
        // trusted.* would speak to overlayfs, security.selinux and the like to the host's policy.
        if name != "security.capability" && !(name.starts_with("user.") && name.len() <= 255) {
            continue;
        }
        if value.len() > XATTR_BYTES_MAX || meta.xattrs.len() >= XATTRS_MAX || name.contains('\0') {
            return Err(refused(format!("{shown:?} has too many or too large extended attributes")));
        }
        meta.xattrs.push((name.to_owned(), value.to_vec()));
    }
    Ok(meta)
}

/// `1700000000.25`; times before 1970 stay at the header's.
fn pax_time(text: &str) -> Option<Timespec> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let tv_sec: i64 = seconds.parse().ok().filter(|s| *s >= 0)?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    Some(Timespec { tv_sec, tv_nsec: digits.parse().ok().filter(|n: &i64| *n >= 0)? })
}

/// Writes zeros as holes: an image of an empty disk takes no disk.
fn copy_sparse(from: &mut impl Read, to: &mut std::fs::File, shown: &OsStr) -> Result<u64, UnpackError> {
    use std::io::Seek;
    let mut block = vec![0u8; 64 << 10];
    let (mut total, mut hole) = (0u64, false);
    loop {
        let mut filled = 0;
        while filled < block.len() {
            match from.read(&mut block[filled..]).map_err(broken)? {
                0 => break,
                n => filled += n,
            }
        }
        if filled == 0 {
            break;
        }
        total += filled as u64;
        hole = filled >= 4096 && block[..filled].iter().all(|&b| b == 0);
        if hole {
            to.seek_relative(filled as i64).map_err(|e| disk("write", shown, e))?;
        } else {
            to.write_all(&block[..filled]).map_err(|e| disk("write", shown, e))?;
        }
    }
    if hole {
        to.set_len(total).map_err(|e| disk("write", shown, e))?;
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pax_times_have_fractions() {
        assert_eq!(pax_time("12.5"), Some(Timespec { tv_sec: 12, tv_nsec: 500_000_000 }));
        assert_eq!(pax_time("12"), Some(Timespec { tv_sec: 12, tv_nsec: 0 }));
        assert_eq!(pax_time("-1"), None);
        assert_eq!(pax_time("x"), None);
    }
}
