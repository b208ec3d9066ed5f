//! Scapy's frames, sent from inside a network namespace by the scripts beside this crate's sources; and a conversation that has to notice
//! nothing of them. Refuses to know what is sent: the scripts do.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use crate::netns::Netns;
use crate::world::World;

/// Debian's, which has the package python3-scapy.
const PYTHON: &str = "/usr/bin/python3";
/// Far longer than an answer takes, and shorter than a test.
const PATIENCE: Duration = Duration::from_secs(5);
const LINE_BYTES: usize = 64;

/// Frames that the kernel took, by what they are.
#[derive(Debug)]
pub struct Sent(pub BTreeMap<String, u64>);

impl Sent {
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }
}

/// Runs `script` in a namespace to its end. The script is told `told`.
pub fn send(world: &World, netns: &Netns, script: &str, told: Value) -> Sent {
    Sending::begin(world, netns, script, told).end()
}

/// A script that is sending.
#[derive(Debug)]
pub struct Sending(Child);

impl Sending {
    /// The seed is the test run's.
    pub fn begin(world: &World, netns: &Netns, script: &str, mut told: Value) -> Sending {
        told["seed"] = seed().into();
        println!("CC_TEST_SEED={} {script} {told}", seed());
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scapy").join(script);
        let mut command = netns.command(PYTHON);
        // What it keeps of itself goes with the world, and nothing is compiled beside the sources.
        command.arg("-B").arg(path).arg(told.to_string()).env("HOME", world.path(""));
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        Sending(command.spawn().expect("python3 can be run; run `cargo xtask setup`"))
    }

    pub fn goes_on(&mut self) -> bool {
        self.0.try_wait().expect("it is our child").is_none()
    }

    /// Waits until it has sent everything.
    pub fn end(mut self) -> Sent {
        let mut said = String::new();
        self.0.stdout.take().expect("it is piped").read_to_string(&mut said).expect("it is text");
        let status = self.0.wait().expect("it is our child");
        assert!(status.success(), "it ended with {status}");
        let said: Value = serde_json::from_str(&said).expect("it says what was taken");
        let taken = said["taken"].as_object().expect("frames by class");
        Sent(taken.iter().map(|(kind, count)| (kind.clone(), count.as_u64().expect("a count"))).collect())
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn seed() -> u64 {
    std::env::var("CC_TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// A connection to an echoing server on which something is always under way.
#[derive(Debug)]
pub struct Talk {
    pub local: SocketAddr,
    over: Arc<AtomicBool>,
    talking: JoinHandle<u64>,
}

impl Talk {
    pub fn begin(netns: &Netns, to: SocketAddr) -> Talk {
        let connect = move || TcpStream::connect_timeout(&to, PATIENCE);
        let stream = netns.run(connect).expect("the code inside ends").expect("the server answers");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_nodelay(true).expect("a socket's option");
        let local = stream.local_addr().expect("it is connected");
        let over = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&over);
        let talking = std::thread::spawn(move || talk(stream, &until));
        Talk { local, over, talking }
    }

    /// Ends it; says how many lines came back as they were sent. Panics if one did not.
    pub fn end(self) -> u64 {
        self.over.store(true, Ordering::SeqCst);
        self.talking.join().expect("not a byte is lost")
    }
}

fn talk(mut stream: TcpStream, over: &AtomicBool) -> u64 {
    let mut lines = 0u64;
    while !over.load(Ordering::SeqCst) {
        let mut line = [b'.'; LINE_BYTES];
        line[..8].copy_from_slice(&lines.to_be_bytes());
        stream.write_all(&line).expect("it is connected");
        let mut answer = [0; LINE_BYTES];
        stream.read_exact(&mut answer).expect("the answer comes");
        assert_eq!(answer, line, "as it was sent");
        lines += 1;
    }
    lines
}
