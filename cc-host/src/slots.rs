//! Slots: a small number per container, from which its endpoint number and its range of ids follow, and likewise one per resolver.
//! Given round robin, so that a freed one rests as long as possible. A slot may have several holders: the record, and what is still to
//! be taken down. Refuses to persist: boot reads the slots back from the records.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

#[derive(Debug)]
pub(crate) struct Slots {
    max: u32,
    state: Mutex<SlotState>,
}

#[derive(Debug, Default)]
struct SlotState {
    /// With the number of holders, never 0.
    taken: BTreeMap<u32, u32>,
    next: u32,
}

impl Slots {
    pub(crate) fn new(max: u32) -> Self {
        Slots { max, state: Mutex::default() }
    }

    /// At boot: this slot belongs to a record.
    pub(crate) fn adopt(&self, slot: u32) {
        let mut state = self.lock();
        state.taken.insert(slot, 1);
        state.next = state.next.max(slot + 1) % self.max;
    }

    /// `None` when all are taken.
    pub(crate) fn take(&self) -> Option<u32> {
        let mut state = self.lock();
        let slot = (state.next..self.max).chain(0..state.next).find(|slot| !state.taken.contains_key(slot))?;
        state.taken.insert(slot, 1);
        state.next = (slot + 1) % self.max;
        Some(slot)
    }

    /// One that can be done without: as long as a quarter of all is free. `None` if it is not.
    pub(crate) fn take_spare(&self) -> Option<u32> {
        let free = self.max as usize - self.lock().taken.len();
        if free * 4 >= self.max as usize { self.take() } else { None }
    }

    /// One more holder of a slot that is taken.
    pub(crate) fn share(&self, slot: u32) {
        *self.lock().taken.entry(slot).or_insert(0) += 1;
    }

    /// It is free when its last holder has let it go.
    pub(crate) fn release(&self, slot: u32) {
        let mut state = self.lock();
        let Some(holders) = state.taken.get_mut(&slot) else { return };
        *holders -= 1;
        if *holders == 0 {
            state.taken.remove(&slot);
        }
    }

    /// A panic while it was held left a map that is still true: every change is one step.
    fn lock(&self) -> std::sync::MutexGuard<'_, SlotState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freed_slot_rests_until_the_others_were_used() {
        let slots = Slots::new(3);
        assert_eq!(slots.take(), Some(0));
        slots.release(0);
        assert_eq!((slots.take(), slots.take(), slots.take(), slots.take()), (Some(1), Some(2), Some(0), None));
    }

    #[test]
    fn a_spare_one_leaves_a_quarter() {
        let slots = Slots::new(4);
        assert_eq!([0; 5].map(|_| slots.take_spare()), [Some(0), Some(1), Some(2), Some(3), None]);
        slots.release(0);
        assert_eq!(slots.take_spare(), Some(0));
        let many = Slots::new(40);
        assert_eq!(std::iter::from_fn(|| many.take_spare()).count(), 31);
    }

    #[test]
    fn a_shared_slot_is_free_when_all_have_let_it_go() {
        let slots = Slots::new(1);
        assert_eq!(slots.take(), Some(0));
        slots.share(0);
        slots.release(0);
        assert_eq!(slots.take(), None);
        slots.release(0);
        assert_eq!(slots.take(), Some(0));
    }

    #[test]
    fn adopted_slots_are_not_given_again() {
        let slots = Slots::new(2);
        slots.adopt(1);
        assert_eq!((slots.take(), slots.take()), (Some(0), None));
    }
}
