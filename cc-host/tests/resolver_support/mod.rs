//! A network namespace that stands for the host's, in it name servers that say what a test wants, and VPCs with a client each,
//! joined to their resolver's namespace by a veth pair. Everything is gone when the test's thread ends. Refuses to run
//! without root.
#![allow(dead_code, clippy::unwrap_used, reason = "each test uses a part of it, and fails by panicking")]

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cc_host::ids::{ContainerId, Name};
use cc_host::kernel::{local, netns};
use cc_host::resolver::{
    Directory, Entry, Limits, OpenResolver, ResolverCounters, ResolverHandle, Resolvers, Subnet, Upstreams, VpcNames,
};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name as DnsName, RData, Record, RecordType};
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, unshare};
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};
use rtnetlink::packet_route::link::{InfoData, InfoVeth};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Far longer than any answer takes.
pub const PATIENCE: Duration = Duration::from_secs(5);
pub const GATEWAY: &str = "10.0.0.1";
pub const GATEWAY_V6: &str = "fd00::1";

/// Short ones, so that a test of a limit is short.
pub const LIMITS: Limits = Limits {
    outstanding: 64,
    connections: 4,
    idle: Duration::from_millis(300),
    attempt: Duration::from_millis(200),
    attempts: 3,
};

pub struct World {
    pub resolvers: Resolvers,
    pub directory: Arc<Directory>,
    runtime: tokio::runtime::Runtime,
    dir: tempfile::TempDir,
}

/// A VPC called `prod`, whose client has 10.0.0.2 and fd00::2.
pub struct Vpc {
    pub handle: Option<ResolverHandle>,
    pub client: OwnedFd,
}

/// What a name server was asked, and from where.
#[derive(Debug, Clone)]
pub struct Asked {
    pub query: Message,
    pub from: SocketAddr,
    pub tcp: bool,
}

#[derive(Clone, Default)]
pub struct Server(Arc<Mutex<Vec<Asked>>>);

impl World {
    pub fn new() -> World {
        World::with(LIMITS)
    }

    pub fn with(limits: Limits) -> World {
        // The calling thread only, and those that it starts: each test runs on its own.
        unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        configure(None, "lo", &[]);
        let dir = tempfile::tempdir().unwrap();
        let directory = Arc::new(Directory::default());
        let resolv_conf = dir.path().join("resolv.conf");
        std::fs::write(&resolv_conf, "nameserver 127.0.0.1\n").unwrap();
        let resolvers = Resolvers::with(Arc::clone(&directory), runtime.handle().clone(), &resolv_conf, limits);
        World { resolvers, directory, runtime, dir }
    }

    pub fn resolv_conf(&self) -> PathBuf {
        self.dir.path().join("resolv.conf")
    }

    pub fn open(&self, vni: u32, upstreams: Upstreams) -> OpenResolver {
        let subnet = |gateway: &str, prefix_len| Subnet { gateway: gateway.parse().unwrap(), prefix_len };
        let subnets = vec![subnet(GATEWAY, 24), subnet(GATEWAY_V6, 64)];
        self.resolvers.open(vni, VpcNames { name: name("prod"), subnets }, upstreams).unwrap()
    }

    pub fn vpc(&self, vni: u32) -> Vpc {
        self.vpc_with(vni, Upstreams::Host)
    }

    pub fn vpc_with(&self, vni: u32, upstreams: Upstreams) -> Vpc {
        let open = self.open(vni, upstreams);
        let client = join(open.namespace());
        Vpc { handle: Some(open.start().unwrap()), client }
    }

    pub fn publish(&self, vni: u32, n: u8, container: &str, groups: &[&str]) -> ContainerId {
        let id = ContainerId::parse(&format!("{vni:08x}{n:08x}")).unwrap();
        let entry = Entry {
            id: id.clone(),
            name: name(container),
            hostname: format!("{container}-host"),
            groups: groups.iter().map(|group| name(group)).collect(),
            addresses: vec![[10, 0, 0, n].into(), format!("fd00::{n:x}").parse().unwrap()],
        };
        self.directory.publish(vni, entry);
        id
    }

    /// A name server at `address`:53 in the host's namespace. It sends each of the messages that `answer` makes.
    pub fn server(&self, address: &str, answer: impl Fn(&Asked) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Server {
        let at = SocketAddr::new(address.parse().unwrap(), 53);
        let (server, answer) = (Server::default(), Arc::new(answer));
        let _within = self.runtime.enter();
        let udp = std::net::UdpSocket::bind(at).unwrap();
        udp.set_nonblocking(true).unwrap();
        let udp = tokio::net::UdpSocket::from_std(udp).unwrap();
        let (seen, say) = (server.clone(), Arc::clone(&answer));
        self.runtime.spawn(async move {
            let mut buffer = vec![0; 65_535];
            loop {
                let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
                let asked = seen.note(&buffer[..length], from, false);
                for message in say(&asked) {
                    udp.send_to(&message, from).await.unwrap();
                }
            }
        });
        let tcp = std::net::TcpListener::bind(at).unwrap();
        tcp.set_nonblocking(true).unwrap();
        let tcp = tokio::net::TcpListener::from_std(tcp).unwrap();
        let seen = server.clone();
        self.runtime.spawn(async move {
            loop {
                let (mut stream, from) = tcp.accept().await.unwrap();
                let length = usize::from(stream.read_u16().await.unwrap());
                let mut buffer = vec![0; length];
                stream.read_exact(&mut buffer).await.unwrap();
                let asked = seen.note(&buffer, from, true);
                for message in answer(&asked) {
                    stream.write_all(&framed(&message)).await.unwrap();
                }
            }
        });
        server
    }
}

impl Server {
    fn note(&self, bytes: &[u8], from: SocketAddr, tcp: bool) -> Asked {
        let asked = Asked { query: Message::from_vec(bytes).unwrap(), from, tcp };
        self.0.lock().unwrap().push(asked.clone());
        asked
    }

    pub fn seen(&self) -> Vec<Asked> {
        self.0.lock().unwrap().clone()
    }

    pub fn names(&self) -> Vec<String> {
        self.seen().iter().map(|asked| asked.query.queries[0].name.to_string()).collect()
    }
}

impl Vpc {
    /// Runs `work` as if inside the client.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netns::in_netns(self.client.as_fd(), work).unwrap()
    }

    pub fn udp(&self) -> UdpSocket {
        self.udp_to(GATEWAY)
    }

    pub fn udp_to(&self, gateway: &str) -> UdpSocket {
        let gateway: IpAddr = gateway.parse().unwrap();
        let any: IpAddr = if gateway.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        self.inside(|| {
            let socket = UdpSocket::bind((any, 0)).unwrap();
            socket.connect((gateway, 53)).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket
        })
    }

    pub fn tcp(&self) -> TcpStream {
        self.inside(|| {
            let stream = TcpStream::connect((GATEWAY, 53)).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream
        })
    }

    /// Over UDP.
    pub fn ask(&self, query: &Message) -> Message {
        let socket = self.udp();
        socket.send(&query.to_vec().unwrap()).unwrap();
        receive(&socket).expect("an answer")
    }

    pub fn ask_tcp(&self, query: &Message) -> Message {
        let mut stream = self.tcp();
        stream.write_all(&framed(&query.to_vec().unwrap())).unwrap();
        receive_tcp(&mut stream).expect("an answer")
    }

    /// The addresses or names that a question finds.
    pub fn look_up(&self, name: &str, wanted: RecordType) -> Result<Vec<String>, ResponseCode> {
        found(&self.ask(&question(name, wanted)))
    }

    pub fn counters(&self) -> ResolverCounters {
        self.handle.as_ref().unwrap().counters()
    }

    /// Every query ended in exactly one way.
    pub fn assert_all_counted(&self) -> ResolverCounters {
        let now = self.counters();
        let ResolverCounters { queries, answered, forwarded, refused, failed, dropped, .. } = now;
        assert_eq!(queries, answered + forwarded + refused + failed + dropped, "{now:?}");
        now
    }
}

pub fn found(answer: &Message) -> Result<Vec<String>, ResponseCode> {
    if answer.response_code != ResponseCode::NoError {
        return Err(answer.response_code);
    }
    let mut found: Vec<String> = answer.answers.iter().map(|record| record.data.to_string()).collect();
    found.sort();
    Ok(found)
}

pub fn receive(socket: &UdpSocket) -> Option<Message> {
    let mut buffer = vec![0; 65_535];
    let length = socket.recv(&mut buffer).ok()?;
    Some(Message::from_vec(&buffer[..length]).unwrap())
}

/// `None` when the connection ends.
pub fn receive_tcp(stream: &mut TcpStream) -> Option<Message> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message).unwrap();
    Some(Message::from_vec(&message).unwrap())
}

pub fn framed(message: &[u8]) -> Vec<u8> {
    [&u16::try_from(message.len()).unwrap().to_be_bytes()[..], message].concat()
}

pub fn question(name: &str, wanted: RecordType) -> Message {
    let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(DnsName::from_ascii(name).unwrap(), wanted));
    message
}

pub fn with_edns(mut message: Message, payload: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(payload);
    message.set_edns(edns);
    message
}

/// An answer of a name server: one address.
pub fn address(asked: &Asked, address: [u8; 4]) -> Message {
    let mut answer = Message::response(asked.query.id, OpCode::Query);
    answer.metadata.recursion_available = true;
    answer.add_queries(asked.query.queries.clone());
    let name = asked.query.queries[0].name.clone();
    answer.add_answer(Record::from_rdata(name, 300, RData::A(A(address.into()))));
    answer
}

/// An answer without any.
pub fn failure(asked: &Asked, code: ResponseCode) -> Vec<u8> {
    let mut answer = Message::error_msg(asked.query.id, OpCode::Query, code);
    answer.add_queries(asked.query.queries.clone());
    answer.to_vec().unwrap()
}

pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

/// A client's namespace, joined to a resolver's.
pub fn join(service: BorrowedFd<'_>) -> OwnedFd {
    let client = netns::create(|| {}).unwrap();
    let peer = LinkMessageBuilder::<LinkUnspec>::new().name("eth0").setns_by_fd(client.as_raw_fd()).build();
    let pair = LinkMessageBuilder::<LinkVeth>::new("gw", "eth0")
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .setns_by_fd(service.as_raw_fd())
        .build();
    netlink(None, async |handle| handle.link().add(pair).execute().await);
    configure(Some(service), "gw", &[(GATEWAY, 24), (GATEWAY_V6, 64)]);
    configure(Some(client.as_fd()), "eth0", &[("10.0.0.2", 24), ("fd00::2", 64)]);
    client
}

/// Gives an interface its addresses and brings it up, in a namespace or in the thread's own.
pub fn configure(namespace: Option<BorrowedFd<'_>>, interface: &str, addresses: &[(&str, u8)]) {
    let parsed: Vec<(IpAddr, u8)> = addresses.iter().map(|(text, bits)| (text.parse().unwrap(), *bits)).collect();
    netlink(namespace, async |handle| {
        let index = if_nametoindex(interface).unwrap();
        for (address, prefix_len) in &parsed {
            let mut add = handle.address().add(index, *address, *prefix_len);
            // So that it is good at once.
            add.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            add.execute().await?;
        }
        handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await?;
        let addresses: Vec<IpAddr> = parsed.iter().map(|(address, _)| *address).collect();
        local::settle(&handle, interface, &addresses).await.unwrap();
        Ok(())
    });
}

fn netlink(
    namespace: Option<BorrowedFd<'_>>,
    work: impl AsyncFnOnce(rtnetlink::Handle) -> Result<(), rtnetlink::Error> + Send,
) {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection().unwrap();
            tokio::spawn(connection);
            work(handle).await.unwrap();
        });
    };
    match namespace {
        Some(namespace) => netns::in_netns(namespace, run).unwrap(),
        None => run(),
    }
}
