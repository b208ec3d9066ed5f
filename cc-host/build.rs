//! Finds the eBPF object that the daemon embeds: the one of its own layout. Refuses to build it: that takes another compiler, and `cargo xtask
//! build-ebpf` knows which.

use std::path::Path;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_DAEMON").is_none() {
        return;
    }
    let manifest = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it for build scripts");
    let next = std::env::var_os("CARGO_FEATURE_NEXT_ABI").is_some();
    let name = if next { "cc-ebpf-next.o" } else { "cc-ebpf.o" };
    let object = Path::new(&manifest).join("../target/ebpf").join(name);
    println!("cargo:rerun-if-changed={}", object.display());
    match object.canonicalize() {
        Ok(object) => println!("cargo:rustc-env=CC_EBPF_OBJECT={}", object.display()),
        Err(_) => println!("cargo::error=the eBPF object is missing: run `cargo xtask build-ebpf`"),
    }
}
