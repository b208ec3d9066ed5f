//! Controllers of v2, given down the path to a container's directory. Only those that it needs, and only where they are not given yet. Refuses to
//! move processes that are in the way.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use super::OciError;
use super::layout::{Hierarchy, Layout};

/// What a container is measured by: given where it can be, and nobody's fault where it cannot.
const WELCOME: [&str; 4] = ["cpu", "io", "memory", "pids"];

/// `needed` by their names on v2.
pub fn delegate(layout: &Layout, unified: &Hierarchy, leaf: &Path, needed: &BTreeSet<String>) -> Result<(), OciError> {
    let on_v1 = |name: &str| layout.legacy_of(if name == "io" { "blkio" } else { name }).is_some();
    let Ok(below) = leaf.strip_prefix(&unified.mount) else { return Ok(()) };
    let mut names: BTreeSet<&str> = needed.iter().map(String::as_str).collect();
    names.extend(WELCOME);
    for name in names.into_iter().filter(|name| !on_v1(name)) {
        match give(&unified.mount, below, name) {
            Err(Denied::NotThere) => {}
            Err(Denied::Failed { dir, source }) if needed.contains(name) => return Err(told(name, dir, source)),
            _ => {}
        }
    }
    Ok(())
}

enum Denied {
    /// Whose absence is told by who wants to set something.
    NotThere,
    Failed {
        dir: PathBuf,
        source: io::Error,
    },
}

/// In every directory above the last.
fn give(mount: &Path, below: &Path, name: &str) -> Result<(), Denied> {
    let mut dir = mount.to_owned();
    for part in below.components() {
        let failed = |source| Denied::Failed { dir: dir.clone(), source };
        let has = |file: &str| -> io::Result<bool> {
            Ok(std::fs::read_to_string(dir.join(file))?.split_ascii_whitespace().any(|one| one == name))
        };
        if !has("cgroup.controllers").map_err(failed)? {
            return Err(Denied::NotThere);
        }
        let control = dir.join("cgroup.subtree_control");
        if !has("cgroup.subtree_control").map_err(failed)? {
            std::fs::write(&control, format!("+{name}")).map_err(failed)?;
        }
        dir.push(part);
    }
    Ok(())
}

fn told(name: &str, dir: PathBuf, source: io::Error) -> OciError {
    if source.kind() != io::ErrorKind::ResourceBusy {
        return OciError::File { operation: "give controllers to what is below", path: dir, source };
    }
    let why = format!(
        "it is below {}, which has processes of its own, and so cgroup v2 gives the controller {name} to nothing below it: move them into a \
         cgroup beside the container's, or choose another path",
        dir.display()
    );
    OciError::Invalid { field: "linux.cgroupsPath".to_owned(), why }
}

#[cfg(test)]
mod tests {
    use super::super::tests::pure;
    use super::*;

    #[test]
    fn only_what_is_needed_and_missing_is_given() {
        let (dir, layout, cgroup) = pure("hugetlb pids");
        let unified = layout.unified.clone().unwrap();
        let leaf = cgroup.unified.unwrap();
        let above = [dir.path(), leaf.parent().unwrap()];
        let set = |file: &str, text: &str| above.iter().for_each(|at| std::fs::write(at.join(file), text).unwrap());
        let controls = || above.map(|at| std::fs::read_to_string(at.join("cgroup.subtree_control")).unwrap());
        set("cgroup.controllers", "hugetlb pids\n");
        set("cgroup.subtree_control", "pids\n");
        delegate(&layout, &unified, &leaf, &BTreeSet::new()).unwrap();
        assert_eq!(controls(), ["pids\n", "pids\n"]);
        // The kernel would add it; a file holds what was written last.
        set("cgroup.controllers", "hugetlb\n");
        delegate(&layout, &unified, &leaf, &BTreeSet::from(["hugetlb".to_owned()])).unwrap();
        assert_eq!(controls(), ["+hugetlb", "+hugetlb"]);
        // One that is nowhere is told by who sets it.
        delegate(&layout, &unified, &leaf, &BTreeSet::from(["rdma".to_owned()])).unwrap();
    }

    #[test]
    fn processes_in_the_way_are_told() {
        let busy = io::Error::from(io::ErrorKind::ResourceBusy);
        let error = told("memory", "/sys/fs/cgroup/x".into(), busy).to_string();
        assert!(error.contains("processes of its own") && error.contains("/sys/fs/cgroup/x"), "{error}");
    }
}
