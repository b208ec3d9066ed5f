//! Which CPUs a container may use: a list as the kernel writes them, and where it is set. A hierarchy of v1 is entered only by containers
//! that ask for some: an empty one of its directories takes no process. Refuses CPUs that the machine does not have.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::hierarchy::Hierarchies;

/// More than any kernel is built for.
const CPU_MAX: u16 = 8191;
const ONLINE: &str = "/sys/devices/system/cpu/online";

/// Never empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CpuSet(BTreeSet<u16>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no list of CPUs, such as 0-1,3")]
pub struct BadCpuSet(String);

impl CpuSet {
    /// `0-1,3`
    pub fn parse(text: &str) -> Result<Self, BadCpuSet> {
        let bad = || BadCpuSet(text.chars().take(80).collect());
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            text.parse().ok().filter(|&cpu: &u16| digits && cpu <= CPU_MAX).ok_or_else(bad)
        };
        let mut all = BTreeSet::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(bad());
            }
            all.extend(first..=last);
        }
        Ok(CpuSet(all))
    }

    /// Those of the machine.
    pub fn online() -> io::Result<Self> {
        let text = std::fs::read_to_string(ONLINE)?;
        Self::parse(text.trim()).map_err(|bad| io::Error::other(bad.to_string()))
    }

    pub fn is_within(&self, other: &CpuSet) -> bool {
        self.0.is_subset(&other.0)
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cpus = self.0.iter().copied().peekable();
        let mut comma = "";
        while let Some(first) = cpus.next() {
            let mut last = first;
            while let Some(next) = cpus.next_if(|&next| next == last + 1) {
                last = next;
            }
            match first == last {
                true => write!(f, "{comma}{first}")?,
                false => write!(f, "{comma}{first}-{last}")?,
            }
            comma = ",";
        }
        Ok(())
    }
}

impl TryFrom<String> for CpuSet {
    type Error = BadCpuSet;

    fn try_from(text: String) -> Result<Self, BadCpuSet> {
        Self::parse(&text)
    }
}

impl From<CpuSet> for String {
    fn from(set: CpuSet) -> String {
        set.to_string()
    }
}

/// In `dir`, a container's, of the hierarchy that has the controller.
pub fn set(hierarchies: &Hierarchies, dir: &Path, cpus: &CpuSet) -> Result<(), String> {
    let told = |what: &'static str| move |error: io::Error| format!("cannot {what}: {error}");
    let Some(mount) = &hierarchies.cpuset else {
        hierarchies.delegate_one("cpuset", dir.parent().unwrap_or(dir)).map_err(|error| super::chain(&error))?;
        let file = hierarchies.unified.mount.join(dir).join("cpuset.cpus");
        return std::fs::write(file, cpus.to_string()).map_err(told("set its CPUs"));
    };
    let mut place = mount.clone();
    for part in dir.components() {
        let above = place.clone();
        place.push(part);
        super::make(&place, true).map_err(|error| super::chain(&error))?;
        // A new one has neither, and takes no process before it has both.
        for name in ["cpuset.cpus", "cpuset.mems"] {
            let own = std::fs::read_to_string(place.join(name)).map_err(told("read a cpuset"))?;
            if own.trim().is_empty() {
                let theirs = std::fs::read_to_string(above.join(name)).map_err(told("read a cpuset"))?;
                std::fs::write(place.join(name), theirs.trim()).map_err(told("fill a cpuset"))?;
            }
        }
    }
    std::fs::write(place.join("cpuset.cpus"), cpus.to_string()).map_err(told("set its CPUs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written_as_the_kernel_does() {
        for (text, written) in
            [("0", "0"), ("0-1,3", "0-1,3"), ("3,1,2,0", "0-3"), ("7,7,5-6", "5-7"), ("8191", "8191")]
        {
            assert_eq!(CpuSet::parse(text).unwrap().to_string(), written);
        }
        for bad in ["", ",", "1-", "-1", "2-1", "a", "0,", "8192", "1-2-3", "+1", " 1", "0-99999"] {
            assert!(CpuSet::parse(bad).is_err(), "{bad}");
        }
        let (some, more) = (CpuSet::parse("1,3").unwrap(), CpuSet::parse("0-3").unwrap());
        assert!(some.is_within(&more) && !more.is_within(&some));
        let kept = serde_json::to_string(&some).unwrap();
        assert_eq!((kept.as_str(), serde_json::from_str::<CpuSet>(&kept).unwrap()), ("\"1,3\"", some));
        assert!(serde_json::from_str::<CpuSet>("\"x\"").is_err() && CpuSet::online().is_ok());
    }
}
