//! DNS messages in and out: a query as it is judged, an answer as it fits, what is asked of a name server and what may count as
//! its answer. Refuses to decide what an answer says, and to trust any number in a message.

use hickory_proto::op::{Edns, Header, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{DNSClass, RData, Record};
use hickory_proto::serialize::binary::{BinDecodable as _, BinDecoder};

use super::limits::{QUERY_ADDITIONALS_MAX, UDP_ANSWER_BYTES_MAX, UDP_ANSWER_BYTES_PLAIN};

/// Nobody may keep an answer of ours: it costs a microsecond to ask again, and a stale address may be another container's by now.
const OWN_TTL_SECS: u32 = 0;

/// The version of EDNS that there is.
const EDNS_VERSION: u8 = 0;

/// The option that says in words what went wrong (RFC 8914).
const EXTENDED_ERROR: u16 = 15;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// A query with one question, which may be answered or forwarded.
#[derive(Debug, Clone)]
pub(super) struct Request {
    header: Metadata,
    pub question: Query,
    edns: Option<Edns>,
    transport: Transport,
}

/// What is not such a query.
#[derive(Debug, Clone)]
pub(super) enum Rejected {
    /// It is no query, or has no header: whoever sent it waits for nothing.
    Silently,
    /// Said to be malformed or not to be done here.
    With(Vec<u8>),
}

/// Why an answer is what it is, in a number that has a meaning and words for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reason {
    code: u16,
    text: &'static str,
}

impl Reason {
    pub(super) const NO_SERVERS: Reason = Reason { code: 22, text: "this host names no name server to ask" };
    pub(super) const NO_ANSWER: Reason = Reason { code: 22, text: "no name server of this host answered" };
    pub(super) const BUSY: Reason = Reason { code: 0, text: "too many queries of this VPC wait for name servers" };
    pub(super) const LOOP: Reason = Reason { code: 0, text: "the name servers of this host lead back to this VPC" };
}

/// What an answer of ours consists of, beside the question.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub code: ResponseCode,
    pub authoritative: bool,
    pub answers: Vec<RData>,
    /// The start of authority with its owner, where there is no answer.
    pub authority: Option<Record>,
    pub reason: Option<Reason>,
}

impl Request {
    /// The only place where bytes of a container are read.
    pub(super) fn parse(bytes: &[u8], transport: Transport) -> Result<Request, Rejected> {
        let Ok(Header { metadata, counts }) = Header::read(&mut BinDecoder::new(bytes)) else {
            return Err(Rejected::Silently);
        };
        if metadata.message_type != MessageType::Query {
            return Err(Rejected::Silently);
        }
        let bare = |code| {
            let refusal = refusal(&metadata, code).to_vec();
            Err(refusal.map_or(Rejected::Silently, Rejected::With))
        };
        if metadata.op_code != OpCode::Query {
            return bare(ResponseCode::NotImp);
        }
        // Before anything is read by them: a message of 12 bytes may promise 262,140 records.
        let counted = counts.queries == 1 && counts.answers == 0 && counts.authorities == 0;
        if !counted || counts.additionals > QUERY_ADDITIONALS_MAX {
            return bare(ResponseCode::FormErr);
        }
        let Ok(Message { queries, edns, .. }) = Message::from_vec(bytes) else {
            return bare(ResponseCode::FormErr);
        };
        let Some(question) = queries.into_iter().next() else { return bare(ResponseCode::FormErr) };
        let request = Request { header: metadata, question, edns, transport };
        match request.judge() {
            None => Ok(request),
            Some(code) => {
                let answer = request.answer(Content { code, ..Content::default() });
                Err(answer.map_or(Rejected::Silently, Rejected::With))
            }
        }
    }

    /// What is not done for anyone.
    fn judge(&self) -> Option<ResponseCode> {
        if self.edns.as_ref().is_some_and(|edns| edns.version() > EDNS_VERSION) {
            return Some(ResponseCode::BADVERS);
        }
        // Zone transfers, ANY, and what else is no type of data (RFC 6895); CHAOS tells about the server.
        let meta = matches!(u16::from(self.question.query_type), 0 | 41 | 128..=255);
        (meta || self.question.query_class != DNSClass::IN).then_some(ResponseCode::Refused)
    }

    /// The longest answer that the client takes.
    pub(super) fn answer_bytes_max(&self) -> usize {
        match (self.transport, &self.edns) {
            (Transport::Tcp, _) => usize::from(u16::MAX),
            (Transport::Udp, None) => usize::from(UDP_ANSWER_BYTES_PLAIN),
            (Transport::Udp, Some(edns)) => usize::from(payload(edns)),
        }
    }

    pub(super) fn transport(&self) -> Transport {
        self.transport
    }

    /// An answer that fits: with fewer records than there are, and then marked as truncated, if need be. `None` when nothing
    /// fits, which no question can bring about.
    pub(super) fn answer(&self, content: Content) -> Option<Vec<u8>> {
        let Content { code, authoritative, answers, authority, reason } = content;
        let mut message = refusal(&self.header, code);
        message.metadata.authoritative = authoritative;
        message.add_query(self.question.clone());
        let own = |data| Record::from_rdata(self.question.name.clone(), OWN_TTL_SECS, data);
        message.add_answers(answers.into_iter().map(own));
        message.add_authorities(authority);
        message.edns = self.edns.as_ref().map(|edns| own_edns(edns, reason));
        let most = self.answer_bytes_max();
        loop {
            let bytes = message.to_vec().ok()?;
            let over = bytes.len().saturating_sub(most);
            if over == 0 {
                return Some(bytes);
            }
            // At least this many must go, whatever they are: an address takes 28 bytes at most where its name is a reference.
            let left = message.answers.len().checked_sub(over.div_ceil(28))?;
            message.answers.truncate(left);
            message.metadata.truncation = true;
        }
    }

    /// The same question for a name server: only what is known of it goes on, so that nothing can hide in the rest.
    pub(super) fn for_server(&self, id: u16) -> Option<Vec<u8>> {
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = self.header.recursion_desired;
        message.metadata.authentic_data = self.header.authentic_data;
        message.metadata.checking_disabled = self.header.checking_disabled;
        message.add_query(self.question.clone());
        message.edns = self.edns.as_ref().map(|edns| own_edns(edns, None));
        if let Some(edns) = &mut message.edns {
            edns.set_max_payload(self.edns.as_ref().map_or(UDP_ANSWER_BYTES_PLAIN, payload));
        }
        message.to_vec().ok()
    }

    /// What a name server's answer comes to; `None` if it is not one to this question, asked with this id.
    pub(super) fn server_answered(&self, bytes: &[u8], id: u16) -> Option<ServerAnswer> {
        let mut decoder = BinDecoder::new(bytes);
        let Header { metadata, counts } = Header::read(&mut decoder).ok()?;
        let expected = metadata.id == id
            && metadata.message_type == MessageType::Response
            && metadata.op_code == OpCode::Query
            && counts.queries == 1
            // Names are compared as DNS does, without regard to case.
            && Query::read(&mut decoder).is_ok_and(|question| question == self.question);
        expected.then_some(match metadata.response_code {
            ResponseCode::NoError | ResponseCode::NXDomain => ServerAnswer::Good,
            _ => ServerAnswer::Failure,
        })
    }

    /// A name server's answer as the client's: its bytes under the client's id.
    pub(super) fn pass_on(&self, mut bytes: Vec<u8>) -> Option<Vec<u8>> {
        if bytes.len() > self.answer_bytes_max() {
            // More than was asked for. The client asks again over TCP.
            let mut message = refusal(&self.header, ResponseCode::NoError);
            message.metadata.truncation = true;
            message.add_query(self.question.clone());
            message.edns = self.edns.as_ref().map(|edns| own_edns(edns, None));
            return message.to_vec().ok();
        }
        bytes.get_mut(..2)?.copy_from_slice(&self.header.id.to_be_bytes());
        Some(bytes)
    }

    /// Of the query as the client sent it.
    pub(super) fn id(&self) -> u16 {
        self.header.id
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServerAnswer {
    Good,
    /// The server could not or would not: another may.
    Failure,
}

pub(super) fn authority(owner: hickory_proto::rr::Name, data: RData) -> Record {
    Record::from_rdata(owner, OWN_TTL_SECS, data)
}

/// An answer without anything in it.
fn refusal(query: &Metadata, code: ResponseCode) -> Message {
    let mut message = Message::response(query.id, query.op_code);
    message.metadata = Metadata::response_from_request(query);
    message.metadata.recursion_available = true;
    message.metadata.response_code = code;
    message
}

/// What the client takes, within what is sensible.
fn payload(edns: &Edns) -> u16 {
    edns.max_payload().clamp(UDP_ANSWER_BYTES_PLAIN, UDP_ANSWER_BYTES_MAX)
}

fn own_edns(query: &Edns, reason: Option<Reason>) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_ANSWER_BYTES_MAX).set_version(EDNS_VERSION).set_dnssec_ok(query.flags().dnssec_ok);
    if let Some(Reason { code, text }) = reason {
        let data = [&code.to_be_bytes(), text.as_bytes()].concat();
        edns.options_mut().insert(EdnsOption::Unknown(EXTENDED_ERROR, data));
    }
    edns
}
