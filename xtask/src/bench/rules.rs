//! Many rules and a long prefix list, put in force by `cc` as a user would, and how long that took. Refuses to make containers.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, ensure};

use super::bpf;
use super::report::Figure;
use crate::host::Host;
use crate::interrupt;
use crate::process::output;

pub const RULES: usize = 1_000;
pub const PREFIXES: u32 = 1_000_000;
pub const GROUP: &str = "many";
const LIST: &str = "million";
/// What the list has besides the others: the benchmark's own network.
const OWN: &str = "10.77.0.0/24";

/// What `cc prefixes load` says of a list that a group of many rules names.
#[derive(Debug)]
pub struct Forced {
    pub rules: usize,
    pub prefixes: u32,
    pub parse_ms: u64,
    /// From there until it is on disk.
    pub store_ms: u64,
    /// From there until it is in force.
    pub force_ms: u64,
    /// What the kernel charges for the table of IPv4 prefixes.
    pub prefixes_mib: u64,
}

/// A group whose rules deny what nobody sends, but for the last, least urgent one: it lets in who is on the list, which is empty.
pub fn many(host: &Host) -> Result<()> {
    output(host.cc().args(["group", "create", "--name", GROUP]))?;
    for rule in 2..RULES {
        interrupt::check()?;
        // From 198.18.0.0/15, which is for benchmarks and which nobody here has; each with a port of its own.
        let source = Ipv4Addr::from(0xc612_0000 + u32::try_from(rule).context("too many rules")?);
        let (from, port) = (format!("{source}/32"), (10_000 + rule).to_string());
        let (direction, peer) = if rule % 2 == 0 { ("ingress", "--from") } else { ("egress", "--to") };
        let words = ["group", "deny", GROUP, direction, "--proto", "tcp", "--port", &port, peer, &from];
        output(host.cc().args(words).args(["--priority", "10"]))?;
    }
    output(host.cc().args(["prefixes", "create", "--name", LIST]))?;
    for (direction, peer) in [("ingress", "--from"), ("egress", "--to")] {
        output(host.cc().args(["group", "allow", GROUP, direction, "--proto", "any", peer, LIST]))?;
    }
    Ok(())
}

/// Fills the list. In the kernel is what a running container's rules name: call it when the group has members.
pub fn force(host: &Host) -> Result<Forced> {
    let mut lines = format!("{OWN}\n");
    // Of lengths 24 to 32, spread over 11.0.0.0 and up.
    for number in 0..PREFIXES - 1 {
        let bits = 24 + number % 9;
        let address = (0x0b00_0000 + number * 256) & (u32::MAX << (32 - bits));
        writeln!(lines, "{}/{bits}", Ipv4Addr::from(address))?;
    }
    let file = host.file("million");
    std::fs::write(&file, lines).with_context(|| format!("cannot write {}", file.display()))?;
    let text = output(host.cc().args(["prefixes", "load", "--json", LIST]).arg(&file))?;
    let said: serde_json::Value = serde_json::from_str(&text).context("cc prefixes load --json gave no JSON")?;
    let ms = |name: &str| said[name].as_u64().with_context(|| format!("cc prefixes load said no {name}: {text}"));
    let prefixes_mib = bpf::memory_bytes(&host.pins()?.join("CC_PREFIX4"))? >> 20;
    ensure!(prefixes_mib > 0, "the list is stored, but not in the kernel");
    Ok(Forced {
        rules: RULES,
        prefixes: PREFIXES,
        parse_ms: ms("parse_ms")?,
        store_ms: ms("store_ms")?,
        force_ms: ms("force_ms")?,
        prefixes_mib,
    })
}

impl Forced {
    pub fn figures(&self) -> Vec<Figure> {
        let setup = format!("{} rules, {} prefixes", self.rules, self.prefixes);
        let figure = |what: &str, unit, value: u64| Figure::alone(what, unit, value as f64, &setup);
        vec![
            figure("Prefix list: read and parsed", "ms", self.parse_ms),
            figure("Prefix list: from there until on disk", "ms", self.store_ms),
            figure("Prefix list: from there until in force", "ms", self.force_ms),
            figure("Prefix list: memory of the kernel's table", "MiB", self.prefixes_mib),
        ]
    }
}
