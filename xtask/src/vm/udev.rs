//! udev in an emulated machine, for a while: that of this machine, or of Debian's packages where this one has none. Refuses to install it here.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::told::Plan;
use crate::process::run as run_command;

const DAEMON: &str = "/usr/lib/systemd/systemd-udevd";
/// The daemon, its rules, and the library that it is linked with.
const PACKAGES: [&str; 3] = ["udev", "libsystemd-shared", "libkmod2"];

/// Where `/lib` is a link, it stays one, which `dpkg -x` does not promise.
const UNPACK: &str = "dpkg --fsys-tarfile \"$0\" | tar -x -C / --keep-directory-symlink";

/// Downloaded once; none where this machine has it.
pub fn packages(root: &Path) -> Result<Vec<PathBuf>> {
    if Path::new(DAEMON).exists() {
        return Ok(Vec::new());
    }
    let dir = root.join("target/vm/udev");
    let fresh = dir.with_extension("new");
    if !dir.exists() {
        std::fs::create_dir_all(&fresh).with_context(|| format!("cannot make {}", fresh.display()))?;
        run_command(Command::new("apt-get").arg("download").args(PACKAGES).current_dir(&fresh))?;
        std::fs::rename(&fresh, &dir).with_context(|| format!("cannot rename {}", fresh.display()))?;
    }
    let files = std::fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))?;
    files.map(|file| Ok(file.context("cannot list what apt-get downloaded")?.path())).collect()
}

/// Ended with the guard.
pub struct Udev;

impl Udev {
    /// Inside, where the root is a layer of memory.
    pub fn start(plan: &Plan) -> Result<Udev> {
        for package in &plan.udev {
            run_command(Command::new("sh").args(["-c", UNPACK]).arg(package))?;
        }
        run_command(Command::new("ldconfig").env("PATH", "/usr/sbin:/sbin"))?;
        run_command(Command::new(DAEMON).arg("--daemon"))?;
        let udev = Udev;
        for args in [&["trigger", "--action=add"][..], &["settle"]] {
            run_command(Command::new("udevadm").args(args))?;
        }
        Ok(udev)
    }
}

impl Drop for Udev {
    fn drop(&mut self) {
        if let Err(error) = run_command(Command::new("udevadm").args(["control", "--exit"])) {
            eprintln!("guest: udev does not end: {error:#}");
        }
    }
}
