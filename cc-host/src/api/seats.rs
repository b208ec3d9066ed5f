//! How many connections each address holds, before and after its handshake. Refuses one address more than its share, so that
//! nobody can use up the daemon's descriptors from one machine.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::auth::network_of;

/// A client needs one; a person has a few dozen commands open at most.
pub const PER_SOURCE_MAX: usize = 128;
/// Far below the descriptors that the daemon has, and what containers need of them.
pub const ALL_MAX: usize = 2048;

#[derive(Debug, Clone)]
pub struct Seats {
    per_source_max: usize,
    all_max: usize,
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Default for Seats {
    fn default() -> Self {
        Seats::new(PER_SOURCE_MAX, ALL_MAX)
    }
}

/// A connection's place; dropping it frees it.
#[derive(Debug)]
pub struct Seat {
    seats: Seats,
    source: IpAddr,
}

impl Seats {
    pub fn new(per_source_max: usize, all_max: usize) -> Self {
        Seats { per_source_max, all_max, taken: Arc::default() }
    }

    /// `None` when the address, or everybody together, has all it may have.
    pub fn take(&self, address: IpAddr) -> Option<Seat> {
        let source = network_of(address);
        let mut taken = self.lock();
        let full = taken.values().sum::<usize>() >= self.all_max;
        if full || taken.get(&source).is_some_and(|&own| own >= self.per_source_max) {
            return None;
        }
        *taken.entry(source).or_insert(0) += 1;
        drop(taken);
        Some(Seat { seats: self.clone(), source })
    }

    /// Every change is one step, so a panic elsewhere leaves it true.
    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.lock();
        if let Some(own) = taken.get_mut(&self.source) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_cannot_take_what_is_anothers() {
        let seats = Seats::default();
        let of = |text: &str| seats.take(text.parse().unwrap());
        let mut held: Vec<Seat> = (0..PER_SOURCE_MAX).map(|n| of(&format!("2001:db8::{n:x}")).unwrap()).collect();
        assert!(of("2001:db8::ffff").is_none(), "the same /64");
        assert!(of("2001:db8:0:1::1").is_some() && of("192.0.2.1").is_some());
        assert!(of("::ffff:192.0.2.1").is_some());
        held.pop();
        assert!(of("2001:db8::ffff").is_some(), "a freed seat can be taken");
        drop(held);
        assert!(seats.lock().is_empty());
    }

    #[test]
    fn all_together_have_a_bound() {
        let seats = Seats::default();
        let address = |n: usize| IpAddr::from([10, 0, (n / 256) as u8, (n % 256) as u8]);
        let held: Vec<Seat> = (0..ALL_MAX).map(|n| seats.take(address(n)).unwrap()).collect();
        assert!(seats.take(IpAddr::from([192, 0, 2, 1])).is_none());
        drop(held);
    }
}
