//! Programs of e2fsprogs and of lvm2, run with nothing of ours: no environment, no input, their words bounded, and ended when they take too long.
//! What changes LVM's tables is asked to end, and waited for: killed, it could leave a volume suspended.
//! Refuses to say what an exit code means.

use std::io::Read as _;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::ioctl;

/// Where they are; what is elsewhere is not asked, whatever PATH says.
const PLACES: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
/// The program of which all commands of lvm2 are a part.
pub const LVM: &str = "lvm";
/// Those of them that change nothing.
const LVM_LOOKS: [&str; 2] = ["lvs", "lvmconfig"];
/// Of what one says.
const TEXT_BYTES_MAX: u64 = 16 << 10;
/// Of what one reports: a kilobyte for each of the volumes that there can be.
const REPORT_BYTES_MAX: u64 = 8 << 20;

#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    #[error("there is no {0} in {places}", places = PLACES.join(", "))]
    Missing(&'static str),
    #[error("cannot run {tool}")]
    Run { tool: &'static str, source: std::io::Error },
    #[error("{tool} was ended: it took more than {} s", within.as_secs())]
    TooLong { tool: &'static str, within: Duration },
    #[error("{tool} ended with code {code}: {text}")]
    Failed { tool: &'static str, code: i32, text: String },
    #[error("cannot read what {tool} says: {why}")]
    Strange { tool: &'static str, why: String },
}

/// How one ended, and what it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    pub code: i32,
    pub text: String,
}

pub fn find(tool: &'static str) -> Result<PathBuf, ToolError> {
    let there = PLACES.iter().map(|dir| Path::new(dir).join(tool)).find(|path| path.is_file());
    there.ok_or(ToolError::Missing(tool))
}

/// Blocks until it has ended.
pub fn run(tool: &'static str, args: &[&str], on: &Path, within: Duration) -> Result<Ended, ToolError> {
    let (said, says) = std::io::pipe().map_err(|source| ToolError::Run { tool, source })?;
    let errors = says.try_clone().map_err(|source| ToolError::Run { tool, source })?;
    let reader = std::thread::spawn(move || bounded(said, TEXT_BYTES_MAX));
    let code = end(tool, args, on, within, how(tool, args), says.into(), errors.into())?;
    Ok(Ended { code, text: reader.join().unwrap_or_default().trim().to_owned() })
}

/// What it writes to its standard output, of one that has done its work when it says 0. Its other words are told when it has not.
pub fn report(tool: &'static str, args: &[&str], on: &Path, within: Duration) -> Result<String, ToolError> {
    let pipe = || std::io::pipe().map_err(|source| ToolError::Run { tool, source });
    let ((said, says), (complained, complains)) = (pipe()?, pipe()?);
    let reader = std::thread::spawn(move || bounded(said, REPORT_BYTES_MAX));
    let other = std::thread::spawn(move || bounded(complained, TEXT_BYTES_MAX));
    let code = end(tool, args, on, within, how(tool, args), says.into(), complains.into())?;
    match (code, other.join().unwrap_or_default()) {
        (0, _) => Ok(reader.join().unwrap_or_default()),
        (code, text) => Err(ToolError::Failed { tool, code, text: text.trim().to_owned() }),
    }
}

fn bounded(said: std::io::PipeReader, bytes_max: u64) -> String {
    let mut text = Vec::new();
    let _ = (&said).take(bytes_max).read_to_end(&mut text);
    // What is more goes nowhere, but must not keep it waiting.
    let _ = std::io::copy(&mut &said, &mut std::io::sink());
    String::from_utf8_lossy(&text).into_owned()
}

/// What becomes of one that takes too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Killed,
    /// It ends when it can, and is waited for. LVM puts it off while it has anything suspended.
    Asked,
}

fn how(tool: &'static str, args: &[&str]) -> How {
    let changes_tables = tool == LVM && !args.first().is_some_and(|first| LVM_LOOKS.contains(first));
    if changes_tables { How::Asked } else { How::Killed }
}

/// Its code, in time.
fn end(
    tool: &'static str,
    args: &[&str],
    on: &Path,
    within: Duration,
    how: How,
    stdout: Stdio,
    stderr: Stdio,
) -> Result<i32, ToolError> {
    let program = find(tool)?;
    let failed = |source| ToolError::Run { tool, source };
    let mut command = Command::new(program);
    command.args(args).arg(on).env_clear().env("LC_ALL", "C").current_dir("/").stdin(Stdio::null());
    command.stdout(stdout).stderr(stderr);
    if how == How::Asked {
        // What it would still do, the next daemon does not know of.
        ioctl::ends_with_us(&mut command);
    }
    let mut child = command.spawn().map_err(failed)?;
    // With it go our own ends for writing: the readers end when the tool has.
    drop(command);
    let pid = Pid::from_raw(child.id().cast_signed());
    let ended = pid.map(|pid| pidfd_open(pid, PidfdFlags::empty())).transpose().ok().flatten();
    let in_time = match &ended {
        Some(pidfd) if !wait(pidfd, within) => {
            // It fails only for one that has just ended.
            let _ = pidfd_send_signal(
                pidfd,
                match how {
                    How::Killed => Signal::KILL,
                    How::Asked => Signal::TERM,
                },
            );
            false
        }
        // Not to be had: then it is waited for as long as it takes.
        _ => true,
    };
    let status = child.wait().map_err(failed)?;
    if !in_time {
        return Err(ToolError::TooLong { tool, within });
    }
    // Ended by a signal, it has no code.
    Ok(status.code().unwrap_or(-1))
}

/// As `run`, of one that has done its work when it says 0.
pub fn must(tool: &'static str, args: &[&str], on: &Path, within: Duration) -> Result<(), ToolError> {
    match run(tool, args, on, within)? {
        Ended { code: 0, .. } => Ok(()),
        Ended { code, text } => Err(ToolError::Failed { tool, code, text }),
    }
}

fn wait(pidfd: &impl AsFd, within: Duration) -> bool {
    let end = std::time::Instant::now() + within;
    loop {
        let left = end.saturating_duration_since(std::time::Instant::now());
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Timespec::try_from(left).ok().as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            Ok(0) => return false,
            _ => return true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_words_and_its_code_come_back_and_it_is_ended_in_time() {
        let ended = run("sh", &["-c", "echo out; echo err >&2; exit 3"], Path::new("x"), Duration::from_secs(10));
        assert_eq!(ended.unwrap(), Ended { code: 3, text: "out\nerr".to_owned() });
        let long = run("sleep", &[], Path::new("60"), Duration::from_millis(50));
        assert!(matches!(long, Err(ToolError::TooLong { .. })), "{long:?}");
        let loud = run("head", &["-c", "1000000"], Path::new("/dev/zero"), Duration::from_secs(10)).unwrap();
        assert_eq!((loud.code, loud.text.len() as u64), (0, TEXT_BYTES_MAX));
        assert!(matches!(find("no-such-tool"), Err(ToolError::Missing(_))));
    }

    #[test]
    fn what_changes_lvms_tables_finishes_what_it_is_at() {
        assert_eq!(how(LVM, &["lvs", "--units", "b"]), How::Killed);
        assert_eq!((how(LVM, &["lvresize"]), how(LVM, &[])), (How::Asked, How::Asked));
        assert_eq!(how("mkfs.ext4", &["lvresize"]), How::Killed);
        // Until the signal it does not say what it says in the end.
        let script = "trap 'sleep 0.3; echo finished; exit 0' TERM; while :; do sleep 0.05; done";
        for (how, says) in [(How::Asked, "finished\n"), (How::Killed, "")] {
            let (mut said, says_to) = std::io::pipe().unwrap();
            let within = Duration::from_millis(200);
            let ended = end("sh", &["-c", script], Path::new("x"), within, how, says_to.into(), Stdio::null());
            assert!(matches!(ended, Err(ToolError::TooLong { .. })), "{ended:?}");
            let mut text = String::new();
            said.read_to_string(&mut text).unwrap();
            assert_eq!(text, says, "{how:?}");
        }
    }
}
