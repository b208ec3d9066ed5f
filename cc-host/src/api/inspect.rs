//! One container's place in the kernel, in the contract's words. Refuses to leave a row out because it looks odd.

use std::net::Ipv4Addr;

use cc_common::api::v1;
use cc_common::limits::NAT_BLOCKS_PER_ENDPOINT;
use cc_common::names::{
    FILTER_HANDLE, FILTER_PRIORITY, MAP_ENDPOINTS, MAP_PORTS, MAP_RATES, MAP_ROUTES, MAP_RULE_SETS, PROGRAMS,
};
use cc_common::net::{Ip, MacAddr};
use cc_common::port::Port;
use cc_common::route::{Hop, Route};

use super::net::drop_view;
use crate::container::RateLimit;
use crate::datapath::{Inspection, LinkSeen, ProgramSeen, Traffic};
use crate::explain::Inspected;
use crate::kernel::filters::Filter;

pub(super) fn inspection_view(inspected: Inspected) -> v1::NetInspection {
    let Inspected { record, groups, datapath, filters } = inspected;
    let Inspection { entry, rule_set, quota, settings, told, counters, .. } = &datapath;
    let traffic = |of: Traffic| v1::Traffic { packets: of.packets, bytes: of.bytes };
    let limit = |limit: Option<RateLimit>| {
        limit.map(|l| v1::RateLimit { bytes_per_s: l.bytes_per_s, burst_bytes: l.burst_bytes.unwrap_or(0) })
    };
    v1::NetInspection {
        id: record.id.to_string(),
        name: record.name.to_string(),
        vpc: record.vpc.as_ref().map(|vpc| vpc.vpc_name.to_string()).unwrap_or_default(),
        vni: entry.vni,
        endpoint: record.slot,
        generation: entry.generation,
        interface: if entry.ifindex == 0 { String::new() } else { record.interface() },
        ifindex: entry.ifindex,
        mac: if entry.ifindex == 0 { String::new() } else { mac(entry.mac) },
        ipv4: if entry.ipv4.is_unspecified() { String::new() } else { Ipv4Addr::from(entry.ipv4.0).to_string() },
        ipv6: if entry.ipv6.is_unspecified() { String::new() } else { address(&entry.ipv6) },
        groups,
        rule_set: (entry.rule_set != 0).then_some(v1::RuleSetSeen {
            number: entry.rule_set,
            generation: rule_set.generation,
            version: rule_set.version,
            prefix_table: rule_set.prefix_table,
        }),
        filters: filters.into_iter().map(filter_view).collect(),
        links: datapath.links.iter().map(link_view).collect(),
        rows: rows(record.slot, &datapath),
        flows: Some(v1::FlowBooks {
            flows: quota.flows,
            flows_max: settings.flows_per_endpoint.into(),
            half_open: quota.half_open,
            half_open_max: settings.half_open_per_endpoint.into(),
            nat_blocks: quota.nat_blocks,
            nat_blocks_max: NAT_BLOCKS_PER_ENDPOINT.into(),
        }),
        egress_limit: limit(record.spec.bandwidth.egress),
        ingress_limit: limit(record.spec.bandwidth.ingress),
        received: Some(traffic(counters.received)),
        sent: Some(traffic(counters.sent)),
        drops: counters.drops.iter().map(drop_view).collect(),
        records_written: told.written,
        records_lost: told.lost,
    }
}

fn filter_view(filter: Filter) -> v1::FilterSeen {
    let Filter { hook, priority, handle, program_id, program_name, tag } = filter;
    // The name is what who attached it says; more than that the tag says.
    let ours = (priority, handle) == (FILTER_PRIORITY, FILTER_HANDLE.into()) && PROGRAMS.contains(&&*program_name);
    let program = v1::ProgramSeen { id: program_id, name: program_name, tag: format!("{tag:016x}") };
    v1::FilterSeen { hook: hook.to_owned(), priority: priority.into(), handle, program: Some(program), ours }
}

fn link_view(link: &LinkSeen) -> v1::LinkSeen {
    let ProgramSeen { id, name, tag } = &link.program;
    let program = v1::ProgramSeen { id: *id, name: name.clone(), tag: format!("{tag:016x}") };
    v1::LinkSeen { pin: link.pin.display().to_string(), id: link.id, program: Some(program) }
}

/// The rows of maps that are this endpoint's alone.
fn rows(endpoint: u32, datapath: &Inspection) -> Vec<v1::MapRow> {
    let Inspection { entry, port, routes, rule_set, rate, .. } = datapath;
    let row = |map: &str, key: String, value: String| v1::MapRow { map: map.to_owned(), key, value };
    let generation = entry.generation;
    let mut rows = vec![row(
        MAP_ENDPOINTS,
        endpoint.to_string(),
        format!(
            "generation {generation}, ifindex {}, vni {}, rule set {}, cgroup {}, flags {}",
            entry.ifindex, entry.vni, entry.rule_set, entry.cgroup, entry.flags
        ),
    )];
    if let Some(Port { generation, endpoint, vni, rule_set, flags, .. }) = port {
        let value =
            format!("generation {generation}, endpoint {endpoint}, vni {vni}, rule set {rule_set}, flags {flags}");
        rows.push(row(MAP_PORTS, format!("ifindex {}", entry.ifindex), value));
    }
    for (to, route) in routes {
        rows.push(row(MAP_ROUTES, format!("vni {}, {}", entry.vni, address(to)), hop(route)));
    }
    if entry.rule_set != 0 {
        let value = format!(
            "generation {}, version {}, prefix table {}",
            rule_set.generation, rule_set.version, rule_set.prefix_table
        );
        rows.push(row(MAP_RULE_SETS, entry.rule_set.to_string(), value));
    }
    if rate.bytes_per_s != 0 {
        let value = format!("{} bytes/s, burst {} ns", rate.bytes_per_s, rate.burst_ns);
        rows.push(row(MAP_RATES, endpoint.to_string(), value));
    }
    rows
}

fn hop(route: &Route) -> String {
    match route.hop() {
        Some(Hop::Local { endpoint }) => format!("local, endpoint {endpoint}"),
        Some(Hop::Gateway { resolver }) => format!("gateway, resolver {resolver}"),
        Some(Hop::Internet) => "internet".to_owned(),
        Some(Hop::Nobody) => "nobody".to_owned(),
        Some(Hop::NoInternet) => "no internet".to_owned(),
        None => format!("kind {}", route.kind),
    }
}

fn address(ip: &Ip) -> String {
    let address = std::net::Ipv6Addr::from(ip.octets);
    address.to_ipv4_mapped().map_or_else(|| address.to_string(), |v4| v4.to_string())
}

fn mac(mac: MacAddr) -> String {
    mac.0.map(|byte| format!("{byte:02x}")).join(":")
}
