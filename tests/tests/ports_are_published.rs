//! A port of the host leads to a container: from outside with the client's address, from the host itself, from other containers; and
//! nobody else has it.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use cc_tests::beyond::{Beyond, HOST, HOST6, ROUTER, ROUTER6, ask_tcp, ask_udp};
use cc_tests::{Leave, World, dual_stack, eventually};

/// Tells each client who it is, as the container sees it. Ends with the test.
fn tcp_server(world: &World, id: &str, port: u16) -> JoinHandle<()> {
    let listener = world.in_container(id, move || TcpListener::bind(("::", port)).unwrap());
    std::thread::spawn(move || {
        let over = Arc::new(AtomicBool::new(false));
        while let Ok((mut stream, peer)) = listener.accept() {
            if over.load(Ordering::SeqCst) {
                return;
            }
            let over = Arc::clone(&over);
            std::thread::spawn(move || {
                let _ = stream.set_read_timeout(Some(Duration::from_secs(20)));
                let mut line = [0; 64];
                let read = stream.read(&mut line).unwrap_or(0);
                over.fetch_or(line[..read].starts_with(b"end"), Ordering::SeqCst);
                let _ = writeln!(stream, "you are {}", peer.ip().to_canonical());
            });
        }
    })
}

fn udp_server(world: &World, id: &str, port: u16) -> JoinHandle<()> {
    let socket = world.in_container(id, move || UdpSocket::bind(("::", port)).unwrap());
    std::thread::spawn(move || {
        let mut line = [0; 64];
        while let Ok((read, peer)) = socket.recv_from(&mut line) {
            if &line[..read] == b"end" {
                return;
            }
            let _ = socket.send_to(format!("you are {}", peer.ip().to_canonical()).as_bytes(), peer);
        }
    })
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

/// Inside the container, by its loopback.
fn end(world: &World, id: &str, port: u16, servers: Vec<JoinHandle<()>>) {
    world.in_container(id, move || {
        // Once it has said so, the next one ends it.
        let _ = ask_tcp(at("127.0.0.1", port), "end");
        let _ = TcpStream::connect(("127.0.0.1", port));
        let _ = UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"end", ("127.0.0.1", port));
    });
    for server in servers {
        server.join().unwrap();
    }
}

#[test]
fn clients_from_outside_keep_their_address() {
    let (world, beyond) = Beyond::world("");
    dual_stack::vpc(&world, "blue");
    let options = ["--vpc", "blue", "--name", "web", "-p", "8080:80", "-p", "8080:80/udp"];
    let web = world.run("busybox", &options, &["sleep", "600"]);
    let servers = vec![tcp_server(&world, &web, 80), udp_server(&world, &web, 80)];
    for (host, client) in [(HOST, ROUTER), (HOST6, ROUTER6)] {
        assert_eq!(beyond.ask_tcp(at(host, 8080), "who").unwrap(), format!("you are {client}"));
        assert_eq!(beyond.ask_udp(at(host, 8080), "who").unwrap(), format!("you are {client}"));
    }
    let ports = &world.cc(&["inspect", "web"]).json()[0]["spec"]["publish"];
    assert_eq!(ports, &serde_json::json!(["8080:80/tcp", "8080:80/udp"]));
    assert!(world.cc(&["ps"]).ok().stdout.contains("8080:80/tcp, 8080:80/udp"));
    // Another port of the host is the host's.
    let refused = beyond.ask_tcp(at(HOST, 8081), "who").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    // A rule may shut it for some.
    world.cc(&["group", "deny", "blue", "ingress", "--proto", "tcp", "--from", &format!("{ROUTER}/32")]).ok();
    assert!(beyond.ask_tcp(at(HOST, 8080), "who").is_err());
    assert!(world.drops(&web, "firewall_ingress") > 0);
    end(&world, &web, 80, servers);
    world.remove_all();
    world.assert_clean();
}

#[test]
fn the_hosts_own_programs_reach_it_by_any_address() {
    let (world, _beyond) = Beyond::world("");
    dual_stack::vpc(&world, "blue");
    let web = world.run("busybox", &["--vpc", "blue", "-p", "8080:80", "-p", "8080:80/udp"], &["sleep", "600"]);
    let servers = vec![tcp_server(&world, &web, 80), udp_server(&world, &web, 80)];
    for (address, client) in [
        ("127.0.0.1", "198.18.0.1"),
        (HOST, "198.18.0.1"),
        ("::1", "fd63:6c6f:7564::1"),
        (HOST6, "fd63:6c6f:7564::1"),
        ("::ffff:127.0.0.1", "198.18.0.1"),
    ] {
        let to = at(address, 8080);
        let answers = world.netns.run(move || (ask_tcp(to, "who"), ask_udp(to, "who"), told(to))).unwrap();
        let (tcp, udp, told) = answers;
        assert_eq!(tcp.unwrap(), format!("you are {client}"), "{address}");
        assert_eq!(udp.unwrap(), format!("you are {client}"), "{address}");
        assert_eq!(told, [to; 2], "what it is told is what it meant");
    }
    // The host's own servers are where they were.
    let listener = world.netns.run(|| TcpListener::bind("127.0.0.1:8081").unwrap()).unwrap();
    assert!(world.netns.run(|| TcpStream::connect("127.0.0.1:8081").is_ok()).unwrap());
    drop(listener);
    // A container's loopback is its own, and what only the host can name is nobody else's.
    let other = world.run("busybox", &["--vpc", "blue"], &["sleep", "600"]);
    assert!(world.in_container(&other, || ask_tcp(at("127.0.0.1", 8080), "who")).is_err());
    let stand_in = world.inspect(&web)["endpoint"].as_u64().unwrap() as u32 + 2 + u32::from_be_bytes([198, 18, 0, 0]);
    let stand_in = SocketAddr::new(std::net::Ipv4Addr::from(stand_in).into(), 8080);
    assert!(world.netns.run(move || ask_tcp(stand_in, "who")).unwrap().is_ok());
    assert!(world.in_container(&other, move || ask_tcp(stand_in, "who")).is_err());
    // Only what is published, even so.
    let unpublished = SocketAddr::new(stand_in.ip(), 80);
    assert!(world.netns.run(move || ask_tcp(unpublished, "who")).unwrap().is_err());
    end(&world, &web, 80, servers);
    world.remove_all();
    world.assert_clean();
}

/// Whom a connected socket is told to be connected to, and one that is not to have heard from.
fn told(to: SocketAddr) -> [SocketAddr; 2] {
    let connected = TcpStream::connect(to).unwrap().peer_addr().unwrap();
    let any: SocketAddr = if to.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    socket.send_to(b"who", to).unwrap();
    let (_, from) = socket.recv_from(&mut [0; 64]).unwrap();
    [connected, from]
}

#[test]
fn a_port_at_the_hosts_loopback_is_the_hosts_alone() {
    let (world, beyond) = Beyond::world("");
    world.vpc("blue", "10.0.0.0/24");
    let web = world.run("busybox", &["--vpc", "blue", "-p", "127.0.0.1:8080:80"], &["sleep", "600"]);
    let servers = vec![tcp_server(&world, &web, 80)];
    let own = |to| world.netns.run(move || ask_tcp(to, "who")).unwrap();
    assert_eq!(own(at("127.0.0.1", 8080)).unwrap(), "you are 198.18.0.1");
    assert!(own(at(HOST, 8080)).is_err() && beyond.ask_tcp(at(HOST, 8080), "who").is_err());
    // A frame that says it is for the loopback does not get in either.
    assert!(beyond.ask_tcp(at("127.0.0.1", 8080), "who").is_err());
    let other = world.run("busybox", &["--vpc", "blue"], &["sleep", "600"]);
    assert!(world.in_container(&other, || ask_tcp(at(HOST, 8080), "who")).is_err());
    end(&world, &web, 80, servers);
    world.remove_all();
    world.assert_clean();
}

#[test]
fn ports_come_and_go_while_a_container_runs() {
    let (mut world, beyond) = Beyond::world("");
    world.vpc("blue", "10.0.0.0/24");
    let web = world.run("busybox", &["--vpc", "blue", "--name", "web"], &["sleep", "600"]);
    let servers = vec![tcp_server(&world, &web, 80)];
    assert!(beyond.ask_tcp(at(HOST, 8080), "who").is_err());
    world.cc(&["publish", "web", "8080:80"]).ok();
    assert_eq!(beyond.ask_tcp(at(HOST, 8080), "who").unwrap(), format!("you are {ROUTER}"));
    // A connection that stays open, for what follows.
    let open = |said: &'static str| {
        beyond
            .netns
            .run(move || {
                let stream = TcpStream::connect_timeout(&at(HOST, 8080), Duration::from_secs(3))?;
                stream.set_read_timeout(Some(Duration::from_secs(2)))?;
                Ok::<_, std::io::Error>((stream, said))
            })
            .unwrap()
    };
    // It outlives the daemon, and so do its connections.
    let (mut stream, _) = open("kept").unwrap();
    world.leave(Leave::Killed);
    assert_eq!(beyond.ask_tcp(at(HOST, 8080), "who").unwrap(), format!("you are {ROUTER}"), "without a daemon");
    world.start();
    assert_eq!(beyond.ask_tcp(at(HOST, 8080), "who").unwrap(), format!("you are {ROUTER}"), "under the next one");
    stream.write_all(b"still there\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer.trim(), format!("you are {ROUTER}"));
    // Taken back: nobody new gets in, and who is in gets no further.
    let (mut stream, _) = open("ended").unwrap();
    world.cc(&["unpublish", "web", "8080:80"]).ok();
    assert!(beyond.ask_tcp(at(HOST, 8080), "who").is_err());
    stream.write_all(b"still there\n").unwrap();
    let mut answer = String::new();
    assert!(stream.read_to_string(&mut answer).is_err() || answer.is_empty(), "{answer}");
    world.cc(&["unpublish", "web", "8080:80"]).fails(1, "not published");
    // The server still waits for that client; it gives up.
    end(&world, &web, 80, servers);
    // A stopped container has no ports, and one that is gone gives them back.
    world.cc(&["publish", "web", "8080:80"]).ok();
    world.cc(&["stop", "-t", "0", "web"]).ok();
    world.cc(&["publish", "web", "8081:80"]).fails(1, "not running");
    let other = world.run("busybox", &["--vpc", "blue", "-p", "8080:80"], &["sleep", "600"]);
    world.cc(&["rm", "-f", &other]).ok();
    world.remove_all();
    world.assert_clean();
}

#[test]
fn conflicts_are_refused_with_the_owners_name() {
    let (world, _beyond) = Beyond::world("");
    world.vpc("blue", "10.0.0.0/24");
    world.run("busybox", &["--vpc", "blue", "--name", "web", "-p", "8080:80"], &["sleep", "600"]);
    let image = world.image("busybox");
    let run = |options: &[&str]| {
        world.cc(&[&["run", "-d", "--image", image.as_str(), "--vpc", "blue"], options, &["sleep", "600"]].concat())
    };
    run(&["-p", "8080:81"]).fails(125, "container web");
    run(&["-p", &format!("{HOST}:8080:81")]).fails(125, "container web");
    run(&["-p", "192.0.2.99:8081:81"]).fails(125, "no address of this host");
    run(&["-p", "61100:81"]).fails(125, "leased");
    let listener = world.netns.run(|| TcpListener::bind("0.0.0.0:8090").unwrap()).unwrap();
    run(&["-p", "8090:81"]).fails(125, &format!("({})", std::process::id()));
    drop(listener);
    // Nothing of the refused ones is left, their other ports neither.
    run(&["-p", "8082:82", "-p", "8080:81"]).fails(125, "container web");
    run(&["-p", "8082:82", "-p", "8090:81"]).ok();
    // What is published is held against the host's programs.
    let taken = world.netns.run(|| TcpListener::bind("0.0.0.0:8080").err().map(|e| e.kind())).unwrap();
    assert_eq!(taken, Some(std::io::ErrorKind::AddrInUse));
    world.remove_all();
    eventually("the port is the host's again", Duration::from_secs(5), || {
        world.netns.run(|| TcpListener::bind("0.0.0.0:8080").is_ok()).unwrap().then_some(())
    });
    world.assert_clean();
}

#[test]
fn other_containers_come_by_the_host() {
    let (world, _beyond) = Beyond::world("");
    world.vpc("blue", "10.0.0.0/24");
    world.vpc("red", "10.0.0.0/24");
    let run = |options: &[&str]| world.run("busybox", options, &["sleep", "600"]);
    let web = run(&["--vpc", "blue", "-p", "8080:80", "-p", "8080:80/udp"]);
    let (neighbour, stranger) = (run(&["--vpc", "blue"]), run(&["--vpc", "red"]));
    let servers = vec![tcp_server(&world, &web, 80), udp_server(&world, &web, 80)];
    for id in [&neighbour, &stranger, &web] {
        let tcp = world.in_container(id, || ask_tcp(at(HOST, 8080), "who"));
        assert_eq!(tcp.unwrap(), format!("you are {HOST}"), "{id}");
        let udp = world.in_container(id, || ask_udp(at(HOST, 8080), "who"));
        assert_eq!(udp.unwrap(), format!("you are {HOST}"), "{id}");
    }
    // A connection outlives what concerns it not, and goes with its port.
    let open = |id: &str| world.in_container(id, || TcpStream::connect((HOST, 8080)).unwrap());
    let streams = [open(&neighbour), open(&stranger)];
    world.cc(&["publish", &web, "8081:81"]).ok();
    for mut stream in streams {
        stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        stream.write_all(b"who\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer.trim(), format!("you are {HOST}"));
    }
    let streams = [open(&neighbour), open(&stranger)];
    // A rule about the container's own port holds for them as for everybody.
    let deny = ["group", "deny", "blue", "ingress", "--proto", "tcp", "--port", "80", "--from", "0.0.0.0/0"];
    let rule = world.cc(&deny).line();
    for id in [&neighbour, &stranger] {
        assert!(world.in_container(id, || ask_tcp(at(HOST, 8080), "who")).is_err(), "{id}");
    }
    for mut stream in streams {
        stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let _ = stream.write_all(b"who\n");
        let mut answer = String::new();
        assert!(stream.read_to_string(&mut answer).is_err() || answer.is_empty(), "{answer}");
    }
    world.cc(&["group", "revoke", "blue", &rule]).ok();
    let streams = [open(&neighbour), open(&stranger)];
    world.cc(&["unpublish", &web, "8080:80"]).ok();
    for mut stream in streams {
        stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let _ = stream.write_all(b"who\n");
        let mut answer = String::new();
        assert!(stream.read_to_string(&mut answer).is_err() || answer.is_empty(), "{answer}");
    }
    end(&world, &web, 80, servers);
    world.remove_all();
    world.assert_clean();
}
