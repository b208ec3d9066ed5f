//! What is removed is gone from the store, and whoever served it has lost it. Nobody else's goes.

mod common;

use std::os::unix::fs::FileExt as _;

use common::{Vold, Weed};
use futures::TryStreamExt as _;

fn objects(weed: &Weed, volume: &str) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let at = object_store::path::Path::from(format!("tests/{volume}"));
    let (store, all) = (weed.store(), |object: object_store::ObjectMeta| object.location.to_string());
    runtime.block_on(store.list(Some(&at)).map_ok(all).try_collect()).expect("a list")
}

fn remove(weed: &Weed, volume: &str) {
    let mut command = Vold::command(weed);
    command.args(["--experimental", "remove", "--store", &weed.url(), "--volume", volume]);
    let out = command.output().expect("it starts");
    assert!(out.status.success(), "{}: {}", out.status, String::from_utf8_lossy(&out.stderr));
}

fn serve_written(weed: &Weed, volume: &str) -> Vold {
    let vold = Vold::serve(weed, volume, &["--size", "64MiB"]);
    let image = vold.open();
    image.write_all_at(&[7; 1 << 20], 1 << 20).expect("it is written");
    image.sync_all().expect("it is in the store");
    vold
}

#[test]
fn nothing_of_it_is_left_and_a_name_that_begins_alike_is_anothers() {
    assert!(common::is_root(), "it mounts");
    let weed = Weed::start();
    for volume in ["v", "v2"] {
        serve_written(&weed, volume).end();
    }
    assert!(!objects(&weed, "v").is_empty());
    let others = objects(&weed, "v2");
    for _ in 0..2 {
        remove(&weed, "v");
        assert_eq!(objects(&weed, "v"), [""; 0]);
    }
    assert_eq!(objects(&weed, "v2"), others);
    let refused = Vold::try_serve(&weed, "v", &[]).err().expect("it is refused");
    assert!(refused.contains("there is no volume v"), "{refused}");
    let kept = Vold::serve(&weed, "v2", &[]);
    let mut read = [0; 4096];
    kept.open().read_exact_at(&mut read, 1 << 20).expect("it is read");
    assert_eq!(read, [7; 4096]);
    kept.end();
}

#[test]
fn whoever_serves_it_loses_it() {
    assert!(common::is_root(), "it mounts");
    let weed = Weed::start();
    let mut vold = serve_written(&weed, "v");
    let image = vold.open();
    remove(&weed, "v");
    image.write_all_at(&[8; 4096], 0).and_then(|()| image.sync_all()).expect_err("it is not promised");
    drop(image);
    assert_eq!(vold.wait().code(), Some(3), "{}", vold.said());
}
