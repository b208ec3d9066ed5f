//! `bench nat`: the way out of a host and the way in by a published port, against what docker sets up: a bridge, forwarding, masquerade
//! and DNAT with connection tracking, by iptables' rules and by nftables'. Refuses to compare figures of different rounds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::net::{self, PORT};
use super::report::{self, Figure, OURS};
use super::rig::{self, MTU, Rig, iptables};
use super::traffic::Test;
use crate::build::{self, Profile};
use crate::host::Host;
use crate::interrupt;
use crate::netns::Netns;
use crate::process::{Beside, ask, output};

const ROUNDS: usize = 5;
const HOST: &str = "192.0.2.1";
const ROUTER: &str = "192.0.2.254";
pub(super) const FAR: &str = "203.0.113.5";
const READY_WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    pub(super) common: super::Common,
    /// Length of one test
    #[arg(long, default_value_t = 1000)]
    millis: u64,
}

/// One direction of one contender.
struct Way {
    way: &'static str,
    rig: Rig,
}

pub fn run(root: &Path, options: &Options) -> Result<()> {
    let host = if options.common.peers { None } else { Some(Host::start(root, Profile::Release, "nat")?) };
    let mut paths = Vec::new();
    if let Some(host) = &host {
        let image = host.load(&build::image(root, Profile::Release, "busybox")?)?;
        paths.extend(ours(host, &image)?);
    }
    paths.extend(iptables_nat()?);
    paths.extend(nftables_nat()?);
    let servers: Vec<Beside> = paths.iter().map(|path| net::serve(&path.rig)).collect::<Result<_>>()?;
    for path in &paths {
        wait_for(path)?;
    }
    let rounds = options.common.rounds.unwrap_or(ROUNDS);
    let mut samples: BTreeMap<(&str, &str), BTreeMap<String, Vec<f64>>> = BTreeMap::new();
    for round in 0..rounds {
        for test in [Test::Tcp, Test::Udp, Test::Rr] {
            for path in &paths {
                interrupt::check()?;
                let value = net::measure(&path.rig, test, options.millis)?;
                let of_test = samples.entry((path.way, test.name())).or_default();
                of_test.entry(path.rig.name.clone()).or_default().push(value);
            }
        }
        eprintln!("round {} of {rounds}", round + 1);
    }
    drop(servers);
    let mut figures = Vec::new();
    for way in ["out", "in"] {
        for (test, what, unit, scale) in [
            (Test::Tcp, "TCP throughput, one stream", "Gb/s", 1e-9),
            (Test::Udp, "UDP packets of 64 bytes, received", "kpps", 1e-3),
            (Test::Rr, "TCP request/response, 1 byte, one CPU", "1/s", 1.0),
        ] {
            let scaled = samples[&(way, test.name())]
                .iter()
                .map(|(name, values)| (name.clone(), values.iter().map(|value| value * scale).collect()))
                .collect();
            let title = if way == "out" { "Out by the host's address" } else { "In by a published port" };
            let mut figure = Figure::from_samples(&format!("{title}: {what}"), unit, 0.5, &scaled);
            let of_way = paths.iter().filter(|path| path.way == way);
            figure.setup =
                of_way.map(|path| (path.rig.name.clone(), format!("{}, MTU {MTU}", path.rig.setup))).collect();
            figures.push(figure);
        }
    }
    report::print(&figures, options.common.json)
}

fn wait_for(path: &Way) -> Result<()> {
    let began = Instant::now();
    loop {
        match net::measure(&path.rig, Test::Rr, 10) {
            Ok(_) => return Ok(()),
            Err(error) if began.elapsed() > READY_WITHIN => bail!("{} {}: {error:#}", path.rig.name, path.way),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// A far end behind `host`, which routes everything to it.
pub(super) fn far(host: &Netns, what: &str) -> Result<Netns> {
    let far = Netns::make(what)?;
    far.ip(&format!("link add wan0 mtu {MTU} type veth peer name up0 mtu {MTU} netns {}", host.name()))?;
    host.ip(&format!("addr add {HOST}/24 dev up0"))?;
    host.ip("link set up0 up")?;
    far.ip(&format!("addr add {ROUTER}/24 dev wan0"))?;
    far.ip(&format!("addr add {FAR}/32 dev lo"))?;
    far.ip("link set wan0 up")?;
    host.ip(&format!("route add default via {ROUTER} dev up0"))?;
    Ok(far)
}

fn both(name: &str, setup: &str, inside: PathBuf, far: Netns, others: Vec<Netns>) -> Result<[Way; 2]> {
    let out = Rig::new(name, setup, (inside.clone(), far.path()), FAR.parse().context("an address")?, vec![]);
    let held = std::iter::once(far).chain(others).collect::<Vec<_>>();
    let far_path = held[0].path();
    let into = Rig::new(name, setup, (far_path, inside), HOST.parse().context("an address")?, held);
    Ok([Way { way: "out", rig: out }, Way { way: "in", rig: into }])
}

fn ours(host: &Host, image: &str) -> Result<[Way; 2]> {
    let far = far(host.netns(), "nat-far")?;
    output(host.cc().args(["vpc", "create", "--cidr", "10.77.0.0/24", "--name", "bench"]))?;
    let (tcp, udp) = (format!("{PORT}:{PORT}"), format!("{PORT}:{PORT}/udp"));
    let mut command = host.cc();
    command.args(["run", "-d", "--image", image, "--vpc", "bench", "--name", "inner", "-p", &tcp, "-p", &udp]);
    output(command.args(["sleep", "3600"]))?;
    let inside = rig::netns_of(&rig::inspect(host, "inner")?)?;
    both(OURS, "a container with a published port", inside, far, vec![])
}

/// A bridge, a container behind it and the host's uplink: what docker sets up, but for the rules.
struct Bridged {
    middle: Netns,
    inner: Netns,
    far: Netns,
}

impl Bridged {
    fn make(what: &str) -> Result<Bridged> {
        let (middle, inner) = (Netns::make(&format!("{what}-br"))?, Netns::make(&format!("{what}-in"))?);
        let far = far(&middle, &format!("{what}-far"))?;
        middle.ip(&format!("link add br0 mtu {MTU} type bridge"))?;
        middle.ip("addr add 10.77.0.1/24 dev br0")?;
        middle.ip("link set br0 up")?;
        inner.ip(&format!("link add eth0 mtu {MTU} type veth peer name a mtu {MTU} netns {}", middle.name()))?;
        middle.ip("link set dev a master br0 up")?;
        inner.ip("addr add 10.77.0.2/24 dev eth0")?;
        inner.ip("link set eth0 up")?;
        inner.ip("route add default via 10.77.0.1")?;
        output(middle.command("sysctl").args(["-qw", "net.ipv4.ip_forward=1"]))?;
        Ok(Bridged { middle, inner, far })
    }

    fn ways(self, name: &str, how: &str) -> Result<[Way; 2]> {
        let setup = format!("kernel bridge, forwarding, masquerade and DNAT with connection tracking, {how}");
        let inside = self.inner.path();
        both(name, &setup, inside, self.far, vec![self.middle, self.inner])
    }
}

fn iptables_nat() -> Result<[Way; 2]> {
    let bridged = Bridged::make("ipt")?;
    let program = iptables()?;
    let rules = [
        "-t nat -A POSTROUTING -s 10.77.0.0/24 ! -o br0 -j MASQUERADE".to_owned(),
        format!("-t nat -A PREROUTING -d {HOST} -p tcp --dport {PORT} -j DNAT --to-destination 10.77.0.2:{PORT}"),
        format!("-t nat -A PREROUTING -d {HOST} -p udp --dport {PORT} -j DNAT --to-destination 10.77.0.2:{PORT}"),
        "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT".to_owned(),
        "-A FORWARD -i br0 -j ACCEPT".to_owned(),
        "-A FORWARD -d 10.77.0.2 -o br0 -j ACCEPT".to_owned(),
        "-P FORWARD DROP".to_owned(),
    ];
    for rule in &rules {
        output(bridged.middle.command(Path::new(program)).args(rule.split(' ')))?;
    }
    let version = ask(program, &["--version"]).unwrap_or_default();
    bridged.ways("iptables", version.trim())
}

fn nftables_nat() -> Result<[Way; 2]> {
    let bridged = Bridged::make("nft")?;
    let rules = format!(
        "table ip nat {{\n\
         chain out {{ type nat hook postrouting priority srcnat; ip saddr 10.77.0.0/24 oifname != \"br0\" masquerade\n }}\n\
         chain in {{ type nat hook prerouting priority dstnat; \
         ip daddr {HOST} meta l4proto {{ tcp, udp }} th dport {PORT} dnat to 10.77.0.2\n }}\n\
         chain forward {{ type filter hook forward priority filter; policy drop; ct state established,related accept\n\
         iifname \"br0\" accept\n ip daddr 10.77.0.2 oifname \"br0\" accept\n }}\n}}\n"
    );
    bridged.middle.fed("nft", &["-f", "-"], &rules)?;
    let version = ask("nft", &["--version"]).context("there is no nft (Debian package nftables)")?;
    bridged.ways("nftables", version.trim())
}
