//! How events look.

use std::io::{self, Write};

use cc_common::api::v1;
use serde::Serialize;

use super::{View, table};
use crate::time::rfc3339_ms;

#[derive(Debug, Serialize)]
pub struct EventView {
    pub at: String,
    pub kind: String,
    pub object: String,
    pub text: String,
}

impl From<v1::Event> for EventView {
    fn from(event: v1::Event) -> Self {
        EventView { at: rfc3339_ms(event.at_ms), kind: event.kind, object: event.object, text: event.text }
    }
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Events(pub Vec<EventView>);

impl View for Events {
    fn print_into(&self, out: &mut impl Write) -> io::Result<()> {
        let row =
            |event: &EventView| vec![event.at.clone(), event.kind.clone(), event.object.clone(), event.text.clone()];
        table::print_into(out, &["AT", "KIND", "OBJECT", "TEXT"], &self.0.iter().map(row).collect::<Vec<_>>())
    }

    fn ids(&self) -> Vec<&str> {
        self.0.iter().map(|event| event.object.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        let event = v1::Event {
            at_ms: 1_700_000_000_000,
            kind: "container.stopped".into(),
            object: "c-1".into(),
            text: "ended with code 0".into(),
        };
        let mut out = Vec::new();
        Events(vec![event.into()]).print_into(&mut out).unwrap();
        insta::assert_snapshot!("event_table", String::from_utf8(out).unwrap());
    }
}
