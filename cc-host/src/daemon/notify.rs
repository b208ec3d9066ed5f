//! Tells the service manager that started us how we are, as sd_notify(3) has it. Refuses to fail: who does not listen is not told.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Where a service manager listens; without it there is none.
const SOCKET: &str = "NOTIFY_SOCKET";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Every door is open.
    Ready,
    Stopping,
}

pub fn tell(state: State) {
    let Some(name) = std::env::var_os(SOCKET) else { return };
    if let Err(error) = send(name.as_bytes(), state) {
        tracing::warn!(%error, ?state, "cannot tell the service manager");
    }
}

/// A name that begins with @ is not in the file system.
fn send(name: &[u8], state: State) -> std::io::Result<()> {
    let address = match name.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name))?,
    };
    let word: &[u8] = match state {
        State::Ready => b"READY=1",
        State::Stopping => b"STOPPING=1",
    };
    UnixDatagram::unbound()?.send_to_addr(word, &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_names_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("notify");
        let hidden = format!("@cc-notify-{}", std::process::id());
        let listen = |name: &[u8]| match name.strip_prefix(b"@") {
            Some(name) => UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name).unwrap()).unwrap(),
            None => UnixDatagram::bind(std::ffi::OsStr::from_bytes(name)).unwrap(),
        };
        for name in [file.as_os_str().as_bytes(), hidden.as_bytes()] {
            let socket = listen(name);
            for (state, word) in [(State::Ready, &b"READY=1"[..]), (State::Stopping, b"STOPPING=1")] {
                send(name, state).unwrap();
                let mut said = [0; 32];
                let length = socket.recv(&mut said).unwrap();
                assert_eq!(&said[..length], word);
            }
        }
        assert!(send(b"/nowhere/at/all", State::Ready).is_err());
    }
}
