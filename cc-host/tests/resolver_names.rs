//! What a VPC's containers are told by their resolver: names and addresses of their own VPC, at once, and nothing of it leaves
//! the host.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod resolver_support;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType::{A, AAAA, ANY, AXFR, MX, PTR};
use resolver_support::{GATEWAY, GATEWAY_V6, World, address, found, question, receive};

const NOBODY: Result<Vec<String>, ResponseCode> = Err(ResponseCode::NXDomain);

fn ok(records: &[&str]) -> Result<Vec<String>, ResponseCode> {
    Ok(records.iter().map(|&record| record.to_owned()).collect())
}

#[test]
fn containers_groups_and_the_gateway_have_names() {
    let world = World::new();
    let vpc = world.vpc(1);
    world.publish(1, 2, "web", &["front", "all"]);
    world.publish(1, 3, "db", &["all"]);
    for name in ["web.", "WEB.prod.cc.internal.", "web-host.", "front."] {
        assert_eq!(vpc.look_up(name, A), ok(&["10.0.0.2"]), "{name}");
        assert_eq!(vpc.look_up(name, AAAA), ok(&["fd00::2"]), "{name}");
        assert_eq!(vpc.look_up(name, MX), ok(&[]), "{name}");
    }
    assert_eq!(vpc.look_up("all.prod.cc.internal.", A), ok(&["10.0.0.2", "10.0.0.3"]));
    assert_eq!(vpc.look_up("gateway.prod.cc.internal.", A), ok(&[GATEWAY]));
    assert_eq!(vpc.look_up("3.0.0.10.in-addr.arpa.", PTR), ok(&["db.prod.cc.internal."]));
    let v6 = format!("2.{}d.f.ip6.arpa.", "0.".repeat(29));
    assert_eq!(vpc.look_up(&v6, PTR), ok(&["web.prod.cc.internal."]));

    assert_eq!(found(&vpc.ask_tcp(&question("web.", A))), ok(&["10.0.0.2"]), "over TCP");
    let socket = vpc.udp_to(GATEWAY_V6);
    socket.send(&question("web.", A).to_vec().unwrap()).unwrap();
    assert_eq!(found(&receive(&socket).unwrap()), ok(&["10.0.0.2"]), "over IPv6");
    let counters = vpc.assert_all_counted();
    assert_eq!((counters.answered, counters.queries), (18, 18));
}

#[test]
fn a_group_takes_turns() {
    let world = World::new();
    let vpc = world.vpc(1);
    for n in 2..5 {
        world.publish(1, n, &format!("c{n}"), &["web"]);
    }
    let socket = vpc.udp();
    let mut first = std::collections::HashSet::new();
    // That one of three never comes first happens once in 10^17 runs.
    for _ in 0..100 {
        socket.send(&question("web.", A).to_vec().unwrap()).unwrap();
        let answer = receive(&socket).unwrap();
        assert_eq!(answer.answers.len(), 3);
        first.insert(answer.answers[0].data.to_string());
    }
    assert_eq!(first.len(), 3);
}

#[test]
fn vpcs_with_equal_addresses_and_names_never_meet() {
    let world = World::new();
    let server = world.server("127.0.0.1", |asked| vec![address(asked, [192, 0, 2, 1]).to_vec().unwrap()]);
    let (a, b) = (world.vpc(1), world.vpc(2));
    world.publish(1, 2, "web", &["all"]);
    world.publish(2, 3, "web", &["all"]);
    world.publish(2, 4, "secret", &[]);
    assert_eq!(a.look_up("web.", A), ok(&["10.0.0.2"]));
    assert_eq!(b.look_up("web.", A), ok(&["10.0.0.3"]));
    assert_eq!(a.look_up("all.", A), ok(&["10.0.0.2"]));
    for name in ["secret.", "secret.prod.cc.internal.", "secret.other.cc.internal."] {
        assert_eq!(a.look_up(name, A), NOBODY, "{name}");
    }
    assert_eq!(a.look_up("4.0.0.10.in-addr.arpa.", PTR), NOBODY);
    assert_eq!(b.look_up("4.0.0.10.in-addr.arpa.", PTR), ok(&["secret.prod.cc.internal."]));
    assert!(server.seen().is_empty());
}

#[test]
fn the_next_query_after_a_start_or_a_stop_is_answered_right() {
    let world = World::new();
    let vpc = world.vpc(1);
    let socket = vpc.udp();
    let ask = |name: &str, wanted| {
        socket.send(&question(name, wanted).to_vec().unwrap()).unwrap();
        found(&receive(&socket).unwrap())
    };
    for _ in 0..100 {
        let id = world.publish(1, 7, "web", &["all"]);
        assert_eq!(ask("web.", A), ok(&["10.0.0.7"]));
        assert_eq!(ask("all.", A), ok(&["10.0.0.7"]));
        assert_eq!(ask("7.0.0.10.in-addr.arpa.", PTR), ok(&["web.prod.cc.internal."]));
        world.directory.withdraw(1, &id);
        assert_eq!(ask("web.", A), NOBODY);
        assert_eq!(ask("all.", A), NOBODY);
        assert_eq!(ask("7.0.0.10.in-addr.arpa.", PTR), NOBODY);
    }
}

#[test]
fn what_is_ours_never_leaves_the_host() {
    let world = World::new();
    let server = world.server("127.0.0.1", |asked| vec![address(asked, [192, 0, 2, 1]).to_vec().unwrap()]);
    let vpc = world.vpc(1);
    let v6 = format!("9.{}d.f.ip6.arpa.", "0.".repeat(29));
    for (name, wanted) in [
        ("cc.internal.", A),
        ("internal.", A),
        ("nobody.cc.internal.", A),
        ("nobody.prod.cc.internal.", A),
        ("a.b.c.other.cc.internal.", A),
        ("NOBODY.CC.INTERNAL.", A),
        ("nobody.", A),
        ("com.", A),
        ("wpad.", A),
        ("localhost.", A),
        ("9.0.0.10.in-addr.arpa.", PTR),
        ("b._dns-sd._udp.0.0.0.10.in-addr.arpa.", PTR),
        (&v6, PTR),
        ("example.com.", ANY),
        ("example.com.", AXFR),
    ] {
        let answer = vpc.ask(&question(name, wanted));
        assert!(answer.answers.is_empty(), "{answer}");
        let answer = vpc.ask_tcp(&question(name, wanted));
        assert!(answer.answers.is_empty(), "{answer}");
    }
    assert_eq!(server.names(), Vec::<String>::new());
    assert_eq!(vpc.look_up("example.com.", A), ok(&["192.0.2.1"]));
    assert_eq!(server.names(), ["example.com."]);
}
