//! The frames between a shim and whoever talks to it, version 4. Frozen: a shim outlives the daemon that started it, so a
//! later daemon speaks every version that may still run. Refuses to do input or output.
//!
//! Version 1 has no `Exec` and no `Resize`, and up to version 2 no program is bound to its connection; up to
//! version 3 no shim is parked. A shim says its version first; the daemon answers with one that both speak.
//!
//! A frame is: length of what follows (u32, little endian, 1 ..= `FRAME_BYTES_MAX`), kind (u8), body.
//!
//! | kind | body | direction |
//! |---|---|---|
//! | 0 | JSON of a `Request` or a `Report` | both |
//! | 1 | bytes for standard input | to the shim |
//! | 2 | bytes of standard output | from the shim |
//! | 3 | bytes of standard error | from the shim |
//!
//! The first frame of either side is a `Hello`; a shim answers anything else by hanging up. A connection is for one purpose: to
//! talk about the container, to be attached to its streams, or, from `Exec` on, to be those of one further program.

use serde::{Deserialize, Serialize};

use super::record::ExitRecord;
use super::terminal::Size;

pub const PROTOCOL_VERSION: u32 = 4;
/// The oldest that may still run.
pub const PROTOCOL_OLDEST: u32 = 1;
/// From here on there are further programs and terminals.
pub const PROTOCOL_EXEC: u32 = 2;
/// From here on a further program may be bound to its connection.
pub const PROTOCOL_BOUND: u32 = 3;
/// From here on a shim may be parked.
pub const PROTOCOL_PARKED: u32 = 4;
/// Largest body and kind; output is read in pieces of at most 32 KiB.
pub const FRAME_BYTES_MAX: usize = 64 << 10;
/// Bytes of a stream that one frame carries.
pub const CHUNK_BYTES_MAX: usize = 32 << 10;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Request {
    Hello {
        version: u32,
    },
    /// To a parked shim: be the container that `spec.json` describes, which lies beside the shim's other files by now. Not answered: what
    /// fails is told when it is started.
    Take,
    /// Run the program. Answered by `Started` or `StartFailed`.
    Start,
    /// Send a signal to init. Answered by `Signalled`.
    Signal {
        signal: i32,
    },
    /// Send this connection the output from here on; with `stdin`, also take its stdin frames. Answered by `Attached`.
    Attach {
        stdin: bool,
    },
    /// No more stdin frames come.
    StdinEof,
    /// Run another program, as the file of that name beside spec.json describes it; the shim removes the file. Answered by `Started`
    /// or `StartFailed`. From here on this connection is that program's: its stdin frames, `StdinEof`, `Signal` and `Resize` are
    /// for it, its output comes here, and `Exited` tells its end. A program whose connection is lost goes on without one, but
    /// for a terminal, which is hung up, and for one that is bound to its connection, which is killed with its process group. So is it
    /// by any signal to it.
    Exec {
        file: String,
    },
    /// The window of the terminal, if there is one. Not answered.
    Resize {
        size: Size,
    },
    /// Answered by `State`.
    State,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Report {
    Hello {
        version: u32,
    },
    /// The container's first process exists, in its namespaces and cgroup; it waits for `Start`.
    Created {
        pid: i32,
    },
    /// There is no specification yet, and the container's first process has done all that needs none. Nothing but `Take`, `Signal` and
    /// `State` is for a shim that is parked.
    Parked,
    Attached,
    Started,
    StartFailed {
        failure: StartFailure,
    },
    /// `delivered` is false where init is gone.
    Signalled {
        delivered: bool,
    },
    State {
        state: State,
    },
    /// The last frame of a connection.
    Exited {
        record: ExitRecord,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Created,
    Running,
    Exited,
}

/// Why the program could not be run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct StartFailure {
    pub kind: FailureKind,
    pub message: String,
}

/// It fits into init's channel even where every character becomes six in JSON.
const FAILURE_BYTES_MAX: usize = 1 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    NotFound,
    NotExecutable,
    BadUser,
    BadDir,
    Mount,
    Other,
}

impl StartFailure {
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        StartFailure { kind, message: shorten(message.into()) }
    }

    /// What `cc run` returns for it.
    pub fn exit_code(&self) -> i32 {
        match self.kind {
            FailureKind::NotFound => 127,
            FailureKind::NotExecutable => 126,
            FailureKind::BadUser | FailureKind::BadDir | FailureKind::Mount | FailureKind::Other => 125,
        }
    }
}

/// A message quotes what users gave, of any length. Its end, which says why, stays.
fn shorten(message: String) -> String {
    if message.len() <= FAILURE_BYTES_MAX {
        return message;
    }
    let half = FAILURE_BYTES_MAX / 2;
    let head = (0..=half).rev().find(|&at| message.is_char_boundary(at)).unwrap_or(0);
    let tail = (message.len() - half + "…".len()..).find(|&at| message.is_char_boundary(at)).unwrap_or(message.len());
    format!("{}…{}", &message[..head], &message[tail..])
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Json = 0,
    Stdin = 1,
    Stdout = 2,
    Stderr = 3,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: Kind,
    pub body: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    #[error("a frame of {0} bytes is empty or exceeds {FRAME_BYTES_MAX}")]
    Length(usize),
    #[error("frame kind {0} is unknown")]
    Kind(u8),
    #[error("a message cannot be read")]
    Message(#[source] serde_json::Error),
}

impl Frame {
    pub fn message<T: Serialize>(message: &T) -> Frame {
        let body = serde_json::to_vec(message).expect("messages are plain data, which always has a JSON form");
        Frame { kind: Kind::Json, body }
    }

    pub fn parse<T: serde::de::DeserializeOwned>(&self) -> Result<T, ProtocolError> {
        serde_json::from_slice(&self.body).map_err(ProtocolError::Message)
    }

    pub fn encode(&self) -> Vec<u8> {
        encode(self.kind, &self.body)
    }

    /// Takes the first whole frame off the front of `buffer`: `None` if it is not all there yet.
    pub fn take(buffer: &mut Vec<u8>) -> Result<Option<Frame>, ProtocolError> {
        let Some((head, rest)) = buffer.split_first_chunk::<4>() else { return Ok(None) };
        let length = check_length(*head)?;
        let Some(frame) = rest.get(..length) else { return Ok(None) };
        let frame = Frame::from_wire(frame)?;
        buffer.drain(..4 + length);
        Ok(Some(frame))
    }

    /// From what follows the length.
    pub fn from_wire(bytes: &[u8]) -> Result<Frame, ProtocolError> {
        let (&kind, body) = bytes.split_first().ok_or(ProtocolError::Length(0))?;
        let kind = match kind {
            0 => Kind::Json,
            1 => Kind::Stdin,
            2 => Kind::Stdout,
            3 => Kind::Stderr,
            other => return Err(ProtocolError::Kind(other)),
        };
        Ok(Frame { kind, body: body.to_vec() })
    }
}

/// Checked before anything is read or allocated for the frame.
pub fn check_length(head: [u8; 4]) -> Result<usize, ProtocolError> {
    let length = u32::from_le_bytes(head) as usize;
    if length == 0 || length > FRAME_BYTES_MAX { Err(ProtocolError::Length(length)) } else { Ok(length) }
}

pub fn encode(kind: Kind, body: &[u8]) -> Vec<u8> {
    debug_assert!(body.len() < FRAME_BYTES_MAX, "callers split streams, and messages are small");
    let mut bytes = Vec::with_capacity(5 + body.len());
    bytes.extend_from_slice(&(body.len() as u32 + 1).to_le_bytes());
    bytes.push(kind as u8);
    bytes.extend_from_slice(body);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_wire_form_is_frozen() {
        let start = Frame::message(&Request::Start).encode();
        assert_eq!(start, b"\x11\0\0\0\0{\"type\":\"start\"}");
        let hello = Frame::message(&Report::Hello { version: 1 });
        assert_eq!(hello.body, br#"{"type":"hello","version":1}"#);
        let exec = Frame::message(&Request::Exec { file: "exec-1.json".to_owned() });
        assert_eq!(exec.body, br#"{"type":"exec","file":"exec-1.json"}"#);
        let resize = Frame::message(&Request::Resize { size: Size { rows: 24, columns: 80 } });
        assert_eq!(resize.body, br#"{"type":"resize","size":{"rows":24,"columns":80}}"#);
        assert_eq!(encode(Kind::Stderr, b"x"), b"\x02\0\0\0\x03x");
        assert_eq!(Frame::message(&Request::Take).body, br#"{"type":"take"}"#);
        assert_eq!(Frame::message(&Report::Parked).body, br#"{"type":"parked"}"#);
    }

    #[test]
    fn oversize_empty_and_unknown_frames_are_refused_at_once() {
        let mut oversize = (FRAME_BYTES_MAX as u32 + 1).to_le_bytes().to_vec();
        assert!(matches!(Frame::take(&mut oversize), Err(ProtocolError::Length(_))));
        assert!(matches!(Frame::take(&mut vec![0, 0, 0, 0]), Err(ProtocolError::Length(0))));
        assert!(matches!(Frame::take(&mut vec![1, 0, 0, 0, 9]), Err(ProtocolError::Kind(9))));
        let garbage = Frame { kind: Kind::Json, body: b"{\"type\":\"reboot\"}".to_vec() };
        assert!(matches!(garbage.parse::<Request>(), Err(ProtocolError::Message(_))));
    }

    #[test]
    fn a_long_failure_keeps_both_its_ends() {
        for (before, filler) in [("", "x"), ("a", "é"), ("ab", "…"), ("abc", "🦀"), ("", "\u{1}")] {
            let failure = StartFailure::new(FailureKind::Other, format!("{before}{}: because", filler.repeat(4000)));
            assert!(failure.message.len() <= FAILURE_BYTES_MAX, "{}", failure.message.len());
            assert!(failure.message.starts_with(before) && failure.message.ends_with(": because"));
            assert!(serde_json::to_vec(&failure).unwrap().len() < 7 << 10);
        }
        assert_eq!(StartFailure::new(FailureKind::Other, "short").message, "short");
    }

    proptest! {
        #[test]
        fn frames_survive_any_split(bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..8), cut in 1usize..64) {
            let wire: Vec<u8> = bodies.iter().flat_map(|body| encode(Kind::Stdout, body)).collect();
            let mut buffer = Vec::new();
            let mut seen = Vec::new();
            for piece in wire.chunks(cut) {
                buffer.extend_from_slice(piece);
                while let Some(frame) = Frame::take(&mut buffer).unwrap() {
                    seen.push(frame.body);
                }
            }
            prop_assert_eq!(seen, bodies);
            prop_assert!(buffer.is_empty());
        }

        #[test]
        fn garbage_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            while let Ok(Some(_)) = Frame::take(&mut bytes) {}
        }
    }
}
