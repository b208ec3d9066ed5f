//! The ext4 file system of a volume: made once, looked at before each mount, checked and repaired by e2fsprogs. Its superblock is read here,
//! without asking anybody's cache. Refuses to make one where there is one, and to repair more than can be repaired without a choice.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::tool::{self, Ended, ToolError};

/// Whatever the size: pages of the kernel, and what any disk writes at once.
pub const BLOCK_BYTES: u32 = 4096;
/// It writes little, however large the volume.
const MAKE_WITHIN: Duration = Duration::from_secs(120);
/// Below this, a journal of a size that mke2fs would choose takes much of it.
const SMALL_BYTES: u64 = 1 << 30;
/// It may have to read every inode.
const CHECK_WITHIN: Duration = Duration::from_secs(3600);

const SUPERBLOCK_OFFSET: u64 = 1024;
const MAGIC: u16 = 0xEF53;
/// Errors have been found and not repaired.
const STATE_ERRORS: u16 = 2;
/// The journal is to be replayed.
const INCOMPAT_RECOVER: u32 = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Uuid([u8; 16]);

impl Uuid {
    /// Of version 4.
    pub fn random() -> Self {
        let mut bytes: [u8; 16] = rand::random();
        bytes[6] = bytes[6] & 0x0F | 0x40;
        bytes[8] = bytes[8] & 0x3F | 0x80;
        Uuid(bytes)
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let dash = if matches!(index, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

impl TryFrom<String> for Uuid {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        let number = u128::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 32);
        number.map(|number| Uuid(number.to_be_bytes())).ok_or("it is no UUID")
    }
}

impl From<Uuid> for String {
    fn from(uuid: Uuid) -> String {
        uuid.to_string()
    }
}

/// What is asked of a superblock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Superblock {
    pub uuid: Uuid,
    pub bytes: u64,
    /// The kernel has met errors that nobody has repaired.
    pub has_errors: bool,
    /// What is in its journal is not in its place yet: the host went down while it was mounted.
    pub has_journal_left: bool,
}

impl Superblock {
    /// `None` where there is no ext file system.
    pub fn read(file: &File) -> std::io::Result<Option<Self>> {
        let mut raw = [0; 1024];
        match file.read_exact_at(&mut raw, SUPERBLOCK_OFFSET) {
            Ok(()) => Ok(Self::parse(&raw)),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn parse(raw: &[u8; 1024]) -> Option<Self> {
        let u16_at = |at: usize| u16::from_le_bytes([raw[at], raw[at + 1]]);
        let u32_at = |at: usize| u32::from_le_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]]);
        if u16_at(0x38) != MAGIC {
            return None;
        }
        let blocks = u64::from(u32_at(0x04)) | u64::from(u32_at(0x150)) << 32;
        // A larger one is no ext file system's.
        let block_bytes = 1024_u64.checked_shl(u32_at(0x18)).filter(|bytes| *bytes <= 65_536)?;
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&raw[0x68..0x78]);
        Some(Superblock {
            uuid: Uuid(uuid),
            bytes: blocks.saturating_mul(block_bytes),
            has_errors: u16_at(0x3A) & STATE_ERRORS != 0,
            has_journal_left: u32_at(0x60) & INCOMPAT_RECOVER != 0,
        })
    }
}

/// On what holds nothing yet. The journal is kept, nothing is reserved for the host's root, and the UUID can be changed later without
/// writing every checksum anew.
pub fn make(on: &Path, uuid: Uuid) -> Result<(), ToolError> {
    // No discard: it would give back what has just been allocated.
    make_with(on, uuid, &["-E", "nodiscard,root_owner=0:0"])
}

/// The same on what reads as zeros, for one of many that come and go: what need not be written is not, and where there is little room the
/// journal is as small as it can be.
pub fn make_lightly(on: &Path, uuid: Uuid, bytes: u64) -> Result<(), ToolError> {
    let lazy = ["-E", "nodiscard,root_owner=0:0,lazy_itable_init=1,lazy_journal_init=1"];
    let journal: &[&str] = if bytes < SMALL_BYTES { &["-J", "size=4"] } else { &[] };
    make_with(on, uuid, &[&lazy[..], journal].concat())
}

fn make_with(on: &Path, uuid: Uuid, more: &[&str]) -> Result<(), ToolError> {
    let (uuid, block_bytes) = (uuid.to_string(), BLOCK_BYTES.to_string());
    let args = ["-t", "ext4", "-q", "-F", "-U", &uuid, "-b", &block_bytes, "-m", "0", "-O", "metadata_csum_seed"];
    tool::must("mke2fs", &[&args[..], more].concat(), on, MAKE_WITHIN)
}

/// Gives a copy a name of its own.
pub fn rename(on: &Path, uuid: Uuid) -> Result<(), ToolError> {
    tool::must("tune2fs", &["-U", &uuid.to_string()], on, MAKE_WITHIN)
}

/// To the size of what it is on, which nobody has mounted, after a whole look at it. For where the kernel does not let us do it better:
/// mounted, a growth is in the journal.
pub fn grow(on: &Path) -> Result<(), ToolError> {
    tool::must("resize2fs", &[], on, CHECK_WITHIN)
}

/// What e2fsck makes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// It may be mounted.
    pub clean: bool,
    pub repaired: bool,
    pub report: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// Only says.
    Look,
    /// Replays the journal, and repairs what needs no choice.
    Preen,
    /// The same, though it says that it is clean.
    PreenAll,
    /// Whatever it takes.
    Force,
}

pub fn check(on: &Path, effort: Effort) -> Result<Verdict, ToolError> {
    let args: &[&str] = match effort {
        Effort::Look => &["-f", "-n"],
        Effort::Preen => &["-p"],
        Effort::PreenAll => &["-f", "-p"],
        Effort::Force => &["-f", "-y"],
    };
    verdict(tool::run("e2fsck", args, on, CHECK_WITHIN)?)
}

/// Codes are a sum: 1 and 2 repaired, 4 not repaired, 8 could not go on, and more could not begin.
fn verdict(Ended { code, text }: Ended) -> Result<Verdict, ToolError> {
    match code {
        0..=3 => Ok(Verdict { clean: true, repaired: code != 0, report: text }),
        4..=7 | 12..=15 => Ok(Verdict { clean: false, repaired: code & 3 != 0, report: text }),
        // Of a superblock that is none any more it says this, too.
        8 if text.contains("superblock") => Ok(Verdict { clean: false, repaired: false, report: text }),
        _ => Err(ToolError::Failed { tool: "e2fsck", code, text }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_read_as_it_is_written() {
        let uuid = Uuid::random();
        assert_eq!(Uuid::try_from(uuid.to_string()), Ok(uuid));
        assert_eq!(uuid.to_string().len(), 36);
        assert!(Uuid::try_from("0123".to_owned()).is_err());
    }

    #[test]
    fn codes_are_sums() {
        let clean = |code, text: &str| verdict(Ended { code, text: text.to_owned() }).map(|verdict| verdict.clean).ok();
        assert_eq!([0, 1, 3].map(|code| clean(code, "")), [Some(true); 3]);
        assert_eq!([4, 5, 12].map(|code| clean(code, "")), [Some(false); 3]);
        assert_eq!([8, 16, 32, 128, -1].map(|code| clean(code, "no such device")), [None; 5]);
        assert_eq!(clean(8, "Bad magic number in superblock"), Some(false));
    }

    #[test]
    fn what_is_made_is_found_again_and_damage_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let file = File::options().create_new(true).read(true).write(true).open(&path).unwrap();
        file.set_len(32 << 20).unwrap();
        assert_eq!(Superblock::read(&file).unwrap(), None, "there is none yet");
        let uuid = Uuid::random();
        make(&path, uuid).unwrap();
        let found = Superblock::read(&file).unwrap().unwrap();
        assert_eq!((found.uuid, found.bytes, found.has_errors), (uuid, 32 << 20, false));
        assert!(check(&path, Effort::Look).unwrap().clean);
        let other = Uuid::random();
        rename(&path, other).unwrap();
        assert_eq!(Superblock::read(&file).unwrap().unwrap().uuid, other);
        assert!(check(&path, Effort::Look).unwrap().clean, "checksums hold under another UUID");
        // The table of inodes, where nothing can be repaired without a choice.
        file.write_all_at(&[0xA5; 64 << 10], 64 << 10).unwrap();
        assert!(!check(&path, Effort::Look).unwrap().clean);
        assert!(check(&path, Effort::Force).unwrap().repaired);
        assert!(check(&path, Effort::Look).unwrap().clean);
    }
}
