//! What is at a path of the container, as an archive. Refuses to read what has no end or no size: sockets, devices, and the kernel's own file
//! systems.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::{BufWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, FsWord, Mode, OFlags, Stat};
use tar::{Builder, EntryType};

use super::place::{self, Place, kind};
use super::{Copied, CopyError, Header, Kind, disk, frame};

/// What is behind it is made up as it is read: linux/magic.h.
const KERNEL_FILE_SYSTEMS: [FsWord; 9] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x1cd1,      // devpts
    0x1980_0202, // mqueue
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0xcafe_4a11, // bpf
];
/// Files with more than one name that are remembered; the names of more become files of their own.
const LINKS_MAX: usize = 100_000;

struct Packing<W: Write> {
    tar: Builder<W>,
    copied: Copied,
    /// The first name of each file with several, by device and inode.
    links: HashMap<(u64, u64), PathBuf>,
}

pub fn send(root: &OwnedFd, path: &str, follow: bool, to: &mut impl Write) -> Result<Copied, CopyError> {
    let place = Place::parse(path)?;
    let (place, stat) = if follow || place.is_directory {
        let was_directory = place.is_directory;
        let (place, stat) = place::follow(root.as_fd(), place)?;
        if was_directory && stat.as_ref().is_some_and(|stat| kind(stat) != FileType::Directory) {
            return Err(CopyError::Refused(format!("{} in the container is not a directory", place.path().display())));
        }
        (place, stat)
    } else {
        let stat = place::look(root.as_fd(), &place)?;
        (place, stat)
    };
    let shown = place.path();
    let stat = stat.ok_or_else(|| CopyError::NotFound(format!("there is no {} in the container", shown.display())))?;
    let kind = match kind(&stat) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Other,
        other => {
            return Err(CopyError::Refused(format!(
                "{} in the container is a {other:?}, which cannot be copied",
                shown.display()
            )));
        }
    };
    let name = place.name().map_or_else(|| ".".to_owned(), |name| name.to_string_lossy().into_owned());
    let parent = place::open_directory(root.as_fd(), &place.parent())?;
    refuse_kernels(&parent, &shown)?;
    let mut to = BufWriter::with_capacity(128 << 10, to);
    to.write_all(&frame(&Header { name: name.clone(), kind }).map_err(CopyError::Stream)?)
        .map_err(CopyError::Stream)?;
    let mut packing = Packing { tar: Builder::new(to), copied: Copied::default(), links: HashMap::new() };
    let inside = place.name().map_or(OsStr::new("."), OsString::as_os_str);
    packing.one(parent.as_fd(), inside, Path::new(&name), &shown)?;
    packing.tar.into_inner().and_then(|mut to| to.flush()).map_err(CopyError::Stream)?;
    Ok(packing.copied)
}

fn is_kernels(fd: impl AsFd) -> bool {
    rustix::fs::fstatfs(fd).is_ok_and(|statfs| KERNEL_FILE_SYSTEMS.contains(&statfs.f_type))
}

fn refuse_kernels(parent: &OwnedFd, shown: &Path) -> Result<(), CopyError> {
    if !is_kernels(parent) {
        return Ok(());
    }
    Err(CopyError::Refused(format!(
        "{} is in a file system of the kernel's, whose files have no size; read it inside: cc exec ID cat {}",
        shown.display(),
        shown.display()
    )))
}

fn header(stat: &Stat, entry: EntryType, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(entry);
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(u64::from(stat.st_uid));
    header.set_gid(u64::from(stat.st_gid));
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header.set_size(size);
    header
}

impl<W: Write> Packing<W> {
    fn one(&mut self, dir: BorrowedFd<'_>, name: &OsStr, as_path: &Path, shown: &Path) -> Result<(), CopyError> {
        let stat = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            // It was removed since its directory was read.
            Err(rustix::io::Errno::NOENT) => return Ok(()),
            Err(e) => return Err(disk("inspect", shown, e)),
        };
        match kind(&stat) {
            FileType::Directory => self.directory(dir, name, &stat, as_path, shown),
            FileType::RegularFile => self.file(dir, name, &stat, as_path, shown),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(dir, name, Vec::new()).map_err(|e| disk("read", shown, e))?;
                let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                self.copied.entries += 1;
                let mut header = header(&stat, EntryType::Symlink, 0);
                self.tar.append_link(&mut header, as_path, target).map_err(CopyError::Stream)
            }
            FileType::Fifo => self.append(&mut header(&stat, EntryType::Fifo, 0), as_path, std::io::empty()),
            _ => {
                self.copied.skipped += 1;
                Ok(())
            }
        }
    }

    fn append(&mut self, header: &mut tar::Header, path: &Path, data: impl Read) -> Result<(), CopyError> {
        self.copied.entries += 1;
        self.tar.append_data(header, path, data).map_err(CopyError::Stream)
    }

    fn directory(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        stat: &Stat,
        as_path: &Path,
        shown: &Path,
    ) -> Result<(), CopyError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let inner = rustix::fs::openat(dir, name, flags, Mode::empty()).map_err(|e| disk("open", shown, e))?;
        self.append(&mut header(stat, EntryType::Directory, 0), as_path, std::io::empty())?;
        if is_kernels(&inner) {
            self.copied.skipped += 1;
            return Ok(());
        }
        let mut entries = Dir::new(inner).map_err(|e| disk("read", shown, e))?;
        while let Some(entry) = entries.read() {
            let entry = entry.map_err(|e| disk("read", shown, e))?;
            let child = OsStr::from_bytes(entry.file_name().to_bytes());
            if child != "." && child != ".." {
                let inner = entries.fd().map_err(|e| disk("read", shown, e))?;
                self.one(inner.as_fd(), child, &as_path.join(child), &shown.join(child))?;
            }
        }
        Ok(())
    }

    fn file(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        seen: &Stat,
        as_path: &Path,
        shown: &Path,
    ) -> Result<(), CopyError> {
        let id = (seen.st_dev, seen.st_ino);
        if seen.st_nlink > 1
            && let Some(first) = self.links.get(&id)
        {
            self.copied.entries += 1;
            let mut header = header(seen, EntryType::Link, 0);
            return self.tar.append_link(&mut header, as_path, first).map_err(CopyError::Stream);
        }
        // What is in its place by now may be one that opening waits for.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(dir, name, flags, Mode::empty()).map_err(|e| disk("open", shown, e))?;
        let stat = rustix::fs::fstat(&file).map_err(|e| disk("inspect", shown, e))?;
        if kind(&stat) != FileType::RegularFile {
            self.copied.skipped += 1;
            return Ok(());
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        // One that grows meanwhile is as long as it was; what one that shrinks lacks is read as zeros.
        let data = std::fs::File::from(file).chain(std::io::repeat(0)).take(size);
        self.append(&mut header(&stat, EntryType::Regular, size), as_path, data)?;
        self.copied.bytes += size;
        if stat.st_nlink > 1 && self.links.len() < LINKS_MAX {
            self.links.insert(id, as_path.to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    /// Path, kind and contents of each.
    type Entries = Vec<(String, EntryType, Vec<u8>)>;

    fn packed(dir: &Path, path: &str, follow: bool) -> Result<(Header, Entries, Copied), CopyError> {
        let root = rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let mut out = Vec::new();
        let copied = send(&root, path, follow, &mut out)?;
        let mut rest = &out[..];
        let header = super::super::read_frame(&mut rest, 1 << 10).unwrap();
        let mut entries = Vec::new();
        for entry in tar::Archive::new(rest).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut data = Vec::new();
            entry.read_to_end(&mut data).unwrap();
            entries.push((entry.path().unwrap().to_string_lossy().into_owned(), entry.header().entry_type(), data));
        }
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        Ok((header, entries, copied))
    }

    #[test]
    fn a_tree_is_packed_below_its_own_name() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("srv/tree");
        std::fs::create_dir_all(tree.join("sub")).unwrap();
        std::fs::write(tree.join("sub/file"), b"hello").unwrap();
        std::fs::set_permissions(tree.join("sub/file"), std::fs::Permissions::from_mode(0o640)).unwrap();
        std::fs::hard_link(tree.join("sub/file"), tree.join("sub/twin")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", tree.join("link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(tree.join("socket")).unwrap();
        let (header, entries, copied) = packed(dir.path(), "srv/tree", false).unwrap();
        assert_eq!(header, Header { name: "tree".to_owned(), kind: Kind::Directory });
        let names: Vec<&str> = entries.iter().map(|entry| entry.0.trim_end_matches('/')).collect();
        assert_eq!(names, ["tree", "tree/link", "tree/sub", "tree/sub/file", "tree/sub/twin"]);
        assert_eq!(entries.iter().filter(|entry| entry.1 == EntryType::Link).count(), 1, "two names, one file");
        assert!(entries.iter().any(|entry| entry.2 == b"hello"));
        assert_eq!(copied, Copied { entries: 5, bytes: 5, skipped: 1 });
    }

    #[test]
    fn symlinks_are_followed_when_asked_for_and_never_out() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/passwd"), b"inside").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).unwrap();
        assert_eq!(packed(dir.path(), "/link", false).unwrap().0.kind, Kind::Symlink);
        let (header, entries, _) = packed(dir.path(), "/link", true).unwrap();
        assert_eq!((header.name.as_str(), header.kind), ("passwd", Kind::File));
        assert_eq!(entries[0].2, b"inside");
        assert!(matches!(packed(dir.path(), "/link/", false), Err(CopyError::Refused(_))), "no directory");
        assert!(matches!(packed(dir.path(), "/no", false), Err(CopyError::NotFound(_))));
        let (header, entries, _) = packed(dir.path(), "/", false).unwrap();
        assert_eq!((header.name.as_str(), entries.len()), (".", 4), "the root itself");
    }
}
