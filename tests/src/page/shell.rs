//! One bash in which a page's commands run in order, as in somebody's terminal: variables, directories and jobs in the background stay.
//! Refuses to wait for ever, and ends what it started.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// Begins the line that ends a command's output. No program prints it.
const END: u8 = 0x1e;

#[derive(Debug)]
pub struct Shell {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<Vec<u8>>,
    step: PathBuf,
    bound: Duration,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Said {
    pub text: String,
    pub code: i32,
}

impl Shell {
    /// `bash` is that command, as its caller has prepared it: namespace, environment, directory. `step` is a file of this shell's own, and
    /// `bound` what a command may take.
    pub fn start(mut bash: Command, step: PathBuf, bound: Duration) -> Shell {
        bash.args(["--noprofile", "--norc"]).process_group(0);
        let mut child = bash.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("bash can be run");
        let stdin = child.stdin.take().expect("it is piped");
        let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let mut line = Vec::new();
            // Ends when nobody has the other end of the pipe, or nobody listens.
            while stdout.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                if sender.send(std::mem::take(&mut line)).is_err() {
                    break;
                }
            }
        });
        let mut shell = Shell { child, stdin, lines, step, bound };
        shell.tell("exec 2>&1; set -o pipefail");
        shell
    }

    fn tell(&mut self, line: &str) {
        // If it has ended, that is told when its output is read.
        let _ = writeln!(self.stdin, "{line}");
    }

    /// Its output of both streams, in order, and its exit code. Standard input is empty.
    pub fn run(&mut self, command: &str) -> Result<Said, String> {
        std::fs::write(&self.step, format!("{command}\n"))
            .map_err(|error| format!("{}: {error}", self.step.display()))?;
        let step = self.step.display().to_string();
        self.tell(&format!(". '{step}' </dev/null; printf '\\036%d\\n' $?"));
        let (began, mut text) = (Instant::now(), Vec::new());
        let shown = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
        loop {
            match self.lines.recv_timeout(self.bound.saturating_sub(began.elapsed())) {
                Ok(line) => {
                    let Some(at) = line.iter().position(|&byte| byte == END) else {
                        text.extend(line);
                        continue;
                    };
                    // What it said without an end of line is before it.
                    text.extend(&line[..at]);
                    let code =
                        shown(&line[at + 1..]).trim().parse().map_err(|_| "its exit code cannot be read".to_owned())?;
                    return Ok(Said { text: shown(&text), code });
                }
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!("it has not ended after {:?}, and said:\n{}", self.bound, shown(&text)));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(format!("it ended the shell, and said:\n{}", shown(&text)));
                }
            }
        }
    }
}

impl Drop for Shell {
    /// Jobs in the background are in its group.
    fn drop(&mut self) {
        let group = Pid::from_raw(self.child.id().cast_signed());
        let _ = killpg(group, Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(bound: Duration) -> (tempfile::TempDir, Shell) {
        let dir = tempfile::Builder::new().prefix("cct-").tempdir().unwrap();
        let shell = Shell::start(Command::new("bash"), dir.path().join("step"), bound);
        (dir, shell)
    }

    #[test]
    fn commands_share_a_shell_and_tell_their_codes() {
        let (_dir, mut shell) = shell(Duration::from_secs(20));
        let mut say = |command: &str| shell.run(command).map(|said| (said.text, said.code)).unwrap();
        assert_eq!(say("a=1; echo out; echo err >&2"), ("out\nerr\n".into(), 0));
        assert_eq!(say("printf $a; false"), ("1".into(), 1));
        assert_eq!(say("cat; exit_code() { return 125; }; exit_code   # exits 125"), (String::new(), 125));
        assert_eq!(say("false | true"), (String::new(), 1));
        assert_eq!(say("sleep 60 & kill %1; wait %1"), (String::new(), 143));
    }

    #[test]
    fn what_does_not_end_and_what_ends_the_shell_is_told() {
        let (_dir, mut slow) = shell(Duration::from_millis(200));
        let told = slow.run("echo begun; sleep 60").unwrap_err();
        assert!(told.contains("it has not ended after 200ms") && told.contains("begun"), "{told}");
        let (_dir, mut gone) = shell(Duration::from_secs(20));
        let told = gone.run("echo begun; exit 3").unwrap_err();
        assert!(told.contains("it ended the shell") && told.contains("begun"), "{told}");
    }
}
