//! Cgroups of containers, on pure v2 and on the hybrid layout (controllers on v1 beside an empty v2 tree). One directory of
//! ours below each hierarchy's root, one per container below that. Refuses to touch any directory that it did not make,
//! the roots' `subtree_control` included.

mod cpuset;
mod hierarchy;
mod limits;
mod place;
mod stats;

use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cc_common::api::fault::Fault;
use tonic::Code;

pub use cpuset::CpuSet;
use hierarchy::Hierarchies;
pub use limits::Limits;
use place::Place;
pub use stats::Stats;

/// Beside the containers' directories on the v2 tree, and no container's name.
const SHIMS: &str = "shims";
const DIRECTORY_MODE: u32 = 0o755;
/// How long a killed container's processes may take to be gone; a process in an uninterruptible wait can take longer.
const EMPTY_WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("cgroup directory {0} is not a relative path of plain names")]
    BadDirectory(PathBuf),
    #[error("{0:?} is not the name of a cgroup")]
    BadName(String),
    #[error("cannot read the mounted cgroup hierarchies")]
    Mounts { source: io::Error },
    #[error("no cgroup v2 hierarchy is mounted")]
    NoUnified,
    #[error("the {controller} controller is not available in {dir}")]
    NoController { controller: &'static str, dir: PathBuf },
    #[error("cannot {operation} cgroup {dir}")]
    Directory { operation: &'static str, dir: PathBuf, source: io::Error },
    #[error("cannot set the {limit} limit of cgroup {dir}: {reason}")]
    Limit { limit: &'static str, dir: PathBuf, reason: String },
    #[error("cgroup {dir} still has processes {} ms after they were killed", EMPTY_WITHIN.as_millis())]
    NotEmpty { dir: PathBuf },
}

impl From<CgroupError> for Fault {
    fn from(error: CgroupError) -> Fault {
        let why = chain(&error);
        match error {
            CgroupError::BadDirectory(_) | CgroupError::BadName(_) => {
                Fault::new(Code::InvalidArgument, "cgroup.name", "cannot use the cgroup directory", why)
                    .next("set cgroup_dir to a relative path such as cc")
            }
            CgroupError::Mounts { .. } | CgroupError::NoUnified | CgroupError::NoController { .. } => {
                Fault::new(Code::FailedPrecondition, "cgroup.unavailable", "cannot use cgroups", why)
                    .next("see what is missing: cc-host check")
            }
            CgroupError::Limit { .. } => {
                Fault::new(Code::InvalidArgument, "cgroup.limit", "cannot limit the container", why)
            }
            CgroupError::NotEmpty { .. } => {
                Fault::new(Code::Unavailable, "cgroup.busy", "cannot remove the container's cgroup", why)
                    .next("a process waits for a device; try again")
            }
            CgroupError::Directory { .. } => Fault::new(Code::Internal, "cgroup.io", "a cgroup operation failed", why),
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

/// Our directory in every hierarchy that we use.
#[derive(Debug, Clone)]
pub struct CgroupRoot {
    hierarchies: Hierarchies,
    dir: PathBuf,
}

/// One container's directories. Not a guard: a container outlives the daemon, and boot finds it by its name.
#[derive(Debug, Clone)]
pub struct Cgroup {
    hierarchies: Hierarchies,
    /// Below each hierarchy's root.
    dir: PathBuf,
}

impl CgroupRoot {
    /// At `dir`, relative to each hierarchy's root; where none is given, at the place that systemd made for us, or the usual one.
    pub fn find(dir: Option<&Path>, run_dir: &Path) -> Result<Self, CgroupError> {
        CgroupRoot::open_at(match dir {
            Some(dir) => Place::own(dir)?,
            None => Place::choose(run_dir)?,
        })
    }

    pub fn open(dir: &Path) -> Result<Self, CgroupError> {
        CgroupRoot::open_at(Place::own(dir)?)
    }

    /// Makes the directory where it is missing, and the controllers available below it.
    fn open_at(place: Place) -> Result<Self, CgroupError> {
        let root = CgroupRoot { hierarchies: Hierarchies::mounted()?, dir: place.dir };
        for place in root.hierarchies.places(&root.dir) {
            make(&place, true)?;
        }
        root.hierarchies.delegate(&root.dir, place.others)?;
        make(&root.shims_dir(), true)?;
        Ok(root)
    }

    pub fn create(&self, id: &str, limits: &Limits) -> Result<Cgroup, CgroupError> {
        self.create_with(id, |cgroup| cgroup.limit(limits))
    }

    /// Without limits: `Cgroup::limit` comes before anything that needs them.
    pub fn create_bare(&self, id: &str) -> Result<Cgroup, CgroupError> {
        self.create_with(id, |_| Ok(()))
    }

    fn create_with(
        &self,
        id: &str,
        settle: impl FnOnce(&Cgroup) -> Result<(), CgroupError>,
    ) -> Result<Cgroup, CgroupError> {
        let cgroup = self.get(id)?;
        match cgroup.make_all().and_then(|()| settle(&cgroup)) {
            Ok(()) => Ok(cgroup),
            Err(error) => {
                // It is empty; what stays is found by its name at the next boot.
                let _ = cgroup.remove();
                Err(error)
            }
        }
    }

    /// The handle of a cgroup that may or may not exist.
    pub fn get(&self, id: &str) -> Result<Cgroup, CgroupError> {
        let plain =
            !id.is_empty() && id != SHIMS && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if !plain {
            return Err(CgroupError::BadName(id.to_owned()));
        }
        Ok(Cgroup { hierarchies: self.hierarchies.clone(), dir: self.dir.join(id) })
    }

    /// Every container that has a directory in any hierarchy.
    pub fn list(&self) -> Result<Vec<String>, CgroupError> {
        let mut ids = std::collections::BTreeSet::new();
        for place in self.hierarchies.all_places(&self.dir) {
            ids.extend(children(&place)?.iter().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())));
        }
        ids.remove(SHIMS);
        Ok(ids.into_iter().collect())
    }

    /// Our directory on the v2 tree.
    pub fn v2_dir(&self) -> PathBuf {
        self.hierarchies.unified.mount.join(&self.dir)
    }

    /// Where shims live: outside of the containers' cgroups, whose limits are not theirs, and of the daemon's, whose end is not
    /// theirs either.
    pub fn shims_dir(&self) -> PathBuf {
        self.v2_dir().join(SHIMS)
    }

    /// Depth of a container's cgroup below the v2 root, which is 0.
    pub fn v2_root(&self) -> PathBuf {
        self.hierarchies.unified.mount.clone()
    }

    pub fn v2_level(&self) -> u32 {
        (self.hierarchies.unified.above + self.dir.components().count() + 1) as u32
    }

    /// Removes our directories where no container is left in them; directories above that we share stay.
    pub fn remove_root(&self) -> Result<(), CgroupError> {
        for place in self.hierarchies.all_places(&self.dir) {
            unmake(&place)?;
        }
        Ok(())
    }
}

impl Cgroup {
    /// Where init is born, and where BPF attaches.
    pub fn v2_dir(&self) -> PathBuf {
        self.hierarchies.unified.mount.join(&self.dir)
    }

    /// Where init has to write itself into besides; empty on pure v2.
    pub fn tasks_files(&self) -> Vec<PathBuf> {
        self.legacy_files("tasks")
    }

    fn legacy_files(&self, name: &str) -> Vec<PathBuf> {
        let legacy = self.hierarchies.legacy.iter().map(|one| one.mount.join(&self.dir));
        let cpuset = self.hierarchies.cpuset.iter().map(|mount| mount.join(&self.dir)).filter(|dir| dir.exists());
        legacy.chain(cpuset).map(|dir| dir.join(name)).collect()
    }

    /// Of one that has no limits yet.
    pub fn limit(&self, limits: &Limits) -> Result<(), CgroupError> {
        limits::apply(&self.hierarchies, &self.dir, limits)
    }

    /// From what it was limited by to what it is to be limited by.
    pub fn change_limits(&self, old: &Limits, new: &Limits) -> Result<(), CgroupError> {
        limits::change(&self.hierarchies, &self.dir, old, new)
    }

    pub fn stats(&self) -> Stats {
        stats::read(&self.hierarchies, &self.dir)
    }

    /// Kills every process in it, in all hierarchies.
    pub fn kill(&self) -> Result<(), CgroupError> {
        let kill = self.v2_dir().join("cgroup.kill");
        match std::fs::write(&kill, "1") {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(CgroupError::Directory { operation: "kill", dir: self.v2_dir(), source }),
        }
        for procs in self.legacy_files("cgroup.procs") {
            kill_listed(&procs);
        }
        Ok(())
    }

    /// Kills what is left in it, waits for its end, and removes it. Nothing to do is success.
    pub fn remove(&self) -> Result<(), CgroupError> {
        let deadline = Instant::now() + EMPTY_WITHIN;
        loop {
            match self.hierarchies.all_places(&self.dir).iter().try_for_each(|place| unmake(place)) {
                Err(CgroupError::Directory { source, .. }) if source.kind() == io::ErrorKind::ResourceBusy => {}
                other => return other,
            }
            if Instant::now() >= deadline {
                return Err(CgroupError::NotEmpty { dir: self.v2_dir() });
            }
            self.kill()?;
            self.wait_for_change();
        }
    }

    fn make_all(&self) -> Result<(), CgroupError> {
        self.hierarchies.places(&self.dir).iter().try_for_each(|place| make(place, false))
    }

    /// The kernel reports an emptied v2 cgroup as an event. A v1 hierarchy has none, hence the limit.
    fn wait_for_change(&self) {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };
        let events = std::fs::File::open(self.v2_dir().join("cgroup.events"));
        // What has not been read yet counts as news.
        let _ = events.as_ref().map(|mut file| io::Read::read(&mut file, &mut [0; 64]));
        let mut fds: Vec<PollFd<'_>> =
            events.iter().map(|file| PollFd::from_borrowed_fd(file.as_fd(), PollFlags::PRI)).collect();
        // An interrupted wait is a short one.
        let _ = poll(&mut fds, Some(&TICK));
    }
}

fn failed(operation: &'static str, dir: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    let dir = dir.to_owned();
    move |source| CgroupError::Directory { operation, dir, source }
}

/// Whatever our umask is: who mounts the tree in a container walks from its root to the container's own, as nobody to whom any of it belongs.
fn make(dir: &Path, exists_is_fine: bool) -> Result<(), CgroupError> {
    let missing: Vec<&Path> = dir.ancestors().skip(1).take_while(|above| !above.exists()).collect();
    let result = if exists_is_fine { std::fs::create_dir_all(dir) } else { std::fs::create_dir(dir) };
    match result {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && exists_is_fine => {}
        result => result.map_err(failed("create", dir))?,
    }
    for made in missing.into_iter().chain([dir]) {
        let mode = std::fs::Permissions::from_mode(DIRECTORY_MODE);
        std::fs::set_permissions(made, mode).map_err(failed("open to all", made))?;
    }
    Ok(())
}

/// With whatever was made inside of it.
fn unmake(dir: &Path) -> Result<(), CgroupError> {
    for child in children(dir)? {
        unmake(&child)?;
    }
    match std::fs::remove_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(|source| CgroupError::Directory { operation: "remove", dir: dir.to_owned(), source }),
    }
}

fn children(dir: &Path) -> Result<Vec<PathBuf>, CgroupError> {
    match std::fs::read_dir(dir) {
        Ok(entries) => {
            Ok(entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect())
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(CgroupError::Directory { operation: "list", dir: dir.to_owned(), source }),
    }
}

/// A pid can be reused between reading and killing; opening it first and looking again cannot hit a stranger.
fn kill_listed(procs: &Path) {
    use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
    let pids = |text: String| -> Vec<i32> { text.lines().filter_map(|line| line.parse().ok()).collect() };
    let Ok(first) = std::fs::read_to_string(procs).map(pids) else { return };
    let open = |pid: i32| Some((pid, pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?));
    let opened: Vec<_> = first.into_iter().filter(|pid| *pid > 0).filter_map(open).collect();
    let Ok(second) = std::fs::read_to_string(procs).map(pids) else { return };
    for (_, process) in opened.iter().filter(|(pid, _)| second.contains(pid)) {
        let _ = pidfd_send_signal(process, Signal::KILL);
    }
}
