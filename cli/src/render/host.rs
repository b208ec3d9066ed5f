//! How a host looks.

use std::io::{self, Write};

use cc_common::api::v1;
use serde::Serialize;

use super::{View, table};
use crate::size::human;

#[derive(Debug, Serialize)]
pub struct HostView {
    pub host_id: String,
    pub version: String,
    pub abi: u32,
    pub kernel: String,
    pub containers_running: u32,
    pub containers_total: u32,
    pub vpcs: u32,
    /// None of a daemon that does not tell.
    pub flows: Option<FlowsView>,
}

#[derive(Debug, Serialize)]
pub struct DiskView {
    pub parts: Vec<DiskPart>,
    pub total_bytes: u64,
}

#[derive(Debug, Serialize)]
pub struct DiskPart {
    pub kind: String,
    pub count: u32,
    pub active: u32,
    pub bytes: u64,
    pub reclaimable_bytes: u64,
}

impl From<v1::DiskUsageReport> for DiskView {
    fn from(report: v1::DiskUsageReport) -> Self {
        let part = |part: v1::DiskUsage| DiskPart {
            kind: part.kind,
            count: part.count,
            active: part.active,
            bytes: part.bytes,
            reclaimable_bytes: part.reclaimable_bytes,
        };
        DiskView { parts: report.parts.into_iter().map(part).collect(), total_bytes: report.total_bytes }
    }
}

impl View for DiskView {
    fn print_into(&self, out: &mut impl Write) -> io::Result<()> {
        let number = |part: &DiskPart, count: u32| if part.kind == "store" { String::new() } else { count.to_string() };
        let row = |part: &DiskPart| {
            let (count, active) = (number(part, part.count), number(part, part.active));
            vec![part.kind.clone(), count, active, human(part.bytes), human(part.reclaimable_bytes)]
        };
        let mut rows: Vec<_> = self.parts.iter().map(row).collect();
        let reclaimable = self.parts.iter().map(|part| part.reclaimable_bytes).sum();
        rows.push(vec!["total".into(), String::new(), String::new(), human(self.total_bytes), human(reclaimable)]);
        table::print_into(out, &["KIND", "COUNT", "ACTIVE", "SIZE", "RECLAIMABLE"], &rows)
    }

    fn ids(&self) -> Vec<&str> {
        self.parts.iter().map(|part| part.kind.as_str()).collect()
    }
}

/// Keys as in the daemon's configuration.
#[derive(Debug, Serialize)]
pub struct FlowsView {
    pub tcp_syn_s: u64,
    pub tcp_established_s: u64,
    pub tcp_fin_s: u64,
    pub tcp_time_wait_s: u64,
    pub udp_s: u64,
    pub udp_stream_s: u64,
    pub icmp_s: u64,
    pub other_s: u64,
    pub other_stream_s: u64,
    pub per_container_max: u64,
    pub half_open_per_container_max: u64,
}

impl From<v1::FlowLimits> for FlowsView {
    fn from(limits: v1::FlowLimits) -> Self {
        FlowsView {
            tcp_syn_s: limits.tcp_syn_s,
            tcp_established_s: limits.tcp_established_s,
            tcp_fin_s: limits.tcp_fin_s,
            tcp_time_wait_s: limits.tcp_time_wait_s,
            udp_s: limits.udp_s,
            udp_stream_s: limits.udp_stream_s,
            icmp_s: limits.icmp_s,
            other_s: limits.other_s,
            other_stream_s: limits.other_stream_s,
            per_container_max: limits.per_container_max,
            half_open_per_container_max: limits.half_open_per_container_max,
        }
    }
}

impl FlowsView {
    fn rows(&self) -> [(&'static str, String); 3] {
        [
            (
                "TCP flows live",
                format!(
                    "{} s opening, {} s established, {} s closing, {} s closed",
                    self.tcp_syn_s, self.tcp_established_s, self.tcp_fin_s, self.tcp_time_wait_s
                ),
            ),
            (
                "Other flows live",
                format!(
                    "udp {} s, answered {} s; icmp {} s; others {} s, answered {} s",
                    self.udp_s, self.udp_stream_s, self.icmp_s, self.other_s, self.other_stream_s
                ),
            ),
            (
                "Flows of a container",
                format!("at most {}, of these {} opening", self.per_container_max, self.half_open_per_container_max),
            ),
        ]
    }
}

impl From<v1::HostInfo> for HostView {
    fn from(info: v1::HostInfo) -> Self {
        let v1::HostInfo { version, abi, kernel, containers_running, containers_total, vpcs, host_id, flows } = info;
        let flows = flows.map(FlowsView::from);
        HostView { host_id, version, abi, kernel, containers_running, containers_total, vpcs, flows }
    }
}

impl View for HostView {
    fn print_into(&self, out: &mut impl Write) -> io::Result<()> {
        let containers = format!("{} running, {} in all", self.containers_running, self.containers_total);
        let mut rows = vec![
            ("Host", self.host_id.clone()),
            ("Version", self.version.clone()),
            ("Datapath ABI", self.abi.to_string()),
            ("Kernel", self.kernel.clone()),
            ("Containers", containers),
            ("VPCs", self.vpcs.to_string()),
        ];
        rows.extend(self.flows.iter().flat_map(FlowsView::rows));
        table::print_pairs_into(out, &rows)
    }

    fn ids(&self) -> Vec<&str> {
        vec![&self.host_id]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs() {
        let info = v1::HostInfo {
            version: "0.1.0".into(),
            abi: 1,
            kernel: "6.18.0".into(),
            containers_running: 1,
            containers_total: 2,
            vpcs: 2,
            host_id: "h-1".into(),
            flows: Some(v1::FlowLimits {
                tcp_syn_s: 20,
                tcp_established_s: 8_000,
                tcp_fin_s: 300,
                tcp_time_wait_s: 2,
                udp_s: 30,
                udp_stream_s: 120,
                icmp_s: 30,
                other_s: 60,
                other_stream_s: 600,
                per_container_max: 131_072,
                half_open_per_container_max: 4_096,
            }),
        };
        let mut out = Vec::new();
        HostView::from(info).print_into(&mut out).unwrap();
        insta::assert_snapshot!("host_pairs", String::from_utf8(out).unwrap());
    }
}
