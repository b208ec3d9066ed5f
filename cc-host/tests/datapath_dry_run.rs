//! A dry run says what the programs would do with a packet, and leaves everything as it was: compared with the programs that packets run,
//! over random rules and packets, on the same maps.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod datapath_support;
#[path = "datapath_dry_run/random.rs"]
mod random;
#[path = "datapath_dry_run/scene.rs"]
mod scene;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use cc_common::counters::DropKey;
use cc_common::firewall::{ACTION_ALLOW, CLASS_ANY_V4, RuleEntry};
use cc_common::names::PROGRAM_FROM_ENDPOINT;
use cc_common::rate::Rate;
use cc_common::trace::{
    JUDGED_ALLOWED, JUDGED_ASKED, SEEN_FLOW, SEEN_OPENED, SEEN_TRANSLATED, STANDING_CHANGED, STANDING_HOLDS,
};
use cc_common::verdict::{Direction, DropReason};
use cc_host::datapath::{DatapathError, Entrance, Fate, PrefixTable, RuleRow};
use datapath_support::outside::HOST;
use datapath_support::{MTU, default_rules};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use random::{FAR, Packet, Step, packet, rules, step, tcp};
use scene::Scene;

const CASES: u32 = 1200;
/// So many packets after each other are asked about before every word of the maps is compared.
const COMPARED_EVERY: u32 = 10;
const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);

#[test]
fn what_it_says_is_what_happens() {
    let scene = Scene::new();
    let cases = (rules(), prop::collection::vec(step(), 1..10));
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let seen = std::cell::RefCell::new(BTreeMap::<String, u32>::new());
    let packets = std::cell::Cell::new(0u32);
    TestRunner::new(config)
        .run(&cases, |(rules, steps)| {
            scene.forget();
            scene.load(&rules);
            let mut last = None::<Packet>;
            for step in steps {
                let packet = match (step, last.take()) {
                    (Step::Rules(rules), before) => {
                        scene.load(&rules);
                        last = before;
                        continue;
                    }
                    (Step::Published(published), before) => {
                        scene.publish(published);
                        last = before;
                        continue;
                    }
                    (Step::Packet(packet), _) => packet,
                    (Step::Again(flags), Some(before)) => Packet { flags, ..before },
                    (Step::Answer(flags), Some(before)) => before.answer(flags),
                    (_, None) => continue,
                };
                let frame = packet.frame(&scene);
                packets.set(packets.get() + 1);
                let before = packets.get().is_multiple_of(COMPARED_EVERY).then(|| scene.state());
                let said = scene.dry(packet.from, &frame);
                prop_assert!(before.is_none_or(|before| before == scene.state()), "asking changes nothing");
                let (fate, target) = scene.real(packet.from, &frame);
                prop_assert_eq!(said.fate, fate, "{:?}", said.trace);
                if let Some(wanted) = scene.target(&said) {
                    prop_assert_eq!(target, wanted, "{:?}", said.trace);
                }
                let mut seen = seen.borrow_mut();
                *seen.entry(format!("{fate:?}")).or_default() += 1;
                *seen.entry(format!("standing {}", said.trace.standing)).or_default() += 1;
                last = Some(packet);
            }
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
    let seen = seen.into_inner();
    let packets = packets.get();
    println!("{packets} packets: {seen:?}");
    assert!(packets > CASES, "{packets}");
    for fate in [
        "Delivered",
        "Out",
        "Host",
        "Answered",
        "Passed",
        "Dropped(Ok(FirewallEgress))",
        "Dropped(Ok(FirewallIngress))",
    ] {
        assert!(seen.get(fate).is_some_and(|&times| times >= 10), "{fate} is hardly seen: {seen:?}");
    }
    for standing in [STANDING_HOLDS, STANDING_CHANGED] {
        let times = seen.get(&format!("standing {standing}"));
        assert!(times.is_some_and(|&times| times >= 5), "flows of standing {standing} are hardly met: {seen:?}");
    }
}

#[test]
fn nothing_changes_whatever_is_asked() {
    let scene = Scene::new();
    let open = |of| {
        let mut rules = default_rules(of);
        let entry = RuleEntry { rule: 100 + of, priority: 10, action: ACTION_ALLOW, log: 1 };
        let row = |protocol| RuleRow {
            class: CLASS_ANY_V4,
            direction: Direction::Ingress,
            protocol,
            port: 0,
            port_bits: 0,
            entry,
        };
        rules.rows.extend((0..5).map(row));
        scene.world.datapath().load_rules(of, &rules, PrefixTable::EMPTY).unwrap();
    };
    open(7);
    open(8);
    // Flows of every kind, a block of ports, counters and drops: then everything that there is to be asked about.
    let real = [
        tcp(OWN, PEER, (40_000, 80), 2),
        tcp(PEER, OWN, (80, 40_000), 0x12),
        tcp(OWN, FAR, (40_000, 443), 2),
        tcp(PEER, HOST, (40_000, 8080), 2),
        tcp(FAR, HOST, (40_000, 8080), 2),
        Packet { wrong_mac: true, ..tcp(OWN, PEER, (1, 2), 2) },
        Packet { fragment: 0x2000, ..tcp(OWN, PEER, (3, 4), 2) },
    ];
    for packet in &real {
        scene.real(packet.from, &packet.frame(&scene));
    }
    let before = scene.state();
    for (map, rows) in [("flows", 5), ("nat", 2), ("blocks", 1), ("drops", 1), ("fragments", 1), ("logged", 2)] {
        let found = before.keys().filter(|key| key.starts_with(map)).count();
        assert!(found >= rows, "{map} has {found} rows: {before:#?}");
    }
    let mut runner = TestRunner::deterministic();
    let others: Vec<Packet> = (0..500)
        .map(|_| {
            use proptest::strategy::ValueTree as _;
            packet().new_tree(&mut runner).unwrap().current()
        })
        .collect();
    for packet in real.iter().chain(&others) {
        scene.dry(packet.from, &packet.frame(&scene));
    }
    // A flow whose rules have changed would be judged again, and one that may not go on forgotten.
    open(7);
    scene.world.datapath().unload_rules(8).unwrap();
    scene.publish(false);
    for packet in real.iter().chain(&others) {
        scene.dry(packet.from, &packet.frame(&scene));
    }
    assert_eq!(scene.state(), before);
}

#[test]
fn steps_are_told() {
    let scene = Scene::new();
    let ask = |packet: Packet| scene.dry(packet.from, &packet.frame(&scene));
    let denied = ask(tcp(PEER, OWN, (40_000, 80), 2));
    assert_eq!(denied.fate, Fate::Dropped(Ok(DropReason::FirewallIngress)));
    let [egress, ingress] = denied.trace.judged;
    assert_eq!((egress.rule_set, egress.rule, egress.bits), (8, 1, JUDGED_ASKED | JUDGED_ALLOWED));
    assert_eq!((ingress.rule_set, ingress.groups, ingress.rule, ingress.bits), (7, 8, 0, JUDGED_ASKED));
    assert_eq!((denied.trace.refused_at, denied.trace.refused_direction), (0, Direction::Ingress as u32));
    let out = ask(tcp(OWN, FAR, (40_000, 443), 2));
    assert_eq!((out.fate, out.trace.to_ifindex), (Fate::Out, scene.outside.uplink));
    assert_eq!(out.trace.seen & (SEEN_OPENED | SEEN_TRANSLATED | SEEN_FLOW), SEEN_OPENED | SEEN_TRANSLATED);
    assert_eq!(out.trace.out.source.octets, HOST.to_ipv6_mapped().octets());
    // Now it is there.
    let first = tcp(OWN, FAR, (40_000, 443), 2);
    scene.real(first.from, &first.frame(&scene));
    let goes_on = ask(tcp(OWN, FAR, (40_000, 443), 0x10));
    assert_eq!((goes_on.fate, goes_on.trace.standing), (Fate::Out, STANDING_HOLDS));
    assert_eq!(goes_on.trace.seen & (SEEN_OPENED | SEEN_FLOW), SEEN_FLOW);
    let entered = ask(tcp(FAR, HOST, (40_000, 8080), 2));
    assert_eq!((entered.fate, entered.trace.to, entered.trace.forward), (Fate::Delivered, 0, 0));
    assert_eq!((entered.trace.out.destination_port.get(), entered.trace.forward_port), (80, 80));
}

#[test]
fn without_the_live_maps_nothing_is_said() {
    let scene = Scene::new();
    let pin = scene.world.datapath().pin_dir().join("CC_FLOWS");
    std::fs::remove_file(&pin).unwrap();
    let packet = tcp(OWN, PEER, (40_000, 80), 2);
    let asked = scene.world.datapath().dry_run(Entrance::Endpoint(0), &packet.frame(&scene));
    assert!(matches!(asked, Err(DatapathError::NotPinned { .. })), "{asked:?}");
    assert!(!pin.exists(), "and no other map is put there");
}

#[test]
fn what_is_asked_about_takes_nothing_of_a_limit() {
    let scene = Scene::new();
    let (limited, _netns) = scene.limited(Some(Rate::new(1_000, 2_000)), false);
    let frame = tcp(OWN, PEER, (40_000, 80), 2).frame(&scene);
    let frame = [&frame[..6], &limited.mac, &frame[12..26], &limited.ipv4.octets(), &frame[30..]].concat();
    let run =
        || datapath_support::packets::run(&scene.world, PROGRAM_FROM_ENDPOINT, limited.ifindex, 0, &frame).unwrap();
    run();
    let before = scene.state();
    assert!(before.iter().any(|(row, value)| row == "rates 3" && !value.contains("sent_until_ns: 0")), "{before:#?}");
    let mut said = Vec::new();
    for _ in 0..200 {
        said.push(scene.world.datapath().dry_run(Entrance::Endpoint(limited.id), &frame).unwrap().fate);
    }
    let denied = Fate::Dropped(Ok(DropReason::FirewallIngress));
    assert!(said.iter().all(|&fate| fate == denied), "each as the first: {said:?}");
    assert_eq!(scene.state(), before);
    // Really sent, so many are too many.
    assert!((0..200).any(|_| run().reason == DropReason::EgressRate as u32));
}

/// An interface loses what is longer than it takes, and nobody counts that.
#[test]
fn what_a_queue_would_lose_is_refused_at_its_door() {
    let scene = Scene::new();
    let (limited, _netns) = scene.limited(None, true);
    let sent = |length: usize, ipv4: Ipv4Addr| {
        let packet = Packet { protocol: 17, length, ..tcp(OWN, PEER, (40_000, 80), 2) };
        let mut frame = packet.frame(&scene);
        frame[30..34].copy_from_slice(&ipv4.octets());
        scene.real(packet.from, &frame).0
    };
    let longest = usize::from(MTU) - 20 - 8;
    assert_eq!(sent(longest, limited.ipv4), Fate::Delivered);
    assert_eq!(sent(longest + 1, limited.ipv4), Fate::Dropped(Ok(DropReason::TooBig)));
    let state = scene.state();
    let (direction, reason) = (Direction::Ingress as u16, DropReason::TooBig as u16);
    let at_door = format!("drops {:?}", DropKey { endpoint: limited.id, direction, reason });
    assert!(state.contains_key(&at_door), "{at_door}: {state:#?}");
}
