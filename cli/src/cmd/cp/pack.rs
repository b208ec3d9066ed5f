//! A local file or directory as an archive for a container. Refuses to follow a symlink below what was named, also one that appears while it
//! reads.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _, Write};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use tar::{Builder, EntryType, HeaderMode};

use super::place::Source;
use super::{CpError, disk};

/// Each level has a descriptor while it is read.
const DEPTH_MAX: usize = 256;

struct Packing<W: Write> {
    tar: Builder<W>,
    skipped: u64,
}

/// Gives how much was left out.
pub fn pack(source: &Source, out: impl Write) -> Result<u64, CpError> {
    let mut packing = Packing { tar: Builder::new(out), skipped: 0 };
    packing.one(CWD, source.path.as_os_str(), Path::new(&source.name), &source.path, 0)?;
    packing.tar.into_inner().and_then(|mut out| out.flush()).map_err(disk("send", &source.path))?;
    Ok(packing.skipped)
}

impl<W: Write> Packing<W> {
    fn one(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        as_path: &Path,
        shown: &Path,
        depth: usize,
    ) -> Result<(), CpError> {
        let failed = |operation| move |e: rustix::io::Errno| disk(operation, shown)(e.into());
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed("read"))?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory if depth == DEPTH_MAX => {
                Err(CpError::Refused(format!("{} is deeper than {DEPTH_MAX} directories", shown.display())))
            }
            FileType::Directory => {
                let inner = rustix::fs::openat(dir, name, flags | OFlags::DIRECTORY, Mode::empty());
                let inner = File::from(inner.map_err(failed("read"))?);
                self.append(&inner, EntryType::Directory, as_path, shown)?;
                let mut entries = Dir::new(inner).map_err(failed("read"))?;
                while let Some(entry) = entries.read() {
                    let entry = entry.map_err(failed("read"))?;
                    let child = OsStr::from_bytes(entry.file_name().to_bytes());
                    if child != "." && child != ".." {
                        let at = entries.fd().map_err(failed("read"))?;
                        self.one(at.as_fd(), child, &as_path.join(child), &shown.join(child), depth + 1)?;
                    }
                }
                Ok(())
            }
            FileType::RegularFile => {
                // What is in its place by now may be one that opening waits for.
                let file = rustix::fs::openat(dir, name, flags | OFlags::NONBLOCK, Mode::empty());
                self.append(&File::from(file.map_err(failed("read"))?), EntryType::Regular, as_path, shown)
            }
            kind @ (FileType::Symlink | FileType::Fifo) => {
                let mut header = tar::Header::new_gnu();
                header.set_mode(stat.st_mode & 0o7777);
                header.set_uid(stat.st_uid.into());
                header.set_gid(stat.st_gid.into());
                header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
                header.set_size(0);
                if kind == FileType::Fifo {
                    header.set_entry_type(EntryType::Fifo);
                    return self.tar.append_data(&mut header, as_path, io::empty()).map_err(disk("send", shown));
                }
                let target = rustix::fs::readlinkat(dir, name, Vec::new()).map_err(failed("read"))?;
                header.set_entry_type(EntryType::Symlink);
                let target = OsString::from_vec(target.into_bytes());
                self.tar.append_link(&mut header, as_path, target).map_err(disk("send", shown))
            }
            _ => {
                self.skipped += 1;
                Ok(())
            }
        }
    }

    fn append(&mut self, file: &File, kind: EntryType, as_path: &Path, shown: &Path) -> Result<(), CpError> {
        let metadata = file.metadata().map_err(disk("read", shown))?;
        let is_kind = if kind == EntryType::Directory { metadata.is_dir() } else { metadata.is_file() };
        if !is_kind {
            self.skipped += 1;
            return Ok(());
        }
        let mut header = tar::Header::new_gnu();
        header.set_metadata_in_mode(&metadata, HeaderMode::Complete);
        let size = if metadata.is_dir() { 0 } else { metadata.len() };
        header.set_size(size);
        // One that grows meanwhile is as long as it was; what one that shrinks lacks is read as zeros.
        let data = file.chain(io::repeat(0)).take(size);
        self.tar.append_data(&mut header, as_path, data).map_err(disk("read", shown))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_lies_there_has_its_own_name_and_kind() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        std::fs::create_dir_all(tree.join("sub")).unwrap();
        std::fs::write(tree.join("sub/file"), "hello").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", tree.join("link")).unwrap();
        rustix::fs::mknodat(CWD, tree.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(tree.join("socket")).unwrap();
        let source = Source { path: tree, name: "t".to_owned(), is_directory: true, contents: false };
        let mut out = Vec::new();
        assert_eq!(pack(&source, &mut out).unwrap(), 1, "the socket");
        let mut archive = tar::Archive::new(&out[..]);
        let entries = archive.entries().unwrap().map(Result::unwrap);
        let mut entries: Vec<_> =
            entries.map(|entry| (entry.path().unwrap().display().to_string(), entry.header().entry_type())).collect();
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        let wanted = [
            ("t", EntryType::Directory),
            ("t/link", EntryType::Symlink),
            ("t/pipe", EntryType::Fifo),
            ("t/sub", EntryType::Directory),
            ("t/sub/file", EntryType::Regular),
        ];
        assert_eq!(entries, wanted.map(|(name, kind)| (name.to_owned(), kind)));
    }
}
