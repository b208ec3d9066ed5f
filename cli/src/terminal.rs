//! Our own terminal while it is a program's: raw, its size as it changes, and the keys that leave it. Refuses to stay raw, however this
//! command ends.

use std::io::{IsTerminal as _, stdin, stdout};
use std::os::fd::AsFd as _;

use cc_common::api::fault::Fault;
use cc_common::api::v1::WindowSize;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::error::usage;

/// As docker's.
pub const DETACH_KEYS: &str = "ctrl-p,ctrl-q";
const KEYS_MAX: usize = 16;

/// Raw until it is dropped.
#[derive(Debug)]
pub struct Raw(Termios);

impl Raw {
    /// `None` where standard input is no terminal.
    pub fn enter() -> Result<Option<Raw>, Fault> {
        if !stdin().is_terminal() {
            return Ok(None);
        }
        let failed = |errno: rustix::io::Errno| usage("cannot use this terminal", errno.to_string());
        let before = tcgetattr(stdin()).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Drain, &raw).map_err(failed)?;
        Ok(Some(Raw(before)))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(stdin(), OptionalActions::Drain, &self.0);
    }
}

/// Of whichever of ours is one; zeros where none is, which means "not known".
pub fn size() -> WindowSize {
    let of = |fd: std::os::fd::BorrowedFd<'_>| tcgetwinsize(fd).ok();
    let size = of(stdin().as_fd()).or_else(|| of(stdout().as_fd()));
    size.map_or_else(WindowSize::default, |size| WindowSize { rows: size.ws_row.into(), columns: size.ws_col.into() })
}

/// What is typed to leave a program running: `ctrl-p,ctrl-q`, `a,b`, or nothing for no way to leave.
pub fn parse_keys(text: &str) -> Result<Vec<u8>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let keys = text.split(',').map(|key| match key.strip_prefix("ctrl-") {
        Some(letter) => match letter.as_bytes() {
            // Control takes the three upper bits away.
            [byte @ (b'a'..=b'z' | b'@' | b'[' | b'\\' | b']' | b'^' | b'_')] => Ok(byte & 0x1f),
            _ => Err(format!("{key} is no key: ctrl- takes a letter, or one of @ [ \\ ] ^ _")),
        },
        None => match key.as_bytes() {
            [byte] if byte.is_ascii_graphic() => Ok(*byte),
            _ => Err(format!("{key:?} is no key: give characters and ctrl-LETTER with commas between them")),
        },
    });
    let keys: Vec<u8> = keys.collect::<Result<_, _>>()?;
    if keys.len() > KEYS_MAX { Err(format!("at most {KEYS_MAX} keys")) } else { Ok(keys) }
}

/// Looks for the keys in what is typed. What may be their beginning is held back until it is known.
#[derive(Debug, Default)]
pub struct Detach {
    keys: Vec<u8>,
    seen: usize,
}

impl Detach {
    pub fn by(keys: Vec<u8>) -> Detach {
        Detach { keys, seen: 0 }
    }

    /// What is to be passed on, and whether the keys came.
    pub fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(typed.len() + self.seen);
        for &byte in typed {
            if self.keys.get(self.seen) == Some(&byte) {
                self.seen += 1;
                if self.seen == self.keys.len() {
                    return (passed, true);
                }
                continue;
            }
            passed.extend_from_slice(&self.keys[..self.seen]);
            // The byte itself may begin them again.
            self.seen = usize::from(self.keys.first() == Some(&byte));
            if self.seen == 0 {
                passed.push(byte);
            }
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_characters_and_control_characters() {
        assert_eq!(parse_keys(DETACH_KEYS).unwrap(), [0x10, 0x11]);
        assert_eq!(parse_keys("a,ctrl-]").unwrap(), [b'a', 0x1d]);
        assert!(parse_keys("").unwrap().is_empty());
        for bad in ["ctrl-", "ctrl-P", "ab", "a,", "ctrl-é", &["a"; 17].join(",")] {
            assert!(parse_keys(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_the_whole_sequence_leaves_and_nothing_else_is_lost() {
        let keys = || Detach::by(parse_keys(DETACH_KEYS).unwrap());
        assert_eq!(keys().filter(b"ab\x10\x11c"), (b"ab".to_vec(), true));
        let mut halves = keys();
        assert_eq!(halves.filter(b"a\x10"), (b"a".to_vec(), false));
        assert_eq!(halves.filter(b"b\x10"), (b"\x10b".to_vec(), false));
        assert_eq!(halves.filter(b"\x10\x10"), (b"\x10\x10".to_vec(), false));
        assert_eq!(halves.filter(b"\x11"), (vec![], true));
        assert_eq!(Detach::default().filter(b"\x10\x11"), (b"\x10\x11".to_vec(), false));
    }
}
