//! A channel whose requests say who calls: on TLS each is signed over its first message, on the local socket root names its
//! project. Refuses to buffer more than that message.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use cc_common::api::frame::first_frame_hash;
use cc_common::api::signing::{Claim, KeyId, SecretKey};
use http::{HeaderValue, Request, Response};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt as _;
use tonic::Status;
use tonic::body::Body;
use tonic::transport::Channel;
use tower::Service;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Cheap to clone; the clones share one HTTP/2 connection. Requests wait for their first message before they are sent, so
/// a streaming call must have its first message ready without an answer.
#[derive(Clone)]
pub struct Connection {
    channel: Channel,
    identity: Identity,
}

#[derive(Clone)]
enum Identity {
    Local { project: Option<HeaderValue> },
    Key { key: KeyId, secret: Arc<SecretKey>, server: [u8; 32] },
}

impl Connection {
    pub(super) fn local(channel: Channel, project: Option<HeaderValue>) -> Self {
        Connection { channel, identity: Identity::Local { project } }
    }

    pub(super) fn signed(channel: Channel, key: KeyId, secret: SecretKey, server: [u8; 32]) -> Self {
        Connection { channel, identity: Identity::Key { key, secret: Arc::new(secret), server } }
    }
}

impl Identity {
    async fn mark(self, mut request: Request<Body>) -> Result<Request<Body>, Error> {
        match self {
            Identity::Local { project } => {
                if let Some(project) = project {
                    request.headers_mut().insert("cc-project", project);
                }
            }
            Identity::Key { key, secret, server } => {
                let body = std::mem::replace(request.body_mut(), Body::empty());
                let (message, body) = first_message(body).await?;
                *request.body_mut() = body;
                let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
                let claim = Claim { key, unix_ms: now.as_millis() as u64, nonce: rand::random(), message };
                claim.sign(&secret, request.uri().path(), &server)?.write(request.headers_mut());
            }
        }
        Ok(request)
    }
}

impl Service<Request<Body>> for Connection {
    type Response = Response<Body>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.channel.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The one that was polled ready is the one to call.
        let clone = self.channel.clone();
        let mut channel = std::mem::replace(&mut self.channel, clone);
        let identity = self.identity.clone();
        Box::pin(async move { Ok(channel.call(identity.mark(request).await?).await?) })
    }
}

/// The hash of the first message, and a body that still starts with it.
async fn first_message(mut body: Body) -> Result<([u8; 32], Body), Error> {
    let mut sent = BytesMut::new();
    let mut ended = body.is_end_stream();
    loop {
        if let Some(hash) = first_frame_hash(&sent, ended)? {
            let first = Some(sent.freeze()).filter(|first| !first.is_empty());
            return Ok((hash, Body::new(Resumed { first, rest: body })));
        }
        match body.frame().await {
            Some(frame) => sent.extend_from_slice(frame?.data_ref().unwrap_or(&Bytes::new())),
            None => ended = true,
        }
    }
}

struct Resumed {
    first: Option<Bytes>,
    rest: Body,
}

impl http_body::Body for Resumed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(Ok(Frame::data(first)))),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_end_stream()
    }
}
