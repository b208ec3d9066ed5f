//! Which cgroup hierarchies are mounted here, which controller is where, and where a `linux.cgroupsPath` is in each. Refuses to mount any, and
//! names that only systemd could make something of.

use std::path::{Component, Path, PathBuf};

use super::OciError;
use crate::mountinfo;

const FIELD: &str = "linux.cgroupsPath";

/// A mounted tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    pub mount: PathBuf,
    /// Of v1; on v2 each directory says which it has.
    pub controllers: Vec<String>,
    /// Where this process is, below the mount.
    pub own: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Layout {
    pub unified: Option<Hierarchy>,
    /// Each hierarchy once, those without a controller too: whoever named one wants every process in it.
    pub legacy: Vec<Hierarchy>,
}

/// A `linux.cgroupsPath`, as this means it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Below each hierarchy's root.
    BelowRoot(PathBuf),
    /// Below the place of who runs `cc-oci`.
    BelowOwn(PathBuf),
}

impl Wanted {
    /// Without one, it is /cc-oci/ID.
    pub fn parse(path: Option<&Path>, id: &str) -> Result<Wanted, OciError> {
        let Some(path) = path.filter(|path| !path.as_os_str().is_empty()) else {
            return Ok(Wanted::BelowRoot(Path::new("cc-oci").join(id)));
        };
        let invalid = |why: &str| OciError::Invalid { field: FIELD.to_owned(), why: why.to_owned() };
        let text = path.to_str().ok_or_else(|| invalid("it is not UTF-8"))?;
        if !text.starts_with('/') && text.split(':').count() == 3 {
            return Err(OciError::Unsupported {
                field: FIELD.to_owned(),
                why: "slice:prefix:name is for systemd, and cc-oci makes its cgroups itself: choose the cgroup manager cgroupfs (podman \
                      --cgroup-manager cgroupfs; SystemdCgroup = false in containerd's configuration)",
            });
        }
        let mut plain = PathBuf::new();
        for part in path.components() {
            match part {
                Component::Normal(name) => plain.push(name),
                Component::RootDir | Component::CurDir => {}
                Component::ParentDir | Component::Prefix(_) => return Err(invalid("it has .. in it")),
            }
        }
        if plain.as_os_str().is_empty() {
            return Err(invalid("it is the root, in which the host's own processes are"));
        }
        Ok(if path.is_absolute() { Wanted::BelowRoot(plain) } else { Wanted::BelowOwn(plain) })
    }
}

impl Layout {
    pub fn here() -> Result<Layout, OciError> {
        let read = |path: &str| {
            std::fs::read_to_string(path).map_err(|source| OciError::File {
                operation: "read",
                path: path.into(),
                source,
            })
        };
        Ok(Layout::parse(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?))
    }

    pub fn parse(table: &str, own: &str) -> Layout {
        let places: Vec<(Vec<&str>, &str)> = own.lines().filter_map(place).collect();
        let mut layout = Layout::default();
        for mount in table.lines().filter_map(mountinfo::mount) {
            let is_of = |names: &[&str]| match mount.kind {
                "cgroup2" => names.is_empty(),
                "cgroup" => {
                    !names.is_empty() && names.iter().all(|name| mount.options.split(',').any(|option| option == *name))
                }
                _ => false,
            };
            let Some((names, path)) = places.iter().find(|(names, _)| is_of(names)) else { continue };
            let controllers = names.iter().map(|name| (*name).to_owned()).collect();
            let hierarchy = Hierarchy { own: below(path, mount.root), controllers, mount: mount.target };
            if mount.kind == "cgroup2" {
                layout.unified.get_or_insert(hierarchy);
            } else if layout.legacy.iter().all(|other| other.controllers != hierarchy.controllers) {
                layout.legacy.push(hierarchy);
            }
        }
        layout
    }

    /// The v1 hierarchy of a controller.
    pub fn legacy_of(&self, controller: &str) -> Option<&Hierarchy> {
        self.legacy.iter().find(|one| one.controllers.iter().any(|name| name == controller))
    }
}

impl Hierarchy {
    /// A v2 cgroup with processes can give no controllers to those below it, and we are in ours: there, it is beside us. So runc has it.
    pub fn place(&self, wanted: &Wanted) -> PathBuf {
        match wanted {
            Wanted::BelowRoot(path) => self.mount.join(path),
            Wanted::BelowOwn(path) => {
                let has_controllers = self.controllers.is_empty()
                    && std::fs::read_to_string(self.mount.join("cgroup.controllers"))
                        .is_ok_and(|names| !names.trim().is_empty());
                let own = if has_controllers { self.own.parent().unwrap_or(Path::new("")) } else { &self.own };
                self.mount.join(own).join(path)
            }
        }
    }
}

/// Controllers, none for v2, and the path, of a line of /proc/self/cgroup.
fn place(line: &str) -> Option<(Vec<&str>, &str)> {
    let mut fields = line.splitn(3, ':');
    let (number, names, path) = (fields.next()?, fields.next()?, fields.next()?);
    let names: Vec<&str> = names.split(',').filter(|name| !name.is_empty()).collect();
    (names.is_empty() == (number == "0")).then_some((names, path))
}

/// Below the part of the tree that is mounted; its top where it is not in there.
fn below(path: &str, root: &str) -> PathBuf {
    let inside = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
    let outside = inside.components().any(|part| part == Component::ParentDir);
    if outside { PathBuf::new() } else { inside.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 20 0:25 / /sys/fs/cgroup rw - tmpfs tmpfs rw
31 30 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
32 30 0:27 /a /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
34 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
35 30 0:27 / /mnt/again rw - cgroup cgroup rw,memory
";
    const HYBRID_OWN: &str = "9:name=systemd:/s\n4:memory:/a/b\n1:cpu,cpuacct:/../x\n0::/u/v\n";

    #[test]
    fn hybrid() {
        let layout = Layout::parse(HYBRID, HYBRID_OWN);
        let mounts: Vec<&str> = layout.legacy.iter().map(|one| one.mount.to_str().unwrap()).collect();
        assert_eq!(mounts, ["/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/systemd"]);
        assert_eq!(layout.unified.as_ref().unwrap().mount, Path::new("/sys/fs/cgroup/unified"));
        // A part of the tree is mounted; a place outside of what is mounted is its top.
        assert_eq!(layout.legacy_of("memory").unwrap().own, Path::new("b"));
        assert_eq!(layout.legacy_of("cpuacct").unwrap().own, Path::new(""));
        assert!(layout.legacy_of("pids").is_none());
        let place = |wanted: &Wanted| layout.legacy_of("memory").unwrap().place(wanted);
        assert_eq!(place(&Wanted::BelowRoot("x".into())), Path::new("/sys/fs/cgroup/memory/x"));
        assert_eq!(place(&Wanted::BelowOwn("x".into())), Path::new("/sys/fs/cgroup/memory/b/x"));
    }

    #[test]
    fn pure_v2_is_beside_ourselves_where_it_has_controllers() {
        let dir = tempfile::tempdir().unwrap();
        let table = format!("30 20 0:25 / {} rw - cgroup2 none rw\n", dir.path().display());
        let layout = Layout::parse(&table, "0::/user/session\n");
        assert!(layout.legacy.is_empty());
        let unified = layout.unified.unwrap();
        let wanted = Wanted::BelowOwn("x".into());
        assert_eq!(unified.place(&wanted), dir.path().join("user/session/x"));
        std::fs::write(dir.path().join("cgroup.controllers"), "cpu memory\n").unwrap();
        assert_eq!(unified.place(&wanted), dir.path().join("user/x"));
    }

    #[test]
    fn pure_v1_and_none_at_all() {
        let table = "31 30 0:26 / /cg/memory rw - cgroup cgroup rw,memory\n";
        let layout = Layout::parse(table, "4:memory:/\n0::/\n");
        assert!(layout.unified.is_none() && layout.legacy.len() == 1);
        assert_eq!(Layout::parse("", ""), Layout::default());
    }

    #[test]
    fn paths_mean_what_other_runtimes_make_of_them() {
        let parse = |path: &str| Wanted::parse(Some(Path::new(path)), "id");
        assert_eq!(parse("/a//b/./c").unwrap(), Wanted::BelowRoot("a/b/c".into()));
        assert_eq!(parse("a/b").unwrap(), Wanted::BelowOwn("a/b".into()));
        for default in [Wanted::parse(None, "id"), parse("")] {
            assert_eq!(default.unwrap(), Wanted::BelowRoot("cc-oci/id".into()));
        }
        for (bad, word) in [("/", "root"), (".", "root"), ("/a/../..", ".."), ("system.slice:cri:x", "cgroupfs")] {
            let error = parse(bad).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains(FIELD), "{error}");
        }
        assert!(parse("/a:b:c").is_ok());
    }
}
