//! The options of one mount of a config.json, as the specification's table has them, sorted by what the kernel does with each: attributes,
//! propagation, and data for the file system. Refuses what would have no effect.

use oci_spec::runtime::{LinuxIdMapping, Mount};

use super::error::OciError;
use super::namespaces::check_ranges;
use crate::shim::sys::Attributes;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Absolute, inside the container.
    pub target: String,
    pub kind: Kind,
    /// Of the mount itself.
    pub attributes: Attributes,
    /// Of it and of all below it.
    pub recursive: Attributes,
    pub propagation: Option<Propagation>,
    /// For the file system: a key with a value, or alone.
    pub data: Vec<(String, Option<String>)>,
    /// What lies under a tmpfs is copied into it.
    pub copy_up: bool,
    pub idmap: Option<IdMap>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Bind {
        source: std::path::PathBuf,
        recursive: bool,
    },
    /// The container's own cgroup, in whatever hierarchies the host has.
    Cgroup,
    Filesystem {
        name: String,
        source: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Propagation {
    pub flag: u64,
    pub recursive: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMap {
    pub recursive: bool,
    /// Without any, the container's own.
    pub own: Option<Mappings>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mappings {
    pub uids: Vec<LinuxIdMapping>,
    pub gids: Vec<LinuxIdMapping>,
}

/// Attributes by their names: what is set, and what is cleared. Those of access times are one field of the kernel's.
const ATTRIBUTES: [(&str, u64, u64); 22] = [
    ("ro", libc::MOUNT_ATTR_RDONLY, 0),
    ("rw", 0, libc::MOUNT_ATTR_RDONLY),
    ("nosuid", libc::MOUNT_ATTR_NOSUID, 0),
    ("suid", 0, libc::MOUNT_ATTR_NOSUID),
    ("nodev", libc::MOUNT_ATTR_NODEV, 0),
    ("dev", 0, libc::MOUNT_ATTR_NODEV),
    ("noexec", libc::MOUNT_ATTR_NOEXEC, 0),
    ("exec", 0, libc::MOUNT_ATTR_NOEXEC),
    ("nodiratime", libc::MOUNT_ATTR_NODIRATIME, 0),
    ("diratime", 0, libc::MOUNT_ATTR_NODIRATIME),
    ("relatime", libc::MOUNT_ATTR_RELATIME, libc::MOUNT_ATTR__ATIME),
    ("norelatime", 0, libc::MOUNT_ATTR__ATIME),
    ("noatime", libc::MOUNT_ATTR_NOATIME, libc::MOUNT_ATTR__ATIME),
    ("atime", 0, libc::MOUNT_ATTR__ATIME),
    ("strictatime", libc::MOUNT_ATTR_STRICTATIME, libc::MOUNT_ATTR__ATIME),
    ("nostrictatime", 0, libc::MOUNT_ATTR__ATIME),
    ("nosymfollow", libc::MOUNT_ATTR_NOSYMFOLLOW, 0),
    ("symfollow", 0, libc::MOUNT_ATTR_NOSYMFOLLOW),
    // What every mount is that is not told otherwise.
    ("defaults", 0, 0),
    ("loud", 0, 0),
    ("nomand", 0, 0),
    ("noiversion", 0, 0),
];

const PROPAGATIONS: [(&str, u64); 4] = [
    ("private", libc::MS_PRIVATE),
    ("slave", libc::MS_SLAVE),
    ("shared", libc::MS_SHARED),
    ("unbindable", libc::MS_UNBINDABLE),
];

/// Words that the kernel takes for any file system, and that a bind mount cannot change.
const SUPERBLOCK: [&str; 5] = ["sync", "dirsync", "lazytime", "iversion", "silent"];
const SUPERBLOCK_CLEARED: [&str; 2] = ["async", "nolazytime"];

/// Of a propagation's name, as `rslave`.
pub fn propagation(name: &str) -> Option<Propagation> {
    let known = |name: &str| PROPAGATIONS.iter().find(|(known, _)| *known == name).map(|(_, flag)| *flag);
    let one = |name, recursive| known(name).map(|flag| Propagation { flag, recursive });
    one(name, false).or_else(|| one(name.strip_prefix('r')?, true))
}

impl Plan {
    pub fn parse(mount: &Mount, field: &str) -> Result<Plan, OciError> {
        let none = Vec::new();
        let words = mount.options().as_ref().unwrap_or(&none);
        let target = path_text(mount.destination(), field, "destination")?;
        if !target.starts_with('/') {
            return Err(OciError::invalid(format!("{field}.destination"), format!("{target} is not absolute")));
        }
        let mut plan = Plan {
            target: plain(&target),
            kind: kind(mount, words, field)?,
            attributes: Attributes::default(),
            recursive: Attributes::default(),
            propagation: None,
            data: Vec::new(),
            copy_up: false,
            idmap: None,
        };
        for word in words {
            plan.take(word, field)?;
        }
        plan.map(mount, field)?;
        Ok(plan)
    }

    fn take(&mut self, word: &str, field: &str) -> Result<(), OciError> {
        if matches!(word, "bind" | "rbind") {
            return Ok(());
        }
        if let Some(found) = propagation(word) {
            self.propagation = Some(found);
        } else if let Some((set, clear)) = attribute(word) {
            add(&mut self.attributes, set, clear);
        } else if let Some((set, clear)) = word.strip_prefix('r').and_then(attribute) {
            add(&mut self.recursive, set, clear);
        } else if matches!(word, "idmap" | "ridmap") {
            self.idmap = Some(IdMap { recursive: word == "ridmap", own: None });
        } else if word == "tmpcopyup" {
            if !matches!(&self.kind, Kind::Filesystem { name, .. } if name == "tmpfs") {
                return Err(OciError::invalid(format!("{field}.options"), "tmpcopyup is for a tmpfs"));
            }
            self.copy_up = true;
        } else if matches!(word, "remount" | "mand") {
            let why = format!("{word} is nothing that a new mount can be");
            return Err(OciError::invalid(format!("{field}.options"), why));
        } else {
            return self.datum(word, field);
        }
        Ok(())
    }

    fn datum(&mut self, word: &str, field: &str) -> Result<(), OciError> {
        if matches!(self.kind, Kind::Bind { .. } | Kind::Cgroup) {
            if SUPERBLOCK_CLEARED.contains(&word) || word == "silent" {
                return Ok(());
            }
            let kind = if self.kind == Kind::Cgroup { "a cgroup" } else { "a bind" };
            let why = match SUPERBLOCK.contains(&word) {
                true => format!("{word} is of the file system, which {kind} mount does not change"),
                false => format!("{word} is no option of {kind} mount"),
            };
            return Err(OciError::invalid(format!("{field}.options"), why));
        }
        let datum = match word.split_once('=') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => (word.to_owned(), None),
        };
        // The kernel says so by itself of a superblock.
        if word != "silent" {
            self.data.push(datum);
        }
        Ok(())
    }

    fn map(&mut self, mount: &Mount, field: &str) -> Result<(), OciError> {
        let own = match (mount.uid_mappings(), mount.gid_mappings()) {
            (None, None) => None,
            (Some(uids), Some(gids)) => {
                check_ranges(uids, &format!("{field}.uidMappings"))?;
                check_ranges(gids, &format!("{field}.gidMappings"))?;
                Some(Mappings { uids: uids.clone(), gids: gids.clone() })
            }
            _ => {
                let why = "uidMappings and gidMappings come together";
                return Err(OciError::invalid(format!("{field}.uidMappings"), why));
            }
        };
        if own.is_none() && self.idmap.is_none() {
            return Ok(());
        }
        if !matches!(self.kind, Kind::Bind { .. }) {
            let why = "the ids of anything but a bind mount are not mapped";
            return Err(OciError::unsupported(format!("{field}.uidMappings"), why));
        }
        let recursive = self.idmap.as_ref().is_some_and(|map| map.recursive);
        self.idmap = Some(IdMap { recursive, own });
        Ok(())
    }
}

/// One name for each path: without empty parts and those that lead nowhere or back.
fn plain(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn attribute(word: &str) -> Option<(u64, u64)> {
    ATTRIBUTES.iter().find(|(known, ..)| *known == word).map(|(_, set, clear)| (*set, *clear))
}

/// What is said later counts.
fn add(attributes: &mut Attributes, set: u64, clear: u64) {
    attributes.set = attributes.set & !clear | set;
    // The field of access times is cleared where it is set; a single bit is one or the other.
    attributes.clear = attributes.clear & !(set & !libc::MOUNT_ATTR__ATIME) | clear;
}

fn kind(mount: &Mount, words: &[String], field: &str) -> Result<Kind, OciError> {
    let bind = words.iter().rev().find(|word| matches!(word.as_str(), "bind" | "rbind"));
    let name = mount.typ().as_deref().unwrap_or("");
    let source = mount.source().as_deref().unwrap_or(std::path::Path::new(""));
    if let (Some(_), _) | (_, "bind" | "rbind") = (bind, name) {
        if source.as_os_str().is_empty() {
            return Err(OciError::invalid(format!("{field}.source"), "a bind mount needs one"));
        }
        let recursive = bind.map_or(name, String::as_str) == "rbind";
        return Ok(Kind::Bind { source: source.to_owned(), recursive });
    }
    match name {
        "" => Err(OciError::invalid(format!("{field}.type"), "without a type, it has to be a bind mount")),
        "cgroup" | "cgroup2" => Ok(Kind::Cgroup),
        name => Ok(Kind::Filesystem { name: name.to_owned(), source: path_text(source, field, "source")? }),
    }
}

fn path_text(path: &std::path::Path, field: &str, name: &str) -> Result<String, OciError> {
    let text = path.to_str().filter(|text| !text.contains('\0'));
    text.map(str::to_owned).ok_or_else(|| OciError::invalid(format!("{field}.{name}"), "it holds a NUL or no UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Plan, OciError> {
        Plan::parse(&serde_json::from_str(text).unwrap(), "mounts[0]")
    }

    #[test]
    fn every_word_goes_where_the_kernel_wants_it() {
        let plan = parse(
            r#"{"destination":"/d","type":"tmpfs","source":"tmpfs","options":["nosuid","ro","noatime","rw","size=4k","rshared","tmpcopyup","rnodev","sync"]}"#,
        )
        .unwrap();
        assert_eq!(plan.kind, Kind::Filesystem { name: "tmpfs".into(), source: "tmpfs".into() });
        assert_eq!(plan.attributes.set, libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOATIME);
        assert_eq!(plan.attributes.clear, libc::MOUNT_ATTR__ATIME | libc::MOUNT_ATTR_RDONLY);
        assert_eq!(plan.recursive.set, libc::MOUNT_ATTR_NODEV);
        assert_eq!(plan.propagation, Some(Propagation { flag: libc::MS_SHARED, recursive: true }));
        assert_eq!(plan.data, [("size".to_owned(), Some("4k".to_owned())), ("sync".to_owned(), None)]);
        assert!(plan.copy_up);
    }

    #[test]
    fn the_last_of_two_words_counts() {
        let set = |options: &str| {
            let text = format!(r#"{{"destination":"/d","source":"/s","options":["bind",{options}]}}"#);
            let plan = parse(&text).unwrap();
            (plan.attributes.set, plan.attributes.clear)
        };
        assert_eq!(set(r#""rw","ro""#), (libc::MOUNT_ATTR_RDONLY, 0));
        assert_eq!(set(r#""ro","rw""#), (0, libc::MOUNT_ATTR_RDONLY));
        assert_eq!(set(r#""noatime","strictatime""#), (libc::MOUNT_ATTR_STRICTATIME, libc::MOUNT_ATTR__ATIME));
    }

    #[test]
    fn a_destination_has_one_name() {
        for (given, target) in [("//dev", "/dev"), ("/dev/", "/dev"), ("/./a//b/..//c/.", "/a/c"), ("/../..", "/")] {
            let plan = parse(&format!(r#"{{"destination":"{given}","type":"tmpfs"}}"#)).unwrap();
            assert_eq!(plan.target, target, "{given}");
        }
    }

    #[test]
    fn what_would_do_nothing_is_refused() {
        for text in [
            r#"{"destination":"d","type":"tmpfs"}"#,
            r#"{"destination":"/d"}"#,
            r#"{"destination":"/d","type":"bind"}"#,
            r#"{"destination":"/d","source":"/s","options":["bind","size=4k"]}"#,
            r#"{"destination":"/d","source":"/s","options":["bind","sync"]}"#,
            r#"{"destination":"/d","source":"/s","options":["bind","tmpcopyup"]}"#,
            r#"{"destination":"/d","source":"/s","options":["rbind","remount"]}"#,
            r#"{"destination":"/d","source":"/s","options":["bind"],"uidMappings":[]}"#,
            r#"{"destination":"/d","type":"tmpfs","options":["idmap"]}"#,
            r#"{"destination":"/d","source":"/s","options":["bind"],"uidMappings":[{"hostID":4294967295,"containerID":0,"size":1}],"gidMappings":[{"hostID":0,"containerID":0,"size":1}]}"#,
            r#"{"destination":"/d","source":"/s","options":["bind"],"gidMappings":[{"hostID":0,"containerID":4294967295,"size":1}],"uidMappings":[{"hostID":0,"containerID":0,"size":1}]}"#,
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
