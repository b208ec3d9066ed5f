//! Gives memory back to the kernel that was in use and is free: the allocator keeps it, after a burst of starts or a scrape of a thousand
//! containers. Refuses to do so while there is nothing to gain.

use std::time::{Duration, Instant};

/// Between two looks, each of which reads one file.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// What was in use for long may be free without anything having grown: it takes a millisecond to see.
const IN_ANY_CASE: Duration = Duration::from_secs(60);
/// Since it was last given back.
const GROWTH_BYTES: u64 = 2 << 20;

/// As long as the daemon runs.
pub async fn give_back() {
    let (mut least, mut has_grown, mut last) = (0, false, Instant::now());
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        // Once more after the last time: what was in use in the middle of a burst may be free by now.
        let was_growing = has_grown;
        has_grown = resident_bytes().is_some_and(|bytes| bytes > least + GROWTH_BYTES);
        if has_grown || was_growing || last.elapsed() > IN_ANY_CASE {
            tokio::task::spawn_blocking(trim).await.expect("trimming does not panic");
            (least, last) = (resident_bytes().unwrap_or_default(), Instant::now());
        }
    }
}

fn resident_bytes() -> Option<u64> {
    let pages: u64 = std::fs::read_to_string("/proc/self/statm").ok()?.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(target_env = "gnu")]
fn trim() {
    // SAFETY: takes a number, and its own locks: it may run beside every other call of the allocator's.
    unsafe { libc::malloc_trim(0) };
}

/// Other allocators do so by themselves.
#[cfg(not(target_env = "gnu"))]
fn trim() {}
