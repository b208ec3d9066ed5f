//! This program's own file: before anything of a container is near, it executes itself again from a read-only mount of its file that is nowhere, so
//! that a container whose root is the host's cannot write to it (CVE-2019-5736). Refuses to go on from a file that could be written.

use std::convert::Infallible;
use std::ffi::{CString, OsStr};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{Mode, OFlags, StatVfsMountFlags, fstatvfs};
use rustix::mount::{OpenTreeFlags, open_tree};

use super::error::OciError;
use crate::shim::sys::mount_setattr;

/// Says to the second one that it is that.
const AGAIN: &str = "_CC_OCI_AGAIN";

/// Returns in a process whose file cannot be written by its link in /proc.
pub fn protect() -> Result<(), OciError> {
    let failed = |e: rustix::io::Errno| OciError::step("protect the file of cc-oci", e);
    let file = rustix::fs::open("/proc/self/exe", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
    let is_read_only = fstatvfs(&file).map_err(failed)?.f_flag.contains(StatVfsMountFlags::RDONLY);
    if is_read_only {
        // Executed by a descriptor, it would have a number for a name. It is only for who looks.
        let _ = rustix::thread::set_name(c"cc-oci");
        return Ok(());
    }
    if std::env::var_os(AGAIN).is_some() {
        return Err(failed(rustix::io::Errno::ROFS));
    }
    match again() {
        Err(error) => Err(error),
        Ok(never) => match never {},
    }
}

fn again() -> Result<Infallible, OciError> {
    let failed = |e: std::io::Error| OciError::step("execute cc-oci from a protected file", e);
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = open_tree(rustix::fs::CWD, "/proc/self/exe", flags).map_err(|e| failed(e.into()))?;
    mount_setattr(mount.as_fd(), libc::MOUNT_ATTR_RDONLY, None, false).map_err(failed)?;
    let text = |text: &OsStr| CString::new(text.as_bytes()).map_err(|e| failed(e.into()));
    let args = std::env::args_os().map(|arg| text(&arg)).collect::<Result<Vec<_>, _>>()?;
    let mut env = Vec::new();
    for (key, value) in std::env::vars_os() {
        let mut variable = key;
        variable.push("=");
        variable.push(value);
        env.push(text(&variable)?);
    }
    env.push(text(OsStr::new(&format!("{AGAIN}=1")))?);
    let flags = nix::fcntl::AtFlags::AT_EMPTY_PATH;
    let Err(e) = nix::unistd::execveat(&mount, c"", &args, &env, flags);
    Err(failed(e.into()))
}
