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
    // Of each kind more than one: the pages of the program are there once, whoever uses them, and are nobody's alone.
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

fn private_kib(pid: &str) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let private =
        rollup.lines().filter(|line| line.starts_with("Private_Clean:") || line.starts_with("Private_Dirty:"));
    private.map(|line| line.split_ascii_whitespace().nth(1).unwrap().parse::<u64>().unwrap()).sum()
}
