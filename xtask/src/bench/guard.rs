//! `bench guard`: frames from denied sources, as a card's driver would hand them over, against nftables with the same list: in prerouting,
//! and where it can be earliest, at the interface's ingress. Refuses to compare figures of different rounds.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::bpf::{self, Instruction};
use super::report::{self, Figure, OURS};
use super::{frames, within};
use crate::build::Profile;
use crate::host::Host;
use crate::interrupt;
use crate::netns::Netns;
use crate::process::{ask, output};

const ROUNDS: usize = 5;
const PREFIXES: u32 = 10_000;
/// Different sources of one round, and frames of each.
const SOURCES: u32 = 64;
const FRAMES_EACH: u32 = 1 << 15;

#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    pub(super) common: super::Common,
}

struct Contender {
    name: &'static str,
    setup: String,
    netns: PathBuf,
    /// What the driver's hook runs: the guard, or what lets everything on to nftables.
    program: std::os::fd::OwnedFd,
    kind: Kind,
}

enum Kind {
    Guard,
    Nftables(Netns),
}

pub fn run(root: &Path, options: &Options) -> Result<()> {
    let host = if options.common.peers { None } else { Some(Host::start(root, Profile::Release, "guard")?) };
    let mut contenders = Vec::new();
    if let Some(host) = &host {
        contenders.push(ours(host)?);
    }
    for (name, hook) in [("nftables", PREROUTING), ("nftables at ingress", INGRESS)] {
        contenders.push(nftables(name, hook)?);
    }
    let rounds = options.common.rounds.unwrap_or(ROUNDS);
    let mut samples: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for round in 0..rounds {
        for contender in &contenders {
            interrupt::check()?;
            let before = contender.dropped(host.as_ref())?;
            let frame_ns = contender.send()?;
            let dropped = contender.dropped(host.as_ref())? - before;
            let sent = u64::from(SOURCES * FRAMES_EACH);
            ensure!(dropped == sent, "{} has dropped {dropped} of {sent} frames", contender.name);
            samples.entry(contender.name.to_owned()).or_default().push(1e3 / frame_ns);
        }
        eprintln!("round {} of {rounds}", round + 1);
    }
    let mut figure = Figure::from_samples("Frames from denied sources, dropped on one CPU", "Mpps", 0.5, &samples);
    figure.setup = contenders.iter().map(|of| (of.name.to_owned(), of.setup.clone())).collect();
    report::print(&[figure], options.common.json)
}

/// The networks of the list; frames come from the first address of some.
fn denied(number: u32) -> (Ipv4Addr, u32) {
    let bits = 24 + number % 9;
    (Ipv4Addr::from((0x0b00_0000 + number * 512) & (u32::MAX << (32 - bits))), bits)
}

fn ours(host: &Host) -> Result<Contender> {
    let mut lines = String::new();
    for number in 0..PREFIXES {
        let (address, bits) = denied(number);
        writeln!(lines, "{address}/{bits}")?;
    }
    let file = host.file("denied");
    std::fs::write(&file, lines).with_context(|| format!("cannot write {}", file.display()))?;
    output(host.cc().args(["prefixes", "create", "--name", "denied"]))?;
    output(host.cc().args(["prefixes", "load", "denied"]).arg(&file))?;
    output(host.cc().args(["guard", "deny", "denied"]))?;
    Ok(Contender {
        name: OURS,
        setup: format!("the guard, {PREFIXES} prefixes denied"),
        netns: host.netns().path(),
        program: bpf::pinned(&host.pins()?.join("programs/cc_xdp_guard"))?,
        kind: Kind::Guard,
    })
}

const PREROUTING: &str = "type filter hook prerouting priority raw;";
const INGRESS: &str = "type filter hook ingress device \"lo\" priority -500;";

fn nftables(name: &'static str, hook: &str) -> Result<Contender> {
    let place = if hook == PREROUTING { "nft-pre" } else { "nft-in" };
    let family = if hook == PREROUTING { "ip" } else { "netdev" };
    let netns = Netns::make(place)?;
    let mut elements = String::new();
    for number in 0..PREFIXES {
        let (address, bits) = denied(number);
        write!(elements, "{address}/{bits},")?;
    }
    let rules = format!(
        "table {family} guard {{\n set denied {{ type ipv4_addr; flags interval; elements = {{ {elements} }}; }}\n \
         counter dropped {{ }}\n chain first {{ {hook} ip saddr @denied counter name dropped drop\n }}\n}}\n"
    );
    netns.fed("nft", &["-f", "-"], &rules)?;
    let version = ask("nft", &["--version"]).context("there is no nft (Debian package nftables)")?;
    Ok(Contender {
        name,
        setup: format!("{}, {hook} one set of {PREFIXES} prefixes", version.trim()),
        netns: netns.path(),
        program: bpf::load(bpf::XDP, &PASS)?,
        kind: Kind::Nftables(netns),
    })
}

/// `r0 = XDP_PASS; exit`
const PASS: [Instruction; 2] = [
    Instruction { code: 0xb7, registers: 0, offset: 0, immediate: 2 },
    Instruction { code: 0x95, registers: 0, offset: 0, immediate: 0 },
];

impl Contender {
    /// Nanoseconds that a frame takes on average, as the kernel says it: making ready for a run, and waiting for its end, not counted.
    fn send(&self) -> Result<f64> {
        within(&self.netns, || {
            let mut all_ns = 0.0;
            for source in 0..SOURCES {
                let (address, _) = denied(source * (PREFIXES / SOURCES));
                let frame = frames::udp(frames::Ends::from_outside(address));
                all_ns += f64::from(bpf::run(&self.program, &frame, &[], FRAMES_EACH, bpf::LIVE_FRAMES)?.duration_ns);
            }
            Ok(all_ns / f64::from(SOURCES))
        })
    }

    fn dropped(&self, host: Option<&Host>) -> Result<u64> {
        match &self.kind {
            Kind::Guard => {
                let host = host.context("the guard has a host")?;
                let text = output(host.cc().args(["guard", "list", "--json"]))?;
                let all: Value = serde_json::from_str(&text).context("cc guard list --json gave no JSON")?;
                let drops = all["drops"].as_array().context("cc guard list told of no drops")?;
                let denied = drops.iter().find(|drop| drop["reason"] == "denied");
                Ok(denied.and_then(|drop| drop["packets"].as_u64()).unwrap_or(0))
            }
            Kind::Nftables(netns) => {
                let text = output(netns.command("nft").args(["-j", "list", "counters"]))?;
                let all: Value = serde_json::from_str(&text).context("nft -j gave no JSON")?;
                let entries = all["nftables"].as_array().context("nft listed nothing")?;
                let packets = entries.iter().find_map(|entry| entry["counter"]["packets"].as_u64());
                packets.context("nft has no counter")
            }
        }
    }
}
