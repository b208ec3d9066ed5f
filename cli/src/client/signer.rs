//! A channel whose requests say who calls, and for which project: on TLS each is signed over its first message. Refuses to buffer
//! more than that message.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{SystemTime, UNIX_EPOCH};

use cc_common::api::frame::first_frame;
use cc_common::api::signing::{Claim, KeyId, SecretKey};
use http::{HeaderValue, Request, Response};
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
    project: Option<HeaderValue>,
}

#[derive(Clone)]
enum Identity {
    /// Root, as the kernel says.
    Local,
    Key {
        key: KeyId,
        secret: Arc<SecretKey>,
        server: [u8; 32],
    },
}

impl Connection {
    pub(super) fn local(channel: Channel, project: Option<HeaderValue>) -> Self {
        Connection { channel, identity: Identity::Local, project }
    }

    pub(super) fn signed(
        channel: Channel,
        key: KeyId,
        secret: SecretKey,
        server: [u8; 32],
        project: Option<HeaderValue>,
    ) -> Self {
        Connection { channel, identity: Identity::Key { key, secret: Arc::new(secret), server }, project }
    }
}

impl Identity {
    async fn mark(self, mut request: Request<Body>) -> Result<Request<Body>, Error> {
        match self {
            Identity::Local => {}
            Identity::Key { key, secret, server } => {
                let body = std::mem::replace(request.body_mut(), Body::empty());
                let (message, body) = first_frame(body).await?;
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
        let (identity, project) = (self.identity.clone(), self.project.clone());
        Box::pin(async move {
            let mut request = identity.mark(request).await?;
            if let Some(project) = project {
                request.headers_mut().insert("cc-project", project);
            }
            Ok(channel.call(request).await?)
        })
    }
}
