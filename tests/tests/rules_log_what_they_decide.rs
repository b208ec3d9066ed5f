//! A rule with `--log` tells of what it decides: each conversation that it lets begin, once, and each packet that it refuses; by the names of
//! group and rule, as the container sees it, and to its own project alone.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use cc_tests::beyond::{Beyond, FAR, HOST, ROUTER, ask_tcp};
use cc_tests::echo::echo_server;
use cc_tests::watch::Watch;
use cc_tests::{World, dual_stack, eventually};
use serde_json::Value;

const SLEEP: &[&str] = &["sleep", "600"];
const SOON: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_millis(500);

/// `GROUP#NUMBER` of the rule that the command makes.
fn rule(world: &World, action: &str, group: &str, args: &[&str]) -> String {
    let number = world.cc(&[&["group", action, group], args, &["--log"]].concat()).line();
    format!("{group}#{number}")
}

/// What is kept, of everybody or of one.
fn log(world: &World, of: &[&str]) -> Vec<Value> {
    let log = world.cc(&[&["net", "log", "--json"], of].concat()).json();
    log["decisions"].as_array().unwrap().clone()
}

/// What `rule` has decided, once there are `count` of it.
fn decided(world: &World, rule: &str, count: usize) -> Vec<Value> {
    eventually(&format!("{rule} is told {count} times"), SOON, || {
        let found: Vec<Value> = log(world, &[]).into_iter().filter(|line| line["rule"] == rule).collect();
        (found.len() >= count).then_some(found)
    })
}

fn text<'a>(line: &'a Value, fields: &[&str]) -> Vec<&'a str> {
    fields.iter().map(|field| line[field].as_str().unwrap_or_default()).collect()
}

const WHAT: &[&str] = &["container", "action", "direction", "protocol", "source", "destination"];

#[test]
fn conversations_are_told_once_and_refusals_each_time() {
    let world = World::new();
    dual_stack::vpc(&world, "blue");
    world.cc(&["group", "create", "--name", "server"]).ok();
    let allow =
        |from: &str| rule(&world, "allow", "server", &["ingress", "--proto", "tcp", "--port", "80", "--from", from]);
    let (told_in, told_in6) = (allow("0.0.0.0/0"), allow("::/0"));
    let told_off = rule(&world, "deny", "server", &["ingress", "--proto", "udp", "--port", "53"]);
    let web = world.run("busybox", &["--vpc", "blue", "--name", "web"], SLEEP);
    let db = world.run("busybox", &["--vpc", "blue", "--name", "db", "--group", "server"], SLEEP);
    echo_server(&world, &db, 80);
    let (own, address) = (world.address(&web), world.address(&db));
    let watch = Watch::new(&world, &["net", "log", "--watch", "--json", "db"]);
    let foreign = Watch::new(&world, &["net", "log", "--watch", "--json", "--cc-project", "other"]);

    let to: SocketAddr = format!("{address}:80").parse().unwrap();
    let mut stream = world.in_container(&web, move || TcpStream::connect_timeout(&to, TIMEOUT)).unwrap();
    for _ in 0..10 {
        stream.write_all(b"hello").unwrap();
        stream.read_exact(&mut [0; 5]).unwrap();
    }
    let to_db = format!("{address}:53");
    let refused = to_db.clone();
    world.in_container(&web, move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        for _ in 0..3 {
            let _ = socket.send_to(b"x", &refused);
        }
    });
    // Whatever was to be told of the connection was told before the refusals.
    let denied = decided(&world, &told_off, 3);
    let allowed = decided(&world, &told_in, 1);
    assert_eq!((allowed.len(), denied.len()), (1, 3));
    assert_eq!(text(&allowed[0], WHAT), ["db", "allow", "ingress", "tcp", &own, &address]);
    assert_eq!((&allowed[0]["id"], &allowed[0]["destination_port"]), (&db.as_str().into(), &80.into()));
    assert_eq!(allowed[0]["source_port"], stream.local_addr().unwrap().port());
    assert_eq!(text(&denied[0], WHAT), ["db", "deny", "ingress", "udp", &own, &address]);
    assert!(allowed[0]["at"].as_str().unwrap().starts_with("20"), "{allowed:?}");
    assert_eq!(log(&world, &["web"]), Vec::<Value>::new(), "it has no such rule");
    let lines = world.cc(&["net", "log", "db"]).ok().stdout;
    let line = lines.lines().find(|line| line.ends_with(&told_off)).expect("a line a decision");
    assert!(line.contains(&format!(" db deny ingress udp {own}:")) && line.contains(&to_db), "{line}");

    // IPv6, and by the watch, which may have begun a moment ago.
    let v6 = dual_stack::ip6(&world, &db);
    let watched = eventually("the watch tells", SOON, || {
        let to = SocketAddr::new(v6.into(), 80);
        drop(world.in_container(&web, move || TcpStream::connect_timeout(&to, TIMEOUT)));
        watch.so_far().into_iter().find(|line| line["rule"] == told_in6.as_str())
    });
    let own6 = dual_stack::ip6(&world, &web).to_string();
    assert_eq!(text(&watched, WHAT), ["db", "allow", "ingress", "tcp", &own6, &v6.to_string()]);

    // Nothing is told by asking why: the next that is told is the next that is sent.
    let before = log(&world, &[]).len();
    assert_eq!(world.cc(&["net", "why", "web", "db:53/udp", "--json"]).json()["verdict"], "denied");
    world.cc(&["net", "why", "web", "db:80"]).ok();
    let once_more = to_db.clone();
    world.in_container(&web, move || drop(UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"x", once_more)));
    assert_eq!(decided(&world, &told_off, 4).len(), 4);
    assert_eq!(log(&world, &[]).len(), before + 1);
    // A flood: what is not told is counted.
    world.in_container(&web, move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        for _ in 0..2_000 {
            let _ = socket.send_to(b"flood", &to_db);
        }
    });
    let lost = watch.until(|line| line["lost"].is_u64());
    assert!(lost["unwritten"].as_u64() > Some(0), "{lost}");
    let kept = world.cc(&["net", "log", "--json"]).json();
    assert!(kept["lost"].as_u64() > Some(1_000), "{kept}");

    // Another project has none of it.
    assert_eq!(log(&world, &["--cc-project", "other"]), Vec::<Value>::new());
    world.cc(&["net", "log", "--cc-project", "other", "db"]).fails(1, "no container");
    assert_eq!(foreign.so_far(), Vec::<Value>::new());
}

#[test]
fn what_crosses_the_border_is_told_as_the_container_sees_it() {
    let (world, beyond) = Beyond::world("");
    world.vpc("blue", "10.0.0.0/24");
    world.vpc("red", "10.0.0.0/24");
    world.cc(&["group", "create", "--name", "edge"]).ok();
    let out = rule(&world, "allow", "edge", &["egress", "--proto", "tcp", "--port", "443", "--priority", "9"]);
    let shut = rule(&world, "deny", "edge", &["egress", "--proto", "tcp", "--port", "25", "--priority", "9"]);
    let open = rule(&world, "allow", "edge", &["ingress", "--proto", "tcp", "--port", "80", "--priority", "9"]);
    let options = ["--vpc", "blue", "--name", "web", "--group", "edge", "-p", "8080:80"];
    let web = world.run("busybox", &options, SLEEP);
    let stranger = world.run("busybox", &["--vpc", "red", "--name", "stranger"], SLEEP);
    let own = world.address(&web);
    echo_server(&world, &web, 80);

    let server = beyond.tcp_server(FAR, 443, 1);
    let far: SocketAddr = format!("{FAR}:443").parse().unwrap();
    world.in_container(&web, move || ask_tcp(far, "who")).unwrap();
    server.join().unwrap();
    let told = decided(&world, &out, 1);
    assert_eq!(text(&told[0], WHAT), ["web", "allow", "egress", "tcp", &own, FAR], "its own address, not the host's");
    assert_eq!(told.len(), 1);
    let mail: SocketAddr = format!("{FAR}:25").parse().unwrap();
    world.in_container(&web, move || TcpStream::connect_timeout(&mail, TIMEOUT)).unwrap_err();
    assert_eq!(text(&decided(&world, &shut, 1)[0], WHAT), ["web", "deny", "egress", "tcp", &own, FAR]);

    // In by the published port: the container's own port and address, and the client's.
    let at: SocketAddr = format!("{HOST}:8080").parse().unwrap();
    let echoed = |stream: TcpStream| {
        let mut stream = stream;
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0; 1]).unwrap();
    };
    echoed(beyond.netns.run(move || TcpStream::connect_timeout(&at, SOON)).unwrap().unwrap());
    let told = decided(&world, &open, 1);
    assert_eq!(text(&told[0], WHAT), ["web", "allow", "ingress", "tcp", ROUTER, &own]);
    assert_eq!(told[0]["destination_port"], 80);
    // From another network it is the host that comes.
    echoed(world.in_container(&stranger, move || TcpStream::connect_timeout(&at, SOON)).unwrap());
    let told = decided(&world, &open, 2);
    assert_eq!(text(&told[1], WHAT), ["web", "allow", "ingress", "tcp", HOST, &own]);
    assert_eq!(told.len(), 2);
    // And is refused as such.
    let off = rule(&world, "deny", "edge", &["ingress", "--proto", "tcp", "--port", "80", "--priority", "1"]);
    world.in_container(&stranger, move || TcpStream::connect_timeout(&at, TIMEOUT)).unwrap_err();
    let told = decided(&world, &off, 1);
    assert_eq!(text(&told[0], WHAT), ["web", "deny", "ingress", "tcp", HOST, &own]);
    assert_eq!((&told[0]["source_port"], &told[0]["destination_port"]), (&Value::Null, &80.into()));
    assert_eq!(log(&world, &["stranger"]), Vec::<Value>::new());
}
