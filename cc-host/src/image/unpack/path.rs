//! Names of entries: cleaned, bounded, and never upwards. Refuses `..` anywhere: no honest layer has it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::UnpackError;
use crate::image::limits::{COMPONENT_BYTES_MAX, DEPTH_MAX, PATH_BYTES_MAX};

/// A path below the root: components without `/`, `.`, `..` or NUL. Empty is the root itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LayerPath(Vec<OsString>);

/// What a name of the form `.wh.…` asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Name<'a> {
    Plain(&'a OsStr),
    /// Hide this name of the layers below.
    Whiteout(&'a OsStr),
    /// Hide everything that the layers below have in this directory.
    Opaque,
    /// Bookkeeping of aufs: means nothing to us.
    Ignored,
}

fn refuse(what: &str, bytes: &[u8], why: impl std::fmt::Display) -> UnpackError {
    let shown: String = String::from_utf8_lossy(bytes).chars().take(120).collect();
    UnpackError::Refused(format!("{what} {shown:?} {why}"))
}

impl LayerPath {
    /// A leading `/` is dropped, as every tool does.
    pub fn parse(what: &str, bytes: &[u8]) -> Result<Self, UnpackError> {
        if bytes.len() > PATH_BYTES_MAX {
            return Err(refuse(what, bytes, format_args!("is longer than {PATH_BYTES_MAX} bytes")));
        }
        if bytes.contains(&0) {
            return Err(refuse(what, bytes, "holds a NUL"));
        }
        let mut parts = Vec::new();
        for part in bytes.split(|&b| b == b'/').filter(|part| !part.is_empty() && *part != b".") {
            if part == b".." {
                return Err(refuse(what, bytes, "holds .."));
            }
            if part.len() > COMPONENT_BYTES_MAX {
                return Err(refuse(
                    what,
                    bytes,
                    format_args!("has a component longer than {COMPONENT_BYTES_MAX} bytes"),
                ));
            }
            parts.push(OsString::from_vec(part.to_vec()));
        }
        if parts.len() > DEPTH_MAX {
            return Err(refuse(what, bytes, format_args!("is deeper than {DEPTH_MAX}")));
        }
        Ok(LayerPath(parts))
    }

    /// The directory and the name in it; `None` for the root.
    pub fn split(&self) -> Option<(&[OsString], &OsStr)> {
        self.0.split_last().map(|(name, parent)| (parent, name.as_os_str()))
    }

    pub fn parts(&self) -> &[OsString] {
        &self.0
    }
}

/// The parts as a path that starts at the root.
pub fn join(parts: &[OsString]) -> std::path::PathBuf {
    if parts.is_empty() { "/".into() } else { parts.iter().collect() }
}

pub fn classify(name: &OsStr) -> Result<Name<'_>, UnpackError> {
    let bytes = name.as_bytes();
    let Some(rest) = bytes.strip_prefix(b".wh.") else { return Ok(Name::Plain(name)) };
    match rest {
        b".wh..opq" => Ok(Name::Opaque),
        _ if rest.starts_with(b".wh.") => Ok(Name::Ignored),
        b"" | b"." | b".." => Err(refuse("whiteout", bytes, "names nothing")),
        _ => Ok(Name::Whiteout(OsStr::from_bytes(rest))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<std::path::PathBuf, UnpackError> {
        LayerPath::parse("entry", text.as_bytes()).map(|p| join(p.parts()))
    }

    #[test]
    fn absolute_and_dotted_names_stay_below_the_root() {
        assert_eq!(parse("/etc/passwd").unwrap().to_str(), Some("etc/passwd"));
        assert_eq!(parse("./a//./b/").unwrap().to_str(), Some("a/b"));
        assert_eq!(parse("./").unwrap().to_str(), Some("/"));
    }

    #[test]
    fn upward_long_deep_and_nul_are_refused() {
        for bad in ["../x", "a/../b", "a/../../b", "..", "a/..", "a\0b"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        assert!(parse(&"a".repeat(256)).is_err());
        assert!(parse(&"a/".repeat(257)).is_err());
        assert!(parse(&"a/".repeat(2100)).is_err());
        assert!(parse(&"a/".repeat(256)).is_ok());
    }

    #[test]
    fn whiteouts_are_told_apart() {
        let name = |text: &'static str| classify(OsStr::new(text));
        assert_eq!(name("a").unwrap(), Name::Plain(OsStr::new("a")));
        assert_eq!(name(".wh.a").unwrap(), Name::Whiteout(OsStr::new("a")));
        assert_eq!(name(".wh..wh..opq").unwrap(), Name::Opaque);
        assert_eq!(name(".wh..wh.plnk").unwrap(), Name::Ignored);
        for bad in [".wh.", ".wh..", ".wh..."] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }
}
