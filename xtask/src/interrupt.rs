//! Ctrl-C and SIGTERM as a flag, so that guards still run. Refuses to do anything in the handler but set it.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{SigHandler, Signal, signal};

static SEEN: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_: libc::c_int) {
    SEEN.store(true, Ordering::Relaxed);
}

/// From here on the two signals end nothing by themselves: whoever waits long asks `check`.
pub fn catch() -> Result<()> {
    for which in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the handler stores to an atomic and nothing else, which is async-signal-safe, and it is a function, so it
        // lives as long as the process.
        unsafe { signal(which, SigHandler::Handler(note)) }.with_context(|| format!("cannot catch {which}"))?;
    }
    Ok(())
}

pub fn seen() -> bool {
    SEEN.load(Ordering::Relaxed)
}

pub fn check() -> Result<()> {
    if seen() { bail!("interrupted") } else { Ok(()) }
}
