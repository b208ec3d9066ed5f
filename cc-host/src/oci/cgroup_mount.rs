//! What a mount of type cgroup shows: the container's own directory in each hierarchy of the host's, and nothing above it. Refuses to mount a
//! hierarchy anew: the same file system is there already.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, mkdirat, symlinkat};
use rustix::mount::{MountAttrFlags, OpenTreeFlags, open_tree};

use super::cgroup::Cgroup;
use super::error::OciError;
use super::options::Plan;
use crate::shim::mounts::mount_failure;
use crate::shim::protocol::StartFailure;
use crate::shim::rootfs::{attach_at, filesystem, open_in};
use crate::shim::sys::{Attributes, change_mount};

/// One of them, cloned outside.
pub struct Hierarchy {
    /// Its directory below the mount; none where it is the only one.
    name: Option<String>,
    /// Other names of the same, as `cpu` of `cpu,cpuacct`.
    links: Vec<String>,
    mount: OwnedFd,
}

pub fn prepare(cgroup: &Cgroup) -> Result<Vec<Hierarchy>, OciError> {
    let clone = |dir: &Path| {
        open_tree(rustix::fs::CWD, dir, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
            .map_err(|e| OciError::File { operation: "clone the mount of", path: dir.into(), source: e.into() })
    };
    if cgroup.legacy.is_empty() {
        let only = cgroup.unified.iter().map(|dir| Ok(Hierarchy { name: None, links: vec![], mount: clone(dir)? }));
        return only.collect();
    }
    let mountinfo =
        std::fs::read_to_string("/proc/self/mountinfo").map_err(|e| OciError::step("read /proc/self/mountinfo", e))?;
    let points = mount_points(&mountinfo);
    let mut all = Vec::new();
    for dir in cgroup.legacy.iter().chain(&cgroup.unified) {
        let point = points.iter().filter(|point| dir.starts_with(point)).max_by_key(|point| point.len());
        let name = point.and_then(|point| Path::new(point).file_name()).and_then(|name| name.to_str());
        let Some(name) = name.map(str::to_owned) else { continue };
        let links = if name.contains(',') { name.split(',').map(str::to_owned).collect() } else { Vec::new() };
        all.push(Hierarchy { name: Some(name), links, mount: clone(dir)? });
    }
    Ok(all)
}

fn mount_points(mountinfo: &str) -> Vec<String> {
    let point = |line: &str| {
        let (mount, filesystem) = line.split_once(" - ")?;
        filesystem.starts_with("cgroup").then(|| mount.split(' ').nth(4).map(str::to_owned))?
    };
    mountinfo.lines().filter_map(point).collect()
}

/// Inside, on `target`.
pub fn attach(plan: &Plan, hierarchies: &[Hierarchy], target: &OwnedFd) -> Result<(), StartFailure> {
    let failed = |e: rustix::io::Errno| mount_failure(&format!("mount cgroups on {}", plan.target), e.into());
    let limit = |mount: &OwnedFd| {
        let Attributes { set, clear, .. } = plan.attributes;
        let recursive = Attributes { set: set | plan.recursive.set, clear, propagation: libc::MS_PRIVATE };
        change_mount(mount.as_fd(), recursive, None, true)
            .map_err(|e| mount_failure(&format!("set the options of {}", plan.target), e))
    };
    if let [Hierarchy { name: None, mount, .. }] = hierarchies {
        limit(mount)?;
        return attach_at(mount, target, &plan.target);
    }
    let attributes =
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let above = filesystem("tmpfs", &[("mode", "755"), ("size", "64k")], attributes)?;
    for Hierarchy { name, links, .. } in hierarchies {
        for link in links {
            symlinkat(name.as_deref().unwrap_or("."), &above, link.as_str()).map_err(failed)?;
        }
        mkdirat(&above, name.as_deref().unwrap_or("unified"), Mode::from(0o755)).map_err(failed)?;
    }
    attach_at(&above, target, &plan.target)?;
    for Hierarchy { name, mount, .. } in hierarchies {
        let name = name.as_deref().unwrap_or("unified");
        limit(mount)?;
        attach_at(mount, &open_in(&above, name, rustix::fs::OFlags::DIRECTORY)?, name)?;
    }
    limit(&above)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_of_all_hierarchies_are_found() {
        let text = "30 25 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu\n32 30 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_points(text), ["/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/unified"]);
    }
}
