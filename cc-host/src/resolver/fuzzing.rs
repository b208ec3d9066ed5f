//! A resolver without sockets, for the fuzz target. Refuses to be in the daemon, and to ask anybody.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::counters::{Counting, ResolverCounters};
use super::directory::Directory;
use super::forward::{Asked, Forwarder};
use super::limits::Limits;
use super::message::{Rejected, Request, ServerAnswer, Transport};
use super::server::{Server, Step};
use super::servers::{HostServers, Upstreams};
use super::zone::{VpcNames, Zone};

pub const UDP_ANSWER_BYTES_MAX: usize = super::limits::UDP_ANSWER_BYTES_MAX as usize;
pub const UDP_ANSWER_BYTES_PLAIN: usize = super::limits::UDP_ANSWER_BYTES_PLAIN as usize;
pub const QUERY_BYTES_MAX: usize = super::limits::QUERY_BYTES_MAX;

pub struct Door(Server);

/// What became of a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    Answer(Vec<u8>),
    Silence,
    /// Others would be asked.
    Forwarded,
}

impl Door {
    pub fn new(vni: u32, names: VpcNames, directory: Arc<Directory>) -> Door {
        let limits = Limits::default();
        Door(Server {
            zone: Zone { vni, names, directory },
            forwarder: Forwarder {
                upstreams: Upstreams::Servers(Vec::new()),
                host: Arc::new(HostServers::of(Path::new("/nonexistent"))),
                asked: Asked::default(),
                limits,
                first: Default::default(),
            },
            counting: Counting::default(),
            own_room: Arc::new(Semaphore::new(limits.outstanding)),
            room: Arc::new(Semaphore::new(limits.outstanding)),
        })
    }

    pub fn take(&self, message: &[u8], tcp: bool) -> Said {
        match self.0.take(message, ([10, 0, 0, 2], 5000).into(), transport(tcp)) {
            Step::Say(answer) => Said::Answer(answer),
            Step::Silence => Said::Silence,
            Step::Ask(_) => Said::Forwarded,
        }
    }

    pub fn counters(&self) -> ResolverCounters {
        self.0.counting.now()
    }
}

/// What a name server would be asked, and what its answer comes to.
pub struct Question(Request);

impl Question {
    /// Of a message that may be answered or forwarded.
    pub fn parse(message: &[u8], tcp: bool) -> Option<Question> {
        match Request::parse(message, transport(tcp)) {
            Ok(request) => Some(Question(request)),
            Err(Rejected::Silently | Rejected::With(_)) => None,
        }
    }

    pub fn for_server(&self, id: u16) -> Option<Vec<u8>> {
        self.0.for_server(id)
    }

    /// What the client gets of a name server's answer; `None` if it is none to this question.
    pub fn answered(&self, answer: &[u8], id: u16) -> Option<Option<Vec<u8>>> {
        match self.0.server_answered(answer, id)? {
            ServerAnswer::Good | ServerAnswer::Failure => Some(self.0.pass_on(answer.to_vec())),
        }
    }

    pub fn answer_bytes_max(&self) -> usize {
        self.0.answer_bytes_max()
    }
}

fn transport(tcp: bool) -> Transport {
    if tcp { Transport::Tcp } else { Transport::Udp }
}
