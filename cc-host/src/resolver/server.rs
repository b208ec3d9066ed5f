//! One VPC's resolver, without its sockets: what is said to each message, at once or after a name server was asked. Refuses to
//! wait where nobody else has to be asked.

use std::net::SocketAddr;
use std::sync::Arc;

use hickory_proto::op::ResponseCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::counters::{Counting, End};
use super::forward::Forwarder;
use super::limits::{Limits, TCP_ADDRESSES_MAX, UDP_ADDRESSES_MAX};
use super::message::{Content, Reason, Rejected, Request, Transport, authority};
use super::zone::{Decision, Zone};

#[derive(Debug)]
pub(super) struct Server {
    pub zone: Zone,
    pub forwarder: Forwarder,
    pub counting: Counting,
    /// Queries of this VPC that may wait for name servers.
    pub own_room: Arc<Semaphore>,
    /// Those of all VPCs together.
    pub room: Arc<Semaphore>,
}

/// What is done with a message.
#[derive(Debug)]
pub(super) enum Step {
    Say(Vec<u8>),
    Silence,
    Ask(Asking),
}

/// A query that others answer, with its share of what is bounded.
#[derive(Debug)]
pub(super) struct Asking {
    request: Request,
    _room: [OwnedSemaphorePermit; 2],
}

impl Server {
    pub(super) fn limits(&self) -> &Limits {
        &self.forwarder.limits
    }

    /// Takes a message as it came in; never waits.
    pub(super) fn take(&self, bytes: &[u8], source: SocketAddr, transport: Transport) -> Step {
        self.counting.query();
        let request = match Request::parse(bytes, transport) {
            Ok(request) => request,
            Err(Rejected::Silently) => return self.say(End::Dropped, None),
            Err(Rejected::With(answer)) => return self.say(End::Refused, Some(answer)),
        };
        let most = match transport {
            Transport::Udp => UDP_ADDRESSES_MAX,
            Transport::Tcp => TCP_ADDRESSES_MAX,
        };
        let content = match self.zone.decide(&request.question, most) {
            Decision::Records { zone, records } => {
                let authority = zone.filter(|_| records.is_empty()).map(|zone| authority(zone, self.zone.authority()));
                Content { authoritative: true, answers: records, authority, ..Content::default() }
            }
            Decision::NoSuchName { zone } => Content {
                code: ResponseCode::NXDomain,
                authoritative: true,
                authority: zone.map(|zone| authority(zone, self.zone.authority())),
                ..Content::default()
            },
            Decision::Forward => return self.admit(request, source),
        };
        self.say(End::Answered, request.answer(content))
    }

    /// A query to be forwarded, if it may be.
    fn admit(&self, request: Request, source: SocketAddr) -> Step {
        if self.forwarder.asked.is_ours(source.port(), request.id()) {
            return self.say(End::Refused, request.answer(failure(ResponseCode::Refused, Reason::LOOP)));
        }
        let room = |semaphore: &Arc<Semaphore>| Arc::clone(semaphore).try_acquire_owned();
        match (room(&self.own_room), room(&self.room)) {
            (Ok(own), Ok(all)) => Step::Ask(Asking { request, _room: [own, all] }),
            // Over UDP the client tries again by itself, and later, which is what is wanted of it.
            _ if request.transport() == Transport::Udp => self.say(End::Dropped, None),
            _ => self.say(End::Dropped, request.answer(failure(ResponseCode::ServFail, Reason::BUSY))),
        }
    }

    /// Waits for name servers.
    pub(super) async fn ask(&self, asking: Asking) -> Option<Vec<u8>> {
        let (end, answer) = match self.forwarder.ask(&asking.request).await {
            Ok(answer) => (End::Forwarded, Some(answer)),
            Err(reason) => (End::Failed, asking.request.answer(failure(ResponseCode::ServFail, reason))),
        };
        self.counting.end(end);
        answer
    }

    fn say(&self, end: End, answer: Option<Vec<u8>>) -> Step {
        self.counting.end(end);
        answer.map_or(Step::Silence, Step::Say)
    }
}

fn failure(code: ResponseCode, reason: Reason) -> Content {
    Content { code, reason: Some(reason), ..Content::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ContainerId, Name};
    use crate::resolver::directory::{Directory, Entry};
    use crate::resolver::forward::Asked;
    use crate::resolver::servers::{HostServers, Upstreams};
    use crate::resolver::zone::{Subnet, VpcNames};
    use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
    use hickory_proto::rr::{DNSClass, Name as DnsName, RecordType};
    use proptest::prelude::*;

    const SOURCE: ([u8; 4], u16) = ([10, 0, 0, 2], 5000);

    fn server() -> Server {
        let directory = Arc::new(Directory::default());
        for n in 2..202 {
            directory.publish(
                1,
                Entry {
                    id: ContainerId::parse(&format!("{n:016x}")).unwrap(),
                    name: Name::parse(&format!("c{n}")).unwrap(),
                    hostname: String::new(),
                    groups: vec![Name::parse("all").unwrap()],
                    addresses: vec![[10, 0, 0, n].into(), format!("fd00::{n:x}").parse().unwrap()],
                },
            );
        }
        let subnets =
            ["10.0.0.1", "fd00::1"].map(|gateway| Subnet { gateway: gateway.parse().unwrap(), prefix_len: 24 });
        let limits = Limits { outstanding: 2, ..Limits::default() };
        Server {
            zone: Zone {
                vni: 1,
                names: VpcNames { name: Name::parse("prod").unwrap(), subnets: subnets.to_vec() },
                directory,
            },
            forwarder: Forwarder {
                upstreams: Upstreams::Host,
                host: Arc::new(HostServers::of(std::path::Path::new("/nonexistent"))),
                asked: Asked::default(),
                limits,
                first: Default::default(),
            },
            counting: Counting::default(),
            own_room: Arc::new(Semaphore::new(limits.outstanding)),
            room: Arc::new(Semaphore::new(99)),
        }
    }

    fn query(name: &str, wanted: RecordType) -> Message {
        let mut message = Message::new(0xabcd, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(DnsName::from_ascii(name).unwrap(), wanted));
        message
    }

    fn with_edns(mut message: Message, payload: u16) -> Message {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        message.set_edns(edns);
        message
    }

    fn said(server: &Server, query: &Message, transport: Transport) -> (Message, usize) {
        match server.take(&query.to_vec().unwrap(), SOURCE.into(), transport) {
            Step::Say(bytes) => (Message::from_vec(&bytes).unwrap(), bytes.len()),
            step => panic!("{step:?}"),
        }
    }

    #[test]
    fn an_answer_carries_what_the_query_had() {
        let (answer, _) = said(&server(), &query("C5.prod.CC.internal.", RecordType::A), Transport::Udp);
        assert_eq!(
            (answer.id, answer.message_type, answer.response_code),
            (0xabcd, MessageType::Response, ResponseCode::NoError)
        );
        assert!(answer.authoritative && answer.recursion_available && answer.recursion_desired && !answer.truncation);
        assert_eq!(answer.queries[0].name.to_string(), "C5.prod.CC.internal.", "as it was written");
        assert_eq!((answer.answers.len(), answer.answers[0].ttl), (1, 0));
        assert!(answer.edns.is_none() && answer.authorities.is_empty());
        let (answer, _) = said(&server(), &with_edns(query("c5.", RecordType::A), 4096), Transport::Udp);
        assert_eq!(answer.edns.unwrap().max_payload(), 1232);
    }

    #[test]
    fn what_is_not_there_comes_with_the_start_of_authority() {
        for (name, code) in
            [("none.prod.cc.internal.", ResponseCode::NXDomain), ("prod.cc.internal.", ResponseCode::NoError)]
        {
            let (answer, _) = said(&server(), &query(name, RecordType::A), Transport::Udp);
            assert_eq!((answer.response_code, answer.answers.len()), (code, 0));
            assert_eq!((answer.authorities[0].record_type(), answer.authorities[0].ttl), (RecordType::SOA, 0));
        }
    }

    #[test]
    fn a_long_answer_is_cut_to_what_the_client_takes() {
        let server = server();
        let group = query("all.prod.cc.internal.", RecordType::A);
        let (plain, length) = said(&server, &group, Transport::Udp);
        assert!(plain.truncation && (500..=512).contains(&length), "{length}");
        let (tiny, length) = said(&server, &with_edns(group.clone(), 100), Transport::Udp);
        assert!(tiny.truncation && (490..=512).contains(&length) && tiny.edns.is_some(), "{length}");
        let (large, length) = said(&server, &with_edns(group.clone(), 4096), Transport::Udp);
        assert!(large.truncation && (1215..=1232).contains(&length) && large.edns.is_some(), "{length}");
        let (stream, _) = said(&server, &group, Transport::Tcp);
        assert!(!stream.truncation);
        assert_eq!(stream.answers.len(), 200);
        let (v6, length) = said(&server, &query("all.", RecordType::AAAA), Transport::Udp);
        assert!(v6.truncation && (480..=512).contains(&length), "{length}");
    }

    #[test]
    fn what_is_not_done_here_is_refused() {
        let server = server();
        let mut chaos = query("version.bind.", RecordType::TXT);
        chaos.queries[0].query_class = DNSClass::CH;
        let mut update = query("prod.cc.internal.", RecordType::SOA);
        update.metadata.op_code = OpCode::Update;
        let mut later = with_edns(query("c5.", RecordType::A), 1232);
        later.edns.as_mut().unwrap().set_version(1);
        let mut two = query("c5.", RecordType::A);
        two.add_query(Query::query(DnsName::root(), RecordType::NS));
        let mut none = query("c5.", RecordType::A);
        none.queries.clear();
        // The numbers 16 and 16 are one code, and the library takes it for the other.
        let cases = [
            (query("prod.cc.internal.", RecordType::AXFR), ResponseCode::Refused),
            (query("prod.cc.internal.", RecordType::IXFR), ResponseCode::Refused),
            (query("c5.", RecordType::ANY), ResponseCode::Refused),
            (query("example.com.", RecordType::ANY), ResponseCode::Refused),
            (query("example.com.", RecordType::from(249)), ResponseCode::Refused),
            (chaos, ResponseCode::Refused),
            (update, ResponseCode::NotImp),
            (later, ResponseCode::BADSIG),
            (two, ResponseCode::FormErr),
            (none, ResponseCode::FormErr),
        ];
        let count = cases.len() as u64;
        for (query, code) in cases {
            let (answer, _) = said(&server, &query, Transport::Udp);
            assert_eq!((answer.response_code, answer.answers.len()), (code, 0), "{query}");
        }
        assert_eq!(server.counting.now().refused, count);
    }

    #[test]
    fn what_is_no_query_is_not_answered() {
        let server = server();
        let answer = Message::response(7, OpCode::Query).to_vec().unwrap();
        for bytes in [&answer[..], b"", b"\0", &[0; 11]] {
            assert!(matches!(server.take(bytes, SOURCE.into(), Transport::Udp), Step::Silence), "{bytes:?}");
        }
        let counted = server.counting.now();
        assert_eq!((counted.queries, counted.dropped), (4, 4));
    }

    #[test]
    fn a_header_that_promises_much_is_malformed() {
        let mut bytes = vec![0; 12];
        bytes[4..].fill(0xff);
        let Step::Say(answer) = server().take(&bytes, SOURCE.into(), Transport::Udp) else { panic!("it is said so") };
        assert_eq!(Message::from_vec(&answer).unwrap().response_code, ResponseCode::FormErr);
    }

    #[test]
    fn only_so_many_queries_wait() {
        let server = server();
        let bytes = query("example.com.", RecordType::A).to_vec().unwrap();
        let take = |transport| server.take(&bytes, SOURCE.into(), transport);
        let first = take(Transport::Udp);
        assert!(matches!((&first, take(Transport::Udp)), (Step::Ask(_), Step::Ask(_))), "a place is free again");
        let second = take(Transport::Udp);
        assert!(matches!(take(Transport::Udp), Step::Silence));
        let Step::Say(answer) = take(Transport::Tcp) else { panic!("who waits on a connection is told") };
        assert_eq!(Message::from_vec(&answer).unwrap().response_code, ResponseCode::ServFail);
        assert_eq!(server.counting.now().dropped, 2);
        drop((first, second));
        assert!(matches!(take(Transport::Udp), Step::Ask(_)));
        assert_eq!(
            said(&server, &query("c5.", RecordType::A), Transport::Udp).0.answers.len(),
            1,
            "ours need no place"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Whatever comes in, nothing panics, and what is said is an answer that the client takes.
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..600), tcp: bool) {
            survives(&bytes, tcp)?;
        }

        /// Closer to a query: a good header, and names, types and a tail of all kinds.
        #[test]
        fn any_question_is_survived(
            labels in proptest::collection::vec(
                prop_oneof![
                    Just(b"cc".to_vec()), Just(b"internal".to_vec()), Just(b"prod".to_vec()), Just(b"all".to_vec()),
                    Just(b"arpa".to_vec()), Just(b"in-addr".to_vec()), Just(b"ip6".to_vec()),
                    (0u8..=255).prop_map(|n| n.to_string().into_bytes()), (0u8..16).prop_map(|n| format!("{n:x}").into_bytes()),
                    proptest::collection::vec(any::<u8>(), 1..64)
                ], 0..36),
            kind in prop_oneof![Just(1u16), Just(28), Just(12), Just(6), any::<u16>()],
            class in prop_oneof![9 => Just(1u16), 1 => any::<u16>()],
            additionals in prop_oneof![Just(0u16), Just(1), any::<u16>()],
            tail in prop_oneof![
                (any::<u16>(), any::<u32>(), proptest::collection::vec(any::<u8>(), 0..50)).prop_map(|(size, flags, data)| {
                    let length = (data.len() as u16).to_be_bytes();
                    [&[0, 0, 41][..], &size.to_be_bytes(), &flags.to_be_bytes(), &length, &data].concat()
                }),
                proptest::collection::vec(any::<u8>(), 0..100)
            ],
            tcp: bool
        ) {
            let mut bytes = vec![1, 2, 1, 0, 0, 1, 0, 0, 0, 0];
            bytes.extend(additionals.to_be_bytes());
            for label in labels {
                bytes.push(label.len() as u8);
                bytes.extend(label);
            }
            bytes.push(0);
            bytes.extend(kind.to_be_bytes());
            bytes.extend(class.to_be_bytes());
            bytes.extend(tail);
            survives(&bytes, tcp)?;
        }
    }

    fn survives(bytes: &[u8], tcp: bool) -> Result<(), TestCaseError> {
        thread_local!(static SERVER: Server = server());
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        let step = SERVER.with(|server| server.take(bytes, SOURCE.into(), transport));
        let parsed = Message::from_vec(bytes).ok();
        if let Step::Say(answer) = step {
            let edns = parsed.as_ref().is_some_and(|message| message.edns.is_some());
            let most = match (tcp, edns) {
                (true, _) => usize::from(u16::MAX),
                (false, true) => 1232,
                (false, false) => 512,
            };
            prop_assert!(answer.len() <= most, "{} bytes", answer.len());
            let answer = Message::from_vec(&answer).expect("an answer of ours is a message");
            prop_assert_eq!(answer.message_type, MessageType::Response);
            prop_assert_eq!(&answer.id.to_be_bytes()[..], &bytes[..2]);
        } else if let Step::Ask(asking) = step {
            let name = parsed.expect("what is forwarded was understood").queries[0].name.to_lowercase();
            prop_assert!(
                name.num_labels() != 1 && !DnsName::from_ascii("cc.internal.").unwrap().zone_of(&name),
                "{name}"
            );
            let sent = Message::from_vec(&asking.request.for_server(7).expect("it can be written")).expect("and read");
            prop_assert_eq!((sent.id, sent.queries.len(), sent.answers.len()), (7, 1, 0));
            prop_assert_eq!(sent.queries[0].name.to_lowercase(), name);
        }
        Ok(())
    }
}
