//! Pages of the documentation as something to be executed: what their blocks mean, a shell that runs them in order, and how what it said
//! is held against what is written. Refuses to guess: a block that it does not know is a complaint.
//!
//! | block | means |
//! |---|---|
//! | `console` | executed, line by line. `$ ` begins a command, which a `\` at its end continues; the lines below are all that it says, on both streams. `…` in a line stands for whatever is there, alone on a line for any lines. With no lines below, it may say anything. It exits with 0, or with what a comment at its end says: `# exits 125` |
//! | `toml` | a file: its first line is a comment with its path, and commands find it there |
//! | `text`, `yaml` | for reading. The line before it says why it is not executed: `<!-- not run: it needs a registry of yours -->` |

mod names;
mod output;
mod parse;
mod play;
mod shell;

pub use names::Names;
pub use parse::{Block, Page, Step};
pub use play::{Played, play};
pub use shell::Shell;

/// What is wrong with a page, and where.
#[derive(Debug, PartialEq, Eq)]
pub struct Complaint {
    pub page: String,
    pub line: usize,
    pub what: String,
}

impl std::fmt::Display for Complaint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {}", self.page, self.line, self.what)
    }
}

impl std::error::Error for Complaint {}
