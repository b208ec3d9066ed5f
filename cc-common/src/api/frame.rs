//! The first gRPC frame of a body: where it ends, and its hash. Both ends of a signed request read it: the client to sign
//! it, the daemon to compare. Refuses frames beyond the contract's size.

use sha2::{Digest, Sha256};

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

/// How many bytes the first frame takes, its header included; `None` while the header is not complete.
pub fn first_frame_bytes(received: &[u8]) -> Result<Option<usize>, FrameError> {
    let Some(header) = received.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let message_bytes = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
    if message_bytes > MESSAGE_BYTES_MAX {
        return Err(FrameError::TooLarge(message_bytes));
    }
    Ok(Some(HEADER_BYTES + message_bytes))
}

/// The hash of the first frame once `received` holds all of it, `None` before. A body that `ended` without a byte has a
/// hash too: that of nothing.
pub fn first_frame_hash(received: &[u8], ended: bool) -> Result<Option<[u8; 32]>, FrameError> {
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
