//! Slots: a small number per container, from which its endpoint number and its range of ids follow. Given round robin, so that
//! a freed one rests as long as possible. Refuses to persist: boot reads the slots back from the records.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

#[derive(Debug)]
pub(super) struct Slots {
    max: u32,
    state: Mutex<SlotState>,
}

#[derive(Debug, Default)]
struct SlotState {
    taken: BTreeSet<u32>,
    next: u32,
}

impl Slots {
    pub(super) fn new(max: u32) -> Self {
        Slots { max, state: Mutex::default() }
    }

    /// At boot: this slot belongs to a record.
    pub(super) fn adopt(&self, slot: u32) {
        let mut state = self.lock();
        state.taken.insert(slot);
        state.next = state.next.max(slot + 1) % self.max;
    }

    /// `None` when all are taken.
    pub(super) fn take(&self) -> Option<u32> {
        let mut state = self.lock();
        let slot = (state.next..self.max).chain(0..state.next).find(|slot| !state.taken.contains(slot))?;
        state.taken.insert(slot);
        state.next = (slot + 1) % self.max;
        Some(slot)
    }

    pub(super) fn release(&self, slot: u32) {
        self.lock().taken.remove(&slot);
    }

    /// A panic while it was held left a set that is still true: every change is one insert or remove.
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
    fn adopted_slots_are_not_given_again() {
        let slots = Slots::new(2);
        slots.adopt(1);
        assert_eq!((slots.take(), slots.take()), (Some(0), None));
    }
}
