//! Programs of the caller's at fixed points of a container's life, each with the container's state on its standard input. Refuses to wait
//! longer than a hook's timeout.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read as _, Seek as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::error::OciError;
use crate::shim::sys;

/// Of what a hook wrote last, as much is kept, and told when it failed.
const WORDS_BYTES_MAX: usize = 1 << 10;
/// As much as a pipe holds: what comes after a hook's end is of others.
const REST_BYTES_MAX: usize = 1 << 20;

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
        let (mut words, writer) = Words::begin().map_err(text)?;
        // The command, which has the pipe's other end, goes when the hook has begun.
        let mut child = self.begin(state, writer).map_err(text)?;
        let status = match self.wait(&mut child, &mut words) {
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
        if status.success() { Ok(()) } else { Err(format!("{status}{}", words.last())) }
    }

    fn begin(&self, state: &str, writer: PipeWriter) -> io::Result<Child> {
        let mut command = Command::new(&self.path);
        if let Some((name, rest)) = self.args.split_first() {
            command.arg0(name).args(rest);
        }
        command.env_clear().envs(self.env.iter().map(|(key, value)| (key, value)));
        command.stdin(input(state)?).stdout(writer.try_clone()?).stderr(writer);
        sys::with_standard_streams_only(&mut command);
        command.spawn()
    }

    /// None at its timeout.
    fn wait(&self, child: &mut Child, words: &mut Words) -> io::Result<Option<()>> {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        // One that is beyond what the clock can say never comes.
        let deadline = self.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(None);
            }
            let timespec = left.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
            let mut all = vec![PollFd::new(&pidfd, PollFlags::IN)];
            all.extend(words.pipe.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
            match poll(&mut all, timespec.as_ref()) {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(e) => return Err(e.into()),
            }
            let has_ended = !all[0].revents().is_empty();
            words.read(if has_ended { REST_BYTES_MAX } else { WORDS_BYTES_MAX })?;
            if has_ended {
                return Ok(Some(()));
            }
        }
    }
}

/// What a hook wrote last; all of it is read, so that the hook goes on.
struct Words {
    /// None when nobody can write any more.
    pipe: Option<PipeReader>,
    last: Vec<u8>,
}

impl Words {
    fn begin() -> io::Result<(Words, PipeWriter)> {
        let (reader, writer) = io::pipe()?;
        rustix::io::ioctl_fionbio(&reader, true)?;
        Ok((Words { pipe: Some(reader), last: Vec::new() }, writer))
    }

    /// What is there, and no more than that many bytes and a piece.
    fn read(&mut self, bytes_max: usize) -> io::Result<()> {
        let mut piece = [0; 4096];
        let mut bytes = 0;
        while let Some(pipe) = self.pipe.as_mut().filter(|_| bytes <= bytes_max) {
            match pipe.read(&mut piece) {
                Ok(0) => self.pipe = None,
                Ok(count) => {
                    bytes += count;
                    self.last.extend_from_slice(&piece[..count]);
                    self.last.drain(..self.last.len().saturating_sub(WORDS_BYTES_MAX));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn last(&self) -> String {
        let text = String::from_utf8_lossy(&self.last);
        if text.trim().is_empty() { String::new() } else { format!(": {}", text.trim()) }
    }
}

/// A file and not a pipe: nobody waits for a hook that does not read.
fn input(state: &str) -> io::Result<Stdio> {
    let mut file = File::from(memfd_create("hook-state", MemfdFlags::CLOEXEC)?);
    file.write_all(state.as_bytes())?;
    file.rewind()?;
    Ok(Stdio::from(file))
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
    fn a_timeout_beyond_all_clocks_is_none() {
        let text = format!(r#"{{"path":"/bin/true","timeout":{}}}"#, i64::MAX);
        run(&[hook(&text).unwrap()], "").unwrap();
        let text = format!(r#"{{"path":"/bin/true","timeout":{}}}"#, i64::MAX / 2);
        run(&[hook(&text).unwrap()], "").unwrap();
    }

    #[test]
    fn of_much_output_the_last_is_kept() {
        let text = r#"{"path":"/bin/sh","args":["sh","-c","head -c 3000000 /dev/zero; echo at last; exit 3"],"env":["PATH=/usr/bin:/bin"]}"#;
        let hook = hook(text).unwrap();
        let (mut words, writer) = Words::begin().unwrap();
        let mut child = hook.begin("", writer).unwrap();
        assert_eq!(hook.wait(&mut child, &mut words).unwrap(), Some(()));
        assert!(words.last.len() <= WORDS_BYTES_MAX && words.last().ends_with("at last"), "{}", words.last.len());
        child.wait().unwrap();
    }

    #[test]
    fn what_a_hook_leaves_behind_is_not_waited_for() {
        let text = r#"{"path":"/bin/sh","args":["sh","-c","yes > /dev/stdout & exit 0"],"env":["PATH=/usr/bin:/bin"]}"#;
        run(&[hook(text).unwrap()], "").unwrap();
    }

    #[test]
    fn what_is_not_in_form_is_refused() {
        for text in [r#"{"path":"sh"}"#, r#"{"path":"/sh","timeout":0}"#, r#"{"path":"/sh","env":["A"]}"#] {
            assert!(hook(text).is_err(), "{text}");
        }
    }
}
