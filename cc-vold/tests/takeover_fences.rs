//! A volume has one writer. Who serves it last has it; the one before is told so by its next flush, promises nothing from then on, and ends. What
//! it had promised before is there.

mod common;

use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::{Vold, Weed, block, eventually, read_block};
use nix::sys::signal::Signal;

const ZEROS: [u8; 4096] = [0; 4096];
/// Where the second one writes.
const SECOND: u64 = 8192;

#[test]
fn the_first_loses_nothing_that_it_promised_and_promises_nothing_more() {
    assert!(common::is_root(), "it mounts");
    let weed = Weed::start();
    let mut first = Vold::serve(&weed, "two", &["--size", "64MiB"]);
    let promised = Arc::new(AtomicU64::new(0));
    // Each block once, in a row, flushed one by one, until that fails.
    let writer = std::thread::spawn({
        let (image, promised) = (first.open(), promised.clone());
        move || {
            for number in 1..SECOND {
                let at = number * 4096;
                if let Err(error) = image.write_all_at(&block(number, b'1'), at).and_then(|()| image.sync_data()) {
                    // It stays so.
                    assert!(
                        image.write_all_at(&ZEROS, 0).and_then(|()| image.sync_data()).is_err(),
                        "it goes on after {error}"
                    );
                    return (number, error);
                }
                promised.store(number, Ordering::SeqCst);
            }
            panic!("nobody fenced it");
        }
    });
    eventually("some flushes", || (promised.load(Ordering::SeqCst) > 20).then_some(()));
    let second = Vold::serve(&weed, "two", &[]);
    let (failed_at, error) = writer.join().expect("it ends by the error");
    let status = first.wait();
    assert_eq!(status.code(), Some(3), "{status}: {}", first.said());
    assert!(first.said().contains("taken this volume over"), "{}", first.said());
    assert!(matches!(error.raw_os_error(), Some(libc::EIO | libc::ENOTCONN | libc::ECONNABORTED)), "{error}");

    let promised = promised.load(Ordering::SeqCst);
    assert_eq!(failed_at, promised + 1);
    let image = second.open();
    let check = |image: &std::fs::File| {
        for number in 1..=promised {
            assert!(read_block(image, number) == block(number, b'1'), "block {number} of {promised} has changed");
        }
        // The one that failed may be there or not, whole; none after it is.
        let unsure = read_block(image, failed_at);
        assert!(unsure == ZEROS || unsure == block(failed_at, b'1'), "half a block");
        assert!(read_block(image, failed_at + 1) == ZEROS, "what came after the takeover is there");
        assert!(read_block(image, 0) == ZEROS, "what came after the takeover is there");
    };
    check(&image);
    for number in SECOND..SECOND + 50 {
        image.write_all_at(&block(number, b'2'), number * 4096).expect("it is written");
    }
    image.sync_data().expect("the second one has it");
    drop(image);
    second.kill();

    let third = Vold::serve(&weed, "two", &[]);
    let image = third.open();
    check(&image);
    for number in SECOND..SECOND + 50 {
        assert!(read_block(&image, number) == block(number, b'2'), "block {number} of the second one");
    }
    drop(image);
    third.end();
}

/// One that was stopped for a while, as with its host, and comes back when others had the volume and left it in order.
#[test]
fn one_that_was_stopped_is_not_told_yes_when_it_comes_back() {
    assert!(common::is_root(), "it mounts");
    let weed = Weed::start();
    let mut first = Vold::serve(&weed, "stopped", &["--size", "64MiB"]);
    let image = first.open();
    image.write_all_at(&block(1, b'1'), 4096).expect("it is written");
    image.sync_data().expect("it has it");
    // In its memory when it is stopped.
    image.write_all_at(&block(2, b'1'), 2 * 4096).expect("it is written");
    first.signal(Signal::SIGSTOP);
    for by in [b'2', b'3'] {
        let next = Vold::serve(&weed, "stopped", &[]);
        let image = next.open();
        assert!(read_block(&image, 1) == block(1, if by == b'2' { b'1' } else { b'2' }), "before {}", char::from(by));
        image.write_all_at(&block(1, by), 4096).expect("it is written");
        image.sync_data().expect("it has it");
        drop(image);
        next.end();
    }
    let waiting = std::thread::spawn(move || image.sync_data());
    first.signal(Signal::SIGCONT);
    waiting.join().expect("it returns").expect_err("a flush of who was fenced was promised");
    assert_eq!(first.wait().code(), Some(3), "{}", first.said());

    let last = Vold::serve(&weed, "stopped", &[]);
    let image = last.open();
    assert!(read_block(&image, 1) == block(1, b'3'), "the last that was promised");
    assert!(read_block(&image, 2) == ZEROS, "what was never promised, and came after others");
    drop(image);
    last.end();
}

/// Without a flush, too: it would read what others have changed.
#[test]
fn who_only_reads_notices_as_well() {
    assert!(common::is_root(), "it mounts");
    let weed = Weed::start();
    let mut first = Vold::serve(&weed, "reads", &["--size", "64MiB"]);
    let second = Vold::serve(&weed, "reads", &[]);
    assert_eq!(first.wait().code(), Some(3), "{}", first.said());
    second.end();
}
