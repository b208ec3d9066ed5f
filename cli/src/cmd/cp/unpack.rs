//! An archive from a container, unpacked here. Its maker may be hostile: refuses names that lead upwards, and to write through any symlink.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, FileType, Mode};
use tar::{Archive, Entry, EntryType};

use super::place::Target;
use super::{CpError, disk};

/// Directories whose times are set at the end; of more, they are the copy's.
const DIRECTORY_TIMES_MAX: usize = 100_000;

struct Unpacking<'t> {
    target: &'t Target,
    keep_owner: bool,
    skipped: u64,
    times: Vec<(PathBuf, SystemTime)>,
}

/// Gives how much was left out.
pub fn unpack(from: impl Read, target: &Target, keep_owner: bool) -> Result<u64, CpError> {
    let mut unpacking = Unpacking { target, keep_owner, skipped: 0, times: Vec::new() };
    let mut archive = Archive::new(from);
    for entry in archive.entries().map_err(CpError::Archive)? {
        unpacking.one(entry.map_err(CpError::Archive)?)?;
    }
    for (path, modified) in unpacking.times.into_iter().rev() {
        let dir = fs::File::open(&path).map_err(disk("open", &path))?;
        dir.set_modified(modified).map_err(disk("set the times of", &path))?;
    }
    // What the daemon says after the archive is read by somebody else, and so must be all before it.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(CpError::Archive)?;
    Ok(unpacking.skipped)
}

fn refused(path: &Path, why: &str) -> CpError {
    CpError::Refused(format!("{} {why}", path.display()))
}

impl Unpacking<'_> {
    fn one<R: Read>(&mut self, mut entry: Entry<'_, R>) -> Result<(), CpError> {
        let path = self.place(&entry.path_bytes())?;
        match entry.header().entry_type() {
            EntryType::Directory => self.directory(&entry, &path),
            EntryType::Regular => self.file(&mut entry, &path),
            EntryType::Symlink => {
                let link = entry.link_name().map_err(CpError::Archive)?;
                let link = link.ok_or_else(|| refused(&path, "in the archive leads nowhere"))?;
                self.clear(&path)?;
                std::os::unix::fs::symlink(&link, &path).map_err(disk("make the symlink", &path))?;
                self.own(&entry, &path)
            }
            EntryType::Link => {
                let link = entry.link_name_bytes().unwrap_or_default();
                let link = self.place(&link)?;
                self.clear(&path)?;
                fs::hard_link(&link, &path).map_err(disk("link", &path))
            }
            EntryType::Fifo => {
                self.clear(&path)?;
                let mode = Mode::from_raw_mode(mode(&entry, false)?);
                rustix::fs::mknodat(CWD, &path, FileType::Fifo, mode, 0)
                    .map_err(|e| disk("make the fifo", &path)(e.into()))?;
                self.own(&entry, &path)
            }
            _ => {
                self.skipped += 1;
                Ok(())
            }
        }
    }

    /// Where it goes. Of what lies between the target and it, nothing is a symlink.
    fn place(&self, raw: &[u8]) -> Result<PathBuf, CpError> {
        use std::os::unix::ffi::OsStrExt as _;
        let path = Path::new(std::ffi::OsStr::from_bytes(raw));
        let mut names = Vec::new();
        for component in path.components() {
            match component {
                Component::Normal(name) => names.push(name),
                Component::CurDir => {}
                _ => return Err(refused(path, "in the archive leads out of it")),
            }
        }
        if names.len() < self.target.stripped {
            return Err(refused(path, "in the archive is not what was said"));
        }
        let below = &names[self.target.stripped..];
        let mut place = self.target.path.clone();
        for name in below {
            if fs::symlink_metadata(&place).is_ok_and(|metadata| metadata.is_symlink()) {
                return Err(refused(&place, "is a symlink, and something lies below it in the archive"));
            }
            place.push(name);
        }
        Ok(place)
    }

    fn clear(&self, path: &Path) -> Result<(), CpError> {
        match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_dir() => Err(refused(path, "is a directory")),
            Ok(_) => fs::remove_file(path).map_err(disk("replace", path)),
            Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(disk("look at", path)(source)),
        }
    }

    fn directory<R: Read>(&mut self, entry: &Entry<'_, R>, path: &Path) -> Result<(), CpError> {
        match fs::symlink_metadata(path) {
            // One that is there stays as it is.
            Ok(metadata) if metadata.is_dir() => return Ok(()),
            Ok(_) => return Err(refused(path, "is no directory")),
            Err(_) => fs::create_dir(path).map_err(disk("make the directory", path))?,
        }
        self.own(entry, path)?;
        // Ours to write into, whatever the container's mode says: what is below it comes next.
        let mode = mode(entry, self.keep_owner)? | 0o700;
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(disk("set the mode of", path))?;
        if self.times.len() < DIRECTORY_TIMES_MAX {
            self.times.push((path.to_owned(), modified(entry)));
        }
        Ok(())
    }

    fn file<R: Read>(&mut self, entry: &mut Entry<'_, R>, path: &Path) -> Result<(), CpError> {
        self.clear(path)?;
        let created = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let mut file = created.map_err(disk("create", path))?;
        let (size, mut copied, mut buffer) = (entry.size(), 0, vec![0; 128 << 10]);
        loop {
            let count = entry.read(&mut buffer).map_err(CpError::Archive)?;
            if count == 0 {
                break;
            }
            io::Write::write_all(&mut file, &buffer[..count]).map_err(disk("write", path))?;
            copied += count as u64;
        }
        if copied != size {
            return Err(CpError::Archive(io::ErrorKind::UnexpectedEof.into()));
        }
        self.own(entry, path)?;
        // After the owner, whose change clears the setuid bits.
        let mode = mode(entry, self.keep_owner)?;
        file.set_permissions(fs::Permissions::from_mode(mode)).map_err(disk("set the mode of", path))?;
        file.set_modified(modified(entry)).map_err(disk("set the times of", path))
    }

    fn own<R: Read>(&self, entry: &Entry<'_, R>, path: &Path) -> Result<(), CpError> {
        if !self.keep_owner {
            return Ok(());
        }
        let id = |id: io::Result<u64>| id.map(|id| u32::try_from(id).unwrap_or(u32::MAX)).map_err(CpError::Archive);
        let (uid, gid) = (id(entry.header().uid())?, id(entry.header().gid())?);
        std::os::unix::fs::lchown(path, Some(uid), Some(gid)).map_err(disk("change the owner of", path))
    }
}

/// A file of the container's root that is root's own here must not be setuid here: only -a keeps that.
fn mode<R: Read>(entry: &Entry<'_, R>, whole: bool) -> Result<u32, CpError> {
    let mode = entry.header().mode().map_err(CpError::Archive)?;
    Ok(mode & if whole { 0o7777 } else { 0o777 })
}

fn modified<R: Read>(entry: &Entry<'_, R>) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(entry.header().mtime().unwrap_or(0).min(u64::from(u32::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, kind, data) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o4755);
            header.set_mtime(1_000_000);
            if matches!(kind, EntryType::Symlink | EntryType::Link) {
                header.set_size(0);
                header.set_link_name(data).unwrap();
            } else {
                header.set_size(data.len() as u64);
            }
            // Names that the builder would not write.
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_cksum();
            let data = if matches!(kind, EntryType::Regular) { data.as_bytes() } else { b"" };
            builder.append(&header, data).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn into(dir: &Path, entries: &[(&str, EntryType, &str)]) -> Result<u64, CpError> {
        unpack(&archive(entries)[..], &Target { path: dir.join("top"), stripped: 1 }, false)
    }

    #[test]
    fn a_tree_gets_its_new_name_and_no_setuid() {
        let dir = tempfile::tempdir().unwrap();
        let entries = [
            ("t", EntryType::Directory, ""),
            ("t/f", EntryType::Regular, "hello"),
            ("t/g", EntryType::Link, "t/f"),
            ("t/l", EntryType::Symlink, "/etc/passwd"),
            ("t/dev", EntryType::Char, ""),
        ];
        assert_eq!(into(dir.path(), &entries).unwrap(), 1, "the device is left out");
        let top = dir.path().join("top");
        assert_eq!(fs::read_to_string(top.join("g")).unwrap(), "hello");
        let metadata = fs::metadata(top.join("f")).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o755);
        assert_eq!(metadata.modified().unwrap(), SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000));
        assert_eq!(fs::read_link(top.join("l")).unwrap(), Path::new("/etc/passwd"));
        assert_eq!(into(dir.path(), &entries).unwrap(), 1, "and once more over it");
    }

    #[test]
    fn hostile_archives_stay_below_the_target() {
        let outside = tempfile::tempdir().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let out = outside.path().to_str().unwrap();
        let top = ("t", EntryType::Directory, "");
        assert!(into(dir.path(), &[top, ("t/../../x", EntryType::Regular, "x")]).is_err());
        assert!(into(dir.path(), &[("/x", EntryType::Regular, "x")]).is_err());
        let through = [top, ("t/l", EntryType::Symlink, out), ("t/l/x", EntryType::Regular, "x")];
        assert!(into(dir.path(), &through).is_err());
        let as_directory = [top, ("t/l", EntryType::Symlink, out), ("t/l", EntryType::Directory, "")];
        assert!(into(dir.path(), &as_directory).is_err());
        let secret = outside.path().join("secret");
        fs::write(&secret, "ours").unwrap();
        // A file is put in the symlink's place, and not through it.
        let over = [top, ("t/s", EntryType::Symlink, secret.to_str().unwrap()), ("t/s", EntryType::Regular, "x")];
        into(dir.path(), &over).unwrap();
        let linked = [top, ("t/h", EntryType::Link, secret.to_str().unwrap())];
        assert!(into(dir.path(), &linked).is_err());
        assert_eq!(fs::read_to_string(&secret).unwrap(), "ours");
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    }
}
