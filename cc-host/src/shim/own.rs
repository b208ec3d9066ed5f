//! This program's own file: before anything of a container is near whose root is the host's, it executes itself again from a read-only mount
//! of its file that is nowhere, so that nobody in the container can write to it (CVE-2019-5736). Refuses to go on from a file that could be
//! written.

use std::convert::Infallible;
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{Mode, OFlags, StatVfsMountFlags, fstatvfs};
use rustix::mount::{OpenTreeFlags, open_tree};

use super::sys::mount_setattr;

/// Says to the second one that it is that.
const AGAIN: &str = "_CC_AGAIN";

/// Returns in a process whose file cannot be written by its link in /proc, and which is shown by `name`.
pub fn protect(name: &CStr) -> io::Result<()> {
    // A file system of the host's that is read-only now may be written later: only our own mount counts.
    if std::env::var_os(AGAIN).is_none() {
        match again()? {}
    }
    let file = rustix::fs::open("/proc/self/exe", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    if !fstatvfs(&file)?.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Err(rustix::io::Errno::ROFS.into());
    }
    // Executed by a descriptor, it would have a number for a name. It is only for who looks.
    let _ = rustix::thread::set_name(name);
    Ok(())
}

fn again() -> io::Result<Infallible> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = open_tree(rustix::fs::CWD, "/proc/self/exe", flags)?;
    mount_setattr(mount.as_fd(), libc::MOUNT_ATTR_RDONLY, None, false)?;
    let text = |text: &OsStr| Ok::<_, io::Error>(CString::new(text.as_bytes())?);
    let args = std::env::args_os().map(|arg| text(&arg)).collect::<Result<Vec<_>, _>>()?;
    let mut env = Vec::new();
    for (key, value) in std::env::vars_os() {
        let mut variable = key;
        variable.push("=");
        variable.push(value);
        env.push(text(&variable)?);
    }
    env.push(text(OsStr::new(&format!("{AGAIN}=1")))?);
    let Err(e) = nix::unistd::execveat(&mount, c"", &args, &env, nix::fcntl::AtFlags::AT_EMPTY_PATH);
    Err(e.into())
}
