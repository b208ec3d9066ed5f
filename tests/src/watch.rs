//! A `cc` command that goes on, and its lines of JSON as they come. Refuses to outlive its guard.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;

use crate::world::World;

const SOON: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Watch {
    child: Child,
    lines: mpsc::Receiver<Value>,
}

impl Watch {
    pub fn new(world: &World, args: &[&str]) -> Watch {
        let child = world.command(args).stdout(Stdio::piped()).spawn();
        let mut child = child.expect("cc can be run; run `cargo xtask build`");
        let (sender, lines) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in: {line}"));
                if sender.send(value).is_err() {
                    return;
                }
            }
        });
        Watch { child, lines }
    }

    /// The next line that is wanted.
    #[track_caller]
    pub fn until(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let line = self.lines.recv_timeout(SOON).expect("a line in time");
            if wanted(&line) {
                return line;
            }
        }
    }

    /// Whether there is another line within this time.
    pub fn tells_within(&self, time: Duration) -> bool {
        self.lines.recv_timeout(time).is_ok()
    }

    /// What has come so far.
    pub fn so_far(&self) -> Vec<Value> {
        self.lines.try_iter().collect()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
