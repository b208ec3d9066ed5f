//! Says when somebody has changed what hangs on interfaces, or has removed files of a directory. Refuses to know whether it was us.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::Path;

use futures::StreamExt as _;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::LinkFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::link::LinkError;

/// Interfaces that have lost a queue or a filter, or were taken down.
pub struct InterfaceLosses {
    messages:
        futures::channel::mpsc::UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, rtnetlink::sys::SocketAddr)>,
    connection: tokio::task::JoinHandle<()>,
}

impl InterfaceLosses {
    /// Of the namespace of the calling thread.
    pub fn watch() -> Result<Self, LinkError> {
        let groups = [MulticastGroup::Tc, MulticastGroup::Link];
        let opened = rtnetlink::new_multicast_connection(&groups);
        let (connection, _, messages) = opened.map_err(|source| LinkError::Socket { source })?;
        Ok(InterfaceLosses { messages, connection: tokio::spawn(connection) })
    }

    /// At least one, with whatever has come with it. `None` when the kernel tells no more.
    pub async fn next(&mut self) -> Option<BTreeSet<u32>> {
        let mut lost = BTreeSet::new();
        while lost.is_empty() {
            let (message, _) = self.messages.next().await?;
            lost.extend(loser(&message));
            while let Ok((message, _)) = self.messages.try_recv() {
                lost.extend(loser(&message));
            }
        }
        Some(lost)
    }
}

impl Drop for InterfaceLosses {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

fn loser(message: &NetlinkMessage<RouteNetlinkMessage>) -> Option<u32> {
    match &message.payload {
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::DelQueueDiscipline(tc) | RouteNetlinkMessage::DelTrafficFilter(tc),
        ) => u32::try_from(tc.header.index).ok(),
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
            (!link.header.flags.contains(LinkFlags::Up)).then_some(link.header.index)
        }
        _ => None,
    }
}

/// Removals from directories.
pub struct Removals {
    inotify: AsyncFd<Watched>,
}

/// The kernel's queue of events, as tokio wants to see it.
struct Watched(Inotify);

impl AsRawFd for Watched {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Removals {
    pub fn watch<'a>(dirs: impl IntoIterator<Item = &'a Path>) -> std::io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let flags = AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM | AddWatchFlags::IN_DELETE_SELF;
        for dir in dirs {
            inotify.add_watch(dir, flags)?;
        }
        // SAFETY: the descriptor is owned by what is registered, is the same for as long as that lives, and is closed with it.
        let inotify = unsafe { AsyncFd::register_with_interest(Watched(inotify), Interest::READABLE)? };
        Ok(Removals { inotify })
    }

    /// Names of what was removed, at least one; empty names where the queue was too short, or a directory itself went.
    pub async fn next(&mut self) -> std::io::Result<Vec<String>> {
        loop {
            let mut ready = self.inotify.readable().await?;
            match ready.get_inner().0.read_events() {
                Ok(events) => {
                    let name = |event: nix::sys::inotify::InotifyEvent| {
                        event.name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
                    };
                    return Ok(events.into_iter().map(name).collect());
                }
                Err(nix::errno::Errno::EAGAIN) => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_removed_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("kept"), "").unwrap();
        std::fs::write(dir.path().join("gone"), "").unwrap();
        let mut removals = Removals::watch([dir.path()]).unwrap();
        std::fs::remove_file(dir.path().join("gone")).unwrap();
        assert_eq!(removals.next().await.unwrap(), ["gone"]);
    }
}
