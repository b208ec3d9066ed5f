//! Asks the datapath, and has the answer told. Refuses to hold anything.

use std::sync::Arc;

use super::advice;
use super::ends::{Ask, Ends, Found};
use super::error::WhyError;
use super::rules::Rules;
use super::step::Story;
use super::story::Teller;
use crate::container::{ContainerRecord, Containers};
use crate::datapath::Datapath;
use crate::firewall::Firewall;
use crate::ids::Project;
use crate::outside::Outside;

pub struct Why {
    pub containers: Arc<Containers>,
    pub firewall: Arc<Firewall>,
    pub outside: Arc<Outside>,
    pub datapath: Arc<Datapath>,
}

impl Why {
    /// For `project`: one end is a container of it.
    pub async fn explain(&self, project: &Project, ask: &Ask) -> Result<Story, WhyError> {
        let (host, stand_ins) = (self.outside.addresses().await, self.datapath.stand_ins()?);
        let ends = Ends { containers: &self.containers, project, host, stand_ins };
        let asked = match ends.find(ask)? {
            Found::Packet(asked) => asked,
            Found::Itself(own) => {
                let says = format!("what {} sends to itself never leaves it", own.name);
                return Ok(Story::without_packet(packet(ask), true, "", says, String::new()));
            }
            Found::Unpublished { to, from } => return Ok(unpublished(ask, &to, from.as_deref())),
        };
        let frame = asked
            .frame
            .bytes()
            .ok_or(WhyError::Families { one: asked.frame.source, other: asked.frame.destination })?;
        let (datapath, entrance) = (Arc::clone(&self.datapath), asked.entrance);
        let run = tokio::task::spawn_blocking(move || datapath.dry_run(entrance, &frame)).await;
        let run = run.expect("a datapath call does not panic")?;
        let (rules, containers) = (Rules::of(&self.firewall, project), self.containers.list(project));
        let nat_ports = self.outside.nat_ports();
        let nat_ports = (nat_ports.first(), nat_ports.last());
        Ok(Teller { asked: &asked, run: &run, rules: &rules, containers: &containers, nat_ports }.story())
    }
}

/// As it was asked, where there is no packet.
fn packet(ask: &Ask) -> String {
    let Ask { source, destination, transport, port, .. } = ask;
    if transport.has_ports() {
        format!("{} {source} -> {destination}:{port}", transport.name())
    } else {
        format!("{} echo-request {source} -> {destination}", transport.name())
    }
}

fn unpublished(ask: &Ask, to: &ContainerRecord, from: Option<&ContainerRecord>) -> Story {
    let service = if ask.transport.has_ports() {
        format!("port {}/{} of {}", ask.port, ask.transport.name(), to.name)
    } else {
        format!("{} of {}", ask.transport.name(), to.name)
    };
    let vpc = |record: &ContainerRecord| {
        record.vpc.as_ref().map_or("no VPC".to_owned(), |vpc| format!("VPC {}", vpc.vpc_name))
    };
    let (reason, says) = match from {
        Some(from) => {
            let (one, other) = (vpc(from), vpc(to));
            let says = format!(
                "{} is in {one} and {} in {other}, which share no route, and no port of the host leads to {service}",
                from.name, to.name
            );
            ("other_network", says)
        }
        None => ("not_published", format!("no port of the host leads to {service}")),
    };
    let next = if to.vpc.is_some() { advice::publish(to, ask.transport, ask.port) } else { String::new() };
    Story::without_packet(packet(ask), false, reason, says, next)
}
