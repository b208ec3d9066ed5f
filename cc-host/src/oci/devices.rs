//! Device nodes: those that every container has, and `linux.devices`. They are made in the container's /dev; in a user namespace, which may
//! make none, each is a mount of a node that was made outside. Refuses to use the host's own nodes.

use std::os::fd::{AsFd, OwnedFd};

use oci_spec::runtime::{Linux, LinuxDeviceType, LinuxIdMapping};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, makedev};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, UnmountFlags, unmount};

use super::error::OciError;
use super::mounts::{Own, mount_id};
use super::options::Mappings;
use super::process::check_id;
use crate::shim::mounts::mount_failure;
use crate::shim::protocol::StartFailure;
use crate::shim::rootfs::{attach_at, clone_of, directory, file, filesystem, open_in, split};

const MODE_DEFAULT: u32 = 0o666;
/// Where the nodes are while they are mounted one by one.
const NODES: &str = ".cc-oci-nodes";
/// `/dev/NAME` and its minor number; the major one of `tty` is 5, of the others 1.
const USUAL: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
const LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Absolute, inside the container.
    pub path: String,
    kind: FileType,
    device: u64,
    mode: u32,
    uid: u32,
    gid: u32,
}

/// With those that every container has, unless they are given otherwise.
pub fn parse(linux: Option<&Linux>) -> Result<Vec<Node>, OciError> {
    let mut nodes: Vec<Node> = Vec::new();
    for given in linux.iter().flat_map(|linux| linux.devices().iter().flatten()) {
        let field = format!("linux.devices ({})", given.path().display());
        let path = given.path().to_str().filter(|path| path.starts_with('/') && !path.contains('\0'));
        let path = path.ok_or_else(|| OciError::invalid(&field, "its path has to be absolute"))?.to_owned();
        let kind = match given.typ() {
            LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
            LinuxDeviceType::B => FileType::BlockDevice,
            LinuxDeviceType::P => FileType::Fifo,
            LinuxDeviceType::A => return Err(OciError::invalid(field, "a is the type of a rule, not of a device")),
        };
        let number = |number: i64| u32::try_from(number).map_err(|_| OciError::invalid(&field, "a number is negative"));
        let device = if kind == FileType::Fifo { 0 } else { makedev(number(given.major())?, number(given.minor())?) };
        let mode = given.file_mode().unwrap_or(MODE_DEFAULT) & 0o7777;
        let (uid, gid) = (check_id(given.uid().unwrap_or(0), &field)?, check_id(given.gid().unwrap_or(0), &field)?);
        let node = Node { path, kind, device, mode, uid, gid };
        match nodes.iter().find(|other| other.path == node.path) {
            // Podman and docker list the usual ones as often as they are asked for.
            Some(same) if (same.kind, same.device) == (node.kind, node.device) => {}
            Some(_) => return Err(OciError::invalid(field, "it is there twice, as two devices")),
            None => nodes.push(node),
        }
    }
    for (name, major, minor) in USUAL {
        let path = format!("/dev/{name}");
        if !nodes.iter().any(|node| node.path == path) {
            let device = makedev(major, minor);
            nodes.push(Node { path, kind: FileType::CharacterDevice, device, mode: MODE_DEFAULT, uid: 0, gid: 0 });
        }
    }
    Ok(nodes)
}

impl Node {
    /// One that every container has, which gives way to a mount at its place.
    pub fn is_usual(&self) -> bool {
        USUAL.iter().any(|(name, ..)| self.path.strip_prefix("/dev/") == Some(name))
    }
}

/// Inside, where nodes may be made.
pub fn make(root: &OwnedFd, nodes: &[Node], own: &Own) -> Result<(), StartFailure> {
    for node in nodes {
        let failed = |e: Errno| mount_failure(&format!("make device {}", node.path), e.into());
        let (parent, name) = split(&node.path);
        let dir = directory(root, parent)?;
        if !own.has(&dir)? || node.gives_way(&dir, name)? {
            continue;
        }
        if node.is_at(&dir, name) {
            node.own_at(&dir, name, (node.uid, node.gid)).map_err(failed)?;
            continue;
        }
        match rustix::fs::unlinkat(&dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(failed(e)),
        }
        node.make_at(&dir, name, (node.uid, node.gid)).map_err(failed)?;
    }
    Ok(())
}

impl Node {
    fn make_at(&self, dir: &OwnedFd, name: &str, (uid, gid): (u32, u32)) -> Result<(), Errno> {
        rustix::fs::mknodat(dir, name, self.kind, Mode::empty(), self.device)?;
        self.own_at(dir, name, (uid, gid))
    }

    /// To a mount that a link of the image led there.
    fn gives_way(&self, dir: &OwnedFd, name: &str) -> Result<bool, StartFailure> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(dir, name, flags, Mode::empty()) {
            Ok(there) => Ok(self.is_usual() && mount_id(&there)? != mount_id(dir)?),
            Err(_) => Ok(false),
        }
    }

    fn is_at(&self, dir: &OwnedFd, name: &str) -> bool {
        let found = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
        found.is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == self.kind && s.st_rdev == self.device)
    }

    fn own_at(&self, dir: &OwnedFd, name: &str, (uid, gid): (u32, u32)) -> Result<(), Errno> {
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        rustix::fs::chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        rustix::fs::chmodat(dir, name, Mode::from_raw_mode(self.mode), AtFlags::empty())
    }
}

/// Outside, for a user namespace with these mappings: a file system with a node of each, by its index.
pub fn prepare(nodes: &[Node], mappings: Option<&Mappings>) -> Result<OwnedFd, OciError> {
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let tmpfs = filesystem("tmpfs", &[("mode", "755"), ("size", "64k")], attributes)?;
    for (index, node) in nodes.iter().enumerate() {
        let field = || format!("linux.devices ({})", node.path);
        let host = |id, list: fn(&Mappings) -> &Vec<LinuxIdMapping>| match mappings {
            None => Some(id),
            Some(mappings) => host_id(list(mappings), id),
        };
        let ids = host(node.uid, |m| &m.uids).zip(host(node.gid, |m| &m.gids));
        let ids = ids.ok_or_else(|| OciError::invalid(field(), "its uid or gid is not mapped"))?;
        node.make_at(&tmpfs, &index.to_string(), ids)
            .map_err(|e| OciError::step(format!("make device {}", node.path), e))?;
    }
    Ok(tmpfs)
}

fn host_id(mappings: &[LinuxIdMapping], id: u32) -> Option<u32> {
    let range = mappings.iter().find(|m| (m.container_id()..m.container_id() + m.size()).contains(&id))?;
    Some(range.host_id() + (id - range.container_id()))
}

/// Inside, what was prepared.
pub fn mount(root: &OwnedFd, prepared: &OwnedFd, nodes: &[Node], own: &Own) -> Result<(), StartFailure> {
    let failed = |step: &'static str| move |e: Errno| mount_failure(step, e.into());
    let place = format!("/dev/{NODES}");
    let target = directory(root, &place)?;
    attach_at(prepared, &target, &place)?;
    for (index, node) in nodes.iter().enumerate() {
        let (parent, name) = split(&node.path);
        let dir = directory(root, parent)?;
        if !own.has(&dir)? || node.gives_way(&dir, name)? {
            continue;
        }
        let source = open_in(prepared, &index.to_string(), OFlags::NOFOLLOW)?;
        attach_at(&clone_of(source.as_fd(), false)?, &file(root, &node.path)?, &node.path)?;
    }
    // By what it is now and not by a name: this is before the container's root is the process's.
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(prepared));
    unmount(path, UnmountFlags::DETACH).map_err(failed("detach the nodes of devices"))?;
    let dev = directory(root, "/dev")?;
    rustix::fs::unlinkat(&dev, NODES, AtFlags::REMOVEDIR).map_err(failed("remove the place of devices' nodes"))
}

/// What programs expect beside them.
pub fn links(root: &OwnedFd) -> Result<(), StartFailure> {
    let dev = directory(root, "/dev")?;
    let make = |target: &str, name: &str| match rustix::fs::symlinkat(target, &dev, name) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(mount_failure(&format!("make /dev/{name}"), e.into())),
    };
    for (target, name) in LINKS {
        make(target, name)?;
    }
    if rustix::fs::stat("/proc/kcore").is_ok() {
        make("/proc/kcore", "core")?;
    }
    // A node in its place would be of the host's terminals.
    match rustix::fs::unlinkat(&dev, "ptmx", AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => make("pts/ptmx", "ptmx"),
        Err(e) => Err(mount_failure("make /dev/ptmx", e.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_text(text: &str) -> Result<Vec<Node>, OciError> {
        parse(Some(&serde_json::from_str(&format!(r#"{{"devices":[{text}]}}"#)).unwrap()))
    }

    #[test]
    fn the_usual_ones_are_there_and_can_be_given_otherwise() {
        assert_eq!(parse(None).unwrap().len(), USUAL.len());
        let all = parse_text(r#"{"path":"/dev/null","type":"c","major":1,"minor":3,"fileMode":384,"uid":7,"gid":8}"#)
            .unwrap();
        assert_eq!(all.len(), USUAL.len());
        assert_eq!((all[0].mode, all[0].uid, all[0].gid), (0o600, 7, 8));
    }

    #[test]
    fn what_is_no_device_is_refused() {
        for text in [
            r#"{"path":"null","type":"c","major":1,"minor":3}"#,
            r#"{"path":"/dev/x","type":"a","major":1,"minor":3}"#,
            r#"{"path":"/dev/x","type":"c","major":-1,"minor":3}"#,
            r#"{"path":"/dev/x","type":"c","major":1,"minor":3,"uid":4294967295}"#,
            r#"{"path":"/dev/x","type":"c","major":1,"minor":3,"gid":4294967295}"#,
            r#"{"path":"/dev/x","type":"c","major":1,"minor":3},{"path":"/dev/x","type":"c","major":1,"minor":5}"#,
        ] {
            assert!(parse_text(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ids_are_mapped_by_their_range() {
        let maps: Vec<LinuxIdMapping> = serde_json::from_str(
            r#"[{"containerID":0,"hostID":1000,"size":10},{"containerID":10,"hostID":5,"size":1}]"#,
        )
        .unwrap();
        assert_eq!([0, 9, 10, 11].map(|id| host_id(&maps, id)), [Some(1000), Some(1009), Some(5), None]);
    }
}
