//! Two VPCs with the same CIDR: what one sends, whatever it is, is never heard in the other.

use std::time::{Duration, Instant};

use cc_tests::World;
use cc_tests::packet::{BROADCAST, Wire, arp_request, ethernet, ipv4, udp};

const MARK: &[u8] = b"not for the other side";
/// Whom every answer to ARP names.
const GATEWAY: [u8; 6] = [0x02, 0xcc, 0, 0, 0, 1];
/// Each round of hostile frames is followed by one that is heard, so a silent listener is not a broken one.
const ROUNDS: usize = 20;

struct Pair {
    world: World,
    blue: String,
    blue2: String,
    red: String,
}

fn pair() -> Pair {
    let world = World::new();
    world.vpc("blue", "10.0.0.0/24");
    world.vpc("red", "10.0.0.0/24");
    let listen = ["sh", "-c", "while true; do echo from-$(hostname) | nc -l -p 7000; done"];
    let run = |vpc, name| world.run("busybox", &["--vpc", vpc, "--name", name, "--hostname", name], &listen);
    let (blue, red) = (run("blue", "blue-a"), run("red", "red-a"));
    let blue2 = run("blue", "blue-b");
    assert_eq!(world.address(&blue), "10.0.0.2");
    assert_eq!(world.address(&red), "10.0.0.2", "both VPCs give the same address");
    assert_eq!(world.address(&blue2), "10.0.0.3");
    Pair { world, blue, blue2, red }
}

fn mac(world: &World, id: &str) -> [u8; 6] {
    let text = world.inspect(id)["mac"].as_str().unwrap().to_owned();
    let bytes: Vec<u8> = text.split(':').map(|b| u8::from_str_radix(b, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

#[test]
fn tcp_udp_and_icmp_reach_the_own_vpc_only() {
    let Pair { world, .. } = pair();
    let client = |vpc: &str, command: &str| world.run_rm("busybox", &["--vpc", vpc], &["sh", "-c", command]);
    // Within the VPC: the container of this VPC answers, never the other's of the same address.
    for (vpc, name) in [("blue", "blue-a"), ("red", "red-a")] {
        let answer = client(vpc, "nc -w 3 10.0.0.2 7000 </dev/null").ok().stdout;
        assert_eq!(answer.trim(), format!("from-{name}"));
        client(vpc, "ping -c 2 -W 2 10.0.0.2").ok();
    }
    // 10.0.0.3 exists in blue. Red's own 10.0.0.3 is the client itself, so ask for it from 10.0.0.4 on.
    let answer = client("blue", "nc -w 3 10.0.0.3 7000 </dev/null").ok().stdout;
    assert_eq!(answer.trim(), "from-blue-b");
    let filler = world.run("busybox", &["--vpc", "red"], &["sleep", "600"]);
    let other = world.address(&filler);
    world.cc(&["rm", "-f", &filler]).ok();
    assert_ne!(other, "10.0.0.3", "a freed address is not given again while others are free");
    for command in [
        "nc -w 2 10.0.0.3 7000 </dev/null",
        "ping -c 2 -W 1 10.0.0.3",
        "echo x | nc -u -w 1 10.0.0.3 7000; ping -c 1 -W 1 10.0.0.3",
    ] {
        let ran = client("red", command);
        assert_ne!(ran.code, 0, "{command} reached the other VPC: {}", ran.stdout);
        assert!(!ran.stdout.contains("from-blue"), "{}", ran.stdout);
    }
}

#[test]
fn hostile_frames_are_dropped_with_a_reason_and_never_cross() {
    let Pair { world, blue, blue2, red } = pair();
    let (own, peer, victim) = (mac(&world, &blue), mac(&world, &blue2), mac(&world, &red));
    let to = [10, 0, 0, 2];
    let datagram = udp(9, 9, MARK);
    let frames: Vec<(&str, Vec<u8>)> = vec![
        ("broadcast", ethernet(BROADCAST, own, 0x0800, &ipv4([10, 0, 0, 2], [10, 0, 0, 255], 17, &datagram))),
        ("limited broadcast", ethernet(BROADCAST, own, 0x0800, &ipv4([10, 0, 0, 2], [255; 4], 17, &datagram))),
        (
            "multicast",
            ethernet([1, 0, 0x5e, 0, 0, 1], own, 0x0800, &ipv4([10, 0, 0, 2], [224, 0, 0, 1], 17, &datagram)),
        ),
        ("spoofed address", ethernet(GATEWAY, own, 0x0800, &ipv4([10, 0, 0, 77], to, 17, &datagram))),
        ("spoofed MAC", ethernet(GATEWAY, [2; 6], 0x0800, &ipv4([10, 0, 0, 2], [10, 0, 0, 3], 17, &datagram))),
        ("the victim's MAC", ethernet(victim, own, 0x0800, &ipv4([10, 0, 0, 2], [10, 0, 0, 99], 17, &datagram))),
        ("ARP for another", ethernet(BROADCAST, own, 0x0806, &arp_request(own, [10, 0, 0, 77], to))),
        ("ARP of an unknown", ethernet(BROADCAST, own, 0x0806, &arp_request(own, [10, 0, 0, 2], [10, 0, 0, 200]))),
        ("a raw ethertype", ethernet(victim, own, 0x88b5, MARK)),
        (
            "a VLAN tag",
            ethernet(victim, own, 0x8100, &[&[0, 5, 8, 0][..], &ipv4([10, 0, 0, 2], to, 17, &datagram)].concat()),
        ),
        ("IPv6", ethernet(victim, own, 0x86dd, &[&[0x60, 0, 0, 0, 0, 0, 59, 64][..], &[0; 32], MARK].concat())),
        ("another MAC of the VPC", ethernet(peer, own, 0x0800, &ipv4([10, 0, 0, 2], [10, 0, 0, 3], 17, &datagram))),
        ("nobody's address", ethernet(GATEWAY, own, 0x0800, &ipv4([10, 0, 0, 2], [10, 0, 0, 99], 17, &datagram))),
        ("the internet", ethernet(GATEWAY, own, 0x0800, &ipv4([10, 0, 0, 2], [192, 0, 2, 1], 17, &datagram))),
        ("the host", ethernet(GATEWAY, own, 0x0800, &ipv4([10, 0, 0, 2], [127, 0, 0, 1], 17, &datagram))),
        ("a truncated header", ethernet(GATEWAY, own, 0x0800, &[0x45, 0, 0, 20, 1, 2, 3])),
    ];
    let count = frames.len();
    let before = dropped(&world, &blue);
    let wires = |id: &str| cc_tests::netns::Netns::of_pid(world.pid(id)).unwrap();
    let (victim_side, sender_side, peer_side) = (wires(&red), wires(&blue), wires(&blue2));
    let listen = |netns: cc_tests::netns::Netns| {
        let (open, opened) = std::sync::mpsc::channel();
        let ear = std::thread::spawn(move || {
            let hear = move || {
                let wire = Wire::open("eth0").unwrap();
                open.send(()).unwrap();
                wire.hear(Instant::now() + Duration::from_secs(3)).unwrap()
            };
            netns.run(hear).unwrap()
        });
        // Nothing is sent before somebody listens.
        opened.recv().unwrap();
        ear
    };
    let (victim_ear, peer_ear) = (listen(victim_side), listen(peer_side));
    let good = ethernet(GATEWAY, own, 0x0800, &ipv4([10, 0, 0, 2], [10, 0, 0, 3], 17, &udp(9, 9, b"for the peer")));
    sender_side
        .run(move || {
            let wire = Wire::open("eth0").unwrap();
            for _ in 0..ROUNDS {
                for (what, frame) in &frames {
                    wire.send(frame).unwrap_or_else(|error| panic!("{what}: {error}"));
                }
                wire.send(&good).unwrap();
            }
        })
        .unwrap();
    let contains =
        |frames: &[Vec<u8>], mark: &[u8]| frames.iter().filter(|f| f.windows(mark.len()).any(|w| w == mark)).count();
    let heard_by_peer = peer_ear.join().unwrap();
    // The peer hears what was rightly addressed to it, so the wire works.
    assert!(contains(&heard_by_peer, b"for the peer") > 0, "the good frame arrives");
    assert_eq!(contains(&heard_by_peer, MARK), 0, "no hostile frame reaches a member of the own VPC either");
    let heard_by_victim = victim_ear.join().unwrap();
    assert_eq!(heard_by_victim.len(), 0, "the other VPC hears nothing at all: {heard_by_victim:02x?}");
    let after = dropped(&world, &blue);
    assert!(
        after - before >= (ROUNDS * count) as u64,
        "every hostile frame is counted: {before} → {after} of {}",
        ROUNDS * count
    );
}

fn dropped(world: &World, id: &str) -> u64 {
    let metrics = world.cc(&["metrics", id, "--json"]).json();
    let drops = metrics[0]["drops"].as_array().unwrap().clone();
    drops.iter().filter_map(|d| d["packets"].as_u64()).sum()
}
