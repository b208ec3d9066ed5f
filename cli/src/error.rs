//! What a command can end with, and how a person or a program reads it: `error:` and `next:` lines, or one JSON object.
//! Refuses to fail silently, except when nobody reads our output any more.

use std::error::Error;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;

use cc_common::api::fault::Fault;
use serde::Serialize;
use tonic::{Code, Status};

use crate::render::clean;

/// The codes that `cc --help` documents.
pub const EXIT_FAILED: i32 = 1;
pub const EXIT_USAGE: i32 = 2;
pub const EXIT_RUN_FAILED: i32 = 125;
pub const EXIT_NOT_EXECUTABLE: i32 = 126;
pub const EXIT_NOT_FOUND: i32 = 127;
/// As a shell reports a process that SIGPIPE ended.
pub const EXIT_PIPE: i32 = 141;

/// The code under which a daemon that stops cuts the calls that follow a container.
pub const STOPPING: &str = "server.stopping";

pub const DEFAULT_SOCKET: &str = "/run/cc/cc.sock";

#[derive(Debug)]
pub enum Failure {
    Fault(Box<Fault>),
    /// Our standard output was closed: there is nobody to tell.
    OutputClosed,
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Failure::Fault(Box::new(fault))
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Fault::from(status).into()
    }
}

/// The one place where a bare I/O error has a meaning: writing what we render.
impl From<io::Error> for Failure {
    fn from(source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::BrokenPipe => Failure::OutputClosed,
            _ => Fault::new(Code::Unknown, "cli.output", "cannot write the output", source.to_string()).into(),
        }
    }
}

/// An invalid argument that clap cannot see.
pub fn usage(what: impl Into<String>, why: impl ToString) -> Fault {
    Fault::new(Code::InvalidArgument, "cli.usage", what, why.to_string())
}

/// The sources of an error in one clause.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

/// A command's failure as an exit code. Only `run` distinguishes its own failures from the container's.
pub fn exit_code(fault: &Fault, is_run: bool) -> i32 {
    match (is_run, fault.code.as_str()) {
        (true, "container.not_executable") => EXIT_NOT_EXECUTABLE,
        (true, "container.not_found") => EXIT_NOT_FOUND,
        (true, _) => EXIT_RUN_FAILED,
        (false, "cli.usage") => EXIT_USAGE,
        (false, _) => EXIT_FAILED,
    }
}

/// Whether the other end is gone, or about to go: what was asked for may go on without it.
pub fn is_lost(fault: &Fault) -> bool {
    fault.code.starts_with("transport") || fault.code == STOPPING
}

/// A call that never reached the local daemon is explained by what the socket says.
pub fn explain(fault: Fault, endpoint: Option<&str>) -> Fault {
    let local = endpoint.unwrap_or(DEFAULT_SOCKET);
    let path = local.strip_prefix("unix://").unwrap_or(local);
    if !path.starts_with('/') || !fault.code.starts_with("transport") {
        return fault;
    }
    let Err(source) = UnixStream::connect(path) else { return fault };
    let what = format!("cannot reach the daemon at {path}");
    let start = "start it with: cc-host serve (cc-host check names what it lacks)";
    match source.kind() {
        io::ErrorKind::NotFound => Fault::new(
            Code::Unavailable,
            "transport.no_socket",
            what,
            "cc-host is not running: there is no such socket",
        )
        .next(start),
        io::ErrorKind::ConnectionRefused => Fault::new(
            Code::Unavailable,
            "transport.refused",
            what,
            "cc-host is not running: nobody listens on the socket",
        )
        .next(start),
        io::ErrorKind::PermissionDenied => Fault::new(
            Code::PermissionDenied,
            "transport.permission",
            what,
            "the socket belongs to root",
        )
        .next("run this as root, or give an endpoint and a key: --cc-endpoint-url, --cc-access-token, --cc-secret-key"),
        _ => Fault::new(Code::Unavailable, "transport", what, source.to_string()).next(start),
    }
}

pub fn print_into(out: &mut impl Write, fault: &Fault, json: bool) -> io::Result<()> {
    #[derive(Serialize)]
    struct Body<'a> {
        code: &'a str,
        what: &'a str,
        why: &'a str,
        next: &'a str,
    }
    #[derive(Serialize)]
    struct Outer<'a> {
        error: Body<'a>,
    }
    if json {
        let error = Body { code: &fault.code, what: &fault.what, why: &fault.why, next: &fault.next };
        serde_json::to_writer(&mut *out, &Outer { error })?;
        return writeln!(out);
    }
    writeln!(out, "error: {}: {}", clean(&fault.what), clean(&fault.why))?;
    if !fault.next.is_empty() {
        writeln!(out, "next: {}", clean(&fault.next))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(json: bool) -> String {
        let fault = Fault::new(Code::FailedPrecondition, "vpc.in_use", "cannot delete VPC blue", "2 containers use it")
            .next("cc rm -f a b");
        let mut out = Vec::new();
        print_into(&mut out, &fault, json).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn people_read_two_lines() {
        assert_eq!(printed(false), "error: cannot delete VPC blue: 2 containers use it\nnext: cc rm -f a b\n");
    }

    #[test]
    fn programs_read_one_object() {
        assert_eq!(
            printed(true),
            "{\"error\":{\"code\":\"vpc.in_use\",\"what\":\"cannot delete VPC blue\",\
             \"why\":\"2 containers use it\",\"next\":\"cc rm -f a b\"}}\n"
        );
    }

    #[test]
    fn only_run_has_docker_codes() {
        let fault = |code: &str| Fault::new(Code::Unknown, code, "", "");
        assert_eq!(exit_code(&fault("container.not_found"), true), 127);
        assert_eq!(exit_code(&fault("container.not_executable"), true), 126);
        assert_eq!(exit_code(&fault("image.unknown"), true), 125);
        assert_eq!(exit_code(&fault("container.not_found"), false), 1);
        assert_eq!(exit_code(&fault("cli.usage"), false), 2);
    }

    #[test]
    fn a_missing_or_deaf_socket_is_explained() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cc.sock");
        let url = format!("unix://{}", path.display());
        let code = || explain(Fault::new(Code::Unavailable, "transport", "x", "y"), Some(&url)).code;
        assert_eq!(code(), "transport.no_socket");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert_eq!(code(), "transport.refused");
        let remote = explain(Fault::new(Code::Unavailable, "transport", "x", "y"), Some("https://h:7443#sha256=00"));
        assert_eq!(remote.code, "transport");
    }
}
