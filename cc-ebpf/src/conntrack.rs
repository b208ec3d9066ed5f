//! The table of flows: finding, keeping alive, opening, forgetting, and the books of who holds how many. Refuses to decide
//! whether a flow may exist: `admit` does.

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
use cc_common::flow::{FLAG_LEASED, FLAG_OUTSIDE, Flow, FlowKey, Side};
pub use cc_common::life::By;
use cc_common::life::{self, LIFE_HALF_OPEN};
use cc_common::limits::ENDPOINTS_MAX;
use cc_common::net::PROTOCOL_TCP;
use cc_common::quota;
use cc_common::settings::Settings;
use cc_common::tcp::Phase;
use cc_common::verdict::DropReason;

use crate::atomic;
use crate::maps::{CC_ENDPOINTS, CC_FLOWS, CC_NAT, CC_OUTER, CC_QUOTAS};
use crate::nat;
use crate::trace::{self, dry_run};

const OUT_OF_MEMORY: i32 = -12;
const TOO_BIG: i32 = -7;
pub const EXISTS: i32 = -17;

#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: reads a clock; a tick's precision is enough for timeouts, and costs a load.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// The word that is changed atomically only.
struct Life(*mut u64);

impl Life {
    #[inline(always)]
    fn of(flow: *mut Flow) -> Self {
        // SAFETY: only an address is computed.
        Life(unsafe { &raw mut (*flow).life })
    }
    #[inline(always)]
    fn get(&self) -> u64 {
        // SAFETY: a map's element, which stays mapped until the program ends; the word is aligned, and accessed so everywhere.
        unsafe { atomic::load(self.0) }
    }
    #[inline(always)]
    fn change(&self, from: u64, to: u64) -> bool {
        // SAFETY: as in `get`.
        unsafe { atomic::compare_exchange(self.0, from, to) }
    }
    #[inline(always)]
    fn clear(&self, bits: u64) -> u64 {
        // SAFETY: as in `get`.
        unsafe { atomic::fetch_and(self.0, !bits) }
    }
}

/// A number in the books, changed atomically only.
#[derive(Clone, Copy)]
pub struct Counter(*mut u64);

impl Counter {
    /// `word` is an aligned word of an array's element, which programs change by these functions only.
    #[inline(always)]
    pub fn at(word: *mut u64) -> Self {
        Counter(word)
    }
    #[inline(always)]
    pub fn get(self) -> u64 {
        // SAFETY: as in `add`.
        unsafe { atomic::load(self.0) }
    }
    #[inline(always)]
    pub fn change(self, from: u64, to: u64) -> bool {
        // SAFETY: as in `add`.
        unsafe { atomic::compare_exchange(self.0, from, to) }
    }
    #[inline(always)]
    pub fn add(self) -> u64 {
        // SAFETY: an aligned word of an array's element, which is always there.
        unsafe { atomic::fetch_add(self.0, 1) }
    }
    #[inline(always)]
    pub fn sub(self, value: u64) -> u64 {
        // SAFETY: as in `add`.
        unsafe { atomic::fetch_sub(self.0, value) }
    }
    #[inline(always)]
    pub fn take(self) -> u64 {
        // SAFETY: as in `add`.
        unsafe { atomic::swap(self.0, 0) }
    }
}

/// An endpoint's books.
#[derive(Clone, Copy)]
struct Books {
    flows: Counter,
    half_open: Counter,
}

impl Books {
    #[inline(always)]
    fn of(endpoint: u32) -> Option<Books> {
        let quota = CC_QUOTAS.get_ptr_mut(endpoint)?;
        // SAFETY: only addresses are computed.
        unsafe {
            Some(Books { flows: Counter(&raw mut (*quota).flows), half_open: Counter(&raw mut (*quota).half_open) })
        }
    }
}

/// Keeps a flow that was found from being forgotten. One that is already is nobody's any more: it goes within the same
/// microsecond, and the sender tries again.
#[inline(always)]
pub fn keep(flow: *mut Flow) -> Result<(), DropReason> {
    let word = Life::of(flow);
    let now = word.get();
    if life::is_live(now) {
        return Ok(());
    }
    if life::is_dying(now) {
        let _ = word.change(now, life::revived(now));
        // Whoever was first, it lives now, or it is dead.
        if !life::is_dead(word.get()) {
            return Ok(());
        }
    }
    Err(DropReason::FlowClosing)
}

/// After a packet: a flow that is not half open any more leaves that quota.
#[inline(always)]
pub fn settle(flow: *mut Flow, protocol: u8) {
    if Life::of(flow).get() & LIFE_HALF_OPEN == 0 {
        return;
    }
    // SAFETY: the element stays mapped until the program ends.
    let phase = unsafe { (*flow).tracked.phase(protocol == PROTOCOL_TCP) };
    if !matches!(phase, Phase::Opening) {
        release_half_open(flow);
    }
}

/// Seldom, and at many places: not inlined, as the functions below that end a flow, because what the kernel does with a program it does with
/// each copy, and in time that grows with the square of the program.
#[inline(never)]
fn release_half_open(flow: *mut Flow) {
    if Life::of(flow).clear(LIFE_HALF_OPEN) & LIFE_HALF_OPEN != 0
        && let Some(books) = books_of(flow)
    {
        books.half_open.sub(1);
    }
}

/// The books of the flow's owner, unless the owner is gone: then they are another's, and what he held was given back at once.
#[inline(always)]
fn books_of(flow: *mut Flow) -> Option<Books> {
    // SAFETY: the element stays mapped; these words are written only before the flow is in the table.
    let (endpoint, generation) = unsafe {
        let side = Side::from_index((*flow).owner).index();
        ((*flow).endpoints[side], (*flow).generations[side])
    };
    match CC_ENDPOINTS.get(endpoint) {
        Some(entry) if entry.generation == generation => Books::of(endpoint),
        _ => None,
    }
}

/// Puts a flow that `admit` has filled in into the table, and into its owner's books.
#[inline(never)]
pub fn open(settings: &Settings, key: &FlowKey, flow: &Flow, owner: u32) -> Result<(), DropReason> {
    let (Some(books), Some(pool)) = (Books::of(owner), Books::of(ENDPOINTS_MAX)) else {
        return Err(DropReason::FlowQuota);
    };
    let before = trace::opened_before(flow);
    let pooled = match quota::flow(settings, books.flows.add() + before) {
        Ok(pooled) => pooled,
        Err(reason) => {
            books.flows.sub(1);
            return Err(reason);
        }
    };
    if pooled && let Err(reason) = quota::pool(pool.flows.add()) {
        pool.flows.sub(1);
        books.flows.sub(1);
        return Err(reason);
    }
    let had = books.half_open.add() + before;
    let refused = match quota::half_open(settings, had.wrapping_sub(trace::given_way())) {
        Err(reason) => Some(reason),
        Ok(()) => match insert(key, flow) {
            Ok(()) => None,
            // The kernel has no memory at hand, or no row is left.
            Err(OUT_OF_MEMORY | TOO_BIG) => Some(DropReason::FlowTableFull),
            // Another CPU saw the same conversation begin: the sender tries again.
            Err(_) => Some(DropReason::FlowClosing),
        },
    };
    let Some(reason) = refused else { return Ok(()) };
    books.half_open.sub(1);
    give_back(books, pool);
    Err(reason)
}

/// Unless there is one.
#[inline(always)]
fn insert(key: &FlowKey, flow: &Flow) -> Result<(), i32> {
    if !dry_run() {
        return CC_FLOWS.insert(key, flow, BPF_NOEXIST.into());
    }
    if CC_FLOWS.get_ptr(key).is_some() && !trace::has_forgotten() {
        return Err(EXISTS);
    }
    trace::opened(flow);
    Ok(())
}

#[inline(always)]
fn give_back(books: Books, pool: Books) {
    if quota::is_pooled(books.flows.sub(1).wrapping_sub(1)) {
        pool.flows.sub(1);
    }
}

/// Gives back what a flow's owner held by it. Once per flow: by whoever made it dead.
#[inline(never)]
fn close_books(flow: *mut Flow) {
    release_half_open(flow);
    if let (Some(books), Some(pool)) = (books_of(flow), Books::of(ENDPOINTS_MAX)) {
        give_back(books, pool);
    }
}

/// Makes a flow dead and deletes it, if nobody else does.
#[inline(always)]
pub fn forget(by: By, key: &FlowKey, flow: *mut Flow) -> bool {
    forget_if(0, by, key, flow)
}

/// The same, unless it is half open no more, or another's than this endpoint's.
#[inline(always)]
pub fn forget_half_open(endpoint: u32, by: By, key: &FlowKey, flow: *mut Flow) -> bool {
    // SAFETY: the element stays mapped; these words are written only before the flow is in the table.
    let (owner, generation) = unsafe {
        let side = Side::from_index((*flow).owner).index();
        ((*flow).endpoints[side], (*flow).generations[side])
    };
    owner == endpoint
        && CC_ENDPOINTS.get(endpoint).is_some_and(|entry| entry.generation == generation)
        && forget_if(LIFE_HALF_OPEN, by, key, flow)
}

/// If its life has all these bits, at the moment in which it ends.
#[inline(always)]
fn forget_if(bits: u64, by: By, key: &FlowKey, flow: *mut Flow) -> bool {
    let word = Life::of(flow);
    let now = word.get();
    let Some(dead) = life::forgotten(by, now) else { return false };
    if now & bits != bits || !word.change(now, dead) {
        return false;
    }
    if dry_run() {
        trace::forgotten();
        return true;
    }
    close_books(flow);
    forget_outside(by, key, flow);
    let _ = CC_FLOWS.remove(key);
    true
}

/// What the outside knows it by, and the port that it was known at.
#[inline(never)]
#[expect(clippy::needless_borrows_for_generic_args, reason = "by value it would be copied onto the stack")]
fn forget_outside(by: By, key: &FlowKey, flow: *mut Flow) {
    // SAFETY: the element stays mapped; these words are written only before the flow is in the table.
    let flow = unsafe { &*flow };
    if flow.flags & FLAG_LEASED != 0 {
        let side = flow.initiator().index();
        nat::release(flow.flags, flow.outer_ports[side], flow.endpoints[side], flow.generations[side]);
    }
    if flow.flags & FLAG_OUTSIDE != 0
        && let Some(outer) = CC_OUTER.get_ptr_mut(by as u32)
    {
        // SAFETY: this CPU's own row, used within these lines only, and by one program at a time.
        let outer = unsafe { &mut *outer };
        outer.set_outer(flow, key.protocol);
        let _ = CC_NAT.remove(&*outer);
    }
}

/// The sweep's first step: live → dying.
#[inline(always)]
pub fn doom(flow: *mut Flow) {
    let word = Life::of(flow);
    let now = word.get();
    if let Some(dying) = life::doomed(now) {
        // A packet that came first keeps it alive.
        let _ = word.change(now, dying);
    }
}

/// Whether the sweep has already marked it, and nobody has used it since.
#[inline(always)]
pub fn is_doomed(flow: *mut Flow) -> bool {
    life::is_dying(Life::of(flow).get())
}

/// An endpoint has gone: what it held of the pool goes back, and its books are empty for the slot's next one. Its flows are
/// orphans by now, which nobody's books know of.
#[inline(always)]
pub fn retire(endpoint: u32) {
    let (Some(books), Some(pool)) = (Books::of(endpoint), Books::of(ENDPOINTS_MAX)) else { return };
    pool.flows.sub(quota::pooled_of(books.flows.take()));
    books.half_open.take();
    nat::forget_shared(endpoint);
}
