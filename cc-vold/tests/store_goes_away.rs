//! While the object store is away nothing is promised: a flush waits, for so long and no longer, and then fails for good. What was promised before is
//! there when the store is.

mod common;

use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use common::{Vold, Weed, block, read_block};

const PATIENCE: Duration = Duration::from_secs(5);

#[test]
fn a_flush_is_not_promised_and_fails_in_time() {
    assert!(common::is_root(), "it mounts");
    let mut weed = Weed::start();
    let mut vold = Vold::serve(&weed, "away", &["--size", "64MiB", "--patience-s", "5"]);
    let image = vold.open();
    image.write_all_at(&block(1, b'1'), 4096).expect("it is written");
    image.sync_data().expect("the store is there");
    weed.kill();
    image.write_all_at(&block(1, b'2'), 4096).expect("it is in memory");
    let began = Instant::now();
    let error = image.sync_data().expect_err("nothing keeps it");
    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
    assert!(began.elapsed() < 3 * PATIENCE, "after {:?}", began.elapsed());
    // For good.
    image.write_all_at(&block(2, b'2'), 2 * 4096).expect_err("it has failed");
    image.sync_data().expect_err("it has failed");
    drop(image);
    assert_eq!(vold.wait().code(), Some(4), "{}", vold.said());
    assert!(vold.said().contains("not promised"), "{}", vold.said());

    weed.resume();
    let vold = Vold::serve(&weed, "away", &[]);
    let image = vold.open();
    assert!(read_block(&image, 1) == block(1, b'1'), "what was promised");
    assert!(read_block(&image, 2) == [0; 4096], "what came after the failure");
    image.write_all_at(&block(3, b'3'), 3 * 4096).expect("it is written");
    image.sync_data().expect("the store is there");
    drop(image);
    vold.end();
}

#[test]
fn a_short_absence_is_only_slow() {
    assert!(common::is_root(), "it mounts");
    let mut weed = Weed::start();
    let vold = Vold::serve(&weed, "short", &["--size", "64MiB", "--patience-s", "240"]);
    let image = vold.open();
    weed.kill();
    image.write_all_at(&block(1, b'1'), 4096).expect("it is in memory");
    let waiting = std::thread::spawn(move || image.sync_data());
    weed.resume();
    waiting.join().expect("it returns").expect("the store came back in time");
    vold.kill();
    let vold = Vold::serve(&weed, "short", &[]);
    let image = vold.open();
    assert!(read_block(&image, 1) == block(1, b'1'), "what was promised");
    drop(image);
    vold.end();
}

#[test]
fn nothing_is_served_without_a_store() {
    assert!(common::is_root(), "it mounts");
    let mut weed = Weed::start();
    weed.kill();
    let began = Instant::now();
    let said =
        Vold::try_serve(&weed, "none", &["--size", "64MiB", "--patience-s", "5"]).err().expect("there is no store");
    assert!(said.contains("object store"), "{said}");
    assert!(began.elapsed() < 4 * PATIENCE, "after {:?}", began.elapsed());
}
