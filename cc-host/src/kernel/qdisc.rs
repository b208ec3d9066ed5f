//! The queue before an interface, which holds what leaves by it to a rate: setting one, and reading how it fares. Refuses to know
//! whose interface it is, and which rate is wanted.
//!
//! A queue makes whoever sends wait: a packet in it still belongs to its socket, which gets no room for more. So TCP loses nothing,
//! and a program that writes datagrams as fast as it can is put to sleep instead of being kept busy with losing them.

use std::os::fd::AsFd;

use futures::StreamExt as _;
use nix::net::if_::if_nametoindex;
use rtnetlink::Handle;
use rtnetlink::packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_ECHO, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption, TcStats2};

use super::link::{CONTAINER_INTERFACE, LinkError, Links, inside};

#[derive(Debug, thiserror::Error)]
pub enum QdiscError {
    #[error("cannot limit the rate of interface {ifindex}")]
    Set { ifindex: u32, source: rtnetlink::Error },
    #[error("cannot read the queue of interface {ifindex}")]
    Read { ifindex: u32, source: rtnetlink::Error },
    #[error("cannot find interface {name}")]
    Find { name: &'static str, source: nix::Error },
    #[error("cannot work in the container's network namespace")]
    Inside(#[from] LinkError),
}

/// A way to hold a queue to a rate, as the kernel is told of it. There is one: a queue that goes by times that a program has
/// written on packets (fq) would be another.
pub trait Discipline: Send + Sync + 'static {
    fn kind(&self) -> &'static str;
    /// Numbers and contents of its attributes.
    fn options(&self) -> Vec<(u16, Vec<u8>)>;
}

/// A token bucket. Bytes are those of frames, without preamble and checksum; a buffer that will be cut into segments counts as
/// these, with a header each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tbf {
    pub bytes_per_s: u64,
    /// What may leave at once after a pause. What is larger than that is cut into segments here; a frame that cannot be cut is
    /// lost: see to it that one fits.
    pub burst_bytes: u32,
    /// What may wait. What comes then is lost.
    pub queue_bytes: u32,
}

const TBF_PARMS: u16 = 1;
const TBF_RATE64: u16 = 4;
const TBF_BURST: u16 = 6;
/// The kernel needs no table of the time that each length takes if it is told what it is that is transmitted.
const LINK_LAYER_ETHERNET: u8 = 1;

impl Discipline for Tbf {
    fn kind(&self) -> &'static str {
        "tbf"
    }

    /// The struct holds 32 bits of rate, and a burst in time units of the kernel's: both are said again after it, in full.
    fn options(&self) -> Vec<(u16, Vec<u8>)> {
        let rate_low = u32::try_from(self.bytes_per_s).unwrap_or(u32::MAX);
        let rate = |bytes_per_s: u32| {
            let (cell_log, overhead, cell_align, mpu) = (0, [0; 2], [0; 2], [0; 2]);
            [&[cell_log, LINK_LAYER_ETHERNET][..], &overhead, &cell_align, &mpu, &bytes_per_s.to_ne_bytes()].concat()
        };
        let (no_peak, burst, no_mtu) = ([0; 12], [0; 4], [0; 4]);
        let parms = [&rate(rate_low)[..], &no_peak, &self.queue_bytes.to_ne_bytes(), &burst, &no_mtu].concat();
        vec![
            (TBF_PARMS, parms),
            (TBF_RATE64, self.bytes_per_s.to_ne_bytes().to_vec()),
            (TBF_BURST, self.burst_bytes.to_ne_bytes().to_vec()),
        ]
    }
}

/// How a queue has fared since it was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueStats {
    /// That have left.
    pub packets: u64,
    pub bytes: u64,
    pub dropped_packets: u64,
    /// How often it had to wait before it could go on.
    pub waits: u64,
    pub waiting_bytes: u64,
}

impl Links {
    /// Puts the queue before one of the host's interfaces, in place of the one that is there.
    pub async fn shape(&self, ifindex: u32, discipline: &impl Discipline) -> Result<(), QdiscError> {
        set(self.handle(), ifindex, discipline).await
    }

    /// `None` when nobody has set one.
    pub async fn queue(&self, ifindex: u32) -> Result<Option<QueueStats>, QdiscError> {
        read(self.handle(), ifindex).await
    }
}

/// As `Links::shape`, before a container's own interface: what it sends.
pub async fn shape_inside(netns: impl AsFd + Send + 'static, discipline: impl Discipline) -> Result<(), QdiscError> {
    inside(netns, move |handle| async move { set(handle, container_interface()?, &discipline).await }).await
}

/// As `Links::queue`, of a container's own interface.
pub async fn queue_inside(netns: impl AsFd + Send + 'static) -> Result<Option<QueueStats>, QdiscError> {
    inside(netns, |handle| async move { read(handle, container_interface()?).await }).await
}

fn container_interface() -> Result<u32, QdiscError> {
    if_nametoindex(CONTAINER_INTERFACE).map_err(|source| QdiscError::Find { name: CONTAINER_INTERFACE, source })
}

async fn set(handle: Handle, ifindex: u32, discipline: &impl Discipline) -> Result<(), QdiscError> {
    let mut message = at_root(ifindex);
    let options = discipline.options().into_iter().map(|(kind, bytes)| TcOption::Other(DefaultNla::new(kind, bytes)));
    message.attributes.push(TcAttribute::Kind(discipline.kind().to_owned()));
    message.attributes.push(TcAttribute::Options(options.collect()));
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    let asked = ask(handle, RouteNetlinkMessage::NewQueueDiscipline(message), flags).await;
    asked.map(drop).map_err(|source| QdiscError::Set { ifindex, source })
}

/// Asks for this one alone: the crate's own request lists those of every interface. The kernel answers by an echo only.
async fn read(handle: Handle, ifindex: u32) -> Result<Option<QueueStats>, QdiscError> {
    match ask(handle, RouteNetlinkMessage::GetQueueDiscipline(at_root(ifindex)), NLM_F_ECHO).await {
        Ok(Some(RouteNetlinkMessage::NewQueueDiscipline(found))) => Ok(stats(&found)),
        Ok(_) => Ok(None),
        Err(source) => Err(QdiscError::Read { ifindex, source }),
    }
}

fn at_root(ifindex: u32) -> TcMessage {
    let mut message = TcMessage::with_index(ifindex.cast_signed());
    message.header.parent = TcHandle::ROOT;
    message
}

/// The crate's own requests take no attributes. Returns the answer, if there is one before the acknowledgement, which always comes:
/// of an interface without a queue the kernel says nothing else.
async fn ask(
    mut handle: Handle,
    message: RouteNetlinkMessage,
    flags: u16,
) -> Result<Option<RouteNetlinkMessage>, rtnetlink::Error> {
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    let mut answers = handle.request(request)?;
    match answers.next().await.map(|answer| answer.payload) {
        Some(NetlinkPayload::InnerMessage(message)) => Ok(Some(message)),
        Some(NetlinkPayload::Error(error)) => Err(rtnetlink::Error::NetlinkError(error)),
        _ => Ok(None),
    }
}

/// One with handle 0 is the kernel's own, that nobody has set.
fn stats(found: &TcMessage) -> Option<QueueStats> {
    if found.header.handle == TcHandle::from(0) {
        return None;
    }
    let mut stats = QueueStats::default();
    let parts = found.attributes.iter().filter_map(|attribute| match attribute {
        TcAttribute::Stats2(parts) => Some(parts),
        _ => None,
    });
    for part in parts.flatten() {
        match part {
            TcStats2::Basic(basic) => (stats.bytes, stats.packets) = (basic.bytes, basic.packets.into()),
            TcStats2::Queue(queue) => {
                stats.dropped_packets = queue.drops.into();
                stats.waits = queue.overlimits.into();
                stats.waiting_bytes = queue.backlog.into();
            }
            _ => {}
        }
    }
    Some(stats)
}
