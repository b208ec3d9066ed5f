//! The frames of `v5.channel.k8s.io`: a byte that names the channel, then its bytes, in binary messages. Refuses what no client of
//! that protocol sends.

use cc_common::api::v1;
use serde::{Deserialize, Serialize};

use cc_common::api::fault::Fault;

/// The name by which both sides agree on it.
pub const PROTOCOL: &str = "v5.channel.k8s.io";

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// Followed by the channel that is closed.
const CLOSE: u8 = 255;

/// What a client sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromClient {
    Stdin(Vec<u8>),
    StdinEnd,
    Resize { rows: u32, columns: u32 },
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a message without a channel")]
    Empty,
    #[error("channel {0} takes nothing from a client")]
    Channel(u8),
    #[error("a size is JSON such as {{\"Width\":80,\"Height\":24}}")]
    Resize,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

pub fn read(frame: &[u8]) -> Result<FromClient, FrameError> {
    match frame {
        [] => Err(FrameError::Empty),
        [STDIN, bytes @ ..] => Ok(FromClient::Stdin(bytes.to_vec())),
        [CLOSE, STDIN] => Ok(FromClient::StdinEnd),
        [RESIZE, json @ ..] => {
            let Size { width, height } = serde_json::from_slice(json).map_err(|_| FrameError::Resize)?;
            Ok(FromClient::Resize { rows: height.into(), columns: width.into() })
        }
        [CLOSE, channel, ..] | [channel, ..] => Err(FrameError::Channel(*channel)),
    }
}

pub fn stdout(bytes: &[u8]) -> Vec<u8> {
    frame(STDOUT, bytes)
}

pub fn stderr(bytes: &[u8]) -> Vec<u8> {
    frame(STDERR, bytes)
}

fn frame(channel: u8, bytes: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(1 + bytes.len());
    frame.push(channel);
    frame.extend_from_slice(bytes);
    frame
}

/// As the Kubernetes API has it (`metav1.Status`).
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status<'a> {
    kind: &'a str,
    api_version: &'a str,
    metadata: Empty,
    status: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    message: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details<'a>>,
}

#[derive(Debug, Serialize)]
struct Empty {}

#[derive(Debug, Serialize)]
struct Details<'a> {
    causes: [Cause<'a>; 1],
}

#[derive(Debug, Serialize)]
struct Cause<'a> {
    reason: &'a str,
    message: &'a str,
}

/// How a program ended: its exit code is the cause of a failure.
pub fn exit(exit: &v1::Exit) -> Vec<u8> {
    if exit.code == 0 {
        return success();
    }
    let code = exit.code.to_string();
    let message = match exit.reason.is_empty() {
        true => format!("command terminated with exit code {code}"),
        false => exit.reason.clone(),
    };
    failure("NonZeroExitCode", &message, ("ExitCode", &code))
}

pub fn success() -> Vec<u8> {
    status("Success", "", "", None)
}

pub fn fault(fault: &Fault) -> Vec<u8> {
    failure("InternalError", &fault.to_string(), ("Code", &fault.code))
}

fn failure(reason: &str, message: &str, (cause, of): (&str, &str)) -> Vec<u8> {
    status("Failure", reason, message, Some(Details { causes: [Cause { reason: cause, message: of }] }))
}

fn status(status: &str, reason: &str, message: &str, details: Option<Details<'_>>) -> Vec<u8> {
    let status = Status { kind: "Status", api_version: "v1", metadata: Empty {}, status, message, reason, details };
    frame(ERROR, &serde_json::to_vec(&status).expect("strings and numbers become JSON"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clients_frames() {
        assert_eq!(read(b"\0ls\n"), Ok(FromClient::Stdin(b"ls\n".to_vec())));
        assert_eq!(read(b"\0"), Ok(FromClient::Stdin(Vec::new())), "clients open a channel with an empty frame");
        assert_eq!(read(&[255, 0]), Ok(FromClient::StdinEnd));
        assert_eq!(read(b"\x04{\"Width\":80,\"Height\":24}"), Ok(FromClient::Resize { rows: 24, columns: 80 }));
    }

    #[test]
    fn what_no_client_sends() {
        assert_eq!(read(b""), Err(FrameError::Empty));
        assert_eq!(read(b"\x01out"), Err(FrameError::Channel(1)));
        assert_eq!(read(&[255, 1]), Err(FrameError::Channel(1)));
        assert_eq!(read(&[255]), Err(FrameError::Channel(255)));
        assert_eq!(read(&[255, 0, 0]), Err(FrameError::Channel(0)));
        for size in
            ["{}", "{\"Width\":80}", "{\"Width\":-1,\"Height\":2}", "{\"Width\":70000,\"Height\":2}", "80x24", ""]
        {
            assert_eq!(read(format!("\x04{size}").as_bytes()), Err(FrameError::Resize), "{size}");
        }
    }

    #[test]
    fn an_end_is_a_status_that_kubernetes_clients_read() {
        assert_eq!(
            success(),
            b"\x03{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"metadata\":{},\"status\":\"Success\"}"
        );
        let end = exit(&v1::Exit { code: 3, ..v1::Exit::default() });
        let json: serde_json::Value = serde_json::from_slice(&end[1..]).unwrap();
        assert_eq!((json["status"].as_str(), json["reason"].as_str()), (Some("Failure"), Some("NonZeroExitCode")));
        assert_eq!(json["details"]["causes"][0]["message"], "3");
    }
}
