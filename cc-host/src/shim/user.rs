//! Who the program runs as: `--user` read against the image's own /etc/passwd and /etc/group, which are input from a
//! stranger. Refuses lines that are not exactly in form, rather than guessing, and never asks the host.

use std::io::Read;

use crate::mutation::{self, Control};

/// Both files are read whole; an image with larger ones is refused.
pub const DATABASE_BYTES_MAX: u64 = 4 << 20;
/// The kernel's own limit is 65,536.
pub const GROUPS_MAX: usize = 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary, without `gid`.
    pub groups: Vec<u32>,
    pub home: String,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    #[error("user {0:?} is not in the image's /etc/passwd")]
    NoUser(String),
    #[error("group {0:?} is not in the image's /etc/group")]
    NoGroup(String),
    #[error("{0:?} is not a user: expected name, uid, name:group or uid:gid")]
    Malformed(String),
    #[error("id {id} is outside of the container's range of {count}")]
    OutOfRange { id: u32, count: u32 },
    #[error("the image's {0} is larger than {DATABASE_BYTES_MAX} bytes")]
    TooLarge(&'static str),
    #[error("the image's {0} cannot be read: {1}")]
    Unreadable(&'static str, String),
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// Reads the databases of the current root, which is the container's by then.
pub fn resolve_here(user: &str, id_count: u32) -> Result<User, UserError> {
    let passwd = database("/etc/passwd")?;
    let group = database("/etc/group")?;
    resolve(user, &passwd, &group, id_count)
}

pub fn resolve(user: &str, passwd: &str, group: &str, id_count: u32) -> Result<User, UserError> {
    let (name, wanted_group) = match user.split_once(':') {
        Some((_, "")) => return Err(UserError::Malformed(user.to_owned())),
        Some((name, group)) => (name, Some(group)),
        None => (user, None),
    };
    if name.contains(char::is_whitespace) || wanted_group.is_some_and(|g| g.contains(':')) {
        return Err(UserError::Malformed(user.to_owned()));
    }
    let name = if name.is_empty() { "0" } else { name };
    let entry = match id(name) {
        // A number is a number even where somebody has it for a name: `--user 0` must not depend on the image.
        Some(uid) => {
            entries(passwd).find(|entry| entry.uid == uid).unwrap_or(PasswdEntry { name: "", uid, gid: 0, home: "/" })
        }
        None => entries(passwd).find(|entry| entry.name == name).ok_or_else(|| UserError::NoUser(name.to_owned()))?,
    };
    let gid = match wanted_group {
        None => entry.gid,
        Some(wanted) => match id(wanted) {
            Some(gid) => gid,
            None => {
                groups(group).find(|(name, ..)| *name == wanted).ok_or_else(|| UserError::NoGroup(wanted.to_owned()))?.1
            }
        },
    };
    // As docker does: who asks for a group by name or number gets that one only.
    let supplementary: Vec<u32> = match wanted_group {
        Some(_) => Vec::new(),
        None => groups(group)
            .filter(|(_, gid, members)| {
                *gid != entry.gid && members.split(',').any(|m| !m.is_empty() && m == entry.name)
            })
            .map(|(_, gid, _)| gid)
            .filter(|gid| *gid < id_count)
            .take(GROUPS_MAX)
            .collect(),
    };
    for id in [entry.uid, gid] {
        // The highest number is nobody's, however wide the range: the kernel reads it as "leave it as it is".
        if id >= id_count || id == u32::MAX {
            return Err(UserError::OutOfRange { id, count: id_count });
        }
    }
    let home = if entry.home.starts_with('/') { entry.home } else { "/" };
    Ok(User { uid: entry.uid, gid, groups: supplementary, home: home.to_owned() })
}

/// Decimal digits and nothing else: `+0`, ` 0` and `4294967296` are not ids.
fn id(text: &str) -> Option<u32> {
    let strict = !mutation::off(Control::StrictUser);
    if strict && (text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit())) { None } else { text.parse().ok() }
}

fn entries(passwd: &str) -> impl Iterator<Item = PasswdEntry<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let _password = fields.next()?;
        let entry = PasswdEntry { name, uid: id(fields.next()?)?, gid: id(fields.next()?)?, home: fields.nth(1)? };
        // The shell is the seventh and last field.
        (fields.count() == 1).then_some(entry)
    })
}

fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let _password = fields.next()?;
        let parsed = (name, id(fields.next()?)?, fields.next()?);
        (fields.count() == 0).then_some(parsed)
    })
}

/// Empty where the image has none. Opened without following a device or a pipe into waiting, nor a link to what a process has open.
fn database(path: &'static str) -> Result<String, UserError> {
    use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
    let unreadable = |e: std::io::Error| UserError::Unreadable(path, e.to_string());
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS) {
        Ok(file) => std::fs::File::from(file),
        Err(rustix::io::Errno::NOENT) => return Ok(String::new()),
        Err(e) => return Err(unreadable(e.into())),
    };
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err(UserError::Unreadable(path, "it is not a file".to_owned()));
    }
    let mut bytes = Vec::new();
    file.take(DATABASE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > DATABASE_BYTES_MAX {
        return Err(UserError::TooLarge(path));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102:Web,,:/srv:/bin/false\nbad:x:+5:5::/:/\nshort:x:6:6\n";
    const GROUP: &str = "root:x:0:\nwww:x:102:web\nlog:x:4:web,root\nbig:x:70000:web\nempty:x:9:\n";

    fn get(user: &str) -> Result<User, UserError> {
        resolve(user, PASSWD, GROUP, 65_536)
    }

    #[test]
    fn every_form_of_user() {
        let root = User { uid: 0, gid: 0, groups: vec![4], home: "/root".into() };
        assert_eq!(get(""), Ok(root.clone()));
        assert_eq!(get("root"), Ok(root.clone()));
        assert_eq!(get("0"), Ok(root));
        assert_eq!(get("web"), Ok(User { uid: 101, gid: 102, groups: vec![4], home: "/srv".into() }));
        assert_eq!(get("web:log"), Ok(User { uid: 101, gid: 4, groups: vec![], home: "/srv".into() }));
        assert_eq!(get("7:8"), Ok(User { uid: 7, gid: 8, groups: vec![], home: "/".into() }));
        assert_eq!(get("7"), Ok(User { uid: 7, gid: 0, groups: vec![], home: "/".into() }));
    }

    #[test]
    fn what_is_not_exactly_in_form_does_not_exist() {
        assert_eq!(get("bad"), Err(UserError::NoUser("bad".into())));
        assert_eq!(get("short"), Err(UserError::NoUser("short".into())));
        assert_eq!(get("web:nope"), Err(UserError::NoGroup("nope".into())));
        assert_eq!(get("+0"), Err(UserError::NoUser("+0".into())));
        assert_eq!(get("4294967296"), Err(UserError::NoUser("4294967296".into())));
        assert!(matches!(get("web:"), Err(UserError::Malformed(_))));
        assert!(matches!(get("a:b:c"), Err(UserError::Malformed(_))));
        assert!(matches!(get("a b"), Err(UserError::Malformed(_))));
        assert_eq!(get("65536"), Err(UserError::OutOfRange { id: 65_536, count: 65_536 }));
    }

    #[test]
    fn the_highest_number_is_nobodys_even_where_all_are_the_hosts() {
        let outside = Err(UserError::OutOfRange { id: u32::MAX, count: u32::MAX });
        for user in ["4294967295", "0:4294967295", "high", "root:high"] {
            let passwd = format!("{PASSWD}high:x:4294967295:0::/:/bin/sh\n");
            assert_eq!(resolve(user, &passwd, "high:x:4294967295:\n", u32::MAX), outside, "{user}");
        }
        assert!(resolve("root", PASSWD, "high:x:4294967295:root\n", u32::MAX).unwrap().groups.is_empty());
        assert_eq!(resolve_here("4294967295", u32::MAX), outside);
        assert_eq!(resolve_here("4294967294", u32::MAX).map(|user| user.uid), Ok(4_294_967_294));
    }

    proptest! {
        #[test]
        fn strangers_files_never_panic_nor_leave_the_range(user in "[a-z0-9:+ -]{0,12}", passwd in "([a-z:0-9/\n]{0,30}){0,6}", group in "([a-z:0-9,\n]{0,30}){0,6}") {
            if let Ok(found) = resolve(&user, &passwd, &group, 65_536) {
                prop_assert!(found.uid < 65_536 && found.gid < 65_536);
                prop_assert!(found.groups.iter().all(|gid| *gid < 65_536));
                prop_assert!(found.home.starts_with('/'));
            }
        }
    }
}
