//! The traffic tool of `bench net`: one server and one client, run in any network namespace, on a given CPU, the same for
//! every peer. Refuses to know what lies between the two.
//!
//! A server takes one test per control connection: a letter, then what that test needs.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, setns};
use nix::unistd::Pid;

use super::packets;

const CHUNK_BYTES: usize = 128 * 1024;
/// Of a message of the request/response test.
const RR_BYTES: usize = 1;
pub const UDP_PAYLOAD_BYTES: usize = 64;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Enter this network namespace first, e.g. /run/netns/NAME or /proc/PID/ns/net
    #[arg(long)]
    netns: Option<PathBuf>,
    #[arg(long)]
    cpu: Option<usize>,
    #[command(subcommand)]
    side: Side,
}

#[derive(Debug, clap::Subcommand)]
enum Side {
    /// Serve on this port, TCP and UDP, until killed; says `ready` when it listens
    Server { port: u16 },
    /// Run one test and print its figure
    Client { test: Test, address: Ipv4Addr, port: u16, millis: u64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Test {
    /// One stream; bits per second received
    Tcp,
    /// 64-byte datagrams as fast as they go; packets per second received
    Udp,
    /// One byte there and back; transactions per second
    Rr,
    /// A connection, one byte there, and the end of it, by the server; per second
    Connect,
}

impl Test {
    pub fn name(self) -> &'static str {
        match self {
            Test::Tcp => "tcp",
            Test::Udp => "udp",
            Test::Rr => "rr",
            Test::Connect => "connect",
        }
    }

    fn letter(self) -> u8 {
        self.name().as_bytes()[0]
    }
}

pub fn run(options: &Options) -> Result<()> {
    if let Some(path) = &options.netns {
        enter(path)?;
    }
    if let Some(cpu) = options.cpu {
        let mut set = CpuSet::new();
        set.set(cpu).with_context(|| format!("there is no CPU {cpu}"))?;
        sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("cannot stay on CPU {cpu}"))?;
    }
    match options.side {
        Side::Server { port } => serve(port),
        Side::Client { test, address, port, millis } => {
            let to = SocketAddr::V4(SocketAddrV4::new(address, port));
            println!("{}", client(test, to, Duration::from_millis(millis))?);
            Ok(())
        }
    }
}

pub(super) fn enter(path: &Path) -> Result<()> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    setns(file.as_fd(), CloneFlags::CLONE_NEWNET).with_context(|| format!("cannot enter {}", path.display()))
}

fn serve(port: u16) -> Result<()> {
    let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
    let listener = TcpListener::bind(any).with_context(|| format!("cannot listen on port {port}"))?;
    let datagrams = UdpSocket::bind(any).with_context(|| format!("cannot bind UDP port {port}"))?;
    println!("ready");
    loop {
        let (peer, _) = listener.accept().context("cannot accept")?;
        // A client that goes away mid-test ends its test, not the server.
        if let Err(error) = answer(peer, &datagrams) {
            eprintln!("traffic: {error:#}");
        }
    }
}

fn answer(mut peer: TcpStream, datagrams: &UdpSocket) -> Result<()> {
    peer.set_nodelay(true).context("cannot set TCP_NODELAY")?;
    let mut letter = [0];
    peer.read_exact(&mut letter).context("no test was named")?;
    match letter[0] {
        b't' => {
            let mut buffer = vec![0; CHUNK_BYTES];
            let began = Instant::now();
            let mut bytes = 0u64;
            loop {
                match peer.read(&mut buffer).context("cannot read the stream")? {
                    0 => break,
                    n => bytes += n as u64,
                }
            }
            let bits_per_second = (bytes * 8) as f64 / began.elapsed().as_secs_f64();
            peer.write_all(&bits_per_second.to_be_bytes()).context("cannot report")
        }
        b'u' => {
            let rate = packets::count(datagrams, &mut peer)?;
            peer.write_all(&rate.to_be_bytes()).context("cannot report")
        }
        b'r' => {
            let mut message = [0; RR_BYTES];
            while peer.read_exact(&mut message).is_ok() {
                peer.write_all(&message).context("cannot answer")?;
            }
            Ok(())
        }
        // One of many: the server ends it, so that the client's ports are free again at once.
        b'c' => Ok(()),
        other => bail!("there is no test {other:#x}"),
    }
}

fn client(test: Test, to: SocketAddr, length: Duration) -> Result<f64> {
    if test == Test::Connect {
        return connect(to, length);
    }
    let mut server =
        TcpStream::connect_timeout(&to, Duration::from_secs(5)).with_context(|| format!("cannot reach {to}"))?;
    server.set_nodelay(true).context("cannot set TCP_NODELAY")?;
    server.write_all(&[test.letter()]).context("cannot name the test")?;
    let began = Instant::now();
    match test {
        Test::Tcp => {
            let chunk = vec![0x5a; CHUNK_BYTES];
            while began.elapsed() < length {
                server.write_all(&chunk).context("the stream broke")?;
            }
            server.shutdown(std::net::Shutdown::Write).context("cannot end the stream")?;
            report(&mut server)
        }
        Test::Udp => {
            let mut ready = [0];
            server.read_exact(&mut ready).context("the server is not ready")?;
            packets::send(to, length)?;
            server.write_all(&[0]).context("cannot end the test")?;
            report(&mut server)
        }
        Test::Rr => {
            let mut message = [0x5a; RR_BYTES];
            let mut transactions = 0u64;
            while began.elapsed() < length {
                server.write_all(&message).context("cannot ask")?;
                server.read_exact(&mut message).context("no answer")?;
                transactions += 1;
            }
            Ok(transactions as f64 / began.elapsed().as_secs_f64())
        }
        Test::Connect => bail!("each connection of this test is one of its own"),
    }
}

fn connect(to: SocketAddr, length: Duration) -> Result<f64> {
    let began = Instant::now();
    let mut connections = 0u64;
    while began.elapsed() < length {
        let mut server = TcpStream::connect(to).with_context(|| format!("cannot reach {to}"))?;
        server.write_all(&[Test::Connect.letter()]).context("cannot name the test")?;
        let ended = server.read(&mut [0]).context("the server did not end the connection")?;
        anyhow::ensure!(ended == 0, "the server said something");
        connections += 1;
    }
    Ok(connections as f64 / began.elapsed().as_secs_f64())
}

fn report(server: &mut TcpStream) -> Result<f64> {
    let mut figure = [0; 8];
    server.read_exact(&mut figure).context("the server gave no figure")?;
    Ok(f64::from_be_bytes(figure))
}
