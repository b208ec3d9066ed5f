//! `cc` is also the C compiler's name: with ours first on PATH, cargo still links.

use std::process::Command;

use cc_tests::daemon::bin_dir;

#[test]
fn a_crate_links_with_our_cc_first_on_path() {
    let dir = tempfile::Builder::new().prefix("cct-").tempdir().unwrap();
    let bin = dir.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(bin_dir().join("cc"), bin.join("cc")).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    std::fs::write(dir.path().join("main.rs"), "fn main() { println!(\"linked\"); }").unwrap();
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let built = Command::new(rustc)
        .args(["main.rs", "-C", "linker=cc", "-o", "main"])
        .current_dir(dir.path())
        .env("PATH", &path)
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let ran = Command::new(dir.path().join("main")).output().unwrap();
    assert_eq!(ran.stdout, b"linked\n");
    // C, by its everyday name, and the question every configure script asks.
    std::fs::write(dir.path().join("a.c"), "int main(void) { return 7; }").unwrap();
    let cc = |args: &[&str]| Command::new("cc").args(args).current_dir(dir.path()).env("PATH", &path).output().unwrap();
    assert!(cc(&["a.c", "-o", "a"]).status.success());
    assert_eq!(Command::new(dir.path().join("a")).status().unwrap().code(), Some(7));
    assert!(cc(&["--version"]).status.success());
    // And ours is still ours.
    let help = cc(&["vpc", "--help"]);
    assert!(String::from_utf8_lossy(&help.stdout).contains("create"), "{help:?}");
}
