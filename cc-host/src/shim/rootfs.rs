//! Inside the container: makes the prepared root the only file system there is, and mounts what a Linux program expects in
//! it. Targets are found by `openat2` inside the new root, so a link in an image leads nowhere else. Refuses host paths.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, mkdirat, symlinkat, unlinkat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, open_tree,
    unmount,
};
use rustix::process::{fchdir, pivot_root};

use super::masks;
use super::mounts::{DEVICES, mount_failure};
use super::protocol::{FailureKind, StartFailure};
use super::spec::{Bind, DeviceSpec, TmpfsSpec};
use super::sys::mount_setattr;
use crate::inside;
use crate::mutation::{self, Control};

const STRICT: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV).union(MountAttrFlags::MOUNT_ATTR_NOEXEC);
const READ_ONLY: MountAttrFlags = STRICT.union(MountAttrFlags::MOUNT_ATTR_RDONLY);

/// procfs, sysfs and cgroup2, by the numbers of `statfs`.
const KERNELS: [rustix::fs::FsWord; 3] = [0x9FA0, 0x6265_6572, 0x6367_7270];

/// In a /dev of our own, while nobody else is there.
const NODES: &str = "/dev/.nodes";

const DEV_LINKS: [(&str, &str); 6] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
    ("/proc/kcore", "core"),
];

/// Kernel file systems must be made while the host's own are still visible: the kernel grants a user namespace no more of
/// /proc and /sys than it can already see.
pub struct KernelMounts {
    pub proc: OwnedFd,
    pub sys: OwnedFd,
    cgroup: OwnedFd,
    /// /dev and what is on it: they could be made later, but need not.
    dev: OwnedFd,
    on_dev: [(&'static str, OwnedFd); 3],
}

impl KernelMounts {
    pub fn create() -> Result<Self, StartFailure> {
        let (nosuid, noexec) = (MountAttrFlags::MOUNT_ATTR_NOSUID, MountAttrFlags::MOUNT_ATTR_NOEXEC);
        let pts_options = [("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")];
        Ok(KernelMounts {
            proc: filesystem("proc", &[], STRICT)?,
            sys: filesystem("sysfs", &[], READ_ONLY)?,
            cgroup: filesystem(
                "cgroup2",
                &[],
                if mutation::off(Control::CgroupReadOnly) { STRICT } else { READ_ONLY },
            )?,
            dev: filesystem("tmpfs", &[("mode", "755"), ("size", "65536k")], nosuid | noexec)?,
            on_dev: [
                ("pts", filesystem("devpts", &pts_options, nosuid | noexec)?),
                ("shm", filesystem("tmpfs", &[("mode", "1777"), ("size", "65536k")], STRICT)?),
                ("mqueue", filesystem("mqueue", &[], STRICT)?),
            ],
        })
    }
}

/// Lets go of everything that is mounted on the host, whose file systems must not be kept from being unmounted: an empty root, until
/// there is another one. After `KernelMounts::create`.
pub fn leave_host() -> Result<(), StartFailure> {
    enter(&filesystem("tmpfs", &[("mode", "755"), ("size", "4k")], STRICT)?)
}

/// Makes `root` the root of this mount namespace; nothing of the old one stays reachable.
pub fn enter(root: &OwnedFd) -> Result<(), StartFailure> {
    let at = |step: &'static str| move |source: rustix::io::Errno| mount_failure(step, source.into());
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(at("make mounts private"))?;
    // Over the old root: the one place that every host has, and no path of it has to be reachable for the container's root.
    let onto_root = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(root, "", CWD, "/", onto_root).map_err(at("attach the root"))?;
    pivot(root)
}

/// The same with a root that is attached somewhere already.
pub fn pivot(root: &OwnedFd) -> Result<(), StartFailure> {
    let at = |step: &'static str| move |source: rustix::io::Errno| mount_failure(step, source.into());
    fchdir(root).map_err(at("enter the root"))?;
    pivot_root(".", ".").map_err(at("pivot into the root"))?;
    // The old root now lies on top of the new one.
    if !mutation::off(Control::OldRootDetached) {
        unmount(".", UnmountFlags::DETACH).map_err(at("detach the host's root"))?;
    }
    rustix::process::chdir("/").map_err(at("enter the root"))
}

/// After `enter`. Without nodes of the host's, it makes its own.
pub fn furnish(
    root: &OwnedFd,
    kernel: &KernelMounts,
    devices: &[OwnedFd],
    binds: &[(Bind, OwnedFd)],
) -> Result<(), StartFailure> {
    probe_writable(root)?;
    attach(&kernel.proc, root, "/proc")?;
    attach(&kernel.sys, root, "/sys")?;
    attach_at(&kernel.cgroup, &open_in(&kernel.sys, "fs/cgroup", OFlags::DIRECTORY)?, "/sys/fs/cgroup")?;
    dev(kernel, root, devices)?;
    for (bind, mount) in binds {
        let target = match is_directory(mount)? {
            true => directory(root, &bind.target)?,
            false => file(root, &bind.target)?,
        };
        refuse_kernels(&target, &bind.target)?;
        attach_at(mount, &target, &bind.target)?;
    }
    masks::apply(kernel)
}

/// After `furnish`.
pub fn temporary(root: &OwnedFd, all: &[TmpfsSpec]) -> Result<(), StartFailure> {
    for TmpfsSpec { target, size_bytes, mode } in all {
        let (size, mode) = (size_bytes.to_string(), format!("{mode:o}"));
        let mount = filesystem("tmpfs", &[("mode", &mode), ("size", &size)], STRICT)?;
        attach_at(&mount, &directory(root, target)?, target)?;
    }
    Ok(())
}

/// After `temporary`. Not every kernel clones of a mount that is nowhere: they are somewhere for as long as that takes.
pub fn devices(root: &OwnedFd, nodes: &OwnedFd, all: &[DeviceSpec]) -> Result<(), StartFailure> {
    let at = |step: &'static str| move |source: rustix::io::Errno| mount_failure(step, source.into());
    attach_at(nodes, &directory(root, NODES)?, NODES)?;
    for (index, DeviceSpec { target, .. }) in all.iter().enumerate() {
        let node = open_in(nodes, &index.to_string(), OFlags::NOFOLLOW)?;
        attach_at(&clone_of(node.as_fd(), false)?, &file(root, target)?, target)?;
    }
    unmount(NODES, UnmountFlags::DETACH).map_err(at("detach the nodes of devices"))?;
    rustix::fs::unlinkat(root, NODES.trim_start_matches('/'), AtFlags::REMOVEDIR)
        .map_err(at("remove the place of devices' nodes"))
}

/// From here on nobody writes to the root itself.
pub fn seal(root: &OwnedFd) -> Result<(), StartFailure> {
    mount_setattr(root.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY.bits().into(), None, false)
        .map_err(|source| mount_failure("make the root read-only", source))
}

fn dev(kernel: &KernelMounts, root: &OwnedFd, devices: &[OwnedFd]) -> Result<(), StartFailure> {
    let tmpfs = &kernel.dev;
    attach(tmpfs, root, "/dev")?;
    let at = |name: &str, source: rustix::io::Errno| mount_failure(&format!("make /dev/{name}"), source.into());
    if devices.is_empty() {
        for (name, (major, minor)) in DEVICES {
            let number = rustix::fs::makedev(major, minor);
            rustix::fs::mknodat(tmpfs, name, FileType::CharacterDevice, Mode::from(0o666), number)
                .map_err(|e| at(name, e))?;
        }
    }
    for ((name, _), device) in DEVICES.iter().zip(devices) {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let target = rustix::fs::openat(tmpfs, *name, flags, Mode::from(0o666)).map_err(|e| at(name, e))?;
        attach_at(device, &target, name)?;
    }
    for (target, name) in DEV_LINKS {
        symlinkat(target, tmpfs, name).map_err(|e| at(name, e))?;
    }
    for (name, mount) in &kernel.on_dev {
        mkdirat(tmpfs, *name, Mode::from(0o755)).map_err(|e| at(name, e))?;
        attach_at(mount, &open_in(tmpfs, name, OFlags::DIRECTORY)?, name)?;
    }
    Ok(())
}

/// A new, detached instance of a file system.
pub fn filesystem(kind: &str, options: &[(&str, &str)], attributes: MountAttrFlags) -> Result<OwnedFd, StartFailure> {
    let make = || {
        let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
        for (key, value) in options {
            fsconfig_set_string(&context, *key, *value)?;
        }
        if attributes.contains(MountAttrFlags::MOUNT_ATTR_RDONLY) && kind == "tmpfs" {
            fsconfig_set_flag(&context, "ro")?;
        }
        fsconfig_create(&context)?;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    };
    make().map_err(|source: rustix::io::Errno| mount_failure(&format!("mount a new {kind}"), source.into()))
}

/// A second, detached mount of what `file` is.
pub fn clone_of(file: BorrowedFd<'_>, recursive: bool) -> Result<OwnedFd, StartFailure> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(file, "", flags).map_err(|source| mount_failure("clone a mount of the container", source.into()))
}

/// An image's link may lead from any path to the kernel's own file systems, which nobody may cover.
pub fn refuse_kernels(target: &OwnedFd, name: &str) -> Result<(), StartFailure> {
    let failed = |source: rustix::io::Errno| mount_failure(&format!("look at {name} in the container"), source.into());
    let kind = rustix::fs::fstatfs(target).map_err(failed)?.f_type;
    if KERNELS.contains(&kind) {
        let why = format!("cannot mount on {name} in the container: it leads to the kernel's own files");
        return Err(StartFailure::new(FailureKind::Mount, why));
    }
    Ok(())
}

/// Attaches a mount to an open file: there is no path left that could be something else by now.
pub fn attach_at(mount: &OwnedFd, target: &OwnedFd, name: &str) -> Result<(), StartFailure> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", target, "", flags)
        .map_err(|source| mount_failure(&format!("mount {name} in the container"), source.into()))
}

/// /proc, /sys and /dev themselves: an image in which one is a link would have the mount elsewhere and the path unprotected.
fn attach(mount: &OwnedFd, root: &OwnedFd, path: &str) -> Result<(), StartFailure> {
    let name = path.trim_start_matches('/');
    match mkdirat(root, name, Mode::from(0o755)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(source) => return Err(mount_failure(&format!("make {path} in the container"), source.into())),
    }
    attach_at(mount, &open_in(root, name, OFlags::DIRECTORY)?, path)
}

/// No links at all on the way.
pub fn open_in(dir: &OwnedFd, path: &str, flags: OFlags) -> Result<OwnedFd, StartFailure> {
    open_strictly(dir, path, flags)
        .map_err(|source| mount_failure(&format!("open {path} in the container (it may not be a link)"), source.into()))
}

pub fn open_strictly(dir: &OwnedFd, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = match mutation::off(Control::StrictTargets) {
        true => ResolveFlags::IN_ROOT,
        false => ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
    };
    inside::open(dir, path, flags | OFlags::PATH, Mode::empty(), resolve)
}

/// Links lead inside the container's root, whatever they say.
pub fn resolve(root: &OwnedFd, path: &str, flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
    inside::open(root, path, flags, mode, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
}

/// Opens a directory of the container, making what is missing of its path.
pub fn directory(root: &OwnedFd, path: &str) -> Result<OwnedFd, StartFailure> {
    let failed =
        |source: rustix::io::Errno| mount_failure(&format!("open directory {path} in the container"), source.into());
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    match resolve(root, path, flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => {}
        other => return other.map_err(failed),
    }
    let (above, name) = split(path);
    let parent = directory(root, above)?;
    match mkdirat(&parent, name, Mode::from(0o755)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(source) => return Err(failed(source)),
    }
    match resolve(root, path, flags, Mode::empty()) {
        // A link that leads nowhere: what it leads to is made, inside.
        Err(rustix::io::Errno::NOENT) => {
            let target = rustix::fs::readlinkat(&parent, name, Vec::new()).map_err(failed)?;
            let target = target.to_str().map_err(|_| failed(rustix::io::Errno::ILSEQ))?;
            match target.starts_with('/') {
                true => directory(root, target),
                false => directory(root, &format!("{above}/{target}")),
            }
        }
        other => other.map_err(failed),
    }
}

/// Opens a file to mount over, making an empty one where there is none. A link that leads nowhere is replaced.
pub fn file(root: &OwnedFd, path: &str) -> Result<OwnedFd, StartFailure> {
    let failed =
        |source: rustix::io::Errno| mount_failure(&format!("open file {path} in the container"), source.into());
    match resolve(root, path, OFlags::PATH, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => {}
        other => return other.map_err(failed),
    }
    let (parent, name) = split(path);
    let parent = directory(root, parent)?;
    match unlinkat(&parent, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(source) => return Err(failed(source)),
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    rustix::fs::openat(&parent, name, flags, Mode::from(0o644)).map_err(failed)
}

pub fn split(path: &str) -> (&str, &str) {
    match path.trim_end_matches('/').rsplit_once('/') {
        None | Some(("", _)) => ("/", path.trim_matches('/')),
        Some(parts) => parts,
    }
}

pub fn is_directory(mount: &OwnedFd) -> Result<bool, StartFailure> {
    let stat =
        rustix::fs::fstat(mount.as_fd()).map_err(|source| mount_failure("look at a bind mount", source.into()))?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

/// Ids that do not match show up as a root that cannot be written, and only then: better here than in the program.
fn probe_writable(root: &OwnedFd) -> Result<(), StartFailure> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let probe = rustix::fs::openat(root, ".", flags, Mode::from(0o600));
    probe.map(drop).map_err(|source| mount_failure("write to the container's root", source.into()))
}
