//! Limits of bandwidth: what is sent and what is received keeps to its rate within 5 % over 10 s, over TCP and UDP; a neighbour without a
//! limit notices nothing.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cc_tests::{World, patience};

/// Bytes of frames in a second, on a real machine.
const RATE: u64 = 10_000_000;
const MEASURED: Duration = Duration::from_secs(10);
const TOLERANCE: f64 = 0.05;
const PORT: u16 = 7000;
/// Of a datagram, and of a segment when frames are full: the containers' MTU is 1450 here, as there is no uplink.
const DATAGRAM: u64 = 1400;
const DATAGRAM_FRAME: u64 = DATAGRAM + 8 + 20 + 14;
const SEGMENT: u64 = 1450 - 20 - 32;
const SEGMENT_FRAME: u64 = 1450 + 14;

/// An emulated machine is not that fast.
fn rate() -> u64 {
    RATE / u64::from(patience())
}

#[derive(Clone, Copy, PartialEq)]
enum Over {
    Tcp,
    Udp,
}

/// Sends from one container to another as fast as it may.
struct Stream {
    name: String,
    over: Over,
    received: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Stream {
    fn start(world: &World, name: &str, over: Over, flags: [&[&str]; 2], stop: &Arc<AtomicBool>) -> Stream {
        let ids = flags.map(|own| world.run("busybox", &[&["--vpc", "blue"], own].concat(), &["sleep", "600"]));
        let [from, to] = ids;
        let address = world.address(&to);
        let received = Arc::new(AtomicU64::new(0));
        let (counted, over_receive, over_send) = (Arc::clone(&received), Arc::clone(stop), Arc::clone(stop));
        let wait = Some(Duration::from_millis(200));
        let threads = match over {
            Over::Tcp => {
                let listener = world.in_container(&to, || TcpListener::bind(("0.0.0.0", PORT)).unwrap());
                let mut client =
                    world.in_container(&from, move || TcpStream::connect((address.as_str(), PORT)).unwrap());
                client.set_write_timeout(wait).unwrap();
                let receive = move || {
                    let (mut server, _) = listener.accept().unwrap();
                    server.set_read_timeout(wait).unwrap();
                    let mut bytes = vec![0; 1 << 18];
                    while !over_receive.load(Ordering::SeqCst) {
                        let read = server.read(&mut bytes).unwrap_or(0);
                        counted.fetch_add(read as u64, Ordering::SeqCst);
                    }
                };
                let send = move || {
                    let bytes = vec![0; 1 << 16];
                    while !over_send.load(Ordering::SeqCst) {
                        let _ = client.write(&bytes);
                    }
                };
                vec![std::thread::spawn(receive), std::thread::spawn(send)]
            }
            Over::Udp => {
                let server = world.in_container(&to, || UdpSocket::bind(("0.0.0.0", PORT)).unwrap());
                server.set_read_timeout(wait).unwrap();
                let client = world.in_container(&from, || UdpSocket::bind("0.0.0.0:0").unwrap());
                client.set_write_timeout(wait).unwrap();
                let receive = move || {
                    let mut bytes = [0; 2048];
                    while !over_receive.load(Ordering::SeqCst) {
                        let read = server.recv(&mut bytes).unwrap_or(0);
                        counted.fetch_add(read as u64, Ordering::SeqCst);
                    }
                };
                // Three times what it may, in steps: without a rest it would take a processor for itself.
                let send = move || {
                    let (began, mut sent) = (Instant::now(), 0_u64);
                    while !over_send.load(Ordering::SeqCst) {
                        if sent as f64 <= began.elapsed().as_secs_f64() * (3 * rate()) as f64 {
                            sent +=
                                client.send_to(&[0; DATAGRAM as usize], (address.as_str(), PORT)).unwrap_or(0) as u64;
                        } else {
                            std::thread::sleep(Duration::from_millis(1));
                        }
                    }
                };
                vec![std::thread::spawn(receive), std::thread::spawn(send)]
            }
        };
        Stream { name: name.to_owned(), over, received, threads }
    }

    /// Bytes of frames that have arrived.
    fn frames(&self) -> f64 {
        let payload = self.received.load(Ordering::SeqCst) as f64;
        match self.over {
            Over::Tcp => payload * SEGMENT_FRAME as f64 / SEGMENT as f64,
            Over::Udp => payload * DATAGRAM_FRAME as f64 / DATAGRAM as f64,
        }
    }
}

#[test]
fn each_direction_and_protocol_keeps_to_its_rate() {
    let world = World::new();
    world.vpc("blue", "10.0.0.0/24");
    let stop = Arc::new(AtomicBool::new(false));
    let asked = rate().to_string();
    let (egress, ingress) = (["--egress-bandwidth", asked.as_str()], ["--ingress-bandwidth", asked.as_str()]);
    let limited: Vec<Stream> = [
        ("sent over TCP", Over::Tcp, [&egress[..], &[]]),
        ("sent over UDP", Over::Udp, [&egress[..], &[]]),
        ("received over TCP", Over::Tcp, [&[], &ingress[..]]),
        ("received over UDP", Over::Udp, [&[], &ingress[..]]),
    ]
    .into_iter()
    .map(|(name, over, flags)| Stream::start(&world, name, over, flags, &stop))
    .collect();
    let free = Stream::start(&world, "a neighbour's", Over::Tcp, [&[], &[]], &stop);
    let began = Instant::now();
    let before: Vec<f64> = limited.iter().map(Stream::frames).collect();
    let free_before = free.frames();
    std::thread::sleep(MEASURED);
    let after: Vec<f64> = limited.iter().map(Stream::frames).collect();
    let (free_after, took) = (free.frames(), began.elapsed().as_secs_f64());
    stop.store(true, Ordering::SeqCst);
    let mut wrong = Vec::new();
    for ((stream, before), after) in limited.iter().zip(before).zip(after) {
        let of_rate = (after - before) / took / rate() as f64;
        println!("{}: {of_rate:.4} of its rate", stream.name);
        if (of_rate - 1.0).abs() > TOLERANCE {
            wrong.push(format!("{}: {of_rate:.4} of its rate", stream.name));
        }
    }
    let free_rate = (free_after - free_before) / took;
    println!("a neighbour's: {:.1} MB/s", free_rate / 1e6);
    for thread in limited.into_iter().chain([free]).flat_map(|stream| stream.threads) {
        thread.join().unwrap();
    }
    assert!(wrong.is_empty(), "{wrong:?}");
    assert!(free_rate > 10.0 * rate() as f64, "a neighbour without a limit is held, too: {free_rate}");
    world.remove_all();
    world.assert_clean();
}
