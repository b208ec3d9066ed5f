//! What containers ask a VPC's resolver, and what name servers answer: answers fit and are answers to the question, names of the VPC are
//! never asked of others, and nothing but the question goes on. Refuses sockets.

use std::sync::Arc;
use std::sync::LazyLock;

use cc_host::ids::{ContainerId, Name};
use cc_host::resolver::fuzzing::{Door, QUERY_BYTES_MAX, Question, Said, UDP_ANSWER_BYTES_MAX};
use cc_host::resolver::{Directory, Entry, Subnet, VpcNames};
use hickory_proto::op::{Message, MessageType};

use crate::input::Input;

const VNI: u32 = 7;
const ID: u16 = 0x4321;

static DOOR: LazyLock<Door> = LazyLock::new(door);

fn door() -> Door {
    let name = |text: &str| Name::parse(text).expect("it is a name");
    let directory = Directory::default();
    for n in 2..80u8 {
        directory.publish(
            VNI,
            Entry {
                id: ContainerId::parse(&format!("{n:016x}")).expect("it is an id"),
                name: name(&format!("c{n}")),
                hostname: format!("h{n}"),
                groups: vec![name("all")],
                addresses: vec![[10, 0, 0, n].into(), format!("fd00::{n}").parse().expect("it is an address")],
            },
        );
    }
    let subnets = [("10.0.0.1", 24), ("fd00::1", 64)];
    let subnet =
        |(gateway, prefix_len): (&str, u8)| Subnet { gateway: gateway.parse().expect("it is an address"), prefix_len };
    Door::new(VNI, VpcNames { name: name("prod"), subnets: subnets.map(subnet).to_vec() }, Arc::new(directory))
}

pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (tcp, asked) = (input.flag(), usize::from(input.u16()));
    let rest = input.rest();
    let (query, answer) = rest.split_at(asked.min(rest.len()).min(QUERY_BYTES_MAX));
    match DOOR.take(query, tcp) {
        Said::Answer(said) => answered(query, &said, tcp),
        Said::Silence => {}
        Said::Forwarded => forwarded(query, answer, tcp),
    }
}

/// An answer is one, to this question, and fits.
fn answered(query: &[u8], said: &[u8], tcp: bool) {
    assert_eq!(query[..2], said[..2], "the client's own id");
    assert!(tcp || said.len() <= UDP_ANSWER_BYTES_MAX, "{} bytes", said.len());
    let message = Message::from_vec(said).expect("our answers can be read");
    assert_eq!(message.metadata.message_type, MessageType::Response);
    if let (Some(question), Ok(asked)) = (message.queries.first(), Message::from_vec(query)) {
        assert_eq!(asked.queries.first(), Some(question));
    }
}

/// To others goes the question, under our id; what is not the VPC's, and comes back only as an answer to it.
fn forwarded(query: &[u8], answer: &[u8], tcp: bool) {
    let question = Question::parse(query, tcp).expect("what is forwarded is a question");
    let sent = question.for_server(ID).expect("a question can be written");
    let (asked, original) = (Message::from_vec(&sent), Message::from_vec(query));
    let (asked, original) = (asked.expect("our questions can be read"), original.expect("it was read before"));
    assert_eq!((asked.metadata.id, &asked.queries), (ID, &original.queries));
    assert!(asked.answers.is_empty() && asked.authorities.is_empty());
    let name = asked.queries[0].name().to_string().to_ascii_lowercase();
    assert!(!name.ends_with(".prod.cc.internal.") && name.matches('.').count() > 1 || name == ".", "{name} is ours");
    // An answer may be any bytes; one that is made of the question is one.
    let mut honest = sent.clone();
    honest[2] |= 0x80;
    for (answer, known) in [(answer, false), (&honest, true)] {
        match question.answered(answer, ID) {
            Some(passed) => {
                let passed = passed.expect("what was read can be passed on");
                assert_eq!(passed[..2], query[..2]);
                assert!(passed.len() <= question.answer_bytes_max());
            }
            None => assert!(!known, "an answer to the question is taken"),
        }
    }
    assert!(question.answered(&honest, !ID).is_none(), "only under our id");
}
