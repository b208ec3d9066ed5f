//! A client of WebSockets that goes where a test sends it, and hears what it is not given, too. Refuses to wait for ever.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;
use tungstenite::client::IntoClientRequest as _;
use tungstenite::handshake::HandshakeError;
use tungstenite::http::{HeaderName, HeaderValue};
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Message, WebSocket};

use crate::netns::Netns;

pub const PROTOCOL: &str = "v5.channel.k8s.io";

/// Of every read: what is heard later is a failure.
const WITHIN: Duration = Duration::from_secs(20);

pub type Headers<'a> = &'a [(&'static str, &'a str)];

/// Why there is no WebSocket: what HTTP said.
#[derive(Debug)]
pub struct Refused {
    pub status: u16,
    pub body: Value,
}

pub struct Socket<S> {
    inner: WebSocket<S>,
    pub answered: Vec<(String, String)>,
}

/// What was heard until the end.
#[derive(Debug, Default)]
pub struct Heard {
    pub stdout: String,
    pub stderr: String,
    /// The last word: how it ended.
    pub status: Value,
}

/// A connection to an address inside.
pub fn dial(netns: &Netns, address: &str) -> TcpStream {
    let address = address.to_owned();
    let stream = netns.run(move || TcpStream::connect(address)).unwrap().expect("it listens");
    stream.set_read_timeout(Some(WITHIN)).unwrap();
    stream
}

impl<S: Read + Write> Socket<S> {
    /// As `v5.channel.k8s.io`, unless the headers say another protocol.
    pub fn open(stream: S, url: &str, headers: Headers<'_>) -> Result<Self, Refused> {
        let mut request = url.into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(PROTOCOL));
        for (name, value) in headers {
            request.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        match tungstenite::client(request, stream) {
            Ok((inner, answer)) => {
                let text = |value: &HeaderValue| value.to_str().unwrap_or_default().to_owned();
                let answered = answer.headers().iter().map(|(name, value)| (name.to_string(), text(value)));
                Ok(Socket { inner, answered: answered.collect() })
            }
            Err(HandshakeError::Failure(tungstenite::Error::Http(answer))) => {
                let body = answer.body().as_deref().and_then(|body| serde_json::from_slice(body).ok());
                Err(Refused { status: answer.status().as_u16(), body: body.unwrap_or_default() })
            }
            Err(error) => panic!("{url}: {error}"),
        }
    }

    pub fn send(&mut self, channel: u8, bytes: &[u8]) {
        let frame = [&[channel], bytes].concat();
        self.inner.send(Message::Binary(frame.into())).unwrap();
    }

    pub fn send_text(&mut self, text: &str) {
        self.inner.send(Message::Text(text.into())).unwrap();
    }

    pub fn close(&mut self) {
        let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        self.inner.close(Some(frame)).unwrap();
    }

    /// With which code the other end closes it; what comes before is not looked at.
    pub fn closed(&mut self) -> u16 {
        loop {
            match self.inner.read() {
                Ok(Message::Close(frame)) => return frame.expect("a close says why").code.into(),
                Ok(_) => {}
                Err(error) => panic!("it was not closed: {error}"),
            }
        }
    }

    /// Until the other end closes it, or `enough` says so.
    pub fn hear(&mut self, mut enough: impl FnMut(&Heard) -> bool) -> Heard {
        let mut heard = Heard::default();
        while !enough(&heard) {
            match self.inner.read() {
                Ok(Message::Binary(frame)) => match frame.split_first() {
                    Some((1, bytes)) => heard.stdout.push_str(&String::from_utf8_lossy(bytes)),
                    Some((2, bytes)) => heard.stderr.push_str(&String::from_utf8_lossy(bytes)),
                    Some((3, bytes)) => heard.status = serde_json::from_slice(bytes).unwrap(),
                    other => panic!("no server sends {other:?}"),
                },
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Ok(Message::Close(_)) | Err(tungstenite::Error::ConnectionClosed) => break,
                Ok(other) => panic!("no server sends {other:?}"),
                Err(error) => panic!("{error}; heard so far: {heard:?}"),
            }
        }
        heard
    }

    pub fn to_its_end(&mut self) -> Heard {
        self.hear(|_| false)
    }
}

/// One request without a WebSocket, and what was answered: status, head and body.
pub fn request(netns: &Netns, address: &str, method: &str, path: &str, headers: Headers<'_>, body: &str) -> Answer {
    let mut stream = dial(netns, address);
    let mut text = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
    if headers.iter().all(|(name, _)| *name != "host") {
        text.push_str(&format!("host: {address}\r\n"));
    }
    headers.iter().for_each(|(name, value)| text.push_str(&format!("{name}: {value}\r\n")));
    write!(stream, "{text}\r\n{body}").unwrap();
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if error.kind() != io::ErrorKind::ConnectionReset => panic!("{method} {path}: {error}"),
        _ => {}
    }
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Answer { status, head: head.to_lowercase(), body: body.to_owned() }
}

#[derive(Debug)]
pub struct Answer {
    /// 0: none.
    pub status: u16,
    /// In lower case.
    pub head: String,
    pub body: String,
}

impl Answer {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in: {self:?}"))
    }
}
