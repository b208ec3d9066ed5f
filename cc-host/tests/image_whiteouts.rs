//! Whiteouts and opaque directories mean to overlayfs what they mean in the image. Needs root; mounts in a namespace of its own.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod image_support;
use image_support::*;

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::process::Command;

/// What `find` shows of the stacked layers, mounted over each other.
async fn stacked(layers: &[Vec<Entry>]) -> Vec<String> {
    let world = world();
    let tars: Vec<Vec<u8>> = layers.iter().map(|entries| tar_of(entries)).collect();
    let record = world.load("test", &Layout::plain(&tars)).await.unwrap();
    let mut dirs: Vec<String> =
        world.images.layer_dirs(&record).iter().map(|d| d.to_str().unwrap().to_owned()).collect();
    // The topmost comes first in the mount option. An empty one makes a single layer mountable.
    let (empty, at) = (world.dir.path().join("empty"), world.dir.path().join("at"));
    std::fs::create_dir(&empty).unwrap();
    std::fs::create_dir(&at).unwrap();
    dirs.insert(0, empty.to_str().unwrap().to_owned());
    dirs.reverse();
    let script = format!(
        "mount -t overlay -o lowerdir={} none {at} && cd {at} && find . ! -name . | sort",
        dirs.join(":"),
        at = at.display()
    );
    let out = Command::new("unshare").args(["-m", "sh", "-ec", &script]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().lines().map(|line| line[2..].to_owned()).collect()
}

#[tokio::test]
async fn a_whiteout_hides_what_is_below() {
    let lower = vec![file("gone", b""), file("kept", b""), dir("d"), file("d/x", b"")];
    let upper = vec![file(".wh.gone", b""), file(".wh.d", b"")];
    assert_eq!(stacked(&[lower, upper]).await, ["kept"]);
}

#[tokio::test]
async fn an_opaque_directory_shows_only_its_own() {
    let lower = || vec![dir("d"), file("d/old", b""), dir("d/sub"), file("d/sub/old", b"")];
    for upper in [
        vec![dir("d"), file("d/.wh..wh..opq", b""), file("d/new", b"")],
        // In any order, and where the layer does not name the directory itself.
        vec![file("d/new", b""), file("d/.wh..wh..opq", b"")],
        vec![file("d/.wh..wh..opq", b""), file("d/new", b"")],
    ] {
        assert_eq!(stacked(&[lower(), upper]).await, ["d", "d/new"]);
    }
}

/// A whiteout is of the layers below, never of what its own layer has.
#[tokio::test]
async fn a_whiteout_beside_the_same_name() {
    let lower = || vec![dir("d"), file("d/old", b""), file("f", b"")];
    for upper in [
        vec![file(".wh.d", b""), dir("d"), file("d/new", b""), file(".wh.f", b""), file("f", b"2")],
        vec![dir("d"), file("d/new", b""), file(".wh.d", b""), file("f", b"2"), file(".wh.f", b"")],
        vec![file(".wh.d", b""), file("d/new", b""), file("f", b"2")],
    ] {
        assert_eq!(stacked(&[lower(), upper]).await, ["d", "d/new", "f"]);
    }
}

#[tokio::test]
async fn a_repeated_layer_is_stacked_at_its_highest_place() {
    let a = || vec![file("a", b"")];
    assert_eq!(stacked(&[a(), vec![file(".wh.a", b""), file("b", b"")], a()]).await, ["a", "b"]);
}

#[tokio::test]
async fn on_disk_a_whiteout_is_what_overlayfs_calls_one() {
    let world = world();
    let root = world
        .layer(&[file(".wh.x", b""), dir("o"), file("o/.wh..wh..opq", b""), file(".wh..wh.plnk", b"")])
        .await
        .unwrap();
    let meta = root.join("x").symlink_metadata().unwrap();
    assert!(meta.file_type().is_char_device() && meta.rdev() == 0);
    let mut value = [0u8; 8];
    assert_eq!(rustix::fs::getxattr(root.join("o"), "trusted.overlay.opaque", &mut value).unwrap(), 1);
    assert_eq!(std::fs::read_dir(&root).unwrap().count(), 2);
}
