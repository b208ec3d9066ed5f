//! A bundle's config.json, read and checked whole before anything is done: every field is done, or refused by its name. Refuses what other
//! systems have, and what this one cannot do.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxPersonalityDomain, LinuxResources, Spec};

use super::devices::{self, Node};
use super::error::OciError;
use super::hooks::Hooks;
use super::namespaces::Namespaces;
use super::options::{self, Propagation};
use super::process;
use super::sysctl::{self, Setting};
use crate::shim::filter::Filter;
use crate::shim::spec::SPEC_BYTES_MAX;

/// What `--version` and `state` say.
pub const SPEC_VERSION: &str = "1.2.0";

#[derive(Debug)]
pub struct Config {
    /// Absolute, without links.
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    pub read_only: bool,
    pub process: Option<process::Plan>,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    pub mounts: Vec<options::Plan>,
    pub namespaces: Namespaces,
    pub devices: Vec<Node>,
    /// /dev is the host's: nothing is made in it.
    pub foreign_dev: bool,
    pub settings: Vec<Setting>,
    pub masked: Vec<String>,
    pub read_only_paths: Vec<String>,
    pub propagation: Propagation,
    pub personality: Option<u64>,
    pub seccomp: Option<Filter>,
    pub hooks: Hooks,
    pub cgroups_path: Option<PathBuf>,
    pub resources: Option<LinuxResources>,
    pub annotations: std::collections::HashMap<String, String>,
    /// As it was read, for `exec` later.
    pub text: Vec<u8>,
}

/// Bounded, as what is read whole has to be.
pub fn read(path: &Path) -> Result<Vec<u8>, OciError> {
    let failed = |source| OciError::File { operation: "read", path: path.into(), source };
    let mut bytes = Vec::new();
    std::fs::File::open(path).map_err(failed)?.take(SPEC_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > SPEC_BYTES_MAX {
        return Err(OciError::invalid(path.display().to_string(), format!("it is larger than {SPEC_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

/// Without asking whether it can be done.
pub fn parse(text: &[u8], path: &Path) -> Result<Spec, OciError> {
    serde_json::from_slice(text).map_err(|source| OciError::Json { path: path.into(), source })
}

impl Config {
    pub fn load(bundle: &Path) -> Result<Config, OciError> {
        let failed = |path: &Path, source| OciError::File { operation: "find", path: path.into(), source };
        let bundle = std::fs::canonicalize(bundle).map_err(|e| failed(bundle, e))?;
        let path = bundle.join("config.json");
        Config::check(bundle, read(&path)?, |rootfs| {
            let rootfs = std::fs::canonicalize(rootfs).map_err(|e| failed(rootfs, e))?;
            if !rootfs.is_dir() {
                return Err(OciError::invalid("root.path", format!("{} is no directory", rootfs.display())));
            }
            Ok(rootfs)
        })
    }

    /// Of the bundle's config.json, whose `text` this is. `find` is asked for the root where it is said to be.
    pub(super) fn check(
        bundle: PathBuf,
        text: Vec<u8>,
        find: impl FnOnce(&Path) -> Result<PathBuf, OciError>,
    ) -> Result<Config, OciError> {
        let spec = parse(&text, &bundle.join("config.json"))?;
        check_version(spec.version())?;
        refuse_foreign(&spec)?;
        let root = spec.root().as_ref().ok_or_else(|| OciError::invalid("root", "it is missing"))?;
        let rootfs = find(&bundle.join(root.path()))?;
        let linux = spec.linux().as_ref();
        refuse_linux(linux)?;
        let namespaces = Namespaces::parse(linux)?;
        let mounts = spec.mounts().iter().flatten().enumerate();
        let mounts: Vec<_> =
            mounts.map(|(n, one)| options::Plan::parse(one, &format!("mounts[{n}]"))).collect::<Result<_, _>>()?;
        let foreign_dev = mounts
            .iter()
            .any(|one| matches!(one.kind, options::Kind::Bind { .. }) && one.target.trim_end_matches('/') == "/dev");
        let is_taken = |node: &Node| mounts.iter().any(|one| one.target == node.path);
        let mut devices = devices::parse(linux)?;
        devices.retain(|node| !(node.is_usual() && is_taken(node)));
        let process = spec.process().as_ref().map(process::Plan::parse).transpose()?;
        Ok(Config {
            read_only: root.readonly().unwrap_or(false),
            rootfs,
            process,
            hostname: name(spec.hostname(), "hostname", &namespaces)?,
            domainname: name(spec.domainname(), "domainname", &namespaces)?,
            mounts,
            devices,
            foreign_dev,
            settings: sysctl::parse(linux, &namespaces)?,
            masked: paths(linux.and_then(|l| l.masked_paths().as_ref()), "linux.maskedPaths")?,
            read_only_paths: paths(linux.and_then(|l| l.readonly_paths().as_ref()), "linux.readonlyPaths")?,
            propagation: root_propagation(linux)?,
            personality: personality(linux)?,
            seccomp: linux.and_then(|l| l.seccomp().as_ref()).map(super::seccomp::filter).transpose()?,
            hooks: Hooks::parse(spec.hooks().as_ref())?,
            cgroups_path: linux.and_then(|l| l.cgroups_path().clone()),
            resources: linux.and_then(|l| l.resources().clone()),
            annotations: annotations(&spec)?,
            namespaces,
            bundle,
            text,
        })
    }
}

/// Of the same major version: what came later is optional for a config.json, or refused by its name.
fn check_version(version: &str) -> Result<(), OciError> {
    let core = version.split_once(['-', '+']).map_or(version, |(core, _)| core);
    let numbers: Option<Vec<u64>> = core.split('.').map(|number| number.parse().ok()).collect();
    match numbers.as_deref() {
        Some([1, _, _]) => Ok(()),
        Some([_, _, _]) => Err(OciError::invalid("ociVersion", format!("{version} is not 1.x, which is done here"))),
        _ => Err(OciError::invalid("ociVersion", format!("{version:?} is not MAJOR.MINOR.PATCH"))),
    }
}

fn refuse_foreign(spec: &Spec) -> Result<(), OciError> {
    let why = "it is for another system than Linux";
    for (field, is_there) in
        [("windows", spec.windows().is_some()), ("solaris", spec.solaris().is_some()), ("zos", spec.zos().is_some())]
    {
        if is_there {
            return Err(OciError::unsupported(field, why));
        }
    }
    if spec.vm().is_some() {
        return Err(OciError::unsupported("vm", "containers are processes here, not virtual machines"));
    }
    Ok(())
}

fn refuse_linux(linux: Option<&Linux>) -> Result<(), OciError> {
    let Some(linux) = linux else { return Ok(()) };
    if linux.intel_rdt().is_some() {
        return Err(OciError::unsupported("linux.intelRdt", "resctrl groups are not made here"));
    }
    if linux.memory_policy().is_some() {
        return Err(OciError::unsupported("linux.memoryPolicy", "NUMA policies are not set here"));
    }
    if linux.net_devices().as_ref().is_some_and(|devices| !devices.is_empty()) {
        return Err(OciError::unsupported("linux.netDevices", "devices are not moved between network namespaces here"));
    }
    if linux.mount_label().as_deref().is_some_and(|label| !label.is_empty()) {
        return Err(OciError::unsupported("linux.mountLabel", "mounts are not labelled here"));
    }
    Ok(())
}

fn name(given: &Option<String>, field: &str, namespaces: &Namespaces) -> Result<Option<String>, OciError> {
    const NAME_BYTES_MAX: usize = 64;
    let Some(name) = given.clone().filter(|name| !name.is_empty()) else { return Ok(None) };
    if !namespaces.has(nix::sched::CloneFlags::CLONE_NEWUTS) {
        return Err(OciError::invalid(field, "without a uts namespace it would be the host's"));
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(OciError::invalid(field, "it is longer than the 64 bytes that the kernel takes"));
    }
    Ok(Some(name))
}

fn paths(given: Option<&Vec<String>>, field: &str) -> Result<Vec<String>, OciError> {
    let given = given.cloned().unwrap_or_default();
    match given.iter().find(|path| !path.starts_with('/') || path.contains('\0')) {
        Some(path) => Err(OciError::invalid(field, format!("{path:?} is not an absolute path"))),
        None => Ok(given),
    }
}

fn root_propagation(linux: Option<&Linux>) -> Result<Propagation, OciError> {
    let given = linux.and_then(|l| l.rootfs_propagation().as_deref()).filter(|text| !text.is_empty());
    let unknown = |text: &str| {
        let why = format!("{text} is none of private, slave, shared and unbindable, with or without an r before");
        OciError::invalid("linux.rootfsPropagation", why)
    };
    let text = given.unwrap_or("rprivate");
    options::propagation(text).ok_or_else(|| unknown(text))
}

/// Numbers of the kernel's uapi/linux/personality.h.
pub fn personality(linux: Option<&Linux>) -> Result<Option<u64>, OciError> {
    let Some(given) = linux.and_then(|l| l.personality().as_ref()) else { return Ok(None) };
    if given.flags().as_ref().is_some_and(|flags| !flags.is_empty()) {
        return Err(OciError::unsupported("linux.personality.flags", "the specification names none"));
    }
    Ok(Some(match given.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    }))
}

fn annotations(spec: &Spec) -> Result<std::collections::HashMap<String, String>, OciError> {
    let given = spec.annotations().clone().unwrap_or_default();
    if given.contains_key("") {
        return Err(OciError::invalid("annotations", "a key is empty"));
    }
    Ok(given)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(extra: &str) -> Result<Config, OciError> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("rootfs")).unwrap();
        let text = format!(r#"{{"ociVersion":"1.0.2","root":{{"path":"rootfs"}}{extra}}}"#);
        std::fs::write(dir.path().join("config.json"), text).unwrap();
        Config::load(dir.path())
    }

    fn linux(extra: &str) -> Result<Config, OciError> {
        load(&format!(r#","linux":{{"namespaces":[{{"type":"mount"}}]{extra}}}"#))
    }

    #[test]
    fn a_config_may_be_short() {
        let config = linux("").unwrap();
        assert!(config.process.is_none() && !config.read_only && !config.foreign_dev);
        assert!(config.rootfs.ends_with("rootfs"));
    }

    #[test]
    fn versions_are_of_the_first_major() {
        for version in ["1.0.0", "1.2.1", "1.3.0-dev", "1.0.2-rc1+x"] {
            assert!(check_version(version).is_ok(), "{version}");
        }
        for version in ["", "1", "1.2", "2.0.0", "0.9.0", "v1.0.0", "1.x.0"] {
            assert!(check_version(version).is_err(), "{version}");
        }
    }

    #[test]
    fn each_field_that_is_not_done_is_named() {
        for (extra, field) in [
            (r#","intelRdt":{}"#, "linux.intelRdt"),
            (r#","memoryPolicy":{"mode":"MPOL_BIND","nodes":"0"}"#, "linux.memoryPolicy"),
            (r#","netDevices":{"eth0":{}}"#, "linux.netDevices"),
            (r#","mountLabel":"x""#, "linux.mountLabel"),
            (r#","rootfsPropagation":"sideways""#, "linux.rootfsPropagation"),
            (r#","maskedPaths":["proc"]"#, "linux.maskedPaths"),
            (r#","readonlyPaths":["proc"]"#, "linux.readonlyPaths"),
            (r#","personality":{"domain":"LINUX","flags":["X"]}"#, "linux.personality.flags"),
            (r#","sysctl":{"kernel.panic":"1"}"#, "linux.sysctl"),
            (r#","devices":[{"path":"dev/x","type":"c","major":1,"minor":3}]"#, "linux.devices"),
        ] {
            let error = linux(extra).unwrap_err().chain();
            assert!(error.contains(field), "{extra}: {error}");
        }
        for (extra, field) in [
            (r#","windows":{"layerFolders":[]}"#, "windows"),
            (r#","solaris":{}"#, "solaris"),
            (r#","vm":{"kernel":{"path":"/k"}}"#, "vm"),
            (r#","hostname":"x","linux":{"namespaces":[{"type":"mount"}]}"#, "hostname"),
            (r#","domainname":"x","linux":{"namespaces":[{"type":"mount"}]}"#, "domainname"),
            (
                r#","hostname":"x","linux":{"namespaces":[{"type":"mount"},{"type":"uts","path":"/proc/self/ns/uts"}]}"#,
                "hostname",
            ),
            (
                r#","domainname":"x","linux":{"namespaces":[{"type":"mount"},{"type":"uts","path":"/proc/self/ns/uts"}]}"#,
                "domainname",
            ),
            (r#","annotations":{"":"x"},"linux":{"namespaces":[{"type":"mount"}]}"#, "annotations"),
        ] {
            let error = load(extra).unwrap_err().chain();
            assert!(error.contains(field), "{extra}: {error}");
        }
    }
}
