//! What the build, the demo and the tests need from the machine: found, or installed where there is apt, or named.
//! Refuses to install a package whose installation would start a service.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::build_ebpf;
use crate::process::{ask, is_root, run as run_command, which};
use crate::{tools, vm};

const RUST_MINOR_MIN: u32 = 88;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum For {
    Demo,
    Tests,
    /// The tests on other kernels.
    Kernels,
}

/// A Debian package, and how to see that what we want of it is here, whoever installed it.
struct Package {
    name: &'static str,
    proof: Proof,
}

enum Proof {
    Program(&'static str),
    File(&'static str),
}

const fn program(name: &'static str, program: &'static str) -> Package {
    Package { name, proof: Proof::Program(program) }
}

const fn file(name: &'static str, file: &'static str) -> Package {
    Package { name, proof: Proof::File(file) }
}

/// `libc.a` is for the static cc-shim.
const BUILD: &[Package] = &[
    program("gcc", "gcc"),
    file("libc6-dev", "/usr/lib/x86_64-linux-gnu/libc.a"),
    program("pkg-config", "pkg-config"),
    program("iproute2", "ip"),
    program("e2fsprogs", "mke2fs"),
    program("iperf3", "iperf3"),
    program("bpftool", "bpftool"),
];

/// `g++` is for libFuzzer.
const TESTS: &[Package] = &[
    program("g++", "g++"),
    program("xz-utils", "xz"),
    program("skopeo", "skopeo"),
    program("umoci", "umoci"),
    program("crun", "crun"),
    program("runc", "runc"),
    program("podman", "podman"),
    program("conmon", "conmon"),
    program("catatonit", "catatonit"),
    file("containernetworking-plugins", "/usr/lib/cni/bridge"),
    program("iptables", "iptables"),
    program("nftables", "nft"),
    program("ethtool", "ethtool"),
    program("busybox-static", "busybox"),
    program("musl-tools", "musl-gcc"),
    program("strace", "strace"),
    program("tcpdump", "tcpdump"),
    program("curl", "curl"),
    program("openssl", "openssl"),
    program("chromium", "chromium"),
    program("debootstrap", "debootstrap"),
    file("debian-archive-keyring", "/usr/share/keyrings/debian-archive-keyring.gpg"),
    file("python3-scapy", "/usr/lib/python3/dist-packages/scapy/__init__.py"),
];

/// Of emulated machines: what makes one, and what is looked for inside.
const KERNELS: &[Package] = &[
    program("qemu-system-x86", "qemu-system-x86_64"),
    program("kmod", "modprobe"),
    program("e2fsprogs", "mke2fs"),
    program("lvm2", "lvm"),
    file("debian-archive-keyring", "/usr/share/keyrings/debian-archive-keyring.gpg"),
];

/// One of the two ways to an eBPF compiler; the other is a nightly with the standard library's sources.
const EBPF_COMPILER: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];

pub fn run(root: &Path, what_for: For) -> Result<()> {
    toolchain(what_for)?;
    let mut wanted: Vec<&Package> = BUILD.iter().collect();
    if what_for != For::Demo {
        wanted.extend(TESTS);
    }
    if what_for == For::Kernels {
        wanted.extend(KERNELS);
    }
    let mut missing: Vec<String> =
        wanted.into_iter().filter(|package| !package.is_here()).map(|package| package.name.to_owned()).collect();
    if build_ebpf::find_toolchain().is_none() {
        missing.extend(EBPF_COMPILER.map(str::to_owned));
    }
    install(missing)?;
    // In Debian 12 it comes with qemu.
    if what_for == For::Kernels && vm::virtiofsd().is_none() {
        install(vec!["virtiofsd".to_owned()])?;
    }

    let compiler = build_ebpf::find_toolchain().context(
        "there is no compiler for eBPF: neither Debian's rustc-web with libstd-rust-web-dev-bpf, nor a nightly with rust-src \
         (rustup toolchain install nightly --component rust-src)",
    )?;
    if tools::find(root, "bpf-linker", tools::BPF_LINKER).is_none() {
        let llvm = compiler.llvm_major().context("the eBPF compiler does not say which LLVM it has")?;
        if !Path::new(&format!("/usr/lib/llvm-{llvm}/include/llvm-c/Core.h")).is_file() {
            install(vec![format!("llvm-{llvm}-dev")])?;
        }
        tools::install_bpf_linker(root, llvm)?;
    }
    Ok(())
}

impl Package {
    fn is_here(&self) -> bool {
        match self.proof {
            Proof::Program(program) => which(program).is_some(),
            Proof::File(file) => Path::new(file).exists(),
        }
    }
}

/// The host crates' own compiler. Nothing here can install one, so it is said.
fn toolchain(what_for: For) -> Result<()> {
    let version = ask("rustc", &["--version"])
        .context("there is no rustc on PATH: install Rust 1.88 or newer (https://rustup.rs)")?;
    let minor = version.split('.').nth(1).and_then(|minor| minor.parse::<u32>().ok());
    if minor.is_none_or(|minor| minor < RUST_MINOR_MIN) {
        bail!("{} is too old: Rust 1.{RUST_MINOR_MIN} or newer is needed (rustup update stable)", version.trim());
    }
    if what_for != For::Demo {
        for (component, program) in [("rustfmt", "rustfmt"), ("clippy", "clippy-driver")] {
            if ask(program, &["--version"]).is_none() {
                bail!("the toolchain has no {component}, which the tests run: rustup component add {component}");
            }
        }
    }
    Ok(())
}

/// With apt and as root, installs; else says the one command that does.
fn install(missing: Vec<String>) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    if which("apt-get").is_none() {
        bail!("these are missing, here under their Debian names, and there is no apt to install them: {names}");
    }
    if !is_root() {
        bail!("these packages are missing; run: sudo apt-get install -y --no-install-recommends {names}");
    }
    let install = || run_command(apt().args(["install", "-y", "-q", "--no-install-recommends"]).args(&missing));
    // The lists of a bare machine are empty or old: refresh them once, then try again.
    if install().is_err() {
        run_command(apt().args(["update", "-q"]))?;
        install()?;
    }
    Ok(())
}

/// Units that a package brings are not started: we want programs, not services.
fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").env("SYSTEMD_OFFLINE", "1");
    command
}
