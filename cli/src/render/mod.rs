//! How values look, one file per noun: a table for people, ids for scripts, a stable JSON schema for programs. Refuses to
//! fetch anything.

pub mod container;
pub mod doctor;
pub mod drops;
pub mod event;
pub mod flow;
pub mod group;
pub mod guard;
pub mod health;
pub mod host;
pub mod image;
pub mod inspection;
pub mod log;
pub mod metrics;
pub mod prefixes;
pub mod spec;
pub mod stats;
pub mod table;
pub mod top;
pub mod volume;
pub mod vpc;
pub mod why;

use std::borrow::Cow;
use std::io::{self, Write};

use serde::Serialize;

/// Something a command prints; its JSON is its serialisation.
pub trait View: Serialize {
    fn print_into(&self, out: &mut impl Write) -> io::Result<()>;
    fn ids(&self) -> Vec<&str>;
}

/// The ids of what a command acted on.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Ids(pub Vec<String>);

impl View for Ids {
    fn print_into(&self, out: &mut impl Write) -> io::Result<()> {
        self.0.iter().try_for_each(|id| writeln!(out, "{}", clean(id)))
    }

    fn ids(&self) -> Vec<&str> {
        self.0.iter().map(String::as_str).collect()
    }
}

/// Without control characters: what another user named must not steer this terminal.
pub fn clean(text: &str) -> Cow<'_, str> {
    if text.chars().any(char::is_control) {
        text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
    } else {
        Cow::Borrowed(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_are_not_steered() {
        assert_eq!(clean("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\\n");
        assert_eq!(clean("plain ünïcode"), "plain ünïcode");
    }
}
