//! Groups and their rules decide who may begin a conversation, at once and whole: allowed and denied by group, CIDR, prefix list,
//! port and ICMP type, changed under running connections.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use cc_tests::echo::echo_server;
use cc_tests::{World, eventually};

const SLEEP: &[&str] = &["sleep", "600"];
const TIMEOUT: Duration = Duration::from_millis(400);

fn connect(world: &World, from: &str, address: &str, port: u16) -> Option<TcpStream> {
    let to: SocketAddr = format!("{address}:{port}").parse().unwrap();
    let stream = world.in_container(from, move || TcpStream::connect_timeout(&to, TIMEOUT).ok())?;
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    Some(stream)
}

fn echoes(stream: &mut TcpStream) -> bool {
    let mut answer = [0; 5];
    stream.write_all(b"hello").is_ok() && stream.read_exact(&mut answer).is_ok() && &answer == b"hello"
}

fn pings(world: &World, from: &str, address: &str) -> bool {
    let netns = cc_tests::netns::Netns::of_pid(world.pid(from)).unwrap();
    netns.command("busybox").args(["ping", "-c", "1", "-W", "1", address]).output().unwrap().status.success()
}

/// The number of the rule that the command has made.
fn rule(world: &World, args: &[&str]) -> String {
    world.cc(&[&["group"], args].concat()).line()
}

#[test]
fn groups_decide_by_name_port_and_type() {
    let world = World::new();
    world.vpc("blue", "10.0.0.0/24");
    world.cc(&["group", "create", "--name", "web"]).ok();
    world.cc(&["group", "create", "--name", "db"]).ok();
    let web = world.run("busybox", &["--vpc", "blue", "--group", "web"], SLEEP);
    let db = world.run("busybox", &["--vpc", "blue", "--group", "db"], SLEEP);
    let other = world.run("busybox", &["--vpc", "blue"], SLEEP);
    let address = world.address(&db);
    echo_server(&world, &db, 5432);
    echo_server(&world, &db, 5433);
    assert!(connect(&world, &web, &address, 5432).is_none(), "a new group lets nobody in");
    rule(&world, &["allow", "db", "ingress", "--proto", "tcp", "--port", "5432", "--from", "web"]);
    assert!(echoes(&mut connect(&world, &web, &address, 5432).expect("its rule allows it")));
    assert!(connect(&world, &web, &address, 5433).is_none(), "another port");
    assert!(connect(&world, &other, &address, 5432).is_none(), "another group");
    assert!(!pings(&world, &web, &address), "another protocol");
    rule(
        &world,
        &["allow", "db", "ingress", "--proto", "icmp", "--icmp-type", "echo-request", "--from", "10.0.0.0/24"],
    );
    assert!(pings(&world, &web, &address) && pings(&world, &other, &address));
    // Into the group, and out again, while it runs.
    world.cc(&["group", "attach", "web", &other]).ok();
    assert!(connect(&world, &other, &address, 5432).is_some());
    world.cc(&["group", "detach", "web", &other]).ok();
    assert!(connect(&world, &other, &address, 5432).is_none());
    world.cc(&["group", "detach", "blue", &other]).fails(1, "one group at least");
    assert!(world.drops(&db, "firewall_ingress") > 0, "what was denied is counted at the door that denied it");
    let groups = world.inspect(&web)["groups"].clone();
    assert_eq!(groups, serde_json::json!(["web"]));
}

#[test]
fn a_denial_ends_what_lived_by_the_rule_before_and_nothing_else() {
    let world = World::new();
    world.vpc("blue", "10.0.0.0/24");
    let (client, server) =
        (world.run("busybox", &["--vpc", "blue"], SLEEP), world.run("busybox", &["--vpc", "blue"], SLEEP));
    let address = world.address(&server);
    echo_server(&world, &server, 80);
    echo_server(&world, &server, 81);
    let mut doomed = connect(&world, &client, &address, 80).unwrap();
    let mut kept = connect(&world, &client, &address, 81).unwrap();
    assert!(echoes(&mut doomed) && echoes(&mut kept));
    let from = format!("{}/32", world.address(&client));
    let denial = rule(&world, &["deny", "blue", "ingress", "--proto", "tcp", "--port", "80", "--from", &from]);
    assert!(!echoes(&mut doomed), "denied within its next packet");
    assert!(echoes(&mut kept), "the other notices nothing");
    assert!(connect(&world, &client, &address, 80).is_none());
    world.cc(&["group", "revoke", "blue", &denial]).ok();
    assert!(echoes(&mut connect(&world, &client, &address, 80).expect("the denial is taken back")));
    world.cc(&["group", "revoke", "blue", &denial]).fails(1, "has no rule");
}

#[test]
fn prefix_lists_change_at_once() {
    let world = World::new();
    world.vpc("blue", "10.0.0.0/24");
    world.cc(&["group", "create", "--name", "web"]).ok();
    world.cc(&["prefixes", "create", "--name", "friends"]).ok();
    let client = world.run("busybox", &["--vpc", "blue"], SLEEP);
    let server = world.run("busybox", &["--vpc", "blue", "--group", "web"], SLEEP);
    let (own, address) = (world.address(&client), world.address(&server));
    echo_server(&world, &server, 80);
    rule(&world, &["allow", "web", "ingress", "--proto", "tcp", "--port", "80", "--from", "friends"]);
    assert!(connect(&world, &client, &address, 80).is_none(), "nobody is in it");
    world.cc(&["prefixes", "add", "friends", &own, "192.0.2.0/24", "2001:db8::/32"]).ok();
    let mut stream = connect(&world, &client, &address, 80).expect("it is in the list now");
    assert!(echoes(&mut stream));
    let shown = world.cc(&["prefixes", "show", "friends"]).ok().stdout;
    assert_eq!(shown.lines().collect::<Vec<_>>(), [&format!("{own}/32"), "192.0.2.0/24", "2001:db8::/32"]);
    world.cc(&["prefixes", "remove", "friends", &own]).ok();
    assert!(!echoes(&mut stream), "and out of it");
    // Replaced by a file, whole; a line that is wrong changes nothing.
    let file = world.path("friends.txt");
    std::fs::write(&file, format!("# ours\n10.0.0.0/25\n{own}/24\n")).unwrap();
    world.cc(&["prefixes", "load", "friends", &file.display().to_string()]).fails(1, "line 3");
    assert!(connect(&world, &client, &address, 80).is_none());
    std::fs::write(&file, "# ours\n10.0.0.0/25\n").unwrap();
    world.cc(&["prefixes", "load", "friends", &file.display().to_string()]).ok();
    assert!(connect(&world, &client, &address, 80).is_some());
    world.cc(&["prefixes", "delete", "friends"]).fails(1, "a rule of group web names it");
    world.cc(&["prefixes", "add", "friends", "10.0.0.1/24"]).fails(1, "10.0.0.0/24");
}

#[test]
fn a_flood_of_one_container_costs_another_nothing() {
    let world = World::new();
    world.vpc("blue", "10.0.0.0/24");
    let run = || world.run("busybox", &["--vpc", "blue"], SLEEP);
    let (flooder, client, server) = (run(), run(), run());
    let address = world.address(&server);
    echo_server(&world, &server, 80);
    let mut idle = connect(&world, &client, &address, 80).unwrap();
    assert!(echoes(&mut idle));
    // Datagrams to more ports than it may have conversations that nobody answers: the server's kernel refuses each.
    let target = address.clone();
    world.in_container(&flooder, move || {
        for from in 0..2u16 {
            let socket = UdpSocket::bind(("0.0.0.0", 20_000 + from)).unwrap();
            for port in 1000..6000u16 {
                let _ = socket.send_to(b"x", (target.as_str(), port));
            }
        }
    });
    assert!(world.drops(&flooder, "half_open_quota") > 0, "it ran into its own limit");
    assert!(echoes(&mut idle), "the idle connection lives");
    assert!(connect(&world, &client, &address, 80).is_some_and(|mut stream| echoes(&mut stream)), "so does a new one");
    assert_eq!(world.drops(&client, "half_open_quota") + world.drops(&client, "flow_table_full"), 0);
}

#[test]
fn what_is_wrong_is_explained_and_changes_nothing() {
    let world = World::new();
    world.vpc("blue", "10.0.0.0/24");
    let group = |args: &[&str]| world.cc(&[&["group"], args].concat());
    group(&["create", "--name", "blue"]).fails(1, "the name is taken");
    world.cc(&["vpc", "create", "--cidr", "10.1.0.0/24", "--name", "web"]).ok();
    group(&["create", "--name", "Web"]).fails(1, "lower-case");
    group(&["allow", "nowhere", "ingress"]).fails(1, "cc group list");
    group(&["allow", "blue", "ingress", "--from", "nobody"]).fails(1, "nobody");
    group(&["allow", "blue", "ingress", "--from", "10.0.0.1/24"]).fails(1, "10.0.0.0/24");
    group(&["allow", "blue", "ingress", "--proto", "icmp", "--port", "80"]).fails(1, "only tcp and udp have ports");
    group(&["allow", "blue", "ingress", "--proto", "tcp", "--icmp-type", "8"]).fails(1, "only icmp has types");
    group(&["allow", "blue", "ingress", "--to", "10.0.0.0/8"]).fails(2, "--from");
    group(&["delete", "blue"]).fails(1, "default group");
    assert_eq!(group(&["rules", "blue", "--json"]).json()["rules"].as_array().unwrap().len(), 2);
    let image = world.image("busybox");
    world.cc(&["run", "--image", &image, "--vpc", "blue", "--group", "nowhere", "true"]).fails(125, "nowhere");
    world.cc(&["run", "--image", &image, "--group", "blue", "true"]).fails(125, "--vpc");
    // In use by a container, by a rule, and free.
    group(&["create", "--name", "db"]).ok();
    let id = world.run("busybox", &["--vpc", "blue", "--group", "db"], SLEEP);
    group(&["delete", "db"]).fails(1, "container");
    world.cc(&["rm", "-f", &id]).ok();
    group(&["allow", "blue", "ingress", "--from", "db"]).ok();
    group(&["delete", "db"]).fails(1, "a rule of group blue names it");
    world.cc(&["vpc", "delete", "web"]).ok();
    group(&["create", "--name", "web"]).ok();
    group(&["delete", "web", "never-was"]).ok();
    world.cc(&["vpc", "delete", "blue"]).ok();
    group(&["delete", "db"]).ok();
    assert_eq!(group(&["list", "-q"]).ok().stdout, "");
}

#[test]
fn rules_survive_a_restart() {
    let mut world = World::new();
    world.vpc("blue", "10.0.0.0/24");
    world.cc(&["prefixes", "create", "--name", "bad"]).ok();
    world.cc(&["prefixes", "add", "bad", "10.0.0.0/25"]).ok();
    rule(&world, &["deny", "blue", "ingress", "--proto", "tcp", "--port", "80", "--from", "bad", "--priority", "5"]);
    let before = world.cc(&["group", "rules", "blue", "--json"]).json();
    world.take_daemon().kill();
    world.start();
    assert_eq!(world.cc(&["group", "rules", "blue", "--json"]).json(), before);
    let run = || world.run("busybox", &["--vpc", "blue"], SLEEP);
    let (client, server) = (run(), run());
    let address = world.address(&server);
    echo_server(&world, &server, 80);
    echo_server(&world, &server, 81);
    assert!(connect(&world, &client, &address, 80).is_none());
    eventually("the other port answers", TIMEOUT * 5, || connect(&world, &client, &address, 81).map(drop));
}
