//! Everything a person runs: the eBPF object, cc-host, cc, and the static cc-shim and cc-oci beside them. Refuses to build those
//! with the daemon's features: they are small programs, one run or one process per container.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::build_ebpf::{self, Layout};
use crate::process::{cargo, output, run as run_command};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    Release,
    Debug,
}

/// Where sources are said to be, in what is packed.
const SOURCES: &str = "/usr/src/ccloud";

/// The only target a fully static program is made for: glibc's `libc.a` comes with libc6-dev.
const STATIC_TARGET: &str = "x86_64-unknown-linux-gnu";

const STATIC_FLAGS: &str = "-C target-feature=+crt-static";

impl Profile {
    fn dir(self) -> &'static str {
        match self {
            Profile::Release => "release",
            Profile::Debug => "debug",
        }
    }

    fn flag(self) -> Option<&'static str> {
        (self == Profile::Release).then_some("--release")
    }

    /// Where the programs are afterwards.
    pub fn bin_dir(self, root: &Path) -> PathBuf {
        root.join("target").join(self.dir())
    }
}

/// Of the release, but that our own code is built at once, with every assertion and with the lines of its panics, and is linted.
pub fn checked(command: &mut Command) {
    command.args(["--release", "--config", "tests/checked.toml"]);
    linted(command);
}

/// Our own crates are compiled by clippy's driver, which compiles as the compiler does: what `cargo clippy -- -D warnings` tells it, for a build.
/// So each crate is compiled once, for its lints and for its tests, and what it depends on is not looked at once more.
pub fn linted(command: &mut Command) {
    command.env("RUSTC_WORKSPACE_WRAPPER", "clippy-driver");
    command.env("CLIPPY_ARGS", "-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__");
}

/// The programs that end-to-end tests run, each from where it was built: cargo puts what it builds for tests, with assertions and without
/// much else, in the place of the release's.
const TESTED: &[&str] = &["cc-host", "cc", "cc-shim", "cc-oci", "make-image"];

/// How they are made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Programs {
    /// The daemon and the command with every assertion, as cargo builds them beside their own tests anyway.
    Checked,
    /// As they are released.
    Released,
}

/// Daemons of other features, for the tests that need them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Other {
    /// Of the next layout of pinned maps.
    Next,
    /// It can be told where to die.
    Faults,
}

pub fn tested_dir(root: &Path) -> PathBuf {
    root.join("target/tested")
}

/// Builds what the tests run, and gives its directory.
pub fn tested(root: &Path, programs: Programs, others: &[Other]) -> Result<PathBuf> {
    let dir = tested_dir(root);
    let mut names = TESTED.to_vec();
    for other in others {
        names.push(match other {
            Other::Next => next_daemon(root, Profile::Release).map(|()| "cc-host-next")?,
            Other::Faults => faults_daemon(root).map(|()| "cc-host-faults")?,
        });
    }
    match programs {
        Programs::Checked => {
            checked_programs(root)?;
            static_programs(root, Profile::Release)?;
        }
        Programs::Released => run_with_images(root, Profile::Release)?,
    }
    for name in names {
        place(&Profile::Release.bin_dir(root).join(name), &dir.join(name))?;
    }
    run_command(Command::new(dir.join("make-image")).arg("all"))?;
    Ok(dir)
}

pub fn run(root: &Path, profile: Profile) -> Result<()> {
    build_ebpf::run(root, Layout::Own)?;
    programs(root, profile, None, &["cc-host", "cli"], &["cc-host", "cc"])?;
    static_programs(root, profile)
}

/// As `run`, and the maker of test images with it: one call to cargo, so that nothing shared is compiled twice.
pub fn run_with_images(root: &Path, profile: Profile) -> Result<()> {
    build_ebpf::run(root, Layout::Own)?;
    programs(root, profile, None, &["cc-host", "cli", "tests"], &["cc-host", "cc", "make-image"])?;
    static_programs(root, profile)
}

/// A daemon of the next layout beside ours, which tests upgrade to: cc-host-next. It is linted with the code that only other features have. Before
/// `run_with_images`, whose cc-host takes the name that cargo gives both.
pub fn next_daemon(root: &Path, profile: Profile) -> Result<()> {
    build_ebpf::run(root, Layout::Next)?;
    // How fast it is, nobody asks; nothing is switched off unless it is told to. The same packages as elsewhere, so that what they share is
    // the same.
    let features = "--features=cc-host/next-abi,cc-host/mutations";
    let mut command = command_for(root, profile, Some(features), &["cc-host", "cli", "tests"], &["cc-host"]);
    command.args(["--config", "profile.release.package.cc-host.opt-level=0"]);
    linted(&mut command);
    run_command(&mut command)?;
    place(&profile.bin_dir(root).join("cc-host"), &profile.bin_dir(root).join("cc-host-next"))
}

/// A daemon that can be told where to die, beside ours: cc-host-faults. Every checked one can. Before `run_with_images`, as the next one.
fn faults_daemon(root: &Path) -> Result<()> {
    checked_programs(root)?;
    let dir = Profile::Release.bin_dir(root);
    place(&dir.join("cc-host"), &dir.join("cc-host-faults"))
}

/// A test file of each package that has programs: cargo builds those beside it.
const BESIDE: &[&str] =
    &["datapath_maps_are_told", "foreground_run_is_the_container", "images_are_kept_once_and_checked"];

/// cc-host, cc and make-image, in the release's place.
fn checked_programs(root: &Path) -> Result<()> {
    build_ebpf::run(root, Layout::Own)?;
    let mut command = cargo(root);
    command.args(["test", "--quiet", "--no-run", "--workspace"]);
    command.args(BESIDE.iter().flat_map(|file| ["--test", file]));
    checked(&mut command);
    run_command(&mut command)
}

/// The images alone, for benchmarks of others.
pub fn images_only(root: &Path) -> Result<()> {
    programs(root, Profile::Release, None, &["tests"], &["make-image"])
}

/// The compiler of protobuf is a dependency of one test alone, so that no build waits for it.
pub fn proto(root: &Path) -> Result<()> {
    let mut command = cargo(root);
    command.args(["test", "-q", "-p", "cc-common", "--features", "api", "--test", "generated"]);
    run_command(command.env("CC_GENERATE", "1"))
}

/// Makes the named image if it is not there yet, and says where its layout is.
pub fn image(root: &Path, built: Profile, name: &str) -> Result<PathBuf> {
    let made = output(Command::new(built.bin_dir(root).join("make-image")).arg(name))?;
    Ok(PathBuf::from(made.trim()))
}

/// The binaries by name: cc-host's package also has cc-shim and cc-oci, which must not be made dynamic in the same place.
fn programs(root: &Path, profile: Profile, features: Option<&str>, packages: &[&str], binaries: &[&str]) -> Result<()> {
    run_command(&mut command_for(root, profile, features, packages, binaries))
}

fn command_for(root: &Path, profile: Profile, features: Option<&str>, packages: &[&str], binaries: &[&str]) -> Command {
    let mut command = cargo(root);
    command.arg("build").args(profile.flag()).args(features);
    command.args(packages.iter().flat_map(|name| ["-p", name]));
    command.args(binaries.iter().flat_map(|name| ["--bin", name]));
    command
}

/// Each with its own features, and so by a call of its own.
fn static_programs(root: &Path, profile: Profile) -> Result<()> {
    static_program(root, profile, "cc-shim", "shim")?;
    oci(root, profile)
}

/// The OCI runtime alone.
pub fn oci(root: &Path, profile: Profile) -> Result<()> {
    static_program(root, profile, "cc-oci", "oci")
}

fn static_program(root: &Path, profile: Profile, name: &str, feature: &str) -> Result<()> {
    let mut command = static_command(root, profile, name, feature);
    command.args(["--target-dir", "target/shim"]).env("RUSTFLAGS", STATIC_FLAGS);
    run_command(&mut command)?;

    let made = root.join("target/shim").join(STATIC_TARGET).join(profile.dir()).join(name);
    place(&made, &profile.bin_dir(root).join(name))
}

fn static_command(root: &Path, profile: Profile, name: &str, feature: &str) -> Command {
    let mut command = cargo(root);
    command.arg("build").args(profile.flag());
    command.args(["-p", "cc-host", "--bin", name, "--no-default-features", "--features", feature]);
    command.args(["--target", STATIC_TARGET]);
    // Small, and there once for each container: what the rest of the release does without pays here.
    command.args(["--config", "profile.release.package.cc-host.opt-level=3", "--config", "profile.release.lto=true"]);
    command
}

/// The release for a package, in a directory of its own, since other flags compile everything anew: no path of this machine is in it.
pub fn for_package(root: &Path, dir: &Path) -> Result<PathBuf> {
    build_ebpf::run(root, Layout::Own)?;
    let crates = crate::dist::cargo_home();
    let moved = [(root, SOURCES), (&crates, "/usr/src/cargo")];
    let all = |option: &str| moved.map(|(from, to)| format!("{option}={}={to}", from.display()));
    let rust = all("--remap-path-prefix");
    // Whatever is in a directory's name: flags are words of a shell to the one, and told apart by a unit separator to the other.
    let c = all("-ffile-prefix-map").map(|flag| format!("'{}'", flag.replace('\'', r"'\''"))).join(" ");
    let build = |mut command: Command, flags: &[&str], target_dir: &Path| {
        command.arg("--locked").arg("--target-dir").arg(target_dir);
        command.env("CFLAGS", &c).env("CC_SHELL_ESCAPED_FLAGS", "1").env_remove("RUSTFLAGS");
        command.env("CARGO_ENCODED_RUSTFLAGS", [flags, &rust.each_ref().map(String::as_str)].concat().join("\x1f"));
        run_command(&mut command)
    };
    let ours = command_for(root, Profile::Release, None, &["cc-host", "cli"], &["cc-host", "cc"]);
    build(ours, &[], dir)?;
    let built = dir.join("release");
    for (name, feature) in [("cc-shim", "shim"), ("cc-oci", "oci")] {
        let static_dir = dir.join("static");
        let flags: Vec<&str> = STATIC_FLAGS.split(' ').collect();
        build(static_command(root, Profile::Release, name, feature), &flags, &static_dir)?;
        place(&static_dir.join(STATIC_TARGET).join("release").join(name), &built.join(name))?;
    }
    Ok(built)
}

/// By rename: a program that is running keeps its own file.
fn place(made: &Path, place: &Path) -> Result<()> {
    let fresh = place.with_extension("new");
    if let Some(dir) = place.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    std::fs::copy(made, &fresh).with_context(|| format!("cannot copy {} to {}", made.display(), fresh.display()))?;
    std::fs::rename(&fresh, place).with_context(|| format!("cannot rename {} to {}", fresh.display(), place.display()))
}
