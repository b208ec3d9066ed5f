//! The cgroup of one OCI container, wherever `linux.cgroupsPath` says, on cgroup v1, hybrid and v2. Refuses to remove a directory that it did not
//! make, and to choose limits.
//!
//! `layout` knows what is mounted, `delegate` gives v2's controllers down the path, `resources` sets limits with `memory`, `cpu` and `io` in `place`,
//! `devices` filters, `freezer` stops, `processes` lists, kills and removes.

mod cpu;
mod delegate;
mod devices;
mod freezer;
mod io;
mod layout;
mod memory;
mod place;
mod processes;
mod resources;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

use super::error::OciError;
use layout::{Layout, Wanted};

/// A directory above can go, with another container's last, between the making of one and of the next.
const TRIES_MAX: usize = 8;

/// One container's directories, as they are kept in its state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    /// In the v2 hierarchy; none where only v1 is mounted.
    pub unified: Option<PathBuf>,
    /// In each v1 hierarchy.
    pub legacy: Vec<PathBuf>,
    /// Those among them, and above them, that were not there before: outer ones first.
    #[serde(default)]
    pub made: Vec<PathBuf>,
}

impl Cgroup {
    /// Makes what is missing of its directories, and limits them before any process is there. On failure nothing is left.
    pub fn create(path: Option<&Path>, id: &str, resources: Option<&LinuxResources>) -> Result<Cgroup, OciError> {
        let layout = Layout::here()?;
        let wanted = Wanted::parse(path, id)?;
        let mut cgroup = Cgroup {
            unified: layout.unified.as_ref().map(|one| one.place(&wanted)),
            legacy: layout.legacy.iter().map(|one| one.place(&wanted)).collect(),
            made: Vec::new(),
        };
        if path.is_none_or(|path| path.as_os_str().is_empty()) {
            // Whoever made it: nobody else has a use for it when the last of ours has gone.
            cgroup.made = cgroup.dirs().into_iter().filter_map(|dir| dir.parent().map(Path::to_owned)).collect();
        }
        let done = cgroup.fill(&layout, resources);
        if done.is_err() {
            // They are empty. What stays is told by nobody, since the first error is what matters.
            for dir in cgroup.made.iter().rev() {
                let _ = std::fs::remove_dir(dir);
            }
        }
        done.map(|()| cgroup)
    }

    fn fill(&mut self, layout: &Layout, resources: Option<&LinuxResources>) -> Result<(), OciError> {
        let leaves: Vec<PathBuf> = self.dirs().into_iter().map(Path::to_owned).collect();
        for (hierarchy, leaf) in layout.legacy.iter().chain(&layout.unified).zip(&leaves) {
            let is_cpuset = hierarchy.controllers.iter().any(|name| name == "cpuset");
            self.make(&hierarchy.mount, leaf, is_cpuset)?;
        }
        self.refuse_if_taken()?;
        self.give_controllers(layout, resources)?;
        if let Some(resources) = resources {
            resources::apply(layout, self, resources)?;
        }
        let devices = resources.and_then(|resources| resources.devices().as_deref());
        devices::apply(layout, self, devices, true)
    }

    /// Each directory below the mount that is not there.
    fn make(&mut self, mount: &Path, leaf: &Path, is_cpuset: bool) -> Result<(), OciError> {
        let mut missing: Vec<&Path> = leaf.ancestors().take_while(|dir| *dir != mount).collect();
        missing.reverse();
        for _ in 0..TRIES_MAX {
            match missing.iter().try_for_each(|dir| self.make_one(dir, is_cpuset)) {
                Err(OciError::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
                done => return done,
            }
        }
        let source = std::io::Error::from(std::io::ErrorKind::NotFound);
        Err(OciError::File { operation: "make cgroup", path: leaf.to_owned(), source })
    }

    fn make_one(&mut self, dir: &Path, is_cpuset: bool) -> Result<(), OciError> {
        let failed = |operation| move |source| OciError::File { operation, path: dir.to_owned(), source };
        match std::fs::create_dir(dir) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            made => {
                made.map_err(failed("make cgroup"))?;
                self.made.push(dir.to_owned());
            }
        }
        // A new one has neither, and takes no process before it has both.
        for name in ["cpuset.cpus", "cpuset.mems"].into_iter().filter(|_| is_cpuset) {
            let (own, above) = (dir.join(name), dir.with_file_name(name));
            if std::fs::read_to_string(&own).map_err(failed("read the cpuset of"))?.trim().is_empty() {
                let theirs = std::fs::read_to_string(above).map_err(failed("read the cpuset above"))?;
                std::fs::write(&own, theirs.trim()).map_err(failed("fill the cpuset of"))?;
            }
        }
        Ok(())
    }

    /// Processes in a directory that is to be a container's own would be limited, stopped and killed with it.
    fn refuse_if_taken(&self) -> Result<(), OciError> {
        if self.pids()?.is_empty() {
            return Ok(());
        }
        let taken = self.dirs().into_iter().find(|dir| processes::pids(&[dir]).is_ok_and(|pids| !pids.is_empty()));
        let dir = taken.unwrap_or(Path::new("/")).display();
        let why = format!("{dir} has processes already, which would be the container's");
        Err(OciError::Invalid { field: "linux.cgroupsPath".to_owned(), why })
    }

    fn give_controllers(&self, layout: &Layout, resources: Option<&LinuxResources>) -> Result<(), OciError> {
        let (Some(unified), Some(leaf)) = (&layout.unified, &self.unified) else { return Ok(()) };
        let mut needed: BTreeSet<String> = BTreeSet::new();
        if let Some(resources) = resources {
            needed.extend(resources::needed(resources).into_iter().map(str::to_owned));
            needed.extend(resources::needed_by_unified(resources));
        }
        delegate::delegate(layout, unified, leaf, &needed)
    }

    /// Files of v1 hierarchies into which a process writes 0 to be in them.
    pub fn tasks_files(&self) -> Vec<PathBuf> {
        self.legacy.iter().map(|dir| dir.join("tasks")).collect()
    }

    /// What is not named stays; a list of devices takes the place of the one before.
    pub fn update(&self, resources: &LinuxResources) -> Result<(), OciError> {
        let layout = Layout::here()?;
        self.give_controllers(&layout, Some(resources))?;
        resources::apply(&layout, self, resources)?;
        match resources.devices().as_deref() {
            Some(list) if !list.is_empty() => devices::apply(&layout, self, Some(list), false),
            _ => Ok(()),
        }
    }

    /// Every process in it, in the host's numbers.
    pub fn pids(&self) -> Result<Vec<i32>, OciError> {
        processes::pids(&self.dirs())
    }

    /// Stops or continues all of them; returns when it is so.
    pub fn freeze(&self, frozen: bool) -> Result<(), OciError> {
        freezer::freeze(self, frozen)
    }

    /// Whether they are stopped.
    pub fn is_frozen(&self) -> bool {
        freezer::is_frozen(self)
    }

    /// SIGKILL to all.
    pub fn kill(&self) -> Result<(), OciError> {
        processes::kill(self)
    }

    /// Kills what is left and removes the directories. Nothing to do is success.
    pub fn remove(&self) -> Result<(), OciError> {
        let dirs = self.dirs();
        let (own, above): (Vec<&PathBuf>, Vec<&PathBuf>) =
            self.made.iter().partition(|dir| dirs.iter().any(|one| one == dir));
        // One that was there before stays, without processes.
        if own.len() < dirs.len() {
            self.kill()?;
        }
        let own: Vec<&Path> = own.into_iter().map(PathBuf::as_path).collect();
        let above: Vec<PathBuf> = above.into_iter().cloned().collect();
        processes::remove(self, &own, &above)
    }

    fn dirs(&self) -> Vec<&Path> {
        self.legacy.iter().chain(&self.unified).map(PathBuf::as_path).collect()
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::layout::Hierarchy;
    use super::place::Place;
    use super::*;

    /// A directory with empty files of these names.
    pub fn place(is_v2: bool, files: &[&str]) -> (TempDir, Place) {
        let dir = tempfile::tempdir().unwrap();
        files.iter().for_each(|file| std::fs::write(dir.path().join(file), "").unwrap());
        let place = Place { dir: dir.path().to_owned(), is_v2 };
        (dir, place)
    }

    /// What looks like a v2 tree with these controllers, and a container's directory `a/b` in it.
    pub fn pure(controllers: &str) -> (TempDir, Layout, Cgroup) {
        hybrid(&[], controllers)
    }

    /// The same with a v1 tree for each of `legacy` beside it.
    pub fn hybrid(legacy: &[&str], controllers: &str) -> (TempDir, Layout, Cgroup) {
        let dir = tempfile::tempdir().unwrap();
        let tree = |mount: PathBuf, controllers: &[&str]| {
            std::fs::create_dir_all(mount.join("a/b")).unwrap();
            let controllers = controllers.iter().map(|name| (*name).to_owned()).collect();
            Hierarchy { mount, controllers, own: PathBuf::new() }
        };
        let layout = Layout {
            legacy: legacy.iter().map(|name| tree(dir.path().join("legacy").join(name), &[name])).collect(),
            unified: Some(tree(dir.path().to_owned(), &[])),
        };
        let leaf = |one: &Hierarchy| one.mount.join("a/b");
        let cgroup = Cgroup {
            unified: layout.unified.as_ref().map(leaf),
            legacy: layout.legacy.iter().map(leaf).collect(),
            made: Vec::new(),
        };
        std::fs::write(dir.path().join("a/b/cgroup.controllers"), controllers).unwrap();
        (dir, layout, cgroup)
    }

    #[test]
    fn what_was_there_before_stays() {
        let (_dir, _, mut cgroup) = pure("");
        let leaf = cgroup.unified.clone().unwrap();
        std::fs::remove_file(leaf.join("cgroup.controllers")).unwrap();
        std::fs::remove_dir(&leaf).unwrap();
        cgroup.make(leaf.parent().unwrap().parent().unwrap(), &leaf, false).unwrap();
        assert_eq!(cgroup.made, std::slice::from_ref(&leaf));
        std::fs::create_dir_all(leaf.join("inside/deeper")).unwrap();
        cgroup.remove().unwrap();
        assert!(!leaf.exists() && leaf.parent().unwrap().exists());
        cgroup.remove().unwrap();
    }

    #[test]
    fn a_new_cpuset_has_what_is_above_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut cgroup = Cgroup { unified: None, legacy: Vec::new(), made: Vec::new() };
        for name in ["cpuset.cpus", "cpuset.mems"] {
            std::fs::write(dir.path().join(name), "0-1\n").unwrap();
            std::fs::create_dir_all(dir.path().join("a")).unwrap();
            std::fs::write(dir.path().join("a").join(name), "\n").unwrap();
        }
        cgroup.make_one(&dir.path().join("a"), true).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("a/cpuset.cpus")).unwrap(), "0-1");
        assert!(cgroup.made.is_empty());
    }

    #[test]
    fn processes_in_a_directory_are_refused() {
        let (_dir, _, cgroup) = pure("");
        cgroup.refuse_if_taken().unwrap();
        std::fs::create_dir(cgroup.unified.as_ref().unwrap().join("inner")).unwrap();
        std::fs::write(cgroup.unified.as_ref().unwrap().join("inner/cgroup.procs"), "0\n4194305\n").unwrap();
        assert_eq!(cgroup.pids().unwrap(), [4_194_305]);
        assert!(cgroup.refuse_if_taken().unwrap_err().to_string().contains("processes already"));
    }
}
