//! A thin pool of LVM's, in which each volume is a logical volume with our tag. Refuses to touch one without it, and to promise more than the
//! pool has, unless that was asked for.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::super::tool::ToolError;
use super::lvm::{self, Logical};
use super::{Advice, Attached, Backend, BackendError, Room};
use crate::ids::VolumeId;
use crate::{error_chain, fault};

/// Of every logical volume that is ours.
const TAG: &str = "cc_volume";
/// A pool of which more is in use, of its data or of its metadata, gets no new volumes: one that is full stops all of its volumes' writes.
const FULL_PERCENT: u8 = 80;

#[derive(Debug)]
pub struct LvmThin {
    group: String,
    pool: String,
    /// What may be promised, in hundredths of what the pool has.
    promised_percent: u32,
}

/// A logical volume's block device, open.
#[derive(Debug)]
struct Open {
    path: PathBuf,
    file: File,
}

impl Attached for Open {
    fn path(&self) -> &Path {
        &self.path
    }

    fn number(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.rdev())
    }

    /// LVM has told the kernel already.
    fn refresh(&self) -> io::Result<()> {
        Ok(())
    }
}

impl LvmThin {
    /// Of a pool that is there, named as LVM does it: `GROUP/POOL`.
    pub fn open(pool: &str, promised_percent: u32) -> Result<Self, BackendError> {
        let none = || BackendError::NoPool { pool: pool.to_owned() };
        let (group, name) = pool.split_once('/').ok_or_else(none)?;
        let backend = LvmThin { group: group.to_owned(), pool: name.to_owned(), promised_percent };
        let all = backend.all()?;
        let found = backend.pool_of(&all)?;
        // One that is not active does not say how full it is.
        if !found.is_active || found.data_percent.is_none() {
            backend.change("activate", &backend.pool, &["--activate", "y"])?;
        }
        // A host that has started may have left them out, and a command that was ended may have left them suspended. One that cannot be had
        // keeps nobody else from theirs.
        for one in all.iter().filter(|one| backend.is_ours(one)) {
            if let Err(error) = backend.make_ready(one) {
                tracing::error!(volume = one.name, error = error_chain(&error), "its logical volume cannot be used");
            }
        }
        Ok(backend)
    }

    /// Active, and not suspended.
    fn make_ready(&self, one: &Logical) -> Result<(), BackendError> {
        if one.is_suspended {
            self.change("resume", &one.name, &["--refresh"])?;
        }
        match one.is_active {
            true => Ok(()),
            // Snapshots are left out of activation unless that is asked for.
            false => self.change("activate", &one.name, &["--activate", "y", "--ignoreactivationskip"]),
        }
    }

    fn failed(&self, operation: &'static str, on: &str) -> impl FnOnce(ToolError) -> BackendError {
        let path = PathBuf::from(format!("{}/{on}", self.group));
        move |source| BackendError::Tool { operation, path, source }
    }

    fn all(&self) -> Result<Vec<Logical>, BackendError> {
        lvm::all(&self.group).map_err(self.failed("list", &self.pool))
    }

    fn pool_of<'a>(&self, all: &'a [Logical]) -> Result<&'a Logical, BackendError> {
        let found = all.iter().find(|one| one.is_thin_pool && one.name == self.pool);
        found.ok_or_else(|| BackendError::NoPool { pool: format!("{}/{}", self.group, self.pool) })
    }

    fn free_of(&self, all: &[Logical]) -> Result<u64, BackendError> {
        let has = u128::from(self.pool_of(all)?.bytes) * u128::from(self.promised_percent) / 100;
        // Whoever has them: what is promised to others is not ours to give.
        let promised: u64 = all.iter().filter(|one| one.pool == self.pool).map(|one| one.bytes).sum();
        Ok(u64::try_from(has).unwrap_or(u64::MAX).saturating_sub(promised))
    }

    /// From which hundredth on nothing is added: LVM itself adds nothing once it should have made the pool larger.
    fn limit_percent(&self) -> Result<u8, BackendError> {
        let autoextend = lvm::autoextend_percent().map_err(self.failed("ask how LVM extends", &self.pool))?;
        Ok(autoextend.min(FULL_PERCENT))
    }

    fn find(&self, id: &VolumeId) -> Result<Option<Logical>, BackendError> {
        Ok(self.all()?.into_iter().find(|one| one.name == id.as_str()).filter(|one| self.is_ours(one)))
    }

    fn get(&self, id: &VolumeId) -> Result<Logical, BackendError> {
        let missing =
            || io::Error::new(io::ErrorKind::NotFound, format!("no logical volume of ours has the tag {TAG}"));
        let none = || BackendError::Disk { operation: "find", path: self.image(id), source: missing() };
        self.find(id)?.ok_or_else(none)
    }

    fn is_ours(&self, one: &Logical) -> bool {
        one.pool == self.pool && one.tags.iter().any(|tag| tag == TAG)
    }

    fn lvm(&self, operation: &'static str, name: &str, args: &[&str]) -> Result<(), BackendError> {
        lvm::run(args, &format!("{}/{name}", self.group)).map(drop).map_err(self.failed(operation, name))
    }

    fn change(&self, operation: &'static str, name: &str, args: &[&str]) -> Result<(), BackendError> {
        self.lvm(operation, name, &[&["lvchange", "--yes"], args].concat())
    }

    /// As people, LVM and its records name it.
    fn pool_name(&self) -> String {
        format!("{}/{}", self.group, self.pool)
    }

    /// What of it is as full as it may become, or fuller.
    fn full_parts(&self, pool: &Logical, limit: u8) -> Result<Vec<(&'static str, u8)>, BackendError> {
        let mut full = Vec::new();
        for (part, percent) in [("data", pool.data_percent), ("metadata", pool.metadata_percent)] {
            // What nobody knows is no room.
            let percent = percent.ok_or_else(|| {
                let why = format!("nothing of how full the {part} of {} are", self.pool_name());
                self.failed("measure", &self.pool)(ToolError::Strange { tool: "lvm lvs", why })
            })?;
            if percent >= limit {
                full.push((part, percent));
            }
        }
        Ok(full)
    }

    /// Whether the pool has so much more to promise, and room for what is written to it.
    fn has(&self, id: &VolumeId, bytes: u64) -> Result<(), BackendError> {
        let (all, limit) = (self.all()?, self.limit_percent()?);
        if let Some(&(part, percent)) = self.full_parts(self.pool_of(&all)?, limit)?.first() {
            return Err(BackendError::Filling { pool: self.pool_name(), part, percent, limit });
        }
        match self.free_of(&all)? < bytes {
            true => Err(BackendError::Full { path: self.image(id), bytes }),
            false => Ok(()),
        }
    }

    fn device(&self, id: &VolumeId, write: bool) -> Result<File, BackendError> {
        let path = self.image(id);
        let opened = File::options().read(true).write(write).open(&path);
        opened.map_err(|source| BackendError::Disk { operation: "open", path, source })
    }
}

fn bytes_of(bytes: u64) -> String {
    format!("{bytes}b")
}

impl Backend for LvmThin {
    fn name(&self) -> &'static str {
        "lvm-thin"
    }

    fn place(&self) -> String {
        format!("{} {}", Backend::name(self), self.pool_name())
    }

    fn is_of_files(&self) -> bool {
        false
    }

    fn room(&self) -> Result<Room, BackendError> {
        Ok(Room { free_bytes: self.free_of(&self.all()?)?, reserve_bytes: 0 })
    }

    fn prepare(&self, id: &VolumeId) -> Result<(), BackendError> {
        match self.find(id)? {
            Some(found) => self.make_ready(&found),
            // One that is not there is told as such by whoever looks at it.
            None => Ok(()),
        }
    }

    fn create(&self, id: &VolumeId, bytes: u64) -> Result<(), BackendError> {
        self.has(id, bytes)?;
        let (size, name) = (bytes_of(bytes), id.as_str());
        let args = [
            "lvcreate",
            "--yes",
            "--wipesignatures",
            "n",
            "--virtualsize",
            &size,
            "--thinpool",
            &self.pool,
            "--name",
            name,
            "--addtag",
            TAG,
        ];
        lvm::run(&args, &self.group).map(drop).map_err(self.failed("create", name))
    }

    fn grow(&self, id: &VolumeId, bytes: u64) -> Result<(), BackendError> {
        let now = self.get(id)?.bytes;
        if now >= bytes {
            return Ok(());
        }
        self.has(id, bytes - now)?;
        self.lvm("grow", id.as_str(), &["lvextend", "--size", &bytes_of(bytes)])
    }

    fn shrink_back(&self, id: &VolumeId, bytes: u64) -> Result<(), BackendError> {
        if self.get(id)?.bytes <= bytes {
            return Ok(());
        }
        self.lvm("shorten", id.as_str(), &["lvreduce", "--force", "--yes", "--size", &bytes_of(bytes)])
    }

    /// The device mapper has the file system on it written out and still for the moment that a snapshot takes.
    fn copies_what_is_still(&self) -> bool {
        false
    }

    /// A thin snapshot takes the place of what was created for it.
    fn copy(&self, from: &VolumeId, to: &VolumeId, go_on: &dyn Fn() -> bool) -> Result<bool, BackendError> {
        if !go_on() {
            return Ok(false);
        }
        self.get(from)?;
        self.remove(to)?;
        fault::point("volume.snapshot.emptied");
        let args =
            ["lvcreate", "--yes", "--snapshot", "--setactivationskip", "n", "--name", to.as_str(), "--addtag", TAG];
        self.lvm("copy", from.as_str(), &args)?;
        fault::point("volume.snapshot.taken");
        self.make_ready(&self.get(to)?)?;
        Ok(true)
    }

    fn remove(&self, id: &VolumeId) -> Result<(), BackendError> {
        match self.find(id)? {
            None => Ok(()),
            Some(found) if found.is_open => Err(BackendError::Busy { path: self.image(id) }),
            Some(_) => self.lvm("remove", id.as_str(), &["lvremove", "--force", "--yes"]),
        }
    }

    fn sync(&self, id: &VolumeId) -> Result<(), BackendError> {
        let synced = self.device(id, true)?.sync_all();
        synced.map_err(|source| BackendError::Disk { operation: "sync", path: self.image(id), source })
    }

    fn image(&self, id: &VolumeId) -> PathBuf {
        Path::new("/dev").join(&self.group).join(id.as_str())
    }

    fn size(&self, id: &VolumeId) -> Result<u64, BackendError> {
        Ok(self.get(id)?.bytes)
    }

    fn attach(&self, id: &VolumeId) -> Result<Box<dyn Attached>, BackendError> {
        self.make_ready(&self.get(id)?)?;
        Ok(Box::new(Open { path: self.image(id), file: self.device(id, false)? }))
    }

    fn is_attached(&self, id: &VolumeId) -> Result<bool, BackendError> {
        Ok(self.find(id)?.is_some_and(|found| found.is_open))
    }

    fn list(&self) -> Result<Vec<VolumeId>, BackendError> {
        let all = self.all()?;
        Ok(all.iter().filter(|one| self.is_ours(one)).filter_map(|one| VolumeId::parse(&one.name)).collect())
    }

    fn advice(&self) -> Result<Vec<Advice>, BackendError> {
        let (all, limit, name) = (self.all()?, self.limit_percent()?, self.pool_name());
        let full = |(part, percent): (&str, u8)| Advice {
            problem: format!(
                "{percent} % of the {part} of thin pool {name} are in use: nothing is added from {limit} % on, and its volumes stop writing when it is full"
            ),
            next: "delete volumes (cc volume prune), or extend the pool: lvextend, and lvextend --poolmetadatasize",
            grave: true,
        };
        let parts = self.full_parts(self.pool_of(&all)?, limit)?;
        let mut advice: Vec<Advice> = parts.into_iter().map(full).collect();
        if lvm::autoextend_percent().map_err(self.failed("ask how LVM extends", &self.pool))? >= 100 {
            advice.push(Advice {
                problem: format!("thin pool {name} does not grow by itself"),
                next: "set thin_pool_autoextend_threshold (90, say) and thin_pool_autoextend_percent (20) in lvm.conf, with dmeventd running",
                grave: false,
            });
        }
        Ok(advice)
    }
}
