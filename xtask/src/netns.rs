//! Network namespaces for the demo and the benchmarks, gone with their guards. Refuses a name without the tests' prefix.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::process::output;
use crate::residue::PREFIX;

pub struct Netns {
    name: String,
}

impl Netns {
    /// With loopback up; the name gets the prefix and our pid, so that runs do not meet.
    pub fn make(what: &str) -> Result<Self> {
        let name = format!("{PREFIX}-{what}-{}", std::process::id());
        output(Command::new("ip").args(["netns", "add", &name]))?;
        let netns = Netns { name };
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// `ip` in here; the words are ours, without spaces in any.
    pub fn ip(&self, words: &str) -> Result<()> {
        output(Command::new("ip").args(["-n", &self.name]).args(words.split_whitespace())).map(drop)
    }

    /// Runs a program in here that reads `text`.
    pub fn fed(&self, program: &str, args: &[&str], text: &str) -> Result<()> {
        let mut command = self.command(program);
        let mut child =
            command.args(args).stdin(Stdio::piped()).spawn().with_context(|| format!("cannot start {program}"))?;
        let mut stdin = child.stdin.take().context("standard input was not piped")?;
        stdin.write_all(text.as_bytes()).with_context(|| format!("{program} does not read"))?;
        drop(stdin);
        let done = child.wait().with_context(|| format!("cannot wait for {program}"))?;
        ensure!(done.success(), "{program}: {done}");
        Ok(())
    }

    /// A program in here. Not `ip netns exec`: that would hide the cgroups and the bpffs.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Err(error) = output(Command::new("ip").args(["netns", "del", &self.name])) {
            eprintln!("xtask: {error:#}");
        }
    }
}
