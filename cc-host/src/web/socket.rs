//! A WebSocket: the handshake, and then the channels of `v5.channel.k8s.io` between a client and a container's streams. Refuses to end a
//! program because its client went away, and to wait for a client that says nothing, not even that it is there.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use cc_common::api::fault::Fault;
use cc_common::api::v1;
use cc_common::api::v1::{run_input::Input as In, run_output::Output as Out};
use futures::{Sink, SinkExt as _, Stream, StreamExt as _};
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL};
use http::header::{HeaderName, HeaderValue, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderMap, StatusCode};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig};
use tonic::{Code, Status};

use super::answer::{self, Answer};
use super::channel::{self, FrameError, FromClient};

/// Clients cut what they send into pieces of this size or smaller.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
const PING_EVERY: Duration = Duration::from_secs(30);
/// Three pings without an answer.
const SILENCE_MAX: Duration = Duration::from_secs(100);
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// For what is on its way to a client that has been told the end: until it closes its side.
const LAST_WITHIN: Duration = Duration::from_secs(30);
const CLOSE_WITHIN: Duration = Duration::from_secs(2);
/// What may wait to be written, answers to pings above all: those of a client that does not read are dropped.
const WAITING_BYTES_MAX: usize = MESSAGE_BYTES_MAX;

/// Of a handshake: base64 of 16 bytes.
const KEY_CHARACTERS: usize = 24;
const VERSION: &str = "13";

pub type Input = mpsc::Sender<Result<v1::RunInput, Status>>;

/// The two directions of a conversation with a container.
pub struct Session<O> {
    pub output: O,
    /// `None` where a client has nothing to say.
    pub input: Option<Input>,
}

/// What a client is answered whose request is a handshake.
pub fn shake(headers: &HeaderMap) -> Result<Answer, Fault> {
    if !lists(headers, &UPGRADE, "websocket") || !lists(headers, &CONNECTION, "upgrade") {
        return Err(bad("it does not ask for a WebSocket").next("connect with a WebSocket client"));
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != VERSION) {
        return Err(bad("its version of WebSockets is not 13"));
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).filter(|key| key.len() == KEY_CHARACTERS);
    let Some(key) = key else { return Err(bad("its header Sec-WebSocket-Key is not 24 characters")) };
    if !lists(headers, &SEC_WEBSOCKET_PROTOCOL, channel::PROTOCOL) {
        return Err(bad("it does not offer the subprotocol v5.channel.k8s.io"));
    }
    let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes())).expect("base64 is a header's text");
    let mut answer = answer::bytes(StatusCode::SWITCHING_PROTOCOLS, "text/plain", "");
    let mut all = HeaderMap::new();
    all.insert(UPGRADE, HeaderValue::from_static("websocket"));
    all.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    all.insert(SEC_WEBSOCKET_ACCEPT, accept);
    all.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(channel::PROTOCOL));
    *answer.headers_mut() = all;
    Ok(answer)
}

/// Whether one of a header's words, which commas part, is this one.
fn lists(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|given| given.trim().eq_ignore_ascii_case(word))
}

fn bad(why: &str) -> Fault {
    Fault::new(Code::InvalidArgument, "web.no_websocket", "the request was refused", why)
}

/// Goes on when the answer has been sent, and holds `alive` until it is over.
pub fn spawn<O>(upgrade: OnUpgrade, session: Session<O>, alive: watch::Receiver<()>)
where
    O: Stream<Item = Result<v1::RunOutput, Status>> + Send + Unpin + 'static,
{
    tokio::spawn(async move {
        let _alive = alive;
        match upgrade.await {
            Ok(upgraded) => converse(upgraded, session).await,
            Err(error) => tracing::debug!(%error, "a WebSocket did not come about"),
        }
    });
}

/// Why nothing more is heard.
enum Unheard {
    Gone,
    Silent,
    Broken(FrameError),
    /// Text, where there are bytes only.
    Text,
    TooLong,
    Protocol(String),
}

/// When a client last showed that it is there: it said something, or took some of the output. While output waits for it, it is not asked to.
struct Signs {
    last: Mutex<Instant>,
    waited_for: AtomicBool,
}

impl Signs {
    fn new() -> Self {
        Signs { last: Mutex::new(Instant::now()), waited_for: AtomicBool::new(false) }
    }

    fn seen(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn silent(&self) -> bool {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        !self.waited_for.load(Ordering::Relaxed) && last.elapsed() > SILENCE_MAX
    }
}

async fn converse<O>(upgraded: Upgraded, session: Session<O>)
where
    O: Stream<Item = Result<v1::RunOutput, Status>> + Unpin,
{
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX))
        .max_write_buffer_size(WAITING_BYTES_MAX);
    let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
    let (mut sink, mut messages) = socket.split();
    let Session { output, input } = session;
    let signs = Signs::new();
    let heard = {
        let mut hear = std::pin::pin!(hear(&mut messages, input, &signs));
        tokio::select! {
            unheard = &mut hear => Some(unheard),
            told = tell(&mut sink, output, &signs) => {
                if told.is_ok() {
                    // What it still says is heard no more; its own end is.
                    let _closed_or_not = timeout(LAST_WITHIN, hear).await;
                }
                None
            }
        }
    };
    let (code, reason) = match heard {
        None | Some(Unheard::Gone) => return,
        Some(Unheard::Silent) => (CloseCode::Policy, "it did not answer".to_owned()),
        Some(Unheard::Broken(error)) => (CloseCode::Policy, error.to_string()),
        Some(Unheard::Text) => (CloseCode::Policy, "text, where v5.channel.k8s.io has binary messages".to_owned()),
        Some(Unheard::TooLong) => (CloseCode::Size, "a message has at most 1 MiB".to_owned()),
        Some(Unheard::Protocol(error)) => (CloseCode::Protocol, error),
    };
    let frame = CloseFrame { code, reason: reason.into() };
    let _gone_already = timeout(CLOSE_WITHIN, sink.send(Message::Close(Some(frame)))).await;
    // What it has sent meanwhile is taken in: on a socket that is dropped with bytes unread, the kernel drops the words above, too.
    if let Ok(socket) = sink.reunite(messages) {
        let mut rest = socket.into_inner();
        let _gone_or_not = timeout(CLOSE_WITHIN, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
    }
}

/// What the client says, until it goes. Where nothing is taken from it, it is heard all the same, to know that it is there.
async fn hear<S>(messages: &mut S, mut input: Option<Input>, signs: &Signs) -> Unheard
where
    S: Stream<Item = Result<Message, WsError>> + Unpin,
{
    loop {
        let message = match timeout(LOOK_EVERY, messages.next()).await {
            Err(_) if signs.silent() => return Unheard::Silent,
            Err(_) => continue,
            Ok(Some(Ok(message))) => message,
            Ok(Some(Err(WsError::Capacity(_)))) => return Unheard::TooLong,
            Ok(Some(Err(WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake)))) => return Unheard::Gone,
            Ok(Some(Err(error @ (WsError::Protocol(_) | WsError::Utf8(_))))) => {
                return Unheard::Protocol(error.to_string());
            }
            Ok(None | Some(Err(_))) => return Unheard::Gone,
        };
        signs.seen();
        let said = match message {
            Message::Binary(frame) => match channel::read(&frame) {
                Ok(said) => said,
                Err(error) => return Unheard::Broken(error),
            },
            Message::Text(_) => return Unheard::Text,
            Message::Close(_) => {
                // Its own close is answered by the next read.
                let _closed_or_not = timeout(CLOSE_WITHIN, messages.next()).await;
                return Unheard::Gone;
            }
            // Answered, and counted as a sign of life, by being read.
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
        };
        let Some(to) = &input else { continue };
        let said = match said {
            FromClient::Stdin(bytes) if bytes.is_empty() => continue,
            FromClient::Stdin(bytes) => In::Stdin(bytes),
            FromClient::StdinEnd => In::StdinEof(true),
            FromClient::Resize { rows, columns } => In::Resize(v1::WindowSize { rows, columns }),
        };
        if to.send(Ok(v1::RunInput { input: Some(said) })).await.is_err() {
            input = None;
        }
    }
}

/// The output, how it ended, and that this is all. An error says that the client is gone.
async fn tell<S, O>(sink: &mut S, mut output: O, signs: &Signs) -> Result<(), S::Error>
where
    S: Sink<Message> + Unpin,
    O: Stream<Item = Result<v1::RunOutput, Status>> + Unpin,
{
    let mut pings = interval(PING_EVERY);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let end = loop {
        let said = tokio::select! {
            said = output.next() => said,
            _ = pings.tick() => {
                sink.send(Message::Ping(Vec::new().into())).await?;
                continue;
            }
        };
        let frame = match said {
            None => break channel::success(),
            Some(Err(status)) => break channel::fault(&Fault::from(status)),
            Some(Ok(output)) => match output.output {
                Some(Out::Stdout(bytes)) => channel::stdout(&bytes),
                Some(Out::Stderr(bytes)) => channel::stderr(&bytes),
                Some(Out::Exit(exit)) => break channel::exit(&exit),
                _ => continue,
            },
        };
        signs.waited_for.store(true, Ordering::Relaxed);
        sink.send(Message::Binary(frame.into())).await?;
        signs.seen();
        signs.waited_for.store(false, Ordering::Relaxed);
    };
    sink.send(Message::Binary(end.into())).await?;
    let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    sink.send(Message::Close(Some(frame))).await
}
