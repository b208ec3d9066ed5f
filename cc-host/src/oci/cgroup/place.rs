//! The files of one controller in a container's directory. Refuses to pass over a limit that cannot be set: the field of config.json is named.

use std::fmt::Display;
use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;

use super::OciError;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub dir: PathBuf,
    pub is_v2: bool,
}

impl Place {
    pub fn has(&self, file: &str) -> bool {
        self.dir.join(file).exists()
    }

    pub fn read(&self, file: &str) -> io::Result<String> {
        fs::read_to_string(self.dir.join(file)).map(|text| text.trim().to_owned())
    }

    /// As the kernel says it; `max` is the largest.
    pub fn number(&self, file: &str) -> Option<u64> {
        let text = self.read(file).ok()?;
        if text == "max" { Some(u64::MAX) } else { text.parse().ok() }
    }

    pub fn set(&self, field: &str, file: &str, value: impl Display) -> Result<(), OciError> {
        let value = value.to_string();
        self.try_set(file, &value).map_err(|error| self.refused(field, file, &value, &error))
    }

    pub fn try_set(&self, file: &str, value: &str) -> io::Result<()> {
        // Never made: a file that is not there is a limit that this kernel does not have.
        fs::OpenOptions::new().write(true).truncate(true).open(self.dir.join(file))?.write_all(value.as_bytes())
    }

    pub fn refused(&self, field: &str, file: &str, value: &str, error: &io::Error) -> OciError {
        let path = self.dir.join(file);
        let why = if error.kind() == io::ErrorKind::NotFound {
            format!("this kernel has no {}", path.display())
        } else {
            format!("the kernel does not take {value:?} for {}: {error}", path.display())
        };
        OciError::Invalid { field: field.to_owned(), why }
    }
}

/// How a limit below zero is written.
pub fn or_max(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}
