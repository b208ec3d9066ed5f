//! How drops look: counted in a table, and one packet a line.

use std::io::{self, Write};

use cc_common::api::v1;
use serde::Serialize;

use super::flow::place;
use super::metrics::DropView;
use super::{View, clean, table};
use crate::time::rfc3339_ms;

#[derive(Debug, Serialize)]
pub struct ContainerDrops {
    /// Empty: on interfaces that are nobody's.
    pub id: String,
    pub name: String,
    pub drops: Vec<DropView>,
    pub lost_records: u64,
}

impl From<v1::ContainerDrops> for ContainerDrops {
    fn from(of: v1::ContainerDrops) -> Self {
        let v1::ContainerDrops { id, name, drops, lost_records } = of;
        ContainerDrops { id, name, drops: drops.into_iter().map(Into::into).collect(), lost_records }
    }
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Drops(pub Vec<ContainerDrops>);

impl View for Drops {
    fn print_into(&self, out: &mut impl Write) -> io::Result<()> {
        let row = |of: &ContainerDrops, drop: &DropView| {
            let (packets, bytes) = (drop.packets.to_string(), drop.bytes.to_string());
            vec![of.name.clone(), drop.direction.clone(), drop.reason.clone(), packets, bytes]
        };
        let rows = self.0.iter().flat_map(|of| of.drops.iter().map(move |drop| row(of, drop)));
        let header = ["CONTAINER", "DIRECTION", "REASON", "PACKETS", "BYTES"];
        table::print_into(out, &header, &rows.collect::<Vec<_>>())?;
        let lost: u64 = self.0.iter().map(|of| of.lost_records).sum();
        if lost > 0 { writeln!(out, "{lost} of them were not told to those who watched") } else { Ok(()) }
    }

    /// Of those that have drops.
    fn ids(&self) -> Vec<&str> {
        self.0.iter().filter(|of| !of.id.is_empty() && !of.drops.is_empty()).map(|of| of.id.as_str()).collect()
    }
}

#[derive(Debug, Serialize)]
pub struct Dropped {
    pub at: String,
    pub id: Option<String>,
    pub container: Option<String>,
    pub direction: String,
    pub reason: String,
    pub protocol: String,
    /// Not told of another project's.
    pub source: Option<String>,
    pub source_port: Option<u32>,
    pub destination: Option<String>,
    pub destination_port: Option<u32>,
    pub ifindex: Option<u32>,
    pub bytes: u32,
}

impl From<v1::DroppedPacket> for Dropped {
    fn from(packet: v1::DroppedPacket) -> Self {
        let some = |text: String| (!text.is_empty()).then_some(text);
        let number = |number: u32| (number != 0).then_some(number);
        Dropped {
            at: rfc3339_ms(packet.at_ms),
            id: some(packet.id),
            container: some(packet.name),
            direction: packet.direction,
            reason: packet.reason,
            protocol: packet.protocol,
            source: some(packet.source),
            source_port: number(packet.source_port),
            destination: some(packet.destination),
            destination_port: number(packet.destination_port),
            ifindex: number(packet.ifindex),
            bytes: packet.bytes,
        }
    }
}

impl Dropped {
    pub fn line(&self) -> String {
        let whose = self.container.as_deref().unwrap_or("-");
        let place = |address: &Option<String>, port: Option<u32>| match (address, port) {
            (Some(address), Some(port)) => place(address, port, &self.protocol),
            (Some(address), None) => address.clone(),
            (None, _) => "-".to_owned(),
        };
        let (from, to) = (place(&self.source, self.source_port), place(&self.destination, self.destination_port));
        let Dropped { at, direction, reason, protocol, bytes, .. } = self;
        clean(&format!("{at} {whose} {direction} {reason} {protocol} {from} -> {to} {bytes} bytes")).into_owned()
    }
}

/// Records that did not come, since the last time.
#[derive(Debug, Serialize)]
pub struct Lost {
    pub lost: u64,
    pub unwritten: u64,
    pub missed: u64,
}

impl From<v1::LostRecords> for Lost {
    fn from(lost: v1::LostRecords) -> Self {
        let v1::LostRecords { unwritten, missed } = lost;
        Lost { lost: unwritten + missed, unwritten, missed }
    }
}

impl Lost {
    pub fn line(&self) -> String {
        let Lost { lost, unwritten, missed } = self;
        format!(
            "lost {lost} records: {unwritten} beyond the rate of a container, {missed} that were not taken here in time"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::Ui;

    #[test]
    fn table_and_lines() {
        let drop = v1::Drop { direction: "ingress".into(), reason: "firewall_ingress".into(), packets: 3, bytes: 180 };
        let web = v1::ContainerDrops { id: "00aa".into(), name: "web".into(), drops: vec![drop], lost_records: 2 };
        let nobody = v1::Drop { direction: "egress".into(), reason: "unknown_port".into(), packets: 1, bytes: 60 };
        let nobody = v1::ContainerDrops { drops: vec![nobody], ..Default::default() };
        let drops = Drops(vec![web.into(), nobody.into()]);
        let mut out = Vec::new();
        for (json, quiet) in [(false, false), (true, false), (false, true)] {
            Ui { json, quiet }.show_into(&mut out, &drops).unwrap();
        }
        let packet = v1::DroppedPacket {
            at_ms: 1_700_000_000_000,
            name: "web".into(),
            direction: "ingress".into(),
            reason: "firewall_ingress".into(),
            protocol: "tcp".into(),
            source: "10.0.0.3".into(),
            source_port: 40_000,
            destination: "10.0.0.2".into(),
            destination_port: 80,
            bytes: 74,
            ..Default::default()
        };
        let stranger = v1::DroppedPacket { source: String::new(), ..packet.clone() };
        let arp = v1::DroppedPacket { protocol: "arp".into(), bytes: 42, ..Default::default() };
        for packet in [packet, stranger, arp] {
            writeln!(out, "{}", Dropped::from(packet).line()).unwrap();
        }
        writeln!(out, "{}", Lost::from(v1::LostRecords { unwritten: 5, missed: 1 }).line()).unwrap();
        insta::assert_snapshot!("drops", String::from_utf8(out).unwrap());
    }
}
