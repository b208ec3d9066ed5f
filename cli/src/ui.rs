//! Where a command's result goes: a table, ids, or JSON on standard output; words for people on standard error. Refuses to
//! know any noun.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::render::View;

#[derive(Debug, Clone, Copy, Default)]
pub struct Ui {
    pub json: bool,
    pub quiet: bool,
}

impl Ui {
    /// One value: a table for people, `-q` its ids, `--json` itself.
    pub fn show<V: View>(&self, value: &V) -> io::Result<()> {
        self.show_into(&mut io::stdout().lock(), value)
    }

    pub fn show_into<V: View>(&self, out: &mut impl Write, value: &V) -> io::Result<()> {
        if self.json {
            // At once: who has read the line that it wanted and is gone (`grep -m 1`) ends nobody for it.
            let mut text = serde_json::to_vec_pretty(value)?;
            text.push(b'\n');
            out.write_all(&text)?;
        } else if self.quiet {
            for id in value.ids() {
                writeln!(out, "{id}")?;
            }
        } else {
            value.print_into(out)?;
        }
        out.flush()
    }

    /// One value of a stream: one line of JSON, or the given text.
    pub fn line(&self, value: &impl Serialize, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.json {
            serde_json::to_writer(&mut out, value)?;
            writeln!(out)?;
        } else {
            writeln!(out, "{text}")?;
        }
        out.flush()
    }

    /// Bars for a person who watches, lines for a log, nothing for `-q`.
    pub fn progress(&self) -> Progress {
        if self.quiet {
            Progress::None
        } else if io::stderr().is_terminal() {
            Progress::Bars
        } else {
            Progress::Lines
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    None,
    Lines,
    Bars,
}
