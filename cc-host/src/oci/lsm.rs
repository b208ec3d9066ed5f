//! `process.apparmorProfile` and `process.selinuxLabel`: handed to the kernel's security module for the program to come. Refuses a label where
//! there is no such module, since nothing would enforce it.

use std::os::fd::OwnedFd;
use std::path::Path;

use oci_spec::runtime::Process;
use rustix::fs::{Mode, OFlags};

use super::error::OciError;
use crate::shim::init::other;
use crate::shim::protocol::StartFailure;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels {
    apparmor: Option<String>,
    selinux: Option<String>,
}

/// Files of this process into which its labels go.
pub struct Opened(Vec<(OwnedFd, String)>);

impl Labels {
    pub fn parse(process: &Process) -> Result<Labels, OciError> {
        let given = |label: &Option<String>| label.clone().filter(|label| !label.is_empty());
        // Without the module, unconfined is what every process is.
        let apparmor = given(process.apparmor_profile()).filter(|name| has_apparmor() || name != "unconfined");
        if apparmor.is_some() && !has_apparmor() {
            return Err(OciError::unsupported(
                "process.apparmorProfile",
                "this host has no AppArmor that would enforce it",
            ));
        }
        let selinux = given(process.selinux_label());
        if selinux.is_some() && !Path::new("/sys/fs/selinux/enforce").exists() {
            return Err(OciError::unsupported(
                "process.selinuxLabel",
                "this host has no SELinux that would enforce it",
            ));
        }
        Ok(Labels { apparmor, selinux })
    }

    /// By the host's procfs, since the container could have put something else over its own.
    pub fn open(&self, proc: &OwnedFd) -> Result<Opened, StartFailure> {
        let own = |path: &str| {
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::openat(proc, format!("thread-self/attr/{path}"), flags, Mode::empty())
        };
        let mut opened = Vec::new();
        if let Some(profile) = &self.apparmor {
            let file = own("apparmor/exec").or_else(|_| own("exec"));
            opened.push((
                file.map_err(|e| other("open the file of the AppArmor profile", e))?,
                format!("exec {profile}"),
            ));
        }
        if let Some(label) = &self.selinux {
            opened.push((own("exec").map_err(|e| other("open the file of the SELinux label", e))?, label.clone()));
        }
        Ok(Opened(opened))
    }
}

/// The host's procfs.
pub fn proc() -> Result<OwnedFd, OciError> {
    rustix::fs::open("/proc", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| OciError::step("open /proc", e))
}

impl Opened {
    pub fn descriptors(&self) -> impl Iterator<Item = &OwnedFd> {
        self.0.iter().map(|(file, _)| file)
    }

    pub fn write(&self) -> Result<(), StartFailure> {
        for (file, text) in &self.0 {
            rustix::io::write(file, text.as_bytes()).map_err(|e| other(&format!("set the label {text}"), e))?;
        }
        Ok(())
    }
}

fn has_apparmor() -> bool {
    std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y'))
}
