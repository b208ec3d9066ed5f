//! Finds the eBPF object that the daemon embeds. Refuses to build it: that takes another compiler, and `cargo xtask
//! build-ebpf` knows which.

use std::path::Path;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_DAEMON").is_none() {
        return;
    }
    let manifest = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it for build scripts");
    let object = Path::new(&manifest).join("../target/ebpf/cc-ebpf.o");
    println!("cargo:rerun-if-changed={}", object.display());
    match object.canonicalize() {
        Ok(object) => println!("cargo:rustc-env=CC_EBPF_OBJECT={}", object.display()),
        Err(_) => println!("cargo::error=the eBPF object is missing: run `cargo xtask build-ebpf`"),
    }
}
