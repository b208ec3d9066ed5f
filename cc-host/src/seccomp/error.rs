//! Why a profile cannot be used, in words for whoever wrote it. Refuses to guess what was meant.

use super::PROFILE_BYTES_MAX;
use crate::shim::filter::INSTRUCTIONS_MAX;

#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    #[error("the profile has {bytes} bytes, and {PROFILE_BYTES_MAX} is the most")]
    TooLarge { bytes: usize },
    #[error("the profile is not JSON of docker's form: {0}")]
    Json(serde_json::Error),
    #[error("{field}: {value} is not known here; {known}")]
    Unknown { field: &'static str, value: String, known: &'static str },
    #[error("{field}: {value} is not supported: {why}")]
    Unsupported { field: &'static str, value: String, why: &'static str },
    #[error("syscalls: an entry for {names}: {why}")]
    Entry { names: String, why: &'static str },
    #[error("errnoRet is {value}, and an errno is below 4096")]
    Errno { value: u32 },
    #[error("the profile never allows {name}, without which no program can be run")]
    Useless { name: &'static str },
    #[error("the profile becomes {instructions} instructions, and the kernel takes {INSTRUCTIONS_MAX}")]
    TooManyInstructions { instructions: usize },
}
