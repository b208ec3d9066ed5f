//! The last step: the working directory, the environment, the program found on the container's own PATH, and `execve`.
//! Refuses to guess: missing, not executable and without interpreter are three answers.

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, ResolveFlags, accessat};
use rustix::io::Errno;
use rustix::process::{fchdir, getcwd};

use super::filter::Filter;
use super::protocol::{FailureKind, StartFailure};
use super::rootfs;
use super::user::User;
use crate::inside;
use crate::mutation::{self, Control};

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Enters `cwd`, which must be there.
pub fn enter_existing(root: &OwnedFd, cwd: &str) -> Result<(), StartFailure> {
    let cwd = if cwd.is_empty() { "/" } else { cwd };
    enter(open_directory(root, cwd), cwd)
}

fn open_directory(root: &OwnedFd, cwd: &str) -> rustix::io::Result<OwnedFd> {
    let resolve = match mutation::off(Control::NoMagicLinks) {
        true => ResolveFlags::empty(),
        false => ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    };
    inside::open(root, cwd, OFlags::PATH | OFlags::DIRECTORY, Mode::empty(), resolve)
}

fn enter(opened: rustix::io::Result<OwnedFd>, cwd: &str) -> Result<(), StartFailure> {
    let failed = |why: String| StartFailure::new(FailureKind::BadDir, format!("cannot enter {cwd}: {why}"));
    fchdir(opened.map_err(|e| failed(e.to_string()))?).map_err(|e| failed(e.to_string()))?;
    check_inside().map_err(failed)
}

/// Enters `cwd`, made where it is missing. A directory that is not below the container's root, which a leaked descriptor
/// could give, is refused: through the links of /proc when it is opened, and by name afterwards.
pub fn enter_directory(root: &OwnedFd, cwd: &str, user: &User) -> Result<(), StartFailure> {
    let cwd = if cwd.is_empty() { "/" } else { cwd };
    let failed = |why: String| StartFailure::new(FailureKind::BadDir, format!("cannot enter {cwd}: {why}"));
    let dir = match open_directory(root, cwd) {
        Err(Errno::NOENT) => {
            let dir = rootfs::directory(root, cwd).map_err(|e| failed(e.message))?;
            let (uid, gid) = (rustix::process::Uid::from_raw(user.uid), rustix::process::Gid::from_raw(user.gid));
            rustix::fs::chownat(&dir, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
                .map_err(|e| failed(e.to_string()))?;
            Ok(dir)
        }
        opened => opened,
    };
    enter(dir, cwd)
}

/// The kernel puts `(unreachable)` before a directory that is not below the root.
pub fn check_inside() -> Result<(), String> {
    let here = getcwd(Vec::new()).map_err(|e| e.to_string())?;
    if here.as_bytes().starts_with(b"/") { Ok(()) } else { Err("it lies outside of the container".to_owned()) }
}

/// The specification's variables, the last of equal names, and those that every program expects.
pub fn environment(given: &[String], hostname: &str, home: &str) -> Vec<String> {
    let name = |variable: &str| variable.split_once('=').map(|(name, _)| name.to_owned());
    let mut env: Vec<String> = Vec::with_capacity(given.len() + 3);
    for variable in given {
        // Without a name or a sign of equality it is no variable.
        let Some(this) = name(variable).filter(|name| !name.is_empty()) else { continue };
        env.retain(|other| name(other).as_deref() != Some(&this));
        env.push(variable.clone());
    }
    for (key, value) in [("PATH", DEFAULT_PATH), ("HOSTNAME", hostname), ("HOME", home)] {
        if !env.iter().any(|variable| name(variable).as_deref() == Some(key)) {
            env.push(format!("{key}={value}"));
        }
    }
    env
}

/// Only returns when nothing could be executed. The filter is installed when nothing is left to do but to try: what is tried, and the answer
/// that it failed, must pass it, or the process ends as a program that could not be executed.
pub fn execute(args: &[String], env: &[String], filter: Option<&Filter>) -> Result<Infallible, StartFailure> {
    let c_strings = |texts: &[String]| -> Result<Vec<CString>, StartFailure> {
        texts
            .iter()
            .map(|text| CString::new(text.as_str()).map_err(|_| failure(FailureKind::Other, text, "it holds a NUL")))
            .collect()
    };
    let (arg_strings, env_strings) = (c_strings(args)?, c_strings(env)?);
    let program = args.first().map_or("", String::as_str);
    let path = env.iter().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    let candidates = candidates(program, path);
    let mut denied = None;
    if let Some(filter) = filter {
        filter.install()?;
    }
    for candidate in candidates {
        let Ok(file) = CString::new(candidate.as_str()) else { continue };
        let Err(errno) = nix::unistd::execve(&file, &arg_strings, &env_strings);
        match errno {
            nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR if !exists(&candidate) => {}
            nix::errno::Errno::ENOENT => {
                return Err(failure(FailureKind::NotExecutable, &candidate, "its interpreter or loader is missing"));
            }
            nix::errno::Errno::EACCES => denied = Some(candidate),
            nix::errno::Errno::ENOEXEC => {
                return Err(failure(FailureKind::NotExecutable, &candidate, "it is not a program for this machine"));
            }
            other => return Err(failure(FailureKind::NotExecutable, &candidate, other.desc())),
        }
    }
    Err(none_of(program, denied))
}

/// Whether there is something to execute for this user, without trying: what fails later fails by its contents. In runc's words, by which
/// podman knows what to exit with.
#[cfg(feature = "oci")]
pub fn find(args: &[String], env: &[String]) -> Result<(), StartFailure> {
    let program = args.first().map_or("", String::as_str);
    let path = env.iter().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    let mut denied = None;
    for candidate in candidates(program, path) {
        match accessat(CWD, Path::new(&candidate), Access::EXEC_OK, AtFlags::EACCESS) {
            Ok(()) if Path::new(&candidate).is_file() => return Ok(()),
            Ok(()) | Err(Errno::ACCESS) => denied = Some(candidate),
            Err(_) => {}
        }
    }
    match denied {
        None if program.contains('/') => Err(failure(FailureKind::NotFound, program, "no such file or directory")),
        None => Err(failure(FailureKind::NotFound, program, "executable file not found in $PATH")),
        denied => Err(none_of(program, denied)),
    }
}

fn none_of(program: &str, denied: Option<String>) -> StartFailure {
    match denied {
        Some(candidate) => failure(FailureKind::NotExecutable, &candidate, "permission denied, or it is a directory"),
        None if program.contains('/') => failure(FailureKind::NotFound, program, "no such file in the image"),
        None => failure(FailureKind::NotFound, program, "not found on the container's PATH"),
    }
}

/// As a shell would, except that the current directory is never searched.
fn candidates(program: &str, path: &str) -> Vec<String> {
    if program.contains('/') {
        return vec![program.to_owned()];
    }
    if matches!(program, "" | "." | "..") {
        return Vec::new();
    }
    path.split(':')
        .filter(|dir| dir.starts_with('/'))
        .map(|dir| format!("{}/{program}", dir.trim_end_matches('/')))
        .collect()
}

fn exists(path: &str) -> bool {
    accessat(CWD, Path::new(path), Access::EXISTS, AtFlags::EACCESS).is_ok()
}

fn failure(kind: FailureKind, program: &str, why: &str) -> StartFailure {
    let kind = if mutation::off(Control::NamedFailures) { FailureKind::Other } else { kind };
    StartFailure::new(kind, format!("cannot run {program}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_equal_variables_wins_and_the_usual_ones_are_there() {
        let given = ["A=1", "HOME=/x", "A=2", "junk", "=x"].map(String::from);
        let env = environment(&given, "web", "/root");
        let path = format!("PATH={DEFAULT_PATH}");
        assert_eq!(env, ["HOME=/x", "A=2", path.as_str(), "HOSTNAME=web"]);
    }

    #[test]
    fn the_current_directory_is_not_searched() {
        assert_eq!(candidates("a", "/bin::.:x:/usr/bin/"), ["/bin/a", "/usr/bin/a"]);
        assert_eq!(candidates("./a", "/bin"), ["./a"]);
        assert!(candidates("..", "/bin").is_empty());
    }

    #[test]
    fn missing_forbidden_and_without_interpreter_are_three_answers() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str, text: &str, mode| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        make("plain", "x", 0o644);
        make("orphan", "#!/no/such/interpreter\n", 0o755);
        make("garbage", "\u{1}\u{2}", 0o755);
        let env = [format!("PATH={}", dir.path().display())];
        let kind = |name: &str| execute(&[name.to_owned()], &env, None).unwrap_err().kind;
        assert_eq!(kind("absent"), FailureKind::NotFound);
        assert_eq!(kind("plain"), FailureKind::NotExecutable);
        assert_eq!(kind("orphan"), FailureKind::NotExecutable);
        assert_eq!(kind("garbage"), FailureKind::NotExecutable);
    }
}
