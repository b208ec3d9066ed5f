//! A metric family: its name, what it means, and which labels its series have. Refuses names that Prometheus' conventions
//! refuse: base units, and `_total` behind counters and nothing else.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from zero, for as long as what it counts for lives.
    Counter,
    Gauge,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        }
    }
}

/// Who is shown a family's series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Audience {
    /// The first label is the project that a series belongs to.
    ItsProject,
    Host,
    /// It tells of the scrape itself.
    Everyone,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Family {
    pub name: &'static str,
    pub kind: Kind,
    pub help: &'static str,
    pub labels: &'static [&'static str],
    pub(super) audience: Audience,
}

/// The label that keeps projects apart; it comes first.
pub const LABEL_PROJECT: &str = "project";

impl Family {
    /// Of each project's own objects: the label `project` comes before `labels`, and who may see one project sees its only.
    pub const fn of_projects(
        kind: Kind,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Self {
        Family { name, kind, help, labels, audience: Audience::ItsProject }
    }

    /// Of the host, which only those see who may see all of it.
    pub const fn of_host(kind: Kind, name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Self {
        Family { name, kind, help, labels, audience: Audience::Host }
    }

    pub(super) const fn of_scrape(name: &'static str, help: &'static str) -> Self {
        Family { name, kind: Kind::Gauge, help, labels: &[], audience: Audience::Everyone }
    }

    /// What is wrong with it, by the conventions.
    pub fn fault(&self) -> Option<&'static str> {
        let word = |text: &str| {
            text.starts_with(|c: char| c.is_ascii_lowercase())
                && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        };
        let counter = self.kind == Kind::Counter;
        let stem = self.name.strip_suffix("_total").unwrap_or(self.name);
        // Of a unit that is no base unit, and of one that stands elsewhere than at the end.
        let scaled = ["ms", "us", "ns", "milliseconds", "microseconds", "kb", "mb", "kib", "mib", "percent", "minutes"];
        let misplaced = |unit: &str| stem.split('_').any(|part| part == unit) && !stem.ends_with(unit);
        let project_first = self.labels.first() == Some(&LABEL_PROJECT);
        let rules = [
            (!word(self.name), "its name is not of lower-case letters, digits and underscores"),
            (counter != self.name.ends_with("_total"), "_total belongs behind counters, and behind nothing else"),
            (stem.split('_').any(|part| scaled.contains(&part)), "its unit is not a base unit"),
            (misplaced("bytes") || misplaced("seconds"), "its unit is not at the end"),
            (!self.help.ends_with('.') || self.help.contains('\n'), "its help is not a sentence"),
            (
                self.labels.iter().any(|label| !word(label) || ["le", "quantile"].contains(label)),
                "a label is not valid",
            ),
            ((self.audience == Audience::ItsProject) != project_first, "its label `project` does not say whose it is"),
        ];
        rules.into_iter().find(|(broken, _)| *broken).map(|(_, what)| what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conventions_are_kept() {
        const PROJECT: &[&str] = &[LABEL_PROJECT];
        let host = |kind, name| Family::of_host(kind, name, "A sentence.", &[]);
        for good in [
            host(Kind::Counter, "cc_things_total"),
            host(Kind::Counter, "cc_io_read_bytes_total"),
            host(Kind::Gauge, "cc_start_time_seconds"),
            Family::of_projects(Kind::Gauge, "cc_things", "A sentence.", PROJECT),
        ] {
            assert_eq!(good.fault(), None, "{}", good.name);
        }
        for bad in [
            host(Kind::Gauge, "cc_things_total"),
            host(Kind::Counter, "cc_things"),
            host(Kind::Gauge, "cc_Things"),
            host(Kind::Gauge, "_cc"),
            host(Kind::Gauge, "cc_delay_ms"),
            host(Kind::Gauge, "cc_load_percent"),
            host(Kind::Counter, "cc_bytes_read_total"),
            Family::of_host(Kind::Gauge, "cc_x", "No sentence", &[]),
            Family::of_host(Kind::Gauge, "cc_x", "A sentence.", &["le"]),
            Family::of_host(Kind::Gauge, "cc_x", "A sentence.", PROJECT),
            Family::of_projects(Kind::Gauge, "cc_x", "A sentence.", &["name", LABEL_PROJECT]),
        ] {
            assert!(bad.fault().is_some(), "{bad:?}");
        }
    }
}
