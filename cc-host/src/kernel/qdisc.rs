//! The queue before an interface: setting one, and reading how it fares. Refuses to know whose interface it is, and what the queue is for
//! (`shape`).

use std::os::fd::AsFd;

use futures::StreamExt as _;
use nix::net::if_::if_nametoindex;
use rtnetlink::Handle;
use rtnetlink::packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_ECHO, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption, TcStats2, TcXstats};

use super::link::{CONTAINER_INTERFACE, LinkError, Links, inside};

#[derive(Debug, thiserror::Error)]
pub enum QdiscError {
    #[error("cannot limit the rate of interface {ifindex}")]
    Set { ifindex: u32, source: rtnetlink::Error },
    #[error("cannot read the queue of interface {ifindex}")]
    Read { ifindex: u32, source: rtnetlink::Error },
    #[error("cannot tell packets of interface {ifindex} when to leave")]
    Depart { ifindex: u32, source: std::io::Error },
    #[error("cannot find interface {name}")]
    Find { name: &'static str, source: nix::Error },
    #[error("cannot work in the container's network namespace, or list an interface's filters")]
    Inside(#[from] LinkError),
}

/// A kind of queue, as the kernel is told of it.
pub trait Discipline: Send + Sync + 'static {
    fn kind(&self) -> &'static str;
    /// Numbers and contents of its attributes.
    fn options(&self) -> Vec<(u16, Vec<u8>)>;
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
    /// `None` when nobody has set one.
    pub async fn queue(&self, ifindex: u32) -> Result<Option<QueueStats>, QdiscError> {
        read(self.handle(), ifindex).await
    }
}

/// As `Links::queue`, of a container's own interface.
pub async fn queue_inside(netns: impl AsFd + Send + 'static) -> Result<Option<QueueStats>, QdiscError> {
    inside(netns, |handle| async move { read(handle, container_interface()?).await }).await
}

pub(super) fn container_interface() -> Result<u32, QdiscError> {
    if_nametoindex(CONTAINER_INTERFACE).map_err(|source| QdiscError::Find { name: CONTAINER_INTERFACE, source })
}

/// In place of the one that is there.
pub(super) async fn set(handle: Handle, ifindex: u32, discipline: &impl Discipline) -> Result<(), rtnetlink::Error> {
    let mut message = at_root(ifindex);
    message.attributes = attributes(discipline.kind(), discipline.options());
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    ask(handle, RouteNetlinkMessage::NewQueueDiscipline(message), flags).await.map(drop)
}

pub(super) fn attributes(kind: &str, options: Vec<(u16, Vec<u8>)>) -> Vec<TcAttribute> {
    let options = options.into_iter().map(|(kind, bytes)| TcOption::Other(DefaultNla::new(kind, bytes)));
    vec![TcAttribute::Kind(kind.to_owned()), TcAttribute::Options(options.collect())]
}

/// Asks for this one alone: the crate's own request lists those of every interface. The kernel answers by an echo only.
async fn read(handle: Handle, ifindex: u32) -> Result<Option<QueueStats>, QdiscError> {
    match ask(handle, RouteNetlinkMessage::GetQueueDiscipline(at_root(ifindex)), NLM_F_ECHO).await {
        Ok(Some(RouteNetlinkMessage::NewQueueDiscipline(found))) => Ok(stats(&found)),
        Ok(_) => Ok(None),
        Err(source) => Err(QdiscError::Read { ifindex, source }),
    }
}

/// Of the queue that somebody has set.
pub(super) async fn kind(handle: Handle, ifindex: u32) -> Result<Option<String>, QdiscError> {
    match ask(handle, RouteNetlinkMessage::GetQueueDiscipline(at_root(ifindex)), NLM_F_ECHO).await {
        Ok(Some(RouteNetlinkMessage::NewQueueDiscipline(found))) if found.header.handle != TcHandle::from(0) => {
            Ok(found.attributes.into_iter().find_map(|attribute| match attribute {
                TcAttribute::Kind(kind) => Some(kind),
                _ => None,
            }))
        }
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
pub(super) async fn ask(
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

/// The fourth number of the kernel's `tc_fq_qd_stats`.
fn throttled(bytes: &[u8]) -> u64 {
    let number = bytes.get(24..32).and_then(|bytes| bytes.try_into().ok());
    number.map_or(0, u64::from_ne_bytes)
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
                stats.waits += u64::from(queue.overlimits);
                stats.waiting_bytes = queue.backlog.into();
            }
            // Of fq alone: the others have no figures of their own here.
            TcStats2::App(TcXstats::Other(bytes)) => stats.waits += throttled(bytes),
            _ => {}
        }
    }
    Some(stats)
}
