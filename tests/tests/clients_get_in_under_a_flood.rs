//! A flood of beginnings from everywhere to a published port: clients get in all the while, who is in stays in, and the container's own
//! conversations begin.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use cc_tests::beyond::{Beyond, FAR, HOST, HOST6, ask_tcp, interface_mac};
use cc_tests::dual_stack::{ip6, vpc};
use cc_tests::echo::dual_stack_echo_server;
use cc_tests::scapy::{Sending, Talk};
use cc_tests::{World, eventually};
use serde_json::json;

const PORT: u16 = 7;
const SERVICE: u16 = 8080;
/// Different ones of each family, and as many as may be half open.
const STRANGERS: u64 = 4_096;
const PER_SECOND: u64 = 5_000;
/// The test ends it before, unless clients do not get in.
const SECONDS: u64 = 60;
/// Each place of the quota changes hands so often on average while clients come, one after the other.
const TURNS: u64 = 8;
/// A beginning that was refused is tried again after a second, as any stack does.
const PATIENCE: Duration = Duration::from_secs(4);

fn echoes(to: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"hello")?;
    stream.read_exact(&mut [0; 5])
}

#[test]
fn by_both_families() {
    let (world, beyond) = Beyond::world("");
    vpc(&world, "blue");
    let publish = format!("{SERVICE}:{PORT}");
    let web = world.run("busybox", &["--vpc", "blue", "-p", &publish], &["sleep", "600"]);
    dual_stack_echo_server(&world, &web, PORT);
    let service = [HOST, HOST6].map(|host| SocketAddr::new(host.parse().unwrap(), SERVICE));
    let talks = service.map(|to| Talk::begin(&beyond.netns, to));
    let told = json!({
        "what": "flood for a while", "seconds": SECONDS, "per_second": PER_SECOND, "count": STRANGERS,
        "interface": "wan0", "port": SERVICE, "host": HOST, "host6": HOST6,
        "mac": interface_mac(&beyond.netns, "wan0"), "host_mac": interface_mac(&world.netns, "up0"),
        "inner": world.address(&web), "inner6": ip6(&world, &web).to_string(),
    });
    let mut flood = Sending::begin(&world, &beyond.netns, "outside.py", told);
    let recycled = |world: &World| world.drops(&web, "half_open_recycled");
    // Scapy makes the frames first.
    let before = eventually("the quota is reached", Duration::from_secs(60), || {
        Some(recycled(&world)).filter(|&recycled| recycled > 0)
    });
    let (mut clients, mut failed, mut displaced) = (0, Vec::new(), 0);
    while displaced < TURNS * STRANGERS {
        for to in service {
            clients += 1;
            failed.extend(beyond.netns.run(move || echoes(to)).unwrap().err());
        }
        displaced = recycled(&world) - before;
        assert!(flood.goes_on(), "the flood is there all the while: {displaced} displaced, {clients} clients");
    }
    assert!(failed.is_empty(), "{} of {clients} did not get in: {failed:?}", failed.len());
    // Out of the container, to whoever it wants.
    let server = beyond.tcp_server(FAR, 9_000, 5);
    for _ in 0..5 {
        let to = SocketAddr::new(FAR.parse().unwrap(), 9_000);
        let answer = world.in_container(&web, move || ask_tcp(to, "who")).unwrap();
        assert_eq!(answer, format!("who from {HOST}"));
    }
    server.join().unwrap();
    assert!(flood.goes_on());
    drop(flood);
    for talk in talks {
        assert!(talk.end() > 100, "who is in stays in");
    }
    world.remove_all();
    world.assert_clean();
}
