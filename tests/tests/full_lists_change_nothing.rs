//! A list that is too long is refused whole, with its limit, and the one before is in force.

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use cc_tests::World;
use cc_tests::beyond::Beyond;
use cc_tests::echo::echo_server;

const SLEEP: &[&str] = &["sleep", "600"];
const TIMEOUT: Duration = Duration::from_millis(400);
const PREFIXES_MAX: u32 = 1_000_000;
const DENIED_MAX: u32 = 1_024;

/// So many prefixes of a range that nobody here is in.
fn strangers(count: u32) -> String {
    (0..count).fold(String::new(), |mut text, n| {
        let [b, c, d, _] = (n << 8).to_be_bytes();
        writeln!(text, "11.{b}.{c}.{d}/32").expect("text grows");
        text
    })
}

#[test]
fn a_prefix_too_many_is_refused_and_the_old_list_stays() {
    let world = World::new();
    world.vpc("blue", "10.0.0.0/24");
    world.cc(&["group", "create", "--name", "web"]).ok();
    world.cc(&["prefixes", "create", "--name", "friends"]).ok();
    let client = world.run("busybox", &["--vpc", "blue"], SLEEP);
    let server = world.run("busybox", &["--vpc", "blue", "--group", "web"], SLEEP);
    let (own, address) = (world.address(&client), world.address(&server));
    echo_server(&world, &server, 80);
    world.cc(&["group", "allow", "web", "ingress", "--proto", "tcp", "--port", "80", "--from", "friends"]).ok();
    world.cc(&["prefixes", "add", "friends", &own]).ok();
    let connects = || {
        let to: SocketAddr = format!("{address}:80").parse().unwrap();
        world.in_container(&client, move || TcpStream::connect_timeout(&to, TIMEOUT).is_ok())
    };
    assert!(connects());
    let load = |text: String| world.cc_with_stdin(&["prefixes", "load", "friends", "-"], text.as_bytes());
    load(strangers(PREFIXES_MAX + 1)).fails(1, "more than 1000000 prefixes");
    assert!(connects(), "who was in it is in it");
    assert_eq!(world.cc(&["prefixes", "show", "friends"]).ok().stdout, format!("{own}/32\n"));
    load(strangers(PREFIXES_MAX)).ok();
    assert!(!connects(), "as many as may be are in force");
    world.cc(&["prefixes", "add", "friends", &own]).fails(1, "more than 1000000 prefixes");
    assert!(!connects());
    load(format!("{own}\n{}", strangers(PREFIXES_MAX - 1))).ok();
    assert!(connects());
}

#[test]
fn a_source_too_many_is_not_denied_and_the_old_ones_are() {
    let (world, beyond) = Beyond::world("uplinks = [\"up0\"]");
    let reaches = || {
        let ping = ["ping", "-c", "1", "-W", "1", cc_tests::beyond::HOST];
        beyond.netns.command("busybox").args(ping).output().unwrap().status.success()
    };
    assert!(reaches());
    world.cc(&["guard", "deny", cc_tests::beyond::ROUTER]).ok();
    assert!(!reaches());
    let many: Vec<String> = strangers(DENIED_MAX).lines().map(str::to_owned).collect();
    let deny = |sources: &[String]| {
        let args: Vec<&str> = ["guard", "deny"].into_iter().chain(sources.iter().map(String::as_str)).collect();
        world.cc(&args)
    };
    deny(&many).fails(1, "1024 lines");
    let denied = || world.cc(&["guard", "list", "--json"]).json()["denied"].as_array().unwrap().len();
    assert_eq!(denied(), 1);
    assert!(!reaches(), "who was denied is denied");
    deny(&many[1..]).ok();
    assert_eq!(denied(), DENIED_MAX as usize);
    assert!(!reaches());
}
