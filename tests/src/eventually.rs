//! Waiting for what must become true, with a bound. Refuses to wait for what must stay false.
//!
//! Bounds are for a real machine. An emulated one is slower by a factor, which `cargo xtask test --vm` sets as CC_TEST_PATIENCE and nobody
//! else has a use for.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// How often the condition is looked at.
const INTERVAL: Duration = Duration::from_millis(20);

/// `bound` as this machine is allowed it: the same on a real one, longer on an emulated one.
pub fn allowed(bound: Duration) -> Duration {
    bound * patience()
}

/// How much slower than a real machine this one may be.
pub fn patience() -> u32 {
    static PATIENCE: LazyLock<u32> = LazyLock::new(|| {
        let set = std::env::var("CC_TEST_PATIENCE").ok();
        set.map_or(1, |text| text.parse().expect("CC_TEST_PATIENCE is a whole number"))
    });
    *PATIENCE
}

/// Returns when `condition` gives a value; panics, saying what was waited for, when it does not within `bound`.
#[track_caller]
pub fn eventually<T>(what: &str, bound: Duration, condition: impl FnMut() -> Option<T>) -> T {
    within(bound, condition).unwrap_or_else(|| panic!("{what}: not within {:?}", allowed(bound)))
}

/// For a clean-up, which has its own way of failing: `None` when `condition` gives no value within `bound`.
pub fn within<T>(bound: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let (start, bound) = (Instant::now(), allowed(bound));
    loop {
        let value = condition();
        if value.is_some() || start.elapsed() >= bound {
            return value;
        }
        std::thread::sleep(INTERVAL);
    }
}
