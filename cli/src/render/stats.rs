//! How what containers use now looks. Refuses to guess a rate of which only one end was seen.

use std::io::{self, Write};

use cc_common::api::v1::{Metrics, Traffic};
use serde::Serialize;

use super::{View, table};
use crate::size::human;

#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Stats(pub Vec<Stat>);

#[derive(Debug, Serialize)]
pub struct Stat {
    pub id: String,
    pub name: String,
    /// Of one CPU; none at the first sight.
    pub cpu_percent: Option<f64>,
    pub memory_bytes: u64,
    pub memory_limit_bytes: Option<u64>,
    pub received_bytes_per_s: Option<u64>,
    pub sent_bytes_per_s: Option<u64>,
    pub dropped_packets: u64,
    pub io_read_bytes: u64,
    pub io_write_bytes: u64,
    pub pids: u64,
}

impl Stat {
    pub fn between(before: Option<&Metrics>, now: &Metrics) -> Stat {
        let elapsed_ms = before.map(|before| now.at_ms.saturating_sub(before.at_ms)).filter(|&ms| ms > 0);
        // A container that was started anew counts from nothing.
        let per_s =
            |of: fn(&Metrics) -> u64| Some(of(now).saturating_sub(of(before?)) as f64 * 1000.0 / elapsed_ms? as f64);
        Stat {
            id: now.id.clone(),
            name: now.name.clone(),
            cpu_percent: per_s(|m| m.cpu_usage_us).map(|us| (us / 1000.0).round() / 10.0),
            memory_bytes: now.memory_bytes,
            memory_limit_bytes: (now.memory_limit_bytes != 0).then_some(now.memory_limit_bytes),
            received_bytes_per_s: per_s(|m| bytes(&m.received)).map(|rate| rate as u64),
            sent_bytes_per_s: per_s(|m| bytes(&m.sent)).map(|rate| rate as u64),
            dropped_packets: now.drops.iter().map(|drop| drop.packets).sum(),
            io_read_bytes: now.io_read_bytes,
            io_write_bytes: now.io_write_bytes,
            pids: now.pids,
        }
    }
}

fn bytes(traffic: &Option<Traffic>) -> u64 {
    traffic.as_ref().map_or(0, |traffic| traffic.bytes)
}

impl View for Stats {
    fn print_into(&self, out: &mut impl Write) -> io::Result<()> {
        let rate = |rate: Option<u64>| rate.map(|rate| format!("{}/s", human(rate))).unwrap_or_default();
        let row = |s: &Stat| {
            let limit = s.memory_limit_bytes.map(|limit| format!(" / {}", human(limit))).unwrap_or_default();
            vec![
                s.id.clone(),
                s.name.clone(),
                s.cpu_percent.map(|percent| format!("{percent:.1} %")).unwrap_or_default(),
                format!("{}{limit}", human(s.memory_bytes)),
                rate(s.received_bytes_per_s),
                rate(s.sent_bytes_per_s),
                s.dropped_packets.to_string(),
                format!("{} / {}", human(s.io_read_bytes), human(s.io_write_bytes)),
                s.pids.to_string(),
            ]
        };
        let rows: Vec<_> = self.0.iter().map(row).collect();
        let header = ["ID", "NAME", "CPU", "MEMORY", "RECEIVED", "SENT", "DROPS", "READ / WRITTEN", "PIDS"];
        table::print_into(out, &header, &rows)
    }

    fn ids(&self) -> Vec<&str> {
        self.0.iter().map(|s| s.id.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(at_ms: u64, cpu_usage_us: u64, received: u64) -> Metrics {
        let received = Some(Traffic { packets: 1, bytes: received });
        Metrics {
            id: "c-1".into(),
            name: "web".into(),
            at_ms,
            cpu_usage_us,
            received,
            pids: 3,
            memory_bytes: 5 << 20,
            ..Default::default()
        }
    }

    #[test]
    fn rates_are_between_two_looks() {
        let stat = Stat::between(Some(&metrics(1_000, 0, 500)), &metrics(3_000, 1_000_000, 4_500));
        assert_eq!((stat.cpu_percent, stat.received_bytes_per_s), (Some(50.0), Some(2_000)));
        let first = Stat::between(None, &metrics(3_000, 1_000_000, 4_500));
        assert_eq!((first.cpu_percent, first.sent_bytes_per_s), (None, None));
        // Started anew, or the same moment twice.
        assert_eq!(Stat::between(Some(&metrics(1_000, 9, 9)), &metrics(2_000, 0, 0)).cpu_percent, Some(0.0));
        assert_eq!(Stat::between(Some(&metrics(1_000, 0, 0)), &metrics(1_000, 1, 1)).cpu_percent, None);
        let mut out = Vec::new();
        Stats(vec![stat, first]).print_into(&mut out).unwrap();
        insta::assert_snapshot!("stats", String::from_utf8(out).unwrap());
    }
}
