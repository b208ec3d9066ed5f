//! How the rest of the world is asked: by whom, of whom, how often, and what counts as an answer.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod resolver_support;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use cc_host::resolver::{Limits, NameServer, Upstreams};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType::{A, TXT};
use hickory_proto::rr::rdata::TXT as Text;
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{Name as DnsName, RData, Record};
use resolver_support::{
    Asked, LIMITS, World, address, eventually, failure, found, framed, question, receive, receive_tcp, with_edns,
};

const GOOD: [u8; 4] = [192, 0, 2, 1];
const FORGED: [u8; 4] = [198, 51, 100, 66];

fn good(asked: &Asked) -> Vec<Vec<u8>> {
    vec![address(asked, GOOD).to_vec().unwrap()]
}

fn answer_good() -> Result<Vec<String>, ResponseCode> {
    Ok(vec!["192.0.2.1".to_owned()])
}

/// What went wrong, in words.
fn reason(answer: &Message) -> String {
    match answer.edns.as_ref().and_then(|edns| edns.option(EdnsCode::Unknown(15))) {
        Some(EdnsOption::Unknown(_, data)) => String::from_utf8_lossy(&data[2..]).into_owned(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_query_has_a_port_and_an_id_of_its_own() {
    let world = World::new();
    let server = world.server("127.0.0.1", good);
    let vpc = world.vpc(1);
    let query = with_edns(question("Www.Example.COM.", A), 1000);
    for _ in 0..20 {
        let answer = vpc.ask(&query);
        assert_eq!(answer.id, query.id);
        assert_eq!(found(&answer), answer_good());
    }
    let seen = server.seen();
    let ids: HashSet<u16> = seen.iter().map(|asked| asked.query.id).collect();
    let ports: HashSet<u16> = seen.iter().map(|asked| asked.from.port()).collect();
    // Of 20 draws from 65,536 and from 28,232, two are equal now and then.
    assert!(ids.len() > 15 && ports.len() > 15, "{ids:?} {ports:?}");
    assert!(!seen[0].tcp && seen[0].from.ip().is_loopback(), "from the host's namespace");
    assert_eq!(vpc.assert_all_counted().forwarded, 20);
}

#[test]
fn what_is_known_of_a_query_goes_on_and_nothing_else() {
    let world = World::new();
    let server = world.server("127.0.0.1", good);
    let vpc = world.vpc(1);
    let mut query = with_edns(question("Www.Example.COM.", A), 1000);
    query.metadata.checking_disabled = true;
    let edns = query.edns.as_mut().unwrap();
    edns.set_dnssec_ok(true);
    edns.options_mut().insert(EdnsOption::Unknown(65001, b"hidden".to_vec()));
    query.add_additional(Record::from_rdata(DnsName::root(), 7, RData::TXT(Text::new(vec!["hidden".to_owned()]))));
    vpc.ask(&query);
    vpc.ask(&with_edns(question("example.com.", A), 65_000));
    vpc.ask(&question("example.com.", A));
    let seen: Vec<Message> = server.seen().into_iter().map(|asked| asked.query).collect();
    assert_eq!(seen[0].queries, query.queries);
    assert_eq!(seen[0].queries[0].name.to_string(), "Www.Example.COM.", "as it was written");
    assert!(seen[0].recursion_desired && seen[0].checking_disabled && seen[0].additionals.is_empty());
    let edns = seen[0].edns.as_ref().unwrap();
    assert_eq!((edns.max_payload(), edns.flags().dnssec_ok, edns.options().options.len()), (1000, true, 0));
    assert_eq!(seen[1].edns.as_ref().unwrap().max_payload(), 1232, "no more than one packet");
    assert!(seen[2].edns.is_none());
}

#[test]
fn only_the_answer_to_the_question_counts() {
    let world = World::new();
    world.server("127.0.0.1", |asked| {
        let mut other_id = address(asked, FORGED);
        other_id.metadata.id = other_id.id.wrapping_add(1);
        let mut other_name = address(asked, FORGED);
        other_name.queries[0].name = DnsName::from_ascii("other.example.com.").unwrap();
        let mut other_type = address(asked, FORGED);
        other_type.queries[0].query_type = TXT;
        let mut no_question = address(asked, FORGED);
        no_question.queries.clear();
        let mut right = address(asked, GOOD);
        right.queries[0].name = DnsName::from_ascii("WWW.example.com.").unwrap();
        let query = asked.query.clone();
        let messages = [other_id, other_name, other_type, no_question, query, right];
        [vec![Vec::new(), vec![0; 11]], messages.iter().map(|message| message.to_vec().unwrap()).collect()].concat()
    });
    let vpc = world.vpc(1);
    assert_eq!(vpc.look_up("www.example.com.", A), answer_good());
}

#[test]
fn the_next_server_is_asked_when_one_is_silent_and_is_remembered() {
    let world = World::new();
    let silent = world.server("127.0.0.1", |_| vec![]);
    let second = world.server("127.0.0.2", good);
    std::fs::write(world.resolv_conf(), "nameserver 127.0.0.1\nnameserver 127.0.0.2\n").unwrap();
    let vpc = world.vpc(1);
    for _ in 0..3 {
        assert_eq!(vpc.look_up("www.example.com.", A), answer_good());
    }
    assert_eq!((silent.seen().len(), second.seen().len()), (1, 3));
}

#[test]
fn the_next_server_is_asked_when_one_fails() {
    let world = World::new();
    // Nobody is at 127.0.0.1.
    let failing = world.server("127.0.0.2", |asked| vec![failure(asked, ResponseCode::ServFail)]);
    let third = world.server("127.0.0.3", good);
    let servers = ["127.0.0.1", "127.0.0.2", "127.0.0.3"].map(|text| NameServer::parse(text).unwrap());
    let vpc = world.vpc_with(1, Upstreams::from(servers.as_slice()));
    assert_eq!(vpc.look_up("www.example.com.", A), answer_good());
    assert_eq!((failing.seen().len(), third.seen().len()), (1, 1));
    assert_eq!(found(&vpc.ask_tcp(&question("www.example.com.", A))), answer_good());
}

#[test]
fn a_failure_is_told_with_its_reason() {
    let world = World::new();
    let vpc = world.vpc(1);
    let query = with_edns(question("www.example.com.", A), 1232);
    let ask = || {
        let (udp, tcp) = (vpc.ask(&query), vpc.ask_tcp(&query));
        assert_eq!((udp.response_code, tcp.response_code), (ResponseCode::ServFail, ResponseCode::ServFail));
        assert_eq!(reason(&udp), reason(&tcp));
        reason(&udp)
    };
    assert_eq!(ask(), "no name server of this host answered", "nobody listens");
    let silent = world.server("127.0.0.1", |_| vec![]);
    assert_eq!(ask(), "no name server of this host answered", "one is silent");
    assert_eq!(silent.seen().iter().filter(|asked| !asked.tcp).count(), LIMITS.attempts);
    std::fs::write(world.resolv_conf(), "# nobody\n").unwrap();
    let nobody = "this host names no name server to ask";
    eventually("the changed list is read", || (reason(&vpc.ask(&query)) == nobody).then_some(()));
    assert_eq!(ask(), nobody);
    let counters = vpc.assert_all_counted();
    assert_eq!((counters.failed, counters.forwarded), (counters.queries, 0));
    let plain = vpc.ask(&question("www.example.com.", A));
    assert_eq!((plain.response_code, plain.edns.is_none()), (ResponseCode::ServFail, true));
}

#[test]
fn a_servers_own_failure_is_passed_on() {
    let world = World::new();
    let server = world.server("127.0.0.1", |asked| vec![failure(asked, ResponseCode::Refused)]);
    let vpc = world.vpc(1);
    assert_eq!(vpc.look_up("www.example.com.", A), Err(ResponseCode::Refused));
    assert_eq!(server.seen().len(), 1, "who refuses is not asked again");
    assert_eq!(vpc.assert_all_counted().forwarded, 1);
}

#[test]
fn a_truncated_answer_is_passed_on_and_asked_again_over_tcp() {
    let world = World::new();
    let server = world.server("127.0.0.1", |asked| {
        let mut answer = address(asked, GOOD);
        if asked.tcp {
            let name = asked.query.queries[0].name.clone();
            let text = |_| Record::from_rdata(name.clone(), 1, RData::TXT(Text::new(vec!["x".repeat(200)])));
            answer.add_answers((0..100).map(text));
        } else {
            answer.metadata.truncation = true;
            answer.answers.clear();
        }
        vec![answer.to_vec().unwrap()]
    });
    let vpc = world.vpc(1);
    let query = question("www.example.com.", A);
    let cut = vpc.ask(&query);
    assert!(cut.truncation && cut.answers.is_empty() && cut.id == query.id, "{cut}");
    let whole = vpc.ask_tcp(&query);
    assert_eq!((whole.answers.len(), whole.truncation, whole.id), (101, false, query.id));
    assert_eq!(server.seen().iter().map(|asked| asked.tcp).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn an_answer_that_is_too_long_is_truncated() {
    let world = World::new();
    world.server("127.0.0.1", |asked| {
        let mut answer = address(asked, GOOD);
        let record = answer.answers[0].clone();
        answer.add_answers((0..40).map(|_| record.clone()));
        vec![answer.to_vec().unwrap()]
    });
    let vpc = world.vpc(1);
    let cut = vpc.ask(&question("www.example.com.", A));
    assert!(cut.truncation && cut.answers.is_empty() && cut.queries.len() == 1, "{cut}");
    let whole = vpc.ask(&with_edns(question("www.example.com.", A), 1232));
    assert_eq!((whole.truncation, whole.answers.len()), (false, 41));
}

#[test]
fn a_changed_list_of_servers_is_used() {
    let world = World::new();
    world.server("127.0.0.1", good);
    world.server("127.0.0.2", |asked| vec![address(asked, [192, 0, 2, 2]).to_vec().unwrap()]);
    let vpc = world.vpc(1);
    assert_eq!(vpc.look_up("www.example.com.", A), answer_good());
    let new = world.resolv_conf().with_extension("new");
    std::fs::write(&new, "nameserver 127.0.0.2\n").unwrap();
    std::fs::rename(&new, world.resolv_conf()).unwrap();
    eventually("the new server is asked", || {
        (vpc.look_up("www.example.com.", A).unwrap() == ["192.0.2.2"]).then_some(())
    });
}

#[test]
fn only_so_many_queries_wait_and_ours_do_not() {
    let world = World::with(Limits { outstanding: 4, attempt: resolver_support::PATIENCE, ..LIMITS });
    static ANSWER: AtomicBool = AtomicBool::new(false);
    let server = world.server("127.0.0.1", |asked| if ANSWER.load(Ordering::Relaxed) { good(asked) } else { vec![] });
    let vpc = world.vpc(1);
    world.publish(1, 2, "web", &[]);
    let socket = vpc.udp();
    for n in 0..10 {
        socket.send(&question(&format!("{n}.example.com."), A).to_vec().unwrap()).unwrap();
    }
    eventually("six are dropped", || (vpc.counters().dropped == 6).then_some(()));
    eventually("four are asked", || (server.seen().len() == 4).then_some(()));
    let told = vpc.ask_tcp(&with_edns(question("www.example.com.", A), 1232));
    assert_eq!(told.response_code, ResponseCode::ServFail);
    assert!(reason(&told).contains("too many"), "{told}");
    assert_eq!(vpc.look_up("web.", A).unwrap(), ["10.0.0.2"]);
    ANSWER.store(true, Ordering::Relaxed);
    let other = world.vpc(2);
    assert_eq!(other.look_up("www.example.com.", A), answer_good(), "another VPC has places of its own");
    assert_eq!(server.seen().len(), 5);
}

#[test]
fn slow_names_do_not_hold_up_others() {
    let world = World::with(Limits { attempt: resolver_support::PATIENCE, ..LIMITS });
    let server = world.server("127.0.0.1", |asked| {
        if asked.query.queries[0].name.to_string().starts_with("slow") { vec![] } else { good(asked) }
    });
    let vpc = world.vpc(1);
    let socket = vpc.udp();
    socket.send(&question("slow.example.com.", A).to_vec().unwrap()).unwrap();
    eventually("the slow one is asked", || (server.seen().len() == 1).then_some(()));
    assert_eq!(vpc.look_up("fast.example.com.", A), answer_good());
}

#[test]
fn a_query_that_comes_back_to_its_sender_is_refused() {
    let world = World::new();
    // Whatever a name server hears, a relay in the VPC sends to the resolver, from the same port.
    let (tell, told) = mpsc::channel::<Asked>();
    let tell = std::sync::Mutex::new(tell);
    let server = world.server("127.0.0.1", move |asked| {
        tell.lock().unwrap().send(asked.clone()).unwrap();
        vec![]
    });
    let vpc = world.vpc(1);
    let socket = vpc.udp();
    socket.send(&with_edns(question("www.example.com.", A), 1232).to_vec().unwrap()).unwrap();
    let asked = told.recv().unwrap();
    let relay = vpc.inside(|| {
        let relay = std::net::UdpSocket::bind(("10.0.0.2", asked.from.port())).unwrap();
        relay.connect((resolver_support::GATEWAY, 53)).unwrap();
        relay.set_read_timeout(Some(resolver_support::PATIENCE)).unwrap();
        relay
    });
    relay.send(&asked.query.to_vec().unwrap()).unwrap();
    let refused = receive(&relay).unwrap();
    assert_eq!(refused.response_code, ResponseCode::Refused);
    assert!(reason(&refused).contains("lead back"), "{refused}");
    assert_eq!(server.seen().len(), 1, "it went no further");
}

#[test]
fn many_queries_on_one_connection_are_answered_in_order() {
    use std::io::Write as _;
    let world = World::new();
    world.server("127.0.0.1", good);
    let vpc = world.vpc(1);
    world.publish(1, 2, "web", &[]);
    let mut stream = vpc.tcp();
    let queries: Vec<Message> =
        ["web.", "www.example.com.", "nobody.", "example.net."].map(|name| question(name, A)).to_vec();
    let all: Vec<u8> = queries.iter().flat_map(|query| framed(&query.to_vec().unwrap())).collect();
    stream.write_all(&all).unwrap();
    for query in &queries {
        let answer = receive_tcp(&mut stream).unwrap();
        assert_eq!((answer.id, &answer.queries), (query.id, &query.queries));
    }
}
