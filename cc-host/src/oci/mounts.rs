//! The mounts of a config.json: what is the host's is cloned outside, by whoever may, and attached inside by descriptor; file systems are made
//! inside, in the container's namespaces. Targets are found in the container's root alone. Refuses to mount over what is in a procfs.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, open_tree,
};

use super::cgroup::Cgroup;
use super::cgroup_mount::{self, Hierarchy};
use super::config::Config;
use super::copy_up;
use super::error::OciError;
use super::options::{IdMap, Kind, Mappings, Plan, Propagation};
use super::userns;
use crate::inside;
use crate::shim::mounts::{explained, mount_failure};
use crate::shim::protocol::StartFailure;
use crate::shim::rootfs::{attach_at, directory, file, is_directory, open_in};
use crate::shim::sys::{Attributes, change_mount};

const PROC: u64 = 0x9fa0;
/// Single files of a procfs that may be covered, as lxcfs does it to show a container its own figures.
const PROC_FILES: [&str; 11] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/net/dev",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];
const PRIVATE: Propagation = Propagation { flag: libc::MS_PRIVATE, recursive: true };

/// What was cloned outside, in the order of the mounts.
pub struct Prepared {
    pub root: OwnedFd,
    mounts: Vec<Source>,
}

enum Source {
    Clone(OwnedFd),
    Cgroup(Vec<Hierarchy>),
    /// A file system that is made inside.
    New,
}

pub fn prepare(config: &Config, cgroup: &Cgroup) -> Result<Prepared, OciError> {
    let root = clone_tree(&config.rootfs, true)?;
    let flag = match config.propagation.flag {
        // What is mounted on the host under the root comes in; nothing goes out.
        libc::MS_SLAVE | libc::MS_SHARED => libc::MS_SLAVE,
        _ => libc::MS_PRIVATE,
    };
    let propagation = Attributes { propagation: flag, ..Attributes::default() };
    change_mount(root.as_fd(), propagation, None, true).map_err(|e| OciError::step("prepare the root's mount", e))?;
    let source = |plan: &Plan| match &plan.kind {
        Kind::Bind { source, recursive } => bind(plan, source, *recursive, config).map(Source::Clone),
        Kind::Cgroup => cgroup_mount::prepare(cgroup).map(Source::Cgroup),
        Kind::Filesystem { .. } => Ok(Source::New),
    };
    Ok(Prepared { root, mounts: config.mounts.iter().map(source).collect::<Result<_, _>>()? })
}

fn clone_tree(path: &Path, recursive: bool) -> Result<OwnedFd, OciError> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(rustix::fs::CWD, path, flags).map_err(|e| OciError::File {
        operation: "clone the mount of",
        path: path.into(),
        source: e.into(),
    })
}

fn bind(plan: &Plan, source: &Path, recursive: bool, config: &Config) -> Result<OwnedFd, OciError> {
    // A relative one is the bundle's.
    let source = config.bundle.join(source);
    let mount = clone_tree(&source, recursive)?;
    let failed = |e| OciError::step(format!("prepare the mount of {}", source.display()), e);
    if let Some(IdMap { recursive, own }) = &plan.idmap {
        let mappings: Option<&Mappings> = own.as_ref().or(config.namespaces.mappings.as_ref());
        let why = "it has no mappings of its own, and the container has no new user namespace";
        let field = || format!("mounts ({}) idmap", plan.target);
        let mappings = mappings.ok_or_else(|| OciError::invalid(field(), why))?;
        let userns = userns::of(mappings)?;
        change_mount(mount.as_fd(), Attributes::default(), Some(userns.as_fd()), *recursive).map_err(failed)?;
    }
    apply(mount.as_fd(), plan, true).map_err(failed)?;
    Ok(mount)
}

/// Nothing that is mounted on the host later comes in by itself, nor goes out, unless that is asked for.
fn apply(mount: BorrowedFd<'_>, plan: &Plan, is_bind: bool) -> std::io::Result<()> {
    let Propagation { flag, recursive } = plan.propagation.unwrap_or(PRIVATE);
    if is_bind || plan.propagation.is_some() {
        change_mount(mount, Attributes { propagation: flag, ..Attributes::default() }, None, recursive)?;
    }
    for (attributes, recursive) in [(plan.recursive, true), (plan.attributes, false)] {
        if attributes != Attributes::default() {
            change_mount(mount, attributes, None, recursive)?;
        }
    }
    Ok(())
}

/// Mounts by their numbers, of which what lies there is the container's alone: its root, and each tmpfs that was made for it.
pub struct Own {
    mounts: Vec<u64>,
    /// Each tmpfs that is to be read-only when all is in it.
    unsealed: Vec<OwnedFd>,
}

impl Own {
    pub fn has(&self, place: &OwnedFd) -> Result<bool, StartFailure> {
        Ok(self.mounts.contains(&mount_id(place)?))
    }

    /// From here on nobody writes to what is to be read-only.
    pub fn seal(self) -> Result<(), StartFailure> {
        let read_only = Attributes { set: libc::MOUNT_ATTR_RDONLY, ..Attributes::default() };
        self.unsealed.iter().try_for_each(|mount| {
            change_mount(mount.as_fd(), read_only, None, false).map_err(|e| mount_failure("make a tmpfs read-only", e))
        })
    }

    /// Links in the image may lead it to anything that was mounted.
    pub fn has_dev(&self, root: &OwnedFd) -> Result<bool, StartFailure> {
        match existing(root, "/dev")? {
            Some((dev, _)) => self.has(&dev),
            None => Ok(true),
        }
    }
}

pub fn mount_id(place: &OwnedFd) -> Result<u64, StartFailure> {
    let asked = rustix::fs::statx(place, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID);
    asked.map(|found| found.stx_mnt_id).map_err(|e| mount_failure("ask for a mount's number", e.into()))
}

/// Inside, while the host's mounts are still there: the root where the bundle has it, with everything in it. Hooks find it there.
pub fn attach(config: &Config, prepared: &Prepared) -> Result<Own, StartFailure> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(|e| mount_failure("make mounts private", e.into()))?;
    // The kernel shows a user namespace no more of /proc and /sys than it sees already: these are made before anything is covered.
    let mut made = Vec::with_capacity(config.mounts.len());
    for (plan, source) in config.mounts.iter().zip(&prepared.mounts) {
        made.push(match (&plan.kind, source) {
            (Kind::Filesystem { name, source }, _) => Some(filesystem(plan, name, source)?),
            _ => None,
        });
    }
    place_root(config, &prepared.root)?;
    for ((plan, source), made) in config.mounts.iter().zip(&prepared.mounts).zip(&made) {
        match (source, made) {
            (Source::Clone(mount), _) | (_, Some(mount)) => one(&prepared.root, plan, mount)?,
            (Source::Cgroup(hierarchies), _) => {
                let target = directory(&prepared.root, &plan.target)?;
                check_target(plan, &target)?;
                cgroup_mount::attach(plan, hierarchies, &target)?;
            }
            (Source::New, None) => {}
        }
    }
    // Attached, each has the number that it keeps.
    let mut own = Own { mounts: vec![mount_id(&prepared.root)?], unsealed: Vec::new() };
    for (plan, made) in config.mounts.iter().zip(made) {
        if let (Kind::Filesystem { name, .. }, Some(mount)) = (&plan.kind, made)
            && name == "tmpfs"
        {
            own.mounts.push(mount_id(&mount)?);
            own.unsealed.extend(is_sealed_later(plan).then_some(mount));
        }
    }
    Ok(own)
}

/// Where the bundle has it; where the container's root may not go there, over everything.
fn place_root(config: &Config, root: &OwnedFd) -> Result<(), StartFailure> {
    use rustix::mount::MoveMountFlags;
    let onto = |path: &Path| move_mount(root, "", rustix::fs::CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH);
    onto(&config.rootfs).or_else(|_| onto(Path::new("/"))).map_err(|e| mount_failure("attach the root", e.into()))
}

fn one(root: &OwnedFd, plan: &Plan, mount: &OwnedFd) -> Result<(), StartFailure> {
    let strict = matches!(&plan.kind, Kind::Filesystem { name, .. } if matches!(name.as_str(), "proc" | "sysfs"));
    let target = match is_directory(mount)? {
        // A link there would have it elsewhere, and the path unprotected.
        true if strict => strict_directory(root, &plan.target)?,
        true => directory(root, &plan.target)?,
        false => file(root, &plan.target)?,
    };
    check_target(plan, &target)?;
    if plan.copy_up {
        copy_up::copy(&target, mount)?;
    }
    attach_at(mount, &target, &plan.target)
}

fn strict_directory(root: &OwnedFd, path: &str) -> Result<OwnedFd, StartFailure> {
    let relative = path.trim_matches('/');
    let mut dir = open_in(root, ".", OFlags::DIRECTORY)?;
    for part in relative.split('/').filter(|part| !matches!(*part, "" | ".")) {
        match rustix::fs::mkdirat(&dir, part, Mode::from(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(e) => return Err(mount_failure(&format!("make {path} in the container"), e.into())),
        }
        dir = open_in(&dir, part, OFlags::DIRECTORY)?;
    }
    Ok(dir)
}

/// What lies in a procfs tells the kernel, and others, what a process is.
fn check_target(plan: &Plan, target: &OwnedFd) -> Result<(), StartFailure> {
    let failed = |e: rustix::io::Errno| mount_failure(&format!("look at {}", plan.target), e.into());
    let on_proc = rustix::fs::fstatfs(target).map_err(failed)?.f_type as u64 == PROC;
    let covers_itself = matches!(&plan.kind, Kind::Filesystem { name, .. } if name == "proc");
    if on_proc && !covers_itself && !PROC_FILES.contains(&plan.target.trim_end_matches('/')) {
        let why = std::io::Error::other("it lies in a procfs");
        return Err(mount_failure(&format!("mount over {}", plan.target), why));
    }
    Ok(())
}

/// A tmpfs is empty: devices, what is copied into it and places for other mounts have to be made first.
fn is_sealed_later(plan: &Plan) -> bool {
    let is_tmpfs = matches!(&plan.kind, Kind::Filesystem { name, .. } if name == "tmpfs");
    is_tmpfs && (plan.attributes.set | plan.recursive.set) & libc::MOUNT_ATTR_RDONLY != 0
}

fn filesystem(plan: &Plan, name: &str, source: &str) -> Result<OwnedFd, StartFailure> {
    let failed = |e: rustix::io::Errno| mount_failure(&format!("mount a new {name} for {}", plan.target), e.into());
    let context = fsopen(name, FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed)?;
    let step = |e| explained(&context, &format!("mount a new {name} for {}", plan.target), e);
    if !source.is_empty() {
        fsconfig_set_string(&context, "source", source).map_err(step)?;
    }
    for (key, value) in &plan.data {
        match value {
            Some(value) => fsconfig_set_string(&context, key.as_str(), value.as_str()),
            None => fsconfig_set_flag(&context, key.as_str()),
        }
        .map_err(|e| explained(&context, &format!("mount {name} for {} with option {key}", plan.target), e))?;
    }
    fsconfig_create(&context).map_err(step)?;
    let mut early = plan.clone();
    if is_sealed_later(plan) {
        early.attributes.set &= !libc::MOUNT_ATTR_RDONLY;
        early.recursive.set &= !libc::MOUNT_ATTR_RDONLY;
    }
    let plan = &early;
    // From the beginning: in a user namespace they may be what is asked for.
    let attributes = MountAttrFlags::from_bits_retain((plan.attributes.set | plan.recursive.set) as u32);
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(step)?;
    apply(mount.as_fd(), plan, false).map_err(|e| mount_failure(&format!("set the options of {}", plan.target), e))?;
    Ok(mount)
}

/// An open file or directory inside, if it is there, wherever links of the container's own lead.
pub fn existing(root: &OwnedFd, path: &str) -> Result<Option<(OwnedFd, bool)>, StartFailure> {
    let flags = OFlags::PATH;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let failed = |e: rustix::io::Errno| mount_failure(&format!("open {path} in the container"), e.into());
    match inside::open(root, path, flags, Mode::empty(), resolve) {
        Ok(found) => {
            let mode = rustix::fs::fstat(&found).map_err(failed)?.st_mode;
            Ok(Some((found, FileType::from_raw_mode(mode) == FileType::Directory)))
        }
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
        Err(e) => Err(failed(e)),
    }
}
