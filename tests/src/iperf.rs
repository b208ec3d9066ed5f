//! A stream of iperf3's, told by its own report of every tenth of a second. Refuses to judge more than that it goes on.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::netns::Netns;

/// Longer than any test: it is ended when it is dropped.
const SECONDS: &str = "600";
/// As fast as it goes it would leave a small machine no time for a daemon.
const BITS_PER_SECOND: &str = "100M";

/// What it has told so far.
#[derive(Debug, Default)]
struct Told {
    intervals: u64,
    /// Tenths of a second in which nothing arrived, one after the other, at worst.
    longest_silence: u64,
    silence: u64,
    /// Whatever else it said.
    said: String,
    ended: bool,
}

#[derive(Debug)]
pub struct Iperf {
    server: Child,
    client: Child,
    told: Arc<Mutex<Told>>,
    reader: Option<JoinHandle<()>>,
}

impl Iperf {
    pub fn start(from: &Netns, at: &Netns, to: SocketAddr) -> Iperf {
        let port = to.port().to_string();
        let mut server = at.command("iperf3");
        server.args(["--server", "--one-off", "--forceflush", "--port", &port]).stdout(Stdio::piped());
        let mut server = server.spawn().expect("iperf3 is installed");
        let mut lines = lines(&mut server);
        // Its first words, between two rules, are that it listens.
        assert!(lines.any(|line| line.contains("listening")), "the server of iperf3 does not listen");
        let mut client = from.command("iperf3");
        client.args(["--client", &to.ip().to_string(), "--port", &port, "--time", SECONDS, "--interval", "0.1"]);
        client.args(["--bitrate", BITS_PER_SECOND, "--forceflush"]).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut client = client.spawn().expect("iperf3 is installed");
        let told = Arc::<Mutex<Told>>::default();
        let reader = {
            let (told, said) = (Arc::clone(&told), self::lines(&mut client));
            std::thread::spawn(move || {
                // The server's, too, or it would wait for a reader.
                let heard = std::thread::spawn(move || lines.for_each(drop));
                for line in said {
                    told.lock().unwrap_or_else(PoisonError::into_inner).hear(&line);
                }
                told.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
                let _ = heard.join();
            })
        };
        Iperf { server, client, told, reader: Some(reader) }
    }

    /// Tenths of a second so far, or why it is over.
    pub fn intervals(&self) -> Result<u64, String> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.ended { Err(told.said.clone()) } else { Ok(told.intervals) }
    }

    /// Tenths of a second in which nothing arrived, one after the other, at worst.
    pub fn longest_silence(&self) -> u64 {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).longest_silence
    }
}

impl Told {
    /// `[  5]   0.00-0.10   sec  6.25 MBytes   524 Mbits/sec    0    320 KBytes`
    fn hear(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().skip_while(|word| !word.contains('-')).collect();
        match words.as_slice() {
            [_, "sec", amount, _, ..] if amount.parse::<f64>().is_ok() => {
                self.intervals += 1;
                self.silence = if amount.parse() == Ok(0.0) { self.silence + 1 } else { 0 };
                self.longest_silence = self.longest_silence.max(self.silence);
            }
            _ => {
                self.said.push_str(line);
                self.said.push('\n');
            }
        }
    }
}

fn lines(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    let stdout: ChildStdout = child.stdout.take().expect("it is piped");
    BufReader::new(stdout).lines().map_while(Result::ok)
}

impl Drop for Iperf {
    fn drop(&mut self) {
        for child in [&mut self.client, &mut self.server] {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silences_are_seen() {
        let mut told = Told::default();
        for line in [
            "Connecting to host 10.0.0.2, port 5301",
            "[  5] local 10.0.0.3 port 40000 connected to 10.0.0.2 port 5301",
            "[ ID] Interval           Transfer     Bitrate         Retr  Cwnd",
            "[  5]   0.00-0.10   sec  6.25 MBytes   524 Mbits/sec    0    320 KBytes       ",
            "[  5]   0.10-0.20   sec  0.00 Bytes  0.00 bits/sec    0    320 KBytes       ",
            "[  5]   0.20-0.30   sec  0.00 Bytes  0.00 bits/sec    1    320 KBytes       ",
            "[  5]   0.30-0.40   sec   128 KBytes  10.5 Mbits/sec    0    320 KBytes       ",
        ] {
            told.hear(line);
        }
        assert_eq!((told.intervals, told.longest_silence, told.said.lines().count()), (4, 2, 3));
    }
}
