//! Messages over TCP: two bytes of length, then the message (RFC 1035, RFC 7766). Refuses to look into them.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// `None` at the end of the stream. A message longer than `most` is an error, of which nothing was read.
pub(super) async fn read_message(stream: &mut (impl AsyncRead + Unpin), most: usize) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 2];
    if stream.read(&mut length[..1]).await? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut length[1..]).await?;
    let length = usize::from(u16::from_be_bytes(length));
    if length > most {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(Some(message))
}

/// In one write, so that it leaves in one packet.
pub(super) async fn write_message(stream: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    stream.write_all(&[&length.to_be_bytes()[..], message].concat()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], most: usize) -> io::Result<Option<Vec<u8>>> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(read_message(&mut &bytes[..], most))
    }

    #[test]
    fn a_message_has_its_length_before_it() {
        assert_eq!(read(b"", 9).unwrap(), None);
        assert_eq!(read(b"\0\x02ab", 9).unwrap().unwrap(), b"ab");
        assert_eq!(read(b"\0\0", 9).unwrap().unwrap(), b"");
        assert_eq!(read(b"\0", 9).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(read(b"\0\x02a", 9).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(read(b"\0\x0a1234567890", 9).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut written = Vec::new();
        runtime.block_on(write_message(&mut written, b"ab")).unwrap();
        assert_eq!(written, b"\0\x02ab");
    }
}
