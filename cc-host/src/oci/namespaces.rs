//! `linux.namespaces`: which are new, and which are joined by their path. Refuses a container without a mount namespace of its own: what is
//! mounted for it would be mounted for others.

use std::os::fd::OwnedFd;
use std::path::Path;

use nix::sched::CloneFlags;
use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType};
use rustix::fs::{Mode, OFlags};

use super::error::OciError;
use super::options::Mappings;
use crate::shim::init::other;
use crate::shim::protocol::StartFailure;

#[derive(Debug)]
pub struct Namespaces {
    /// But the cgroup namespace, which is made when the cgroup has been entered.
    pub new: CloneFlags,
    pub new_cgroup: bool,
    pub joined: Vec<Joined>,
    /// Of a user namespace that is new.
    pub mappings: Option<Mappings>,
    /// Lines of `timens_offsets`.
    pub time_offsets: String,
    listed: CloneFlags,
    /// Those of them that are others than this process's.
    had: CloneFlags,
}

/// Open, since the path is the host's.
#[derive(Debug)]
pub struct Joined {
    pub kind: CloneFlags,
    pub name: &'static str,
    pub file: OwnedFd,
}

impl Namespaces {
    pub fn parse(linux: Option<&Linux>) -> Result<Namespaces, OciError> {
        let mut all = Namespaces {
            new: CloneFlags::empty(),
            new_cgroup: false,
            joined: Vec::new(),
            mappings: None,
            time_offsets: String::new(),
            listed: CloneFlags::empty(),
            had: CloneFlags::empty(),
        };
        for given in linux.iter().flat_map(|linux| linux.namespaces().iter().flatten()) {
            let (kind, name) = kind(given.typ());
            if all.listed.contains(kind) {
                return Err(OciError::invalid("linux.namespaces", format!("{name} is there twice")));
            }
            all.listed |= kind;
            all.had |= kind;
            match given.path().as_deref().filter(|path| !path.as_os_str().is_empty()) {
                Some(path) => {
                    let joined = open(kind, name, path)?;
                    // One that is joined and is the host's still stays the host's.
                    all.had.set(kind, !is_own(&joined)?);
                    all.joined.push(joined);
                }
                None if kind == CloneFlags::CLONE_NEWCGROUP => all.new_cgroup = true,
                None => all.new |= kind,
            }
        }
        if !all.new.contains(CloneFlags::CLONE_NEWNS) {
            let why = "a container has a mount namespace of its own: in another, its mounts would be others'";
            return Err(OciError::unsupported("linux.namespaces (mount)", why));
        }
        all.map(linux)?;
        all.offset(linux)?;
        Ok(all)
    }

    /// Whether it is another than this process's.
    pub fn has(&self, kind: CloneFlags) -> bool {
        self.had.contains(kind)
    }

    /// Whether a process in between has to enter or make them, because they are only for what is cloned afterwards, or because what is
    /// joined has to be joined before there is a user namespace.
    pub fn needs_two_steps(&self) -> bool {
        let only_for_children = CloneFlags::CLONE_NEWPID | CloneFlags::from_bits_retain(libc::CLONE_NEWTIME);
        let new_user = self.new.contains(CloneFlags::CLONE_NEWUSER);
        self.joined.iter().any(|joined| {
            new_user || joined.kind == CloneFlags::CLONE_NEWUSER || only_for_children.contains(joined.kind)
        }) || self.new_time()
    }

    /// Its clocks are set before there is any process in it.
    pub fn new_time(&self) -> bool {
        self.new.bits() & libc::CLONE_NEWTIME != 0
    }

    /// Whoever is root here may join any; in a user namespace that is not so any more.
    pub fn join(&self) -> Result<(), StartFailure> {
        let is_user = |joined: &&Joined| joined.kind == CloneFlags::CLONE_NEWUSER;
        for joined in self.joined.iter().filter(|j| !is_user(j)).chain(self.joined.iter().filter(is_user)) {
            nix::sched::setns(&joined.file, joined.kind)
                .map_err(|e| other(&format!("join the {} namespace", joined.name), e.into_rustix()))?;
        }
        Ok(())
    }

    fn map(&mut self, linux: Option<&Linux>) -> Result<(), OciError> {
        let given = |mappings: Option<&Option<Vec<LinuxIdMapping>>>| {
            mappings.and_then(|given| given.clone()).filter(|given| !given.is_empty())
        };
        let uids = given(linux.map(Linux::uid_mappings));
        let gids = given(linux.map(Linux::gid_mappings));
        match (uids, gids, self.new.contains(CloneFlags::CLONE_NEWUSER)) {
            (None, None, false) => {}
            (Some(uids), Some(gids), true) => {
                check(&uids, "linux.uidMappings")?;
                check(&gids, "linux.gidMappings")?;
                self.mappings = Some(Mappings { uids, gids });
            }
            (_, _, true) => {
                let why = "a new user namespace needs uidMappings and gidMappings";
                return Err(OciError::invalid("linux.uidMappings", why));
            }
            _ => {
                let why = "they are for a new user namespace, which linux.namespaces does not ask for";
                return Err(OciError::invalid("linux.uidMappings", why));
            }
        }
        Ok(())
    }

    fn offset(&mut self, linux: Option<&Linux>) -> Result<(), OciError> {
        const FIELD: &str = "linux.timeOffsets";
        let Some(offsets) = linux.and_then(|linux| linux.time_offsets().as_ref()).filter(|given| !given.is_empty())
        else {
            return Ok(());
        };
        if !self.new_time() {
            return Err(OciError::invalid(FIELD, "they are for a new time namespace"));
        }
        for (clock, offset) in offsets {
            if !matches!(clock.as_str(), "monotonic" | "boottime") {
                return Err(OciError::invalid(FIELD, format!("{clock} is neither monotonic nor boottime")));
            }
            let (secs, nanos) = (offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
            self.time_offsets.push_str(&format!("{clock} {secs} {nanos}\n"));
        }
        Ok(())
    }
}

/// The container's root is somebody: the preparations are done by it.
fn check(mappings: &[LinuxIdMapping], field: &str) -> Result<(), OciError> {
    check_ranges(mappings, field)?;
    match mappings.iter().any(|one| one.container_id() == 0) {
        true => Ok(()),
        false => Err(OciError::invalid(field, "the container's id 0 is not mapped")),
    }
}

/// None holds the highest number, which is nobody's.
pub fn check_ranges(mappings: &[LinuxIdMapping], field: &str) -> Result<(), OciError> {
    let has_end = |one: &LinuxIdMapping| {
        one.container_id().checked_add(one.size()).is_some() && one.host_id().checked_add(one.size()).is_some()
    };
    if mappings.iter().any(|one| one.size() == 0 || !has_end(one)) {
        return Err(OciError::invalid(field, "a range is empty, or leaves what can be ids: 4294967294 is the highest"));
    }
    Ok(())
}

/// As the kernel's files of a user namespace want them.
pub fn map_text(mappings: &[LinuxIdMapping]) -> String {
    mappings.iter().map(|one| format!("{} {} {}\n", one.container_id(), one.host_id(), one.size())).collect()
}

/// Of a process that waits in a new user namespace.
pub fn write_maps(mappings: &Mappings, pid: i32) -> Result<(), OciError> {
    for (name, list) in [("uid_map", &mappings.uids), ("gid_map", &mappings.gids)] {
        crate::shim::launch::write_once(Path::new(&format!("/proc/{pid}/{name}")), &map_text(list)).map_err(
            |source| {
                OciError::step(
                    format!("map the container's ids ({name}, from linux.uidMappings and gidMappings)"),
                    source,
                )
            },
        )?;
    }
    Ok(())
}

fn open(kind: CloneFlags, name: &'static str, path: &Path) -> Result<Joined, OciError> {
    let field = format!("linux.namespaces ({name})");
    if kind == CloneFlags::CLONE_NEWNS {
        let why = "a mount namespace is not joined: its processes would see the container's mounts";
        return Err(OciError::unsupported(field, why));
    }
    if !path.is_absolute() {
        return Err(OciError::invalid(field, format!("{} is not an absolute path", path.display())));
    }
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())
        .map_err(|e| OciError::File { operation: "open the namespace", path: path.into(), source: e.into() })?;
    const NSFS: u64 = 0x6e73_6673;
    if rustix::fs::fstatfs(&file).map_or(true, |found| found.f_type as u64 != NSFS) {
        return Err(OciError::invalid(field, format!("{} is no namespace", path.display())));
    }
    Ok(Joined { kind, name, file })
}

/// Whether it is this process's own, by whatever path.
fn is_own(joined: &Joined) -> Result<bool, OciError> {
    let file = if joined.name == "network" { "net" } else { joined.name };
    let path = format!("/proc/self/ns/{file}");
    let failed =
        |e: rustix::io::Errno| OciError::File { operation: "look at", path: path.clone().into(), source: e.into() };
    let own = rustix::fs::stat(path.as_str()).map_err(failed)?;
    let theirs = rustix::fs::fstat(&joined.file).map_err(failed)?;
    Ok((own.st_dev, own.st_ino) == (theirs.st_dev, theirs.st_ino))
}

fn kind(given: LinuxNamespaceType) -> (CloneFlags, &'static str) {
    match given {
        LinuxNamespaceType::Mount => (CloneFlags::CLONE_NEWNS, "mount"),
        LinuxNamespaceType::Cgroup => (CloneFlags::CLONE_NEWCGROUP, "cgroup"),
        LinuxNamespaceType::Uts => (CloneFlags::CLONE_NEWUTS, "uts"),
        LinuxNamespaceType::Ipc => (CloneFlags::CLONE_NEWIPC, "ipc"),
        LinuxNamespaceType::User => (CloneFlags::CLONE_NEWUSER, "user"),
        LinuxNamespaceType::Pid => (CloneFlags::CLONE_NEWPID, "pid"),
        LinuxNamespaceType::Network => (CloneFlags::CLONE_NEWNET, "network"),
        LinuxNamespaceType::Time => (CloneFlags::from_bits_retain(libc::CLONE_NEWTIME), "time"),
    }
}

/// One crate's error number as the other's.
pub trait IntoRustix {
    fn into_rustix(self) -> rustix::io::Errno;
}

impl IntoRustix for nix::errno::Errno {
    fn into_rustix(self) -> rustix::io::Errno {
        rustix::io::Errno::from_raw_os_error(self as i32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Namespaces, OciError> {
        let linux: Linux = serde_json::from_str(text).unwrap();
        Namespaces::parse(Some(&linux))
    }

    #[test]
    fn new_and_joined_are_told_apart() {
        let all = parse(
            r#"{"namespaces":[{"type":"mount"},{"type":"cgroup"},{"type":"network","path":"/proc/self/ns/net"}]}"#,
        )
        .unwrap();
        assert_eq!(all.new, CloneFlags::CLONE_NEWNS);
        assert!(all.new_cgroup && all.joined.len() == 1 && !all.has(CloneFlags::CLONE_NEWPID));
        // By its path it is joined, and it is the host's still.
        assert!(!all.has(CloneFlags::CLONE_NEWNET) && all.has(CloneFlags::CLONE_NEWNS));
        assert!(!all.needs_two_steps());
        let all = parse(r#"{"namespaces":[{"type":"mount"},{"type":"pid","path":"/proc/self/ns/pid"}]}"#).unwrap();
        assert!(all.needs_two_steps());
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for text in [
            "{}",
            r#"{"namespaces":[{"type":"mount","path":"/proc/self/ns/mnt"}]}"#,
            r#"{"namespaces":[{"type":"mount"},{"type":"mount"}]}"#,
            r#"{"namespaces":[{"type":"mount"},{"type":"ipc","path":"proc/self/ns/ipc"}]}"#,
            r#"{"namespaces":[{"type":"mount"},{"type":"ipc","path":"/dev/null"}]}"#,
            r#"{"namespaces":[{"type":"mount"},{"type":"user"}]}"#,
            r#"{"namespaces":[{"type":"mount"}],"uidMappings":[{"hostID":1,"containerID":0,"size":1}]}"#,
            r#"{"namespaces":[{"type":"mount"},{"type":"user"}],"uidMappings":[{"hostID":1,"containerID":1,"size":1}],"gidMappings":[{"hostID":1,"containerID":0,"size":1}]}"#,
            r#"{"namespaces":[{"type":"mount"},{"type":"user"}],"uidMappings":[{"hostID":4294967295,"containerID":0,"size":1}],"gidMappings":[{"hostID":1,"containerID":0,"size":1}]}"#,
            r#"{"namespaces":[{"type":"mount"},{"type":"user"}],"uidMappings":[{"hostID":1,"containerID":0,"size":1}],"gidMappings":[{"hostID":2,"containerID":0,"size":4294967294}]}"#,
            r#"{"namespaces":[{"type":"mount"}],"timeOffsets":{"monotonic":{"secs":1}}}"#,
            r#"{"namespaces":[{"type":"mount"},{"type":"time"}],"timeOffsets":{"realtime":{"secs":1}}}"#,
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
