//! One connection to a shim, as frames. Refuses to know what a container is.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::shim::protocol::{self, CHUNK_BYTES_MAX, Frame, Kind, PROTOCOL_OLDEST, PROTOCOL_VERSION, Report, Request};
use crate::shim::record::SOCKET_FILE;

/// A shim answers at once or not at all.
const GREETING_WITHIN: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("cannot connect to the shim in {dir}")]
    Connect { dir: PathBuf, source: std::io::Error },
    #[error("cannot {operation} the shim")]
    Stream { operation: &'static str, source: std::io::Error },
    #[error("the shim speaks protocol version {0}, this program {PROTOCOL_OLDEST} to {PROTOCOL_VERSION}")]
    Version(u32),
    #[error("the container was started by an earlier version, which cannot do this; it can when it is started anew")]
    TooOld,
    #[error("the shim said something unexpected")]
    Unexpected,
    #[error("the shim does not answer")]
    Silent,
    #[error("the connection to the shim broke the protocol")]
    Protocol(#[from] protocol::ProtocolError),
}

pub struct Reader(OwnedReadHalf);

pub struct Writer(OwnedWriteHalf);

/// Connected, and both sides have said hello: the version that both speak.
pub async fn connect(dir: &Path) -> Result<(Reader, Writer, u32), ClientError> {
    let stream = UnixStream::connect(dir.join(SOCKET_FILE))
        .await
        .map_err(|source| ClientError::Connect { dir: dir.to_owned(), source })?;
    let (read, write) = stream.into_split();
    let (mut reader, mut writer) = (Reader(read), Writer(write));
    let hello = tokio::time::timeout(GREETING_WITHIN, reader.report()).await.map_err(|_| ClientError::Silent)?;
    let version = match hello? {
        Some(Report::Hello { version: version @ PROTOCOL_OLDEST.. }) => version.min(PROTOCOL_VERSION),
        Some(Report::Hello { version }) => return Err(ClientError::Version(version)),
        _ => return Err(ClientError::Unexpected),
    };
    writer.request(&Request::Hello { version }).await?;
    Ok((reader, writer, version))
}

impl Reader {
    /// `None` at the end of the connection. Not to be cancelled half-way: a frame would be lost.
    pub async fn frame(&mut self) -> Result<Option<Frame>, ClientError> {
        let failed = |source| ClientError::Stream { operation: "read from", source };
        let mut head = [0; 4];
        match self.0.read_exact(&mut head).await {
            Ok(_) => {}
            Err(e) if matches!(e.kind(), std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset) => {
                return Ok(None);
            }
            Err(e) => return Err(failed(e)),
        }
        let mut body = vec![0; protocol::check_length(head)?];
        self.0.read_exact(&mut body).await.map_err(failed)?;
        Ok(Some(Frame::from_wire(&body)?))
    }

    /// The next report, where no output can come.
    pub async fn report(&mut self) -> Result<Option<Report>, ClientError> {
        match self.frame().await? {
            Some(frame) if frame.kind == Kind::Json => Ok(Some(frame.parse()?)),
            Some(_) => Err(ClientError::Unexpected),
            None => Ok(None),
        }
    }
}

impl Writer {
    pub async fn request(&mut self, request: &Request) -> Result<(), ClientError> {
        self.write(&message(request)).await
    }

    pub async fn stdin(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        for piece in bytes.chunks(CHUNK_BYTES_MAX) {
            self.write(&protocol::encode(Kind::Stdin, piece)).await?;
        }
        Ok(())
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        self.0.write_all(bytes).await.map_err(|source| ClientError::Stream { operation: "write to", source })
    }
}

fn message<T: Serialize>(message: &T) -> Vec<u8> {
    Frame::message(message).encode()
}
