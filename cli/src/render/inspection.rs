//! How a container's place in the kernel looks: what it is, and then a table for each kind of thing.

use std::io::{self, Write};

use cc_common::api::v1;
use serde::Serialize;

use super::metrics::{DropView, TrafficView};
use super::{View, table};
use crate::size::human;

#[derive(Debug, Serialize)]
pub struct Inspection {
    pub id: String,
    pub name: String,
    pub vpc: Option<String>,
    pub vni: u32,
    pub endpoint: u32,
    pub generation: u64,
    pub interface: Option<InterfaceView>,
    pub groups: Vec<String>,
    pub rule_set: Option<RuleSetView>,
    pub filters: Vec<FilterView>,
    pub links: Vec<LinkView>,
    pub rows: Vec<RowView>,
    pub flows: BooksView,
    pub egress_limit: Option<LimitView>,
    pub ingress_limit: Option<LimitView>,
    pub received: TrafficView,
    pub sent: TrafficView,
    pub drops: Vec<DropView>,
    pub records_written: u64,
    pub records_lost: u64,
}

#[derive(Debug, Serialize)]
pub struct InterfaceView {
    pub name: String,
    pub ifindex: u32,
    pub mac: String,
    pub ipv4: String,
    pub ipv6: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct RuleSetView {
    pub number: u32,
    pub generation: u64,
    pub version: u64,
    pub prefix_table: u32,
}

#[derive(Debug, Serialize)]
pub struct FilterView {
    pub hook: String,
    pub priority: u32,
    pub handle: u32,
    pub program: ProgramView,
    pub ours: bool,
}

#[derive(Debug, Serialize)]
pub struct LinkView {
    pub pin: String,
    pub id: u32,
    pub program: ProgramView,
}

#[derive(Debug, Serialize)]
pub struct ProgramView {
    pub id: u32,
    pub name: String,
    pub tag: String,
}

#[derive(Debug, Serialize)]
pub struct RowView {
    pub map: String,
    pub key: String,
    pub value: String,
}

#[derive(Debug, Serialize)]
pub struct BooksView {
    pub flows: u64,
    pub flows_max: u64,
    pub half_open: u64,
    pub half_open_max: u64,
    pub nat_blocks: u64,
    pub nat_blocks_max: u64,
}

#[derive(Debug, Serialize)]
pub struct LimitView {
    pub bytes_per_s: u64,
    /// 0: by the rate.
    pub burst_bytes: u64,
}

fn program(program: Option<v1::ProgramSeen>) -> ProgramView {
    let v1::ProgramSeen { id, name, tag } = program.unwrap_or_default();
    ProgramView { id, name, tag }
}

impl From<v1::NetInspection> for Inspection {
    fn from(seen: v1::NetInspection) -> Self {
        let some = |text: String| (!text.is_empty()).then_some(text);
        let traffic = |of: Option<v1::Traffic>| {
            of.map(|t| TrafficView { packets: t.packets, bytes: t.bytes }).unwrap_or_default()
        };
        let limit = |of: Option<v1::RateLimit>| {
            of.map(|l| LimitView { bytes_per_s: l.bytes_per_s, burst_bytes: l.burst_bytes })
        };
        let interface = some(seen.interface).map(|name| InterfaceView {
            name,
            ifindex: seen.ifindex,
            mac: seen.mac,
            ipv4: seen.ipv4,
            ipv6: some(seen.ipv6),
        });
        let rule_set = seen.rule_set.map(|of| {
            let v1::RuleSetSeen { number, generation, version, prefix_table } = of;
            RuleSetView { number, generation, version, prefix_table }
        });
        let filter = |of: v1::FilterSeen| {
            let v1::FilterSeen { hook, priority, handle, ours, .. } = of;
            FilterView { hook, priority, handle, program: program(of.program), ours }
        };
        let link = |of: v1::LinkSeen| LinkView { pin: of.pin, id: of.id, program: program(of.program) };
        let books = seen.flows.unwrap_or_default();
        Inspection {
            id: seen.id,
            name: seen.name,
            vpc: some(seen.vpc),
            vni: seen.vni,
            endpoint: seen.endpoint,
            generation: seen.generation,
            interface,
            groups: seen.groups,
            rule_set,
            filters: seen.filters.into_iter().map(filter).collect(),
            links: seen.links.into_iter().map(link).collect(),
            rows: seen.rows.into_iter().map(|v1::MapRow { map, key, value }| RowView { map, key, value }).collect(),
            flows: BooksView {
                flows: books.flows,
                flows_max: books.flows_max,
                half_open: books.half_open,
                half_open_max: books.half_open_max,
                nat_blocks: books.nat_blocks,
                nat_blocks_max: books.nat_blocks_max,
            },
            egress_limit: limit(seen.egress_limit),
            ingress_limit: limit(seen.ingress_limit),
            received: traffic(seen.received),
            sent: traffic(seen.sent),
            drops: seen.drops.into_iter().map(Into::into).collect(),
            records_written: seen.records_written,
            records_lost: seen.records_lost,
        }
    }
}

impl Inspection {
    fn pairs(&self) -> Vec<(&'static str, String)> {
        let of = |limit: &Option<LimitView>| match limit {
            Some(limit) => format!("{}/s", human(limit.bytes_per_s)),
            None => "none".to_owned(),
        };
        let traffic = |of: &TrafficView| format!("{} packets, {}", of.packets, human(of.bytes));
        let mut pairs = vec![("container", format!("{} ({})", self.name, self.id))];
        if let Some(vpc) = &self.vpc {
            pairs.push(("vpc", format!("{vpc}, vni {}", self.vni)));
        }
        if let Some(InterfaceView { name, ifindex, mac, ipv4, ipv6 }) = &self.interface {
            pairs.push(("interface", format!("{name}, ifindex {ifindex}, {mac}")));
            pairs.push(("addresses", table::both(ipv4, ipv6.as_deref().unwrap_or_default())));
        }
        pairs.push(("endpoint", format!("{}, generation {}", self.endpoint, self.generation)));
        if let Some(RuleSetView { number, generation, .. }) = &self.rule_set {
            pairs.push(("rule set", format!("{number}, generation {generation}, of {}", self.groups.join(","))));
        }
        let BooksView { flows, flows_max, half_open, half_open_max, nat_blocks, nat_blocks_max } = &self.flows;
        pairs.push(("flows", format!("{flows} of {flows_max}, not established {half_open} of {half_open_max}")));
        pairs.push(("port blocks", format!("{nat_blocks} of {nat_blocks_max}")));
        pairs.push(("egress limit", of(&self.egress_limit)));
        pairs.push(("ingress limit", of(&self.ingress_limit)));
        pairs.push(("sent", traffic(&self.sent)));
        pairs.push(("received", traffic(&self.received)));
        pairs.push(("drop records", format!("{} told, {} lost", self.records_written, self.records_lost)));
        pairs
    }
}

impl View for Inspection {
    fn print_into(&self, out: &mut impl Write) -> io::Result<()> {
        table::print_pairs_into(out, &self.pairs())?;
        let program = |p: &ProgramView| [p.name.clone(), p.id.to_string(), p.tag.clone()];
        let filter = |f: &FilterView| {
            let whose = if f.ours { "ours" } else { "foreign" }.to_owned();
            [
                vec![f.hook.clone(), f.priority.to_string(), f.handle.to_string()],
                program(&f.program).to_vec(),
                vec![whose],
            ]
            .concat()
        };
        let link = |l: &LinkView| [program(&l.program).to_vec(), vec![l.id.to_string(), l.pin.clone()]].concat();
        let row = |r: &RowView| vec![r.map.clone(), r.key.clone(), r.value.clone()];
        let drop =
            |d: &DropView| vec![d.direction.clone(), d.reason.clone(), d.packets.to_string(), d.bytes.to_string()];
        let tables: [(&[&str], Vec<Vec<String>>); 4] = [
            (
                &["FILTER", "PRIORITY", "HANDLE", "PROGRAM", "ID", "TAG", "WHOSE"],
                self.filters.iter().map(filter).collect(),
            ),
            (&["CGROUP PROGRAM", "ID", "TAG", "LINK", "PIN"], self.links.iter().map(link).collect()),
            (&["MAP", "KEY", "VALUE"], self.rows.iter().map(row).collect()),
            (&["DROPS", "REASON", "PACKETS", "BYTES"], self.drops.iter().map(drop).collect()),
        ];
        for (header, rows) in tables.iter().filter(|(_, rows)| !rows.is_empty()) {
            writeln!(out)?;
            table::print_into(out, header, rows)?;
        }
        Ok(())
    }

    fn ids(&self) -> Vec<&str> {
        vec![&self.id]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::Ui;

    #[test]
    fn block_and_json() {
        let program = |id, name: &str| Some(v1::ProgramSeen { id, name: name.into(), tag: "00c0ffee00c0ffee".into() });
        let filter =
            |hook: &str, program, ours| v1::FilterSeen { hook: hook.into(), priority: 1, handle: 1, program, ours };
        let seen = v1::NetInspection {
            id: "00aa".into(),
            name: "web".into(),
            vpc: "blue".into(),
            vni: 1,
            endpoint: 3,
            generation: 17,
            interface: "cc00aa".into(),
            ifindex: 12,
            mac: "02:cc:0a:00:00:02".into(),
            ipv4: "10.0.0.2".into(),
            ipv6: "fd00::2".into(),
            groups: vec!["blue".into(), "web".into()],
            rule_set: Some(v1::RuleSetSeen { number: 2, generation: 16, version: 16, prefix_table: 0 }),
            filters: vec![
                filter("ingress", program(40, "cc_from_ep"), true),
                filter("egress", program(9, "spy"), false),
            ],
            links: vec![v1::LinkSeen { pin: "/sys/fs/bpf/x".into(), id: 5, program: program(41, "cc_cg_in") }],
            rows: vec![v1::MapRow { map: "CC_PORTS".into(), key: "ifindex 12".into(), value: "endpoint 3".into() }],
            flows: Some(v1::FlowBooks { flows: 1, flows_max: 131_072, half_open_max: 4096, ..Default::default() }),
            egress_limit: Some(v1::RateLimit { bytes_per_s: 1 << 20, burst_bytes: 0 }),
            received: Some(v1::Traffic { packets: 3, bytes: 180 }),
            drops: vec![v1::Drop { direction: "ingress".into(), reason: "no_route".into(), packets: 1, bytes: 60 }],
            records_written: 2,
            ..Default::default()
        };
        let seen = Inspection::from(seen);
        let mut out = Vec::new();
        for json in [false, true] {
            Ui { json, quiet: false }.show_into(&mut out, &seen).unwrap();
        }
        insta::assert_snapshot!("inspection", String::from_utf8(out).unwrap());
    }
}
