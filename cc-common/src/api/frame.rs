//! The first gRPC frame of a body: where it ends, and its hash. Both ends of a signed request read it: the client to sign
//! it, the daemon to compare; then it streams by, with the rest of the body. Refuses frames beyond the contract's size.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt as _;
use sha2::{Digest, Sha256};
use tonic::Status;
use tonic::body::Body;

/// Largest message of the contract, as both ends enforce it.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// The flag of compression and the length that precede each message.
pub const HEADER_BYTES: usize = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("its first message has {0} bytes, more than {MESSAGE_BYTES_MAX}")]
    TooLarge(usize),
    #[error("its body ended within the first message")]
    Cut,
}

/// Why a body has no first frame.
#[derive(Debug, thiserror::Error)]
pub enum FirstFrameError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("its body broke off")]
    Broken(#[source] Status),
}

/// Waits for the first frame; gives its hash, and a body that still starts with it. At most that frame, and what came in one
/// piece with its end, is held in memory.
pub async fn first_frame(mut body: Body) -> Result<([u8; 32], Body), FirstFrameError> {
    let mut received = BytesMut::new();
    let mut ended = body.is_end_stream();
    loop {
        if let Some(hash) = first_frame_hash(&received, ended)? {
            let first = Some(received.freeze()).filter(|first| !first.is_empty());
            return Ok((hash, Body::new(Resumed { first, rest: body })));
        }
        match body.frame().await {
            Some(frame) => {
                let frame = frame.map_err(FirstFrameError::Broken)?;
                received.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new()));
            }
            None => ended = true,
        }
    }
}

/// What was read already, then the rest as it comes.
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

/// How many bytes the first frame takes, its header included; `None` while the header is not complete.
fn first_frame_bytes(received: &[u8]) -> Result<Option<usize>, FrameError> {
    let Some(header) = received.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let message_bytes = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
    if message_bytes > MESSAGE_BYTES_MAX {
        return Err(FrameError::TooLarge(message_bytes));
    }
    Ok(Some(HEADER_BYTES + message_bytes))
}

/// The hash of the first frame once `received` holds all of it, `None` before. A body that `ended` without a byte has a
/// hash too: that of nothing.
fn first_frame_hash(received: &[u8], ended: bool) -> Result<Option<[u8; 32]>, FrameError> {
    match first_frame_bytes(received)? {
        Some(bytes) if received.len() >= bytes => Ok(Some(Sha256::digest(&received[..bytes]).into())),
        _ if ended && received.is_empty() => Ok(Some(Sha256::digest([]).into())),
        _ if ended => Err(FrameError::Cut),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_covers_the_first_frame_only() {
        let one = [0, 0, 0, 0, 2, 7, 8];
        let two = [0, 0, 0, 0, 2, 7, 8, 0, 0, 0, 0, 0];
        let hash = first_frame_hash(&one, false).expect("in bounds").expect("complete");
        assert_eq!(first_frame_hash(&two, true), Ok(Some(hash)));
        for cut in 0..one.len() {
            assert_eq!(first_frame_hash(&one[..cut], false), Ok(None));
        }
        assert_eq!(first_frame_hash(&one[..6], true), Err(FrameError::Cut));
        assert_ne!(first_frame_hash(&[], true).expect("nothing has a hash"), Some(hash));
    }

    #[test]
    fn a_frame_beyond_the_limit_is_refused_by_its_header() {
        assert_eq!(first_frame_hash(&[0, 255, 0, 0, 0], false), Err(FrameError::TooLarge(0xff00_0000)));
    }
}
