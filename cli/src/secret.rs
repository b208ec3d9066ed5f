//! Reads a secret from where the user keeps it: a file, standard input, or the words of the command line. Refuses to print
//! one, and to keep one longer than its wrapper lives.

use std::fs::File;
use std::io::{self, Read};

use zeroize::Zeroizing;

/// A key is 48 characters, a registry's token rarely more than 4 KiB; a file above this is the wrong file.
pub const SECRET_BYTES_MAX: u64 = 64 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("cannot read {from}")]
    Read { from: String, source: io::Error },
    #[error("{from} holds more than {SECRET_BYTES_MAX} bytes")]
    TooLong { from: String },
    #[error("{from} is empty")]
    Empty { from: String },
    #[error("{from} is not text")]
    NotText { from: String },
}

#[derive(Debug, PartialEq, Eq)]
pub enum Origin<'a> {
    File(&'a str),
    Stdin,
    Literal(&'a str),
}

pub fn origin(text: &str) -> Origin<'_> {
    match text.strip_prefix('@') {
        Some(path) => Origin::File(path),
        None if text == "-" => Origin::Stdin,
        None => Origin::Literal(text),
    }
}

pub fn read(origin: &Origin) -> Result<Zeroizing<String>, SecretError> {
    match origin {
        Origin::Literal(text) => Ok(Zeroizing::new((*text).to_owned())),
        Origin::Stdin => read_all(&mut io::stdin().lock(), "standard input"),
        Origin::File(path) => {
            let mut file = File::open(path).map_err(|source| SecretError::Read { from: (*path).to_owned(), source })?;
            read_all(&mut file, path)
        }
    }
}

/// Everything up to the end, without the line end that an editor or `echo` adds.
fn read_all(input: &mut impl Read, from: &str) -> Result<Zeroizing<String>, SecretError> {
    let from = from.to_owned();
    // Reserved at once: growing would leave copies behind in freed memory.
    let mut bytes = Zeroizing::new(Vec::with_capacity(SECRET_BYTES_MAX as usize + 1));
    match input.take(SECRET_BYTES_MAX + 1).read_to_end(&mut bytes) {
        Err(source) => return Err(SecretError::Read { from, source }),
        Ok(read) if read as u64 > SECRET_BYTES_MAX => return Err(SecretError::TooLong { from }),
        Ok(_) => {}
    }
    let Ok(text) = std::str::from_utf8(&bytes) else { return Err(SecretError::NotText { from }) };
    match text.trim_end_matches(['\n', '\r']) {
        "" => Err(SecretError::Empty { from }),
        text => Ok(Zeroizing::new(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_character_decides() {
        assert_eq!(origin("@/etc/key"), Origin::File("/etc/key"));
        assert_eq!(origin("-"), Origin::Stdin);
        assert_eq!(origin("ccs_x"), Origin::Literal("ccs_x"));
    }

    #[test]
    fn one_line_end_is_not_part_of_it() {
        assert_eq!(read_all(&mut &b"ccs_x\r\n"[..], "f").unwrap().as_str(), "ccs_x");
        assert!(matches!(read_all(&mut &b"\n"[..], "f"), Err(SecretError::Empty { .. })));
        assert!(matches!(read_all(&mut &[0xff][..], "f"), Err(SecretError::NotText { .. })));
        assert!(matches!(read_all(&mut io::repeat(b'a'), "f"), Err(SecretError::TooLong { .. })));
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = read(&Origin::File("/nonexistent/key")).unwrap_err();
        assert_eq!(error.to_string(), "cannot read /nonexistent/key");
    }
}
