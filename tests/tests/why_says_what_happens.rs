//! `cc net why` says what becomes of a packet, by which rule of which group, and what would allow it: and that is what happens. Asking
//! changes nothing.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use cc_tests::beyond::{Beyond, FAR, HOST, HOST6};
use cc_tests::{World, dual_stack};
use serde_json::Value;

const SLEEP: &[&str] = &["sleep", "600"];
const TIMEOUT: Duration = Duration::from_millis(400);

fn why(world: &World, args: &[&str]) -> Value {
    world.cc(&[&["--json", "net", "why"], args].concat()).ok().json()
}

/// Verdict and reason.
fn verdict(answer: &Value) -> (&str, &str) {
    (answer["verdict"].as_str().unwrap(), answer["reason"].as_str().unwrap())
}

fn step<'a>(answer: &'a Value, name: &str) -> &'a Value {
    let steps = answer["steps"].as_array().unwrap();
    steps.iter().find(|step| step["step"] == name).unwrap_or_else(|| panic!("no step {name}: {answer:#}"))
}

fn says(answer: &Value, step_name: &str) -> String {
    step(answer, step_name)["says"].as_str().unwrap().to_owned()
}

/// Runs the command that would allow it.
fn obey(world: &World, answer: &Value) {
    let command = answer["next"].as_str().unwrap();
    let words: Vec<&str> = command.split(' ').collect();
    assert_eq!(words[0], "cc", "{answer:#}");
    world.cc(&words[1..]).ok();
}

fn listen(world: &World, id: &str, port: u16) {
    world.in_container(id, move || {
        let listener = TcpListener::bind(("::", port)).unwrap();
        std::thread::spawn(move || listener.incoming().for_each(drop));
    });
}

fn connects(world: &World, from: &str, address: &str, port: u16) -> bool {
    let to = SocketAddr::new(address.parse().unwrap(), port);
    world.in_container(from, move || TcpStream::connect_timeout(&to, TIMEOUT).is_ok())
}

#[test]
fn within_a_vpc_by_rules_and_what_would_allow_it() {
    let world = World::new();
    dual_stack::vpc(&world, "blue");
    world.cc(&["group", "create", "--name", "db"]).ok();
    let web = world.run("busybox", &["--vpc", "blue", "--name", "web"], SLEEP);
    let near = world.run("busybox", &["--vpc", "blue", "--name", "near"], SLEEP);
    let db = world.run("busybox", &["--vpc", "blue", "--name", "store", "--group", "db"], SLEEP);
    listen(&world, &near, 80);
    listen(&world, &db, 80);

    let answer = why(&world, &["web", "near:80"]);
    assert_eq!(verdict(&answer), ("allowed", ""), "{answer:#}");
    assert_eq!(
        (&step(&answer, "ingress")["group"], says(&answer, "verdict")),
        (&"blue".into(), "delivered to near".into())
    );
    assert!(step(&answer, "egress")["rule"].as_u64().unwrap() > 0);
    assert!(says(&answer, "flow").contains("would begin one"), "{answer:#}");
    assert!(connects(&world, &web, &world.address(&near), 80));

    // Denied for want of a rule.
    let address = world.address(&db);
    let answer = why(&world, &["web", "store:80"]);
    assert_eq!(verdict(&answer), ("denied", "firewall_ingress"), "{answer:#}");
    assert_eq!(says(&answer, "ingress"), "no ingress rule of store allows it (db)");
    let wanted = format!("cc group allow db ingress --proto tcp --port 80 --from {}/32", world.address(&web));
    assert_eq!(answer["next"], wanted);
    assert_eq!(world.drops(&db, "firewall_ingress"), 0, "asking counts nothing");
    assert!(!connects(&world, &web, &address, 80));
    obey(&world, &answer);
    assert_eq!(verdict(&why(&world, &["web", "store:80"])), ("allowed", ""));
    assert!(connects(&world, &web, &address, 80));

    // Denied by a rule: named, with its group; and another one before it allows it again.
    let deny =
        ["group", "deny", "db", "ingress", "--proto", "tcp", "--port", "80", "--from", "blue", "--priority", "10"];
    let number: u64 = world.cc(&deny).line().parse().unwrap();
    let answer = why(&world, &["web", "store:80"]);
    assert_eq!(verdict(&answer), ("denied", "firewall_ingress"), "{answer:#}");
    let ingress = step(&answer, "ingress");
    assert_eq!((&ingress["rule"], &ingress["group"]), (&number.into(), &"db".into()), "{answer:#}");
    assert!(says(&answer, "ingress").contains("deny ingress of tcp port 80 from group blue"), "{answer:#}");
    obey(&world, &answer);
    assert_eq!(verdict(&why(&world, &["web", "store:80"])), ("allowed", ""));
    assert!(connects(&world, &web, &address, 80));
    let text = world.cc(&["net", "why", "web", "store:81"]).ok().stdout;
    assert!(
        text.contains("denied: no ingress rule of store") && text.contains("to allow it: cc group allow db"),
        "{text}"
    );

    // The sender's own rules; a ping; IPv6; an address that nobody has; the gateway.
    world.cc(&["group", "deny", "blue", "egress", "--proto", "udp", "--priority", "0"]).ok();
    let answer = why(&world, &["web", "near:53/udp"]);
    assert_eq!(verdict(&answer), ("denied", "firewall_egress"), "{answer:#}");
    assert!(answer["next"].as_str().unwrap().starts_with("cc group revoke blue "), "{answer:#}");
    obey(&world, &answer);
    assert_eq!(verdict(&why(&world, &["web", "near:53/udp"])), ("allowed", ""));
    assert_eq!(verdict(&why(&world, &["web", "near/icmp"])), ("allowed", ""));
    assert_eq!(verdict(&why(&world, &["web", "near:80", "-6"])), ("allowed", ""));
    let answer = why(&world, &["web", "store/icmp", "-6"]);
    assert_eq!(verdict(&answer), ("denied", "firewall_ingress"), "{answer:#}");
    obey(&world, &answer);
    assert_eq!(verdict(&why(&world, &["web", "store/icmp", "-6"])), ("allowed", ""));
    let answer = why(&world, &["web", "10.0.0.200:80"]);
    assert_eq!(
        (verdict(&answer), says(&answer, "route")),
        (("denied", "no_route"), "nobody in VPC blue has 10.0.0.200".into())
    );
    assert_eq!(verdict(&why(&world, &["web", "10.0.0.1:22"])), ("denied", "gateway_closed"));
    assert_eq!(says(&why(&world, &["web", "10.0.0.1/icmp"]), "verdict"), "answered by the gateway");

    // Nobody may say that he is somebody else.
    let answer = why(&world, &["web", "near:80", "--claim", &address]);
    assert_eq!(verdict(&answer), ("denied", "spoofed_ipv4"), "{answer:#}");
    assert_eq!((&step(&answer, "source")["outcome"], answer["next"].as_str()), (&"denied".into(), Some("")));
    assert_eq!(world.drops(&web, "spoofed_ipv4"), 0);
    world.remove_all();
    world.assert_clean();
}

#[test]
fn out_of_the_host_and_what_is_closed() {
    let (world, beyond) = Beyond::world("");
    world.cc(&["vpc", "create", "--no-internet", "--cidr", "10.0.0.0/24", "--name", "inner"]).ok();
    world.vpc("blue", "10.0.0.0/24");
    world.run("busybox", &["--vpc", "inner", "--name", "inside"], SLEEP);
    let web = world.run("busybox", &["--vpc", "blue", "--name", "web"], SLEEP);

    let answer = why(&world, &["web", "internet:443"]);
    assert_eq!(verdict(&answer), ("allowed", ""), "{answer:#}");
    assert_eq!(answer["packet"], format!("tcp {}:40000 -> 203.0.113.1:443", world.address(&web)));
    assert_eq!(
        says(&answer, "nat"),
        format!("it leaves from {HOST} and one of its ports 61056 to 65535, to 203.0.113.1:443")
    );
    let answer = why(&world, &["inside", "internet:443"]);
    assert_eq!(verdict(&answer), ("denied", "no_internet"), "{answer:#}");
    assert!(says(&answer, "route").contains("VPC inner, which reaches nothing but itself"), "{answer:#}");

    // A conversation that there is.
    let server = beyond.tcp_server(FAR, 80, 1);
    let to: SocketAddr = format!("{FAR}:80").parse().unwrap();
    let mut stream = world.in_container(&web, move || TcpStream::connect_timeout(&to, Duration::from_secs(5)).unwrap());
    let port = stream.local_addr().unwrap().port().to_string();
    let answer = why(&world, &["web", &format!("{FAR}:80"), "--from-port", &port]);
    assert_eq!(verdict(&answer), ("allowed", ""), "{answer:#}");
    assert!(says(&answer, "flow").contains("a conversation that stands"), "{answer:#}");
    assert!(says(&answer, "egress").contains("when it began"), "{answer:#}");
    writeln!(stream, "hello").unwrap();
    stream.read_to_string(&mut String::new()).unwrap();
    server.join().unwrap();

    // The host is closed, until a rule names it.
    for closed in [HOST, "127.0.0.1", "169.254.169.254"] {
        let answer = why(&world, &["web", &format!("{closed}:22")]);
        assert_eq!(verdict(&answer), ("denied", "closed_destination"), "{answer:#}");
        assert_eq!(answer["next"], format!("cc group allow blue egress --proto tcp --port 22 --to {closed}/32"));
        if closed == HOST {
            obey(&world, &answer);
            let answer = why(&world, &["web", &format!("{closed}:22")]);
            assert_eq!(verdict(&answer), ("allowed", ""), "{answer:#}");
            assert_eq!(says(&answer, "verdict"), "given to the host itself");
        }
    }
    assert_eq!(world.drops(&web, "closed_destination"), 0);
    world.remove_all();
    world.assert_clean();
}

#[test]
fn from_outside_by_a_published_port() {
    let (world, beyond) = Beyond::world("");
    dual_stack::vpc(&world, "blue");
    world.vpc("red", "10.0.0.0/24");
    let web = world.run("busybox", &["--vpc", "blue", "--name", "web"], SLEEP);
    let client = world.run("busybox", &["--vpc", "red", "--name", "client"], SLEEP);
    listen(&world, &web, 80);
    for from in ["internet", "client"] {
        let answer = why(&world, &[from, "web:80"]);
        let reason = if from == "client" { "other_network" } else { "not_published" };
        assert_eq!(verdict(&answer), ("denied", reason), "{answer:#}");
        assert_eq!(answer["next"], "cc publish web 80:80");
    }
    obey(&world, &why(&world, &["internet", "web:80"]));
    for (host, options) in [(HOST, &[][..]), (HOST6, &["-6"])] {
        let answer = why(&world, &[&["internet", "web:80"], options].concat());
        assert_eq!(verdict(&answer), ("allowed", ""), "{answer:#}");
        assert!(answer["packet"].as_str().unwrap().contains(host), "{answer:#}");
        assert!(says(&answer, "route").contains("is published: it is port 80 of web"), "{answer:#}");
        let to = SocketAddr::new(host.parse().unwrap(), 80);
        assert!(beyond.netns.run(move || TcpStream::connect_timeout(&to, TIMEOUT).is_ok()).unwrap());
    }
    // By the address of the host, and from another network.
    assert_eq!(verdict(&why(&world, &["198.51.100.9", &format!("{HOST}:80")])), ("allowed", ""));
    let answer = why(&world, &["client", "web:80"]);
    assert_eq!(verdict(&answer), ("allowed", ""), "{answer:#}");
    assert!(says(&answer, "nat").starts_with(&format!("it goes in from {HOST}")), "{answer:#}");
    assert!(connects(&world, &client, HOST, 80));
    // Whom a rule denies is shut out, and told by which.
    let deny = ["group", "deny", "blue", "ingress", "--proto", "tcp", "--from", "198.51.100.0/24"];
    world.cc(&deny).ok();
    let answer = why(&world, &["198.51.100.9", "web:80"]);
    assert_eq!(verdict(&answer), ("denied", "firewall_ingress"), "{answer:#}");
    assert_eq!(verdict(&why(&world, &["internet", "web:80"])), ("allowed", ""));
    obey(&world, &answer);
    assert_eq!(verdict(&why(&world, &["198.51.100.9", "web:80"])), ("allowed", ""));

    // Another project's are nobody's business.
    for args in [&["web", "internet:80"], &["internet", "web:80"], &["internet", &format!("{HOST}:80")[..]]] {
        let refused = world.cc(&[&["--cc-project", "other", "net", "why"], &args[..]].concat());
        assert!(refused.code == 1 && !refused.stderr.contains("blue"), "{refused:?}");
    }
    let other = |args: &[&str]| world.cc(&[&["--json", "--cc-project", "other"], args].concat()).ok();
    other(&["vpc", "create", "--cidr", "10.0.0.0/24", "--name", "green"]);
    let image = cc_tests::images::reference("busybox").unwrap();
    other(&["image", "load", &image, "--name", "localhost/theirs:latest"]);
    let vpc = ["--vpc", "green", "--name", "theirs"];
    other(&[&["run", "-d", "--image", "localhost/theirs:latest"], &vpc[..], &["sleep", "600"]].concat());
    let answer = other(&["net", "why", "theirs", &format!("{HOST}:80")]).json();
    assert_eq!(verdict(&answer), ("allowed", ""), "{answer:#}");
    assert!(says(&answer, "verdict").contains("another project's container"), "{answer:#}");
    let inner = world.address(&web);
    for theirs in ["web", "blue", &format!("{inner}:80")] {
        assert!(!answer.to_string().contains(theirs), "{theirs}: {answer:#}");
    }
    other(&["rm", "--force", "theirs"]);
    other(&["vpc", "delete", "green"]);
    world.remove_all();
    world.assert_clean();
}

#[test]
fn from_the_hosts_own_programs() {
    let (world, _beyond) = Beyond::world("");
    dual_stack::vpc(&world, "blue");
    let web = world.run("busybox", &["--vpc", "blue", "--name", "web"], SLEEP);
    listen(&world, &web, 80);
    let answer = why(&world, &["host", "web:80"]);
    assert_eq!(verdict(&answer), ("denied", "not_published"), "{answer:#}");
    let refused = world.cc(&["net", "why", "127.0.0.1", "127.0.0.1:8080"]);
    assert!(refused.code == 1 && refused.stderr.contains("neither end is a container"), "{refused:?}");
    obey(&world, &answer);
    world.cc(&["publish", "web", "127.0.0.1:8080:80"]).ok();
    let connects = |address: &str, port| {
        let to = SocketAddr::new(address.parse().unwrap(), port);
        world.netns.run(move || TcpStream::connect_timeout(&to, TIMEOUT).is_ok()).unwrap()
    };
    let asked = [
        (["host", "web:80"], &[][..], ("127.0.0.1", 80)),
        (["host", "web:80"], &["-6"], ("::1", 80)),
        (["127.0.0.1", "127.0.0.1:8080"], &[], ("127.0.0.1", 8080)),
        (["::1", "[::1]:80"], &[], ("::1", 80)),
        ([HOST, &format!("{HOST}:80")], &[], (HOST, 80)),
        (["host", "host:80"], &[], ("127.0.0.1", 80)),
    ];
    for (ends, options, (address, port)) in &asked {
        let answer = why(&world, &[&ends[..], options].concat());
        assert_eq!(verdict(&answer), ("allowed", ""), "{answer:#}");
        let meant = SocketAddr::new(address.parse().unwrap(), *port);
        assert!(says(&answer, "port").contains(&format!("that means {meant} is led to")), "{answer:#}");
        assert_eq!(says(&answer, "verdict"), "delivered to web");
        assert!(connects(address, *port), "{address} {port}");
    }
    // Whoever is shut out is told by which rule, and how to be let in.
    let deny = ["group", "deny", "blue", "ingress", "--proto", "tcp", "--from", "198.18.0.1/32"];
    let number: u64 = world.cc(&deny).line().parse().unwrap();
    let answer = why(&world, &["host", "web:80"]);
    assert_eq!(verdict(&answer), ("denied", "firewall_ingress"), "{answer:#}");
    assert_eq!(step(&answer, "ingress")["rule"], number);
    assert!(!connects("127.0.0.1", 80));
    obey(&world, &answer);
    assert_eq!(verdict(&why(&world, &["host", "web:80"])), ("allowed", ""));
    assert!(connects("127.0.0.1", 80));
    // What a container sends to the host is closed, whatever the host is called.
    assert_eq!(verdict(&why(&world, &["web", "host:22"])), ("denied", "closed_destination"));
    world.remove_all();
    world.assert_clean();
}
