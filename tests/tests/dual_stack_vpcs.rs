//! VPCs with an IPv6 range beside their IPv4 one: everything works over both.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use cc_tests::dns::{Answer, RecordType, ask};
use cc_tests::dual_stack::{Ear, host, ip6, mac, vpc};
use cc_tests::netns::Netns;
use cc_tests::packet::{Wire, ethernet, ipv6, udp};
use cc_tests::{Leave, World, eventually};

const SLEEP: &[&str] = &["sleep", "600"];
const PATIENCE: Duration = Duration::from_secs(3);
const REFUSED_WITHIN: Duration = Duration::from_millis(400);

fn run(world: &World, vpc: &str, name: &str) -> String {
    world.run("busybox", &["--vpc", vpc, "--name", name], SLEEP)
}

/// Says `word` to whoever connects, and then back what it hears.
fn server(world: &World, id: &str, port: u16, word: &'static str) {
    world.in_container(id, move || {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                std::thread::spawn(move || {
                    let _ = stream.write_all(word.as_bytes());
                    let mut back = stream.try_clone().unwrap();
                    let _ = std::io::copy(&mut stream, &mut back);
                });
            }
        });
    });
}

fn connect(world: &World, from: &str, to: impl Into<IpAddr>, port: u16) -> Option<TcpStream> {
    let to = SocketAddr::new(to.into(), port);
    let stream = world.in_container(from, move || TcpStream::connect_timeout(&to, REFUSED_WITHIN).ok())?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    Some(stream)
}

/// What a server says first.
fn greeting(stream: &mut TcpStream, length: usize) -> String {
    let mut word = vec![0; length];
    stream.read_exact(&mut word).unwrap();
    String::from_utf8(word).unwrap()
}

fn pings(world: &World, from: &str, to: Ipv6Addr) -> bool {
    let netns = Netns::of_pid(world.pid(from)).unwrap();
    let args = ["ping", "-6", "-c", "2", "-i", "0.1", "-W", "1", &to.to_string()];
    netns.command("busybox").args(args).output().unwrap().status.success()
}

#[test]
fn a_container_has_both_addresses_and_no_others() {
    let world = World::new();
    let id = vpc(&world, "blue");
    let listed = world.cc(&["vpc", "list", "--json"]).json()[0].clone();
    assert_eq!(
        (&listed["id"], &listed["cidr6"], &listed["gateway6"]),
        (&id.into(), &"fd00:1::/64".into(), &"fd00:1::1".into())
    );
    let ids = ["a", "b"].map(|name| run(&world, "blue", name));
    let inspected = world.inspect(&ids[1]);
    assert_eq!((&inspected["ipv4"], &inspected["ipv6"]), (&"10.0.0.3/24".into(), &"fd00:1::3/64".into()));
    for command in [["ps"].as_slice(), &["status", &ids[1]]] {
        let shown = world.cc(command).ok().stdout;
        assert!(shown.contains("10.0.0.3") && shown.contains("fd00:1::3"), "{command:?}: {shown}");
    }
    // As the kernel has it: no address of its own making, none that it waits for, and one way out.
    let sh = |script: &str| world.run_rm("busybox", &["--vpc", "blue"], &["sh", "-c", script]).ok().stdout;
    let addresses = sh("ip -6 addr show dev eth0 | grep inet6");
    assert!(addresses.trim().starts_with("inet6 fd00:1::4/64 scope global"), "{addresses}");
    assert!(addresses.lines().count() == 1 && !addresses.contains("tentative"), "{addresses}");
    assert!(sh("ip -6 route show default").starts_with("default via fd00:1::1 dev eth0"));
    let settings =
        "cd /proc/sys/net/ipv6/conf/eth0; cat disable_ipv6 accept_ra addr_gen_mode accept_dad | tr '\\n' ' '";
    assert_eq!(sh(settings), "0 0 1 0 ");
    assert!(sh("cat /etc/hosts").lines().any(|line| line.starts_with("fd00:1::")));
    assert_eq!(sh("cat /etc/resolv.conf"), "nameserver 10.0.0.1\nnameserver fd00:1::1\nsearch blue.cc.internal\n");
    // The host's side says nothing at all, and has no address.
    let interface = world.inspect(&ids[1])["interface"].as_str().unwrap().to_owned();
    let shown = world.netns.command("ip").args(["addr", "show", "dev", &interface]).output().unwrap();
    assert!(shown.status.success() && !String::from_utf8_lossy(&shown.stdout).contains("inet"), "{shown:?}");
    // Where a VPC has none, there is none.
    world.vpc("plain", "10.0.0.0/24");
    let plain = run(&world, "plain", "plain");
    assert_eq!(world.inspect(&plain)["ipv6"], "");
    let lines = world.run_rm("busybox", &["--vpc", "plain"], &["cat", "/proc/net/if_inet6"]).ok().stdout;
    assert!(lines.lines().all(|line| line.ends_with("lo")), "{lines}");
}

#[test]
fn everything_works_over_both_within_a_vpc() {
    let world = World::new();
    vpc(&world, "blue");
    let (client, target) = (run(&world, "blue", "client"), run(&world, "blue", "target"));
    let to = ip6(&world, &target);
    assert_eq!(to, host(3));
    assert!(pings(&world, &client, to), "a neighbour");
    assert!(pings(&world, &client, host(1)), "the gateway");
    assert!(!pings(&world, &client, host(99)), "nobody");
    server(&world, &target, 80, "hello");
    for address in [IpAddr::from(to), world.address(&target).parse().unwrap()] {
        let mut stream = connect(&world, &client, address, 80).expect("it listens on both");
        assert_eq!(greeting(&mut stream, 5), "hello");
        // Far more than a segment: what the kernel joins and splits on the way arrives whole.
        let sent: Vec<u8> = (0..4u32 << 20).map(|n| ((n * 7) >> 3) as u8).collect();
        let writer = {
            let (mut stream, sent) = (stream.try_clone().unwrap(), sent.clone());
            std::thread::spawn(move || stream.write_all(&sent))
        };
        let mut heard = vec![0; sent.len()];
        stream.read_exact(&mut heard).unwrap();
        writer.join().unwrap().unwrap();
        assert!(heard == sent, "{address}");
    }
    // Datagrams, large ones in fragments, and an answer that says that nobody listens.
    let socket = world.in_container(&target, || UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 9)).unwrap());
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let from = world.in_container(&client, || UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap());
    from.set_read_timeout(Some(PATIENCE)).unwrap();
    for length in [1, 1200, 8000] {
        from.send_to(&vec![length as u8; length], (to, 9)).unwrap();
        let mut buffer = vec![0; 9000];
        let (heard, peer) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!((heard, peer.ip()), (length, ip6(&world, &client).into()));
        socket.send_to(&buffer[..heard], peer).unwrap();
        assert_eq!(from.recv_from(&mut buffer).unwrap().0, length);
    }
    let refused = world.in_container(&client, move || {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.connect((to, 10)).unwrap();
        socket.send(b"x").unwrap();
        socket.recv(&mut [0; 1]).unwrap_err().kind()
    });
    assert_eq!(refused, std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn names_have_addresses_of_both_families() {
    let world = World::new();
    vpc(&world, "blue");
    let ids = ["a", "b"].map(|name| run(&world, "blue", name));
    let netns = Netns::of_pid(world.pid(&ids[0])).unwrap();
    for server in ["10.0.0.1", "fd00:1::1"] {
        let look = |name: &str, wanted| ask(&netns, server, name, wanted);
        assert_eq!(look("b.", RecordType::AAAA), Answer::of(&["fd00:1::3"]), "{server}");
        assert_eq!(look("b.blue.cc.internal.", RecordType::A), Answer::of(&["10.0.0.3"]), "{server}");
        assert_eq!(look("blue.", RecordType::AAAA), Answer::of(&["fd00:1::2", "fd00:1::3"]), "the group");
        assert_eq!(look("gateway.", RecordType::AAAA), Answer::of(&["fd00:1::1"]));
        let reverse = |last: char| format!("{last}.{}0.0.1.0.0.0.0.0.d.f.ip6.arpa.", "0.".repeat(21));
        assert_eq!(look(&reverse('3'), RecordType::PTR), Answer::of(&["b.blue.cc.internal."]), "{}", reverse('3'));
        assert_eq!(look(&reverse('1'), RecordType::PTR), Answer::of(&["gateway.blue.cc.internal."]));
        assert_eq!(look(&reverse('9'), RecordType::PTR), Answer::NoSuchName);
    }
    for command in [["getent", "ahostsv6", "b"].as_slice(), &["getent-musl", "b"]] {
        let said = world.run_rm("libcs", &["--vpc", "blue"], command).ok().stdout;
        assert!(said.lines().any(|line| line.split(' ').next() == Some("fd00:1::3")), "{command:?}: {said}");
    }
    assert!(world.run_rm("libcs", &["--vpc", "blue"], &["getent", "hosts", "fd00:1::3"]).stdout.contains("b.blue"));
}

#[test]
fn equal_ranges_never_meet() {
    let world = World::new();
    vpc(&world, "blue");
    vpc(&world, "red");
    let (blue, red) = (run(&world, "blue", "blue-a"), run(&world, "red", "red-a"));
    let only_red = run(&world, "red", "red-b");
    let (blue_client, red_client) = (run(&world, "blue", "blue-c"), run(&world, "red", "red-c"));
    assert_eq!((ip6(&world, &blue), ip6(&world, &red)), (host(2), host(2)));
    assert_eq!((ip6(&world, &only_red), ip6(&world, &blue_client)), (host(3), host(3)));
    server(&world, &blue, 80, "blue");
    server(&world, &red, 80, "red-");
    server(&world, &only_red, 81, "red-");
    assert_eq!(greeting(&mut connect(&world, &blue_client, host(2), 80).unwrap(), 4), "blue");
    assert_eq!(greeting(&mut connect(&world, &red_client, host(2), 80).unwrap(), 4), "red-");
    assert!(connect(&world, &red_client, host(3), 81).is_some());
    // 4 is red's alone: from blue nobody has it, whatever is tried.
    assert_eq!(ip6(&world, &red_client), host(4));
    let ear = Ear::at(&world, &red_client);
    assert!(connect(&world, &blue, host(4), 80).is_none() && !pings(&world, &blue, host(4)));
    let (own, victim) = (mac(&world, &blue), mac(&world, &red_client));
    world.in_container(&blue, move || {
        let wire = Wire::open("eth0").unwrap();
        let datagram = udp(9, 9, b"not for the other side");
        for to in [[2, 0xcc, 0, 0, 0, 1], victim, [0x33, 0x33, 0, 0, 0, 1]] {
            wire.send(&ethernet(to, own, 0x86dd, &ipv6(host(2), host(4), 17, 64, &datagram))).unwrap();
        }
    });
    assert_eq!(ear.heard(), Vec::<Vec<u8>>::new(), "red hears nothing of blue's");
    assert!(world.drops(&blue, "nd_unknown_target") > 0 && world.drops(&blue, "no_route") > 0);
}

#[test]
fn rules_go_by_ipv6_ranges_lists_and_types() {
    let world = World::new();
    vpc(&world, "blue");
    world.cc(&["group", "create", "--name", "web"]).ok();
    world.cc(&["prefixes", "create", "--name", "friends"]).ok();
    let (client, other) = (run(&world, "blue", "client"), run(&world, "blue", "other"));
    let target = world.run("busybox", &["--vpc", "blue", "--group", "web"], SLEEP);
    let to = ip6(&world, &target);
    server(&world, &target, 80, "web");
    server(&world, &target, 81, "web");
    let group = |args: &[&str]| world.cc(&[&["group"], args].concat()).line();
    let from = |id: &str| format!("{}/128", ip6(&world, id));
    assert!(connect(&world, &client, to, 80).is_none(), "a new group lets nobody in");
    let only = group(&["allow", "web", "ingress", "--proto", "tcp", "--port", "80", "--from", &from(&client)]);
    let mut kept = connect(&world, &client, to, 80).expect("it is named");
    assert_eq!(greeting(&mut kept, 3), "web");
    assert!(connect(&world, &other, to, 80).is_none() && connect(&world, &client, to, 81).is_none());
    assert!(connect(&world, &client, world.address(&target).parse::<IpAddr>().unwrap(), 80).is_none(), "not over IPv4");
    group(&["allow", "web", "ingress", "--proto", "tcp", "--port", "81", "--from", "fd00:1::/64"]);
    assert!(connect(&world, &other, to, 81).is_some());
    group(&["deny", "web", "ingress", "--proto", "tcp", "--port", "81", "--from", &from(&other), "--priority", "5"]);
    assert!(connect(&world, &other, to, 81).is_none() && connect(&world, &client, to, 81).is_some());
    assert!(!pings(&world, &client, to));
    group(&["allow", "web", "ingress", "--proto", "icmp", "--icmp-type", "echo-request", "--from", "fd00:1::/64"]);
    assert!(pings(&world, &client, to) && pings(&world, &other, to));
    // By a list that changes under it.
    world.cc(&["group", "revoke", "web", &only]).ok();
    kept.write_all(b"x").unwrap();
    kept.set_read_timeout(Some(REFUSED_WITHIN)).unwrap();
    assert!(kept.read_exact(&mut [0]).is_err(), "what lived by the rule ends with it");
    group(&["allow", "web", "ingress", "--proto", "tcp", "--port", "80", "--from", "friends"]);
    assert!(connect(&world, &client, to, 80).is_none(), "nobody is in it");
    world.cc(&["prefixes", "add", "friends", "192.0.2.0/24", &from(&client)]).ok();
    assert!(connect(&world, &client, to, 80).is_some() && connect(&world, &other, to, 80).is_none());
    world.cc(&["prefixes", "remove", "friends", &from(&client)]).ok();
    assert!(connect(&world, &client, to, 80).is_none());
    assert!(world.drops(&target, "firewall_ingress") > 0);
}

#[test]
fn a_restart_keeps_both() {
    let mut world = World::new();
    vpc(&world, "blue");
    let (client, target) = (run(&world, "blue", "client"), run(&world, "blue", "target"));
    let to = ip6(&world, &target);
    server(&world, &target, 80, "hello");
    let mut stream = connect(&world, &client, to, 80).unwrap();
    assert_eq!(greeting(&mut stream, 5), "hello");
    for how in [Leave::Killed, Leave::Stopped] {
        world.leave(how);
        stream.write_all(b"meanwhile").unwrap();
        assert_eq!(greeting(&mut stream, 9), "meanwhile", "{how:?}");
        world.start();
        assert_eq!(world.inspect(&target)["state"], "running", "{how:?}: it is adopted");
        assert_eq!(world.inspect(&target)["ipv6"], format!("{to}/64"), "{how:?}");
        stream.write_all(b"afterwards").unwrap();
        assert_eq!(greeting(&mut stream, 10), "afterwards", "{how:?}");
        let netns = Netns::of_pid(world.pid(&client)).unwrap();
        assert_eq!(ask(&netns, "fd00:1::1", "target.", RecordType::AAAA), Answer::of(&["fd00:1::3"]), "{how:?}");
        let new = run(&world, "blue", "new");
        assert!(pings(&world, &new, to) && pings(&world, &new, host(1)), "{how:?}");
        world.cc(&["rm", "-f", &new]).ok();
    }
    world.remove_all();
    world.cc(&["vpc", "delete", "blue"]).ok();
    world.assert_clean();
}

#[test]
fn local_remote_reaches_what_speaks_ipv6_alone() {
    let world = World::new();
    vpc(&world, "blue");
    let id = run(&world, "blue", "six");
    let own = ip6(&world, &id);
    let listener = world.in_container(&id, move || TcpListener::bind((own, 7000)).unwrap());
    let mut command = world.command(&[
        "local-remote",
        "serve",
        "--container-id",
        &id,
        "--container-port",
        "7000",
        "--bind",
        "127.0.0.1:0",
    ]);
    let mut forward = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(forward.stdout.as_mut().unwrap()), &mut line).unwrap();
    let at: SocketAddr = line.split_whitespace().find_map(|word| word.parse().ok()).expect("it says where");
    let mut stream = TcpStream::connect(at).unwrap();
    let (mut served, peer) = listener.accept().unwrap();
    assert_eq!(peer.ip(), IpAddr::from(own));
    served.write_all(b"hello").unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(greeting(&mut stream, 5), "hello");
    forward.kill().unwrap();
    forward.wait().unwrap();
}

#[test]
fn bad_ranges_are_explained() {
    let world = World::new();
    let create = |ranges: &[&str]| world.cc(&[&["vpc", "create", "--name", "bad"], ranges].concat());
    for (cidr6, word) in [
        ("fd00:1::7/64", "fd00:1::/64"),
        ("fd00::/47", "too large"),
        ("fd00::/121", "too small"),
        ("fe80::/64", "link-local"),
        ("ff02::/64", "multicast"),
        ("::1/120", "loopback"),
        ("::ffff:10.0.0.0/120", "IPv4 mapped"),
        ("10.0.0.0/24", "it is IPv4"),
        ("six", "ADDRESS/LENGTH"),
    ] {
        create(&["--cidr", "10.0.0.0/24", "--cidr6", cidr6]).fails(1, word);
    }
    create(&["--cidr", "fd00:1::/64"]).fails(1, "--cidr 10.0.0.0/24");
    create(&["--cidr", "10.0.0.0/22", "--cidr6", "fd00:1::/120"]).fails(1, "/118");
    create(&["--cidr", "10.0.0.0/24", "--cidr", "10.1.0.0/24"]).fails(2, "IPv4");
    assert_eq!(world.cc(&["vpc", "list", "-q"]).ok().stdout, "");
    // The other order, a range for documentation, and one that is as small as can be.
    create(&["--cidr", "2001:db8::/48", "--cidr", "10.0.0.0/24"]).ok();
    world.cc(&["vpc", "create", "--cidr", "10.0.0.0/30", "--cidr6", "fd00::/120", "--name", "small"]).ok();
    let id = run(&world, "small", "one");
    assert_eq!(world.inspect(&id)["ipv6"], "fd00::2/120");
    let image = world.image("busybox");
    world.cc(&["run", "--image", &image, "--vpc", "small", "true"]).fails(125, "no free address");
    eventually("its address is free again", PATIENCE, || {
        world.cc(&["rm", "-f", &id]).ok();
        (world.cc(&["run", "--rm", "--image", &image, "--vpc", "small", "true"]).code == 0).then_some(())
    });
}
