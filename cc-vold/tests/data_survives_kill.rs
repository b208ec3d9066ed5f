//! What was synced is there after the program was killed, and the file system is whole: what a program was told is kept is kept by the object
//! store, and by nothing of this host.

mod common;

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::{Loop, Mounted, Vold, Weed, eventually, run};

const RECORD_BYTES: usize = 512;

fn record(number: u64) -> Vec<u8> {
    number.to_be_bytes().repeat(RECORD_BYTES / 8)
}

#[test]
fn a_file_that_was_synced_is_there_after_kill() {
    assert!(common::is_root(), "it mounts");
    let weed = Weed::start();
    let vold = Vold::serve(&weed, "files", &["--size", "64MiB"]);
    let device = Loop::attach(&vold.image());
    run("mkfs.ext4", &["-q", device.text()]);
    let mounted = Mounted::mount(device);
    let kept: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mut file = File::create(mounted.path("kept")).expect("it is made");
    file.write_all(&kept).expect("it is written");
    file.sync_all().expect("it is synced");
    // Of the directory, and so of the name.
    File::open(mounted.path("")).expect("it opens").sync_all().expect("it is synced");
    std::fs::write(mounted.path("perhaps"), b"nobody was told that this is kept").expect("it is written");
    drop(file);
    vold.kill();
    drop(mounted);

    let vold = Vold::serve(&weed, "files", &[]);
    let mounted = Mounted::mount(Loop::attach(&vold.image()));
    let found = std::fs::read(mounted.path("kept")).expect("it is there");
    assert!(found == kept, "what was synced has changed");
    drop(mounted);
    let device = Loop::attach(&vold.image());
    run("e2fsck", &["-f", "-n", device.text()]);
    drop(device);
    vold.end();
}

/// Records in a row, each synced before the next: killed at some moment, none that was synced is missing.
#[test]
fn no_record_that_was_synced_is_missing_wherever_the_kill_falls() {
    assert!(common::is_root(), "it mounts");
    let weed = Weed::start();
    let vold = Vold::serve(&weed, "log", &["--size", "64MiB"]);
    let device = Loop::attach(&vold.image());
    run("mkfs.ext4", &["-q", device.text()]);
    drop(device);
    vold.end();
    for round in 0..4_u64 {
        let vold = Vold::serve(&weed, "log", &[]);
        let mounted = Mounted::mount(Loop::attach(&vold.image()));
        let name = format!("log-{round}");
        let synced = Arc::new(AtomicU64::new(0));
        let writer = std::thread::spawn({
            let (file, synced) = (File::create(mounted.path(&name)).expect("it is made"), synced.clone());
            move || {
                for number in 1.. {
                    let at = (number - 1) * RECORD_BYTES as u64;
                    if file.write_all_at(&record(number), at).and_then(|()| file.sync_all()).is_err() {
                        return;
                    }
                    synced.store(number, Ordering::SeqCst);
                }
            }
        });
        eventually("some records", || (synced.load(Ordering::SeqCst) > 5 * (round + 1)).then_some(()));
        vold.kill();
        writer.join().expect("it ends by the error");
        let synced = synced.load(Ordering::SeqCst) as usize;
        drop(mounted);

        let vold = Vold::serve(&weed, "log", &[]);
        let mounted = Mounted::mount(Loop::attach(&vold.image()));
        let found = std::fs::read(mounted.path(&name)).expect("it is there");
        assert!(found.len() >= synced * RECORD_BYTES, "{} bytes of {synced} records", found.len());
        for (number, found) in (1..).zip(found.chunks_exact(RECORD_BYTES)).take(synced) {
            assert!(found == record(number), "record {number} of {synced} has changed");
        }
        drop(mounted);
        let device = Loop::attach(&vold.image());
        run("e2fsck", &["-f", "-n", device.text()]);
        drop(device);
        vold.end();
    }
}

/// A disk may write early, and then in order: what is there after a kill is what was there at one moment.
#[test]
fn what_was_not_synced_is_lost_from_its_end() {
    assert!(common::is_root(), "it mounts");
    let weed = Weed::start();
    let vold = Vold::serve(&weed, "order", &["--size", "128MiB"]);
    let image = vold.open();
    let blocks = 20 * 256_u64;
    for number in 0..blocks {
        image.write_all_at(&common::block(number, b'x'), number * 4096).expect("it is written");
    }
    drop(image);
    vold.kill();
    let vold = Vold::serve(&weed, "order", &[]);
    let image = vold.open();
    let there: Vec<bool> =
        (0..blocks).map(|number| common::read_block(&image, number) == common::block(number, b'x')).collect();
    let first_missing = there.iter().position(|there| !there).unwrap_or(there.len());
    assert!(there[first_missing..].iter().all(|there| !there), "a later block is there, and an earlier one is not");
    drop(image);
    vold.end();
}
