//! A line of the deny list: a range of addresses, or a prefix list by id. Refuses to hold a list's content, which changes.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::error::GuardError;
use crate::firewall::{Firewall, PrefixListId, parse_cidr};
use crate::ids::Project;

pub(super) const LINES: &str = "guard/lines";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    Cidr(IpNet),
    Prefixes(PrefixListId),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    pub source: Source,
    pub added_ms: u64,
}

impl Source {
    /// What has a dot, a colon or a slash is a range; a name has none of them.
    pub fn parse(text: &str, firewall: &Firewall, project: &Project) -> Result<Self, GuardError> {
        if !text.contains(['.', ':', '/']) {
            return Ok(Source::Prefixes(firewall.prefix_list(project, text)?.id));
        }
        let bad = |source| GuardError::BadCidr { text: text.to_owned(), source };
        let cidr = parse_cidr(text).map_err(bad)?;
        if cidr.prefix_len() == 0 {
            Err(GuardError::Everybody { what: text.to_owned() })
        } else {
            Ok(Source::Cidr(cidr))
        }
    }
}
