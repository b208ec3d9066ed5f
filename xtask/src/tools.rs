//! The programs built from crates, at pinned versions, in target/tools. Refuses the ones of another version on PATH.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::process::{ask, cargo, run};

pub const BPF_LINKER: &str = "0.13.0";
pub const CARGO_DEB: &str = "3.8.0";
pub const CARGO_DENY: &str = "0.20.2";

/// Where `cargo install --root` puts them.
pub fn dir(root: &Path) -> PathBuf {
    root.join("target/tools")
}

/// The program at that version: ours, else the one on PATH.
pub fn find(root: &Path, program: &str, version: &str) -> Option<PathBuf> {
    [dir(root).join("bin").join(program), PathBuf::from(program)]
        .into_iter()
        .find(|file| ask(&file.to_string_lossy(), &["--version"]).is_some_and(|said| said.trim().ends_with(version)))
}

/// The linker's LLVM must be at least the compiler's, so it is the one the compiler names.
pub fn install_bpf_linker(root: &Path, llvm: u32) -> Result<()> {
    if find(root, "bpf-linker", BPF_LINKER).is_some() {
        return Ok(());
    }
    let feature = format!("llvm-{llvm}");
    run(cargo(root)
        .args(["install", &format!("bpf-linker@{BPF_LINKER}"), "--no-default-features", "--features", &feature])
        .args(["--root", "target/tools", "--quiet"])
        .env("LLVM_PREFIX", format!("/usr/lib/llvm-{llvm}")))
    .with_context(|| format!("cannot build bpf-linker {BPF_LINKER}; it needs the package llvm-{llvm}-dev"))
}

pub fn install_cargo_deny(root: &Path) -> Result<PathBuf> {
    install_quickly(root, "cargo-deny", CARGO_DENY)
}

pub fn install_cargo_deb(root: &Path) -> Result<PathBuf> {
    install_quickly(root, "cargo-deb", CARGO_DEB)
}

/// They read and write a few files once: building them well takes minutes, and running them a second.
fn install_quickly(root: &Path, program: &str, version: &str) -> Result<PathBuf> {
    if let Some(found) = find(root, program, version) {
        return Ok(found);
    }
    let arguments = ["install", &format!("{program}@{version}"), "--locked", "--root", "target/tools", "--quiet"];
    run(cargo(root).args(arguments).env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0"))?;
    Ok(dir(root).join("bin").join(program))
}
