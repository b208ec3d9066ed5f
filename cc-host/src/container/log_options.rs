//! How much of a container's output is kept, and who waits for a slow disk. Refuses what no log could hold.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::shim::spec::{LogMode, LogSpec};

/// A file holds four lines of the longest at least; more than 10 GiB is no log.
const BYTES_RANGE: RangeInclusive<u64> = 64 << 10..=10 << 30;
const FILES_RANGE: RangeInclusive<u32> = 1..=10;
const BYTES_DEFAULT: u64 = 10 << 20;
const FILES_DEFAULT: u32 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogOptions {
    /// Of one file, before it is compressed.
    pub bytes_max: u64,
    pub files_max: u32,
    pub mode: LogMode,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions { bytes_max: BYTES_DEFAULT, files_max: FILES_DEFAULT, mode: LogMode::Block }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadLogOption {
    Bytes,
    Files,
    Mode,
}

impl BadLogOption {
    /// The flag that sets it.
    pub fn flag(self) -> &'static str {
        match self {
            BadLogOption::Bytes => "--log-max-size",
            BadLogOption::Files => "--log-max-files",
            BadLogOption::Mode => "--log-mode",
        }
    }

    pub fn why(self) -> &'static str {
        match self {
            BadLogOption::Bytes => "a file of a log has 64 KiB to 10 GiB",
            BadLogOption::Files => "a log has 1 to 10 files",
            BadLogOption::Mode => "it is block or drop",
        }
    }
}

impl LogOptions {
    /// As the contract has them: 0 and empty ask for the default.
    pub fn new(bytes_max: u64, files_max: u32, mode: &str) -> Result<Self, BadLogOption> {
        let default = LogOptions::default();
        let bytes_max = if bytes_max == 0 { default.bytes_max } else { bytes_max };
        let files_max = if files_max == 0 { default.files_max } else { files_max };
        let mode = match mode {
            "" | "block" => LogMode::Block,
            "drop" => LogMode::Drop,
            _ => return Err(BadLogOption::Mode),
        };
        if !BYTES_RANGE.contains(&bytes_max) {
            return Err(BadLogOption::Bytes);
        }
        if !FILES_RANGE.contains(&files_max) {
            return Err(BadLogOption::Files);
        }
        Ok(LogOptions { bytes_max, files_max, mode })
    }

    pub fn mode_name(&self) -> &'static str {
        match self.mode {
            LogMode::Block => "block",
            LogMode::Drop => "drop",
        }
    }

    pub(super) fn spec(&self, path: PathBuf) -> LogSpec {
        LogSpec { path, bytes_max: self.bytes_max, files_max: self.files_max, mode: self.mode }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_the_default_and_what_cannot_be_is_refused() {
        assert_eq!(LogOptions::new(0, 0, ""), Ok(LogOptions::default()));
        let spec = LogOptions::default().spec("/l".into());
        assert_eq!(spec, LogSpec::new("/l".into()));
        let (most, drop) = (LogOptions::new(10 << 30, 10, "drop"), LogMode::Drop);
        assert_eq!(most, Ok(LogOptions { bytes_max: 10 << 30, files_max: 10, mode: drop }));
        assert_eq!(LogOptions::new((64 << 10) - 1, 0, ""), Err(BadLogOption::Bytes));
        assert_eq!(LogOptions::new((10 << 30) + 1, 0, ""), Err(BadLogOption::Bytes));
        assert_eq!(LogOptions::new(0, 11, ""), Err(BadLogOption::Files));
        assert_eq!(LogOptions::new(0, 0, "Drop"), Err(BadLogOption::Mode));
    }
}
