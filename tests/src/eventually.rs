//! Waiting for what must become true, with a bound. Refuses to wait for what must stay false.

use std::time::{Duration, Instant};

/// How often the condition is looked at.
const INTERVAL: Duration = Duration::from_millis(20);

/// Returns when `condition` gives a value; panics, saying what was waited for, when it does not within `bound`.
pub fn eventually<T>(what: &str, bound: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < bound, "{what}: not within {bound:?}");
        std::thread::sleep(INTERVAL);
    }
}
