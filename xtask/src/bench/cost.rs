//! `bench cost`: how long the programs take for one packet, as BPF_PROG_TEST_RUN measures it: the daemon's own programs over its own
//! tables, with real containers. Refuses to guess what a whole path takes: that is `bench net`.
//!
//! A run changes its packet, so each is a run of its own, and the clock's cost is in it: a program that only returns is measured beside,
//! and subtracted.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::bpf::{self, Instruction};
use super::frames::{self, Ends};
use super::report::{self, Figure, OURS, at};
use super::{nat, rig, within};
use crate::build::{self, Profile};
use crate::host::Host;
use crate::interrupt;
use crate::process::output;

const ROUNDS: usize = 5;
/// Of each kind of packet, per round.
const RUNS: u32 = 10_000;
/// Of new conversations: each leaves a flow.
const NEW_RUNS: u32 = 200;
const GATEWAY_MAC: [u8; 6] = [2, 0xcc, 0, 0, 0, 1];

const REDIRECT: u32 = 7;
const SHOT: u32 = 2;
const SYN: u8 = 2;
const ACK: u8 = 16;

/// `r0 = TC_ACT_SHOT; exit`
const NOTHING: [Instruction; 2] = [
    Instruction { code: 0xb7, registers: 0, offset: 0, immediate: SHOT as i32 },
    Instruction { code: 0x95, registers: 0, offset: 0, immediate: 0 },
];

/// Offset of `ifindex` in `struct __sk_buff`.
const CTX_IFINDEX: usize = 40;
const CTX_BYTES: usize = 192;

#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    pub(super) common: super::Common,
}

/// An end of conversations: a container, as the host sees it.
struct End {
    ifindex: u32,
    mac: [u8; 6],
    address: Ipv4Addr,
}

struct Bench {
    program: OwnedFd,
    nothing: OwnedFd,
    client: End,
    server: End,
    many: End,
    /// Source ports of conversations that are new.
    next_port: u16,
}

pub fn run(root: &Path, options: &Options) -> Result<()> {
    let host = Host::start(root, Profile::Release, "cost")?;
    let image = host.load(&build::image(root, Profile::Release, "busybox")?)?;
    let _far = nat::far(host.netns(), "cost-far")?;
    let ours = rig::ours(&host, &image)?;
    let mut bench = Bench {
        program: bpf::pinned(&host.pins()?.join("programs/cc_from_ep"))?,
        nothing: bpf::load(bpf::SCHED_CLS, &NOTHING)?,
        client: End::of(&host, "cc-1-a")?,
        server: End::of(&host, "cc-1-b")?,
        many: End::of(&host, &format!("{OURS}-a"))?,
        next_port: 1024,
    };
    let rounds = options.common.rounds.unwrap_or(ROUNDS);
    let netns = host.netns().path();
    let mut samples: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for round in 0..rounds {
        interrupt::check()?;
        let measured = within(&netns, || bench.round())?;
        for (what, ns) in measured {
            samples.entry(what).or_default().push(ns);
        }
        eprintln!("round {} of {rounds}", round + 1);
    }
    drop(ours);
    let setup = "cc_from_ep by BPF_PROG_TEST_RUN, one packet a run, less what a program takes that only returns";
    let figures: Vec<Figure> = samples
        .iter()
        .map(|(what, ns)| {
            let of = BTreeMap::from([(OURS.to_owned(), ns.clone())]);
            let mut figure = Figure::from_samples(what, "ns", 0.5, &of);
            figure.setup = BTreeMap::from([(OURS.to_owned(), setup.to_owned())]);
            figure
        })
        .collect();
    report::print(&figures, options.common.json)
}

impl Bench {
    /// Medians of one round, less the empty program's.
    fn round(&mut self) -> Result<Vec<(&'static str, f64)>> {
        let ends = |from: &End, to: (Ipv4Addr, u16), port: u16| Ends {
            source_mac: from.mac,
            destination_mac: GATEWAY_MAC,
            source: (from.address, port),
            destination: to,
        };
        let far: Ipv4Addr = nat::FAR.parse().context("an address")?;
        let (client, server) = (&self.client, &self.server);
        let to_server = |port| (server.address, port);
        // The first packet makes the flow, and is not measured.
        let datagram = frames::udp(ends(client, to_server(9), 9_000));
        let segment = |flags| frames::tcp(ends(client, to_server(80), 9_001), flags, 101, 501);
        let opening = frames::tcp(ends(client, to_server(80), 9_001), SYN, 100, 0);
        let reply = Ends { source_mac: server.mac, ..ends(server, (client.address, 9_001), 80) };
        let answer = frames::tcp(reply, SYN | ACK, 500, 101);
        let out = frames::udp(ends(client, (far, 9), 9_002));
        let refused = frames::udp(ends(&self.many, (server.address, 9), 9_003));

        let empty = self.median(&self.nothing, client, &datagram, SHOT)?;
        self.once(client, &datagram)?;
        self.once(client, &opening)?;
        self.once(server, &answer)?;
        self.once(client, &out)?;
        let mut measured = vec![
            ("UDP of a flow", self.median(&self.program, client, &datagram, REDIRECT)?),
            ("TCP of a flow", self.median(&self.program, client, &segment(ACK), REDIRECT)?),
            ("UDP of a flow that leaves by the host's address", self.median(&self.program, client, &out, REDIRECT)?),
            ("UDP that the receiver's rules refuse", self.median(&self.program, &self.many, &refused, SHOT)?),
        ];
        let first = self.next_port;
        self.next_port += NEW_RUNS as u16;
        let opens = (first..self.next_port)
            .map(|port| {
                Ok(f64::from(self.one(
                    &self.program,
                    &self.client,
                    &frames::udp(ends(&self.client, to_server(9), port)),
                    REDIRECT,
                )?))
            })
            .collect::<Result<Vec<f64>>>()?;
        measured.push(("UDP that begins a flow", at(&opens, 0.5)));
        Ok(measured
            .into_iter()
            .map(|(what, ns)| (what, ns - empty))
            .chain([("the clock, and a program that returns", empty)])
            .collect())
    }

    fn median(&self, program: &OwnedFd, from: &End, frame: &[u8], expected: u32) -> Result<f64> {
        let runs = (0..RUNS)
            .map(|_| Ok(f64::from(self.one(program, from, frame, expected)?)))
            .collect::<Result<Vec<f64>>>()?;
        Ok(at(&runs, 0.5))
    }

    fn once(&self, from: &End, frame: &[u8]) -> Result<()> {
        self.one(&self.program, from, frame, REDIRECT).map(drop)
    }

    fn one(&self, program: &OwnedFd, from: &End, frame: &[u8], expected: u32) -> Result<u32> {
        let mut ctx = [0u8; CTX_BYTES];
        ctx[CTX_IFINDEX..][..4].copy_from_slice(&from.ifindex.to_ne_bytes());
        let ran = bpf::run(program, frame, &ctx, 1, 0)?;
        ensure!(ran.returned == expected, "the program returned {}, not {expected}", ran.returned);
        Ok(ran.duration_ns)
    }
}

impl End {
    fn of(host: &Host, container: &str) -> Result<End> {
        let text = output(host.cc().args(["net", "inspect", "--json", container]))?;
        let value: Value = serde_json::from_str(&text).context("cc net inspect --json gave no JSON")?;
        let seen = &value["interface"];
        let text = |name: &str| seen[name].as_str().with_context(|| format!("cc net inspect gave no {name}: {value}"));
        let mut mac = [0; 6];
        for (byte, hex) in mac.iter_mut().zip(text("mac")?.split(':')) {
            *byte = u8::from_str_radix(hex, 16).context("a MAC address")?;
        }
        let ipv4 = text("ipv4")?;
        Ok(End {
            ifindex: seen["ifindex"].as_u64().context("cc net inspect gave no ifindex")? as u32,
            mac,
            address: ipv4.split('/').next().unwrap_or(ipv4).parse().context("an address")?,
        })
    }
}
