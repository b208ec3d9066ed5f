//! Lines of /proc/self/mountinfo, for whoever looks for cgroup hierarchies. Refuses what is not on the line.

use std::path::PathBuf;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount<'a> {
    /// Which part of the file system is mounted.
    pub root: &'a str,
    pub target: PathBuf,
    pub kind: &'a str,
    /// The file system's own.
    pub options: &'a str,
}

/// Nothing where a line is none of the kernel's.
pub fn mount(line: &str) -> Option<Mount<'_>> {
    let (before, after) = line.split_once(" - ")?;
    let mut fields = before.split(' ').skip(3);
    let (root, target) = (fields.next()?, fields.next()?);
    let mut fields = after.split(' ');
    let (kind, _source, options) = (fields.next()?, fields.next()?, fields.next()?);
    Some(Mount { root, target: PathBuf::from(target.replace("\\040", " ")), kind, options })
}
