//! The sweep beside the packets: a flow that a packet has used at the very moment when it was to be forgotten is still there for the
//! answer. One thread sweeps without a pause, another sends; what both agree on is looked at after each packet.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod datapath_support;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use aya::maps::{Array, HashMap, Map, MapData};
use cc_common::firewall::{ACTION_ALLOW, CLASS_ANY_V4, PROTOCOL_CLASS_UDP, RuleEntry};
use cc_common::flow::{Flow, FlowKey};
use cc_common::life::LIFE_HALF_OPEN;
use cc_common::names::PROGRAM_FROM_ENDPOINT;
use cc_common::quota::Quota;
use cc_common::settings::{Settings, Timeouts};
use cc_common::verdict::{Direction, DropReason};
use cc_host::datapath::{Datapath, DatapathConfig, PrefixTable, RuleRow};
use datapath_support::packets::{OWN, PEER, Runner, TC_REDIRECT, udp_ports};
use datapath_support::{World, default_rules};

const FLOWS: u16 = 800;
/// A flow is used every round, or every second, third or fourth: on a fast machine as on a slow one, some are used just when a sweep
/// has marked them, and some have gone before.
const PERIODS: u16 = 4;
/// At least so many rounds, and on until both have happened; at most so many.
const ROUNDS: Range<u16> = 400..4_000;
const EACH: u32 = 1_000;

/// Flows have no time at all: whatever was not used since the clock's last tick is marked by one sweep, and goes with the next.
fn open_without_time(world: &mut World) {
    world.datapath = None;
    let timeouts = Timeouts { udp_opening_ns: 0, udp_established_ns: 0, ..Timeouts::DEFAULT };
    let config = DatapathConfig { settings: Settings { timeouts, ..Settings::DEFAULT }, ..world.config() };
    world.datapath = Some(Datapath::open(&config).unwrap());
}

#[test]
fn no_sweep_takes_a_flow_from_under_a_packet() {
    let mut world = World::new();
    world.network(1);
    let (own, peer) = (world.container_in_group(0, 1, 2, 7), world.container_in_group(1, 1, 3, 8));
    let mut rules = default_rules(8);
    let entry = RuleEntry { rule: 100, priority: 10, action: ACTION_ALLOW, log: 0 };
    let (class, direction) = (CLASS_ANY_V4, Direction::Ingress);
    rules.rows.push(RuleRow { class, direction, protocol: PROTOCOL_CLASS_UDP, port: 0, port_bits: 0, entry });
    world.datapath().load_rules(8, &rules, PrefixTable::EMPTY).unwrap();
    open_without_time(&mut world);

    let runner = Runner::open(&world, PROGRAM_FROM_ENDPOINT);
    let send = |ifindex: u32, packet: &[u8]| {
        let outcome = runner.run(ifindex, 0, packet).unwrap();
        if outcome.action == TC_REDIRECT {
            Ok(())
        } else {
            Err(DropReason::from_number(outcome.reason as u16).unwrap())
        }
    };
    let (done, begun) = (AtomicBool::new(false), AtomicU64::new(0));
    let (mut survived, mut forgotten) = (0u32, 0u32);
    std::thread::scope(|scope| {
        let sweeper = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                begun.fetch_add(1, Ordering::SeqCst);
                world.datapath().sweep_flows().unwrap();
            }
        });
        for round in 0..ROUNDS.end {
            if round >= ROUNDS.start && survived > EACH && forgotten > EACH {
                break;
            }
            for port in (10_000..10_000 + FLOWS).filter(|port| round % (1 + port % PERIODS) == 0) {
                let question = udp_ports((OWN, port), (PEER, 80));
                let answer = udp_ports((PEER, 80), (OWN, port));
                let before = begun.load(Ordering::SeqCst);
                // No rule allows it: it passes by its flow alone.
                let first = send(peer.endpoint.ifindex, &answer);
                let second = send(peer.endpoint.ifindex, &answer);
                // One sweep at most has looked at the flow since: it may have marked it, and none may have forgotten it.
                if begun.load(Ordering::SeqCst) == before && first.is_ok() {
                    assert_eq!(second, Ok(()), "port {port}: the sweep forgot a flow that a packet had just used");
                    survived += 1;
                }
                if second.is_err() {
                    forgotten += 1;
                    // It begins anew. A row that is on its way out is in the way for a moment.
                    while send(own.endpoint.ifindex, &question).is_err() {}
                }
            }
        }
        done.store(true, Ordering::Relaxed);
        sweeper.join().unwrap();
    });
    println!("{survived} survived, {forgotten} forgotten, {} sweeps", begun.load(Ordering::SeqCst));
    assert!(survived > EACH && forgotten > EACH, "both happened: {survived}, {forgotten}");

    // And the books say what is in the table.
    let map = |name: &str| MapData::from_pin(world.datapath().pin_dir().join(name)).unwrap();
    let flows: HashMap<_, FlowKey, Flow> = Map::HashMap(map("CC_FLOWS")).try_into().unwrap();
    let flows: Vec<Flow> = flows.iter().map(|row| row.unwrap().1).collect();
    let half_open = flows.iter().filter(|flow| flow.life & LIFE_HALF_OPEN != 0).count();
    let quotas: Array<_, Quota> = Map::Array(map("CC_QUOTAS")).try_into().unwrap();
    let books = quotas.get(&own.endpoint.id, 0).unwrap();
    assert_eq!((books.flows, books.half_open), (flows.len() as u64, half_open as u64));
}
