//! Questions to name servers by hand, as a program in a container asks them, and a name server of the tests' own that notes what
//! it is asked. Refuses to follow search lists: a test says the whole name.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record};

pub use hickory_proto::rr::RecordType;

use crate::eventually::allowed;
use crate::netns::Netns;

/// Far longer than an answer takes.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a question came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Sorted; none where the name has nothing of that type.
    Found(Vec<String>),
    NoSuchName,
    Failed(String),
    /// Nobody answered.
    Silence,
}

impl Answer {
    pub fn of(records: &[&str]) -> Answer {
        Answer::Found(records.iter().map(|&record| record.to_owned()).collect())
    }
}

/// Asks over UDP from inside `netns`, once.
pub fn ask(netns: &Netns, server: &str, name: &str, wanted: RecordType) -> Answer {
    ask_within(netns, server, name, wanted, PATIENCE)
}

pub fn ask_within(netns: &Netns, server: &str, name: &str, wanted: RecordType, patience: Duration) -> Answer {
    let server = SocketAddr::new(server.parse().expect("an address"), 53);
    let mut query = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(Name::from_ascii(name).expect("a name"), wanted));
    let bytes = query.to_vec().expect("a query can be written");
    let exchange = move || -> std::io::Result<Vec<u8>> {
        let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(allowed(patience)))?;
        socket.send(&bytes)?;
        let mut buffer = vec![0; 65_535];
        let length = socket.recv(&mut buffer)?;
        buffer.truncate(length);
        Ok(buffer)
    };
    let answer = match netns.run(exchange).expect("the code inside does not panic") {
        Ok(bytes) => Message::from_vec(&bytes).expect("an answer can be read"),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Answer::Silence,
        Err(error) => return Answer::Failed(error.to_string()),
    };
    assert_eq!(answer.id, query.id);
    match answer.response_code {
        ResponseCode::NoError => {
            let mut found: Vec<String> = answer.answers.iter().map(|record| record.data.to_string()).collect();
            found.sort();
            Answer::Found(found)
        }
        ResponseCode::NXDomain => Answer::NoSuchName,
        code => Answer::Failed(code.to_string()),
    }
}

/// Answers every question for an address with its own, and notes the names. It ends with the test's process.
#[derive(Debug, Clone)]
pub struct NameServer {
    pub at: SocketAddr,
    names: Arc<Mutex<Vec<String>>>,
}

impl NameServer {
    /// On a free port of the loopback of `netns`.
    pub fn in_netns(netns: &Netns, says: [u8; 4]) -> NameServer {
        let socket = netns.run(|| UdpSocket::bind(("127.0.0.1", 0))).expect("the code inside does not panic");
        let socket = socket.expect("a free port");
        let at = socket.local_addr().expect("it is bound");
        let server = NameServer { at, names: Arc::default() };
        let seen = Arc::clone(&server.names);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let Ok(query) = Message::from_vec(&buffer[..length]) else { continue };
                let Some(question) = query.queries.first().cloned() else { continue };
                seen.lock().expect("nobody panics with it").push(question.name.to_string());
                let mut answer = Message::response(query.id, OpCode::Query);
                answer.metadata.recursion_available = true;
                answer.add_queries(query.queries.clone());
                if question.query_type == RecordType::A {
                    answer.add_answer(Record::from_rdata(question.name, 300, RData::A(A(says.into()))));
                }
                let _ = socket.send_to(&answer.to_vec().expect("an answer can be written"), from);
            }
        });
        server
    }

    /// What it was asked for, in order.
    pub fn asked(&self) -> Vec<String> {
        self.names.lock().expect("nobody panics with it").clone()
    }
}
