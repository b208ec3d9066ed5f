//! What is served over HTTP/1.1: the console's pages, what they ask, and the WebSockets of logs, attach and exec. A request is judged
//! by where its page is from, then by who asks (a ticket, a session or a signature), then by the service that gRPC has, too. Refuses to
//! know how anything is done, and to trust a cookie: there is none.

mod answer;
mod channel;
mod door;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod origin;
mod pages;
mod query;
mod socket;
mod view;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use cc_common::api::fault::Fault;
use cc_common::api::v1;
use cc_common::api::v1::container_service_server::ContainerService as _;
use cc_common::api::v1::{run_input::Input as In, run_output::Output as Out};
use futures::{Stream, StreamExt as _};
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde::Deserialize;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::api::{ContainerApi, session};
use crate::auth::tickets::For;
use crate::auth::{AuthLayer, Caller, Door, Role, Tickets};
use crate::shim::log::timestamp;
use answer::Answer;
use door::From;
use socket::Session;
use view::{ContainersView, MetricsView, SessionView, TicketView};

pub use door::serve;

const BODY_BYTES_MAX: usize = 4 << 10;
const BODY_WITHIN: Duration = Duration::from_secs(10);
/// Of a client's messages; what is more waits in its socket.
const QUEUE_MESSAGES: usize = 16;

type Output = std::pin::Pin<Box<dyn Stream<Item = Result<v1::RunOutput, Status>> + Send>>;

pub struct Web {
    pub containers: Arc<ContainerApi>,
    pub tickets: Tickets,
    pub auth: AuthLayer,
    /// Every socket has a receiver.
    pub alive: watch::Sender<()>,
}

#[derive(Deserialize)]
struct OpenSession {
    ticket: String,
}

impl Web {
    /// Never fails: what cannot be done is answered.
    async fn respond(&self, request: Request<Incoming>, from: &From) -> Answer {
        let (parts, body) = request.into_parts();
        let answered = match origin::check(&parts.headers, from.tls) {
            Ok(()) => self.route(parts, body, from).await,
            Err(fault) => Err(fault),
        };
        answered.unwrap_or_else(|fault| {
            self.note(&fault);
            answer::fault(&fault)
        })
    }

    /// Until every socket has told its client the end.
    pub async fn rest(&self) {
        self.alive.closed().await;
    }

    /// Refusals are counted; a signature's have been written to the log, and the others are nobody's guessing of 256 bits.
    fn note(&self, fault: &Fault) {
        if matches!(fault.kind, Code::Unauthenticated | Code::PermissionDenied) {
            tracing::debug!(code = %fault.code, why = %fault.why, "refused a request");
            self.auth.tally().count(Door::Web, &fault.code);
        }
    }

    async fn route(&self, parts: Parts, body: Incoming, from: &From) -> Result<Answer, Fault> {
        let path = parts.uri.path().to_owned();
        let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let reads = parts.method == Method::GET || parts.method == Method::HEAD;
        match *segments.as_slice() {
            [""] | ["console"] if reads => Ok(answer::see("/console/")),
            ["console", file] if reads => pages::find(file).ok_or_else(|| unknown(&path)),
            ["v1", "session"] if parts.method == Method::POST => self.open_session(body, from).await,
            ["v1", "session"] if parts.method == Method::DELETE => {
                self.caller(&parts, from).await?;
                self.tickets.close_session(bearer(&parts).unwrap_or_default());
                Ok(answer::json(&()))
            }
            ["v1", "ticket"] if parts.method == Method::POST => {
                if query::ticket(parts.uri.query().unwrap_or_default())?.is_some() {
                    return Err(bad_body("a ticket buys no ticket: show a session or a signature"));
                }
                let issued = self.tickets.issue(&self.caller(&parts, from).await?, For::Socket);
                Ok(answer::json(&TicketView { ticket: issued.text.to_string(), expires_ms: issued.expires_ms }))
            }
            ["v1", "containers"] if reads => {
                let wanted = self.by(&parts, from, v1::ListContainersRequest { all: true }).await?;
                let listed = self.containers.list(wanted).await?.into_inner();
                let containers = listed.containers.into_iter().map(Into::into).collect();
                Ok(answer::json(&ContainersView { containers }))
            }
            ["v1", "containers", id, "metrics"] if reads => {
                let wanted = self.by(&parts, from, v1::ContainerIds { ids: vec![id.to_owned()] }).await?;
                let metrics = self.containers.metrics(wanted).await?.into_inner().metrics;
                let found = metrics.into_iter().next().ok_or_else(|| unknown(&path))?;
                Ok(answer::json(&MetricsView::from(found)))
            }
            ["v1", "containers", id, what @ ("exec" | "attach" | "logs")] if parts.method == Method::GET => {
                self.open_socket(parts, from, id, what).await
            }
            _ => Err(unknown(&path)),
        }
    }

    async fn open_session(&self, body: Incoming, from: &From) -> Result<Answer, Fault> {
        let body = read(body).await?;
        let bad = |_| bad_body("its body is not {\"ticket\": \"cct_…\"}");
        let OpenSession { ticket } = serde_json::from_slice(&body).map_err(bad)?;
        let (caller, session) = self.tickets.open_session(&ticket).await?;
        from.known.store(true, Ordering::Relaxed);
        Ok(answer::json(&SessionView {
            session: session.text.to_string(),
            expires_ms: session.expires_ms,
            project: caller.project.to_string(),
            operator: caller.role >= Role::Operator,
        }))
    }

    /// By the first of these that it has: a ticket in its query, a session, a signature.
    async fn caller(&self, parts: &Parts, from: &From) -> Result<Caller, Fault> {
        let (path, query) = (parts.uri.path(), parts.uri.query().unwrap_or_default());
        let caller = if let Some(ticket) = query::ticket(query)? {
            self.tickets.redeem(&ticket).await?
        } else if let Some(session) = bearer(parts) {
            self.tickets.of_session(session).await?
        } else if from.tls {
            self.auth.admit_query(from.peer, &parts.headers, path, query).await?
        } else {
            let why = "it shows neither a ticket nor a session, and signatures are taken over TLS only";
            return Err(Fault::new(Code::Unauthenticated, "auth.no_ticket", "the request was refused", why)
                .next("ask for a link: cc console"));
        };
        from.known.store(true, Ordering::Relaxed);
        Ok(caller)
    }

    /// The message as the services take it: from a caller that is known.
    async fn by<T>(&self, parts: &Parts, from: &From, message: T) -> Result<tonic::Request<T>, Fault> {
        let caller = self.caller(parts, from).await?;
        let mut request = tonic::Request::new(message);
        request.extensions_mut().insert(caller);
        Ok(request)
    }

    /// The handshake is looked at first, so that a ticket is not spent on what is none. What cannot be done is told to a program by a status;
    /// a browser shows its page none, so whoever brings a ticket is told in the socket.
    async fn open_socket(&self, mut parts: Parts, from: &From, id: &str, what: &str) -> Result<Answer, Fault> {
        let answer = socket::shake(&parts.headers)?;
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let Some(upgrade) = parts.extensions.remove() else {
            let why = "its version of HTTP has no WebSockets";
            return Err(Fault::new(Code::InvalidArgument, "web.no_websocket", "the request was refused", why));
        };
        let by_ticket = query::ticket(&query)?.is_some();
        let caller = self.caller(&parts, from).await?;
        let session = match (self.session(caller, id, what, &query).await, by_ticket) {
            (Ok(session), _) => session,
            (Err(fault), false) => return Err(fault),
            (Err(fault), true) => {
                self.note(&fault);
                let output: Output = Box::pin(futures::stream::iter([Err(fault.into())]));
                Session { output, input: None }
            }
        };
        socket::spawn(upgrade, session, self.alive.subscribe());
        Ok(answer)
    }

    async fn session(&self, caller: Caller, id: &str, what: &str, query: &str) -> Result<Session<Output>, Fault> {
        match what {
            "exec" => self.exec(caller, query::exec(id, query)?).await,
            "attach" => self.attach(caller, query::attach(id, query)?).await,
            _ => self.logs(caller, query::logs(id, query)?).await,
        }
    }

    async fn exec(&self, caller: Caller, start: v1::ExecStart) -> Result<Session<Output>, Fault> {
        caller.require(Role::Operator)?;
        let (input, sent) = conversation(In::Exec(start));
        begun(session::exec(&self.containers.containers, caller, sent), Some(input)).await
    }

    async fn attach(&self, caller: Caller, start: v1::AttachStart) -> Result<Session<Output>, Fault> {
        caller.require(Role::Operator)?;
        let (input, sent) = conversation(In::Attach(start));
        begun(session::attach(&self.containers.containers, caller, sent), Some(input)).await
    }

    async fn logs(&self, caller: Caller, wanted: (v1::LogsRequest, bool)) -> Result<Session<Output>, Fault> {
        let (wanted, timestamps) = wanted;
        let mut request = tonic::Request::new(wanted);
        request.extensions_mut().insert(caller);
        let records = self.containers.logs(request).await?.into_inner();
        let mut inside_line = [false; 2];
        let output = records.map(move |record| {
            let v1::LogRecord { at_ns, stream, mut data } = record?;
            let is_stderr = stream == "stderr";
            let inside = &mut inside_line[usize::from(is_stderr)];
            let ended = data.last() == Some(&b'\n');
            if timestamps && !*inside {
                let time = timestamp(UNIX_EPOCH + Duration::from_nanos(at_ns));
                data.splice(0..0, time.into_iter().chain([b' ']));
            }
            *inside = !ended;
            let output = if is_stderr { Out::Stderr(data) } else { Out::Stdout(data) };
            Ok(v1::RunOutput { output: Some(output) })
        });
        Ok(Session { output: Box::pin(output), input: None })
    }
}

/// A client's side of a conversation that begins so.
fn conversation(start: In) -> (socket::Input, ReceiverStream<Result<v1::RunInput, Status>>) {
    let (input, sent) = mpsc::channel(QUEUE_MESSAGES);
    input.try_send(Ok(v1::RunInput { input: Some(start) })).expect("nothing was sent before");
    (input, ReceiverStream::new(sent))
}

/// Waits until it is known whether there is anything to talk to.
async fn begun<O>(mut output: O, input: Option<socket::Input>) -> Result<Session<Output>, Fault>
where
    O: Stream<Item = Result<v1::RunOutput, Status>> + Send + Unpin + 'static,
{
    match output.next().await {
        Some(Ok(_started)) => Ok(Session { output: Box::pin(output), input }),
        Some(Err(status)) => Err(status.into()),
        None => Err(Fault::new(Code::Internal, "web.no_session", "the request was refused", "nothing came of it")),
    }
}

async fn read(body: Incoming) -> Result<Bytes, Fault> {
    match tokio::time::timeout(BODY_WITHIN, Limited::new(body, BODY_BYTES_MAX).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(_)) => Err(bad_body("its body is longer than 4 KiB, or broke off")),
        Err(_) => Err(bad_body("its body did not come within 10 s")),
    }
}

fn bearer(parts: &Parts) -> Option<&str> {
    parts.headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

fn bad_body(why: &str) -> Fault {
    Fault::new(Code::InvalidArgument, "web.bad_body", "the request was refused", why)
}

fn unknown(path: &str) -> Fault {
    let path: String = path.chars().take(128).collect();
    Fault::new(Code::NotFound, "web.unknown", "the request was refused", format!("nothing is asked so at {path}"))
        .next("see docs/http.md for what there is")
}
