//! Options of a container's program, from what people write: capabilities, resource limits, temporary file systems. Refuses to apply
//! them: the shim does.

use cc_common::api::fault::Fault;
use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};
use tonic::Code;

use super::error::ContainerError;
use crate::seccomp::SeccompError;
use crate::shim::privileges::{self, DEFAULT_CAPABILITIES};
use crate::shim::spec::{RlimitKind, RlimitSpec, TmpfsSpec};

/// What docker gives to one whose size nobody said is half of the memory; here nobody gets that unasked.
const TMPFS_BYTES_DEFAULT: u64 = 64 << 20;
const TMPFS_MODE_DEFAULT: u32 = 0o1777;
pub const TMPFS_MAX: usize = 32;
pub const ULIMITS_MAX: usize = 16;

/// Beside or instead of the usual ones.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Capabilities {
    pub add: Vec<String>,
    pub drop: Vec<String>,
}

impl Capabilities {
    pub fn check(&self) -> Result<(), String> {
        self.add.iter().chain(&self.drop).try_for_each(|name| named(name).map(drop))
    }

    /// Whether it asks for more than everybody has.
    pub fn asks_for_more(&self) -> bool {
        self.add.iter().any(|name| named(name).is_ok_and(|set| !DEFAULT_CAPABILITIES.contains(set)))
    }

    /// That its first program has.
    pub fn set(&self) -> CapabilitySet {
        privileges::capabilities(self.bits())
    }

    /// As bits, if anything is said: first what is dropped, so that ALL can be dropped and one be kept.
    pub fn bits(&self) -> Option<u64> {
        if self.add.is_empty() && self.drop.is_empty() {
            return None;
        }
        let sum = |names: &[String]| {
            names.iter().filter_map(|name| named(name).ok()).fold(CapabilitySet::empty(), CapabilitySet::union)
        };
        Some(DEFAULT_CAPABILITIES.difference(sum(&self.drop)).union(sum(&self.add)).bits())
    }
}

/// `NET_ADMIN`, `CAP_NET_ADMIN`, in either case, or `ALL`.
fn named(text: &str) -> Result<CapabilitySet, String> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
    if name == "ALL" {
        return Ok(CapabilitySet::all());
    }
    CapabilitySet::from_name(name).ok_or_else(|| format!("{text} is no capability; see man 7 capabilities"))
}

/// `NAME=SOFT[:HARD]`; -1 and `unlimited` mean no limit.
pub fn ulimit(text: &str) -> Result<RlimitSpec, String> {
    let wrong = || format!("{text} is not NAME=SOFT[:HARD]");
    let (name, limits) = text.split_once('=').ok_or_else(wrong)?;
    let resource = match name {
        "core" => RlimitKind::Core,
        "cpu" => RlimitKind::Cpu,
        "data" => RlimitKind::Data,
        "fsize" => RlimitKind::Fsize,
        "memlock" => RlimitKind::Memlock,
        "nofile" => RlimitKind::Nofile,
        "nproc" => RlimitKind::Nproc,
        "stack" => RlimitKind::Stack,
        _ => {
            let known = "core, cpu, data, fsize, memlock, nofile, nproc and stack";
            return Err(format!("{name} is no limit that can be set: {known} can"));
        }
    };
    let value = |text: &str| match text {
        "-1" | "unlimited" => Ok(u64::MAX),
        text => text.parse().map_err(|_| wrong()),
    };
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let (soft, hard) = (value(soft)?, value(hard)?);
    if soft > hard {
        Err(format!("{text}: the soft limit is above the hard one"))
    } else {
        Ok(RlimitSpec { resource, soft, hard })
    }
}

/// `PATH[:size=64m,mode=1777]`, as docker takes them.
pub fn tmpfs(text: &str) -> Result<TmpfsSpec, String> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    if !target.starts_with('/') || target.trim_matches('/').is_empty() {
        return Err(format!("{target} is not an absolute path below /"));
    }
    if ["/proc", "/sys", "/dev"]
        .iter()
        .any(|own| target.trim_end_matches('/') == *own || target.starts_with(&format!("{own}/")) && *own != "/dev")
    {
        return Err(format!("{target} is the kernel's"));
    }
    let mut spec = TmpfsSpec { target: target.to_owned(), size_bytes: TMPFS_BYTES_DEFAULT, mode: TMPFS_MODE_DEFAULT };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("size", size)) => {
                spec.size_bytes = bytes(size).ok_or_else(|| format!("size={size} is no size: 64m, 1g, or bytes"))?;
            }
            Some(("mode", mode)) => {
                let parsed = u32::from_str_radix(mode, 8).ok().filter(|mode| *mode <= 0o7777);
                spec.mode = parsed.ok_or_else(|| format!("mode={mode} is no mode: 1777, in octal"))?;
            }
            // They are so in any case.
            None if matches!(option, "rw" | "nosuid" | "nodev" | "noexec") => {}
            _ => return Err(format!("{option} is no option of it: size= and mode= are")),
        }
    }
    Ok(spec)
}

fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor).filter(|&bytes| bytes > 0)
}

pub fn bad_profile(error: SeccompError) -> ContainerError {
    ContainerError::BadOption { field: "--security-opt seccomp", why: error.to_string() }
}

/// Why somebody may not.
pub fn not_granted(what: &str) -> Fault {
    let why = "it is for admins, and for operators of projects that the host's configuration grants it to";
    Fault::new(Code::PermissionDenied, "auth.privileged", format!("cannot run with {what}"), why)
        .next("ask an admin, or for the project to be named in privileged_projects")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capabilities(add: &[&str], drop: &[&str]) -> Capabilities {
        let own = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        Capabilities { add: own(add), drop: own(drop) }
    }

    #[test]
    fn capabilities_by_name_and_all_but_one() {
        assert_eq!(capabilities(&[], &[]).bits(), None);
        assert_eq!(capabilities(&["net_bind_service"], &["ALL"]).bits(), Some(1 << 10));
        assert_eq!(capabilities(&["CAP_NET_ADMIN"], &[]).bits(), Some(DEFAULT_CAPABILITIES.bits() | 1 << 12));
        assert!(
            capabilities(&["NET_ADMIN"], &[]).asks_for_more() && !capabilities(&["CHOWN"], &["ALL"]).asks_for_more()
        );
        assert!(capabilities(&["ALL"], &[]).asks_for_more());
        assert!(capabilities(&["FLY"], &[]).check().is_err());
    }

    #[test]
    fn ulimits_have_names_and_order() {
        let limit = ulimit("nofile=1024:2048").unwrap();
        assert_eq!((limit.resource, limit.soft, limit.hard), (RlimitKind::Nofile, 1024, 2048));
        assert_eq!(ulimit("core=-1").unwrap().hard, u64::MAX);
        for bad in ["nofile", "nofile=", "nofile=2:1", "files=1", "nofile=x", "nofile=1:2:3"] {
            assert!(ulimit(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn temporary_file_systems_have_a_place_a_size_and_a_mode() {
        let spec = tmpfs("/run:size=1m,mode=755,noexec").unwrap();
        assert_eq!((spec.target.as_str(), spec.size_bytes, spec.mode), ("/run", 1 << 20, 0o755));
        assert_eq!(tmpfs("/tmp").unwrap().size_bytes, 64 << 20);
        for bad in ["tmp", "/", "/proc", "/sys/fs", "/dev", "/tmp:size=0", "/tmp:size=1x", "/tmp:mode=9", "/tmp:exec"] {
            assert!(tmpfs(bad).is_err(), "{bad}");
        }
    }
}
