//! A clean Debian's root for the tests of the package, made once by debootstrap and kept in target/debian. Refuses to touch this machine's
//! packages, and what it has made once.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use nix::fcntl::{Flock, FlockArg};

/// The release that has the kernel and the systemd that we name.
const SUITE: &str = "trixie";
const MIRROR: &str = "http://deb.debian.org/debian";
/// What the package depends on, and systemd to look at its unit: nothing is fetched while it is installed.
const INCLUDED: &str = "e2fsprogs,systemd";
/// Of what it said, shown when it fails.
const SHOWN_LINES: usize = 10;

/// Made by rename, so that one that was interrupted is not taken for one that is complete.
pub fn root(root: &Path) -> Result<PathBuf> {
    let dir = root.join("target/debian");
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let (made, fresh) = (dir.join(SUITE), dir.join(format!("{SUITE}.new")));
    if made.is_dir() {
        return Ok(made);
    }
    let file = std::fs::File::create(dir.join("lock")).context("cannot open the lock")?;
    let _lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno).context("cannot lock")?;
    if !made.is_dir() {
        bootstrap(&fresh)?;
        std::fs::rename(&fresh, &made).context("cannot rename")?;
    }
    Ok(made)
}

fn bootstrap(fresh: &Path) -> Result<()> {
    if fresh.exists() {
        std::fs::remove_dir_all(fresh).context("cannot remove what was interrupted")?;
    }
    let mut command = Command::new("debootstrap");
    command.args(["--variant=minbase", &format!("--include={INCLUDED}"), SUITE]).arg(fresh).arg(MIRROR);
    let out =
        command.stdin(Stdio::null()).output().context("cannot start debootstrap; run `cargo xtask setup --tests`")?;
    if !out.status.success() {
        // What went wrong in it is in a log of its own, and its last words only say so.
        let log = std::fs::read(fresh.join("debootstrap/debootstrap.log")).unwrap_or_default();
        let said = [out.stdout, out.stderr, log].map(|said| last_lines(&String::from_utf8_lossy(&said)));
        bail!("debootstrap: {}\n{}", out.status, said.join("\n"));
    }
    // Nothing is installed from there again.
    let _ = std::fs::remove_dir_all(fresh.join("var/cache/apt/archives"));
    Ok(())
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
}
