//! Atomic operations on words of map elements, as instructions: the core library that is built for this target has none.
//! Refuses orderings: the kernel's are full barriers, all of them. In a dry run, where nothing that is shared may change, each says what
//! it would have found, and leaves the word alone.

use crate::trace::dry_run;

/// An instruction that changes `word` by `old`, and puts what was there into `old`. On other targets, where these programs are
/// looked at by lints and never run, nothing.
#[cfg(target_arch = "bpf")]
macro_rules! exchange {
    ($template:literal, $word:ident, $old:ident) => {
        core::arch::asm!($template, word = in(reg) $word, old = inout(reg) $old)
    };
}
#[cfg(not(target_arch = "bpf"))]
macro_rules! exchange {
    ($template:literal, $word:ident, $old:ident) => {
        $old = $word.replace($old)
    };
}

/// Adds, and gives what was there.
///
/// # Safety
/// `word` is an aligned word of a map's element, accessed by atomic instructions only.
#[inline(always)]
pub unsafe fn fetch_add(word: *mut u64, value: u64) -> u64 {
    if dry_run() {
        // SAFETY: as the contract says.
        return unsafe { load(word) };
    }
    let mut old = value;
    // SAFETY: as the contract says; the verifier checks the access.
    unsafe { exchange!("{old} = atomic_fetch_add((u64 *)({word} + 0), {old})", word, old) };
    old
}

/// Subtracts, and gives what was there.
///
/// # Safety
/// As for `fetch_add`.
#[inline(always)]
pub unsafe fn fetch_sub(word: *mut u64, value: u64) -> u64 {
    // SAFETY: as the contract says.
    unsafe { fetch_add(word, value.wrapping_neg()) }
}

/// Clears all bits but those of `mask`, and gives what was there.
///
/// # Safety
/// As for `fetch_add`.
#[inline(always)]
pub unsafe fn fetch_and(word: *mut u64, mask: u64) -> u64 {
    if dry_run() {
        // SAFETY: as the contract says.
        return unsafe { load(word) };
    }
    let mut old = mask;
    // SAFETY: as the contract says; the verifier checks the access.
    unsafe { exchange!("{old} = atomic_fetch_and((u64 *)({word} + 0), {old})", word, old) };
    old
}

/// Puts `value` there, and gives what was there.
///
/// # Safety
/// As for `fetch_add`.
#[inline(always)]
pub unsafe fn swap(word: *mut u64, value: u64) -> u64 {
    if dry_run() {
        // SAFETY: as the contract says.
        return unsafe { load(word) };
    }
    let mut old = value;
    // SAFETY: as the contract says; the verifier checks the access.
    unsafe { exchange!("{old} = xchg_64({word} + 0, {old})", word, old) };
    old
}

/// Puts `new` there if `expected` is there; whether it was.
///
/// # Safety
/// As for `fetch_add`.
#[inline(always)]
pub unsafe fn compare_exchange(word: *mut u64, expected: u64, new: u64) -> bool {
    if dry_run() {
        // SAFETY: as the contract says.
        return unsafe { load(word) } == expected;
    }
    let mut found = expected;
    // SAFETY: as the contract says; the verifier checks the access.
    #[cfg(target_arch = "bpf")]
    unsafe {
        core::arch::asm!("r0 = cmpxchg_64({word} + 0, r0, {new})", word = in(reg) word, new = in(reg) new, inout("r0") found);
    }
    // SAFETY: as above; never run.
    #[cfg(not(target_arch = "bpf"))]
    unsafe {
        exchange!("", word, found);
        word.write(new);
    }
    found == expected
}

/// Reads.
///
/// # Safety
/// As for `fetch_add`.
#[inline(always)]
pub unsafe fn load(word: *const u64) -> u64 {
    // SAFETY: an aligned word is read by one instruction; volatile keeps it one.
    unsafe { word.read_volatile() }
}
