//! The command that would allow what was denied. Refuses to advise where no command of the caller's would.

use std::net::IpAddr;

use cc_common::verdict::{Direction, DropReason};

use super::ends::Transport;
use super::story::{Teller, people};
use crate::container::ContainerRecord;
use crate::datapath::Fate;

/// Empty if there is none.
pub fn next(teller: &Teller<'_>) -> String {
    let Fate::Dropped(Ok(reason)) = teller.run.fate else { return String::new() };
    let direction = match reason {
        DropReason::FirewallEgress | DropReason::ClosedDestination => Direction::Egress,
        DropReason::FirewallIngress => Direction::Ingress,
        _ => return String::new(),
    };
    allow(teller, direction).unwrap_or_default()
}

/// A rule of one of the refusing container's groups, about no more than what was asked.
fn allow(teller: &Teller<'_>, direction: Direction) -> Option<String> {
    let owner = teller.known(teller.trace().refused_at)?.vpc.as_ref()?;
    let decided = teller.judged(direction).map_or(0, |judged| judged.rule);
    let mut priority = String::new();
    let group = match teller.rules.find(decided) {
        // Of equal priorities a denial wins: one less, if there is one.
        Some((group, rule)) => match rule.spec.priority.checked_sub(1) {
            Some(less) => {
                priority = format!(" --priority {less}");
                group
            }
            None => return Some(format!("cc group revoke {} {decided}", group.name)),
        },
        None => teller.rules.home(|group| owner.membership.groups.contains(group))?,
    };
    let frame = &teller.asked.frame;
    let service = match frame.transport {
        Transport::Icmp => "icmp --icmp-type echo-request".to_owned(),
        transport => format!("{} --port {}", transport.name(), teller.trace().service),
    };
    let flag = if direction == Direction::Egress { "--to" } else { "--from" };
    let peer = people(&teller.trace().peer);
    // Who asked about anybody means everybody.
    let is_example = teller.asked.anybody && (peer == frame.source || peer == frame.destination);
    let bits = if peer.is_ipv6() { 128 } else { 32 };
    let peer = if is_example && !is_ours(teller, peer) { String::new() } else { format!(" {flag} {peer}/{bits}") };
    Some(format!("cc group allow {} {} --proto {service}{peer}{priority}", group.name, direction.name()))
}

fn is_ours(teller: &Teller<'_>, address: IpAddr) -> bool {
    let is_source = teller.asked.from.is_some() && address == teller.asked.frame.source;
    is_source || (teller.asked.from.is_none() && address == teller.asked.frame.destination)
}

/// For a container that nothing of the host leads to.
pub fn publish(to: &ContainerRecord, transport: Transport, port: u16) -> String {
    match transport {
        Transport::Tcp => format!("cc publish {} {port}:{port}", to.name),
        Transport::Udp => format!("cc publish {} {port}:{port}/udp", to.name),
        Transport::Icmp => String::new(),
    }
}
