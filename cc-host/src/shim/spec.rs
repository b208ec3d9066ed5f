//! What a shim has to run, as the daemon writes it into `spec.json`. Refuses to hold secrets of the daemon or anything
//! that the shim could look up itself.

use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::filter::{Filter, INSTRUCTIONS_MAX};
use super::terminal::Size;

pub const SPEC_VERSION: u32 = 1;
pub const SPEC_FILE: &str = "spec.json";
/// A specification is arguments and environment, which the kernel limits to 6 MiB, and little else.
pub const SPEC_BYTES_MAX: u64 = 8 << 20;
/// The kernel passes at most 253 descriptors in one message; the rest of them are for the root and the devices.
pub const BINDS_MAX: usize = 200;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    pub version: u32,
    /// The container's id; only for messages and logs.
    pub id: String,
    pub hostname: String,
    /// Program and arguments; never empty.
    pub args: Vec<String>,
    /// `KEY=VALUE`. PATH, HOME and HOSTNAME are added where they are missing.
    pub env: Vec<String>,
    /// Created where it is missing. Empty means `/`.
    pub cwd: String,
    /// `name`, `uid`, `name:group`, `uid:gid`; empty means root.
    pub user: String,
    /// First host id of the container's range, for uids and gids.
    pub id_base: u32,
    pub id_count: u32,
    /// Its users are the host's: there is no user namespace, and `id_base` is 0.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub host_users: bool,
    pub rootfs: Rootfs,
    pub binds: Vec<Bind>,
    /// The container's directory in the v2 hierarchy: init is born in it.
    pub cgroup_v2: PathBuf,
    /// The shim's own, so that it stays when the daemon's is ended; without one it stays where the daemon is.
    #[serde(default)]
    pub cgroup_shim: Option<PathBuf>,
    /// `tasks` files of v1 hierarchies; empty where all controllers are on v2.
    pub cgroup_tasks: Vec<PathBuf>,
    /// Keep a pipe for standard input; otherwise it is the container's /dev/null.
    pub stdin: bool,
    /// In a terminal of this size, instead of pipes.
    #[serde(default)]
    pub terminal: Option<Size>,
    pub log: Option<LogSpec>,
    /// Clamped to what the shim itself is allowed; the last of equal names.
    pub rlimits: Vec<RlimitSpec>,
    /// The root cannot be written; what is mounted on it can.
    #[serde(default)]
    pub read_only: bool,
    #[serde(default)]
    pub tmpfs: Vec<TmpfsSpec>,
    /// As bits; without them docker's default.
    #[serde(default)]
    pub capabilities: Option<u64>,
    /// Of its programs' system calls; without one, none is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seccomp: Option<Filter>,
    /// Its first process is ours, and the program a child of that.
    #[serde(default)]
    pub init: bool,
    /// Of the host, beside those that everybody has.
    #[serde(default)]
    pub devices: Vec<DeviceSpec>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rootfs {
    /// Unpacked layers, lowest first; owned by host ids 0 to 65535 and never written.
    pub layers: Vec<PathBuf>,
    /// The writable layer: a plain directory, which the shim gives to the container's range.
    pub upper: PathBuf,
    /// Overlayfs' own directory, on the file system of `upper`.
    pub work: PathBuf,
    /// Skip syncs: for containers whose writable layer need not survive a power loss.
    pub volatile: bool,
}

/// A file or directory of the host, shown inside the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bind {
    pub source: PathBuf,
    /// Absolute, inside the container.
    pub target: String,
    pub readonly: bool,
    /// Show the host's ids from 0 as the container's. Not for a source that belongs to the container's range already.
    #[serde(default = "mapped")]
    pub idmap: bool,
}

fn mapped() -> bool {
    true
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogSpec {
    /// The file being written; rotated ones have `.1`, `.2` … behind it.
    pub path: PathBuf,
    pub bytes_max: u64,
    /// With the one being written; at least one.
    pub files_max: u32,
    #[serde(default)]
    pub mode: LogMode,
}

/// Who waits for a disk that is slow. A full one nobody waits for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogMode {
    /// The container, until its output is written.
    #[default]
    Block,
    /// Nobody: what cannot be taken at once is dropped and counted.
    Drop,
}

impl LogSpec {
    /// 10 MiB, three files.
    pub fn new(path: PathBuf) -> Self {
        LogSpec { path, bytes_max: 10 << 20, files_max: 3, mode: LogMode::Block }
    }
}

/// A file system in memory, charged to the container's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TmpfsSpec {
    /// Absolute, inside the container; made where it is missing.
    pub target: String,
    pub size_bytes: u64,
    pub mode: u32,
}

/// A device of the host, by the number that its node has when the container is started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceSpec {
    pub source: PathBuf,
    /// Absolute, inside the container; made where it is missing.
    pub target: String,
    pub read: bool,
    pub write: bool,
}

impl std::fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let access = format!("{}{}", if self.read { "r" } else { "" }, if self.write { "w" } else { "" });
        write!(f, "{}:{}:{access}", self.source.display(), self.target)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RlimitSpec {
    pub resource: RlimitKind,
    pub soft: u64,
    pub hard: u64,
}

impl std::fmt::Display for RlimitSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |value: u64| if value == u64::MAX { "unlimited".to_owned() } else { value.to_string() };
        let name = format!("{:?}", self.resource).to_lowercase();
        write!(f, "{name}={}:{}", text(self.soft), text(self.hard))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RlimitKind {
    Core,
    Cpu,
    Data,
    Fsize,
    Memlock,
    Nofile,
    Nproc,
    Stack,
}

#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("cannot write {path}")]
    Write { path: PathBuf, source: std::io::Error },
    #[error("{path} is larger than {SPEC_BYTES_MAX} bytes")]
    TooLarge { path: PathBuf },
    #[error("{path} is not a specification")]
    Parse { path: PathBuf, source: serde_json::Error },
    #[error("the specification is not valid: {0}")]
    Invalid(&'static str),
}

impl Spec {
    pub fn load(path: &Path) -> Result<Self, SpecError> {
        let spec: Spec = read_json(path)?;
        spec.check()?;
        Ok(spec)
    }

    /// From a file that is open, in a process that may not be able to open it.
    pub fn read(file: std::fs::File) -> Result<Self, SpecError> {
        let spec: Spec = parse(file, Path::new(SPEC_FILE))?;
        spec.check()?;
        Ok(spec)
    }

    /// Readable by its owner only: the environment may hold what nobody else should see.
    pub fn store(&self, path: &Path) -> Result<(), SpecError> {
        self.check()?;
        write_json(path, self)
    }

    /// What the shim and init rely on without looking again.
    pub fn check(&self) -> Result<(), SpecError> {
        let bad = |why| Err(SpecError::Invalid(why));
        let has_nul = |text: &str| text.contains('\0');
        if self.version != SPEC_VERSION {
            return bad("its version is not this shim's");
        }
        if self.args.first().is_none_or(String::is_empty) {
            return bad("it names no program");
        }
        if self.args.iter().chain(&self.env).any(|text| has_nul(text)) || has_nul(&self.cwd) {
            return bad("an argument, a variable or the directory holds a NUL");
        }
        if !self.cwd.is_empty() && !self.cwd.starts_with('/') {
            return bad("the working directory is not absolute");
        }
        self.place().check()?;
        if self.rootfs.layers.is_empty() {
            return bad("it has no layer");
        }
        if self.binds.len() > BINDS_MAX {
            return bad("it has too many bind mounts");
        }
        if self.tmpfs.iter().any(|one| !one.target.starts_with('/') || has_nul(&one.target)) {
            return bad("the target of a temporary file system is not an absolute path");
        }
        if self.devices.iter().any(|device| !device.target.starts_with('/') || has_nul(&device.target)) {
            return bad("the target of a device is not an absolute path");
        }
        if self.binds.iter().any(|bind| !bind.target.starts_with('/') || has_nul(&bind.target)) {
            return bad("the target of a bind mount is not an absolute path");
        }
        if self.seccomp.as_ref().is_some_and(|filter| !(1..=INSTRUCTIONS_MAX).contains(&filter.program.len())) {
            return bad("the filter of its system calls has no instruction, or more than the kernel takes");
        }
        Ok(())
    }
}

pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, SpecError> {
    parse(std::fs::File::open(path).map_err(|source| SpecError::Read { path: path.into(), source })?, path)
}

fn parse<T: DeserializeOwned>(file: std::fs::File, path: &Path) -> Result<T, SpecError> {
    let mut bytes = Vec::new();
    let read = file.take(SPEC_BYTES_MAX + 1).read_to_end(&mut bytes);
    read.map_err(|source| SpecError::Read { path: path.into(), source })?;
    if bytes.len() as u64 > SPEC_BYTES_MAX {
        return Err(SpecError::TooLarge { path: path.into() });
    }
    serde_json::from_slice(&bytes).map_err(|source| SpecError::Parse { path: path.into(), source })
}

pub(super) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), SpecError> {
    let write = || {
        let bytes = serde_json::to_vec(value)?;
        let _ = std::fs::remove_file(path);
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(&bytes)
    };
    write().map_err(|source| SpecError::Write { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> Spec {
        Spec {
            version: SPEC_VERSION,
            id: "0123456789abcdef".into(),
            hostname: "web".into(),
            args: vec!["true".into()],
            env: vec![],
            cwd: String::new(),
            user: String::new(),
            id_base: 0x1000_0000,
            id_count: 65_536,
            host_users: false,
            rootfs: Rootfs { layers: vec!["/l".into()], upper: "/u".into(), work: "/w".into(), volatile: true },
            binds: vec![],
            cgroup_v2: "/c".into(),
            cgroup_shim: None,
            cgroup_tasks: vec![],
            stdin: false,
            terminal: None,
            log: None,
            rlimits: vec![],
            read_only: false,
            tmpfs: vec![],
            capabilities: None,
            seccomp: None,
            init: false,
            devices: vec![],
        }
    }

    #[test]
    fn a_stored_spec_loads_back_and_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SPEC_FILE);
        spec().store(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Spec::load(&path).unwrap(), spec());
    }

    #[test]
    fn what_init_relies_on_is_checked_at_the_door() {
        type Spoil = fn(&mut Spec);
        let spoilers: [Spoil; 11] = [
            |s| s.version = 2,
            |s| s.args.clear(),
            |s| s.args[0].clear(),
            |s| s.env.push("A=\0".into()),
            |s| s.cwd = "tmp".into(),
            |s| s.id_base = 0,
            |s| s.host_users = true,
            |s| s.id_base = u32::MAX,
            |s| s.rootfs.layers.clear(),
            |s| s.binds.push(Bind { source: "/a".into(), target: "a".into(), readonly: true, idmap: true }),
            |s| s.seccomp = Some(Filter::default()),
        ];
        assert!(spec().check().is_ok());
        for (index, spoil) in spoilers.iter().enumerate() {
            let mut bad = spec();
            spoil(&mut bad);
            assert!(matches!(bad.check(), Err(SpecError::Invalid(_))), "spoiler {index}");
        }
    }

    #[test]
    fn a_log_from_before_there_were_modes_blocks() {
        let old = r#"{"path":"/l","bytes_max":10485760,"files_max":3}"#;
        assert_eq!(serde_json::from_str::<LogSpec>(old).unwrap(), LogSpec::new("/l".into()));
    }

    #[test]
    fn an_unknown_field_is_refused() {
        let mut value = serde_json::to_value(spec()).unwrap();
        value["privileged"] = true.into();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SPEC_FILE);
        std::fs::write(&path, value.to_string()).unwrap();
        assert!(matches!(Spec::load(&path), Err(SpecError::Parse { .. })));
    }
}
