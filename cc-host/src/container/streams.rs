//! The streams of a program, as the shim carries them: what goes in, what comes out, and its end. Refuses to keep any of it.

use bytes::Bytes;

use super::launch_error::LaunchError;
use super::shim_client::{Reader, Writer};
use crate::shim::protocol::{Kind, PROTOCOL_EXEC, Report, Request};
use crate::shim::record::ExitRecord;
use crate::shim::terminal::Size;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    pub stream: Stream,
    pub bytes: Bytes,
}

/// The program's standard input, if it was attached with it, and its terminal, if it has one. Dropping it ends the input.
pub struct StdinSender {
    writer: Writer,
    version: u32,
}

impl StdinSender {
    pub(super) fn new(writer: Writer, version: u32) -> Self {
        StdinSender { writer, version }
    }

    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), LaunchError> {
        Ok(self.writer.stdin(bytes).await?)
    }

    /// Nothing more comes in.
    pub async fn end(&mut self) -> Result<(), LaunchError> {
        Ok(self.writer.request(&Request::StdinEof).await?)
    }

    pub async fn resize(&mut self, size: Size) -> Result<(), LaunchError> {
        if self.version < PROTOCOL_EXEC {
            return Ok(());
        }
        Ok(self.writer.request(&Request::Resize { size }).await?)
    }

    /// To a further program, whose streams these are. One that has ended is sent none.
    pub async fn signal(&mut self, signal: i32) -> Result<(), LaunchError> {
        Ok(self.writer.request(&Request::Signal { signal }).await?)
    }
}

/// A program's output, in the order in which it came, and its end.
pub struct OutputReceiver {
    reader: Option<Reader>,
    end: Option<ExitRecord>,
}

impl OutputReceiver {
    pub(super) fn new(reader: Reader) -> Self {
        OutputReceiver { reader: Some(reader), end: None }
    }

    /// `None` when all output was received. Not to be cancelled half-way: output would be lost.
    pub async fn recv(&mut self) -> Option<Output> {
        let reader = self.reader.as_mut()?;
        while let Ok(Some(frame)) = reader.frame().await {
            let stream = match frame.kind {
                Kind::Stdout => Stream::Stdout,
                Kind::Stderr => Stream::Stderr,
                Kind::Json => match frame.parse() {
                    Ok(Report::Exited { record }) => {
                        self.end = Some(record);
                        break;
                    }
                    _ => continue,
                },
                Kind::Stdin => continue,
            };
            return Some(Output { stream, bytes: frame.body.into() });
        }
        self.reader = None;
        None
    }

    /// After the end: whether that was the container's, so that nothing is missing. Otherwise the shim was killed, or it gave
    /// this receiver up for taking nothing.
    pub fn ended_whole(&self) -> bool {
        self.end.is_some()
    }

    /// After the end: how it was.
    pub fn end(&self) -> Option<&ExitRecord> {
        self.end.as_ref()
    }
}
