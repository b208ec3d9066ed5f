//! Containers reach the world by the host's address, whatever their own is, and the host's routing, rules and connection tracking stay
//! as they were.

use std::time::Duration;

use cc_tests::beyond::{Beyond, FAR, FAR6, HOST, HOST6, ROUTER, ask_udp};
use cc_tests::eventually::eventually;
use cc_tests::{World, dual_stack};

fn client(world: &World, vpc: &str, command: &str) -> cc_tests::world::Ran {
    world.run_rm("busybox", &["--vpc", vpc], &["sh", "-c", command])
}

/// What the host had before, and has afterwards.
fn routing(world: &World) -> Vec<String> {
    let show = |args: &[&str]| {
        let output = world.netns.command("ip").args(args).output().expect("ip can be run");
        String::from_utf8(output.stdout).expect("text")
    };
    let routes = show(&["route", "show", "table", "all"]);
    let routes = routes.lines().filter(|line| !line.contains(" cc")).map(str::to_owned);
    routes.chain(show(&["rule"]).lines().map(str::to_owned)).collect()
}

#[test]
fn overlapping_vpcs_go_out_side_by_side() {
    let (world, beyond) = Beyond::world("");
    let before = routing(&world);
    let mut containers = Vec::new();
    for vpc in ["blue", "red"] {
        world.vpc(vpc, "10.0.0.0/24");
        containers.push(world.run("busybox", &["--vpc", vpc], &["sleep", "600"]));
    }
    assert_eq!(world.address(&containers[0]), world.address(&containers[1]), "the same address in both");
    let server = beyond.tcp_server(FAR, 80, 2);
    // From the same address and port, at the same time.
    let asked: Vec<_> = containers
        .iter()
        .map(|id| {
            let netns = cc_tests::netns::Netns::of_pid(world.pid(id)).unwrap();
            std::thread::spawn(move || {
                netns
                    .run(|| {
                        use std::io::{Read as _, Write as _};
                        let socket = socket2(4000);
                        let mut stream = socket;
                        stream.write_all(b"hello\n").unwrap();
                        let mut answer = String::new();
                        stream.read_to_string(&mut answer).unwrap();
                        answer
                    })
                    .unwrap()
            })
        })
        .collect();
    for answer in asked {
        assert_eq!(answer.join().unwrap().trim(), format!("hello from {HOST}"));
    }
    let peers = server.join().unwrap();
    assert_ne!(peers[0].port(), peers[1].port(), "each has a port of its own");
    assert!(peers.iter().all(|peer| peer.ip().to_string() == HOST && peer.port() >= 61_056), "{peers:?}");
    assert_eq!(routing(&world), before, "no route and no rule is added");
    world.remove_all();
    world.assert_clean();
}

/// A connection from this port.
fn socket2(port: u16) -> std::net::TcpStream {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};
    use std::os::fd::AsRawFd as _;
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(fd.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, port)).unwrap();
    let [a, b, c, d] = FAR.parse::<std::net::Ipv4Addr>().unwrap().octets();
    connect(fd.as_raw_fd(), &SockaddrIn::new(a, b, c, d, 80)).unwrap();
    fd.into()
}

#[test]
fn tcp_udp_and_icmp_go_out_and_come_back() {
    let (world, beyond) = Beyond::world("");
    world.vpc("blue", "10.0.0.0/24");
    let server = beyond.udp_server(FAR, 53, 1);
    let asker = world.run("busybox", &["--vpc", "blue"], &["sleep", "600"]);
    let answer = world.in_container(&asker, || ask_udp(format!("{FAR}:53").parse().unwrap(), "question"));
    assert_eq!(answer.unwrap(), format!("question from {HOST}"));
    server.join().unwrap();
    client(&world, "blue", &format!("ping -c 2 -W 2 {FAR}")).ok();
    // Larger than any frame: in fragments, there and back.
    client(&world, "blue", &format!("ping -c 2 -W 2 -s 4000 {FAR}")).ok();
    let server = beyond.tcp_server(FAR, 80, 1);
    let answer = client(&world, "blue", &format!("echo hello | nc -w 3 {FAR} 80")).ok().stdout;
    assert_eq!(answer.trim(), format!("hello from {HOST}"));
    server.join().unwrap();
    // An error about it comes back to who has asked.
    let refused = client(&world, "blue", &format!("time nc -w 5 {FAR} 81 </dev/null"));
    assert!(refused.code != 0 && refused.stderr.contains("refused"), "{refused:?}");
    let traced = client(&world, "blue", &format!("traceroute -n -w 2 -q 1 -m 3 {FAR}")).ok().stdout;
    assert!(traced.contains(HOST) && traced.contains(FAR), "the host is the first hop: {traced}");
    world.remove_all();
    world.assert_clean();
}

#[test]
fn a_vpc_without_internet_and_the_host_itself_are_out_of_reach() {
    let (world, beyond) = Beyond::world("");
    world.cc(&["vpc", "create", "--no-internet", "--cidr", "10.0.0.0/24", "--name", "inner"]).ok();
    world.vpc("blue", "10.0.0.0/24");
    let run = |vpc| world.run("busybox", &["--vpc", vpc], &["sleep", "600"]);
    let (inner, blue) = (run("inner"), run("blue"));
    let ping = |id: &str, to: &str| {
        let netns = cc_tests::netns::Netns::of_pid(world.pid(id)).unwrap();
        netns.command("busybox").args(["ping", "-c", "1", "-W", "1", to]).output().unwrap().status.success()
    };
    assert!(ping(&blue, FAR) && ping(&blue, ROUTER));
    assert!(!ping(&inner, FAR));
    assert_eq!(world.drops(&inner, "no_internet"), 1);
    for closed in [HOST, "198.18.0.1", "127.0.0.1", "169.254.169.254"] {
        let before = world.drops(&blue, "closed_destination");
        // Its own loopback never leaves it.
        if closed == "127.0.0.1" {
            continue;
        }
        assert!(!ping(&blue, closed), "{closed}");
        assert_eq!(world.drops(&blue, "closed_destination"), before + 1, "{closed}");
    }
    // Until a rule names it.
    world.cc(&["group", "allow", "blue", "egress", "--proto", "icmp", "--to", &format!("{HOST}/32")]).ok();
    assert!(ping(&blue, HOST), "the host answers whom a rule lets in");
    // Its broadcasts are nobody's, and neither is what no route leads to.
    world.cc(&["group", "allow", "blue", "egress", "--proto", "udp", "--to", &format!("{HOST}/32")]).ok();
    world.cc(&["group", "allow", "blue", "egress", "--proto", "udp", "--to", "192.0.2.255/32"]).ok();
    let listener = world.netns.run(|| std::net::UdpSocket::bind("0.0.0.0:9999").unwrap()).unwrap();
    listener.set_nonblocking(true).unwrap();
    let before = world.drops(&blue, "no_way_out");
    world.in_container(&blue, || {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.send_to(b"x", "192.0.2.255:9999").unwrap();
        socket.send_to(b"x", format!("{HOST}:9999")).unwrap();
    });
    let (_, from) = eventually("the host hears it", Duration::from_secs(3), || listener.recv_from(&mut [0; 8]).ok());
    assert!(from.ip().to_string().starts_with("198.18."), "{from}");
    assert!(listener.recv_from(&mut [0; 8]).is_err(), "and hears no broadcast");
    assert_eq!(world.drops(&blue, "no_way_out"), before + 1);
    // An address that the host gets later is closed as well.
    let add = world.netns.command("ip").args(["addr", "add", "192.0.2.77/24", "dev", "up0"]).status().unwrap();
    assert!(add.success());
    eventually("the new address is closed", Duration::from_secs(5), || {
        let before = world.drops(&blue, "closed_destination");
        ping(&blue, "192.0.2.77");
        (world.drops(&blue, "closed_destination") > before).then_some(())
    });
    drop(beyond);
    world.remove_all();
    world.assert_clean();
}

#[test]
fn a_changed_address_or_route_is_taken_by_conversations_that_are_there() {
    let (world, beyond) = Beyond::world("");
    world.vpc("blue", "10.0.0.0/24");
    let id = world.run("busybox", &["--vpc", "blue"], &["sleep", "600"]);
    let server = beyond.netns.run(|| std::net::UdpSocket::bind((FAR, 53)).unwrap()).unwrap();
    server.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    // One socket, which goes on as a name server's or a tunnel's does.
    let client = world.in_container(&id, || std::net::UdpSocket::bind("0.0.0.0:5000").unwrap());
    let heard_from = || {
        client.send_to(b"x", (FAR, 53)).unwrap();
        let (_, from) = server.recv_from(&mut [0; 8]).unwrap();
        server.send_to(b"y", from).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        client.recv_from(&mut [0; 8]).unwrap();
        from.ip().to_string()
    };
    assert_eq!(heard_from(), HOST);
    let ip = |words: &str| {
        let done = world.netns.command("ip").args(words.split(' ')).status().unwrap();
        assert!(done.success(), "{words}");
    };
    ip("addr add 192.0.2.9/24 dev up0");
    ip("route replace default via 192.0.2.254 dev up0 src 192.0.2.9");
    eventually("the new address is used", Duration::from_secs(5), || (heard_from() == "192.0.2.9").then_some(()));
    world.remove_all();
    world.assert_clean();
}

/// Whoever sends what does not fit is told, so that TCP finds its way through a smaller uplink.
#[test]
fn what_does_not_fit_the_uplink_is_told() {
    let (world, beyond) = Beyond::world("");
    dual_stack::vpc(&world, "green");
    let id = world.run("busybox", &["--vpc", "green", "--mtu", "1500"], &["sleep", "600"]);
    // The far end does not know of it.
    assert!(world.netns.command("ip").args(["link", "set", "up0", "mtu", "1400"]).status().unwrap().success());
    for far in [FAR, FAR6] {
        // As large as the container's own MTU lets it be, once it believes that everything is.
        let listener = beyond.netns.run(move || std::net::TcpListener::bind((far, 80)).unwrap()).unwrap();
        let reader = std::thread::spawn(move || {
            use std::io::Read as _;
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            all.len()
        });
        world.in_container(&id, move || {
            use std::io::Write as _;
            let mut stream = std::net::TcpStream::connect((far, 80)).unwrap();
            stream.write_all(&vec![7; 1_000_000]).unwrap();
        });
        assert_eq!(reader.join().unwrap(), 1_000_000, "{far}");
    }
    assert!(world.drops(&id, "too_big") > 0);
    world.remove_all();
    world.assert_clean();
}

#[test]
fn ipv6_goes_out_by_the_hosts_address() {
    let (world, beyond) = Beyond::world("");
    dual_stack::vpc(&world, "green");
    client(&world, "green", &format!("ping -6 -c 2 -W 2 {FAR6}")).ok();
    let server = beyond.tcp_server(FAR6, 80, 1);
    let answer = client(&world, "green", &format!("echo hello | nc -w 3 {FAR6} 80")).ok().stdout;
    assert_eq!(answer.trim(), format!("hello from {HOST6}"));
    server.join().unwrap();
    let server = beyond.udp_server(FAR6, 53, 1);
    let asker = world.run("busybox", &["--vpc", "green"], &["sleep", "600"]);
    let answer = world.in_container(&asker, || ask_udp(format!("[{FAR6}]:53").parse().unwrap(), "question"));
    assert_eq!(answer.unwrap(), format!("question from {HOST6}"));
    server.join().unwrap();
    world.remove_all();
    world.assert_clean();
}
