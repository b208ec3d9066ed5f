//! A flood of beginnings from outside displaces itself: who answers gets in, the container's own conversations begin, and what is
//! established or the container's own never gives way.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod datapath_support;

use aya::maps::{HashMap, Map};
use cc_common::flow::{Flow, FlowKey};
use cc_common::limits::{BEGUN_MAX, HALF_OPEN_PER_ENDPOINT};
use cc_common::quota::BegunKey;
use cc_common::verdict::DropReason;
use cc_host::datapath::{Entrance, Fate};
use datapath_support::outside::HOST;
use datapath_support::packets::{OWN, PEER, tcp, udp_ports};
use datapath_support::scene::{SERVICE, Scene};

const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
const FAR: [u8; 4] = [203, 0, 113, 5];
const SERVED: ([u8; 4], u16) = (PEER, 80);
/// At 5,000 a second, what comes within a round trip of 50 ms.
const IN_A_ROUND_TRIP: u32 = 250;

/// One of a flood: each from somebody else.
fn stranger(n: u32) -> Vec<u8> {
    let [_, b, c, d] = n.to_be_bytes();
    tcp(([11, b, c, d], 1024), (HOST.octets(), SERVICE), SYN, 1, 0)
}

/// Of the flood, how many were refused.
fn flood(scene: &Scene, strangers: std::ops::Range<u32>) -> u32 {
    let refused = |n: &u32| match scene.enters(&stranger(*n)) {
        Ok(()) => false,
        Err(DropReason::HalfOpenQuota) => true,
        Err(other) => panic!("{other:?}"),
    };
    strangers.filter(refused).count() as u32
}

fn flows(scene: &Scene) -> usize {
    let flows: HashMap<_, FlowKey, Flow> = Map::HashMap(scene.map("CC_FLOWS")).try_into().unwrap();
    flows.keys().count()
}

#[test]
fn a_flood_from_outside_displaces_itself() {
    let scene = Scene::new();
    let quota = u64::from(HALF_OPEN_PER_ENDPOINT);
    assert_eq!(flood(&scene, 0..HALF_OPEN_PER_ENDPOINT), 0);
    assert_eq!(scene.quota(1).half_open, quota);
    let (recycled, refused) = (
        || scene.drops(1, "ingress", DropReason::HalfOpenRecycled),
        || scene.drops(1, "ingress", DropReason::HalfOpenQuota),
    );
    assert_eq!((recycled(), refused()), (0, 0));
    let more = 4 * HALF_OPEN_PER_ENDPOINT;
    let turned_away = u64::from(flood(&scene, 100_000..100_000 + more));
    assert_eq!((recycled(), refused()), (u64::from(more) - turned_away, turned_away), "all are accounted for");
    assert!(turned_away < u64::from(more) / 10, "{turned_away} of {more}");
    assert_eq!((scene.quota(1).half_open, scene.quota(1).flows), (quota, quota), "the quota is exact");
    assert_eq!(flows(&scene), HALF_OPEN_PER_ENDPOINT as usize);
    // The neighbour, whose own conversations are on his own books, notices nothing.
    scene.leaves(&udp_ports((OWN, 1), (FAR, 53))).unwrap();
    assert_eq!(scene.drops(0, "ingress", DropReason::HalfOpenRecycled), 0);
}

#[test]
fn a_client_who_answers_gets_in_under_a_flood() {
    let scene = Scene::new();
    flood(&scene, 0..2 * HALF_OPEN_PER_ENDPOINT);
    let clients = 200u16;
    let mut next = 100_000;
    let mut gets_in = |port: u16| {
        let client = (FAR, port);
        let from_client = |flags, sequence, acknowledged| {
            scene.enters(&tcp(client, (HOST.octets(), SERVICE), flags, sequence, acknowledged))
        };
        let served = |flags, sequence, acknowledged| scene.leaves(&tcp(SERVED, client, flags, sequence, acknowledged));
        let began = from_client(SYN, 100, 0).and_then(|()| served(SYN | ACK, 500, 101));
        next += IN_A_ROUND_TRIP;
        flood(&scene, next..next + IN_A_ROUND_TRIP);
        // One that has been displaced meanwhile goes on from here, as any conversation does that is under way.
        began.and_then(|()| from_client(ACK, 101, 501)).and_then(|()| served(ACK, 501, 101)).is_ok()
    };
    let inside: Vec<u16> = (0..clients).filter(|n| gets_in(2_000 + n)).collect();
    // Nearly all at their first try, and a stack tries again.
    assert!(inside.len() * 10 >= usize::from(clients) * 9, "{} of {clients}", inside.len());
    // Whoever is in stays in.
    flood(&scene, 1_000_000..1_000_000 + 2 * HALF_OPEN_PER_ENDPOINT);
    for port in inside {
        let client = (FAR, 2_000 + port);
        scene.leaves(&tcp(SERVED, client, ACK, 501, 101)).unwrap();
        scene.enters(&tcp(client, (HOST.octets(), SERVICE), ACK, 101, 501)).unwrap();
    }
}

#[test]
fn an_answer_to_one_that_was_displaced_begins_nothing() {
    let scene = Scene::new();
    // The server says it again, until it gives up: by another port of the host's it would end the client's attempt.
    let known = flows(&scene);
    for flags in [SYN | ACK, RST] {
        assert_eq!(scene.leaves(&tcp(SERVED, (FAR, 9), flags, 500, 101)), Err(DropReason::TcpUnrelated));
        assert_eq!(
            scene.enters(&tcp((FAR, 10), (HOST.octets(), SERVICE), flags, 1, 1)),
            Err(DropReason::TcpUnrelated),
            "nor does what others answer to whom they took for us"
        );
    }
    let drops = |direction| scene.drops(1, direction, DropReason::TcpUnrelated);
    assert_eq!((drops("egress"), drops("ingress"), flows(&scene)), (2, 2, known));
    scene.enters(&tcp((FAR, 9), (HOST.octets(), SERVICE), SYN, 100, 0)).unwrap();
    scene.leaves(&tcp(SERVED, (FAR, 9), SYN | ACK, 500, 101)).unwrap();
}

#[test]
fn a_flood_from_outside_does_not_keep_the_container_from_its_own() {
    let scene = Scene::new();
    flood(&scene, 0..2 * HALF_OPEN_PER_ENDPOINT);
    let tried = 200;
    let begun = |n: &u16| scene.leaves(&udp_ports((PEER, 1_000 + n), (FAR, 53))).is_ok();
    let begun: Vec<u16> = (0..tried).filter(begun).collect();
    assert!(begun.len() * 10 >= usize::from(tried) * 9, "{} of {tried}", begun.len());
    // What it has begun itself does not give way, answered or not.
    flood(&scene, 1_000_000..1_000_000 + 4 * HALF_OPEN_PER_ENDPOINT);
    let known = flows(&scene);
    for n in &begun {
        scene.leaves(&udp_ports((PEER, 1_000 + n), (FAR, 53))).unwrap();
    }
    assert_eq!(flows(&scene), known, "they were there still");
}

#[test]
fn what_a_container_floods_itself_makes_room_for_nobody() {
    let scene = Scene::new();
    for n in 0..HALF_OPEN_PER_ENDPOINT {
        scene.leaves(&udp_ports((PEER, (1_000 + n % 64) as u16), (OWN, (1_000 + n / 64) as u16))).unwrap();
    }
    assert_eq!(flood(&scene, 0..100), 100);
    assert_eq!(scene.leaves(&udp_ports((PEER, 1), (OWN, 1))), Err(DropReason::HalfOpenQuota));
    assert_eq!(scene.drops(1, "ingress", DropReason::HalfOpenRecycled), 0);
}

#[test]
fn a_table_of_beginnings_that_is_full_forgets_the_oldest() {
    let scene = Scene::new();
    flood(&scene, 0..HALF_OPEN_PER_ENDPOINT);
    let mut begun: HashMap<_, BegunKey, FlowKey> = Map::LruHashMap(scene.map("CC_BEGUN")).try_into().unwrap();
    let before = begun.keys().count();
    for n in 0..4 * BEGUN_MAX {
        begun.insert(BegunKey { endpoint: 5_000 + n / 4_096, place: n % 4_096 }, FlowKey::default(), 0).unwrap();
    }
    let rows: Vec<BegunKey> = begun.keys().map(Result::unwrap).collect();
    let left: Vec<&BegunKey> = rows.iter().filter(|key| key.endpoint == 1).collect();
    assert!(rows.len() <= BEGUN_MAX as usize && left.len() < before / 2, "{} of {before}", left.len());
    // Where nobody is remembered nobody gives way: refused, and counted, until they have had their time.
    left.into_iter().for_each(|key| begun.remove(key).unwrap());
    assert_eq!(flood(&scene, 100_000..100_100), 100);
    assert_eq!(scene.drops(1, "ingress", DropReason::HalfOpenQuota), 100);
}

#[test]
fn a_dry_run_says_the_same_and_displaces_nobody() {
    let scene = Scene::new();
    flood(&scene, 0..4 * HALF_OPEN_PER_ENDPOINT);
    let (known, quota) = (flows(&scene), scene.quota(1));
    let before = scene.drops(1, "ingress", DropReason::HalfOpenRecycled);
    let asked =
        (0..100).map(|n| scene.world.datapath().dry_run(Entrance::Uplink, &stranger(1_000_000 + n)).unwrap().fate);
    let passed = asked.filter(|fate| *fate == Fate::Delivered).count();
    assert!(passed > 80, "{passed}");
    assert_eq!((flows(&scene), scene.quota(1)), (known, quota));
    assert_eq!(scene.drops(1, "ingress", DropReason::HalfOpenRecycled), before);
}
