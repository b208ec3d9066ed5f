//! Images arrive from a layout, an archive and a registry; whiteouts are right; what nobody uses goes.

use std::process::Command;

use cc_tests::{World, images};

#[test]
fn an_archive_and_a_layout_load() {
    let world = World::new();
    let layout = images::reference("busybox").unwrap();
    let archive = world.path("busybox.tar");
    let made = Command::new("skopeo")
        .args(["copy", "--insecure-policy", &layout, &format!("docker-archive:{}:test/busybox:1", archive.display())])
        .output()
        .expect("skopeo is installed by `cargo xtask setup`");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let source = format!("docker-archive:{}", archive.display());
    world.cc(&["run", "--rm", "--image", &source, "true"]).ok();
    world.cc(&["run", "--rm", "--image", &layout, "true"]).ok();
    let listed = world.cc(&["image", "list", "--json"]).json();
    assert!(!listed.as_array().unwrap().is_empty());
    world.cc(&["run", "--rm", "--pull", "never", "--image", "nobody/has-this", "true"]).fails(125, "has-this");
}

#[test]
fn whiteouts_and_opaque_directories_are_right() {
    let world = World::new();
    // The image's own recipe says what must be there and what must not.
    let ran = world.run_rm("layered", &[], &["sh", "-c", images::LAYERED_CHECK]);
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
}

#[test]
fn shared_layers_are_stored_once_and_prune_frees() {
    let world = World::new();
    world.image("busybox");
    let layers = || std::fs::read_dir(world.path("state/images/layers")).unwrap().count();
    let alone = layers();
    world.image("net-tools");
    assert_eq!(layers(), alone + 1, "net-tools is busybox and one layer more");
    let id = world.run("busybox", &[], &["sleep", "600"]);
    world.cc(&["image", "prune", "--all"]).ok();
    assert_eq!(layers(), alone, "what a container uses stays, the rest goes");
    world.cc(&["rm", "-f", &id]).ok();
    world.cc(&["image", "prune", "--all"]).ok();
    assert_eq!(layers(), 0);
    assert_eq!(world.cc(&["image", "list", "-q"]).ok().stdout, "");
}
