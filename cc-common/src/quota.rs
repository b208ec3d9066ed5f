//! How much of the shared tables an endpoint may hold. Each has a share that nobody can take from it, and beyond it a part of a
//! pool, up to a limit of its own: so whoever floods runs out by himself. Refuses to touch a counter: it says what to do with
//! what was found there.

use crate::limits::{FLOWS_GUARANTEED, FLOWS_POOL, NAT_SHARED_PER_ENDPOINT};
use crate::settings::Settings;
use crate::verdict::DropReason;

/// Value of `CC_QUOTAS`: of one endpoint; in the row after the last endpoint, `flows` counts what the pool has given. All atomic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Quota {
    pub flows: u64,
    pub half_open: u64,
    /// Blocks of translated ports that it holds.
    pub nat_blocks: u64,
    /// Ports of others' blocks that it has.
    pub nat_shared: u64,
}
const _: () = assert!(size_of::<Quota>() == 32);

/// Key of `CC_BEGUN`: one of an endpoint's places for flows that came in from outside and may give way. The value is a flow's key, which
/// says nothing of whether there is such a flow still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
#[repr(C)]
pub struct BegunKey {
    pub endpoint: u32,
    pub place: u32,
}
const _: () = assert!(size_of::<BegunKey>() == 8);

impl BegunKey {
    /// As many places as there may be half-open flows: a flow that takes any of them takes, at the quota, that of one that gives way.
    #[inline(always)]
    pub fn any(settings: &Settings, endpoint: u32, random: u32) -> Self {
        BegunKey { endpoint, place: random.checked_rem(settings.half_open_per_endpoint).unwrap_or(0) }
    }
}

/// Given how many flows the endpoint had before this one: whether it may have it, and whether the pool must give it.
#[inline(always)]
pub fn flow(settings: &Settings, had: u64) -> Result<bool, DropReason> {
    if reached(had, settings.flows_per_endpoint) { Err(DropReason::FlowQuota) } else { Ok(is_pooled(had)) }
}

/// Whether the flow after `had` others came from the pool, and goes back to it when it is the last of `had + 1`.
#[inline(always)]
pub fn is_pooled(had: u64) -> bool {
    reached(had, FLOWS_GUARANTEED)
}

/// Of so many flows, how many came from the pool.
#[inline(always)]
pub fn pooled_of(had: u64) -> u64 {
    if is_pooled(had) { had - u64::from(FLOWS_GUARANTEED) } else { 0 }
}

/// Given how many the pool had given before.
#[inline(always)]
pub fn pool(given: u64) -> Result<(), DropReason> {
    if reached(given, FLOWS_POOL) { Err(DropReason::FlowTableFull) } else { Ok(()) }
}

#[inline(always)]
pub fn half_open(settings: &Settings, had: u64) -> Result<(), DropReason> {
    if reached(had, settings.half_open_per_endpoint) { Err(DropReason::HalfOpenQuota) } else { Ok(()) }
}

/// Given how many ports of others' blocks the endpoint had before: whether it may have another.
#[inline(always)]
pub fn shared_port(had: u64) -> bool {
    !reached(had, NAT_SHARED_PER_ENDPOINT)
}

/// A slot that changes hands while another CPU gives something back can be below zero for a moment: then it is not full.
#[inline(always)]
fn reached(had: u64, limit: u32) -> bool {
    let had = had.cast_signed();
    had >= i64::from(limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{ENDPOINTS_MAX, FLOWS_MAX};
    use proptest::prelude::*;

    /// Any order of openings and closings keeps the books, and the table never overflows while someone is below his share.
    fn run(steps: &[(u8, bool)], settings: &Settings) -> ([u64; 3], u64) {
        let (mut flows, mut given) = ([0u64; 3], 0u64);
        for &(who, opens) in steps {
            let had = &mut flows[usize::from(who % 3)];
            if opens {
                match flow(settings, *had) {
                    Ok(true) if pool(given).is_ok() => (*had, given) = (*had + 1, given + 1),
                    Ok(false) => *had += 1,
                    Ok(true) | Err(_) => {}
                }
            } else if *had > 0 {
                *had -= 1;
                given -= u64::from(is_pooled(*had));
            }
        }
        (flows, given)
    }

    proptest! {
        #[test]
        fn the_books_are_kept(steps in proptest::collection::vec((0u8..3, prop::bool::weighted(0.9)), 0..2000)) {
            let settings = Settings { flows_per_endpoint: FLOWS_GUARANTEED + 50, ..Settings::DEFAULT };
            let (flows, given) = run(&steps, &settings);
            let beyond: u64 = flows.iter().map(|had| had.saturating_sub(FLOWS_GUARANTEED.into())).sum();
            prop_assert_eq!(given, beyond);
            prop_assert_eq!(given, flows.iter().map(|had| pooled_of(*had)).sum::<u64>());
            prop_assert!(flows.iter().all(|had| *had <= u64::from(settings.flows_per_endpoint)));
        }
    }

    #[test]
    fn everybodys_share_fits_beside_the_pool() {
        assert_eq!(FLOWS_GUARANTEED * ENDPOINTS_MAX + FLOWS_POOL, FLOWS_MAX);
        assert_eq!(pool(FLOWS_POOL.into()), Err(DropReason::FlowTableFull));
        assert_eq!(
            half_open(&Settings::DEFAULT, Settings::DEFAULT.half_open_per_endpoint.into()),
            Err(DropReason::HalfOpenQuota)
        );
    }
}
