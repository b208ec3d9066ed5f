//! The volume as the file `image` in a directory of its own, by FUSE, and what it has done as the file `stats`. Refuses every other file, every
//! other size, and to let the kernel keep a second copy of blocks beside the file system's own.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs,
    ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tracing::warn;

use crate::counted::{Counts, Seen};
use crate::error::IoError;
use crate::volume::Volume;

pub const IMAGE: &str = "image";
pub const STATS: &str = "stats";
const IMAGE_INODE: INodeNo = INodeNo(2);
const STATS_INODE: INodeNo = INodeNo(3);
/// Attributes never change.
const TTL: Duration = Duration::from_secs(3600);
/// One request of the kernel's, and how many it may have under way: both bound what is in memory.
const REQUEST_BYTES_MAX: u32 = 1 << 20;
const REQUESTS_MAX: u16 = 32;
/// What a reader may ask for beyond the kernel's own limit is cut there.
const STATS_BYTES_MAX: usize = 4096;

pub struct Fs {
    volume: Arc<Volume>,
    counts: Arc<Counts>,
    runtime: Handle,
}

/// What `stats` says, as JSON.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Stats {
    /// Of the image, by who uses it.
    pub written_bytes: u64,
    pub flushes: u64,
    pub store: Seen,
}

impl Fs {
    pub fn new(volume: Arc<Volume>, counts: Arc<Counts>, runtime: Handle) -> Self {
        Fs { volume, counts, runtime }
    }

    fn stats(&self) -> Vec<u8> {
        let stats = Stats {
            written_bytes: self.volume.written_bytes(),
            flushes: self.volume.flushes(),
            store: self.counts.seen(),
        };
        let mut text = serde_json::to_vec(&stats).unwrap_or_default();
        text.push(b'\n');
        text
    }

    fn attributes(&self, inode: INodeNo) -> Option<FileAttr> {
        let (kind, perm, size) = match inode {
            INodeNo::ROOT => (FileType::Directory, 0o500, 0),
            IMAGE_INODE => (FileType::RegularFile, 0o600, self.volume.shape().size_bytes),
            STATS_INODE => (FileType::RegularFile, 0o400, 0),
            _ => return None,
        };
        Some(FileAttr {
            ino: inode,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: self.volume.shape().block_bytes,
            flags: 0,
        })
    }
}

impl Filesystem for Fs {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // Each is a wish: a kernel that has it not is slower.
        let _ = config.add_capabilities(InitFlags::FUSE_ASYNC_DIO);
        let _ = config.set_max_write(REQUEST_BYTES_MAX);
        let _ = config.set_max_background(REQUESTS_MAX);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let inode = match name.to_str() {
            Some(IMAGE) if parent == INodeNo::ROOT => IMAGE_INODE,
            Some(STATS) if parent == INodeNo::ROOT => STATS_INODE,
            _ => return reply.error(Errno::ENOENT),
        };
        match self.attributes(inode) {
            Some(attributes) => reply.entry(&TTL, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(inode) {
            Some(attributes) => reply.attr(&TTL, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<std::time::SystemTime>,
        _: Option<FileHandle>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        match self.attributes(inode) {
            // Times are not kept, and tools that set them expect no error.
            Some(attributes) if size.is_none_or(|size| size == attributes.size) => reply.attr(&TTL, &attributes),
            _ => reply.error(Errno::EPERM),
        }
    }

    fn open(&self, _: &Request, inode: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // Nothing is flushed when a descriptor is closed, as with disks: each process that starts closes copies of descriptors, and would wait for
        // the store, or for ever if we are stopped.
        let every = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH;
        let parallel =
            if inode == IMAGE_INODE { FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES } else { FopenFlags::empty() };
        reply.opened(FileHandle(0), every | parallel);
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        if inode != IMAGE_INODE {
            let text = self.stats();
            let from = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
            let to = (from + (size as usize).min(STATS_BYTES_MAX)).min(text.len());
            return reply.data(&text[from..to]);
        }
        // At the end a file is shorter than what is asked for, which is no error.
        let end = self.volume.shape().size_bytes;
        let bytes = u64::from(size).min(end.saturating_sub(offset)) as usize;
        let volume = self.volume.clone();
        self.runtime.spawn(async move {
            match volume.read(offset.min(end), bytes).await {
                Ok(data) => reply.data(&data),
                Err(error) => reply.error(errno("read", &error)),
            }
        });
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        if inode != IMAGE_INODE {
            return reply.error(Errno::EPERM);
        }
        let answer = |done: Result<(), IoError>, bytes: usize, reply: ReplyWrite| match done {
            Ok(()) => reply.written(bytes as u32),
            Err(error) => reply.error(errno("write", &error)),
        };
        if let Some(done) = self.volume.write_now(offset, data) {
            return answer(done, data.len(), reply);
        }
        let (volume, data) = (self.volume.clone(), data.to_vec());
        self.runtime.spawn(async move {
            let done = volume.write(offset, &data).await;
            answer(done, data.len(), reply);
        });
    }

    fn fallocate(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let zeros = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE;
        if inode != IMAGE_INODE || mode & zeros == 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let volume = self.volume.clone();
        self.runtime.spawn(async move {
            match volume.discard(offset, length).await {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno("discard", &error)),
            }
        });
    }

    fn fsync(&self, _: &Request, inode: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        if inode != IMAGE_INODE {
            return reply.ok();
        }
        let volume = self.volume.clone();
        self.runtime.spawn(async move {
            match volume.flush().await {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno("flush", &error)),
            }
        });
    }

    fn readdir(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        if inode != INodeNo::ROOT {
            return reply.error(Errno::ENOTDIR);
        }
        let entries = [
            (INodeNo::ROOT, FileType::Directory, "."),
            (INodeNo::ROOT, FileType::Directory, ".."),
            (IMAGE_INODE, FileType::RegularFile, IMAGE),
            (STATS_INODE, FileType::RegularFile, STATS),
        ];
        for (at, (inode, kind, name)) in (1..).zip(entries).skip(usize::try_from(offset).unwrap_or(usize::MAX)) {
            if reply.add(inode, at, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        // A loop device discards in units of this.
        let shape = self.volume.shape();
        reply.statfs(
            shape.size_bytes / u64::from(shape.block_bytes),
            0,
            0,
            2,
            0,
            shape.block_bytes,
            255,
            shape.block_bytes,
        );
    }
}

fn errno(operation: &str, error: &IoError) -> Errno {
    warn!(operation, %error, "a request failed");
    match error {
        IoError::Outside { .. } => Errno::ENOSPC,
        IoError::Failed(_) | IoError::Read(_) => Errno::EIO,
    }
}
