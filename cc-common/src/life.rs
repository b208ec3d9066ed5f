//! A flow's life, in one word that changes by compare-exchange alone, so that a packet and the sweep never disagree: live → dying by the
//! sweep, dying → live by a packet, dying → dead by the sweep, and live or dying → dead by a packet that ends it. A dead one is deleted,
//! and is nobody's. Refuses to touch the word: it says what is to become of what was found there.

pub const LIFE_LIVE: u64 = 1;
pub const LIFE_DYING: u64 = 2;
pub const LIFE_DEAD: u64 = 3;
pub const LIFE_MASK: u64 = 3;
/// Beside it in the same word: counted among its owner's flows that are not established.
pub const LIFE_HALF_OPEN: u64 = 4;

/// Who forgets: a packet's program may run while the sweep does, on the same CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum By {
    Packet = 0,
    Sweep = 1,
}

#[inline(always)]
pub const fn is_live(life: u64) -> bool {
    life & LIFE_MASK == LIFE_LIVE
}

#[inline(always)]
pub const fn is_dying(life: u64) -> bool {
    life & LIFE_MASK == LIFE_DYING
}

#[inline(always)]
pub const fn is_dead(life: u64) -> bool {
    life & LIFE_MASK == LIFE_DEAD
}

/// Of one that is dying, after a packet.
#[inline(always)]
pub const fn revived(life: u64) -> u64 {
    life & !LIFE_MASK | LIFE_LIVE
}

/// Of one that lives, when it has had its time.
#[inline(always)]
pub const fn doomed(life: u64) -> Option<u64> {
    if is_live(life) { Some(life & !LIFE_MASK | LIFE_DYING) } else { None }
}

/// Of one that is forgotten, if it may be. The sweep forgets only what is still dying: a packet may have revived it since it was looked
/// at, which has passed, and whose answer will come.
#[inline(always)]
pub const fn forgotten(by: By, life: u64) -> Option<u64> {
    let may = match by {
        By::Packet => !is_dead(life),
        By::Sweep => is_dying(life),
    };
    if may { Some(life | LIFE_DEAD) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The word, and what has happened to it. Each step of a program accesses it once.
    #[derive(Debug, Clone, Copy)]
    struct World {
        life: u64,
        packet: Packet,
        sweep: Sweep,
        visits_left: u32,
        /// The packet has seen it live, or made it.
        used: bool,
        /// And it was marked since: then a whole sweep came between, and the next one may forget it.
        marked_since: bool,
    }

    /// As `keep` in the programs does it, then `settle`.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Packet {
        Look,
        Revive(u64),
        LookAgain,
        Settle,
        Done,
    }

    /// As the sweep's visit does it, to a flow that always has had its time.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Sweep {
        Visit,
        LookToDoom,
        Doom(u64, u64),
        LookToForget,
        Forget(u64, u64),
    }

    impl World {
        fn exchange(&mut self, from: u64, to: u64) -> bool {
            let is_there = self.life == from;
            if is_there {
                self.life = to;
            }
            is_there
        }

        fn packet_step(&mut self) {
            self.packet = match self.packet {
                Packet::Look if is_live(self.life) => {
                    self.used = true;
                    Packet::Settle
                }
                Packet::Look if is_dying(self.life) => Packet::Revive(self.life),
                Packet::Look => Packet::Done,
                Packet::Revive(found) => {
                    self.used = self.exchange(found, revived(found));
                    Packet::LookAgain
                }
                Packet::LookAgain if is_dead(self.life) => Packet::Done,
                Packet::LookAgain => Packet::Settle,
                Packet::Settle => {
                    self.life &= !LIFE_HALF_OPEN;
                    Packet::Done
                }
                Packet::Done => Packet::Done,
            };
        }

        fn sweep_step(&mut self) {
            let next = match self.sweep {
                Sweep::Visit => Some(if is_dying(self.life) { Sweep::LookToForget } else { Sweep::LookToDoom }),
                Sweep::LookToDoom => doomed(self.life).map(|to| Sweep::Doom(self.life, to)),
                Sweep::Doom(from, to) => {
                    self.marked_since |= self.exchange(from, to) && self.used;
                    None
                }
                Sweep::LookToForget => forgotten(By::Sweep, self.life).map(|to| Sweep::Forget(self.life, to)),
                Sweep::Forget(from, to) => {
                    let gone = self.exchange(from, to);
                    assert!(!gone || !self.used || self.marked_since, "taken from under a packet: {self:?}");
                    None
                }
            };
            self.visits_left -= u32::from(next.is_none());
            self.sweep = next.unwrap_or(Sweep::Visit);
        }

        /// Every order in which the steps can come; how many ends it has, and in how many the flow is dead.
        fn explore(self) -> (u32, u32) {
            let (mut ends, mut dead) = (0, 0);
            let mut add = |(more, gone)| (ends, dead) = (ends + more, dead + gone);
            if self.packet == Packet::Done && self.visits_left == 0 {
                return (1, u32::from(is_dead(self.life)));
            }
            if self.packet != Packet::Done {
                let mut next = self;
                next.packet_step();
                add(next.explore());
            }
            if self.visits_left > 0 {
                let mut next = self;
                next.sweep_step();
                add(next.explore());
            }
            (ends, dead)
        }
    }

    #[test]
    fn in_whatever_order_no_sweep_takes_a_flow_from_under_a_packet() {
        for life in [LIFE_LIVE, LIFE_DYING] {
            for half_open in [0, LIFE_HALF_OPEN] {
                let begin = World {
                    life: life | half_open,
                    packet: Packet::Look,
                    sweep: Sweep::Visit,
                    visits_left: 2,
                    used: false,
                    marked_since: false,
                };
                let (ends, dead) = begin.explore();
                assert!(dead > 0 && dead < ends, "it can go, and it can stay: {dead} of {ends}");
            }
        }
    }

    #[test]
    fn a_dead_flow_stays_dead() {
        assert_eq!(doomed(LIFE_DEAD), None);
        assert_eq!((forgotten(By::Packet, LIFE_DEAD), forgotten(By::Sweep, LIFE_DEAD)), (None, None));
        assert_eq!(forgotten(By::Packet, LIFE_LIVE | LIFE_HALF_OPEN), Some(LIFE_DEAD | LIFE_HALF_OPEN));
        assert_eq!(forgotten(By::Sweep, LIFE_LIVE), None, "revived meanwhile");
    }
}
