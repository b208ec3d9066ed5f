//! Holds what leaves by an interface to a rate. Where the kernel has fq, a program before it writes on each packet when it may leave
//! (`departure`); elsewhere by a token bucket, which keeps the account itself. Refuses to know which rate is wanted.
//!
//! Either makes whoever sends wait: a packet in a queue still belongs to its socket, which gets no room for more. So TCP loses nothing,
//! and a program that writes datagrams as fast as it can is put to sleep instead of being kept busy with losing them.

use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use cc_common::names;
use rtnetlink::Handle;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{TcHandle, TcMessage};

use super::departure::{self, Departures, Earlier};
use super::link::{Links, inside};
use super::qdisc::{Discipline, QdiscError, ask, attributes, container_interface, kind, set};

/// What an interface may let leave. Bytes are those of frames, without preamble and checksum; a buffer that will be cut into segments counts
/// as these, with a header each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub bytes_per_s: u64,
    /// What may leave at once after a pause. A token bucket cuts what is larger than that into segments; a frame that cannot be cut is
    /// lost: see to it that one fits.
    pub burst_bytes: u32,
    /// What may wait. What comes then is lost.
    pub queue_bytes: u32,
}

impl Links {
    /// Of one of the host's interfaces, in place of what it was held to before.
    pub async fn shape(&self, ifindex: u32, shape: &Shape) -> Result<(), QdiscError> {
        hold(&self.handle(), ifindex, shape, Earlier::Forgotten).await
    }

    /// Whether that is so still: a queue that somebody has set, and where it is fq, what tells packets when to leave before all else.
    pub async fn is_shaped(&self, ifindex: u32) -> Result<bool, QdiscError> {
        let Some(kind) = kind(self.handle(), ifindex).await? else { return Ok(false) };
        if kind != Fq::KIND {
            return Ok(kind == Tbf::KIND);
        }
        let filters = self.filters(ifindex).await?;
        let first = filters.iter().find(|filter| filter.hook == "egress");
        Ok(first.is_some_and(|filter| filter.is_ours() && filter.program_name == names::PROGRAM_DEPARTURE))
    }
}

/// As `Links::shape`, of a container's own interface: what it sends.
pub async fn shape_inside(netns: impl AsFd + Send + 'static, shape: Shape) -> Result<(), QdiscError> {
    inside(netns, move |handle| async move { hold(&handle, container_interface()?, &shape, Earlier::Kept).await }).await
}

/// Whether the kernel has said that it has no fq.
static NO_FQ: AtomicBool = AtomicBool::new(false);

async fn hold(handle: &Handle, ifindex: u32, shape: &Shape, earlier: Earlier) -> Result<(), QdiscError> {
    let failed = |source| QdiscError::Set { ifindex, source };
    if !NO_FQ.load(Ordering::Relaxed) {
        match set(handle.clone(), ifindex, &Fq::of(shape)).await {
            Ok(()) => return depart(handle, ifindex, &shape.departures(earlier)).await,
            Err(error) if is(&error, nix::libc::ENOENT) => NO_FQ.store(true, Ordering::Relaxed),
            Err(error) => return Err(failed(error)),
        }
    }
    set(handle.clone(), ifindex, &Tbf(*shape)).await.map_err(failed)
}

fn is(error: &rtnetlink::Error, number: i32) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if message.raw_code() == -number)
}

/// Of all protocols, in the network's order.
const EVERY_PROTOCOL: u32 = 0x0300;
const BPF_FD: u16 = 6;
const BPF_NAME: u16 = 7;
const BPF_FLAGS: u16 = 8;
/// What the program returns is the decision.
const DIRECT: u32 = 1;

/// Has packets told when to leave, by a filter at the end of the interface's list of programs. One of the same handle goes first: a filter
/// that is replaced keeps its place, which may be behind one that was put back meanwhile.
async fn depart(handle: &Handle, ifindex: u32, times: &Departures) -> Result<(), QdiscError> {
    let failed = |source| QdiscError::Set { ifindex, source };
    let program: OwnedFd = departure::open(times).map_err(|source| QdiscError::Depart { ifindex, source })?;
    let mut clsact = TcMessage::with_index(ifindex.cast_signed());
    clsact.header.handle = TcHandle { major: 0xffff, minor: 0 };
    clsact.header.parent = TcHandle::CLSACT;
    clsact.attributes = attributes("clsact", Vec::new());
    match ask(handle.clone(), RouteNetlinkMessage::NewQueueDiscipline(clsact), NLM_F_CREATE | NLM_F_EXCL).await {
        Err(error) if !is(&error, nix::libc::EEXIST) => return Err(failed(error)),
        _ => {}
    }
    match ask(handle.clone(), RouteNetlinkMessage::DelTrafficFilter(filter(ifindex)), 0).await {
        Err(error) if !is(&error, nix::libc::ENOENT) && !is(&error, nix::libc::EINVAL) => return Err(failed(error)),
        _ => {}
    }
    let mut message = filter(ifindex);
    message.attributes = attributes(
        "bpf",
        vec![
            (BPF_FD, program.as_raw_fd().to_ne_bytes().to_vec()),
            (BPF_NAME, format!("{}\0", names::PROGRAM_DEPARTURE).into_bytes()),
            (BPF_FLAGS, DIRECT.to_ne_bytes().to_vec()),
        ],
    );
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    ask(handle.clone(), RouteNetlinkMessage::NewTrafficFilter(message), flags).await.map(drop).map_err(failed)
}

fn filter(ifindex: u32) -> TcMessage {
    let mut message = TcMessage::with_index(ifindex.cast_signed());
    message.header.handle = u32::from(names::DEPARTURE_HANDLE).into();
    message.header.parent = TcHandle { major: 0xffff, minor: TcHandle::MIN_EGRESS };
    message.header.info = u32::from(names::FILTER_PRIORITY) << 16 | EVERY_PROTOCOL;
    message
}

impl Shape {
    fn time_of(&self, bytes: u32) -> u64 {
        Departures::time_of(bytes.into(), self.bytes_per_s)
    }

    fn departures(&self, earlier: Earlier) -> Departures {
        let wait_ns = self.time_of(self.queue_bytes);
        Departures {
            bytes_per_s: self.bytes_per_s,
            burst_ns: self.time_of(self.burst_bytes),
            wait_ns,
            never_ns: horizon_ns(wait_ns).saturating_mul(2),
            earlier,
        }
    }
}

/// How far ahead a queue looks: what waits is never dropped for that.
fn horizon_ns(wait_ns: u64) -> u64 {
    wait_ns.saturating_mul(2).max(1_000_000_000)
}

/// A queue that goes by the times on packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fq {
    packets: u32,
    horizon_us: u32,
}

const FQ_PACKETS: u16 = 1;
const FQ_PACKETS_OF_A_FLOW: u16 = 2;
const FQ_HORIZON: u16 = 14;
const FQ_HORIZON_DROP: u16 = 15;
/// The least that there is of a frame: what waits is bounded in bytes before, by its times.
const FRAME_BYTES_MIN: u32 = 60;

impl Fq {
    fn of(shape: &Shape) -> Self {
        let horizon_us = horizon_ns(shape.time_of(shape.queue_bytes)) / 1000;
        Fq { packets: shape.queue_bytes / FRAME_BYTES_MIN, horizon_us: u32::try_from(horizon_us).unwrap_or(u32::MAX) }
    }
}

impl Fq {
    const KIND: &'static str = "fq";
}

impl Discipline for Fq {
    fn kind(&self) -> &'static str {
        Fq::KIND
    }

    fn options(&self) -> Vec<(u16, Vec<u8>)> {
        vec![
            (FQ_PACKETS, self.packets.to_ne_bytes().to_vec()),
            (FQ_PACKETS_OF_A_FLOW, self.packets.to_ne_bytes().to_vec()),
            (FQ_HORIZON, self.horizon_us.to_ne_bytes().to_vec()),
            (FQ_HORIZON_DROP, vec![1]),
        ]
    }
}

/// A token bucket.
struct Tbf(Shape);

const TBF_PARMS: u16 = 1;
const TBF_RATE64: u16 = 4;
const TBF_BURST: u16 = 6;
/// The kernel needs no table of the time that each length takes if it is told what it is that is transmitted.
const LINK_LAYER_ETHERNET: u8 = 1;

impl Tbf {
    const KIND: &'static str = "tbf";
}

impl Discipline for Tbf {
    fn kind(&self) -> &'static str {
        Tbf::KIND
    }

    /// The struct holds 32 bits of rate, and a burst in time units of the kernel's: both are said again after it, in full.
    fn options(&self) -> Vec<(u16, Vec<u8>)> {
        let Shape { bytes_per_s, burst_bytes, queue_bytes } = self.0;
        let rate_low = u32::try_from(bytes_per_s).unwrap_or(u32::MAX);
        let rate = |bytes_per_s: u32| {
            let (cell_log, overhead, cell_align, mpu) = (0, [0; 2], [0; 2], [0; 2]);
            [&[cell_log, LINK_LAYER_ETHERNET][..], &overhead, &cell_align, &mpu, &bytes_per_s.to_ne_bytes()].concat()
        };
        let (no_peak, burst, no_mtu) = ([0; 12], [0; 4], [0; 4]);
        let parms = [&rate(rate_low)[..], &no_peak, &queue_bytes.to_ne_bytes(), &burst, &no_mtu].concat();
        vec![
            (TBF_PARMS, parms),
            (TBF_RATE64, bytes_per_s.to_ne_bytes().to_vec()),
            (TBF_BURST, burst_bytes.to_ne_bytes().to_vec()),
        ]
    }
}
