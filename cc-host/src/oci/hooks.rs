//! Programs of the caller's at fixed points of a container's life, each with the container's state on its standard input. Refuses to wait
//! longer than a hook's timeout.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::error::OciError;

/// Of what a hook wrote, as much is told when it failed.
const WORDS_BYTES_MAX: u64 = 1 << 10;

#[derive(Debug, Default)]
pub struct Hooks {
    pub prestart: Vec<Hook>,
    pub create_runtime: Vec<Hook>,
    pub create_container: Vec<Hook>,
    pub start_container: Vec<Hook>,
    pub poststart: Vec<Hook>,
    pub poststop: Vec<Hook>,
}

#[derive(Debug)]
pub struct Hook {
    name: &'static str,
    path: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    timeout: Option<Duration>,
}

impl Hooks {
    pub fn parse(given: Option<&oci_spec::runtime::Hooks>) -> Result<Hooks, OciError> {
        let Some(given) = given else { return Ok(Hooks::default()) };
        Ok(Hooks {
            prestart: list("prestart", given.prestart())?,
            create_runtime: list("createRuntime", given.create_runtime())?,
            create_container: list("createContainer", given.create_container())?,
            start_container: list("startContainer", given.start_container())?,
            poststart: list("poststart", given.poststart())?,
            poststop: list("poststop", given.poststop())?,
        })
    }
}

fn list(name: &'static str, given: &Option<Vec<oci_spec::runtime::Hook>>) -> Result<Vec<Hook>, OciError> {
    given.iter().flatten().map(|hook| parse(name, hook)).collect()
}

fn parse(name: &'static str, given: &oci_spec::runtime::Hook) -> Result<Hook, OciError> {
    let invalid = |field: &str, why: &str| OciError::invalid(format!("hooks.{name}.{field}"), why);
    if !given.path().is_absolute() {
        return Err(invalid("path", "it has to be absolute"));
    }
    let variable = |text: &String| text.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
    let env: Option<Vec<_>> = given.env().iter().flatten().map(variable).collect();
    let timeout = match given.timeout() {
        None => None,
        Some(secs @ 1..) => Some(Duration::from_secs(secs.unsigned_abs())),
        Some(_) => return Err(invalid("timeout", "it has to be more than zero")),
    };
    Ok(Hook {
        name,
        path: given.path().clone(),
        args: given.args().clone().unwrap_or_default(),
        env: env.ok_or_else(|| invalid("env", "each variable is NAME=VALUE"))?,
        timeout,
    })
}

/// In their order, until one fails.
pub fn run(hooks: &[Hook], state: &str) -> Result<(), OciError> {
    hooks.iter().try_for_each(|hook| {
        hook.run(state).map_err(|why| OciError::Hook { hook: hook.name, path: hook.path.clone(), why })
    })
}

/// All of them: who fails is told about, and the next one runs.
pub fn run_all(hooks: &[Hook], state: &str) {
    for hook in hooks {
        if let Err(error) = run(std::slice::from_ref(hook), state) {
            super::report::warn(&error.chain());
        }
    }
}

impl Hook {
    fn run(&self, state: &str) -> Result<(), String> {
        let text = |e: io::Error| e.to_string();
        let words = memory("hook-output").map_err(text)?;
        let output = || words.try_clone().map(Stdio::from).map_err(text);
        let mut command = Command::new(&self.path);
        if let Some((name, rest)) = self.args.split_first() {
            command.arg0(name).args(rest);
        }
        command.env_clear().envs(self.env.iter().map(|(key, value)| (key, value)));
        command.stdin(input(state).map_err(text)?).stdout(output()?).stderr(output()?);
        let mut child = command.spawn().map_err(text)?;
        let status = match self.wait(&mut child) {
            Ok(Some(())) => child.wait().map_err(text)?,
            outcome => {
                // It may have ended by itself meanwhile.
                let _ = child.kill();
                let _ = child.wait();
                let why = outcome.err().map(|e| e.to_string());
                let late = || format!("it did not end within {} s", self.timeout.unwrap_or_default().as_secs());
                return Err(why.unwrap_or_else(late));
            }
        };
        if status.success() { Ok(()) } else { Err(format!("{status}{}", last_words(words))) }
    }

    /// None at its timeout.
    fn wait(&self, child: &mut Child) -> io::Result<Option<()>> {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        let deadline = self.timeout.map(|timeout| Instant::now() + timeout);
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let timespec = left.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
            match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], timespec.as_ref()) {
                Ok(0) => return Ok(None),
                Ok(_) => return Ok(Some(())),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// A file and not a pipe: nobody waits for a hook that does not read.
fn input(state: &str) -> io::Result<Stdio> {
    let mut file = memory("hook-state")?;
    file.write_all(state.as_bytes())?;
    file.rewind()?;
    Ok(Stdio::from(file))
}

fn memory(name: &str) -> io::Result<File> {
    Ok(File::from(memfd_create(name, MemfdFlags::CLOEXEC)?))
}

fn last_words(mut file: File) -> String {
    let mut text = Vec::new();
    let length = file.metadata().map_or(0, |found| found.len());
    let from = io::SeekFrom::Start(length.saturating_sub(WORDS_BYTES_MAX));
    let read = file.seek(from).and_then(|_| file.read_to_end(&mut text));
    let text = String::from_utf8_lossy(&text);
    if read.is_err() || text.trim().is_empty() { String::new() } else { format!(": {}", text.trim()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(text: &str) -> Result<Hook, OciError> {
        parse("poststart", &serde_json::from_str(text).unwrap())
    }

    #[test]
    fn a_hook_reads_the_state_and_has_its_own_environment() {
        let text = r#"{"path":"/bin/sh","args":["sh","-c","test \"$(cat)\" = state && test \"$A\" = 1 && test -z \"$HOME\""],"env":["A=1"]}"#;
        run(&[hook(text).unwrap()], "state").unwrap();
    }

    #[test]
    fn a_failure_has_the_hooks_words() {
        let failing = hook(r#"{"path":"/bin/sh","args":["sh","-c","echo no such luck >&2; exit 3"]}"#).unwrap();
        let error = run(&[failing], "").unwrap_err().chain();
        assert!(error.contains("poststart hook /bin/sh") && error.contains("no such luck"), "{error}");
    }

    #[test]
    fn a_hook_is_not_waited_for_beyond_its_timeout() {
        let endless = hook(r#"{"path":"/bin/sh","args":["sh","-c","exec sleep 100"],"timeout":1}"#).unwrap();
        let began = Instant::now();
        let error = run(&[endless], "").unwrap_err().chain();
        assert!(error.contains("within 1 s") && began.elapsed() < Duration::from_secs(50), "{error}");
    }

    #[test]
    fn what_is_not_in_form_is_refused() {
        for text in [r#"{"path":"sh"}"#, r#"{"path":"/sh","timeout":0}"#, r#"{"path":"/sh","env":["A"]}"#] {
            assert!(hook(text).is_err(), "{text}");
        }
    }
}
