//! Which cgroup hierarchies are mounted, and which of them we use. Refuses to mount any.

use std::path::{Path, PathBuf};

use super::CgroupError;
use crate::mountinfo::{self, Mount};

/// What containers are limited and measured by; on v1, `cpuacct` measures what `cpu` shares out.
const V1_CONTROLLERS: [&str; 5] = ["cpu", "cpuacct", "memory", "pids", "blkio"];
const V2_CONTROLLERS: [&str; 4] = ["cpu", "memory", "pids", "io"];
/// Without these a container cannot be limited at all.
const REQUIRED: [&str; 3] = ["cpu", "memory", "pids"];

#[derive(Debug, Clone)]
pub struct Hierarchies {
    pub unified: Unified,
    /// v1 hierarchies that carry a controller we use; each mount once.
    pub legacy: Vec<Legacy>,
    /// The v1 hierarchy that says which CPUs there are, where it is one: only who asks for some is in it.
    pub cpuset: Option<PathBuf>,
}

#[derive(Debug, Clone)]
pub struct Unified {
    pub mount: PathBuf,
    /// How many levels above the mount belong to the tree: more than 0 where only a part of it is mounted.
    pub above: usize,
}

#[derive(Debug, Clone)]
pub struct Legacy {
    pub mount: PathBuf,
    pub controllers: Vec<String>,
}

impl Hierarchies {
    pub fn mounted() -> Result<Self, CgroupError> {
        let table = std::fs::read_to_string("/proc/self/mountinfo").map_err(|source| CgroupError::Mounts { source })?;
        Self::parse(&table)
    }

    fn parse(table: &str) -> Result<Self, CgroupError> {
        let mut unified = None;
        let (mut legacy, mut cpuset): (Vec<Legacy>, _) = (Vec::new(), None);
        for Mount { root, target: mount, kind, options } in table.lines().filter_map(mountinfo::mount) {
            match kind {
                "cgroup2" if unified.is_none() => {
                    let above = root.split('/').filter(|part| !part.is_empty()).count();
                    unified = Some(Unified { mount, above });
                }
                "cgroup" => {
                    let controllers: Vec<String> =
                        options.split(',').filter(|name| V1_CONTROLLERS.contains(name)).map(str::to_owned).collect();
                    let new =
                        !legacy.iter().any(|other| other.controllers.iter().any(|name| controllers.contains(name)));
                    if !controllers.is_empty() && new {
                        legacy.push(Legacy { mount, controllers });
                    } else if controllers.is_empty() && options.split(',').any(|name| name == "cpuset") {
                        cpuset.get_or_insert(mount);
                    }
                }
                _ => {}
            }
        }
        Ok(Hierarchies { unified: unified.ok_or(CgroupError::NoUnified)?, legacy, cpuset })
    }

    /// `dir` in every hierarchy that we use, v1 first: a v2 directory that is there vouches for the others.
    pub fn places(&self, dir: &Path) -> Vec<PathBuf> {
        self.legacy.iter().map(|one| &one.mount).chain([&self.unified.mount]).map(|mount| mount.join(dir)).collect()
    }

    /// Also where only some have one.
    pub fn all_places(&self, dir: &Path) -> Vec<PathBuf> {
        self.cpuset.iter().map(|mount| mount.join(dir)).chain(self.places(dir)).collect()
    }

    /// The directory that carries a controller, and whether it is of v2.
    pub fn controller(&self, name: &str, dir: &Path) -> (PathBuf, bool) {
        match self.legacy.iter().find(|one| one.controllers.iter().any(|c| c == name)) {
            Some(one) => (one.mount.join(dir), false),
            None => (self.unified.mount.join(dir), true),
        }
    }

    /// One that nobody has until somebody asks for it.
    pub fn delegate_one(&self, controller: &'static str, dir: &Path) -> Result<(), CgroupError> {
        let mut path = self.unified.mount.clone();
        for part in dir.components() {
            path.push(part);
            let failed = |operation| {
                let dir = path.clone();
                move |source| CgroupError::Directory { operation, dir, source }
            };
            let available = std::fs::read_to_string(path.join("cgroup.controllers")).map_err(failed("read"))?;
            if !available.split_ascii_whitespace().any(|name| name == controller) {
                return Err(CgroupError::NoController { controller, dir: path });
            }
            // What is passed on already may be of a directory that is not ours.
            let passed = std::fs::read_to_string(path.join("cgroup.subtree_control")).map_err(failed("read"))?;
            if passed.split_ascii_whitespace().any(|name| name == controller) {
                continue;
            }
            std::fs::write(path.join("cgroup.subtree_control"), format!("+{controller}"))
                .map_err(failed("delegate"))?;
        }
        Ok(())
    }

    /// Makes the controllers that live on v2 available below `dir`, by writing to directories of ours alone: the first of its parts are
    /// others'.
    pub fn delegate(&self, dir: &Path, others: usize) -> Result<(), CgroupError> {
        let on_v1 = |name: &str| self.legacy.iter().any(|one| one.controllers.iter().any(|c| c == name));
        let mut path = self.unified.mount.clone();
        for (at, part) in dir.components().enumerate() {
            path.push(part);
            if at < others {
                continue;
            }
            let available = std::fs::read_to_string(path.join("cgroup.controllers"))
                .map_err(|source| CgroupError::Directory { operation: "read", dir: path.clone(), source })?;
            for controller in
                V2_CONTROLLERS.into_iter().filter(|name| !on_v1(if *name == "io" { "blkio" } else { name }))
            {
                if available.split_ascii_whitespace().any(|name| name == controller) {
                    std::fs::write(path.join("cgroup.subtree_control"), format!("+{controller}")).map_err(
                        |source| CgroupError::Directory { operation: "delegate", dir: path.clone(), source },
                    )?;
                } else if REQUIRED.contains(&controller) {
                    return Err(CgroupError::NoController { controller, dir: path });
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 20 0:25 / /sys/fs/cgroup rw - tmpfs tmpfs rw
31 30 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
32 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
34 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
35 30 0:27 / /mnt/again rw - cgroup cgroup rw,memory
36 30 0:30 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset
";

    #[test]
    fn the_hybrid_layout() {
        let found = Hierarchies::parse(HYBRID).unwrap();
        let dir = Path::new("cc");
        assert_eq!(found.controller("memory", dir), (PathBuf::from("/sys/fs/cgroup/memory/cc"), false));
        assert_eq!(found.controller("cpuacct", dir).0, Path::new("/sys/fs/cgroup/cpu,cpuacct/cc"));
        assert_eq!(found.controller("pids", dir), (PathBuf::from("/sys/fs/cgroup/unified/cc"), true));
        assert_eq!((found.places(dir).len(), found.all_places(dir).len()), (3, 4));
        assert_eq!(found.cpuset.as_deref(), Some(Path::new("/sys/fs/cgroup/cpuset")));
    }

    #[test]
    fn the_pure_layout_with_a_part_of_the_tree_mounted() {
        let found = Hierarchies::parse("30 20 0:25 /a/b /sys/fs/cgroup rw - cgroup2 none rw\n").unwrap();
        assert!(found.legacy.is_empty() && found.cpuset.is_none());
        assert_eq!(found.unified.above, 2);
        assert!(matches!(Hierarchies::parse(""), Err(CgroupError::NoUnified)));
    }
}
