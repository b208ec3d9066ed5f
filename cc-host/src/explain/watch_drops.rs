//! One watch of drops: records as they come, and once a second what did not come. Refuses to name what is another project's.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use cc_common::event::DropRecord;
use cc_common::limits::ENDPOINT_UNKNOWN;
use cc_common::net::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use cc_common::verdict::{Direction, DropReason};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::Explain;
use super::error::ExplainError;
use super::flows::address;
use super::watchers::{DropSeen, Wanted, Watching};
use crate::datapath::flow_clock_ns;
use crate::ids::{Project, now_ms};

const INTERVAL: Duration = Duration::from_secs(1);
/// Messages on their way to a client; the watcher's queue before it is where a slow one loses records.
const MESSAGES_MAX: usize = 64;

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

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DropNews {
    Dropped(DropView),
    /// Since this was said last: records that were not written, and records that this watcher did not take in time.
    Lost {
        unwritten: u64,
        missed: u64,
    },
}

impl Explain {
    /// Until the receiver is dropped; `host` adds what is nobody's.
    pub async fn watch_drops(
        self: &Arc<Self>,
        project: &Project,
        only: &str,
        host: bool,
    ) -> Result<mpsc::Receiver<DropNews>, ExplainError> {
        let only = if only.is_empty() { None } else { Some(self.containers.find(project, only)?) };
        let wanted =
            Wanted { project: project.clone(), host: host && only.is_none(), only: only.map(|record| record.id) };
        let watching = self.watchers.join(wanted.clone())?;
        let lost = self.lost(&wanted).await?;
        let (news, receiver) = mpsc::channel(MESSAGES_MAX);
        tokio::spawn(follow(Arc::clone(self), wanted, watching, lost, news));
        Ok(receiver)
    }

    /// Records that were not written, by endpoint and its generation.
    async fn lost(self: &Arc<Self>, wanted: &Wanted) -> Result<HashMap<(u32, u64), u64>, ExplainError> {
        let (explain, wanted) = (Arc::clone(self), wanted.clone());
        let reading = tokio::task::spawn_blocking(move || explain.read_lost(&wanted));
        reading.await.expect("reading counters does not panic")
    }

    fn read_lost(&self, wanted: &Wanted) -> Result<HashMap<(u32, u64), u64>, ExplainError> {
        let own = self.own(&wanted.project)?;
        let meant = own.containers.iter().filter(|(_, own)| wanted.only.as_ref().is_none_or(|only| own.id == *only));
        let mut lost = HashMap::new();
        for (&endpoint, own) in meant {
            lost.insert((endpoint, own.generation), self.datapath.told(endpoint)?.lost);
        }
        if wanted.host {
            lost.insert((ENDPOINT_UNKNOWN, 0), self.datapath.told(ENDPOINT_UNKNOWN)?.lost);
        }
        Ok(lost)
    }
}

async fn follow(
    explain: Arc<Explain>,
    wanted: Wanted,
    mut watching: Watching,
    mut lost: HashMap<(u32, u64), u64>,
    news: mpsc::Sender<DropNews>,
) {
    let mut tick = tokio::time::interval(INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let next = tokio::select! {
            Some(seen) = watching.queue.recv() => Some(DropNews::Dropped(view(&seen))),
            _ = tick.tick() => {
                let missed = watching.take_missed();
                let unwritten = match explain.lost(&wanted).await {
                    Ok(now) => grown(&std::mem::replace(&mut lost, now), &lost),
                    Err(error) => {
                        tracing::warn!(error = crate::error_chain(&error), "cannot tell what was not recorded");
                        0
                    }
                };
                (missed + unwritten > 0).then_some(DropNews::Lost { unwritten, missed })
            }
            () = news.closed() => return,
        };
        if let Some(next) = next
            && news.send(next).await.is_err()
        {
            return;
        }
    }
}

/// An endpoint that was not there before has counted from zero.
fn grown(before: &HashMap<(u32, u64), u64>, after: &HashMap<(u32, u64), u64>) -> u64 {
    after.iter().map(|(endpoint, lost)| lost.saturating_sub(before.get(endpoint).copied().unwrap_or(0))).sum()
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

    #[test]
    fn losses_are_told_once() {
        let (before, after) = (HashMap::from([((1, 5), 10)]), HashMap::from([((1, 5), 12), ((2, 6), 3)]));
        assert_eq!(grown(&before, &after), 5);
        assert_eq!(grown(&after, &after), 0);
        assert_eq!(grown(&after, &before), 0, "a container that is gone");
    }
}
