//! What is open while something happens to the daemon, and what it suffers by that: streams, talks, and probes that must not arrive.
//! Refuses to judge: it says what was.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::netns::Netns;

/// Longer than anything may stand still, so that a failure is told as such.
const PATIENCE: Duration = Duration::from_secs(10);
const STREAMS_EVERY: Duration = Duration::from_millis(1);
const TALKS_EVERY: Duration = Duration::from_millis(5);
const NEWCOMERS_EVERY: Duration = Duration::from_millis(20);
const PROBES_EVERY: Duration = Duration::from_millis(1);
/// How often whoever waits for a datagram looks whether all is over.
const LOOK: Duration = Duration::from_millis(50);
/// What a stream says again and again: no power of two, so that what is lost or moved shows.
const PATTERN: usize = 251;
const BLOCK: usize = 64 << 10;

/// How something goes on.
#[derive(Debug, Default)]
struct Progress {
    over: AtomicBool,
    count: AtomicU64,
    /// Since the first, and what of it was the longest time without the next one.
    last_ns: AtomicU64,
    longest_ns: AtomicU64,
    failed: Mutex<Option<String>>,
}

impl Progress {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    fn went_on(&self, began: Instant, by: u64) {
        let now = nanoseconds(began.elapsed());
        let last = self.last_ns.swap(now, Ordering::SeqCst);
        self.longest_ns.fetch_max(now.saturating_sub(last), Ordering::SeqCst);
        self.count.fetch_add(by, Ordering::SeqCst);
    }

    fn failed(&self, why: impl ToString) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.get_or_insert(why.to_string());
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).expect("a test is shorter than centuries")
}

/// Something that goes on by itself until it is ended.
#[derive(Debug)]
pub struct Conversation {
    progress: Arc<Progress>,
    began: Instant,
    threads: Vec<JoinHandle<()>>,
}

impl Conversation {
    /// Bytes or answers so far.
    pub fn count(&self) -> u64 {
        self.progress.count.load(Ordering::SeqCst)
    }

    /// The longest time without progress since this was asked last, the present one included.
    pub fn longest_gap(&self) -> Duration {
        let since = nanoseconds(self.began.elapsed()).saturating_sub(self.progress.last_ns.load(Ordering::SeqCst));
        Duration::from_nanos(self.progress.longest_ns.swap(0, Ordering::SeqCst).max(since))
    }

    /// Why it ended by itself, if it did.
    pub fn failure(&self) -> Option<String> {
        self.progress.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One way, half a gigabit a second at most: as fast as it goes, two would leave the machine no time for a daemon. The receiver compares
    /// every byte.
    pub fn stream(from: &Netns, at: &Netns, to: SocketAddr) -> Conversation {
        let (sender, mut receiver) = connection(from, at, to);
        receiver.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let (progress, began) = (Arc::new(Progress::default()), Instant::now());
        let pattern: Arc<Vec<u8>> = Arc::new((0..BLOCK + PATTERN).map(|n| (n % PATTERN) as u8).collect());
        let send = {
            let (progress, pattern, mut sender) = (Arc::clone(&progress), Arc::clone(&pattern), sender);
            move || {
                let mut at = 0;
                while !progress.is_over() {
                    match sender.write(&pattern[at..][..BLOCK]) {
                        Ok(sent) => at = (at + sent) % PATTERN,
                        Err(error) => return progress.failed(format!("sending: {error}")),
                    }
                    std::thread::sleep(STREAMS_EVERY);
                }
            }
        };
        let receive = {
            let progress = Arc::clone(&progress);
            move || {
                let (mut at, mut heard) = (0, vec![0; BLOCK]);
                loop {
                    match receiver.read(&mut heard) {
                        Ok(0) if progress.is_over() => return,
                        Ok(0) => return progress.failed("the stream ended"),
                        Ok(read) if heard[..read] != pattern[at..][..read] => {
                            return progress.failed("bytes were lost, or came in another order");
                        }
                        Ok(read) => {
                            at = (at + read) % PATTERN;
                            progress.went_on(began, read as u64);
                        }
                        Err(error) => return progress.failed(format!("receiving: {error}")),
                    }
                }
            }
        };
        let threads = vec![std::thread::spawn(send), std::thread::spawn(receive)];
        Conversation { progress, began, threads }
    }

    /// A word and its answer, again and again, with a server that echoes.
    pub fn talk(from: &Netns, to: SocketAddr) -> Conversation {
        let mut stream = connect(from, to);
        let mut word = 0_u64;
        Conversation::again_and_again(TALKS_EVERY, move || {
            word += 1;
            stream.write_all(&word.to_be_bytes())?;
            let mut answer = [0; 8];
            stream.read_exact(&mut answer)?;
            if u64::from_be_bytes(answer) == word { Ok(()) } else { Err(io::Error::other("another answer")) }
        })
    }

    /// The same by datagrams, with a server that also says where they come from: not one may be lost, and the port stays.
    pub fn talk_udp(from: &Netns, to: SocketAddr) -> Conversation {
        let socket = datagrams(from, any(to), to);
        socket.set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout");
        let (mut word, mut port) = (0_u64, None);
        Conversation::again_and_again(TALKS_EVERY, move || {
            word += 1;
            socket.send(&word.to_be_bytes())?;
            let mut answer = [0; 16];
            let read = socket.recv(&mut answer)?;
            let (said, seen) = answer[..read].split_at(8.min(read));
            if said != word.to_be_bytes() {
                return Err(io::Error::other("another answer"));
            }
            if *port.get_or_insert_with(|| seen.to_vec()) != seen {
                return Err(io::Error::other(format!("it came from {port:?}, and comes from {seen:?}")));
            }
            Ok(())
        })
    }

    /// One connection after the other, a word on each: who comes now may have to try again, and is never refused.
    pub fn newcomers(from: &Netns, to: SocketAddr) -> Conversation {
        let from = from.try_clone().expect("a descriptor can be copied");
        Conversation::again_and_again(NEWCOMERS_EVERY, move || {
            let talk = move || {
                let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.write_all(b"hello")?;
                stream.read_exact(&mut [0; 5])
            };
            from.run(talk).expect("the code inside ends")
        })
    }

    fn again_and_again(pause: Duration, mut step: impl FnMut() -> io::Result<()> + Send + 'static) -> Conversation {
        let (progress, began) = (Arc::new(Progress::default()), Instant::now());
        let talker = Arc::clone(&progress);
        let thread = std::thread::spawn(move || {
            while !talker.is_over() {
                match step() {
                    Ok(()) => talker.went_on(began, 1),
                    Err(error) => return talker.failed(error),
                }
                std::thread::sleep(pause);
            }
        });
        Conversation { progress, began, threads: vec![thread] }
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.progress.over.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Datagrams to somebody who listens, one each millisecond.
#[derive(Debug)]
pub struct Probe {
    over: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Probe {
    /// From an address, unless it is unspecified, to `to` as it is called there; heard at `at` inside `listener`.
    pub fn start((from, address): (&Netns, IpAddr), to: SocketAddr, listener: &Netns, at: SocketAddr) -> Probe {
        let socket = datagrams(from, address, to);
        let ear = listener.run(move || UdpSocket::bind(at).expect("the port is free")).expect("the code inside ends");
        ear.set_read_timeout(Some(LOOK)).expect("a timeout");
        let (over, sent, received) =
            (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let send = {
            let (over, sent) = (Arc::clone(&over), Arc::clone(&sent));
            move || {
                let mut next = Instant::now();
                while !over.load(Ordering::SeqCst) {
                    // What it is late by is made up for.
                    next += PROBES_EVERY;
                    std::thread::sleep(next.saturating_duration_since(Instant::now()));
                    if socket.send(b"probe").is_ok() {
                        sent.fetch_add(1, Ordering::SeqCst);
                    }
                }
            }
        };
        let hear = {
            let (over, received) = (Arc::clone(&over), Arc::clone(&received));
            move || {
                while !over.load(Ordering::SeqCst) {
                    if ear.recv(&mut [0; 16]).is_ok() {
                        received.fetch_add(1, Ordering::SeqCst);
                    }
                }
            }
        };
        Probe { over, sent, received, threads: vec![std::thread::spawn(send), std::thread::spawn(hear)] }
    }

    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    pub fn received(&self) -> u64 {
        self.received.load(Ordering::SeqCst)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Connected, and patient.
pub fn connect(from: &Netns, to: SocketAddr) -> TcpStream {
    let connect = move || TcpStream::connect_timeout(&to, PATIENCE);
    let stream = from.run(connect).expect("the code inside ends").unwrap_or_else(|error| panic!("{to}: {error}"));
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_nodelay(true).expect("an option");
    stream
}

/// Both ends: of who connects, and of who is connected to.
fn connection(from: &Netns, at: &Netns, to: SocketAddr) -> (TcpStream, TcpStream) {
    let listener = at.run(move || TcpListener::bind(to).expect("the port is free")).expect("the code inside ends");
    let stream = connect(from, to);
    (stream, listener.accept().expect("it has connected").0)
}

/// Of its family.
pub fn any(to: SocketAddr) -> IpAddr {
    if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

fn datagrams(from: &Netns, address: IpAddr, to: SocketAddr) -> UdpSocket {
    let bind = move || UdpSocket::bind((address, 0)).and_then(|socket| socket.connect(to).map(|()| socket));
    from.run(bind).expect("the code inside ends").expect("there is a way")
}
