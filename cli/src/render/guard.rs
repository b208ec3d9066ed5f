//! How the guard looks: who is denied, where it is, and what it has dropped.

use std::io::{self, Write};

use cc_common::api::v1;
use serde::Serialize;

use super::{View, table};
use crate::time::rfc3339_ms;

#[derive(Debug, Serialize)]
pub struct Guard {
    pub denied: Vec<LineView>,
    pub uplinks: Vec<UplinkView>,
    pub drops: Vec<DropView>,
    /// Something is denied, or the configuration says so.
    pub wanted: bool,
}

#[derive(Debug, Serialize)]
pub struct LineView {
    pub source: String,
    /// cidr, prefixes
    pub kind: String,
    pub prefixes: u64,
    pub added: String,
}

#[derive(Debug, Serialize)]
pub struct UplinkView {
    pub name: String,
    pub ifindex: u32,
    /// native, generic; absent: not guarded
    pub mode: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct DropView {
    pub reason: String,
    pub packets: u64,
    pub bytes: u64,
}

impl From<v1::GuardState> for Guard {
    fn from(state: v1::GuardState) -> Self {
        let line = |line: v1::GuardLine| {
            let v1::GuardLine { source, kind, prefixes, added_ms } = line;
            LineView { source, kind, prefixes, added: rfc3339_ms(added_ms) }
        };
        let uplink = |uplink: v1::GuardedUplink| {
            let v1::GuardedUplink { name, ifindex, mode } = uplink;
            UplinkView { name, ifindex, mode: (!mode.is_empty()).then_some(mode) }
        };
        let drop = |drop: v1::GuardDrop| {
            let v1::GuardDrop { reason, packets, bytes } = drop;
            DropView { reason, packets, bytes }
        };
        Guard {
            denied: state.lines.into_iter().map(line).collect(),
            uplinks: state.uplinks.into_iter().map(uplink).collect(),
            drops: state.drops.into_iter().map(drop).collect(),
            wanted: state.wanted,
        }
    }
}

impl View for Guard {
    fn print_into(&self, out: &mut impl Write) -> io::Result<()> {
        let line = |l: &LineView| vec![l.source.clone(), l.kind.clone(), l.prefixes.to_string(), l.added.clone()];
        let denied: Vec<_> = self.denied.iter().map(line).collect();
        table::print_into(out, &["DENIED", "KIND", "PREFIXES", "ADDED"], &denied)?;
        writeln!(out)?;
        let uplink = |u: &UplinkView| {
            vec![u.name.clone(), u.ifindex.to_string(), u.mode.clone().unwrap_or_else(|| "not guarded".to_owned())]
        };
        let uplinks: Vec<_> = self.uplinks.iter().map(uplink).collect();
        table::print_into(out, &["UPLINK", "IFINDEX", "MODE"], &uplinks)?;
        if self.uplinks.is_empty() {
            writeln!(out, "no uplink was found: name one in uplinks of the configuration")?;
        }
        // Reasons that never occurred are in the JSON.
        let drops = self.drops.iter().filter(|drop| drop.packets > 0);
        let drops: Vec<_> = drops.map(|d| vec![d.reason.clone(), d.packets.to_string(), d.bytes.to_string()]).collect();
        if drops.is_empty() {
            return Ok(());
        }
        writeln!(out)?;
        table::print_into(out, &["DROPPED", "PACKETS", "BYTES"], &drops)
    }

    fn ids(&self) -> Vec<&str> {
        self.denied.iter().map(|line| line.source.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::Ui;

    #[test]
    fn tables_and_json() {
        let line = |source: &str, kind: &str, prefixes| v1::GuardLine {
            source: source.into(),
            kind: kind.into(),
            prefixes,
            added_ms: 1_700_000_000_000,
        };
        let drop = |reason: &str, packets| v1::GuardDrop { reason: reason.into(), packets, bytes: packets * 60 };
        let uplink = |name: &str, mode: &str| v1::GuardedUplink { name: name.into(), ifindex: 2, mode: mode.into() };
        let state = Guard::from(v1::GuardState {
            lines: vec![line("198.51.100.0/24", "cidr", 1), line("bad-ones", "prefixes", 20_000)],
            uplinks: vec![uplink("eth0", "native"), uplink("eth1", "")],
            drops: vec![drop("denied", 7), drop("land", 0)],
            wanted: true,
        });
        let mut out = Vec::new();
        for (json, quiet) in [(false, false), (true, false), (false, true)] {
            Ui { json, quiet }.show_into(&mut out, &state).unwrap();
        }
        let nothing = Guard::from(v1::GuardState::default());
        Ui { json: false, quiet: false }.show_into(&mut out, &nothing).unwrap();
        insta::assert_snapshot!("guard", String::from_utf8(out).unwrap());
    }
}
