//! What `cc-ebpf/src/atomic.rs` does with the kernel's instructions, for one thread. Refuses, as that does, to change anything in a dry
//! run.

use crate::trace::dry_run;

unsafe fn change(word: *mut u64, to: impl FnOnce(u64) -> u64) -> u64 {
    // SAFETY: as the callers' contracts say: an element of a map, which nobody else looks at meanwhile.
    unsafe {
        let found = word.read();
        if !dry_run() {
            word.write(to(found));
        }
        found
    }
}

/// # Safety
/// `word` is an aligned word of a map's element.
pub unsafe fn fetch_add(word: *mut u64, value: u64) -> u64 {
    // SAFETY: as the contract says.
    unsafe { change(word, |found| found.wrapping_add(value)) }
}

/// # Safety
/// As for `fetch_add`.
pub unsafe fn fetch_sub(word: *mut u64, value: u64) -> u64 {
    // SAFETY: as the contract says.
    unsafe { change(word, |found| found.wrapping_sub(value)) }
}

/// # Safety
/// As for `fetch_add`.
pub unsafe fn fetch_and(word: *mut u64, mask: u64) -> u64 {
    // SAFETY: as the contract says.
    unsafe { change(word, |found| found & mask) }
}

/// # Safety
/// As for `fetch_add`.
pub unsafe fn swap(word: *mut u64, value: u64) -> u64 {
    // SAFETY: as the contract says.
    unsafe { change(word, |_| value) }
}

/// # Safety
/// As for `fetch_add`.
pub unsafe fn compare_exchange(word: *mut u64, expected: u64, new: u64) -> bool {
    // SAFETY: as the contract says.
    unsafe { change(word, |found| if found == expected { new } else { found }) == expected }
}

/// # Safety
/// As for `fetch_add`.
pub unsafe fn load(word: *const u64) -> u64 {
    // SAFETY: as the contract says.
    unsafe { word.read() }
}
