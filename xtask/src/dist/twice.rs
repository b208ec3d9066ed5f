//! Whether a package is the same bytes whoever builds it: what is committed, built in two directories of different names with nothing shared
//! but the tools and cargo's crates. Refuses to look at what is not committed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use crate::process::{cargo, output, run as run_command};

/// Of different lengths: a path that is left somewhere then moves what follows it. And whatever a name may have.
const NAMES: [&str; 2] = ["a", "another directory's name"];

/// What is to be told of it.
pub fn run(root: &Path) -> Result<String> {
    let dir = root.join("target/dist/twice");
    if dir.exists() {
        std::fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    let epoch = super::source_date_epoch(root)?;
    // Once: somebody may commit while the first is built.
    let commit = output(Command::new("git").current_dir(root).args(["rev-parse", "HEAD"]))?.trim().to_owned();
    let mut packages = Vec::new();
    for name in NAMES {
        let place = dir.join(name);
        unpack_commit(root, &commit, &place)?;
        packages.push(built(&place, &epoch)?);
    }
    let bytes = |path: &PathBuf| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let (first, second) = (bytes(&packages[0])?, bytes(&packages[1])?);
    if first != second {
        // From the project's own directory: it is noted in its documentation.
        let [first, second] = [0, 1].map(|one| packages[one].strip_prefix(root).unwrap_or(&packages[one]).display());
        bail!("the two packages differ: compare {first} and {second}");
    }
    let sum = output(Command::new("sha256sum").arg(&packages[0]))?;
    let sum = sum.split_whitespace().next().unwrap_or_default().to_owned();
    std::fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    Ok(format!("2 builds, {} bytes each, sha256 {sum}", first.len()))
}

fn unpack_commit(root: &Path, commit: &str, place: &Path) -> Result<()> {
    std::fs::create_dir_all(place.join("target")).with_context(|| format!("cannot make {}", place.display()))?;
    let mut archive = Command::new("git");
    archive.current_dir(root).args(["archive", commit]).stdout(Stdio::piped());
    let mut archive = archive.spawn().context("cannot start git")?;
    let out = archive.stdout.take().context("git's output was not piped")?;
    let unpacked =
        Command::new("tar").arg("-x").arg("-C").arg(place).stdin(out).status().context("cannot start tar")?;
    ensure!(archive.wait().context("cannot wait for git")?.success() && unpacked.success(), "cannot unpack {commit}");
    std::os::unix::fs::symlink(root.join("target/tools"), place.join("target/tools")).context("cannot make a symlink")
}

fn built(place: &Path, epoch: &str) -> Result<PathBuf> {
    run_command(cargo(place).args(["xtask", "dist"]).env("SOURCE_DATE_EPOCH", epoch))?;
    let made = std::fs::read_dir(place.join("target/dist")).context("cannot list what was made")?;
    let deb = |path: &PathBuf| path.extension().is_some_and(|end| end == "deb");
    made.flatten().map(|entry| entry.path()).find(deb).context("there is no package")
}
