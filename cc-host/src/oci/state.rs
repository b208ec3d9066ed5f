//! What is known of each container between two commands: ROOT/ID with state.json, a copy of config.json, and a socket on which the first
//! process waits for `start`. Refuses ids that are paths, and takes no process for the container's because it has its number.

use std::collections::HashMap;
use std::fs::DirBuilder;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::cgroup::Cgroup;
use super::directory::{self, Lock};
use super::error::OciError;
use super::report;

pub const ROOT_DEFAULT: &str = "/run/cc-oci";
pub const CONFIG_FILE: &str = "config.json";
/// Where the container's first process waits.
pub const START_SOCKET: &str = "start.sock";
const STATE_FILE: &str = "state.json";
const ID_BYTES_MAX: usize = 1024;

/// The directory of all containers.
#[derive(Debug)]
pub struct Store(PathBuf);

/// One container's, locked against other commands.
#[derive(Debug)]
pub struct Entry {
    pub dir: PathBuf,
    pub record: Record,
    _lock: Lock,
}

/// What `delete --force` finds.
#[derive(Debug)]
pub enum Found {
    Whole(Entry),
    /// Nobody knows what it was: its state cannot be read.
    Broken(Broken),
}

#[derive(Debug)]
pub struct Broken {
    dir: PathBuf,
    pub why: OciError,
    /// If at least this can be read.
    pub cgroup: Option<Cgroup>,
    _lock: Lock,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    pub id: String,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    pub annotations: HashMap<String, String>,
    /// As RFC 3339 has it.
    pub created: String,
    pub cgroup: Cgroup,
    /// None while it is being created.
    pub init: Option<Init>,
    /// The program was executed, as `start` heard.
    pub started: bool,
    /// What the first process executes until then: a `start` that was killed could not say that there is another.
    #[serde(default)]
    pub waits_as: Option<Executable>,
    pub own_keyring: bool,
}

/// A process by its number and by when it began, since numbers come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Init {
    pub pid: i32,
    /// In clock ticks since the machine's start.
    pub began_ticks: u64,
}

/// A program's file, wherever it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Executable {
    device: u64,
    inode: u64,
}

impl Executable {
    pub fn of(pid: i32) -> Option<Executable> {
        let found = std::fs::metadata(format!("/proc/{pid}/exe")).ok()?;
        Some(Executable { device: found.dev(), inode: found.ino() })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    pub fn name(self) -> &'static str {
        match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        }
    }
}

impl Init {
    /// None if there is no such process any more.
    pub fn of(pid: i32) -> Option<Init> {
        let (state, began_ticks) = stat(pid)?;
        (!matches!(state, 'Z' | 'X')).then_some(Init { pid, began_ticks })
    }

    pub fn is_alive(self) -> bool {
        Init::of(self.pid) == Some(self)
    }
}

/// The state and the time of the start, which are the third and the 22nd field.
fn stat(pid: i32) -> Option<(char, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

impl Record {
    pub fn status(&self) -> Status {
        match self.init {
            None => Status::Creating,
            Some(init) if !init.is_alive() => Status::Stopped,
            Some(_) if self.cgroup.is_frozen() => Status::Paused,
            Some(init) if self.started || self.has_executed(init) => Status::Running,
            Some(_) => Status::Created,
        }
    }

    fn has_executed(&self, init: Init) -> bool {
        let found = Executable::of(init.pid);
        self.waits_as.is_some() && found.is_some() && found != self.waits_as
    }

    /// The first process, if it is there.
    pub fn alive(&self) -> Result<Init, OciError> {
        let gone = || OciError::NotRunning { id: self.id.clone(), status: self.status().name() };
        self.init.filter(|init| init.is_alive()).ok_or_else(gone)
    }
}

impl Store {
    pub fn open(root: &Path) -> Result<Store, OciError> {
        let failed = |source| OciError::File { operation: "make", path: root.into(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(failed)?;
        Ok(Store(root.to_owned()))
    }

    /// A new one's directory, after what others left halfway.
    pub fn create(&self, record: Record) -> Result<Entry, OciError> {
        check_id(&record.id)?;
        directory::sweep(&self.0);
        let dir = self.0.join(&record.id);
        match directory::make(&self.0, &dir, |aside| save(aside, &record))? {
            Some((lock, ())) => Ok(Entry { dir, record, _lock: lock }),
            None => Err(OciError::Exists(record.id)),
        }
    }

    /// For a command that changes it.
    pub fn lock(&self, id: &str) -> Result<Entry, OciError> {
        check_id(id)?;
        let dir = self.0.join(id);
        let lock = directory::lock(&dir, false)?.ok_or_else(|| OciError::NoContainer(id.to_owned()))?;
        let record = read(&dir).map_err(|e| missing(id, e))?;
        Ok(Entry { dir, record, _lock: lock })
    }

    /// For a command that removes whatever is there.
    pub fn lock_any(&self, id: &str) -> Result<Found, OciError> {
        check_id(id)?;
        let dir = self.0.join(id);
        // Without even a lock, it would be in its id's way for ever.
        let lock = directory::lock(&dir, directory::is_bare(&dir))?;
        let lock = lock.ok_or_else(|| OciError::NoContainer(id.to_owned()))?;
        Ok(match read(&dir) {
            Ok(record) => Found::Whole(Entry { dir, record, _lock: lock }),
            Err(why) => Found::Broken(Broken { cgroup: cgroup_alone(&dir), dir, why, _lock: lock }),
        })
    }

    /// For a command that looks.
    pub fn read(&self, id: &str) -> Result<(PathBuf, Record), OciError> {
        check_id(id)?;
        let dir = self.0.join(id);
        let record = read(&dir).map_err(|e| missing(id, e))?;
        Ok((dir, record))
    }

    /// All of them, but those that go meanwhile. One that cannot be read is told about, and hides no other.
    pub fn all(&self) -> Result<Vec<Record>, OciError> {
        let failed = |source| OciError::File { operation: "read", path: self.0.clone(), source };
        let mut records = Vec::new();
        for entry in std::fs::read_dir(&self.0).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let Some(id) = path.file_name().and_then(|name| name.to_str()).filter(|name| check_id(name).is_ok()) else {
                continue;
            };
            match read(&path) {
                Ok(record) => records.push(record),
                Err(_) if !path.is_dir() => {}
                Err(error) => report::warn(&format!("{}; `delete --force {id}` removes it", error.chain())),
            }
        }
        records.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(records)
    }
}

impl Entry {
    pub fn save(&self) -> Result<(), OciError> {
        save(&self.dir, &self.record)
    }

    /// The last that is done with it.
    pub fn remove(&self) -> Result<(), OciError> {
        remove(&self.dir)
    }
}

impl Broken {
    pub fn remove(&self) -> Result<(), OciError> {
        remove(&self.dir)
    }
}

fn remove(dir: &Path) -> Result<(), OciError> {
    directory::remove(dir.parent().unwrap_or(dir), dir)
}

/// At once or not at all.
fn save(dir: &Path, record: &Record) -> Result<(), OciError> {
    let path = dir.join(STATE_FILE);
    let next = path.with_extension("next");
    let write = || {
        let bytes = serde_json::to_vec(record)?;
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600).open(&next)?.write_all(&bytes)?;
        std::fs::rename(&next, &path)
    };
    write().map_err(|source| OciError::File { operation: "write", path: path.clone(), source })
}

/// Of a state that is not one otherwise.
fn cgroup_alone(dir: &Path) -> Option<Cgroup> {
    #[derive(Deserialize)]
    struct Part {
        cgroup: Cgroup,
    }
    let bytes = std::fs::read(dir.join(STATE_FILE)).ok()?;
    serde_json::from_slice(&bytes).ok().map(|part: Part| part.cgroup)
}

pub fn check_id(id: &str) -> Result<(), OciError> {
    let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'+' | b'-' | b'.');
    let is_id = (1..=ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(known) && !matches!(id, "." | "..");
    if is_id { Ok(()) } else { Err(OciError::BadId(id.to_owned())) }
}

fn missing(id: &str, error: OciError) -> OciError {
    match error {
        OciError::File { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            OciError::NoContainer(id.to_owned())
        }
        other => other,
    }
}

fn read(dir: &Path) -> Result<Record, OciError> {
    let path = dir.join(STATE_FILE);
    let bytes =
        std::fs::read(&path).map_err(|source| OciError::File { operation: "read", path: path.clone(), source })?;
    serde_json::from_slice(&bytes).map_err(|source| OciError::Json { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str) -> Record {
        Record {
            id: id.into(),
            bundle: "/b".into(),
            rootfs: "/b/rootfs".into(),
            annotations: HashMap::new(),
            created: String::new(),
            cgroup: Cgroup { unified: None, legacy: vec![], made: vec![] },
            init: None,
            started: false,
            waits_as: None,
            own_keyring: true,
        }
    }

    #[test]
    fn ids_are_no_paths() {
        for id in ["a", "A.b_c+d-1", "..."] {
            assert!(check_id(id).is_ok(), "{id}");
        }
        for id in ["", ".", "..", "a/b", "a b", "ä", "a\0", &"x".repeat(1025)] {
            assert!(check_id(id).is_err(), "{id}");
        }
    }

    #[test]
    fn a_container_is_there_once_until_it_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let entry = store.create(record("one")).unwrap();
        assert!(matches!(store.create(record("one")), Err(OciError::Exists(_))));
        assert_eq!(store.read("one").unwrap().1.status(), Status::Creating);
        assert_eq!(store.all().unwrap().len(), 1);
        entry.remove().unwrap();
        assert!(matches!(store.read("one"), Err(OciError::NoContainer(_))));
        assert!(matches!(store.lock("one"), Err(OciError::NoContainer(_))));
    }

    #[test]
    fn a_process_is_known_by_when_it_began() {
        let own = Init::of(std::process::id() as i32).unwrap();
        assert!(own.is_alive());
        assert!(!Init { began_ticks: own.began_ticks + 1, ..own }.is_alive());
        let mut with = record("one");
        with.init = Some(own);
        assert_eq!(with.status(), Status::Created);
        with.started = true;
        assert_eq!(with.status(), Status::Running);
        with.started = false;
        with.waits_as = Executable::of(own.pid);
        assert_eq!(with.status(), Status::Created);
        with.waits_as = Some(Executable { device: 0, inode: 0 });
        assert_eq!(with.status(), Status::Running, "a start could not say so");
        with.init = Some(Init { began_ticks: 0, ..own });
        assert_eq!(with.status(), Status::Stopped);
        assert!(matches!(with.alive(), Err(OciError::NotRunning { .. })));
    }
}
