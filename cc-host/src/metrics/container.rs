//! Each running container's figures, as `cc metrics` has them. Refuses to tell of containers that have stopped, and of drops
//! for reasons that did not occur.

use std::collections::HashSet;
use std::sync::Arc;

use super::encoder::Encoder;
use super::family::{Family, Kind};
use super::registry::Collect;
use crate::auth::Scope;
use crate::container::{ContainerMetrics, ContainerRecord, Containers, State};
use crate::ids::ContainerId;

const LABELS: &[&str] = &["project", "container", "id", "vpc"];
const DROP_LABELS: &[&str] = &["project", "container", "id", "vpc", "direction", "reason"];
const QUEUE_LABELS: &[&str] = &["project", "container", "id", "vpc", "direction"];

macro_rules! families {
    ($all:ident: $($id:ident = $kind:ident $name:literal $labels:ident $help:literal;)+) => {
        $(static $id: Family = Family::of_projects(Kind::$kind, $name, $help, $labels);)+
        static $all: &[&Family] = &[$(&$id),+];
    };
}

families! { FAMILIES:
    CPU = Counter "cc_container_cpu_seconds_total" LABELS "CPU time that the container's processes used.";
    MEMORY = Gauge "cc_container_memory_usage_bytes" LABELS "Memory in use, page cache included.";
    MEMORY_LIMIT = Gauge "cc_container_memory_limit_bytes" LABELS
        "Limit of memory, swap included; absent without a limit.";
    MEMORY_PEAK = Gauge "cc_container_memory_peak_bytes" LABELS "Most memory that was ever in use.";
    OOM_KILLS = Counter "cc_container_oom_kills_total" LABELS "Processes that the kernel killed for want of memory.";
    IO_READ = Counter "cc_container_io_read_bytes_total" LABELS "Bytes read from block devices.";
    IO_WRITTEN = Counter "cc_container_io_written_bytes_total" LABELS "Bytes written to block devices.";
    PIDS = Gauge "cc_container_pids" LABELS "Processes and threads.";
    PIDS_LIMIT = Gauge "cc_container_pids_limit" LABELS "Limit of processes and threads; absent without a limit.";
    RECEIVED_PACKETS = Counter "cc_container_network_receive_packets_total" LABELS
        "Packets that the datapath delivered to the container's interface.";
    RECEIVED_BYTES = Counter "cc_container_network_receive_bytes_total" LABELS
        "Bytes of frames that the datapath delivered to the container's interface.";
    SENT_PACKETS = Counter "cc_container_network_transmit_packets_total" LABELS
        "Packets that the container sent and the datapath passed on.";
    SENT_BYTES = Counter "cc_container_network_transmit_bytes_total" LABELS
        "Bytes of frames that the container sent and the datapath passed on.";
    SOCKET_RECEIVED_PACKETS = Counter "cc_container_socket_receive_packets_total" LABELS
        "Packets that reached the container's sockets, loopback included.";
    SOCKET_RECEIVED_BYTES = Counter "cc_container_socket_receive_bytes_total" LABELS
        "Bytes of IP packets that reached the container's sockets, loopback included.";
    SOCKET_SENT_PACKETS = Counter "cc_container_socket_transmit_packets_total" LABELS
        "Packets that the container's sockets sent, loopback included.";
    SOCKET_SENT_BYTES = Counter "cc_container_socket_transmit_bytes_total" LABELS
        "Bytes of IP packets that the container's sockets sent, loopback included.";
    DROPPED_PACKETS = Counter "cc_container_network_dropped_packets_total" DROP_LABELS
        "Packets to (ingress) or from (egress) the container that the datapath dropped.";
    DROPPED_BYTES = Counter "cc_container_network_dropped_bytes_total" DROP_LABELS
        "Bytes of frames to (ingress) or from (egress) the container that the datapath dropped.";
    LOGGED = Counter "cc_container_rule_log_records_total" LABELS
        "Records of what the container's rules have decided, of rules that are to be told.";
    LOG_LOST = Counter "cc_container_rule_log_lost_records_total" LABELS
        "Such records that were not written, beyond the rate or for want of room.";
    OUTPUT_DROPPED = Counter "cc_container_log_dropped_records_total" LABELS
        "Records of the container's output that its log could not take.";
    HEALTHY = Gauge "cc_container_healthy" LABELS
        "1 if its last probes say so, 0 while it starts or when they failed; absent without a health check.";
    QUEUE_LIMIT = Gauge "cc_container_network_bandwidth_limit_bytes" QUEUE_LABELS
        "Limit of what the container receives (ingress) or sends (egress) in a second; absent without a limit.";
    QUEUE_WAITS = Counter "cc_container_network_queue_waits_total" QUEUE_LABELS
        "Times that the queue before a limit waited; absent without a limit.";
    QUEUE_DROPPED = Counter "cc_container_network_queue_dropped_packets_total" QUEUE_LABELS
        "Packets that the queue before a limit had no room for; absent without a limit.";
    QUEUE_WAITING = Gauge "cc_container_network_queue_waiting_bytes" QUEUE_LABELS
        "Bytes of frames that wait before a limit; absent without a limit.";
}

pub struct ContainerFigures {
    pub containers: Arc<Containers>,
}

impl Collect for ContainerFigures {
    fn families(&self) -> &'static [&'static Family] {
        FAMILIES
    }

    fn collect(&self, out: &mut Encoder) {
        let mut records = self.running(out.scope());
        // The oldest have room first, so that what is left out of one scrape is left out of the next.
        records.sort_by(|a, b| (a.created_ms, &a.id).cmp(&(b.created_ms, &b.id)));
        let read = tokio::runtime::Handle::current().block_on(self.containers.metrics_of_all(records));
        let read = match read {
            Ok(read) => read,
            Err(error) => return out.failed("the containers' figures", &error),
        };

        // The files of one that ended meanwhile read as 0, and its record says so before they are gone.
        let running: HashSet<ContainerId> = self.running(out.scope()).into_iter().map(|record| record.id).collect();
        for (record, figures) in read.iter().filter(|(record, _)| running.contains(&record.id)) {
            if !out.whole(|out| add(out, record, figures)) {
                return;
            }
        }
    }
}

impl ContainerFigures {
    fn running(&self, scope: &Scope) -> Vec<ContainerRecord> {
        let mut records = match scope {
            Scope::Host => self.containers.all(),
            Scope::Project(project) => self.containers.list(project),
        };
        records.retain(|record| matches!(record.state, State::Running { .. }));
        records
    }
}

fn add(out: &mut Encoder, record: &ContainerRecord, figures: &ContainerMetrics) {
    let vpc = record.vpc.as_ref().map_or("", |attachment| attachment.vpc_name.as_str());
    let labels = [record.project.as_str(), record.name.as_str(), record.id.as_str(), vpc];
    let ContainerMetrics { resources, traffic, queues, log_dropped, healthy } = figures;
    out.add(&CPU, &labels, resources.cpu_usage_us as f64 / 1e6);
    let mut add = |family, value: u64| out.add(family, &labels, value as f64);
    add(&MEMORY, resources.memory_bytes);
    add(&MEMORY_PEAK, resources.memory_peak);
    add(&OOM_KILLS, resources.oom_kills);
    add(&IO_READ, resources.io_read);
    add(&IO_WRITTEN, resources.io_write);
    add(&PIDS, resources.pids);
    let limits = [(&MEMORY_LIMIT, record.spec.memory_bytes), (&PIDS_LIMIT, resources.pids_limit)];
    limits
        .into_iter()
        .filter_map(|(family, limit)| Some((family, limit?)))
        .for_each(|(family, limit)| add(family, limit));
    if record.vpc.is_some() {
        add(&RECEIVED_PACKETS, traffic.received.packets);
        add(&RECEIVED_BYTES, traffic.received.bytes);
        add(&SENT_PACKETS, traffic.sent.packets);
        add(&SENT_BYTES, traffic.sent.bytes);
        add(&LOGGED, traffic.logged.written);
        add(&LOG_LOST, traffic.logged.lost);
    }
    add(&SOCKET_RECEIVED_PACKETS, traffic.socket_received.packets);
    add(&SOCKET_RECEIVED_BYTES, traffic.socket_received.bytes);
    add(&SOCKET_SENT_PACKETS, traffic.socket_sent.packets);
    add(&SOCKET_SENT_BYTES, traffic.socket_sent.bytes);
    add(&OUTPUT_DROPPED, *log_dropped);
    if let Some(healthy) = healthy {
        add(&HEALTHY, u64::from(*healthy));
    }
    for drops in &traffic.drops {
        let [project, name, id, vpc] = labels;
        let labels = [project, name, id, vpc, drops.direction, drops.reason];
        out.add(&DROPPED_PACKETS, &labels, drops.packets as f64);
        out.add(&DROPPED_BYTES, &labels, drops.bytes as f64);
    }
    for queue in queues {
        let [project, name, id, vpc] = labels;
        let labels = [project, name, id, vpc, queue.direction];
        out.add(&QUEUE_LIMIT, &labels, queue.bytes_per_s as f64);
        out.add(&QUEUE_WAITS, &labels, queue.stats.waits as f64);
        out.add(&QUEUE_DROPPED, &labels, queue.stats.dropped_packets as f64);
        out.add(&QUEUE_WAITING, &labels, queue.stats.waiting_bytes as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::Queue;
    use crate::datapath::{Drops, EndpointCounters, Traffic};
    use crate::kernel::cgroup::Stats;
    use crate::kernel::qdisc::QueueStats;
    use cc_common::event::Told;

    fn record(memory: Option<u64>, vpc: bool) -> ContainerRecord {
        let mut value = serde_json::json!({
            "id": "0123456789abcdef", "project": "blue", "name": "web", "slot": 1,
            "spec": {
                "image": "busybox", "memory_bytes": memory, "env": [], "labels": {}, "command": [],
                "auto_remove": false, "stdin": false
            },
            "image_reference": "busybox", "image_digest": "", "stop_signal": 15, "created_ms": 1,
            "state": { "state": "running", "pid": 7, "since_ms": 1 },
        });
        if vpc {
            value["vpc"] = serde_json::json!({
                "vpc": "vpc-000000000001", "vpc_name": "net", "vni": 1, "ipv4": "10.0.0.2", "prefix_len": 24,
                "gateway": "10.0.0.1", "mac": [2, 0, 0, 0, 0, 1],
            });
        }
        serde_json::from_value(value).unwrap()
    }

    fn text(record: &ContainerRecord, figures: &ContainerMetrics) -> String {
        let mut out = Encoder::new(Scope::Host, 1000);
        FAMILIES.iter().for_each(|family| out.declare(family));
        assert!(out.whole(|out| add(out, record, figures)));
        out.finish()
    }

    #[test]
    fn families_keep_the_conventions() {
        for family in FAMILIES {
            assert_eq!(family.fault(), None, "{}", family.name);
        }
    }

    #[test]
    fn every_figure_has_its_family() {
        let figures = ContainerMetrics {
            resources: Stats {
                cpu_usage_us: 1_500_001,
                memory_bytes: 2,
                memory_limit: Some(3),
                memory_peak: 4,
                oom_kills: 5,
                io_read: 6,
                io_write: 7,
                pids: 8,
                pids_limit: Some(9),
            },
            traffic: EndpointCounters {
                received: Traffic { packets: 10, bytes: 11 },
                sent: Traffic { packets: 12, bytes: 13 },
                socket_received: Traffic { packets: 14, bytes: 15 },
                socket_sent: Traffic { packets: 16, bytes: 17 },
                drops: vec![Drops { direction: "egress", reason: "ipv6", packets: 18, bytes: 19 }],
                logged: Told { until_ns: 0, written: 24, lost: 25 },
            },
            queues: vec![Queue {
                direction: "ingress",
                bytes_per_s: 20,
                stats: QueueStats { packets: 0, bytes: 0, dropped_packets: 21, waits: 22, waiting_bytes: 23 },
            }],
            log_dropped: 26,
            healthy: Some(true),
        };
        let text = text(&record(Some(3), true), &figures);
        let series = "{project=\"blue\",container=\"web\",id=\"0123456789abcdef\",vpc=\"net\"";
        for (name, value) in [
            ("cpu_seconds_total", "1.500001"),
            ("memory_usage_bytes", "2"),
            ("memory_limit_bytes", "3"),
            ("memory_peak_bytes", "4"),
            ("oom_kills_total", "5"),
            ("io_read_bytes_total", "6"),
            ("io_written_bytes_total", "7"),
            ("pids", "8"),
            ("pids_limit", "9"),
            ("network_receive_packets_total", "10"),
            ("network_receive_bytes_total", "11"),
            ("network_transmit_packets_total", "12"),
            ("network_transmit_bytes_total", "13"),
            ("rule_log_records_total", "24"),
            ("rule_log_lost_records_total", "25"),
            ("log_dropped_records_total", "26"),
            ("healthy", "1"),
            ("socket_receive_packets_total", "14"),
            ("socket_receive_bytes_total", "15"),
            ("socket_transmit_packets_total", "16"),
            ("socket_transmit_bytes_total", "17"),
        ] {
            assert!(text.contains(&format!("\ncc_container_{name}{series}}} {value}\n")), "{name}: {text}");
        }
        for (what, value) in [("packets", 18), ("bytes", 19)] {
            let line = format!(
                "\ncc_container_network_dropped_{what}_total{series},direction=\"egress\",reason=\"ipv6\"}} {value}\n"
            );
            assert!(text.contains(&line), "{line}: {text}");
        }
        for (name, value) in [
            ("bandwidth_limit_bytes", 20),
            ("queue_dropped_packets_total", 21),
            ("queue_waits_total", 22),
            ("queue_waiting_bytes", 23),
        ] {
            let line = format!("\ncc_container_network_{name}{series},direction=\"ingress\"}} {value}\n");
            assert!(text.contains(&line), "{line}: {text}");
        }
        let series = text.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!(series, 21 + 2 + 4, "the arithmetic of SERIES_MAX");
    }

    #[test]
    fn what_a_container_does_not_have_is_absent() {
        let text = text(&record(None, false), &ContainerMetrics::default());
        let series: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert!(series.iter().all(|line| line.contains("vpc=\"\"")), "{text}");
        assert!(
            !series.iter().any(|line| line.contains("_limit") || line.contains("_network_") || line.contains("_rule_")),
            "{text}"
        );
        assert_eq!(series.len(), 20 - 6 - 2, "{text}");
    }
}
