//! What the kernel would know and decide: time, chance, routes, sizes; and the lock under which the maps are used. Refuses to be shared.

use std::cell::RefCell;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cc_common::net::Ip;

use crate::maps;

static LOCK: Mutex<()> = Mutex::new(());

/// What the helpers say.
#[derive(Debug, Clone, Default)]
pub struct Said {
    pub now_ns: u64,
    pub random: u32,
    /// What `bpf_fib_lookup` returns, and the interface if it succeeds.
    pub route: i64,
    pub route_ifindex: u32,
    /// From which the host sends, in both families.
    pub sources: [Ip; 2],
    pub mtu: u32,
    /// What comes in once more, and by which interface.
    pub again: Vec<(u32, Vec<u8>)>,
}

thread_local! {
    static SAID: RefCell<Said> = RefCell::new(Said::default());
}

pub fn said<T>(ask: impl FnOnce(&mut Said) -> T) -> T {
    SAID.with_borrow_mut(ask)
}

/// Whoever has it has the maps for himself, empty at first.
pub struct Kernel(#[expect(dead_code, reason = "held")] MutexGuard<'static, ()>);

impl Kernel {
    pub fn new() -> Kernel {
        let lock = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
        forget();
        said(|said| *said = Said::default());
        Kernel(lock)
    }
}

impl Default for Kernel {
    fn default() -> Self {
        Self::new()
    }
}

fn forget() {
    maps::CC_DRY_RUN.set(0);
    maps::CC_PORTS.clear();
    maps::CC_ROUTES.clear();
    maps::CC_ENDPOINTS.clear();
    maps::CC_COUNTERS.clear();
    maps::CC_DROPS.clear();
    maps::CC_SOCKETS.clear();
    maps::CC_SETTINGS.clear();
    maps::CC_RULESETS.clear();
    maps::CC_RULES.clear();
    maps::CC_PREFIX4.clear();
    maps::CC_PREFIX6.clear();
    maps::CC_FLOWS.clear();
    maps::CC_QUOTAS.clear();
    maps::CC_FRAGMENTS.clear();
    maps::CC_EARLY.clear();
    maps::CC_EARLY_BYTES.clear();
    maps::CC_NAT.clear();
    maps::CC_BLOCKS.clear();
    maps::CC_FORWARDS.clear();
    maps::CC_MEANT.clear();
    maps::CC_UPLINKS.clear();
    maps::CC_OUTER.clear();
    maps::CC_RATES.clear();
    maps::CC_TOLD.clear();
    maps::CC_BEGUN.clear();
    maps::CC_LOGGED.clear();
    maps::CC_WATCH.clear();
    maps::CC_GUARD.clear();
    maps::CC_GUARDED.clear();
    maps::CC_BLOCKED.clear();
    maps::CC_WORK.clear();
    maps::CC_TRACE.clear();
}
