//! Which side is the container's, and where a copy lands here, as `cp` would have it. Refuses to read or write a file.

use std::path::{Component, Path, PathBuf};

use cc_common::api::fault::Fault;
use cc_common::api::v1::{CopyHeader, CopyKind};

use super::{CpError, disk};
use crate::error::usage;

#[derive(Debug, PartialEq, Eq)]
pub enum Local {
    Path(PathBuf),
    /// `-`
    Stream,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Direction {
    In { from: Local, container: String, path: String },
    Out { container: String, path: String, to: Local },
}

impl Direction {
    pub fn parse(source: &str, destination: &str) -> Result<Direction, Fault> {
        let wrong =
            |why: &str| usage("cannot copy", why).next("name one container: cc cp FILE ID:PATH, or cc cp ID:PATH FILE");
        match (side(source), side(destination)) {
            (Side::Here(from), Side::Container(container, path)) => Ok(Direction::In { from, container, path }),
            (Side::Container(container, path), Side::Here(to)) => Ok(Direction::Out { container, path, to }),
            (Side::Container(..), Side::Container(..)) => Err(wrong("source and destination are both in a container")),
            (Side::Here(_), Side::Here(_)) => Err(wrong("neither source nor destination is in a container")),
        }
    }
}

enum Side {
    Here(Local),
    Container(String, String),
}

/// A local path with a colon begins with `/` or `.`, as docker has it.
fn side(text: &str) -> Side {
    match text.split_once(':') {
        _ if text == "-" => Side::Here(Local::Stream),
        Some((id, path)) if !id.is_empty() && !text.starts_with(['/', '.']) => {
            Side::Container(id.to_owned(), if path.is_empty() { "/".to_owned() } else { path.to_owned() })
        }
        _ => Side::Here(Local::Path(text.into())),
    }
}

#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    pub path: PathBuf,
    /// Its own, whatever the path to it was.
    pub name: String,
    pub is_directory: bool,
    /// What is in it, and not itself.
    pub contents: bool,
}

pub fn source(path: &Path, follow: bool) -> Result<Source, CpError> {
    let text = path.as_os_str().to_string_lossy();
    let contents = text.ends_with("/.") || text == ".";
    let follows = follow || text.ends_with('/') || contents;
    let metadata = if follows { std::fs::metadata(path) } else { std::fs::symlink_metadata(path) };
    let metadata = metadata.map_err(disk("read", path))?;
    let real = if follows || path.file_name().is_none() {
        std::fs::canonicalize(path).map_err(disk("find", path))?
    } else {
        path.to_owned()
    };
    // As it was named, also where that is a symlink. The file system's root has no name, and then only what is in it can be meant.
    let name = path.file_name().or(real.file_name()).map(|name| name.to_string_lossy().into_owned());
    let contents = contents || name.is_none();
    let name = name.unwrap_or_else(|| "root".to_owned());
    Ok(Source { path: real, name, is_directory: metadata.is_dir(), contents })
}

/// Where an archive is unpacked here.
#[derive(Debug, PartialEq, Eq)]
pub struct Target {
    /// What the archive's one entry at the top becomes.
    pub path: PathBuf,
    /// How many names of each entry stand for it.
    pub stripped: usize,
}

/// The name is that of the path that was asked for: neither the container nor the daemon has a say in what is written here.
pub fn target(path: &Path, asked: &str, header: &CopyHeader) -> Result<Target, CpError> {
    let is_directory = header.kind() == CopyKind::Directory;
    let contents = asked.ends_with("/.");
    let stripped = usize::from(header.name != ".");
    let here = |path: PathBuf| Ok(Target { path, stripped });
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => {
            let real = std::fs::canonicalize(path).map_err(disk("find", path))?;
            match name_of(asked) {
                Some(name) if !(contents && is_directory) => here(real.join(name)),
                _ if is_directory => here(real),
                _ => Err(CpError::Refused(format!("the daemon says that {asked} is no directory"))),
            }
        }
        Ok(_) if is_directory => Err(CpError::Refused(format!("{} is no directory", path.display()))),
        Ok(_) => here(std::fs::canonicalize(path).map_err(disk("find", path))?),
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => {
            if !is_directory && path.as_os_str().to_string_lossy().ends_with('/') {
                return Err(CpError::Refused(format!("there is no directory {}", path.display())));
            }
            let name = path.file_name().ok_or_else(|| CpError::Refused(format!("{} names nothing", path.display())))?;
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let real = std::fs::canonicalize(parent).map_err(disk("find the directory", parent))?;
            here(real.join(name))
        }
        Err(source) => Err(disk("look at", path)(source)),
    }
}

/// The last name of a path in the container, as its text says; None of the root.
fn name_of(asked: &str) -> Option<&std::ffi::OsStr> {
    let mut names = Vec::new();
    for component in Path::new(asked).components() {
        match component {
            Component::Normal(name) => names.push(name),
            Component::ParentDir => drop(names.pop()),
            _ => {}
        }
    }
    names.pop()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &str, kind: CopyKind) -> CopyHeader {
        CopyHeader { name: name.to_owned(), kind: kind.into() }
    }

    #[test]
    fn one_side_is_a_container() {
        let is_in = |a: &str, b: &str| matches!(Direction::parse(a, b), Ok(Direction::In { .. }));
        let is_out = |a: &str, b: &str| matches!(Direction::parse(a, b), Ok(Direction::Out { .. }));
        assert!(
            is_in("file", "web:/tmp") && is_in("-", "web:") && is_in("./a:b", "web:/tmp") && is_in("/a:b", "web:x")
        );
        assert!(is_out("web:/tmp", "file") && is_out("web:/tmp", "-") && is_out("web:/tmp", "./a:b"));
        assert!(Direction::parse("a:/x", "b:/y").is_err() && Direction::parse("a", "b").is_err());
        assert_eq!(
            Direction::parse("web:/a:b", "c").unwrap(),
            Direction::Out { container: "web".into(), path: "/a:b".into(), to: Local::Path("c".into()) }
        );
    }

    #[test]
    fn sources_have_their_own_name() {
        let dir = tempfile::tempdir().unwrap();
        let sub = dir.path().join("sub");
        std::fs::create_dir(&sub).unwrap();
        std::os::unix::fs::symlink("sub", dir.path().join("link")).unwrap();
        let of = |path: &str, follow| source(&dir.path().join(path), follow).unwrap();
        assert_eq!((of("sub", false).name.as_str(), of("sub", false).contents), ("sub", false));
        assert_eq!((of("sub/.", false).name.as_str(), of("sub/.", false).contents), ("sub", true));
        assert_eq!((of("link", false).name.as_str(), of("link", false).is_directory), ("link", false));
        assert_eq!((of("link", true).name.as_str(), of("link", true).is_directory), ("link", true));
        assert!(source(&dir.path().join("no"), false).is_err());
    }

    #[test]
    fn copies_land_where_cp_would_put_them() {
        let dir = tempfile::tempdir().unwrap();
        let real = std::fs::canonicalize(dir.path()).unwrap();
        std::fs::write(real.join("file"), b"").unwrap();
        std::fs::create_dir(real.join("sub")).unwrap();
        let file = header("x", CopyKind::File);
        let tree = header("x", CopyKind::Directory);
        let at = |path: &str, asked: &str, header: &CopyHeader| {
            let path = format!("{}/{path}", real.display());
            target(Path::new(&path), asked, header).map(|target| target.path.strip_prefix(&real).unwrap().to_owned())
        };
        assert_eq!(at("sub", "/x", &file).unwrap(), Path::new("sub/x"));
        assert_eq!(at("file", "/x", &file).unwrap(), Path::new("file"));
        assert_eq!(at("new", "/x", &file).unwrap(), Path::new("new"));
        assert_eq!(at("sub", "/x", &tree).unwrap(), Path::new("sub/x"));
        assert_eq!(at("sub", "/x/.", &tree).unwrap(), Path::new("sub"));
        assert_eq!(at("new", "/x", &tree).unwrap(), Path::new("new"));
        assert_eq!(at("sub", "/", &header(".", CopyKind::Directory)).unwrap(), Path::new("sub"));
        assert!(
            at("new/", "/x", &file).is_err() && at("file", "/x", &tree).is_err() && at("no/new", "/x", &file).is_err()
        );
        // Whatever the other side calls it (CVE-2019-6111).
        for hostile in [".bashrc", "..", "a/b", "/etc", ".", ""] {
            for asked in ["/srv/report", "srv/x/../report/", "/srv/report"] {
                let named = at("sub", asked, &header(hostile, CopyKind::Directory)).unwrap();
                assert_eq!(named, Path::new("sub/report"), "{hostile:?}");
            }
            assert!(at("sub", "/", &header(hostile, CopyKind::File)).is_err(), "{hostile:?}");
        }
    }
}
