//! Mounts prepared from outside, while init waits: the root (idmapped layers under an overlay), device nodes and bind mounts,
//! each as a detached mount that init attaches by descriptor. No path of the host is ever used inside the container.
//! Refuses to attach anything.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen, open_tree,
};

use super::layers::{Away, Layers, Nowhere};
use super::protocol::{FailureKind, StartFailure};
use super::rootfs;
use super::spec::{Bind, DeviceSpec, Rootfs, Spec};
use super::sys::mount_setattr;
use crate::mutation::{self, Control};

/// The host's nodes, and their numbers: a container cannot make its own, and could not use them if it did.
pub const DEVICES: [(&str, (u32, u32)); 6] =
    [("null", (1, 3)), ("zero", (1, 5)), ("full", (1, 7)), ("random", (1, 8)), ("urandom", (1, 9)), ("tty", (5, 0))];

/// In the order in which `rootfs::attach` takes them.
pub struct Prepared {
    pub root: OwnedFd,
    pub devices: Vec<OwnedFd>,
    pub binds: Vec<OwnedFd>,
    /// A file system with a node for each further device, by its index.
    pub nodes: Option<OwnedFd>,
}

impl Prepared {
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        std::iter::once(&self.root)
            .chain(&self.devices)
            .chain(&self.binds)
            .chain(&self.nodes)
            .map(AsFd::as_fd)
            .collect()
    }
}

/// Without a user namespace the container's ids are the host's.
pub fn prepare(spec: &Spec, userns: Option<BorrowedFd<'_>>) -> Result<Prepared, StartFailure> {
    let root = overlay(&spec.rootfs, spec.id_base, userns)?;
    // The host's root could change the modes of the host's nodes: its init makes its own.
    let shared = if userns.is_some() { &DEVICES[..] } else { &[] };
    let devices = shared.iter().map(|(name, _)| clone_tree(&Path::new("/dev").join(name))).collect::<Result<_, _>>()?;
    let binds = spec.binds.iter().map(|one| bind(one, userns)).collect::<Result<_, _>>()?;
    let nodes = if spec.devices.is_empty() { None } else { Some(nodes(&spec.devices, spec.id_base)?) };
    Ok(Prepared { root, devices, binds, nodes })
}

/// Nodes of the shim's own, of the numbers that the host's nodes have: the host's would be closed to the container's ids, and their file
/// system cannot map them. They belong to the host's root, whom the container does not know, so that nobody inside can change their modes:
/// its root's group may what was given, everybody else what the host gives everybody of that.
fn nodes(all: &[DeviceSpec], id_base: u32) -> Result<OwnedFd, StartFailure> {
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let tmpfs = rootfs::filesystem("tmpfs", &[("mode", "755"), ("size", "64k")], attributes)?;
    for (index, device) in all.iter().enumerate() {
        let DeviceSpec { source, read, write, .. } = device;
        let failed = |e: rustix::io::Errno| mount_failure(&format!("give device {}", source.display()), e.into());
        let host = rustix::fs::open(source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
        let stat = rustix::fs::fstat(&host).map_err(failed)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if !matches!(kind, FileType::CharacterDevice | FileType::BlockDevice) {
            let why = format!("cannot give device {}: it is no device", source.display());
            return Err(StartFailure::new(FailureKind::Mount, why));
        }
        let access = if *read { 0o4 } else { 0 } | if *write { 0o2 } else { 0 };
        let mode = Mode::from_raw_mode(access << 3 | access & stat.st_mode);
        let name = index.to_string();
        rustix::fs::mknodat(&tmpfs, &name, kind, Mode::empty(), stat.st_rdev).map_err(failed)?;
        let group = Some(Gid::from_raw(id_base));
        rustix::fs::chownat(&tmpfs, &name, None, group, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        rustix::fs::chmodat(&tmpfs, &name, mode, AtFlags::empty()).map_err(failed)?;
        let made = rustix::fs::statat(&tmpfs, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        if (made.st_rdev, FileType::from_raw_mode(made.st_mode)) != (stat.st_rdev, kind) {
            return Err(failed(rustix::io::Errno::NODEV));
        }
    }
    Ok(tmpfs)
}

/// The layers belong to host ids from 0 and are shown under the container's; the upper directory belongs to the container's
/// range already, because an idmapped upper silently becomes read-only.
pub fn overlay(rootfs: &Rootfs, id_base: u32, userns: Option<BorrowedFd<'_>>) -> Result<OwnedFd, StartFailure> {
    match put_together(rootfs, id_base, userns, &Nowhere) {
        // Before 6.13 it knows no layer by a descriptor, before 6.15 none that is mounted nowhere. To anything else it says the same again.
        Err((Errno::BADF | Errno::INVAL, _)) => {
            let away = Away::from_host()?;
            let made = put_together(rootfs, id_base, userns, &away);
            away.back()?;
            made
        }
        made => made,
    }
    .map_err(|(_, failure)| failure)
}

/// With the kernel's number of why not.
fn put_together(
    rootfs: &Rootfs,
    id_base: u32,
    userns: Option<BorrowedFd<'_>>,
    layers: &dyn Layers,
) -> Result<OwnedFd, (Errno, StartFailure)> {
    let at = |step: &'static str| move |source: Errno| (source, mount_failure(step, source.into()));
    let other = |failure| (Errno::IO, failure);
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(at("open overlayfs"))?;
    fsconfig_set_string(&context, "source", "overlay").map_err(at("name the overlay"))?;
    // Closing a detached mount dissolves it: they have to last until the overlay has made its own copies.
    let mut mounts = Vec::with_capacity(rootfs.layers.len());
    // The first one given is the topmost.
    for layer in rootfs.layers.iter().rev() {
        let mount = clone_tree(layer).map_err(other)?;
        mount_setattr(mount.as_fd(), libc::MOUNT_ATTR_RDONLY, userns, false)
            .map_err(|source| other(mount_failure(&format!("map the ids of layer {}", layer.display()), source)))?;
        layers.show(&mount).map_err(at("show a layer to overlayfs"))?;
        layers.give(&context, "lowerdir+", &mount).map_err(at("add a layer"))?;
        mounts.push(mount);
    }
    let upper = writable_layer(&rootfs.upper, id_base).map_err(other)?;
    layers.give(&context, "upperdir", &upper).map_err(at("add the writable layer"))?;
    let work = open_dir(&rootfs.work).map_err(other)?;
    layers.give(&context, "workdir", &work).map_err(at("add the overlay's work directory"))?;
    if rootfs.volatile {
        fsconfig_set_flag(&context, "volatile").map_err(at("make the overlay volatile"))?;
    }
    fsconfig_create(&context).map_err(|source| (source, explained(&context, "create the overlay", source)))?;
    // A device node in an image is somebody else's idea of the host's devices.
    let attributes = match mutation::off(Control::RootNodev) {
        true => MountAttrFlags::empty(),
        false => MountAttrFlags::MOUNT_ATTR_NODEV,
    };
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(at("mount the overlay"))
}

/// The root of the container is the root of this directory: it has to belong to the container's root.
fn writable_layer(upper: &Path, id_base: u32) -> Result<OwnedFd, StartFailure> {
    let give = || {
        std::os::unix::fs::lchown(upper, Some(id_base), Some(id_base))?;
        std::fs::set_permissions(upper, std::fs::Permissions::from_mode(0o755))
    };
    give().map_err(|source| mount_failure(&format!("give {} to the container", upper.display()), source))?;
    open_dir(upper)
}

fn open_dir(path: &Path) -> Result<OwnedFd, StartFailure> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|source| mount_failure(&format!("open {}", path.display()), source.into()))
}

fn bind(bind: &Bind, userns: Option<BorrowedFd<'_>>) -> Result<OwnedFd, StartFailure> {
    let mount = clone_tree(&bind.source)?;
    let mut set = libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOSUID;
    if bind.readonly {
        set |= libc::MOUNT_ATTR_RDONLY;
    }
    mount_setattr(mount.as_fd(), set, userns.filter(|_| bind.idmap), false)
        .map_err(|source| mount_failure(&format!("prepare the mount of {}", bind.source.display()), source))?;
    Ok(mount)
}

pub fn clone_tree(path: &Path) -> Result<OwnedFd, StartFailure> {
    open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
        .map_err(|source| mount_failure(&format!("clone the mount of {}", path.display()), source.into()))
}

/// The kernel says why into the context, which is worth more than its error number.
pub fn explained(context: &OwnedFd, step: &str, source: rustix::io::Errno) -> StartFailure {
    let mut text = [0; 1024];
    let mut failure = mount_failure(step, source.into());
    while let Ok(count @ 1..) = rustix::io::read(context, &mut text) {
        failure.message.push_str(&format!("; {}", String::from_utf8_lossy(&text[..count]).trim_end()));
    }
    failure
}

pub fn mount_failure(step: &str, source: std::io::Error) -> StartFailure {
    StartFailure::new(FailureKind::Mount, format!("cannot {step}: {source}"))
}
