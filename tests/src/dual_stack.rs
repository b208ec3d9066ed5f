//! A dual-stack VPC as tests have it, its containers' addresses, and an ear at one of them. Refuses ranges other than the one that
//! every such VPC here has: equal ranges are the harder case.

use std::net::Ipv6Addr;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::netns::Netns;
use crate::packet::Wire;
use crate::world::World;

/// Far longer than a frame takes.
const ASKS_EVERY: Duration = Duration::from_millis(50);
/// What was sent before nobody listens any more has arrived after that time.
const ON_THE_WAY: Duration = Duration::from_millis(500);

/// With 10.0.0.0/24 and fd00:1::/64; returns its id.
pub fn vpc(world: &World, name: &str) -> String {
    let args = ["vpc", "create", "--cidr", "10.0.0.0/24", "--cidr6", "fd00:1::/64", "--name", name, "-q"];
    world.cc(&args).line()
}

/// A host part of the range.
pub fn host(part: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, part)
}

/// Without the prefix length.
pub fn ip6(world: &World, id: &str) -> Ipv6Addr {
    let text = world.inspect(id)["ipv6"].as_str().expect("it has an IPv6 address").to_owned();
    text.split('/').next().unwrap_or_default().parse().expect("an IPv6 address")
}

pub fn mac(world: &World, id: &str) -> [u8; 6] {
    let text = world.inspect(id)["mac"].as_str().expect("it has a MAC").to_owned();
    let bytes: Vec<u8> = text.split(':').map(|b| u8::from_str_radix(b, 16).expect("hexadecimal digits")).collect();
    bytes.try_into().expect("six bytes")
}

/// Hears what comes to a container, from its making on.
#[derive(Debug)]
pub struct Ear {
    hearing: std::thread::JoinHandle<Vec<Vec<u8>>>,
    enough: mpsc::Sender<()>,
    own: [u8; 6],
}

impl Ear {
    pub fn at(world: &World, id: &str) -> Ear {
        let netns = Netns::of_pid(world.pid(id)).expect("the container runs");
        let (open, opened) = mpsc::channel();
        let (enough, asked) = mpsc::channel();
        let ear = std::thread::spawn(move || {
            let hear = move || {
                let wire = Wire::open("eth0").expect("it has an interface");
                open.send(()).expect("somebody waits for it");
                let mut heard = Vec::new();
                let mut hear = |time| heard.extend(wire.hear(Instant::now() + time).expect("the interface stays"));
                while asked.try_recv() == Err(mpsc::TryRecvError::Empty) {
                    hear(ASKS_EVERY);
                }
                hear(ON_THE_WAY);
                heard
            };
            netns.run(hear).expect("the code inside ends")
        });
        // Nothing is sent before somebody listens.
        opened.recv().expect("it listens");
        Ear { hearing: ear, enough, own: mac(world, id) }
    }

    /// All that has come until now. Its own kernel reports the groups that it is in, which nobody else hears.
    pub fn heard(self) -> Vec<Vec<u8>> {
        let Ear { hearing, enough, own } = self;
        enough.send(()).expect("it listens until it is told");
        hearing.join().expect("it does not panic").into_iter().filter(|frame| frame[6..12] != own).collect()
    }
}
