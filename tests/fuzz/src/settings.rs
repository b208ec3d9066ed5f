//! What people write: the daemon's configuration, networks, name servers, names, ports, sizes, times, whole command lines. What is
//! understood is understood again in the form in which it is shown. Refuses files, and to do what a command line says.

use cc_cli::args::Cli;
use cc_cli::cmd::publish::{self, Port};
use cc_cli::{signal, size, time};
use cc_common::api::signing::{KeyId, PublicKey};
use cc_common::api::v1::PortMapping;
use cc_host::config::Config;
use cc_host::ids::Name;
use cc_host::resolver::NameServer;
use cc_host::vpc::cidr::Cidr;
use cc_host::vpc::cidr6::Cidr6;
use clap::Parser as _;

use crate::input::Input;

/// Some moment: 2026-01-01.
const NOW_MS: u64 = 1_767_225_600_000;

pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let kind = input.below(10);
    let text = &*String::from_utf8_lossy(input.rest());
    match kind {
        0 => drop(toml::from_str::<Config>(text)),
        1 => same(text, |text| Cidr::parse(text).ok()),
        2 => same(text, |text| Cidr6::parse(text).ok()),
        3 => same(text, |text| NameServer::parse(text).ok()),
        4 => same(text, |text| Name::parse(text).ok()),
        5 => port(text),
        6 => drop(size::parse(text).map(size::human)),
        7 => moment(text),
        // One word a line, as a shell would hand them over.
        8 => drop(Cli::try_parse_from(["cc"].into_iter().chain(text.lines()))),
        _ => {
            drop(signal::parse(text));
            drop(PublicKey::parse(text).map(|key| assert_eq!(PublicKey::parse(&key.to_text()).ok(), Some(key))));
            same(text, |text| KeyId::parse(text).ok());
        }
    }
}

/// Shown, and read again.
fn same<T: PartialEq + std::fmt::Debug + std::fmt::Display>(text: &str, parse: impl Fn(&str) -> Option<T>) {
    if let Some(value) = parse(text) {
        let shown = value.to_string();
        assert_eq!(parse(&shown), Some(value), "{text:?} is shown as {shown:?}");
    }
}

fn port(text: &str) {
    let Ok(port) = text.parse::<Port>() else { return };
    let mapping = PortMapping::from(&port);
    let shown = publish::text(&mapping);
    assert_eq!(shown.parse::<Port>().as_ref(), Ok(&port), "{text:?} is shown as {shown:?}");
}

fn moment(text: &str) {
    let _ = time::parse_duration(text);
    if let Ok(ms) = time::parse_moment(text, NOW_MS) {
        // Beyond the year 9999 there is no such text.
        let shown = time::rfc3339_ms(ms);
        if ms != 0 && ms < 253_402_300_800_000 {
            assert_eq!(time::parse_moment(&shown, NOW_MS), Ok(ms), "{text:?} is shown as {shown:?}");
        }
    }
}
