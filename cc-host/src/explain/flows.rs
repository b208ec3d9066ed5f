//! Flows as a project may see them: names for its own containers, rules by group, and both faces of a translation. Refuses to show
//! a flow of which no end is the project's, and of one that is half another project's anything that only the other knows.

use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::Arc;

use cc_common::flow::{BEYOND_HOST, BEYOND_UPLINK, FLAG_FORWARDED, FLAG_TRANSLATED, Flow, FlowKey, Side, is_beyond};
use cc_common::limits::CONTAINERS_MAX;
use cc_common::net::{Ip, PROTOCOL_TCP};
use cc_common::tcp::Phase;

use super::Explain;
use super::error::ExplainError;
use super::own::{Own, OwnContainer};
use crate::datapath::flow_clock_ns;
use crate::ids::Project;

/// Flows of one listing, unless told otherwise.
pub const FLOWS_DEFAULT: usize = 1_000;
/// And at most: 300 bytes each.
pub const FLOWS_MAX: usize = 100_000;

/// What is behind one end of a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndKind {
    Container {
        id: String,
        name: String,
    },
    /// The resolver of the VPC.
    Resolver,
    /// Behind the uplink.
    Internet,
    Host,
    /// Somebody else's on this host.
    Elsewhere,
}

/// The end as the other face of a translation knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Translated {
    pub address: IpAddr,
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    pub kind: EndKind,
    pub address: IpAddr,
    pub port: u16,
    /// Where it differs, and is this project's to know.
    pub translated: Option<Translated>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowView {
    pub protocol: u8,
    /// The end that began, and the other; likewise of what is counted.
    pub ends: [End; 2],
    pub phase: &'static str,
    pub age_ms: u64,
    pub idle_ms: u64,
    pub packets: [u64; 2],
    pub bytes: [u64; 2],
    pub allowed_by: Vec<String>,
    pub published: bool,
}

/// A part of the table.
#[derive(Debug, Default)]
pub struct Listed {
    pub flows: Vec<FlowView>,
    /// There are more than were asked for.
    pub more: bool,
}

impl Explain {
    /// At most `limit` flows of the project, or of one container of it; the youngest first.
    pub async fn flows(self: &Arc<Self>, project: &Project, only: &str, limit: usize) -> Result<Listed, ExplainError> {
        let only = self.only(project, only)?;
        let limit = limit.min(FLOWS_MAX);
        let _turn = self.readers.acquire().await.expect("the semaphore is never closed");
        let (explain, project) = (Arc::clone(self), project.clone());
        let reading = move || -> Result<Listed, ExplainError> {
            let own = explain.own(&project)?;
            let (mut listed, now_ns) = (Listed::default(), flow_clock_ns());
            explain.datapath.each_flow(|key, flow| {
                let Some(flow) = view(&own, only, key, flow, now_ns) else { return ControlFlow::Continue(()) };
                if listed.flows.len() == limit {
                    listed.more = true;
                    return ControlFlow::Break(());
                }
                listed.flows.push(flow);
                ControlFlow::Continue(())
            })?;
            listed.flows.sort_by_key(|flow| flow.age_ms);
            Ok(listed)
        };
        tokio::task::spawn_blocking(reading).await.expect("reading flows does not panic")
    }

    /// The endpoint of the container that is named, if one is.
    pub(super) fn only(&self, project: &Project, wanted: &str) -> Result<Option<u32>, ExplainError> {
        if wanted.is_empty() {
            return Ok(None);
        }
        Ok(Some(self.containers.find(project, wanted)?.slot))
    }
}

/// A flow as the project sees it, if an end of it is the project's own in the very network that the flow's key is of. `only` an
/// endpoint's, if one is given.
pub(super) fn view(own: &Own, only: Option<u32>, key: &FlowKey, flow: &Flow, now_ns: u64) -> Option<FlowView> {
    let container = |side: Side| own.container(flow.endpoints[side.index()], flow.generations[side.index()]);
    let sees = |side: Side| container(side).is_some_and(|own| own.vni == key.vni);
    let wanted =
        |side: Side| container(side).is_some() && only.is_none_or(|endpoint| flow.endpoints[side.index()] == endpoint);
    let sides = [Side::A, Side::B];
    if !sides.into_iter().any(sees) || !sides.into_iter().any(wanted) {
        return None;
    }
    let kinds = sides.map(|side| kind(flow.endpoints[side.index()], container(side)));
    // The other face of a flow to another project's container is that project's network.
    let is_translated = flow.flags & FLAG_TRANSLATED != 0 && !kinds.contains(&EndKind::Elsewhere);
    let end = |side: Side| {
        let i = side.index();
        let (address, port) = (address(&key.addresses[i]), key.ports[i].get());
        let outer = Translated { address: self::address(&flow.outer_addresses[i]), port: flow.outer_ports[i].get() };
        let differs = (outer.address, outer.port) != (address, port);
        End { kind: kinds[i].clone(), address, port, translated: (is_translated && differs).then_some(outer) }
    };
    let (from, to) = (flow.initiator(), flow.initiator().other());
    let both = |numbers: [u64; 2]| [numbers[from.index()], numbers[to.index()]];
    let mut allowed_by: Vec<String> =
        flow.allowed_by.iter().filter_map(|&number| own.rules.name(number)).map(str::to_owned).collect();
    allowed_by.dedup();
    let since_ms = |then_ns: u64| now_ns.saturating_sub(then_ns) / 1_000_000;
    Some(FlowView {
        protocol: key.protocol,
        ends: [end(from), end(to)],
        phase: phase(flow.tracked.phase(key.protocol == PROTOCOL_TCP), flow.tracked.is_over()),
        age_ms: since_ms(flow.created_ns),
        idle_ms: since_ms(flow.last_seen_ns),
        packets: both(flow.packets),
        bytes: both(flow.bytes),
        allowed_by,
        published: flow.flags & FLAG_FORWARDED != 0,
    })
}

fn kind(endpoint: u32, own: Option<&OwnContainer>) -> EndKind {
    match (endpoint, own) {
        (_, Some(own)) => EndKind::Container { id: own.id.to_string(), name: own.name.to_string() },
        (BEYOND_UPLINK, None) => EndKind::Internet,
        (BEYOND_HOST, None) => EndKind::Host,
        (endpoint, None) if endpoint >= CONTAINERS_MAX && !is_beyond(endpoint) => EndKind::Resolver,
        _ => EndKind::Elsewhere,
    }
}

pub(super) fn address(ip: &Ip) -> IpAddr {
    let address = std::net::Ipv6Addr::from(ip.octets);
    address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4)
}

fn phase(phase: Phase, is_over: bool) -> &'static str {
    match phase {
        _ if is_over => "closed",
        Phase::Opening => "opening",
        Phase::Established => "established",
        Phase::Closing => "closing",
        Phase::Closed => "closed",
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::explain::rules::Rules;
    use crate::ids::{ContainerId, Name};
    use cc_common::net::{Be16, Be32};
    use std::collections::HashMap;

    const VNI: u32 = 7;

    pub(in crate::explain) fn own() -> Own {
        let container = |n: u64, name: &str| OwnContainer {
            id: ContainerId::parse(&format!("{n:016x}")).unwrap(),
            name: Name::parse(name).unwrap(),
            vni: VNI,
            generation: 100 + n,
        };
        let containers = HashMap::from([(1, container(1, "web")), (2, container(2, "db"))]);
        Own { containers, rules: Rules::default() }
    }

    pub(in crate::explain) fn flow(endpoints: [u32; 2], generations: [u64; 2]) -> (FlowKey, Flow) {
        let v4 = |last| Ip::v4(Be32([10, 0, 0, last]));
        let (addresses, ports) = ([v4(2), v4(3)], [Be16::new(4000), Be16::new(80)]);
        let key = FlowKey { vni: VNI, addresses, ports, protocol: PROTOCOL_TCP, pad: [0; 3] };
        let flow = Flow {
            endpoints,
            generations,
            initiator: 1,
            outer_addresses: [v4(2), v4(99)],
            outer_ports: ports,
            created_ns: 1_000_000,
            last_seen_ns: 5_000_000,
            packets: [10, 20],
            bytes: [100, 200],
            ..Flow::default()
        };
        (key, flow)
    }

    #[test]
    fn a_flow_is_told_from_the_side_that_began() {
        let (key, flow) = flow([1, 2], [101, 102]);
        let view = view(&own(), None, &key, &flow, 7_000_000).unwrap();
        assert_eq!((view.age_ms, view.idle_ms, view.phase), (6, 2, "opening"));
        let [from, to] = &view.ends;
        assert_eq!((from.address.to_string(), from.port, to.port), ("10.0.0.3".to_owned(), 80, 4000));
        assert!(matches!(&from.kind, EndKind::Container { name, .. } if name == "db"), "{from:?}");
        assert_eq!((view.packets, view.bytes, from.translated), ([20, 10], [200, 100], None));
    }

    #[test]
    fn nothing_of_another_project_is_shown() {
        let see = |endpoints, generations| {
            let (key, flow) = flow(endpoints, generations);
            view(&own(), None, &key, &Flow { flags: FLAG_TRANSLATED, ..flow }, 0)
        };
        assert_eq!(see([5, 6], [1, 1]), None, "two strangers");
        assert_eq!(see([1, 6], [99, 1]), None, "of a slot's former container");
        let half = see([1, 6], [101, 1]).unwrap();
        assert_eq!(half.ends[0].kind, EndKind::Elsewhere);
        assert!(half.ends.iter().all(|end| end.translated.is_none()), "{half:?}");
        let out = see([1, BEYOND_UPLINK], [101, 0]).unwrap();
        assert_eq!(out.ends[0].translated.map(|outer| outer.address.to_string()).as_deref(), Some("10.0.0.99"));
        // Its other half, in the stranger's own network.
        let (key, flow) = flow([6, 1], [1, 101]);
        assert_eq!(view(&own(), None, &FlowKey { vni: VNI + 1, ..key }, &flow, 0), None);
    }

    #[test]
    fn one_container_may_be_meant() {
        let (key, flow) = flow([1, 2], [101, 102]);
        assert!(view(&own(), Some(2), &key, &flow, 0).is_some());
        assert!(view(&own(), Some(3), &key, &flow, 0).is_none());
    }

    #[test]
    fn whoever_is_no_container_has_a_kind() {
        assert_eq!(kind(BEYOND_HOST, None), EndKind::Host);
        assert_eq!(kind(CONTAINERS_MAX, None), EndKind::Resolver);
        assert_eq!(kind(CONTAINERS_MAX - 1, None), EndKind::Elsewhere);
    }
}
