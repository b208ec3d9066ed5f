//! How conversations look: in a table, and one a line as they begin and end.

use std::io::{self, Write};

use cc_common::api::v1;
use serde::Serialize;

use super::{View, clean, table};
use crate::time::{age, rfc3339_ms};

#[derive(Debug, Serialize)]
pub struct FlowView {
    pub protocol: String,
    pub from: EndView,
    pub to: EndView,
    pub state: String,
    pub age_ms: u64,
    pub idle_ms: u64,
    pub sent: Counted,
    pub received: Counted,
    pub allowed_by: Vec<String>,
    pub published: bool,
}

#[derive(Debug, Serialize, Default)]
pub struct Counted {
    pub packets: u64,
    pub bytes: u64,
}

#[derive(Debug, Serialize)]
pub struct EndView {
    /// container, resolver, internet, host, elsewhere
    pub kind: String,
    pub container: Option<String>,
    pub id: Option<String>,
    pub address: String,
    pub port: u32,
    pub translated: Option<TranslatedView>,
}

#[derive(Debug, Serialize)]
pub struct TranslatedView {
    pub address: String,
    pub port: u32,
}

impl From<v1::NetFlow> for FlowView {
    fn from(flow: v1::NetFlow) -> Self {
        let counted = |traffic: Option<v1::Traffic>| {
            traffic.map(|t| Counted { packets: t.packets, bytes: t.bytes }).unwrap_or_default()
        };
        FlowView {
            from: flow.from.unwrap_or_default().into(),
            to: flow.to.unwrap_or_default().into(),
            sent: counted(flow.sent),
            received: counted(flow.received),
            protocol: flow.protocol,
            state: flow.state,
            age_ms: flow.age_ms,
            idle_ms: flow.idle_ms,
            allowed_by: flow.allowed_by,
            published: flow.published,
        }
    }
}

impl From<v1::FlowEnd> for EndView {
    fn from(end: v1::FlowEnd) -> Self {
        let some = |text: String| (!text.is_empty()).then_some(text);
        let port = end.translated_port;
        EndView {
            kind: end.kind,
            container: some(end.container),
            id: some(end.id),
            address: end.address,
            port: end.port,
            translated: some(end.translated_address).map(|address| TranslatedView { address, port }),
        }
    }
}

/// An address with its port, as URLs have it; protocols without ports show none.
pub(super) fn place(address: &str, port: u32, protocol: &str) -> String {
    match protocol {
        "tcp" | "udp" if address.contains(':') => format!("[{address}]:{port}"),
        "tcp" | "udp" => format!("{address}:{port}"),
        _ => address.to_owned(),
    }
}

impl EndView {
    fn who(&self) -> &str {
        self.container.as_deref().unwrap_or(&self.kind)
    }

    fn place(&self, protocol: &str) -> String {
        place(&self.address, self.port, protocol)
    }

    fn translated(&self, protocol: &str) -> Option<String> {
        self.translated.as_ref().map(|outer| place(&outer.address, outer.port, protocol))
    }
}

impl FlowView {
    /// Both ends as the other face knows them, where they differ.
    fn translation(&self) -> String {
        let (from, to) = (self.from.translated(&self.protocol), self.to.translated(&self.protocol));
        let source = from.map(|place| format!("source={place}"));
        let destination = to.map(|place| format!("destination={place}"));
        [source, destination].into_iter().flatten().collect::<Vec<_>>().join(",")
    }

    fn row(&self) -> Vec<String> {
        let both = |sent: u64, received: u64| format!("{sent}/{received}");
        let span = |ms: u64| age(0, ms);
        vec![
            self.protocol.clone(),
            self.from.who().to_owned(),
            self.from.place(&self.protocol),
            self.to.who().to_owned(),
            self.to.place(&self.protocol),
            self.state.clone(),
            both(self.sent.packets, self.received.packets),
            both(self.sent.bytes, self.received.bytes),
            span(self.age_ms),
            span(self.idle_ms),
            self.allowed_by.join(","),
            self.translation(),
        ]
    }
}

const HEADER: [&str; 12] =
    ["PROTO", "FROM", "SOURCE", "TO", "DESTINATION", "STATE", "PACKETS", "BYTES", "AGE", "IDLE", "RULES", "TRANSLATED"];

#[derive(Debug, Serialize)]
pub struct Flows {
    pub flows: Vec<FlowView>,
    /// There are more than the limit.
    pub more: bool,
}

impl View for Flows {
    fn print_into(&self, out: &mut impl Write) -> io::Result<()> {
        table::print_into(out, &HEADER, &self.flows.iter().map(FlowView::row).collect::<Vec<_>>())?;
        if self.more { writeln!(out, "and more: see --limit") } else { Ok(()) }
    }

    /// Those of the containers that have flows.
    fn ids(&self) -> Vec<&str> {
        let ends = self.flows.iter().flat_map(|flow| [&flow.from, &flow.to]);
        let ids: std::collections::BTreeSet<&str> = ends.filter_map(|end| end.id.as_deref()).collect();
        ids.into_iter().collect()
    }
}

#[derive(Debug, Serialize)]
pub struct Change {
    pub at: String,
    pub change: String,
    pub flow: FlowView,
}

impl From<v1::FlowChange> for Change {
    fn from(change: v1::FlowChange) -> Self {
        let flow = change.flow.unwrap_or_default().into();
        Change { at: rfc3339_ms(change.at_ms), change: change.change, flow }
    }
}

impl Change {
    pub fn line(&self) -> String {
        let Change { at, change, flow } = self;
        let (from, to) = (&flow.from, &flow.to);
        let mut line = format!(
            "{at} {change} {} {} {} -> {} {}",
            flow.protocol,
            from.who(),
            from.place(&flow.protocol),
            to.who(),
            to.place(&flow.protocol)
        );
        if change == "ended" {
            let (sent, received) = (&flow.sent, &flow.received);
            line += &format!(
                " after {}: {} packets, {} bytes sent, {} packets, {} bytes received",
                age(0, flow.age_ms),
                sent.packets,
                sent.bytes,
                received.packets,
                received.bytes
            );
        }
        for (title, text) in [("by", flow.allowed_by.join(",")), ("translated", flow.translation())] {
            if !text.is_empty() {
                line += &format!(" {title} {text}");
            }
        }
        clean(&line).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::Ui;

    fn flow() -> v1::NetFlow {
        let from = v1::FlowEnd {
            kind: "container".into(),
            container: "web".into(),
            id: "00aa".into(),
            address: "10.0.0.2".into(),
            port: 40_000,
            translated_address: "192.0.2.7".into(),
            translated_port: 61_000,
        };
        let to =
            v1::FlowEnd { kind: "internet".into(), address: "2001:db8::1".into(), port: 443, ..Default::default() };
        v1::NetFlow {
            protocol: "tcp".into(),
            from: Some(from),
            to: Some(to),
            state: "established".into(),
            age_ms: 61_000,
            idle_ms: 900,
            sent: Some(v1::Traffic { packets: 3, bytes: 180 }),
            received: Some(v1::Traffic { packets: 2, bytes: 9_000 }),
            allowed_by: vec!["blue#1".into()],
            published: false,
        }
    }

    #[test]
    fn table_and_lines() {
        let flows = Flows { flows: vec![flow().into()], more: true };
        let mut out = Vec::new();
        for (json, quiet) in [(false, false), (true, false), (false, true)] {
            Ui { json, quiet }.show_into(&mut out, &flows).unwrap();
        }
        for change in ["began", "ended"] {
            let change = v1::FlowChange { change: change.into(), flow: Some(flow()), at_ms: 1_700_000_000_000 };
            writeln!(out, "{}", Change::from(change).line()).unwrap();
        }
        insta::assert_snapshot!("flows", String::from_utf8(out).unwrap());
    }

    #[test]
    fn ports_are_shown_where_there_are_some() {
        assert_eq!(place("10.0.0.2", 80, "udp"), "10.0.0.2:80");
        assert_eq!(place("fd00::2", 80, "tcp"), "[fd00::2]:80");
        assert_eq!(place("fd00::2", 7, "icmpv6"), "fd00::2");
    }
}
