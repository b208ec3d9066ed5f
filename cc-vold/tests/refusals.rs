//! What is refused, and in which words.

mod common;

use common::{Vold, Weed};

#[test]
fn it_does_nothing_unless_told_that_it_is_an_experiment() {
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_cc-vold"))
        .args(["serve", "--store", "s3://x/y", "--volume", "v", "--mount", "/nowhere"])
        .output()
        .expect("it starts");
    assert_eq!(out.status.code(), Some(1));
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(said.contains("--experimental") && said.contains("Not safe yet"), "{said}");
}

#[test]
fn a_volume_is_made_when_that_was_asked_for_and_never_instead_of_another() {
    assert!(common::is_root(), "it mounts");
    let weed = Weed::start();
    let refused = |args: &[&str]| Vold::try_serve(&weed, "v", args).err().expect("it is refused");
    assert!(refused(&[]).contains("there is no volume v"));
    Vold::serve(&weed, "v", &["--size", "64MiB"]).end();
    assert!(refused(&["--size", "128MiB"]).contains("67108864 bytes"));
    assert!(refused(&["--size", "64MiB", "--block-bytes", "16384"]).contains("blocks of 4096"));
    // Its blocks are gone: that is no empty volume.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let store = weed.store();
    runtime.block_on(async {
        use futures::TryStreamExt as _;
        use object_store::ObjectStoreExt as _;
        let blocks = object_store::path::Path::from("tests/v/blocks");
        let all: Vec<_> = store.list(Some(&blocks)).try_collect().await.expect("a list");
        assert!(!all.is_empty());
        for object in all {
            store.delete(&object.location).await.expect("it is removed");
        }
    });
    assert!(refused(&[]).contains("not those that were made for it"));
    assert!(refused(&["--size", "64MiB"]).contains("not those that were made for it"));
}

#[test]
fn the_image_is_the_only_file_and_keeps_its_size() {
    assert!(common::is_root(), "it mounts");
    let weed = Weed::start();
    let vold = Vold::serve(&weed, "file", &["--size", "64MiB"]);
    let directory = vold.image().parent().expect("it is in one").to_owned();
    assert_eq!(std::fs::metadata(vold.image()).expect("it is there").len(), 64 << 20);
    std::fs::write(directory.join("other"), b"").expect_err("no other file");
    std::fs::remove_file(vold.image()).expect_err("it stays");
    let image = vold.open();
    image.set_len(1 << 20).expect_err("it keeps its size");
    std::os::unix::fs::FileExt::write_all_at(&image, &[1; 8192], (64 << 20) - 4096).expect_err("it has an end");
    // In use, it does not end.
    vold.signal(nix::sys::signal::Signal::SIGTERM);
    common::eventually("it says why it stays", || vold.said().contains("in use").then_some(()));
    drop(image);
    vold.end();
}
