//! Drops in words, as they come. Refuses to name what is another project's.

use std::net::IpAddr;
use std::sync::Arc;

use cc_common::event::DropRecord;
use cc_common::net::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use cc_common::verdict::{Direction, DropReason};
use tokio::sync::mpsc;

use super::Explain;
use super::error::ExplainError;
use super::flows::address;
use super::watch::News;
use super::watchers::{DropSeen, Seen, Wanted, What};
use crate::datapath::flow_clock_ns;
use crate::ids::{Project, now_ms};

/// A drop, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropView {
    pub at_ms: u64,
    /// Id and name; empty when it is nobody's.
    pub container: (String, String),
    pub direction: &'static str,
    pub reason: &'static str,
    pub ethertype: u16,
    /// Of IP packets; of a stranger's, nothing is told of where it came from.
    pub source: Option<IpAddr>,
    pub destination: Option<IpAddr>,
    pub protocol: Option<u8>,
    /// Of TCP and UDP.
    pub ports: Option<(u16, u16)>,
    pub ifindex: u32,
    pub bytes: u32,
}

impl Explain {
    /// Until the receiver is dropped; `host` adds what is nobody's.
    pub async fn watch_drops(
        self: &Arc<Self>,
        project: &Project,
        only: &str,
        host: bool,
    ) -> Result<mpsc::Receiver<News<DropView>>, ExplainError> {
        let only = if only.is_empty() { None } else { Some(self.containers.find(project, only)?.id) };
        let host = host && only.is_none();
        let wanted = Wanted { what: What::Drops, project: project.clone(), host, only };
        let view = |seen| match seen {
            Seen::Dropped(seen) => Some(view(&seen)),
            Seen::Decided(_) => None,
        };
        self.watch(wanted, view).await
    }
}

fn view(seen: &DropSeen) -> DropView {
    let DropSeen { record, container, is_sender_known } = seen;
    let DropRecord { at_ns, ifindex, bytes, ethertype, .. } = *record;
    let is_ip = matches!(ethertype.get(), ETHERTYPE_IPV4 | ETHERTYPE_IPV6)
        && !(record.source.is_unspecified() && record.destination.is_unspecified());
    let ports = (record.source_port.get(), record.destination_port.get());
    let direction = if record.direction == Direction::Egress as u16 { Direction::Egress } else { Direction::Ingress };
    DropView {
        at_ms: now_ms().saturating_sub(flow_clock_ns().saturating_sub(at_ns) / 1_000_000),
        container: container.as_ref().map(|(id, name)| (id.to_string(), name.to_string())).unwrap_or_default(),
        direction: direction.name(),
        reason: DropReason::from_number(record.reason).map_or("unknown", DropReason::name),
        ethertype: ethertype.get(),
        source: (is_ip && *is_sender_known).then(|| address(&record.source)),
        destination: is_ip.then(|| address(&record.destination)),
        protocol: is_ip.then_some(record.protocol),
        ports: (is_ip && ports != (0, 0)).then_some(if *is_sender_known { ports } else { (0, ports.1) }),
        ifindex: if *is_sender_known { ifindex } else { 0 },
        bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cc_common::net::{Be16, Be32, Ip};

    #[test]
    fn a_strangers_packet_does_not_tell_where_it_came_from() {
        let v4 = |last| Ip::v4(Be32([10, 0, 0, last]));
        let record = DropRecord {
            direction: 1,
            reason: DropReason::FirewallIngress as u16,
            source: v4(2),
            destination: v4(3),
            source_port: Be16::new(4000),
            destination_port: Be16::new(80),
            ethertype: Be16::new(ETHERTYPE_IPV4),
            protocol: 6,
            ifindex: 9,
            ..DropRecord::default()
        };
        let seen = |is_sender_known| view(&DropSeen { record, container: None, is_sender_known });
        let known = seen(true);
        assert_eq!((known.reason, known.direction, known.ports), ("firewall_ingress", "ingress", Some((4000, 80))));
        assert_eq!((known.source, known.ifindex), (Some("10.0.0.2".parse().unwrap()), 9));
        let stranger = seen(false);
        assert_eq!((stranger.source, stranger.ports, stranger.ifindex), (None, Some((0, 80)), 0));
        assert_eq!(stranger.destination, known.destination);
    }
}
