//! A disk whose power can be cut: what nobody made it flush is lost, but for what happens to have reached it. A file system of FUSE's keeps the
//! disk as one file, and is told of each flush, as a disk is; a loop device makes a block device of it. Refuses to know what is on it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request,
    WriteFlags,
};
use nix::mount::{MntFlags, umount2};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::eventually::within;

/// Written whole or not at all, as sectors are.
const BLOCK: usize = 4096;
const NAME: &str = "disk";
const INODE: INodeNo = INodeNo(2);
/// Nobody but us changes anything.
const TTL: Duration = Duration::from_secs(3600);
const GONE_BOUND: Duration = Duration::from_secs(10);

/// What a cut took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// Writes that were not flushed yet.
    pub pending: usize,
    /// Those of them that did not reach the disk.
    pub lost: usize,
}

/// A disk with ext4, mounted, until it is dropped.
#[derive(Debug)]
pub struct Disk {
    place: PathBuf,
    device: Arc<Device>,
    /// The loop device.
    node: String,
    /// Ended by hand: a drop would not wait for it.
    session: Option<BackgroundSession>,
}

#[derive(Debug)]
struct Device(Mutex<Sectors>);

#[derive(Debug)]
struct Sectors {
    /// What a cut leaves for certain.
    durable: File,
    bytes: u64,
    /// In the order in which they were written since the last flush.
    pending: Vec<(u64, Box<[u8]>)>,
    newest: HashMap<u64, usize>,
    is_on: bool,
}

impl Disk {
    /// Of that size, in `dir`, with an empty file system.
    pub fn make(dir: &Path, bytes: u64) -> Result<()> {
        std::fs::create_dir(dir)?;
        std::fs::create_dir(dir.join("shown"))?;
        let image = dir.join(NAME);
        File::options().write(true).create_new(true).open(&image)?.set_len(bytes)?;
        run(Command::new("mke2fs").args(["-q", "-F", "-t", "ext4"]).arg(&image)).map(drop)
    }

    /// What is in `dir`, at `place`.
    pub fn mount(dir: &Path, place: &Path) -> Result<Disk> {
        let durable = File::options().read(true).write(true).open(dir.join(NAME))?;
        let bytes = durable.metadata()?.len();
        let sectors = Sectors { durable, bytes, pending: Vec::new(), newest: HashMap::new(), is_on: true };
        let device = Arc::new(Device(Mutex::new(sectors)));
        let shown = dir.join("shown");
        let mut config = Config::default();
        config.mount_options =
            vec![MountOption::FSName("cc-test-disk".into()), MountOption::NoDev, MountOption::NoSuid];
        let session = fuser::spawn_mount(Shown(Arc::clone(&device)), &shown, &config).context("cannot mount FUSE")?;
        let mut disk = Disk { place: place.to_owned(), device, node: String::new(), session: Some(session) };
        let losetup = ["--find", "--show", "--sector-size", "4096", "--direct-io=off"];
        disk.node = run(Command::new("losetup").args(losetup).arg(shown.join(NAME)))?.trim().to_owned();
        run(Command::new("mount").args(["-t", "ext4", &disk.node]).arg(place))?;
        Ok(disk)
    }

    /// From here on it answers nobody with anything but an error. What did reach it is in its file.
    pub fn cut(&self, seed: u64) -> Lost {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut sectors = self.device.lock();
        sectors.is_on = false;
        sectors.newest.clear();
        let pending = std::mem::take(&mut sectors.pending);
        let (reached, lost): (Vec<_>, Vec<_>) = pending.iter().partition(|_| rng.random_bool(0.5));
        for (block, data) in reached {
            let written = sectors.durable.write_all_at(data, block * BLOCK as u64);
            written.expect("the disk's file can be written");
        }
        Lost { pending: pending.len(), lost: lost.len() }
    }
}

impl Drop for Disk {
    /// Nobody is left who has it open, but what has just ended may take a moment to be gone. What could not be ended is said: the world's look
    /// at what is left fails by it.
    fn drop(&mut self) {
        let said = |what: &str, error: &dyn std::fmt::Display| eprintln!("{what} of the test's disk: {error}");
        if let Err(error) = umount2(&self.place, MntFlags::MNT_DETACH) {
            said("unmounting", &error);
        }
        if let Err(error) = run(Command::new("losetup").args(["--detach", &self.node])) {
            said("the loop device", &error);
        }
        let file = Path::new("/sys/block").join(self.node.trim_start_matches("/dev/")).join("loop");
        if within(GONE_BOUND, || (!file.exists()).then_some(())).is_none() {
            said("the loop device", &"somebody has it open");
        }
        if let Some(Err(error)) = self.session.take().map(BackgroundSession::umount_and_join) {
            said("the end", &error);
        }
    }
}

impl Device {
    fn lock(&self) -> MutexGuard<'_, Sectors> {
        self.0.lock().expect("nothing panics with it")
    }
}

impl Sectors {
    fn read(&self, offset: u64, into: &mut [u8]) -> std::io::Result<()> {
        self.durable.read_exact_at(into, offset)?;
        for (block, from, piece) in pieces(offset, into.len()) {
            if let Some(&newest) = self.newest.get(&block) {
                let data = &self.pending[newest].1[from..from + piece.len()];
                into[piece].copy_from_slice(data);
            }
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        for (block, from, piece) in pieces(offset, data.len()) {
            let mut whole = vec![0; BLOCK].into_boxed_slice();
            self.read(block * BLOCK as u64, &mut whole)?;
            whole[from..from + piece.len()].copy_from_slice(&data[piece]);
            self.newest.insert(block, self.pending.len());
            self.pending.push((block, whole));
        }
        Ok(())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        for (block, newest) in std::mem::take(&mut self.newest) {
            self.durable.write_all_at(&self.pending[newest].1, block * BLOCK as u64)?;
        }
        self.pending.clear();
        Ok(())
    }
}

/// Of each block that those bytes touch: its number, where in it they begin, and which of them they are.
fn pieces(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let position = offset + at as u64;
        let from = usize::try_from(position % BLOCK as u64).expect("less than a block");
        let piece = at..length.min(at + BLOCK - from);
        at = piece.end;
        (!piece.is_empty()).then(|| (position / BLOCK as u64, from, piece))
    })
}

/// A directory with one file, the disk.
#[derive(Debug)]
struct Shown(Arc<Device>);

impl Shown {
    fn attributes(&self, inode: INodeNo) -> Option<FileAttr> {
        let (kind, perm, size) = match inode {
            INodeNo::ROOT => (FileType::Directory, 0o700, 0),
            INODE => (FileType::RegularFile, 0o600, self.0.lock().bytes),
            _ => return None,
        };
        let epoch = SystemTime::UNIX_EPOCH;
        Some(FileAttr {
            ino: inode,
            size,
            blocks: size / 512,
            atime: epoch,
            mtime: epoch,
            ctime: epoch,
            crtime: epoch,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: BLOCK as u32,
            flags: 0,
        })
    }

    /// What a disk without power says.
    fn with<T>(&self, work: impl FnOnce(&mut Sectors) -> std::io::Result<T>) -> Result<T, Errno> {
        let mut sectors = self.0.lock();
        if !sectors.is_on {
            return Err(Errno::EIO);
        }
        work(&mut sectors).map_err(|error| {
            eprintln!("the test's disk: {error}");
            Errno::EIO
        })
    }
}

impl Filesystem for Shown {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.attributes(INODE).filter(|_| parent == INodeNo::ROOT && name == NAME) {
            Some(found) => reply.entry(&TTL, &found, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(inode) {
            Some(found) => reply.attr(&TTL, &found),
            None => reply.error(Errno::ENOENT),
        }
    }

    /// The kernel keeps what it has read: nobody else writes.
    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = self.with(|sectors| {
            let length = u64::from(size).min(sectors.bytes.saturating_sub(offset));
            let mut data = vec![0; usize::try_from(length).expect("a request's size")];
            sectors.read(offset, &mut data).map(|()| data)
        });
        match read {
            Ok(data) => reply.data(&data),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.with(|sectors| sectors.write(offset, data)) {
            Ok(()) => reply.written(u32::try_from(data.len()).expect("a request's size")),
            Err(error) => reply.error(error),
        }
    }

    /// At each close, which is no flush of a disk.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        match self.with(Sectors::flush) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_flushed_stays_and_the_rest_may_go() {
        let durable = tempfile::tempfile().unwrap();
        durable.set_len(8 * BLOCK as u64).unwrap();
        let mut sectors =
            Sectors { durable, bytes: 8 * BLOCK as u64, pending: Vec::new(), newest: HashMap::new(), is_on: true };
        let look = |sectors: &Sectors, offset: u64, length: usize| {
            let mut data = vec![0xff; length];
            sectors.read(offset, &mut data).unwrap();
            data
        };
        // Across three blocks, and again across one of them.
        sectors.write(BLOCK as u64 - 10, &vec![1; BLOCK + 20]).unwrap();
        sectors.write(BLOCK as u64 + 5, &[2; 3]).unwrap();
        let expected = [vec![0; 5], vec![1; 15], vec![2; 3], vec![1; 2]].concat();
        assert_eq!(look(&sectors, BLOCK as u64 - 15, 25), expected);
        assert_eq!(sectors.pending.len(), 4);
        let mut on_disk = vec![0xff; 25];
        sectors.durable.read_exact_at(&mut on_disk, BLOCK as u64 - 15).unwrap();
        assert_eq!(on_disk, vec![0; 25], "nobody has flushed it");
        sectors.flush().unwrap();
        sectors.durable.read_exact_at(&mut on_disk, BLOCK as u64 - 15).unwrap();
        assert_eq!(on_disk, expected);
        assert_eq!(look(&sectors, BLOCK as u64 - 15, 25), expected);
        assert!(sectors.pending.is_empty() && sectors.newest.is_empty());
    }
}
