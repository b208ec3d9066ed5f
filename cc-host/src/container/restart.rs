//! When a container that has ended is started again, as docker has it. Refuses to start one.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    #[default]
    No,
    /// If its code says that it failed; so often at most, 0 being without an end.
    OnFailure(u32),
    Always,
    UnlessStopped,
}

impl Restart {
    /// `no`, `on-failure`, `on-failure:N`, `always`, `unless-stopped`.
    pub fn parse(text: &str) -> Option<Restart> {
        Some(match text.split_once(':') {
            None => match text {
                "" | "no" => Restart::No,
                "on-failure" => Restart::OnFailure(0),
                "always" => Restart::Always,
                "unless-stopped" => Restart::UnlessStopped,
                _ => return None,
            },
            Some(("on-failure", count)) => Restart::OnFailure(count.parse().ok().filter(|&count| count > 0)?),
            Some(_) => return None,
        })
    }

    /// Whether one that ended so, and was restarted so often without having run well, is started again.
    pub fn applies(self, code: i32, restarts: u32) -> bool {
        match self {
            Restart::No => false,
            Restart::OnFailure(max) => code != 0 && (max == 0 || restarts < max),
            Restart::Always | Restart::UnlessStopped => true,
        }
    }
}

impl std::fmt::Display for Restart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Restart::No => f.write_str("no"),
            Restart::OnFailure(0) => f.write_str("on-failure"),
            Restart::OnFailure(max) => write!(f, "on-failure:{max}"),
            Restart::Always => f.write_str("always"),
            Restart::UnlessStopped => f.write_str("unless-stopped"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_read_as_docker_reads_them() {
        for text in ["no", "on-failure", "on-failure:3", "always", "unless-stopped"] {
            assert_eq!(Restart::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Restart::parse(""), Some(Restart::No));
        for bad in ["sometimes", "on-failure:", "on-failure:0", "on-failure:-1", "always:3", "No"] {
            assert_eq!(Restart::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_failure_counts_and_a_wish_is_without_end() {
        assert!(!Restart::No.applies(1, 0));
        assert!(!Restart::OnFailure(0).applies(0, 0) && Restart::OnFailure(0).applies(1, 1_000_000));
        assert!(Restart::OnFailure(2).applies(1, 1) && !Restart::OnFailure(2).applies(1, 2));
        assert!(Restart::Always.applies(0, 99) && Restart::UnlessStopped.applies(0, 99));
    }
}
