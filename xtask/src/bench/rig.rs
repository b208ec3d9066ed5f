//! Two ends of a path each: a plain veth pair, bridges with iptables rules, and two of our containers. The same MTU for
//! everyone. Refuses to measure.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::report::OURS;
use super::rules;
use crate::host::Host;
use crate::netns::Netns;
use crate::process::{ask, output};

/// Of a container with an Ethernet uplink: 1500, less a VXLAN header.
pub const MTU: u32 = 1450;
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

pub struct Rig {
    pub name: String,
    /// In words, for the report.
    pub setup: String,
    pub server_netns: PathBuf,
    pub client_netns: PathBuf,
    pub address: Ipv4Addr,
    /// What must live as long as the path does.
    _held: Vec<Netns>,
}

pub fn veth() -> Result<Rig> {
    let (client, server) = (Netns::make("veth-a")?, Netns::make("veth-b")?);
    client.ip(&format!("link add eth0 mtu {MTU} type veth peer name eth0 mtu {MTU} netns {}", server.name()))?;
    address(&client, &server)?;
    Ok(Rig::between("veth".to_owned(), "one veth pair".to_owned(), client, server, vec![]))
}

pub fn bridge(rules: usize) -> Result<Rig> {
    let middle = Netns::make(&format!("br{rules}"))?;
    let (client, server) = (Netns::make(&format!("br{rules}-a"))?, Netns::make(&format!("br{rules}-b"))?);
    middle.ip(&format!("link add br0 mtu {MTU} type bridge"))?;
    middle.ip("link set br0 up")?;
    for (end, port) in [(&client, "a"), (&server, "b")] {
        end.ip(&format!("link add eth0 mtu {MTU} type veth peer name {port} mtu {MTU} netns {}", middle.name()))?;
        middle.ip(&format!("link set dev {port} master br0 up"))?;
    }
    address(&client, &server)?;
    let filtered = usize::from(rules > 0);
    output(middle.command("sysctl").args(["-qw", &format!("net.bridge.bridge-nf-call-iptables={filtered}")]))?;
    let mut setup = "kernel bridge".to_owned();
    if rules > 0 {
        let program = iptables()?;
        load_rules(&middle, &format!("{program}-restore"), rules)?;
        let version = ask(program, &["--version"]).unwrap_or_default();
        setup = format!(
            "kernel bridge, bridge-nf-call-iptables, {rules} rules in FORWARD that do not match, {}",
            version.trim()
        );
    }
    Ok(Rig::between(format!("bridge+{rules}"), setup, client, server, vec![middle]))
}

/// Two pairs of containers that only sleep: the traffic tool runs in their network namespaces, as it does in everyone's. One pair talks
/// by the two rules of the VPC's default group, the other one by the last of many.
pub fn ours(host: &Host, image: &str) -> Result<Ours> {
    output(host.cc().args(["vpc", "create", "--cidr", "10.77.0.0/24", "--name", "bench"]))?;
    rules::many(host)?;
    let pair = |rig: &str, setup: &str, group: Option<&str>| pair(host, image, rig, setup, group);
    let many = format!(
        "two containers in one VPC and one group of {} rules, the deciding one of which names a list of {} prefixes",
        rules::RULES,
        rules::PREFIXES
    );
    let rigs = vec![
        pair(OURS, &many, Some(rules::GROUP))?,
        pair("cc-1", "two containers in one VPC and its default group, which one rule lets in", None)?,
    ];
    Ok(Ours { rigs, forced: rules::force(host)? })
}

/// Two containers in a VPC of their host's own.
pub fn two(host: &Host, image: &str, name: &str, setup: &str) -> Result<Rig> {
    output(host.cc().args(["vpc", "create", "--cidr", "10.77.0.0/24", "--name", "bench"]))?;
    pair(host, image, name, setup, None)
}

fn pair(host: &Host, image: &str, rig: &str, setup: &str, group: Option<&str>) -> Result<Rig> {
    let run = |name: &str| -> Result<Value> {
        let mtu = MTU.to_string();
        let mut command = host.cc();
        command.args(["run", "-d", "--image", image, "--vpc", "bench", "--name", name, "--mtu", &mtu]);
        if let Some(group) = group {
            command.args(["--group", group]);
        }
        output(command.args(["sleep", "3600"]))?;
        inspect(host, name)
    };
    let (client, server) = (run(&format!("{rig}-a"))?, run(&format!("{rig}-b"))?);
    let ipv4 = server["ipv4"].as_str().context("cc inspect gave no ipv4")?;
    let address = ipv4.split('/').next().unwrap_or(ipv4).parse().with_context(|| format!("{ipv4} is no address"))?;
    Ok(Rig::new(rig, setup, (netns_of(&client)?, netns_of(&server)?), address, vec![]))
}

pub struct Ours {
    pub rigs: Vec<Rig>,
    pub forced: rules::Forced,
}

pub(super) fn inspect(host: &Host, name: &str) -> Result<Value> {
    let text = output(host.cc().args(["inspect", "--json", name]))?;
    let value: Value = serde_json::from_str(&text).context("cc inspect --json gave no JSON")?;
    Ok(if value.is_array() { value[0].clone() } else { value })
}

pub(super) fn netns_of(container: &Value) -> Result<PathBuf> {
    let pid = container["pid"].as_i64().context("cc inspect gave no pid")?;
    Ok(PathBuf::from(format!("/proc/{pid}/ns/net")))
}

impl Rig {
    /// From the first namespace to the second.
    pub(super) fn new(
        name: &str,
        setup: &str,
        (client_netns, server_netns): (PathBuf, PathBuf),
        address: Ipv4Addr,
        held: Vec<Netns>,
    ) -> Rig {
        Rig { name: name.to_owned(), setup: setup.to_owned(), server_netns, client_netns, address, _held: held }
    }

    fn between(name: String, setup: String, client: Netns, server: Netns, others: Vec<Netns>) -> Rig {
        let (client_netns, server_netns) = (client.path(), server.path());
        let held = [client, server].into_iter().chain(others).collect();
        Rig { name, setup, server_netns, client_netns, address: SERVER, _held: held }
    }
}

fn address(client: &Netns, server: &Netns) -> Result<()> {
    for (end, address) in [(client, Ipv4Addr::new(10, 77, 0, 1)), (server, SERVER)] {
        end.ip(&format!("addr add {address}/24 dev eth0"))?;
        end.ip("link set eth0 up")?;
    }
    Ok(())
}

/// The faster of the two where there is a choice: a peer gets its best set-up.
pub(super) fn iptables() -> Result<&'static str> {
    ["iptables-legacy", "iptables"]
        .into_iter()
        .find(|program| ask(program, &["--version"]).is_some())
        .context("there is no iptables (Debian package iptables)")
}

fn load_rules(netns: &Netns, program: &str, rules: usize) -> Result<()> {
    let mut text = "*filter\n:INPUT ACCEPT\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\n".to_owned();
    for rule in 0..rules {
        // From 198.18.0.0/15, which is for benchmarks and which nobody here has.
        let source = Ipv4Addr::from(0xc612_0000 + u32::try_from(rule).context("too many rules")?);
        writeln!(text, "-A FORWARD -s {source}/32 -j DROP")?;
    }
    text.push_str("COMMIT\n");
    netns.fed(program, &[], &text)
}
