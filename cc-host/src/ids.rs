//! The names of things: projects, ids and names that cannot hold an invalid value. Refuses to know what they name.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest name a user may give to an object: a DNS label, so that it can become a host name.
pub const NAME_LEN_MAX: usize = 63;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NameError {
    #[error("it is empty")]
    Empty,
    #[error("it has {0} characters, more than {NAME_LEN_MAX}")]
    TooLong(usize),
    #[error("it holds {0:?}; only a-z, 0-9 and '-' are allowed, and it starts and ends with a letter or a digit")]
    BadCharacter(char),
}

/// A name that a user gave: lower-case letters, digits and hyphens, as in a DNS label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let alnum = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > NAME_LEN_MAX {
            return Err(NameError::TooLong(text.chars().count()));
        }
        if let Some(bad) = text.chars().find(|&c| !alnum(c) && c != '-') {
            return Err(NameError::BadCharacter(bad));
        }
        if !text.starts_with(alnum) || !text.ends_with(alnum) {
            return Err(NameError::BadCharacter('-'));
        }
        Ok(Name(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        Name::parse(&text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> String {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A tenant. Every object belongs to exactly one.
pub type Project = Name;

/// The project of root on the local socket, when it names none.
pub fn default_project() -> Project {
    Name("default".to_owned())
}

/// A container's id: 16 lower-case hexadecimal digits, drawn at random.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ContainerId(String);

/// A VPC's id: `vpc-` and 12 lower-case hexadecimal digits, drawn at random.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VpcId(String);

/// A volume's id: `vol-` and 12 lower-case hexadecimal digits, drawn at random.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VolumeId(String);

impl ContainerId {
    pub fn random() -> Self {
        ContainerId(format!("{:016x}", rand::random::<u64>()))
    }
    /// An id read back from a directory, a link alias or a pin: `None` if it is not one of ours.
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
            .then(|| ContainerId(text.to_owned()))
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl VpcId {
    pub const PREFIX: &str = "vpc-";

    pub fn random() -> Self {
        VpcId(format!("{}{:012x}", VpcId::PREFIX, rand::random::<u64>() & 0xffff_ffff_ffff))
    }
    pub fn digits(&self) -> &str {
        self.0.strip_prefix(VpcId::PREFIX).unwrap_or(&self.0)
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl VolumeId {
    pub const PREFIX: &str = "vol-";

    pub fn random() -> Self {
        VolumeId(format!("{}{:012x}", VolumeId::PREFIX, rand::random::<u64>() & 0xffff_ffff_ffff))
    }
    /// An id read back from the name of a file: `None` if it is not one of ours.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(VolumeId::PREFIX)?;
        let is_digit = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        (digits.len() == 12 && digits.bytes().all(is_digit)).then(|| VolumeId(text.to_owned()))
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for VpcId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Now, in Unix milliseconds.
pub fn now_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels() {
        assert!(Name::parse("web-1").is_ok());
        assert_eq!(Name::parse(""), Err(NameError::Empty));
        assert_eq!(Name::parse("Web"), Err(NameError::BadCharacter('W')));
        assert_eq!(Name::parse("-web"), Err(NameError::BadCharacter('-')));
        assert_eq!(Name::parse("a/b"), Err(NameError::BadCharacter('/')));
        assert_eq!(Name::parse(&"a".repeat(64)), Err(NameError::TooLong(64)));
    }

    #[test]
    fn random_ids_parse_back() {
        let id = ContainerId::random();
        assert_eq!(ContainerId::parse(id.as_str()), Some(id));
        assert_eq!(ContainerId::parse("../../etc/passwd"), None);
        let id = VolumeId::random();
        assert_eq!(VolumeId::parse(id.as_str()), Some(id));
        assert_eq!([VolumeId::parse("vol-../../etc/p"), VolumeId::parse("0123456789ab")], [None, None]);
    }
}
