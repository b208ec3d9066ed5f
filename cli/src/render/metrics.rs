//! How a container's metrics look.

use std::io::{self, Write};

use cc_common::api::v1;
use serde::Serialize;

use super::{View, table};
use crate::size::human;
use crate::time::rfc3339_ms;

#[derive(Debug, Serialize)]
pub struct MetricsView {
    pub id: String,
    pub name: String,
    pub at: String,
    pub cpu_usage_us: u64,
    pub memory_bytes: u64,
    pub memory_limit_bytes: Option<u64>,
    pub memory_peak_bytes: u64,
    pub oom_kills: u64,
    pub io_read_bytes: u64,
    pub io_write_bytes: u64,
    pub pids: u64,
    pub pids_limit: Option<u64>,
    pub received: TrafficView,
    pub sent: TrafficView,
    pub socket_received: TrafficView,
    pub socket_sent: TrafficView,
    pub drops: Vec<DropView>,
    pub queues: Vec<QueueView>,
    pub log_dropped_records: u64,
}

#[derive(Debug, Serialize)]
pub struct QueueView {
    pub direction: String,
    pub bytes_per_s: u64,
    pub dropped_packets: u64,
    pub waits: u64,
    pub waiting_bytes: u64,
}

#[derive(Debug, Serialize, Default)]
pub struct TrafficView {
    pub packets: u64,
    pub bytes: u64,
}

#[derive(Debug, Serialize)]
pub struct DropView {
    pub direction: String,
    pub reason: String,
    pub packets: u64,
    pub bytes: u64,
}

fn traffic(traffic: Option<v1::Traffic>) -> TrafficView {
    traffic.map(|t| TrafficView { packets: t.packets, bytes: t.bytes }).unwrap_or_default()
}

impl From<v1::Drop> for DropView {
    fn from(drop: v1::Drop) -> Self {
        let v1::Drop { direction, reason, packets, bytes } = drop;
        DropView { direction, reason, packets, bytes }
    }
}

impl From<v1::Metrics> for MetricsView {
    fn from(m: v1::Metrics) -> Self {
        MetricsView {
            id: m.id,
            name: m.name,
            at: rfc3339_ms(m.at_ms),
            cpu_usage_us: m.cpu_usage_us,
            memory_bytes: m.memory_bytes,
            memory_limit_bytes: (m.memory_limit_bytes != 0).then_some(m.memory_limit_bytes),
            memory_peak_bytes: m.memory_peak_bytes,
            oom_kills: m.oom_kills,
            io_read_bytes: m.io_read_bytes,
            io_write_bytes: m.io_write_bytes,
            pids: m.pids,
            pids_limit: (m.pids_limit != 0).then_some(m.pids_limit),
            received: traffic(m.received),
            sent: traffic(m.sent),
            socket_received: traffic(m.socket_received),
            socket_sent: traffic(m.socket_sent),
            drops: m.drops.into_iter().map(Into::into).collect(),
            queues: m.queues.into_iter().map(Into::into).collect(),
            log_dropped_records: m.log_dropped_records,
        }
    }
}

impl From<v1::Queue> for QueueView {
    fn from(q: v1::Queue) -> Self {
        let v1::Queue { direction, bytes_per_s, dropped_packets, waits, waiting_bytes } = q;
        QueueView { direction, bytes_per_s, dropped_packets, waits, waiting_bytes }
    }
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct AllMetrics(pub Vec<MetricsView>);

impl View for AllMetrics {
    fn print_into(&self, out: &mut impl Write) -> io::Result<()> {
        for (at, metrics) in self.0.iter().enumerate() {
            if at > 0 {
                writeln!(out)?;
            }
            print_one(out, metrics)?;
        }
        Ok(())
    }

    fn ids(&self) -> Vec<&str> {
        self.0.iter().map(|m| m.id.as_str()).collect()
    }
}

fn print_one(out: &mut impl Write, m: &MetricsView) -> io::Result<()> {
    let of = |limit: Option<String>| limit.map_or_else(|| "no limit".to_owned(), |limit| format!("limit {limit}"));
    let line = |t: &TrafficView| format!("{} packets, {}", t.packets, human(t.bytes));
    let memory = format!(
        "{}, peak {}, {}, {} kills for want of it",
        human(m.memory_bytes),
        human(m.memory_peak_bytes),
        of(m.memory_limit_bytes.map(human)),
        m.oom_kills
    );
    let name = if m.name.is_empty() { m.id.clone() } else { format!("{} ({})", m.id, m.name) };
    let mut pairs = vec![
        ("Container", name),
        ("CPU", format!("{:.3} s", m.cpu_usage_us as f64 / 1e6)),
        ("Memory", memory),
        ("I/O", format!("{} read, {} written", human(m.io_read_bytes), human(m.io_write_bytes))),
        ("Processes", format!("{}, {}", m.pids, of(m.pids_limit.map(|n| n.to_string())))),
        ("Received", line(&m.received)),
        ("Sent", line(&m.sent)),
        ("At sockets", format!("{} in; {} out", line(&m.socket_received), line(&m.socket_sent))),
    ];
    if m.drops.is_empty() {
        pairs.push(("Dropped", "nothing".to_owned()));
    }
    for d in &m.drops {
        pairs.push(("Dropped", format!("{} {}: {} packets, {}", d.direction, d.reason, d.packets, human(d.bytes))));
    }
    for q in &m.queues {
        let (rate, waiting) = (human(q.bytes_per_s), human(q.waiting_bytes));
        let QueueView { direction, dropped_packets, waits, .. } = q;
        pairs.push((
            "Limited",
            format!("{direction} to {rate}/s: waited {waits} times, {waiting} wait now, no room for {dropped_packets} packets"),
        ));
    }
    if m.log_dropped_records > 0 {
        pairs.push(("Log", format!("{} records of its output were dropped", m.log_dropped_records)));
    }
    table::print_pairs_into(out, &pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_and_json() {
        let metrics = v1::Metrics {
            id: "c-1".into(),
            name: "web".into(),
            cpu_usage_us: 1_234_567,
            memory_bytes: 3 << 20,
            memory_limit_bytes: 512 << 20,
            memory_peak_bytes: 4 << 20,
            pids: 3,
            received: Some(v1::Traffic { packets: 10, bytes: 2048 }),
            sent: Some(v1::Traffic { packets: 9, bytes: 900 }),
            drops: vec![v1::Drop { direction: "egress".into(), reason: "spoofed_ip".into(), packets: 2, bytes: 128 }],
            queues: vec![v1::Queue {
                direction: "ingress".into(),
                bytes_per_s: 10 << 20,
                dropped_packets: 7,
                waits: 1234,
                waiting_bytes: 65_536,
            }],
            at_ms: 1_700_000_000_000,
            log_dropped_records: 12,
            ..Default::default()
        };
        let all = AllMetrics(vec![metrics.into()]);
        let mut out = Vec::new();
        all.print_into(&mut out).unwrap();
        insta::assert_snapshot!("metrics_block", String::from_utf8(out).unwrap());
        insta::assert_snapshot!("metrics_json", serde_json::to_string_pretty(&all).unwrap());
    }
}
