//! How much a container may send and receive: what a user may ask for, what that means for the queues that hold it to it, and
//! setting them. Refuses to know how a queue is set.
//!
//! What it sends waits before its own interface, in its own network namespace: there a packet still belongs to its socket, and the
//! program is made to wait. Root in the container cannot remove that queue (the namespace is not its own to administer), but it may
//! open packet sockets, and those can send past any queue; so the datapath measures once more, on the host's side, with some room,
//! and drops. What a container receives waits before the host's end of its interface, where it has no say.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use cc_common::rate::Rate;
use cc_common::verdict::Direction;
use nix::net::if_::if_nametoindex;
use serde::{Deserialize, Serialize};

use super::error::ContainerError;
use super::record::ContainerRecord;
use super::room::Containers;
use crate::kernel::qdisc::{self, QdiscError, QueueStats};
use crate::kernel::shape::{Shape, shape_inside};

/// A full frame, which a burst cannot be less than, is 2 % of what passes in 10 s then.
const BYTES_PER_S_MIN: u64 = 8 << 10;
/// A terabit a second: beyond what any kernel forwards, and the arithmetic below holds.
const BYTES_PER_S_MAX: u64 = 125_000_000_000;
/// A full frame of Ethernet's own MTU.
const BURST_BYTES_MIN: u64 = 1514;
const BURST_BYTES_MAX: u64 = 1 << 30;

/// What leaves at once after a pause, unless it was said: 20 ms of the rate, so that a busy host that comes late loses nothing.
const BURST_PART_OF_SECOND: u64 = 50;
/// But a buffer of 64 KiB with the headers of its segments, down to those of 70 bytes: if one does not fit, each is cut into
/// segments in the queue, which takes twenty times the CPU time.
const BURST_BYTES_WHOLE_BUFFER: u64 = 128 << 10;
/// Unless that is more than a tenth of a second, at rates at which segments are few: 1 % of what passes in 10 s.
const BURST_PART_OF_SECOND_MOST: u64 = 10;
/// What no rate needs more of.
const BURST_BYTES_ENOUGH: u64 = 64 << 20;

/// What may wait: 50 ms of the rate.
const QUEUE_PART_OF_SECOND: u64 = 20;
/// But more than a socket may have on its way (`net.core.wmem_default`, 208 KiB): whoever writes datagrams without pause then sleeps
/// instead of losing them.
const QUEUE_BYTES_MIN: u64 = 256 << 10;
/// And so that the smallest packets, which take 13 times their size in memory, take 54 MiB.
const QUEUE_BYTES_MAX: u64 = 4 << 20;

/// The datapath lets pass a fiftieth more than the queue, and what a busy host hands over late: a tenth of a second. So nothing that
/// went through the queue is dropped, and what went past it stays within 5 % over 10 s all the same.
const GUARD_RATE_PART: u64 = 50;
const GUARD_PART_OF_SECOND: u64 = 10;

const ETHERNET_HEADER_BYTES: u64 = 14;

/// Of frames, without preamble and checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Bandwidth {
    /// What it sends.
    pub egress: Option<RateLimit>,
    /// What it receives.
    pub ingress: Option<RateLimit>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    pub bytes_per_s: u64,
    /// By the rate, unless it was said.
    pub burst_bytes: Option<u64>,
}

/// What holds one direction to its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    pub direction: &'static str,
    pub bytes_per_s: u64,
    pub stats: QueueStats,
}

/// Which of the two cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadLimit {
    Rate,
    Burst,
}

impl BadLimit {
    pub fn why(self) -> &'static str {
        match self {
            BadLimit::Rate => "a rate goes from 8 KiB to 125 GB a second",
            BadLimit::Burst => "a burst goes from 1514 bytes, a frame, to 1 GiB",
        }
    }
}

impl RateLimit {
    pub fn new(bytes_per_s: u64, burst_bytes: Option<u64>) -> Result<Self, BadLimit> {
        if !(BYTES_PER_S_MIN..=BYTES_PER_S_MAX).contains(&bytes_per_s) {
            return Err(BadLimit::Rate);
        }
        match burst_bytes {
            Some(bytes) if !(BURST_BYTES_MIN..=BURST_BYTES_MAX).contains(&bytes) => Err(BadLimit::Burst),
            _ => Ok(RateLimit { bytes_per_s, burst_bytes }),
        }
    }

    /// Never less than a frame, which could not pass at all then.
    fn burst_bytes(&self, mtu: u16) -> u64 {
        let rate = self.bytes_per_s;
        let whole_buffer = BURST_BYTES_WHOLE_BUFFER.min(rate / BURST_PART_OF_SECOND_MOST);
        let usual = || (rate / BURST_PART_OF_SECOND).min(BURST_BYTES_ENOUGH).max(whole_buffer);
        self.burst_bytes.unwrap_or_else(usual).max(u64::from(mtu) + ETHERNET_HEADER_BYTES)
    }

    pub(super) fn shape(&self, mtu: u16) -> Shape {
        let queue_bytes = (self.bytes_per_s / QUEUE_PART_OF_SECOND).clamp(QUEUE_BYTES_MIN, QUEUE_BYTES_MAX);
        let small = |bytes: u64| u32::try_from(bytes).expect("bursts and queues have their limits");
        Shape {
            bytes_per_s: self.bytes_per_s,
            burst_bytes: small(self.burst_bytes(mtu)),
            queue_bytes: small(queue_bytes),
        }
    }

    /// What the datapath holds it to that sends past the queue.
    fn guard(&self, mtu: u16) -> Rate {
        let rate = self.bytes_per_s + self.bytes_per_s / GUARD_RATE_PART;
        Rate::new(rate, self.burst_bytes(mtu) + rate / GUARD_PART_OF_SECOND)
    }
}

impl Bandwidth {
    pub(super) fn egress_rate(&self, mtu: u16) -> Option<Rate> {
        self.egress.map(|limit| limit.guard(mtu))
    }
}

impl Containers {
    /// Before its interface is up. The queues stay for as long as the interface does, whatever becomes of this daemon.
    pub(super) async fn limit_bandwidth(
        &self,
        record: &ContainerRecord,
        netns: Arc<OwnedFd>,
        ifindex: u32,
        mtu: u16,
    ) -> Result<(), ContainerError> {
        let Bandwidth { egress, ingress } = record.spec.bandwidth;
        let failed = |source| ContainerError::Bandwidth { name: record.name.to_string(), source };
        if let Some(limit) = ingress {
            self.rooms.links.shape(ifindex, &limit.shape(mtu)).await.map_err(failed)?;
        }
        if let Some(limit) = egress {
            shape_inside(netns, limit.shape(mtu)).await.map_err(failed)?;
        }
        Ok(())
    }

    /// What it receives, if somebody has taken that away at the host's end of its interface; or if what was put back there since stands
    /// before what tells packets when to leave. Whether it had to be.
    pub(super) async fn limit_again(&self, record: &ContainerRecord, ifindex: u32) -> bool {
        let Some(limit) = record.spec.bandwidth.ingress else { return false };
        let links = &self.rooms.links;
        match links.is_shaped(ifindex).await {
            Ok(false) => {}
            Ok(true) => return false,
            // It may have gone with its container.
            Err(error) => {
                tracing::debug!(error = crate::error_chain(&error), "a queue cannot be looked at");
                return false;
            }
        }
        match links.shape(ifindex, &limit.shape(self.mtu(record))).await {
            Ok(()) => true,
            Err(error) => {
                let error = crate::error_chain(&error);
                tracing::error!(container = %record.id, error, "what it receives is not limited");
                false
            }
        }
    }

    /// How its queues fare. One that is gone already is left out: a container that ends while it is measured is no error.
    pub(super) async fn queues(&self, record: &ContainerRecord, netns: Arc<OwnedFd>) -> Vec<Queue> {
        let Bandwidth { egress, ingress } = record.spec.bandwidth;
        let mut queues = Vec::new();
        if let Some(limit) = egress {
            queues.extend(figures(Direction::Egress, limit, qdisc::queue_inside(netns).await));
        }
        if let Some(limit) = ingress
            && let Ok(ifindex) = if_nametoindex(record.interface().as_str())
        {
            queues.extend(figures(Direction::Ingress, limit, self.rooms.links.queue(ifindex).await));
        }
        queues
    }
}

fn figures(
    direction: Direction,
    RateLimit { bytes_per_s, .. }: RateLimit,
    read: Result<Option<QueueStats>, QdiscError>,
) -> Option<Queue> {
    match read {
        Ok(stats) => stats.map(|stats| Queue { direction: direction.name(), bytes_per_s, stats }),
        Err(error) => {
            tracing::debug!(error = crate::error_chain(&error), "a queue cannot be read");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MTU: u16 = 1450;
    const MTU_ETHERNET: u16 = 1500;

    fn shape(bytes_per_s: u64, burst_bytes: Option<u64>) -> Shape {
        RateLimit::new(bytes_per_s, burst_bytes).unwrap().shape(MTU)
    }

    #[test]
    fn only_what_can_be_held_is_taken() {
        for (rate, burst, taken) in [
            (BYTES_PER_S_MIN, None, Ok(())),
            (BYTES_PER_S_MAX, Some(BURST_BYTES_MAX), Ok(())),
            (0, None, Err(BadLimit::Rate)),
            (BYTES_PER_S_MIN - 1, None, Err(BadLimit::Rate)),
            (u64::MAX, None, Err(BadLimit::Rate)),
            (1 << 20, Some(0), Err(BadLimit::Burst)),
            (1 << 20, Some(BURST_BYTES_MAX + 1), Err(BadLimit::Burst)),
        ] {
            assert_eq!(RateLimit::new(rate, burst).map(drop), taken, "{rate} {burst:?}");
        }
    }

    #[test]
    fn bursts_and_queues_go_by_the_rate() {
        for (rate, burst, queue) in [
            (BYTES_PER_S_MIN, 1464, 256 << 10),
            (125_000, 12_500, 256 << 10),
            (10_000_000, 200_000, 500_000),
            (100_000_000, 2_000_000, 4 << 20),
            (BYTES_PER_S_MAX, 64 << 20, 4 << 20),
        ] {
            assert_eq!(shape(rate, None), Shape { bytes_per_s: rate, burst_bytes: burst, queue_bytes: queue });
        }
        assert_eq!(shape(1 << 20, Some(20_000)).burst_bytes, 20_000);
        let jumbo = RateLimit::new(1 << 20, Some(2000)).unwrap().shape(9000);
        assert_eq!(jumbo.burst_bytes, 9014, "a frame fits");
    }

    /// The promise: 5 % over 10 s, also for who sends past the queue.
    #[test]
    fn bursts_and_room_stay_within_the_promise() {
        let seconds = 10;
        for rate in [BYTES_PER_S_MIN, 30_000, 125_000, 1_000_000, 1_310_720, 10_000_000, 500_000_000, BYTES_PER_S_MAX] {
            let limit = RateLimit::new(rate, None).unwrap();
            let allowed = rate * seconds + rate * seconds / 20;
            assert!(rate * seconds + limit.burst_bytes(MTU_ETHERNET) <= allowed, "{rate}");
            let guard = limit.guard(MTU_ETHERNET);
            let burst = u128::from(guard.burst_ns) * u128::from(guard.bytes_per_s) / 1_000_000_000;
            assert!(u128::from(guard.bytes_per_s * seconds) + burst <= u128::from(allowed), "{rate}: past the queue");
            assert!(burst >= u128::from(limit.burst_bytes(MTU_ETHERNET)), "{rate}: what the queue lets pass at once");
        }
    }
}
