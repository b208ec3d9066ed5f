//! Builds the kernel programs into `target/ebpf/cc-ebpf.o`, and for tests those of the next layout into `cc-ebpf-next.o`, with whichever of the two ways this machine has: Debian's
//! compiler with its prebuilt core library for BPF, or a nightly toolchain that builds core from source. Refuses to install
//! anything: `cargo xtask setup` does.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};

const TARGET: &str = "bpfel-unknown-none";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// A compiler that can build for BPF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Toolchain {
    Debian,
    Nightly,
}

/// Which layout of the pinned maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// That of this source.
    Own,
    /// The one after it, as tests have it: another number, and another layout of flows.
    Next,
}

impl Layout {
    fn object(self) -> &'static str {
        match self {
            Layout::Own => "cc-ebpf.o",
            Layout::Next => "cc-ebpf-next.o",
        }
    }

    /// A package's features, for cargo.
    fn features(self, package: &str) -> Option<String> {
        (self == Layout::Next).then(|| format!("--features={package}/next-abi"))
    }
}

/// Builds if the object is missing or older than a source of it, or than how it is built.
pub fn run(workspace_root: &Path, layout: Layout) -> Result<()> {
    let object = workspace_root.join("target/ebpf").join(layout.object());
    let sources = [
        "cc-ebpf/src",
        "cc-ebpf/Cargo.toml",
        "cc-ebpf/Cargo.lock",
        "cc-common/src",
        "cc-common/Cargo.toml",
        // The compiler's flags.
        "xtask/src/build_ebpf.rs",
    ];
    let sources: Vec<_> = sources.iter().map(|path| workspace_root.join(path)).collect();
    if is_fresh(&object, &sources)? {
        return Ok(());
    }
    let linker = find_linker(workspace_root)?;
    let toolchain = find_toolchain().context(
        "no compiler for BPF was found: run `cargo xtask setup`, or `apt-get install rustc-web libstd-rust-web-dev-bpf`, \
         or `rustup toolchain install nightly --component rust-src`",
    )?;
    build(workspace_root, toolchain, &linker, layout)?;
    let built = workspace_root.join("target/ebpf/build").join(TARGET).join("release/cc-ebpf");
    // By rename, so that a build that is interrupted leaves no half of an object behind.
    let partial = object.with_extension("o.part");
    std::fs::copy(&built, &partial).with_context(|| format!("cannot copy {}", built.display()))?;
    std::fs::rename(&partial, &object).with_context(|| format!("cannot write {}", object.display()))
}

fn build(workspace_root: &Path, toolchain: Toolchain, linker: &Path, layout: Layout) -> Result<()> {
    // Functions that are verified by themselves find the same per-CPU row again: no reference to it is the only one. Small copies and
    // fillings are a few words each, not calls of loops over bytes, which is what expanding in order would leave of all but memcpy.
    let flags =
        ["-Cdebuginfo=2", "-Clink-arg=--btf", "-Clink-arg=--disable-expand-memcpy-in-order", "-Zmutable-noalias=no"];
    // Cargo names crates outside of a workspace by where they are, and by that rustc their symbols: ours are named for what they are.
    let wrapper = std::env::current_exe().context("cannot tell where xtask is")?;
    // What is in the object of where its sources were is the same wherever it is built.
    let (own, crates) = (workspace_root.display(), crate::dist::cargo_home());
    let ours = [
        format!("--remap-path-prefix={own}=/usr/src/ccloud"),
        format!("--remap-path-prefix={}=/usr/src/cargo", crates.display()),
        format!("-Clinker={}", linker.display()),
    ];
    // Whatever is in the name of a directory, it is one flag.
    let flags = [&flags[..], &ours.each_ref().map(String::as_str)].concat().join("\x1f");
    // Any cargo does: it is the compiler that must know BPF.
    let mut cargo = Command::new("cargo");
    // Cargo and rustup tell their children which toolchain runs: not this one.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || ["CARGO", "RUSTC", "RUSTUP_TOOLCHAIN", "RUSTC_WRAPPER"].contains(&&*name) {
            cargo.env_remove(&*name);
        }
    }
    match toolchain {
        Toolchain::Debian => cargo.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1").arg("build"),
        Toolchain::Nightly => cargo.args(["+nightly", "build", "-Z", "build-std=core"]),
    };
    cargo
        .current_dir(workspace_root.join("cc-ebpf"))
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        .env("RUSTC_WRAPPER", wrapper)
        .env(WRAPS, "1")
        .env_remove("RUSTFLAGS")
        .env("CARGO_TARGET_DIR", workspace_root.join("target/ebpf/build"))
        .args(["--quiet", "--release", "--locked", "--target", TARGET])
        .args(layout.features("cc-ebpf"));
    let status = cargo.status().with_context(|| format!("cannot run {:?}", cargo.get_program()))?;
    if !status.success() {
        bail!("the eBPF programs did not build ({toolchain:?} toolchain)");
    }
    Ok(())
}

/// Set where cargo runs this program as its compiler.
const WRAPS: &str = "CC_EBPF_WRAPS";
const OWN_CRATES: [&str; 2] = ["cc_common", "cc_ebpf"];

/// Becomes the compiler, if that is what cargo wants of us; returns only then, with why it could not.
pub fn wrap() -> Option<std::io::Error> {
    use std::os::unix::process::CommandExt as _;
    std::env::var_os(WRAPS)?;
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (rustc, arguments) = words.split_first()?;
    Some(Command::new(rustc).args(named_by_itself(arguments)).exec())
}

/// Of a crate of ours, without what cargo derives from its place.
fn named_by_itself(arguments: &[String]) -> Vec<String> {
    let name = arguments.iter().skip_while(|word| *word != "--crate-name").nth(1);
    let ours = name.filter(|name| OWN_CRATES.contains(&name.as_str()));
    let word = |word: &String| match ours {
        Some(name) if word.starts_with("metadata=") => format!("metadata={name}"),
        _ => word.clone(),
    };
    arguments.iter().map(word).collect()
}

/// The compiler to build with; setup asks the same, so that what it leaves here is what the build takes.
pub fn find_toolchain() -> Option<Toolchain> {
    if is_debian_capable() {
        return Some(Toolchain::Debian);
    }
    is_nightly_capable().then_some(Toolchain::Nightly)
}

impl Toolchain {
    /// The major version of its LLVM, which the linker's must match.
    pub fn llvm_major(self) -> Option<u32> {
        let said = match self {
            Toolchain::Debian => stdout(Command::new(DEBIAN_RUSTC).arg("-vV")),
            Toolchain::Nightly => {
                stdout(Command::new("rustc").args(["+nightly", "-vV"]).env_remove("RUSTUP_TOOLCHAIN"))
            }
        }?;
        let version = said.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
        version.split('.').next()?.parse().ok()
    }
}

fn is_debian_capable() -> bool {
    let mut rustc = Command::new(DEBIAN_RUSTC);
    stdout(rustc.args(["--print", "target-libdir", "--target", TARGET])).is_some_and(|dir| {
        // The directory's name is printed whether or not it is there.
        std::fs::read_dir(dir.trim()).is_ok_and(|mut files| files.next().is_some())
    })
}

fn is_nightly_capable() -> bool {
    let mut rustc = Command::new("rustc");
    stdout(rustc.args(["+nightly", "--print", "sysroot"]).env_remove("RUSTUP_TOOLCHAIN"))
        .is_some_and(|root| Path::new(root.trim()).join("lib/rustlib/src/rust/library/core").exists())
}

/// What a command printed, if it succeeded.
fn stdout(command: &mut Command) -> Option<String> {
    let output = command.env_remove("RUSTC_WRAPPER").output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn find_linker(workspace_root: &Path) -> Result<PathBuf> {
    let mut candidates: Vec<PathBuf> = std::env::var_os("BPF_LINKER").map(PathBuf::from).into_iter().collect();
    candidates.push(workspace_root.join("target/tools/bin/bpf-linker"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    candidates.extend(std::env::split_paths(&path).map(|dir| dir.join("bpf-linker")));
    candidates
        .into_iter()
        .find(|linker| linker.is_file())
        .context("bpf-linker was not found in $BPF_LINKER, target/tools/bin or $PATH: run `cargo xtask setup`")
}

/// Whether `object` exists and nothing in `sources` is newer.
fn is_fresh(object: &Path, sources: &[PathBuf]) -> Result<bool> {
    let Ok(built) = std::fs::metadata(object).and_then(|metadata| metadata.modified()) else { return Ok(false) };
    for source in sources {
        if newest(source)? > built {
            return Ok(false);
        }
    }
    Ok(true)
}

/// When `path`, or the newest file below it, was last written; long ago if there is none.
fn newest(path: &Path) -> Result<SystemTime> {
    let Ok(metadata) = std::fs::metadata(path) else { return Ok(SystemTime::UNIX_EPOCH) };
    let failed = || format!("cannot read {}", path.display());
    let mut time = metadata.modified().with_context(failed)?;
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path).with_context(failed)? {
            time = time.max(newest(&entry.with_context(failed)?.path())?);
        }
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_crates_are_named_by_themselves() {
        let of = |text: &str| named_by_itself(&text.split(' ').map(str::to_owned).collect::<Vec<_>>()).join(" ");
        let rest = "-C metadata=5d88 -C extra-filename=-5d88 x.rs";
        assert_eq!(
            of(&format!("--crate-name cc_common {rest}")),
            "--crate-name cc_common -C metadata=cc_common -C extra-filename=-5d88 x.rs"
        );
        for other in [format!("--crate-name aya {rest}"), "-vV".to_owned()] {
            assert_eq!(of(&other), other);
        }
    }

    #[test]
    fn an_object_older_than_a_source_is_stale() {
        let dir = std::env::temp_dir().join(format!("cc-build-ebpf-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("src/hooks")).expect("the temporary directory is writable");
        let (object, source) = (dir.join("o"), dir.join("src/hooks/a.rs"));
        let sources = [dir.join("src"), dir.join("no-such-file")];
        assert!(!is_fresh(&object, &sources).expect("readable"), "no object");
        for file in [&object, &source] {
            std::fs::write(file, "").expect("writable");
        }
        let at = |seconds| SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        let date = |path: &Path, seconds| {
            std::fs::File::open(path).and_then(|file| file.set_modified(at(seconds))).expect("ours");
        };
        for path in [&dir.join("src"), &dir.join("src/hooks"), &source] {
            date(path, 100);
        }
        date(&object, 200);
        assert!(is_fresh(&object, &sources).expect("readable"));
        date(&source, 300);
        assert!(!is_fresh(&object, &sources).expect("readable"));
        std::fs::remove_dir_all(&dir).expect("ours");
    }
}
