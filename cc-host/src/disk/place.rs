//! Disks by the names of their files, which are a container's id, or, before it is anybody's, that it is ready; mounts have the disk's UUID. Every
//! call blocks. Refuses to make a file system where there is one, and to mount what is not the disk's own.

use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::Disk;
use super::error::DiskError;
use crate::error_chain;
use crate::fault;
use crate::volume::backend::{BackendError, Files, Room};
use crate::volume::filesystem::{self, Effort, Superblock, Uuid};
use crate::volume::mount::{Mounts, filesystem as ext4};
use crate::volume::{LoopDevice, exclusive};

/// What a container writes, and what overlayfs has for itself; beside them is what e2fsck finds, which is nobody's.
const UPPER: &str = "upper";
const WORK: &str = "work";
/// Before the name of one that is nobody's yet.
const READY: &str = "ready-";
/// A namespace that goes keeps what was mounted in it for a moment longer.
const FREE_WITHIN: Duration = Duration::from_secs(1);
const FREE_LOOK: Duration = Duration::from_millis(5);

pub(super) struct Place {
    files: Files,
    mounts: Mounts,
}

/// Of one that is nobody's.
pub(super) fn ready_name(disk: &Disk) -> String {
    format!("{READY}{}", disk.uuid)
}

pub(super) fn is_ready_name(name: &str) -> bool {
    name.strip_prefix(READY).is_some_and(|uuid| Uuid::try_from(uuid.to_owned()).is_ok())
}

impl Place {
    pub(super) fn open(dir: PathBuf, mounts_dir: PathBuf) -> Result<Self, BackendError> {
        Ok(Place { files: Files::open(dir)?, mounts: Mounts::new(mounts_dir) })
    }

    pub(super) fn room(&self) -> Result<Room, BackendError> {
        self.files.room()
    }

    pub(super) fn file_name(&self, name: &str) -> String {
        self.files.image(name).file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    pub(super) fn upper(&self, disk: &Disk) -> PathBuf {
        self.mounts.path(&disk.uuid.to_string()).join(UPPER)
    }

    pub(super) fn work(&self, disk: &Disk) -> PathBuf {
        self.mounts.path(&disk.uuid.to_string()).join(WORK)
    }

    /// Mounted, with nothing in it. When it fails, nothing is left. `allocated` is called when its space is nobody else's.
    pub(super) fn make(&self, name: &str, disk: &Disk, allocated: impl FnOnce()) -> Result<(), DiskError> {
        self.files.create(name, disk.bytes).map_err(DiskError::file("make", name))?;
        allocated();
        fault::point("disk.make.allocated");
        let made = self.make_in(name, disk);
        if made.is_err()
            && let Err(error) = self.remove(name, disk)
        {
            tracing::error!(disk = name, error = error_chain(&error), "cannot remove what was made of it");
        }
        made
    }

    fn make_in(&self, name: &str, disk: &Disk) -> Result<(), DiskError> {
        let made = filesystem::make_lightly(&self.files.image(name), disk.uuid, disk.bytes);
        made.map_err(DiskError::tool("make", name))?;
        fault::point("disk.make.formatted");
        let device = self.files.attach(name).map_err(DiskError::file("attach", name))?;
        fault::point("disk.make.attached");
        self.mount_from(&device, name, disk)
    }

    /// One that is mounted is no error.
    pub(super) fn mount(&self, name: &str, disk: &Disk) -> Result<(), DiskError> {
        self.name(name, disk)?;
        if self.mounts.mounted(&disk.uuid.to_string()).map_err(DiskError::mount("look for", name))?.is_some() {
            return Ok(());
        }
        self.is_its_own(name, disk)?;
        let device = self.files.attach(name).map_err(DiskError::file("attach", name))?;
        fault::point("disk.mount.attached");
        // A namespace that goes may have it still: then it is not looked at, which is for what nobody writes to.
        if exclusive(device.path()).map_err(DiskError::mount("look at", name))? {
            let verdict = filesystem::check(device.path(), Effort::Preen).map_err(DiskError::tool("check", name))?;
            if !verdict.clean {
                let why =
                    format!("e2fsck -p could not put {} right: {}", self.files.image(name).display(), verdict.report);
                return Err(DiskError::NeedsRepair { name: name.to_owned(), why });
            }
        }
        self.mount_from(&device, name, disk)
    }

    fn mount_from(&self, device: &LoopDevice, name: &str, disk: &Disk) -> Result<(), DiskError> {
        let mount = || {
            // Set-uid programs are as good in it as in a directory of the host's; the container's root, which is mounted over it, says what of
            // that is left.
            let mount = ext4(device.path(), MountAttrFlags::MOUNT_ATTR_NODEV)?;
            for dir in [UPPER, WORK] {
                match rustix::fs::mkdirat(&mount, dir, Mode::RWXU) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(source) => return Err(source.into()),
                }
            }
            self.mounts.place(&mount, &disk.uuid.to_string())
        };
        mount().map_err(DiskError::mount("mount", name))?;
        fault::point("disk.mounted");
        Ok(())
    }

    /// What was made for it, of the size that it is to have.
    fn is_its_own(&self, name: &str, disk: &Disk) -> Result<(), DiskError> {
        let path = self.files.image(name);
        let not_its =
            |why: String| DiskError::NotIts { name: name.to_owned(), why: format!("{}: {why}", path.display()) };
        let file = File::open(&path).map_err(|error| not_its(error.to_string()))?;
        let bytes = file.metadata().map_err(|error| not_its(error.to_string()))?.len();
        if bytes < disk.bytes {
            return Err(not_its(format!("it has {bytes} bytes instead of {}", disk.bytes)));
        }
        match Superblock::read(&file).map_err(|error| not_its(error.to_string()))? {
            Some(found) if found.uuid == disk.uuid => Ok(()),
            Some(found) => Err(not_its(format!("it has the UUID {} instead of {}", found.uuid, disk.uuid))),
            None => {
                let why = format!("the superblock of {} cannot be read", path.display());
                Err(DiskError::NeedsRepair { name: name.to_owned(), why })
            }
        }
    }

    /// The file of one that was ready gets its container's name. One that has it is no error, nor one that is gone.
    pub(super) fn name(&self, name: &str, disk: &Disk) -> Result<(), DiskError> {
        let ready = ready_name(disk);
        if ready == name || !self.files.image(&ready).exists() {
            return Ok(());
        }
        fault::point("disk.name.begun");
        self.files.rename(&ready, name).map_err(DiskError::file("name", name))?;
        fault::point("disk.name.done");
        Ok(())
    }

    pub(super) fn unmount(&self, disk: &Disk) -> Result<(), DiskError> {
        let name = disk.uuid.to_string();
        self.mounts.unmount(&name).map_err(DiskError::mount("unmount", &name))
    }

    /// With all that is in it. What is not there is no error.
    pub(super) fn remove(&self, name: &str, disk: &Disk) -> Result<(), DiskError> {
        self.name(name, disk)?;
        // A shell of the host's that is in it keeps nobody from removing a container.
        let uuid = disk.uuid.to_string();
        self.mounts.detach(&uuid).map_err(DiskError::mount("unmount", &uuid))?;
        self.remove_file(name)
    }

    pub(super) fn remove_file(&self, name: &str) -> Result<(), DiskError> {
        fault::point("disk.remove.unmounted");
        let began = Instant::now();
        while self.files.is_attached(name).map_err(DiskError::file("detach", name))? {
            if began.elapsed() > FREE_WITHIN {
                // Whoever that is has a namespace of its own, and can do nothing but keep it: its space comes back when it lets go.
                tracing::warn!(disk = name, "somebody on this host still has it mounted");
                break;
            }
            std::thread::sleep(FREE_LOOK);
        }
        self.files.remove(name).map_err(DiskError::file("remove", name))?;
        fault::point("disk.remove.removed");
        Ok(())
    }

    pub(super) fn names(&self) -> Result<Vec<String>, DiskError> {
        self.files.names().map_err(DiskError::file("list", "*"))
    }

    /// What is mounted, was, or was about to be.
    pub(super) fn places(&self) -> Result<Vec<Uuid>, DiskError> {
        let places = self.mounts.places().map_err(DiskError::mount("list", "*"))?;
        Ok(places.into_iter().filter_map(|name| Uuid::try_from(name).ok()).collect())
    }
}
