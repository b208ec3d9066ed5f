//! Which system calls a container's programs may make: a policy of docker's form becomes a filter for the kernel, once, in the daemon.
//! Refuses to install it: the shim does, as the last step before the program.
//!
//! `profile` is the model, `parse` reads docker's JSON into it, `default` is the policy of whoever says nothing, `names` knows the numbers,
//! and `tree` compiles. `interpret` runs what came out of it in tests, as the kernel would.

pub mod default;
pub mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub mod interpret;
pub mod names;
pub mod parse;
pub mod profile;
pub mod tree;
#[cfg(test)]
mod tree_tests;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};

pub use error::SeccompError;
use profile::Profile;

use crate::shim::filter::Filter;

/// Of a profile's text: docker's own has 13 KiB, and a container's record must hold it.
pub const PROFILE_BYTES_MAX: usize = 64 << 10;
/// Sets of capabilities whose default filter is kept compiled. Beyond them it is compiled each time, which takes well below 1 ms.
const DEFAULTS_KEPT_MAX: usize = 64;

/// What a container was run with.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Seccomp {
    #[default]
    Default,
    Unconfined,
    /// The text of a profile, as it was given.
    Profile(String),
}

impl Seccomp {
    /// As people are shown it.
    pub fn kind(&self) -> &'static str {
        match self {
            Seccomp::Default => "default",
            Seccomp::Unconfined => "unconfined",
            Seccomp::Profile(_) => "profile",
        }
    }

    /// Whether it is another policy than everybody's, which may be a weaker one.
    pub fn asks_for_more(&self) -> bool {
        *self != Seccomp::Default
    }

    /// For a container of these capabilities; none where nothing is filtered.
    pub fn filter(&self, capabilities: CapabilitySet) -> Result<Option<Filter>, SeccompError> {
        match self {
            Seccomp::Default => default_filter(capabilities).map(Some),
            Seccomp::Unconfined => Ok(None),
            Seccomp::Profile(text) => compile(&parse::parse(text, &parse::Host::of(capabilities))?).map(Some),
        }
    }
}

/// Into what the kernel takes.
pub(crate) fn compile(profile: &Profile) -> Result<Filter, SeccompError> {
    Ok(Filter { flags: profile.flags, program: tree::compile(profile)? })
}

fn default_filter(capabilities: CapabilitySet) -> Result<Filter, SeccompError> {
    static KEPT: Mutex<BTreeMap<u64, Filter>> = Mutex::new(BTreeMap::new());
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(filter) = kept.get(&capabilities.bits()) {
        return Ok(filter.clone());
    }
    let filter = compile(&default::profile(capabilities))?;
    if kept.len() < DEFAULTS_KEPT_MAX {
        kept.insert(capabilities.bits(), filter.clone());
    }
    Ok(filter)
}
