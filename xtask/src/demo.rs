//! README's first command: two VPCs with one CIDR, told by real commands and their real output. Refuses to leave anything
//! behind, also when it fails or is interrupted.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::bench::rig;
use crate::build::{self, Profile};
use crate::host::Host;
use crate::process::{Beside, is_root, output, shown, which, within};
use crate::{interrupt, residue, setup};

/// Unoptimised programs are made in a third of the time, and what carries the packets is in the kernel, the same in both.
const BUILT: Profile = Profile::Debug;
/// No step of the story takes longer on a machine that works.
const STEP_LIMIT: Duration = Duration::from_secs(30);
const SERVE: &str = "mkdir /www; echo hello from $VPC >/www/index.html; exec httpd -f -p 80 -h /www";
/// In a bpftool dump, what is shown of it.
const DUMP_CHARS: usize = 160;

pub fn run(root: &Path) -> Result<()> {
    if !is_root() {
        bail!("the demo makes namespaces, cgroups and eBPF programs: run it as root (sudo -E cargo xtask demo)");
    }
    interrupt::catch()?;
    setup::run(root, setup::For::Demo)?;
    build::run_with_images(root, BUILT)?;
    let layouts = [build::image(root, BUILT, "busybox")?, build::image(root, BUILT, "net-tools")?];

    let before = residue::now();
    let told = Host::start(root, BUILT, "demo").and_then(|host| {
        let told = tell(&host, &layouts);
        if told.is_err() {
            eprintln!("the daemon's last words:\n{}", last_lines(&host.log(), 15));
        }
        told
    });
    // By our pid: somebody else's tests may be running.
    let ours = format!("-{}", std::process::id());
    let left: Vec<String> = residue::now().difference(&before).filter(|it| it.contains(&ours)).cloned().collect();
    told?;
    ensure!(left.is_empty(), "the demo left behind: {}", left.join(", "));
    println!("\nNothing is left: no process, namespace, link, cgroup, mount, pin or file.");
    Ok(())
}

fn tell(host: &Host, [small, tools]: &[PathBuf; 2]) -> Result<()> {
    let story = Story { host, image: host.load(small)?, tools: host.load(tools)? };
    chapter("Two VPCs with the same CIDR, and a web server at the same address in each");
    story.cc(&["vpc", "create", "--cidr", "10.0.0.0/24", "--name", "blue"])?;
    story.cc(&["vpc", "create", "--cidr", "10.0.0.0/24", "--name", "red"])?;
    for vpc in ["blue", "red"] {
        let (name, env) = (format!("web-{vpc}"), format!("VPC={vpc}"));
        story.run(&["-d", "--name", &name, "--vpc", vpc, "--env", &env, "--memory", "64MiB"], &["sh", "-c", SERVE])?;
    }
    story.cc(&["run", "-d", "--name", "speed", "--vpc", "blue", "--image", &story.tools, "iperf3", "-s"])?;
    story.cc(&["ps"])?;
    let (web, speed) = (story.address("web-blue")?, story.address("speed")?);

    chapter("One address, and in each VPC its own server behind it");
    let url = format!("http://{web}/");
    for vpc in ["blue", "red"] {
        let said = story.until(&["--rm", "--vpc", vpc], &["wget", "-q", "-O", "-", &url])?;
        ensure!(said.contains(&format!("hello from {vpc}")), "{vpc} heard somebody else: {said}");
    }

    chapter("At near wire speed inside the VPC");
    let iperf = ["iperf3", "-c", &speed, "-t", "2", "-f", "g"];
    let said = story.quietly(&[&["run", "--rm", "--vpc", "blue", "--image", &story.tools], &iperf[..]].concat())?;
    let ours = receiver(&said.text).context("iperf3 gave no result")?;
    println!("{ours}");
    println!("{}   <- a bare veth pair, without us, now", direct_veth()?);

    chapter("And not a packet to the other VPC, where something listens at that very address and port");
    let said = story.quietly(&story.words(&["--rm", "--vpc", "red"], &["nc", "-w", "2", &speed, "5201"]))?;
    // From inside blue the same command is answered: what fails in red is not the command.
    let control = within(
        story.host.cc().args(story.words(&["--rm", "--vpc", "blue"], &["nc", "-w", "2", &speed, "5201"])),
        STEP_LIMIT,
    )?;
    ensure!(control.success, "blue does not reach its own server: {}", control.text);
    ensure!(!said.success, "red reached blue");
    println!("{}   <- no answer, as it must be", said.text.trim().lines().last().unwrap_or("(silence)"));

    chapter("What it used, and what enforced it");
    story.cc(&["metrics", "web-blue"])?;
    story.bpftool(&["prog", "show", "pinned"], "programs/cc_from_ep")?;
    story.bpftool(&["map", "dump", "pinned"], "CC_PORTS")?;

    chapter("And away");
    story.cc(&["rm", "-f", "web-blue", "web-red", "speed"])?;
    story.cc(&["vpc", "delete", "blue", "red"]).map(drop)
}

struct Story<'a> {
    host: &'a Host,
    image: String,
    /// With iperf3.
    tools: String,
}

impl Story<'_> {
    /// Shows the command as a person types it, then what it says.
    fn cc(&self, args: &[&str]) -> Result<String> {
        prompt(args);
        let said = within(self.host.cc().args(args), STEP_LIMIT)?;
        print!("{}", said.text);
        ensure!(said.success, "cc {} failed", args.join(" "));
        Ok(said.text)
    }

    fn run(&self, flags: &[&str], command: &[&str]) -> Result<String> {
        self.cc(&self.words(flags, command))
    }

    /// Shown, but its output is the caller's to tell.
    fn quietly(&self, words: &[&str]) -> Result<crate::process::Said> {
        prompt(words);
        within(self.host.cc().args(words), STEP_LIMIT)
    }

    /// A server that was started a moment ago may not listen yet: asks again, and shows the time it went well.
    fn until(&self, flags: &[&str], command: &[&str]) -> Result<String> {
        let words = self.words(flags, command);
        prompt(&words);
        let mut tries = 20;
        loop {
            let said = within(self.host.cc().args(&words), STEP_LIMIT)?;
            tries -= 1;
            if said.success || tries == 0 {
                print!("{}", said.text);
                ensure!(said.success, "cc {} failed", words.join(" "));
                return Ok(said.text);
            }
        }
    }

    fn words<'a>(&'a self, flags: &[&'a str], command: &[&'a str]) -> Vec<&'a str> {
        [&["run"], flags, &["--image", &self.image], command].concat()
    }

    fn address(&self, name: &str) -> Result<String> {
        let text = output(self.host.cc().args(["inspect", name]))?;
        let value: Value = serde_json::from_str(&text).context("cc inspect gave no JSON")?;
        let ipv4 = value[0]["ipv4"].as_str().with_context(|| format!("{name} has no address"))?;
        Ok(ipv4.split('/').next().unwrap_or(ipv4).to_owned())
    }

    /// One line of it: the point is that any tool can read what we pinned.
    fn bpftool(&self, args: &[&str], pin: &str) -> Result<()> {
        let version = std::fs::read_dir(self.host.bpffs()).context("cannot list the pins")?.flatten().next();
        let path = version.context("there are no pins")?.path().join(pin);
        let program = which("bpftool").context("there is no bpftool (Debian package bpftool)")?;
        println!("$ bpftool {} {}", args.join(" "), path.display());
        let text = output(Command::new(program).args(args).arg(path))?;
        let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
        println!(
            "{}{}",
            line.chars().take(DUMP_CHARS).collect::<String>(),
            if line.len() > DUMP_CHARS { " …" } else { "" }
        );
        Ok(())
    }
}

fn chapter(title: &str) {
    println!("\n# {title}");
}

fn prompt(words: &[&str]) {
    println!("$ {}", shown(Command::new("cc").args(words)));
}

/// iperf3's line for what arrived.
fn receiver(text: &str) -> Option<String> {
    let line = text.lines().rev().find(|line| line.trim_end().ends_with("receiver"))?;
    Some(line.split_whitespace().skip_while(|word| *word != "sec").skip(1).collect::<Vec<_>>().join(" "))
}

/// The same measurement between two bare namespaces.
fn direct_veth() -> Result<String> {
    let rig = rig::veth()?;
    let inside = |netns: &Path| {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", netns.display())).arg("iperf3");
        command
    };
    let mut server = inside(&rig.server_netns);
    let _server = Beside::start(server.args(["-s", "--forceflush"]), "listening")?;
    let said =
        within(inside(&rig.client_netns).args(["-c", &rig.address.to_string(), "-t", "2", "-f", "g"]), STEP_LIMIT)?;
    receiver(&said.text).with_context(|| format!("iperf3 gave no result: {}", said.text.trim()))
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_receivers_line_is_found() {
        let text = "[  5]   0.00-2.00   sec  2.9 GBytes  12.5 Gbits/sec    0             sender\n\
                    [  5]   0.00-2.00   sec  2.8 GBytes  12.4 Gbits/sec                  receiver\n\niperf Done.\n";
        assert_eq!(receiver(text).unwrap(), "2.8 GBytes 12.4 Gbits/sec receiver");
    }
}
