//! The name `cc`, which is also the C compiler's: which of the two was meant, becoming the other one, and what we call ourselves under
//! another name. Refuses to run any of our own commands.

use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use cc_common::api::fault::Fault;
use tonic::Code;

/// Device and inode of every `cc` that already passed the call on. A compiler cache also looks for "the next `cc`", and
/// would find us again, for ever.
const TRIED: &str = "CC_NAME_TRIED";

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
#[must_use]
pub enum Meaning {
    Ours,
    Compiler,
}

/// As what packages call us, so that a machine's `cc` stays what it was.
pub const PACKAGED: &str = "ccloud";

/// What we were called by, of the two names that we go by in what we say.
pub fn called(args: &[OsString]) -> &'static str {
    let file = args.first().map(Path::new).and_then(Path::file_name);
    if file == Some(OsStr::new(PACKAGED)) { PACKAGED } else { "cc" }
}

/// Of a text that names our commands as `cc COMMAND`: the same as `name COMMAND`.
pub fn spoken(text: &str, name: &str, subcommands: &[&str]) -> String {
    let mut said = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("cc ") {
        let (before, after) = (&rest[..at], &rest[at + 3..]);
        let begins = !before.ends_with(|c: char| c.is_alphanumeric() || "-_/.".contains(c));
        let word = after.split(|c: char| !c.is_ascii_lowercase() && c != '-').next().unwrap_or_default();
        let ours = word.starts_with("--") || subcommands.contains(&word) || after.starts_with("COMMAND");
        said.push_str(before);
        said.push_str(if begins && ours { name } else { "cc" });
        said.push(' ');
        rest = after;
    }
    said + rest
}

/// Argument 1 decides, and only under the name `cc`. `--version` is the compiler's: build scripts ask for it.
pub fn decide(args: &[OsString], subcommands: &[&str]) -> Meaning {
    let called = args.first().map(Path::new).and_then(Path::file_name);
    if called != Some(OsStr::new("cc")) {
        return Meaning::Ours;
    }
    let Some(first) = args.get(1) else { return Meaning::Ours };
    let alone = args.len() == 2;
    let ours = first == "--help"
        || first == "--json"
        // `-h NAME` is a linker's soname; nothing follows it when a person asks for help.
        || (first == "-h" && alone)
        || first.as_bytes().starts_with(b"--cc-")
        || subcommands.iter().any(|name| first == name);
    if ours { Meaning::Ours } else { Meaning::Compiler }
}

/// Replaces this process by the next `cc` on PATH that is another file. Returns only on failure.
pub fn become_compiler(args: &[OsString]) -> Fault {
    let fault = |why: String| {
        Fault::new(Code::NotFound, "name.no_compiler", "cannot pass this call on to the C compiler", why)
            .next("install a C compiler (apt-get install gcc), or call this program ccloud")
    };
    let own = match std::fs::metadata("/proc/self/exe") {
        Ok(own) => identity(&own),
        Err(source) => return fault(format!("cannot tell which file this program is: {source}")),
    };
    let mut tried: Vec<String> =
        std::env::var(TRIED).unwrap_or_default().split(',').filter(|id| !id.is_empty()).map(str::to_owned).collect();
    tried.push(own);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let Some(next) = next_on_path(&path, &tried) else {
        return fault("no other program named cc is on PATH".to_owned());
    };
    if let Ok(meta) = std::fs::metadata(&next)
        && std::env::var_os(TRIED).is_some()
    {
        tried.push(identity(&meta));
    }
    let source = Command::new(&next).args(args.iter().skip(1)).env(TRIED, tried.join(",")).exec();
    fault(format!("{}: {source}", next.display()))
}

fn identity(meta: &Metadata) -> String {
    format!("{}:{}", meta.dev(), meta.ino())
}

/// Relative entries of PATH are skipped: a compiler out of the current directory is nobody's intention.
fn next_on_path(path: &OsStr, tried: &[String]) -> Option<PathBuf> {
    std::env::split_paths(path).filter(|dir| dir.is_absolute()).map(|dir| dir.join("cc")).find(|candidate| {
        std::fs::metadata(candidate).is_ok_and(|meta| {
            meta.is_file() && meta.permissions().mode() & 0o111 != 0 && !tried.contains(&identity(&meta))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(args: &[&str]) -> Meaning {
        let args: Vec<OsString> = args.iter().map(Into::into).collect();
        decide(&args, &["run", "vpc", "version"])
    }

    #[test]
    fn our_words_are_ours() {
        for args in [
            &["cc"][..],
            &["cc", "--help"],
            &["cc", "-h"],
            &["cc", "--json", "ps"],
            &["cc", "--cc-project=x"],
            &["/usr/bin/cc", "run", "-o"],
        ] {
            assert_eq!(meaning(args), Meaning::Ours, "{args:?}");
        }
    }

    #[test]
    fn everything_else_is_the_compilers() {
        for args in [
            &["cc", "-m64", "a.o"][..],
            &["cc", "--version"],
            &["cc", "-h", "libx.so"],
            &["cc", "-"],
            &["cc", "x.c", "run"],
            &["cc", ""],
        ] {
            assert_eq!(meaning(args), Meaning::Compiler, "{args:?}");
        }
    }

    #[test]
    fn under_another_name_all_is_ours() {
        assert_eq!(meaning(&["ccloud", "-m64"]), Meaning::Ours);
        assert_eq!(meaning(&["ccloud", "--version"]), Meaning::Ours);
    }

    #[test]
    fn our_commands_are_spoken_of_by_the_name_that_we_have() {
        let spoken = |text| spoken(text, "ccloud", &["run", "ps", "local-remote"]);
        assert_eq!(spoken("  cc run x\n  cc ps --json"), "  ccloud run x\n  ccloud ps --json");
        assert_eq!(
            spoken("source <(cc local-remote); see cc --help"),
            "source <(ccloud local-remote); see ccloud --help"
        );
        for other in
            ["the next cc on PATH, the C compiler", "apt-get install gcc", "gcc run", "/usr/bin/cc run", "cc runs"]
        {
            assert_eq!(spoken(other), other);
        }
        assert_eq!(called(&["/usr/bin/ccloud".into()]), "ccloud");
        assert_eq!((called(&["cc".into()]), called(&["other".into()]), called(&[])), ("cc", "cc", "cc"));
    }

    #[test]
    fn the_next_cc_is_another_file() {
        let dir = tempfile::tempdir().unwrap();
        let make = |room: &str| {
            let room = dir.path().join(room);
            std::fs::create_dir(&room).unwrap();
            std::fs::write(room.join("cc"), "#!/bin/sh\n").unwrap();
            std::fs::set_permissions(room.join("cc"), PermissionsExt::from_mode(0o755)).unwrap();
            room
        };
        let (first, last) = (make("first"), make("last"));
        let linked = dir.path().join("linked");
        std::fs::create_dir(&linked).unwrap();
        std::os::unix::fs::symlink(first.join("cc"), linked.join("cc")).unwrap();
        let path = std::env::join_paths([Path::new("."), &first, &linked, &last]).unwrap();
        let own = identity(&std::fs::metadata(first.join("cc")).unwrap());
        assert_eq!(next_on_path(&path, &[own]), Some(last.join("cc")));
    }
}
