//! Running other programs: shown as they run, and with their own words when they fail. Refuses to go through a shell.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// `cargo` in the repository. From PATH, so that a rustup toolchain's own choice of components holds.
pub fn cargo(root: &Path) -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(root);
    // What cargo told this program of itself is not for the crates below: some build scripts watch these variables, and
    // would run again after every change between `cargo` and `cargo xtask`.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&*name);
        }
    }
    command
}

/// How much others go before what waits for nobody: nice(1)'s number.
const NICENESS: &str = "10";

/// The same command, for a time when others need the processors more. What it reads and writes is to be said anew.
pub fn nicely(command: &Command) -> Command {
    let mut nice = Command::new("nice");
    nice.args(["-n", NICENESS]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => nice.env(name, value),
            None => nice.env_remove(name),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        nice.current_dir(dir);
    }
    nice
}

/// The command as a person would type it.
pub fn shown(command: &Command) -> String {
    let mut words: Vec<String> = command
        .get_envs()
        .filter_map(|(key, value)| Some(format!("{}={}", key.to_string_lossy(), quoted(value?))))
        .collect();
    words.push(quoted(command.get_program()));
    words.extend(command.get_args().map(quoted));
    words.join(" ")
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@,+%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Shows the command, runs it with our own output, and fails when it does.
pub fn run(command: &mut Command) -> Result<()> {
    eprintln!("+ {}", shown(command));
    let status = command.status().with_context(|| format!("cannot start {}", shown(command)))?;
    if !status.success() {
        bail!("{} failed: {status}", shown(command));
    }
    Ok(())
}

/// Runs it unseen and gives back its standard output; what it said on standard error becomes the error.
pub fn output(command: &mut Command) -> Result<String> {
    let out = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {}", shown(command)))?;
    if !out.status.success() {
        bail!("{} failed: {}: {}", shown(command), out.status, String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// The standard output of a program, if it exists and succeeds.
pub fn ask(program: &str, args: &[&str]) -> Option<String> {
    let out = Command::new(program).args(args).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    out.status.success().then(|| String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Where PATH, or the directories root's programs live in, holds `program`.
pub fn which(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Whether a TCP connection to it can be made, within two seconds.
pub fn reachable(host: &str, port: u16) -> bool {
    use std::net::ToSocketAddrs as _;
    let addresses = (host, port).to_socket_addrs().into_iter().flatten();
    addresses.take(2).any(|to| std::net::TcpStream::connect_timeout(&to, std::time::Duration::from_secs(2)).is_ok())
}

/// What a program said, on both of its outputs, and whether it succeeded.
pub struct Said {
    pub text: String,
    pub success: bool,
}

/// Runs a program that says little, and kills it when it takes longer than that or when we are interrupted.
pub fn within(command: &mut Command, limit: std::time::Duration) -> Result<Said> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {}", shown(command)))?;
    let began = std::time::Instant::now();
    loop {
        let ended = child.try_wait().context("cannot wait for a program")?.is_some();
        let late = began.elapsed() > limit;
        if ended || late || crate::interrupt::seen() {
            if !ended {
                child.kill().with_context(|| format!("cannot kill {}", shown(command)))?;
            }
            let out = child.wait_with_output().context("cannot read a program's output")?;
            crate::interrupt::check()?;
            if late && !ended {
                bail!("{} took longer than {limit:?}", shown(command));
            }
            let text = [out.stdout, out.stderr].concat();
            return Ok(Said { text: String::from_utf8_lossy(&text).into_owned(), success: out.status.success() });
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

/// A program that runs beside us; ended with its guard.
pub struct Beside(std::process::Child);

impl Beside {
    /// Starts it and waits for the line by which it says that it is ready.
    pub fn start(command: &mut Command, ready: &str) -> Result<Beside> {
        use std::io::BufRead as _;
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut beside = Beside(child.with_context(|| format!("cannot start {}", shown(command)))?);
        let out = beside.0.stdout.as_mut().context("a program's output was not piped")?;
        for line in std::io::BufReader::new(out).lines() {
            if line.context("cannot read a program's output")?.contains(ready) {
                return Ok(beside);
            }
        }
        bail!("{} ended before it was ready", shown(command))
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nice_command_is_the_same_command() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo $A.${HOME-unset}.$PWD.$(nice)"]).env("A", "a").env_remove("HOME").current_dir("/");
        let own: i32 = output(&mut Command::new("nice")).unwrap().trim().parse().unwrap();
        assert_eq!(output(&mut nicely(&command)).unwrap().trim(), format!("a.unset./.{}", (own + 10).min(19)));
    }
}
