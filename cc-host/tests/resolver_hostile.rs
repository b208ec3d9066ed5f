//! A container that means harm to its resolver gets nothing by it, and its neighbours are served.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod resolver_support;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType::A;
use resolver_support::{LIMITS, PATIENCE, Vpc, World, eventually, found, framed, question, receive, receive_tcp};

fn assert_serves(vpc: &Vpc) {
    assert_eq!(vpc.look_up("web.", A).unwrap(), ["10.0.0.2"]);
}

/// Waits until the other side hangs up, and says what it said before.
fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut said = Vec::new();
    match stream.read_to_end(&mut said) {
        Ok(_) => said,
        Err(error) if error.kind() == ErrorKind::ConnectionReset => said,
        Err(error) => panic!("the connection stays open: {error}"),
    }
}

#[test]
fn garbage_is_answered_shortly_or_not_at_all() {
    let world = World::new();
    let vpc = world.vpc(1);
    world.publish(1, 2, "web", &[]);
    let good = question("web.", A).to_vec().unwrap();
    let socket = vpc.udp();
    // Every cut, and every byte set to the largest.
    let cuts = (0..good.len()).map(|length| good[..length].to_vec());
    let changes = (0..good.len()).map(|at| [&good[..at], &[0xff], &good[at + 1..]].concat());
    let long = [good.clone(), vec![0xaa; 9000]].concat();
    let mut sent = 0;
    for bytes in cuts.chain(changes).chain([long, vec![0; 9000], vec![0xff; 65_507 - 1000]]) {
        socket.send(&bytes).unwrap();
        sent += 1;
    }
    eventually("all are seen", || (vpc.counters().queries == sent).then_some(()));
    socket.set_nonblocking(true).unwrap();
    while let Some(answer) = receive(&socket) {
        assert!(answer.to_vec().unwrap().len() <= 512, "{answer}");
    }
    assert_serves(&vpc);
    // Some changes leave a query that is forwarded, and nobody is there to answer.
    eventually("all have ended", || {
        let now = vpc.counters();
        (now.queries == now.answered + now.refused + now.dropped + now.failed).then_some(())
    });
    assert!(vpc.counters().refused > 10 && vpc.counters().dropped >= 12, "{:?}", vpc.counters());
}

#[test]
fn garbage_over_tcp_ends_its_connection_only() {
    let world = World::new();
    let vpc = world.vpc(1);
    world.publish(1, 2, "web", &[]);
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0, 0], &[0, 3, 1, 2, 3], &[0xff; 70_000]] {
        let mut stream = vpc.tcp();
        // It may hang up before it has all.
        let _hung_up = stream.write_all(bytes);
        assert_eq!(rest(&mut stream), b"", "{bytes:?}");
    }
    let mut stream = vpc.tcp();
    let malformed = [&question("web.", A).to_vec().unwrap()[..11], &[9]].concat();
    stream.write_all(&framed(&malformed)).unwrap();
    assert_eq!(receive_tcp(&mut stream).unwrap().response_code, ResponseCode::FormErr);
    stream.write_all(&framed(&question("web.", A).to_vec().unwrap())).unwrap();
    assert_eq!(found(&receive_tcp(&mut stream).unwrap()).unwrap(), ["10.0.0.2"], "it may try again");
    assert_serves(&vpc);
}

#[test]
fn connections_have_a_number_and_a_time() {
    let world = World::new();
    let vpc = world.vpc(1);
    world.publish(1, 2, "web", &[]);
    let mut held: Vec<TcpStream> = (0..LIMITS.connections).map(|_| vpc.tcp()).collect();
    for stream in &mut held {
        stream.write_all(&framed(&question("web.", A).to_vec().unwrap())).unwrap();
        assert!(receive_tcp(stream).is_some());
    }
    assert_eq!(rest(&mut vpc.tcp()), b"", "one too many is closed");
    assert_eq!(vpc.counters().connections_refused, 1);
    assert_serves(&vpc);
    // Who says nothing, and who says it byte by byte.
    held[0].write_all(&[0]).unwrap();
    for stream in &mut held {
        assert_eq!(rest(stream), b"");
    }
    assert_eq!(found(&vpc.ask_tcp(&question("web.", A))).unwrap(), ["10.0.0.2"], "there is room again");
}

#[test]
fn a_client_that_does_not_read_is_left() {
    let world = World::new();
    let vpc = world.vpc(1);
    for n in 2..250 {
        world.publish(1, n, &format!("c{n}"), &["all"]);
    }
    let mut stream = vpc.tcp();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let query = framed(&question("all.", A).to_vec().unwrap());
    let error = loop {
        if let Err(error) = stream.write_all(&query) {
            break error;
        }
    };
    assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
    let answer = vpc.ask_tcp(&question("c5.", A));
    assert_eq!(found(&answer).unwrap(), ["10.0.0.5"]);
}
