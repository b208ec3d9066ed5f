//! Drops are told while somebody watches, at a rate per endpoint, and what is not told is counted.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod datapath_support;

use cc_common::event::{DropRecord, Told};
use cc_common::limits::{ENDPOINT_UNKNOWN, EVENTS_PER_SECOND};
use cc_common::names::{PROGRAM_FROM_ENDPOINT, PROGRAM_TO_ENDPOINT};
use cc_common::verdict::{Direction, DropReason};
use cc_host::datapath::Record;
use datapath_support::packets::{OWN, STRANGER, TC_SHOT, run, tcp, udp, with_source_mac};
use datapath_support::{World, drain};

/// The drops that are in the ring.
fn drops(world: &World) -> Vec<DropRecord> {
    let only_drops = drain(world).into_iter().map(|record| match record {
        Record::Dropped(record) => record,
        Record::Decided(record) => panic!("no rule is to be told of: {record:?}"),
    });
    only_drops.collect()
}

#[test]
fn a_drop_is_recorded_with_what_its_packet_says() {
    let mut world = World::new();
    world.network(1);
    let own = world.container(0, 1, 2);
    let ifindex = own.endpoint.ifindex;
    let drop_it = |program: &str, packet: &[u8]| {
        assert_eq!(run(&world, program, ifindex, 0, packet).unwrap().action, TC_SHOT);
    };
    let datapath = world.datapath();
    drop_it(PROGRAM_FROM_ENDPOINT, &tcp((OWN, 4000), (STRANGER, 80), 2, 1, 0));
    assert_eq!(datapath.told(0).unwrap(), Told::default(), "nobody watches");
    datapath.watch_drops(true).unwrap();
    drop_it(PROGRAM_FROM_ENDPOINT, &tcp((OWN, 4000), (STRANGER, 80), 2, 1, 0));
    drop_it(PROGRAM_FROM_ENDPOINT, &with_source_mac([2, 9, 9, 9, 9, 9], udp(OWN, STRANGER)));
    drop_it(PROGRAM_TO_ENDPOINT, &udp(STRANGER, OWN));
    // A later fragment has no ports.
    let mut fragment = udp([10, 0, 0, 77], STRANGER);
    fragment[20..22].copy_from_slice(&7u16.to_be_bytes());
    drop_it(PROGRAM_FROM_ENDPOINT, &fragment);
    let unknown = run(&world, PROGRAM_FROM_ENDPOINT, 1, 0, &udp(OWN, STRANGER)).unwrap();
    assert_eq!(unknown.reason, DropReason::UnknownPort as u32);
    datapath.watch_drops(false).unwrap();
    drop_it(PROGRAM_FROM_ENDPOINT, &tcp((OWN, 4000), (STRANGER, 80), 2, 1, 0));

    let records = drops(&world);
    let told: Vec<_> = records
        .iter()
        .map(|r| {
            let ports = (r.source_port.get(), r.destination_port.get());
            (r.endpoint, DropReason::from_number(r.reason).unwrap(), r.protocol, ports)
        })
        .collect();
    let expected = [
        (0, DropReason::NoRoute, 6, (4000, 80)),
        (0, DropReason::SpoofedMac, 17, (0, 0)),
        (0, DropReason::NotFromDatapath, 17, (0, 0)),
        (0, DropReason::SpoofedIpv4, 17, (0, 0)),
        (ENDPOINT_UNKNOWN, DropReason::UnknownPort, 17, (0, 0)),
    ];
    assert_eq!(told, expected);
    let first = &records[0];
    assert_eq!((first.source.last().0, first.destination.last().0), (OWN, STRANGER));
    assert_eq!((first.direction, first.ifindex, first.ethertype.get()), (Direction::Egress as u16, ifindex, 0x0800));
    let tag = u64::from_str_radix(&own.tag, 16).unwrap();
    assert_eq!((first.container, first.sender), (tag, tag));
    assert_eq!(records[2].direction, Direction::Ingress as u16);
    assert_eq!((records[4].container, records[4].ifindex), (0, 1));
    assert!(records.windows(2).all(|pair| pair[0].at_ns <= pair[1].at_ns));
    assert_eq!(datapath.told(0).unwrap().written, 4);
    assert_eq!(datapath.told(ENDPOINT_UNKNOWN).unwrap().written, 1);
}

#[test]
fn a_flood_is_held_to_its_rate_and_hides_nobody_elses() {
    let mut world = World::new();
    world.network(1);
    let (flooding, quiet) = (world.container(0, 1, 2), world.container(1, 1, 3));
    let datapath = world.datapath();
    datapath.watch_drops(true).unwrap();
    let flood = tcp((OWN, 4000), (STRANGER, 80), 2, 1, 0);
    for _ in 0..1_000 {
        run(&world, PROGRAM_FROM_ENDPOINT, flooding.endpoint.ifindex, 0, &flood).unwrap();
    }
    run(&world, PROGRAM_FROM_ENDPOINT, quiet.endpoint.ifindex, 0, &udp(OWN, STRANGER)).unwrap();
    let told = datapath.told(0).unwrap();
    assert_eq!(told.written + told.lost, 1_000);
    let second = u64::from(EVENTS_PER_SECOND);
    assert!((second..second * 5).contains(&told.written), "{told:?}");
    assert_eq!(datapath.told(1).unwrap().written, 1);
    let records = drops(&world);
    assert_eq!(records.len() as u64, told.written + 1);
    // The next endpoint of the slot begins anew.
    world.delete_link(&flooding);
    datapath.detach(0).unwrap();
    assert_eq!(datapath.told(0).unwrap(), Told::default());
}
