//! Where our directory is if nobody says: in the part of the tree that systemd gave us, else below the root. Refuses to leave a place that
//! a daemon before us chose since the machine came up: its containers are there.

use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use super::CgroupError;
use super::hierarchy::Hierarchies;

/// Below each hierarchy's root, where nothing is given to us.
const OWN: &str = "cc";
/// As the unit names it (`DelegateSubgroup=`): a cgroup that passes controllers on may have no process itself.
const DAEMON: &str = "daemon";
/// Beside it.
const CONTAINERS: &str = "containers";
/// Below our directory, of the shims.
const SHIMS: &str = "shims";
/// By which systemd marks what it keeps its hands off; the first since 252, the second before.
const MARKS: [&str; 2] = ["user.delegate", "trusted.delegate"];
/// In the directory that lives as long as the machine is up.
const RECORD: &str = "cgroup_dir";

/// Relative to each hierarchy's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub dir: PathBuf,
    /// How many parts of it were there before us, and are not ours to write to.
    pub others: usize,
}

impl Place {
    /// All of it ours.
    pub fn own(dir: &Path) -> Result<Place, CgroupError> {
        Place::new(dir, 0)
    }

    fn new(dir: &Path, others: usize) -> Result<Place, CgroupError> {
        let plain = dir.components().all(|part| matches!(part, Component::Normal(_)));
        if !plain || dir.as_os_str().is_empty() {
            return Err(CgroupError::BadDirectory(dir.to_owned()));
        }
        Ok(Place { dir: dir.to_owned(), others })
    }

    /// What the daemon before us chose, while it is there; else what there is now, kept for the next one.
    pub fn choose(run_dir: &Path) -> Result<Place, CgroupError> {
        let hierarchies = Hierarchies::mounted()?;
        let record = run_dir.join(RECORD);
        let before = std::fs::read_to_string(&record).ok().and_then(|text| from_record(text.trim()));
        if let Some(before) = before.filter(|place| hierarchies.unified.mount.join(&place.dir).is_dir()) {
            return Ok(before);
        }
        // A daemon that kept no note had no other place, and its shims are there as long as its containers.
        let unnoted = hierarchies.unified.mount.join(OWN).join(SHIMS).is_dir();
        let found = if unnoted { None } else { given(&hierarchies) };
        let place = found.unwrap_or(Place { dir: OWN.into(), others: 0 });
        write(&record, &place.dir).map_err(|source| CgroupError::Directory {
            operation: "note the place of",
            dir: place.dir.clone(),
            source,
        })?;
        Ok(place)
    }
}

fn from_record(text: &str) -> Option<Place> {
    match text {
        OWN => Place::own(Path::new(OWN)).ok(),
        text => below(Path::new(text).parent()?),
    }
}

/// Only where every controller is on v2: on v1 each hierarchy has a place of its own.
fn given(hierarchies: &Hierarchies) -> Option<Place> {
    if !hierarchies.legacy.is_empty() || hierarchies.unified.above > 0 {
        return None;
    }
    let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    beside(&own, |dir| is_marked(&hierarchies.unified.mount.join(dir)))
}

/// Beside the daemon's own cgroup, if that is a leaf of what was given to it.
fn beside(own: &str, is_given: impl Fn(&Path) -> bool) -> Option<Place> {
    let own = Path::new(own.lines().find_map(|line| line.strip_prefix("0::/"))?);
    let above = own.parent().filter(|above| own.ends_with(DAEMON) && is_given(above))?;
    below(above)
}

/// `unit` is ours, and none of what is above it.
fn below(unit: &Path) -> Option<Place> {
    let others = unit.components().count().checked_sub(1)?;
    Place::new(&unit.join(CONTAINERS), others).ok()
}

fn is_marked(dir: &Path) -> bool {
    let mut value = [0; 8];
    MARKS
        .iter()
        .any(|mark| rustix::fs::getxattr(dir, *mark, &mut value[..]).is_ok_and(|length| value[..length] == *b"1"))
}

/// By rename: half a name would be another one's.
fn write(record: &Path, dir: &Path) -> io::Result<()> {
    let fresh = record.with_extension("new");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.create(true).write(true).truncate(true).mode(0o600).open(&fresh)?;
    io::Write::write_all(&mut file, dir.as_os_str().as_encoded_bytes())?;
    file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(fresh, record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systemd_gives_is_used_beside_the_daemons_own() {
        let unit = Path::new("system.slice/cc-host.service");
        let of = |own: &str| beside(own, |dir| dir == unit);
        let place = of("0::/system.slice/cc-host.service/daemon\n").unwrap();
        assert_eq!(place.dir, Path::new("system.slice/cc-host.service/containers"));
        assert_eq!(place.others, 1, "the slice is systemd's");
        for other in [
            "0::/system.slice/cc-host.service\n",
            "0::/system.slice/other.service/daemon\n",
            "0::/daemon\n",
            "0::/\n",
            "3:memory:/system.slice/cc-host.service/daemon\n",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let record = dir.path().join(RECORD);
        let place = beside("0::/system.slice/a.service/daemon\n", |_| true).unwrap();
        for place in [place, Place::own(Path::new(OWN)).unwrap()] {
            write(&record, &place.dir).unwrap();
            assert_eq!(from_record(&std::fs::read_to_string(&record).unwrap()), Some(place));
        }
        for bad in ["", "/", "..", "a/../../b/containers"] {
            assert_eq!(from_record(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn names_cannot_leave_our_directory() {
        for bad in ["", "/", "/cc", "..", "a/../b", "."] {
            assert!(matches!(Place::own(Path::new(bad)), Err(CgroupError::BadDirectory(_))), "{bad:?}");
        }
    }
}
