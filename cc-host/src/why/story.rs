//! A dry run in words: each step that the packet took, up to the one that ended it. Refuses to name what is another project's.

use std::net::{IpAddr, Ipv6Addr};

use cc_common::flow::{BEYOND_HOST, FLAG_LEASED};
use cc_common::limits::CONTAINERS_MAX;
use cc_common::net::Ip;
use cc_common::route::Hop;
use cc_common::trace::{
    JUDGED_ALLOWED, JUDGED_ASKED, Judged, SEEN_ADMITTED, SEEN_FLOW, SEEN_FORWARD, SEEN_OPENED, SEEN_PORT, SEEN_ROUTE,
    SEEN_TRANSLATED, STANDING_CHANGED, STANDING_FOREIGN, STANDING_HOLDS, Trace,
};
use cc_common::verdict::{Direction, DropReason};

use super::advice;
use super::ends::{Asked, is_running};
use super::reasons::{meaning, place};
use super::rules::Rules;
use super::step::{Outcome, Step, StepKind, Story, verdict};
use crate::container::ContainerRecord;
use crate::datapath::{DryRun, Entrance, Fate};

pub struct Teller<'a> {
    pub asked: &'a Asked,
    pub run: &'a DryRun,
    pub rules: &'a Rules<'a>,
    /// The project's own.
    pub containers: &'a [ContainerRecord],
    /// First and last of those that are leased.
    pub nat_ports: (u16, u16),
}

pub fn people(ip: &Ip) -> IpAddr {
    IpAddr::from(Ipv6Addr::from(ip.octets)).to_canonical()
}

fn socket(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

impl Teller<'_> {
    pub fn story(&self) -> Story {
        let denied = match self.run.fate {
            Fate::Dropped(Ok(reason)) => Some((place(reason), reason.name().to_owned())),
            Fate::Dropped(Err(number)) => Some((StepKind::Source, number.to_string())),
            Fate::Passed => Some((StepKind::Route, "not_published".to_owned())),
            _ => None,
        };
        let mut steps = Vec::new();
        let mut said = None;
        for kind in StepKind::ORDER {
            if denied.as_ref().is_some_and(|(at, _)| *at == kind) {
                let step = self.denied(kind);
                said = Some(step.says.clone());
                steps.push(step);
                break;
            }
            steps.extend(self.passed(kind));
        }
        let allowed = denied.is_none();
        let says = said.unwrap_or_else(|| self.end());
        steps.push(verdict(if allowed { Outcome::Ok } else { Outcome::Denied }, &says));
        let next = if allowed { String::new() } else { advice::next(self) };
        Story { packet: self.packet(), steps, allowed, reason: denied.map(|at| at.1).unwrap_or_default(), says, next }
    }

    pub fn trace(&self) -> &Trace {
        &self.run.trace
    }

    fn saw(&self, bit: u32) -> bool {
        self.trace().seen & bit != 0
    }

    fn packet(&self) -> String {
        let frame = &self.asked.frame;
        let name = frame.transport.name();
        if frame.transport.has_ports() {
            let (source, to) = (socket(frame.source, frame.source_port), socket(frame.destination, frame.port));
            return format!("{name} {source} -> {to}");
        }
        format!("{name} echo-request {} -> {}", frame.source, frame.destination)
    }

    /// An endpoint, as the caller may know it.
    pub fn known(&self, endpoint: u32) -> Option<&ContainerRecord> {
        self.containers.iter().find(|record| record.slot == endpoint && record.vpc.is_some())
    }

    fn name(&self, endpoint: u32) -> String {
        match self.known(endpoint) {
            Some(record) => record.name.to_string(),
            None if (CONTAINERS_MAX..BEYOND_HOST).contains(&endpoint) => "the VPC's resolver".to_owned(),
            None => "another project's container".to_owned(),
        }
    }

    fn sender(&self) -> String {
        match (&self.asked.from, self.asked.entrance) {
            (Some(from), _) => from.name.to_string(),
            (None, Entrance::Host) => "the host".to_owned(),
            (None, _) => "whoever is outside".to_owned(),
        }
    }

    fn vpc(&self) -> String {
        let vpc = self.asked.from.as_ref().and_then(|from| from.vpc.as_ref());
        vpc.map_or_else(|| "the VPC".to_owned(), |vpc| format!("VPC {}", vpc.vpc_name))
    }

    /// What a step says that let the packet on; `None` if it was not taken.
    fn passed(&self, kind: StepKind) -> Option<Step> {
        let ok = |says: String| Some(Step::new(kind, Outcome::Ok, says));
        match kind {
            StepKind::Port if self.asked.entrance == Entrance::Uplink => {
                ok("it comes in by an interface that leads out of the host".to_owned())
            }
            StepKind::Port if self.asked.entrance == Entrance::Host => {
                let meant = self.asked.meant.map(|meant| meant.to_string()).unwrap_or_default();
                let led = self.asked.frame.destination;
                ok(format!("a socket of the host that means {meant} is led to {led}, by the host's own interface"))
            }
            StepKind::Port => self.saw(SEEN_PORT).then(|| {
                Step::new(kind, Outcome::Ok, format!("the interface is that of {}, in {}", self.sender(), self.vpc()))
            }),
            StepKind::Source => self.saw(SEEN_ADMITTED).then(|| {
                let says = format!("{} is the address of {}", self.asked.frame.source, self.sender());
                Step::new(kind, Outcome::Ok, says)
            }),
            StepKind::Flow => self.flow(),
            StepKind::Route => self.route(),
            StepKind::Egress => self.rule(Direction::Egress),
            StepKind::Ingress => self.rule(Direction::Ingress),
            StepKind::Nat => self.nat(),
            StepKind::Verdict => None,
        }
    }

    fn flow(&self) -> Option<Step> {
        let step = |outcome, says: &str| Some(Step::new(StepKind::Flow, outcome, says));
        if !self.saw(SEEN_FLOW) {
            return step(Outcome::Note, "no conversation of these ends is known: it would begin one");
        }
        match self.trace().standing {
            STANDING_HOLDS => step(Outcome::Ok, "it belongs to a conversation that stands: rules are not asked again"),
            STANDING_CHANGED => {
                step(Outcome::Ok, "its conversation stands, and rules have changed since: it is judged again")
            }
            STANDING_FOREIGN => step(Outcome::Note, "the conversation of these ends is over: it would begin another"),
            _ => step(Outcome::Note, "its flow was found"),
        }
    }

    fn route(&self) -> Option<Step> {
        let frame = &self.asked.frame;
        let ok = |says: String| Some(Step::new(StepKind::Route, Outcome::Ok, says));
        if self.saw(SEEN_FORWARD) {
            let (at, trace) = (socket(frame.destination, frame.port), self.trace());
            return match self.known(trace.forward) {
                Some(to) => ok(format!("{at} is published: it is port {} of {}", trace.forward_port, to.name)),
                None => ok(format!("{at} is published, by another project")),
            };
        }
        if !self.saw(SEEN_ROUTE) {
            return None;
        }
        match self.trace().route.hop()? {
            Hop::Local { endpoint } => {
                ok(format!("{} is {}, in {}", frame.destination, self.name(endpoint), self.vpc()))
            }
            Hop::Gateway { .. } => ok(format!("{} is the gateway of {}", frame.destination, self.vpc())),
            Hop::Internet => ok(format!("{} is beyond {}: by the host's routes", frame.destination, self.vpc())),
            Hop::Nobody | Hop::NoInternet => None,
        }
    }

    pub fn judged(&self, direction: Direction) -> Option<&Judged> {
        self.trace().judged.get(direction as usize).filter(|judged| judged.bits & JUDGED_ASKED != 0)
    }

    fn rule(&self, direction: Direction) -> Option<Step> {
        let kind = if direction == Direction::Egress { StepKind::Egress } else { StepKind::Ingress };
        let ok = |says: String| Step::new(kind, Outcome::Ok, says);
        if let Some(judged) = self.judged(direction) {
            let allowed = judged.bits & JUDGED_ALLOWED != 0;
            if judged.rule == 0 && direction == Direction::Ingress && !allowed {
                return Some(ok("no rule denies it, and a published port is open to whom no rule denies".to_owned()));
            }
            return Some(self.with_rule(kind, Outcome::Ok, judged.rule, ""));
        }
        if !self.saw(SEEN_FLOW) || self.trace().standing != STANDING_HOLDS {
            return None;
        }
        // What allowed it when it began: the initiator's way out, the other's way in.
        let began = self.trace().found.initiator();
        let side = if direction == Direction::Egress { began } else { began.other() };
        match self.trace().found.allowed_by.get(side.index()) {
            None | Some(0) => None,
            Some(&number) => Some(self.with_rule(kind, Outcome::Ok, number, ", when it began")),
        }
    }

    /// By a rule, named if it is the caller's own.
    fn with_rule(&self, kind: StepKind, outcome: Outcome, number: u32, when: &str) -> Step {
        match self.rules.find(number) {
            Some((group, rule)) => Step {
                rule: number,
                group: group.name.to_string(),
                ..Step::new(
                    kind,
                    outcome,
                    format!("by rule {number} of group {}{when}: {}", group.name, self.rules.text(rule)),
                )
            },
            None => {
                Step::new(kind, outcome, format!("by a rule that is not this project's any more, or never was{when}"))
            }
        }
    }

    fn nat(&self) -> Option<Step> {
        if !self.saw(SEEN_TRANSLATED) {
            return None;
        }
        let (out, frame) = (&self.trace().out, &self.asked.frame);
        let (source, destination) = (people(&out.source), people(&out.destination));
        let leases = self.saw(SEEN_OPENED) && self.trace().opened & u32::from(FLAG_LEASED) != 0;
        let from = match (leases, frame.transport.has_ports()) {
            (true, _) => format!("{source} and one of its ports {} to {}", self.nat_ports.0, self.nat_ports.1),
            (false, true) => socket(source, out.source_port.get()),
            (false, false) => source.to_string(),
        };
        let to = if frame.transport.has_ports() {
            socket(destination, out.destination_port.get())
        } else {
            destination.to_string()
        };
        let says = match self.run.fate {
            Fate::Out => format!("it leaves from {from}, to {to}"),
            Fate::Host => format!("the host sees it come from {from}, which stands for {}", self.sender()),
            _ if self.known(self.trace().to).is_none() => format!("it goes in from {from}"),
            _ => format!("it goes in from {from}, to {to}"),
        };
        Some(Step::new(StepKind::Nat, Outcome::Ok, says))
    }

    fn end(&self) -> String {
        match self.run.fate {
            Fate::Delivered => format!("delivered to {}", self.name(self.trace().to)),
            Fate::Out => "sent out of the host".to_owned(),
            Fate::Host => "given to the host itself".to_owned(),
            Fate::Answered => "answered by the gateway".to_owned(),
            Fate::Passed => "left to the host".to_owned(),
            Fate::Dropped(_) => "dropped".to_owned(),
        }
    }

    /// What the step says that ended it.
    fn denied(&self, kind: StepKind) -> Step {
        let says = |says: String| Step::new(kind, Outcome::Denied, says);
        let frame = &self.asked.frame;
        let reason = match self.run.fate {
            Fate::Dropped(Ok(reason)) => reason,
            Fate::Passed => {
                let at = socket(frame.destination, frame.port);
                return says(format!("{at} is not published: the host's own programs have it"));
            }
            _ => return says("a reason that this version does not know".to_owned()),
        };
        match reason {
            DropReason::UnknownPort => says("the interface is no container's".to_owned()),
            DropReason::SpoofedIpv4 | DropReason::SpoofedIpv6 | DropReason::SpoofedMac => {
                says(format!("{} is not the address of {}, which may send from no other", frame.source, self.sender()))
            }
            DropReason::Ipv6 => says(format!("{} has no IPv6", self.vpc())),
            DropReason::NoInternet => {
                says(format!("{} is beyond {}, which reaches nothing but itself", frame.destination, self.vpc()))
            }
            DropReason::NoRoute if self.saw(SEEN_FORWARD) => says("whom it is published for is gone".to_owned()),
            DropReason::NoRoute if self.asked.to.as_ref().is_some_and(|to| !is_running(to)) => {
                says(format!("nobody in {} has {}: its container does not run", self.vpc(), frame.destination))
            }
            DropReason::NoRoute => says(format!("nobody in {} has {}", self.vpc(), frame.destination)),
            DropReason::FirewallEgress => self.refused(kind, Direction::Egress),
            DropReason::FirewallIngress => self.refused(kind, Direction::Ingress),
            DropReason::ClosedDestination => {
                says(format!("{} is the host's own or link-local: closed unless a rule names it", frame.destination))
            }
            reason => says(meaning(reason).to_owned()),
        }
    }

    fn refused(&self, kind: StepKind, direction: Direction) -> Step {
        let rule = self.judged(direction).map_or(0, |judged| judged.rule);
        let endpoint = self.trace().refused_at;
        let owner = self.known(endpoint);
        if rule != 0 {
            return match owner {
                Some(_) => self.with_rule(kind, Outcome::Denied, rule, ""),
                None => Step::new(kind, Outcome::Denied, "the rules of another project's container deny it"),
            };
        }
        let says = match owner.and_then(|owner| owner.vpc.as_ref().map(|vpc| (owner, vpc))) {
            Some((owner, vpc)) => {
                let groups = self.rules.names(&vpc.membership.groups);
                let groups = if groups.is_empty() { "its groups".to_owned() } else { groups.join(", ") };
                format!("no {} rule of {} allows it ({groups})", direction.name(), owner.name)
            }
            None => format!("no {} rule of another project's container allows it", direction.name()),
        };
        Step::new(kind, Outcome::Denied, says)
    }
}
