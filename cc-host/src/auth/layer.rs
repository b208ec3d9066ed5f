//! The gate before every RPC: it finds out who calls, or refuses in words that have a code. Refuses to know which RPCs
//! exist; what a caller may do is asked in the rooms.
//!
//! On the unix socket root needs no key. On TLS the signature is verified from the headers alone, so that strangers cannot
//! make us read a body; then only the first message is waited for, hashed and passed on, and the rest streams by.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

use cc_common::api::fault::Fault;
use cc_common::api::frame::first_frame;
use cc_common::api::signing::{SignedClaim, SigningError, WINDOW_MS};

use super::nonces::{Nonce, Nonces};
use super::refusals::{Log, Refusals, Source};
use super::tally::{Door, Tally};
use super::{Caller, Peer, Role, keys};
use crate::ids::{Name, Project, default_project, now_ms};
use crate::mutation::{self, Control};
use crate::store::Store;

/// On the local socket root says with it which project it means. A key has one project; whoever names another is mistaken.
const HEADER_PROJECT: &str = "cc-project";
/// How long a verified caller may take to send its first message.
const FIRST_MESSAGE_MAX: Duration = Duration::from_secs(15);

pub struct AuthConfig {
    pub store: Arc<dyn Store>,
    /// SHA-256 of this server's public key, under every signature; `None` when TLS is not served.
    pub server: Option<[u8; 32]>,
    pub refusals_per_minute: u32,
}

/// Cheap to clone; the clones share what they remember.
#[derive(Clone)]
pub struct AuthLayer {
    gate: Arc<Gate>,
}

struct Gate {
    store: Arc<dyn Store>,
    server: Option<[u8; 32]>,
    /// What was signed before is refused: this process cannot know which of it an earlier one has served.
    started_ms: u64,
    clock: fn() -> u64,
    nonces: Mutex<Nonces>,
    refusals: Mutex<Refusals>,
    tally: Tally,
}

impl AuthLayer {
    pub fn new(config: AuthConfig) -> Self {
        Self::with_clock(config, now_ms)
    }

    /// As `new`, with another clock: for tests of what time does.
    pub(crate) fn with_clock(config: AuthConfig, clock: fn() -> u64) -> Self {
        let gate = Gate {
            store: config.store,
            server: config.server,
            started_ms: clock(),
            clock,
            nonces: Mutex::default(),
            refusals: Mutex::new(Refusals::new(config.refusals_per_minute)),
            tally: Tally::default(),
        };
        AuthLayer { gate: Arc::new(gate) }
    }

    /// Whose a request without a body is: by its headers, which sign its path, and its query as the message.
    pub async fn admit_query(&self, peer: Peer, headers: &HeaderMap, path: &str, query: &str) -> Result<Caller, Fault> {
        let signed = async {
            let (caller, expected) = self.gate.signer(headers, path).await?;
            let hash: [u8; 32] = Sha256::digest(query.as_bytes()).into();
            match bool::from(hash.ct_eq(&expected)) {
                true => Ok(caller),
                false => Err(refusal(Code::Unauthenticated, "auth.bad_message", "its query is not what was signed")),
            }
        };
        self.gate.counted(peer, path, signed).await
    }

    /// How many calls were refused, here and for want of a role behind it.
    pub fn tally(&self) -> Tally {
        self.gate.tally.clone()
    }
}

impl<S> Layer<S> for AuthLayer {
    type Service = Auth<S>;
    fn layer(&self, inner: S) -> Auth<S> {
        Auth { gate: self.gate.clone(), inner }
    }
}

#[derive(Clone)]
pub struct Auth<S> {
    gate: Arc<Gate>,
    inner: S,
}

impl<S> Service<Request<Body>> for Auth<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let gate = self.gate.clone();
        // The one that was polled ready is the one to call.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        Box::pin(async move {
            match gate.admit(request).await {
                Ok(request) => {
                    let response = inner.call(request).await?;
                    gate.note(&response);
                    Ok(response)
                }
                Err(status) => {
                    gate.tally.count(Door::Grpc, &Fault::from(status.clone()).code);
                    Ok(status.into_http())
                }
            }
        })
    }
}

impl Gate {
    async fn admit(&self, request: Request<Body>) -> Result<Request<Body>, Status> {
        let Some(peer) = request.extensions().get::<Peer>().copied() else {
            // Only a server that was put together wrongly gets here.
            return Err(refusal(Code::Internal, "auth.no_peer", "the connection does not say where it is from").into());
        };
        let path = request.uri().path().to_owned();
        let admitted = self.counted(peer, &path, async {
            match peer {
                Peer::Local { uid } => local(uid, request),
                Peer::Remote { .. } => self.remote(request).await,
            }
        });
        Ok(admitted.await?)
    }

    /// The verdict, unless its source has been refused too often; a refusal is counted against it.
    async fn counted<T>(
        &self,
        peer: Peer,
        path: &str,
        verdict: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Fault> {
        let source = Source::from(peer);
        if lock(&self.refusals).over_limit(source, (self.clock)()) {
            let why = "too many calls from the same source were refused within the minute";
            let next = "wait a minute; then check the access token, the secret key and this machine's clock";
            return Err(refusal(Code::ResourceExhausted, "auth.rate_limited", why).next(next));
        }
        verdict.await.inspect_err(|fault| {
            // Our own trouble is not the caller's guessing.
            if fault.kind != Code::Unavailable && fault.kind != Code::Internal {
                let path: String = path.chars().take(128).collect();
                match lock(&self.refusals).count(source, (self.clock)()) {
                    Log::Each => tracing::warn!(?peer, %path, code = %fault.code, why = %fault.why, "refused a call"),
                    Log::Last => tracing::warn!(
                        ?peer, %path, code = %fault.code, why = %fault.why,
                        "refused a call; this source is turned away unread until its minute is over"
                    ),
                }
            }
        })
    }

    /// Whether the role sufficed is found out behind the gate; what was refused there is in the headers of the answer.
    fn note(&self, response: &Response<Body>) {
        let Some(status) = Status::from_header_map(response.headers()) else { return };
        if status.code() == Code::PermissionDenied {
            let code = Fault::from(status).code;
            if code.starts_with("auth.") {
                self.tally.count(Door::Grpc, &code);
            }
        }
    }

    async fn remote(&self, mut request: Request<Body>) -> Result<Request<Body>, Fault> {
        let (caller, expected) = self.signer(request.headers(), request.uri().path()).await?;
        let body = std::mem::replace(request.body_mut(), Body::empty());
        *request.body_mut() = check_first_message(body, &expected).await?;
        request.extensions_mut().insert(caller);
        Ok(request)
    }

    /// Who signed, and the hash of the message that was signed, which is to be compared.
    async fn signer(&self, headers: &HeaderMap, path: &str) -> Result<(Caller, [u8; 32]), Fault> {
        let Some(server) = &self.server else {
            return Err(refusal(Code::Internal, "auth.no_server_key", "this server has no key to sign for"));
        };
        let signed = SignedClaim::read(headers).map_err(unreadable)?;
        let claim = &signed.claim;
        let now_ms = (self.clock)();
        self.check_time(claim.unix_ms, now_ms)?;
        let found = keys::lookup(&*self.store, &claim.key).await.map_err(Fault::from)?;
        let Some(key) = found else {
            return Err(refusal(
                Code::Unauthenticated,
                "auth.unknown_key",
                "its access token is unknown or was revoked",
            )
            .next("make a key on the host: cc-host key create --role ROLE --project PROJECT"));
        };
        signed.verify(&key.public, path, server).map_err(|error| {
            refusal(Code::Unauthenticated, "auth.bad_signature", &error.to_string())
                .next("check that the secret key belongs to the access token, and that the endpoint URL is this host's")
        })?;
        match lock(&self.nonces).remember(&claim.key, claim.nonce, claim.unix_ms, now_ms) {
            Nonce::New => {}
            Nonce::Replayed => {
                return Err(refusal(Code::Unauthenticated, "auth.replayed", "the same signed call was made before"));
            }
            Nonce::Full => {
                let why = "the key made more calls within two minutes than can be remembered";
                return Err(refusal(Code::ResourceExhausted, "auth.key_busy", why).next("call less often"));
            }
        }
        if let Some(named) = named_project(headers)?
            && named != key.project
        {
            let why = format!("it names the project {named}, and its key belongs to {}", key.project);
            return Err(refusal(Code::PermissionDenied, "auth.project", &why)
                .next("leave --cc-project and CC_PROJECT out, or use a key of that project"));
        }
        let caller = Caller { project: key.project, role: key.role, local: false, key: Some(claim.key.clone()) };
        Ok((caller, claim.message))
    }

    fn check_time(&self, signed_ms: u64, now_ms: u64) -> Result<(), Fault> {
        let expired = |why: String| {
            Err(refusal(Code::Unauthenticated, "auth.expired", &why).next("set both machines' clocks, and try again"))
        };
        if signed_ms.abs_diff(now_ms) > WINDOW_MS {
            let ahead = if signed_ms > now_ms { "ahead of" } else { "behind" };
            let seconds = signed_ms.abs_diff(now_ms) / 1000;
            return expired(format!("its signature's time is {seconds} s {ahead} this host's"));
        }
        if signed_ms < self.started_ms {
            return expired("it was signed before this daemon started".to_owned());
        }
        Ok(())
    }
}

/// Root needs no key here: the kernel says who it is.
fn local(uid: u32, mut request: Request<Body>) -> Result<Request<Body>, Fault> {
    if uid != 0 && !mutation::off(Control::PeerCredentials) {
        let why = format!("the local socket is root's, and you are uid {uid}");
        return Err(refusal(Code::PermissionDenied, "auth.not_root", &why)
            .next("run the command as root, or use the TLS endpoint with an access key"));
    }
    let project = named_project(request.headers())?.unwrap_or_else(default_project);
    request.extensions_mut().insert(Caller { project, role: Role::Admin, local: true, key: None });
    Ok(request)
}

fn named_project(headers: &HeaderMap) -> Result<Option<Project>, Fault> {
    let Some(value) = headers.get(HEADER_PROJECT) else { return Ok(None) };
    let name = value.to_str().ok().and_then(|text| Name::parse(text).ok());
    name.map(Some).ok_or_else(|| {
        refusal(Code::InvalidArgument, "auth.bad_project", "the project's name is not valid")
            .next("use a-z, 0-9 and '-', at most 63 characters")
    })
}

/// Waits for the first message, compares it, and returns a body that starts with what was read.
async fn check_first_message(body: Body, expected: &[u8; 32]) -> Result<Body, Fault> {
    let differs = |why: &str| {
        refusal(Code::Unauthenticated, "auth.bad_message", why).next("something on the way changes requests: find it")
    };
    let read = tokio::time::timeout(FIRST_MESSAGE_MAX, first_frame(body)).await;
    let read =
        read.map_err(|_| refusal(Code::DeadlineExceeded, "auth.no_message", "its first message did not come"))?;
    let (hash, body) = read.map_err(|error| differs(&error.to_string()))?;
    if !bool::from(hash.ct_eq(expected)) {
        return Err(differs("its first message is not the one that was signed"));
    }
    Ok(body)
}

pub(super) fn refusal(kind: Code, code: &str, why: &str) -> Fault {
    Fault::new(kind, code, "the call was refused", why)
}

fn unreadable(error: SigningError) -> Fault {
    match error {
        SigningError::Unsigned => refusal(Code::Unauthenticated, "auth.unsigned", &error.to_string())
            .next("give an access token and a secret key: CC_ACCESS_TOKEN, CC_SECRET_KEY"),
        SigningError::UnknownVersion(_) => refusal(Code::Unauthenticated, "auth.version", &error.to_string())
            .next("use the cc command of this host's version"),
        _ => refusal(Code::Unauthenticated, "auth.malformed", &error.to_string()),
    }
}

/// The tables stay consistent at every step, so a panic elsewhere does not spoil them.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
