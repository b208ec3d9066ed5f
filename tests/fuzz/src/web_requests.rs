//! What browsers and WebSocket clients send, as far as it is read before anybody is asked who they are: no bytes are lost or made up, and only
//! a page of this host's own passes at its loopback door. Refuses to reach a container.

use cc_host::web::fuzzing::{FromClient, attach, exec, frame, logs, passes_at_loopback};

use crate::input::Input;

pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    match input.below(3) {
        0 => channel(input.rest()),
        1 => query(input.rest()),
        _ => origin(input.rest()),
    }
}

fn channel(bytes: &[u8]) {
    match frame(bytes) {
        Some(FromClient::Stdin(taken)) => assert_eq!(taken, bytes[1..]),
        Some(FromClient::StdinEnd) => assert_eq!(bytes, [255, 0]),
        Some(FromClient::Resize { rows, columns }) => {
            assert!(bytes[0] == 4 && rows <= u16::MAX.into() && columns <= u16::MAX.into());
        }
        None => {}
    }
}

fn query(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(start) = exec(text) {
        assert!(!start.detach && start.container == "web");
        let words = start.command.iter().map(|word| word.len()).sum::<usize>();
        // An escape is longer than what it stands for, but for what is no text: its mark has three bytes.
        assert!(words <= 3 * text.len());
        assert_eq!(exec(text).expect("read once, read again"), start);
    }
    if let Ok((wanted, _)) = logs(text) {
        assert_eq!(wanted.id, "web");
    }
    let _ = attach(text);
}

fn origin(bytes: &[u8]) {
    let half = bytes.len() / 2;
    let (host, from) = bytes.split_at(half);
    if passes_at_loopback(host, from) == Some(true) {
        let host = std::str::from_utf8(host).expect("what passes is text");
        let name = host
            .rsplit_once(':')
            .map_or(host, |(name, port)| if port.bytes().all(|b| b.is_ascii_digit()) { name } else { host });
        let literal = name.trim_start_matches('[').trim_end_matches(']');
        let is_loopback = literal.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        assert!(name == "localhost" || is_loopback, "{host}");
        assert!(from.eq_ignore_ascii_case(format!("http://{host}").as_bytes()));
    }
}
