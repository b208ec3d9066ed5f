//! A shim costs its host next to nothing: what it has for itself alone is at most 256 KiB.

use std::time::Duration;

use cc_tests::daemon::bin_dir;
use cc_tests::{World, eventually};

/// A debug build's shim is linked with libraries, which a release's is not.
fn bound_kib() -> u64 {
    if bin_dir().ends_with("debug") { 2048 } else { 256 }
}

#[test]
fn private_memory_of_each_is_bounded() {
    let world = World::new();
    for name in ["plain", "talks", "talks-too"] {
        world.run(
            "busybox",
            &["--name", name],
            &["sh", "-c", "i=0; while [ $i -lt 2000 ]; do echo $i; i=$((i+1)); done; sleep 600"],
        );
    }
    for name in ["talks", "talks-too"] {
        world.cc(&["exec", name, "true"]).ok();
    }
    for name in ["plain", "talks", "talks-too"] {
        let status = std::fs::read_to_string(format!("/proc/{}/status", world.pid(name))).unwrap();
        let shim = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim();
        // What it has when it has nothing to do: the same a while later.
        let (mut before, mut same) = (0, 0);
        let kib = eventually("its memory settles", Duration::from_secs(10), || {
            let now = private_kib(shim);
            same = if now == before { same + 1 } else { 0 };
            before = now;
            (same >= 25).then_some(now)
        });
        assert!(kib > 0 && kib <= bound_kib(), "{name}: {kib} KiB");
    }
    world.remove_all();
    world.assert_clean();
}

/// What it has written, and what is of no file. A page of the program that nobody has written is the page cache's, there once for all
/// shims: whether the kernel has mapped it into one of them or into several is a matter of which was where last.
fn private_kib(pid: &str) -> u64 {
    let smaps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let (mut sum, mut of_file) = (0, false);
    for line in smaps.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        match words[..] {
            ["Private_Dirty:", kib, _] => sum += kib.parse::<u64>().unwrap(),
            ["Private_Clean:", kib, _] if !of_file => sum += kib.parse::<u64>().unwrap(),
            [range, _, _, _, inode, ..] if range.contains('-') => of_file = inode != "0",
            _ => {}
        }
    }
    sum
}
