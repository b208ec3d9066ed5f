//! Where file systems are mounted on the host: each once, below a directory whose mounts nobody else gets a copy of. Refuses to unmount what is
//! in use.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatVfsMountFlags, StatxAttributes, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, open_tree,
    unmount,
};

use crate::shim::mounts::explained;

/// What containers are shown of a volume: beside it is what e2fsck finds, which is nobody's.
pub const DATA: &str = "data";
/// What it is called until it is as it should be.
const DATA_FRESH: &str = "data.new";
const DATA_MODE: u32 = 0o755;

/// The directory of all mounts of a kind.
#[derive(Debug)]
pub struct Mounts {
    dir: PathBuf,
    /// Held while the directory itself is mounted or unmounted.
    own: Mutex<()>,
}

/// How full one that is mounted is, and whether the kernel has stopped writing to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    pub used_bytes: u64,
    pub free_bytes: u64,
    pub read_only: bool,
    /// Errors that the kernel has met in it.
    pub errors: u64,
}

impl Mounts {
    pub fn new(dir: PathBuf) -> Self {
        Mounts { dir, own: Mutex::default() }
    }

    pub fn path(&self, id: &str) -> PathBuf {
        self.dir.join(id)
    }

    pub fn data(&self, id: &str) -> PathBuf {
        self.dir.join(id).join(DATA)
    }

    /// The device number of what is mounted there.
    pub fn mounted(&self, id: &str) -> io::Result<Option<u64>> {
        mounted_at(&self.path(id))
    }

    /// Those that are mounted, by their names.
    pub fn all(&self) -> io::Result<Vec<String>> {
        let mut names = self.places()?;
        names.retain(|name| matches!(self.mounted(name), Ok(Some(_))));
        Ok(names)
    }

    /// Those that are mounted, were, or were about to be.
    pub fn places(&self) -> io::Result<Vec<String>> {
        let entries = match std::fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
    }

    /// What is on the device, at the volume's place.
    pub fn mount(&self, device: &Path, id: &str) -> io::Result<()> {
        // What the disk takes its time for, without keeping others waiting.
        let mount = filesystem(device, MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV)?;
        make_data(&mount)?;
        self.place(&mount, id)
    }

    /// What is mounted nowhere yet.
    pub fn place(&self, mount: &OwnedFd, id: &str) -> io::Result<()> {
        let _own = self.own.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.be_private()?;
        let at = self.path(id);
        private_dir(&at)?;
        let onto = rustix::fs::open(&at, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        Ok(move_mount(mount, "", &onto, "", flags)?)
    }

    /// Fails with EBUSY if somebody on the host is there. What is not mounted is no error.
    pub fn unmount(&self, id: &str) -> io::Result<()> {
        // Writes what is not written yet.
        self.unmount_with(id, UnmountFlags::NOFOLLOW)
    }

    /// Whoever is there keeps what nobody finds any more.
    pub fn detach(&self, id: &str) -> io::Result<()> {
        self.unmount_with(id, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)
    }

    fn unmount_with(&self, id: &str, flags: UnmountFlags) -> io::Result<()> {
        let at = self.path(id);
        if mounted_at(&at)?.is_some() {
            unmount(&at, flags)?;
        }
        let _own = self.own.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match std::fs::remove_dir(&at) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.be_nothing();
        Ok(())
    }

    pub fn usage(&self, id: &str) -> io::Result<Option<Usage>> {
        let at = self.path(id);
        let Some(device) = mounted_at(&at)? else { return Ok(None) };
        let stat = rustix::fs::statvfs(&at)?;
        let (free_bytes, blocks) = (stat.f_bavail * stat.f_frsize, stat.f_blocks.saturating_sub(stat.f_bfree));
        let name = std::fs::read_link(format!("/sys/dev/block/{}:{}", major(device), minor(device)))?;
        let errors = Path::new("/sys/fs/ext4").join(name.file_name().unwrap_or_default()).join("errors_count");
        let errors = std::fs::read_to_string(errors).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        let read_only = stat.f_flag.contains(StatVfsMountFlags::RDONLY);
        Ok(Some(Usage { used_bytes: blocks * stat.f_frsize, free_bytes, read_only, errors }))
    }

    /// Its root, for calls to the file system.
    pub fn open(&self, id: &str) -> io::Result<OwnedFd> {
        Ok(rustix::fs::open(self.path(id), OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// Where mounts of the host are shared, others would get copies of ours, and hold them.
    fn be_private(&self) -> io::Result<()> {
        private_dir(&self.dir)?;
        if mounted_at(&self.dir)?.is_some() {
            return Ok(());
        }
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let clone = open_tree(CWD, &self.dir, flags)?;
        move_mount(&clone, "", CWD, &self.dir, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        Ok(mount_change(&self.dir, MountPropagationFlags::PRIVATE)?)
    }

    /// When nothing is mounted below it any more, nothing is left of us.
    fn be_nothing(&self) {
        if matches!(mounted_at(&self.dir), Ok(Some(_))) {
            // Busy while another volume is mounted.
            let _ = unmount(&self.dir, UnmountFlags::NOFOLLOW);
        }
    }
}

/// Mounted nowhere yet. It stops being written when the kernel meets an error in it.
pub fn filesystem(device: &Path, attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    let context = fsopen("ext4", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", device)?;
    fsconfig_set_string(&context, "errors", "remount-ro")?;
    // What has never been written reads as zeros, and nobody has to write them. The kernel would, and a loop device makes holes of those zeros:
    // what the file was promised would be anybody's.
    fsconfig_set_flag(&context, "noinit_itable")?;
    if let Err(source) = fsconfig_create(&context) {
        return Err(io::Error::new(io::Error::from(source).kind(), explained(&context, "mount it", source).message));
    }
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// The root's, who is the container's where its ids are mapped. Whatever our umask is, others may look into it; by rename, so that it is never
/// there with another mode.
fn make_data(mount: &OwnedFd) -> io::Result<()> {
    // Read-only, it is of no use without, and its error says so.
    match rustix::fs::statat(mount, DATA, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => {}
        found => return Ok(found.map(drop)?),
    }
    match rustix::fs::mkdirat(mount, DATA_FRESH, DATA_MODE.into()) {
        // Of one that was interrupted.
        Ok(()) | Err(Errno::EXIST) => {}
        Err(source) => return Err(source.into()),
    }
    rustix::fs::chmodat(mount, DATA_FRESH, DATA_MODE.into(), AtFlags::empty())?;
    Ok(rustix::fs::renameat(mount, DATA_FRESH, mount, DATA)?)
}

fn mounted_at(path: &Path) -> io::Result<Option<u64>> {
    match statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS) {
        Ok(stat) if stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) => {
            Ok(Some(rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor)))
        }
        Ok(_) | Err(Errno::NOENT) => Ok(None),
        Err(source) => Err(source.into()),
    }
}

fn private_dir(dir: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

pub fn major(device: u64) -> u32 {
    rustix::fs::major(device)
}

pub fn minor(device: u64) -> u32 {
    rustix::fs::minor(device)
}
