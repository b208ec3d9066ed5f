//! Who has spoken in a flow, and in which state its TCP connection is, by its real flags and sequence numbers. Other protocols
//! only know who has spoken. Refuses to know timeouts.

use crate::flow::Side;
use crate::packet::{TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, Tcp};

// Two bits each, of side A and of side B.
/// The side has sent a packet.
const SPOKE: u16 = 0b01;
/// The side has sent a SYN.
const SYN: u16 = 0b01 << 2;
/// The side has acknowledged the other's SYN.
const ACKED: u16 = 0b01 << 4;
const FIN: u16 = 0b01 << 6;
const RESET: u16 = 1 << 8;
/// Joined in the middle: nobody saw the handshake.
const MIDSTREAM: u16 = 1 << 9;

/// Both sides' bits.
const fn both(bit: u16) -> u16 {
    bit | bit << 1
}

/// One side's bit.
#[inline(always)]
fn of(bit: u16, side: Side) -> u16 {
    match side {
        Side::A => bit,
        Side::B => bit << 1,
    }
}

/// A window's scale is at most 14 (RFC 7323); what is assumed of a connection whose handshake was not seen.
const SCALE_MAX: u8 = 14;

/// What is remembered of a flow's progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Tracked {
    /// What each side has acknowledged last: where the other's next byte is expected.
    pub acknowledged: [u32; 2],
    /// And how far beyond it may go, unscaled as announced.
    pub window: [u16; 2],
    pub scale: [u8; 2],
    pub seen: u16,
    /// After the SYN of the side that began: what a refusal acknowledges.
    pub expected: u32,
    pub pad: u32,
}
const _: () = assert!(size_of::<Tracked>() == 24 && align_of::<Tracked>() == 4);

/// How far a flow has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Nobody has answered yet, or the handshake is under way.
    Opening,
    Established,
    /// One or both have said that they are done.
    Closing,
    /// Reset.
    Closed,
}

impl Tracked {
    #[inline(always)]
    pub fn phase(&self, is_tcp: bool) -> Phase {
        let all = |bit: u16| self.seen & both(bit) == both(bit);
        if !is_tcp {
            return if all(SPOKE) { Phase::Established } else { Phase::Opening };
        }
        if self.seen & RESET != 0 {
            return Phase::Closed;
        }
        if self.seen & both(FIN) != 0 {
            return Phase::Closing;
        }
        let open = if self.seen & MIDSTREAM != 0 { all(SPOKE) } else { all(ACKED) };
        if open { Phase::Established } else { Phase::Opening }
    }

    /// Whether both sides are done, so that a new connection may take the same ports.
    #[inline(always)]
    pub fn is_over(&self) -> bool {
        self.seen & RESET != 0 || self.seen & both(FIN) == both(FIN)
    }

    /// A packet of `side` that is no TCP.
    #[inline(always)]
    pub fn spoke(&mut self, side: Side) {
        self.seen |= of(SPOKE, side);
    }

    /// The first packet of a connection, as far as we know of it.
    #[inline(always)]
    pub fn begin(&mut self, side: Side, tcp: &Tcp, scale: Option<u8>) {
        self.acknowledged = [0; 2];
        self.window = [0; 2];
        self.scale = [SCALE_MAX; 2];
        self.seen = if tcp.flags & (TCP_SYN | TCP_ACK) == TCP_SYN { 0 } else { MIDSTREAM };
        // A refusal is the first that the other side can say.
        self.expected = tcp.sequence.wrapping_add(1);
        self.segment(side, tcp, scale);
    }

    /// A segment of `side`, whose SYN said `scale`. Returns false, and changes nothing, for a reset that the receiver would not
    /// believe either: only what it awaits ends a connection.
    #[inline(always)]
    pub fn segment(&mut self, side: Side, tcp: &Tcp, scale: Option<u8>) -> bool {
        let own = side.index();
        if tcp.flags & TCP_RST != 0 {
            if !self.is_believable_reset(side, tcp) {
                return false;
            }
            self.seen |= RESET | of(SPOKE, side);
            return true;
        }
        let mut seen = self.seen | of(SPOKE, side);
        if tcp.flags & TCP_SYN != 0 {
            seen |= of(SYN, side);
            // Without the option in both SYNs, neither side scales.
            self.scale[own] = match scale {
                Some(scale) if scale < SCALE_MAX => scale,
                Some(_) => SCALE_MAX,
                None => 0,
            };
        }
        if tcp.flags & TCP_ACK != 0 {
            if seen & of(SYN, side.other()) != 0 {
                seen |= of(ACKED, side);
            }
            self.acknowledged[own] = tcp.acknowledged;
            self.window[own] = tcp.window;
        }
        if tcp.flags & TCP_FIN != 0 {
            seen |= of(FIN, side);
        }
        // Most packets change nothing here, and what is not written stays shared between CPUs.
        if seen != self.seen {
            self.seen = seen;
        }
        true
    }

    /// Takes in what another account of the same connection knows: each saw some of its packets, and neither all.
    pub fn join(&mut self, other: &Tracked) {
        for side in [Side::A, Side::B] {
            let own = side.index();
            // The scale is said by the SYN, once.
            if self.seen & of(SYN, side) == 0 && other.seen & of(SYN, side) != 0 {
                self.scale[own] = other.scale[own];
            }
            let said = |one: &Tracked| one.acknowledged[own] != 0 || one.window[own] != 0;
            let ahead = other.acknowledged[own].wrapping_sub(self.acknowledged[own]).cast_signed();
            if said(other) && (!said(self) || ahead > 0) {
                self.acknowledged[own] = other.acknowledged[own];
                self.window[own] = other.window[own];
            }
        }
        self.seen |= other.seen;
    }

    /// RFC 5961 wants exactly the next byte; a middlebox sees acknowledgements late, so the receiver's window is the bound.
    #[inline(always)]
    fn is_believable_reset(&self, side: Side, tcp: &Tcp) -> bool {
        let other = side.other();
        if self.seen & of(SPOKE, other) == 0 {
            // It alone has spoken: nobody can be hurt.
            return true;
        }
        // The other has sent nothing but its SYN: a refusal acknowledges that.
        if self.seen & (of(ACKED, other) | MIDSTREAM) == 0 {
            return tcp.flags & TCP_ACK != 0 && tcp.acknowledged == self.expected;
        }
        let other = other.index();
        let ahead = tcp.sequence.wrapping_sub(self.acknowledged[other]);
        let window = u32::from(self.window[other]) << (self.scale[other] & 15);
        ahead <= window
    }
}

/// A TCP option, by its first three bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opt {
    /// The last one, or none at all.
    End,
    /// The window's scale.
    Scale(u8),
    /// Another, of so many bytes.
    Skip(u8),
}

#[inline(always)]
pub fn option(bytes: &[u8; 3]) -> Opt {
    match bytes {
        [0, ..] => Opt::End,
        [1, ..] => Opt::Skip(1),
        [3, 3, scale] => Opt::Scale(*scale),
        [_, length @ 2..=40, _] => Opt::Skip(*length),
        _ => Opt::End,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn begun(side: Side, tcp: &Tcp, scale: Option<u8>) -> Tracked {
        let mut tracked = Tracked::default();
        tracked.begin(side, tcp, scale);
        tracked
    }

    fn segment(flags: u8, sequence: u32, acknowledged: u32) -> Tcp {
        Tcp { sequence, acknowledged, window: 100, flags }
    }

    fn established() -> Tracked {
        let mut tracked = begun(Side::A, &segment(TCP_SYN, 10, 0), Some(2));
        assert!(tracked.segment(Side::B, &segment(TCP_SYN | TCP_ACK, 50, 11), Some(0)));
        assert_eq!(tracked.phase(true), Phase::Opening, "the initiator has not answered yet");
        assert!(tracked.segment(Side::A, &segment(TCP_ACK, 11, 51), None));
        tracked
    }

    #[test]
    fn a_connection_opens_and_closes() {
        let mut tracked = established();
        assert_eq!((tracked.phase(true), tracked.is_over()), (Phase::Established, false));
        tracked.segment(Side::B, &segment(TCP_FIN | TCP_ACK, 51, 11), None);
        assert_eq!((tracked.phase(true), tracked.is_over()), (Phase::Closing, false), "half closed");
        tracked.segment(Side::A, &segment(TCP_FIN | TCP_ACK, 11, 52), None);
        assert_eq!((tracked.phase(true), tracked.is_over()), (Phase::Closing, true));
    }

    #[test]
    fn only_a_reset_within_the_window_ends_it() {
        // B's window is 100, its scale 0; A's is 100 with scale 2.
        for (side, sequence, believed) in [
            (Side::A, 11, true),
            (Side::A, 111, true),
            (Side::A, 112, false),
            (Side::A, 10, false),
            (Side::B, 51, true),
            (Side::B, 51 + 400, true),
            (Side::B, 51 + 401, false),
        ] {
            let mut tracked = established();
            tracked.segment(Side::B, &segment(TCP_ACK, 51, 11), None);
            assert_eq!(tracked.segment(side, &segment(TCP_RST, sequence, 0), None), believed, "{side:?} {sequence}");
            assert_eq!(tracked.phase(true), if believed { Phase::Closed } else { Phase::Established });
        }
    }

    #[test]
    fn a_refusal_acknowledges_the_syn() {
        let tracked = begun(Side::A, &segment(TCP_SYN, 10, 0), None);
        let mut refused = tracked;
        assert!(refused.segment(Side::B, &segment(TCP_RST | TCP_ACK, 0, 11), None) && refused.is_over());
        let mut forged = tracked;
        assert!(!forged.segment(Side::B, &segment(TCP_RST | TCP_ACK, 0, 12), None));
        assert!(!forged.segment(Side::B, &segment(TCP_RST, 0, 11), None), "without an acknowledgement");
        assert_eq!(forged, tracked, "nothing changed");
    }

    #[test]
    fn the_middle_of_a_connection_is_established_when_both_spoke() {
        let mut tracked = begun(Side::B, &segment(TCP_ACK, 5, 6), None);
        assert_eq!(tracked.phase(true), Phase::Opening);
        tracked.segment(Side::A, &segment(TCP_ACK, 6, 5), None);
        assert_eq!(tracked.phase(true), Phase::Established);
    }

    #[test]
    fn other_protocols_are_established_by_an_answer() {
        let mut tracked = Tracked::default();
        tracked.spoke(Side::A);
        assert_eq!(tracked.phase(false), Phase::Opening);
        tracked.spoke(Side::B);
        assert_eq!(tracked.phase(false), Phase::Established);
    }

    #[test]
    fn options() {
        assert_eq!(option(&[3, 3, 7]), Opt::Scale(7));
        assert_eq!((option(&[0, 3, 3]), option(&[8, 0, 0]), option(&[3, 4, 7])), (Opt::End, Opt::End, Opt::Skip(4)));
        assert_eq!(
            (option(&[1, 3, 3]), option(&[2, 4, 5]), option(&[8, 255, 0])),
            (Opt::Skip(1), Opt::Skip(4), Opt::End)
        );
    }

    proptest! {
        /// Whoever sees which packets: two accounts that began as one, joined, are what one would have that saw all.
        #[test]
        fn two_accounts_joined_are_one(seen_by in proptest::collection::vec(any::<bool>(), 8)) {
            let said = [
                (Side::B, segment(TCP_SYN | TCP_ACK, 50, 11), Some(0)),
                (Side::A, segment(TCP_ACK, 11, 51), None),
                (Side::A, segment(TCP_ACK, 11, 51), None),
                (Side::B, segment(TCP_ACK, 51, 400), None),
                (Side::A, segment(TCP_ACK, 400, 90), None),
                (Side::B, segment(TCP_ACK, 90, 0x7000_0100), None),
                (Side::A, segment(TCP_FIN | TCP_ACK, 0x7000_0100, 90), None),
                (Side::B, segment(TCP_FIN | TCP_ACK, 90, 0x7000_0101), None),
            ];
            let mut all = begun(Side::A, &segment(TCP_SYN, 10, 0), Some(2));
            let mut parts = [all; 2];
            for ((side, tcp, scale), first) in said.iter().zip(&seen_by) {
                all.segment(*side, tcp, *scale);
                parts[usize::from(!first)].segment(*side, tcp, *scale);
            }
            let [mut joined, other] = parts;
            joined.join(&other);
            // That an end has acknowledged a SYN is known to who saw both.
            let but_acked = |tracked: &Tracked| Tracked { seen: tracked.seen & !both(ACKED), ..*tracked };
            prop_assert_eq!(but_acked(&joined), but_acked(&all));
            let mut twice = joined;
            twice.join(&other);
            prop_assert_eq!(twice, joined);
        }

        /// Against the plainest model of what has been said: which flags each side has ever sent.
        #[test]
        fn phases_follow_what_was_said(segments in proptest::collection::vec((any::<bool>(), 0u8..32), 1..12)) {
            let side = |from_a: bool| if from_a { Side::A } else { Side::B };
            let (first_from, first_flags) = segments[0];
            prop_assume!(first_flags & TCP_RST == 0);
            let mut tracked = begun(side(first_from), &segment(first_flags, 1, 1), None);
            let mut said = [[false; 256]; 2];
            let note = |said: &mut [[bool; 256]; 2], from_a: bool, flags: u8| {
                for bit in [TCP_SYN, TCP_FIN, TCP_ACK] {
                    if flags & bit != 0 { said[usize::from(!from_a)][usize::from(bit)] = true; }
                }
            };
            note(&mut said, first_from, first_flags);
            for &(from_a, flags) in &segments[1..] {
                let flags = flags & !TCP_RST;
                tracked.segment(side(from_a), &segment(flags, 1, 1), None);
                note(&mut said, from_a, flags);
            }
            let fin = usize::from(TCP_FIN);
            prop_assert_eq!(tracked.is_over(), said[0][fin] && said[1][fin]);
            if said[0][fin] || said[1][fin] {
                prop_assert_eq!(tracked.phase(true), Phase::Closing);
            } else if tracked.phase(true) == Phase::Established {
                let ack = usize::from(TCP_ACK);
                prop_assert!(said[0][ack] || said[1][ack] || first_flags & (TCP_SYN | TCP_ACK) != TCP_SYN);
            }
        }
    }
}
