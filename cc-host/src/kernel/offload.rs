//! What an interface does for the CPU, where it may surprise: checksums that it leaves to it, and packets that it merges. Refuses to
//! change it.

use super::ethtool::{Question, ask};

/// `ETH_FLAG_LRO`
const MERGES: u32 = 1 << 15;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offload {
    pub send_checksums: bool,
    pub receive_checksums: bool,
    /// Large receive offload: what it has merged cannot be taken apart again, unlike by GRO.
    pub merges: bool,
}

/// What a person may want to change, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trap {
    pub problem: String,
    pub next: String,
}

impl Offload {
    /// What it is like where nobody has changed anything, or nobody says.
    const USUAL: Offload = Offload { send_checksums: true, receive_checksums: true, merges: false };

    /// What an interface does not say is taken to be as usual.
    pub fn of(name: &str) -> Offload {
        let says = |question, usual: bool| ask(name, question).map_or(usual, |value| value != 0);
        Offload {
            send_checksums: says(Question::SendChecksums, Self::USUAL.send_checksums),
            receive_checksums: says(Question::ReceiveChecksums, Self::USUAL.receive_checksums),
            merges: ask(name, Question::Flags).is_ok_and(|flags| flags & MERGES != 0),
        }
    }

    pub fn traps(&self, name: &str) -> Vec<Trap> {
        let trap = |problem: &str, switch: &str| Trap {
            problem: format!("{name} {problem}"),
            next: format!("ethtool -K {name} {switch}"),
        };
        let mut traps = Vec::new();
        if self.merges {
            let problem = "merges what it receives beyond what a container takes (large receive offload): what is \
                           merged cannot be sent on as it came";
            traps.push(trap(problem, "lro off"));
        }
        if !self.send_checksums {
            traps.push(trap("leaves the checksums of what it sends to the CPU (tx checksumming is off)", "tx on"));
        }
        if !self.receive_checksums {
            traps.push(trap("leaves the checksums of what it receives to the CPU (rx checksumming is off)", "rx on"));
        }
        traps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_trap_is_told_with_what_to_do() {
        assert_eq!(Offload::USUAL.traps("eth0"), Vec::new());
        let all = Offload { send_checksums: false, receive_checksums: false, merges: true }.traps("eth0");
        let next: Vec<&str> = all.iter().map(|trap| trap.next.as_str()).collect();
        assert_eq!(next, ["ethtool -K eth0 lro off", "ethtool -K eth0 tx on", "ethtool -K eth0 rx on"]);
        assert!(all[0].problem.starts_with("eth0 merges"), "{all:?}");
    }

    #[test]
    fn what_is_not_there_says_nothing() {
        assert_eq!(Offload::of("no-such"), Offload::USUAL);
    }
}
