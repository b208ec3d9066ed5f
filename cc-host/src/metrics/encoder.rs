//! The text of one scrape in Prometheus' exposition format, version 0.0.4: collected family by family, whoever writes when.
//! Refuses series beyond its limit, and another project's to whoever may see one project: collectors need not think of it.
//!
//! Not the crate `prometheus-client`: it writes OpenMetrics only, from live objects that it keeps, and would bring six
//! crates into a root daemon. Here figures are read as they are scraped, belong to somebody, and are counted before they are
//! written; what is left is the two dozen lines at the end of this file.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::family::{Audience, Family};
use crate::auth::Scope;

pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

pub struct Encoder {
    scope: Scope,
    families: Vec<(&'static Family, String)>,
    by_name: HashMap<&'static str, usize>,
    series: usize,
    series_max: usize,
    truncated: bool,
    failures: u64,
}

impl Encoder {
    pub(super) fn new(scope: Scope, series_max: usize) -> Self {
        Encoder {
            scope,
            families: Vec::new(),
            by_name: HashMap::new(),
            series: 0,
            series_max,
            truncated: false,
            failures: 0,
        }
    }

    /// Whose figures are wanted: what nobody will see need not be read.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Adds a series of a family that its collector has declared. The labels' values are in the order of the family's names.
    pub fn add(&mut self, family: &'static Family, labels: &[&str], value: f64) {
        debug_assert_eq!(labels.len(), family.labels.len(), "{}", family.name);
        debug_assert!(value.is_finite(), "{}", family.name);
        if !self.shows(family, labels) {
            return;
        }
        let Some(&at) = self.by_name.get(family.name) else {
            debug_assert!(false, "{} is not declared", family.name);
            return;
        };
        if self.series >= self.series_max {
            self.truncated = true;
            return;
        }
        self.series += 1;
        write_sample(&mut self.families[at].1, family, labels, value);
    }

    /// All that `write` adds, or none of it and `false` when there is not room for all.
    pub fn whole(&mut self, write: impl FnOnce(&mut Self)) -> bool {
        let ends: Vec<usize> = self.families.iter().map(|(_, text)| text.len()).collect();
        let (series, truncated) = (self.series, std::mem::take(&mut self.truncated));
        write(self);
        let fits = !self.truncated;
        if !fits {
            self.families.iter_mut().zip(ends).for_each(|((_, text), end)| text.truncate(end));
            self.series = series;
        }
        self.truncated |= truncated;
        fits
    }

    /// For figures that could not be read: the scrape goes on without them, and they are counted.
    pub fn failed(&mut self, what: &str, error: &dyn std::error::Error) {
        tracing::debug!(error = crate::error_chain(error), "cannot read {what} for a scrape");
        self.failures += 1;
    }

    /// A family that has no series yet is told of, too: a dashboard sees what there will be.
    pub(super) fn declare(&mut self, family: &'static Family) {
        self.by_name.insert(family.name, self.families.len());
        self.families.push((family, String::new()));
    }

    /// For what tells of the scrape itself, which is never left out.
    pub(super) fn make_room(&mut self, series: usize) {
        self.series_max = self.series_max.max(self.series + series);
    }

    pub(super) fn truncated(&self) -> bool {
        self.truncated
    }

    pub(super) fn failures(&self) -> u64 {
        self.failures
    }

    pub(super) fn finish(self) -> String {
        let mut text = String::with_capacity(self.families.iter().map(|(_, series)| series.len() + 256).sum());
        for (family, series) in &self.families {
            if family.audience != Audience::Host || self.scope == Scope::Host {
                write_head(&mut text, family);
                text.push_str(series);
            }
        }
        text
    }

    fn shows(&self, family: &Family, labels: &[&str]) -> bool {
        match (&self.scope, family.audience) {
            (Scope::Host, _) | (_, Audience::Everyone) => true,
            (Scope::Project(own), Audience::ItsProject) => labels.first() == Some(&own.as_str()),
            (Scope::Project(_), Audience::Host) => false,
        }
    }
}

fn write_head(text: &mut String, family: &Family) {
    let name = family.name;
    let help = family.help.replace('\\', r"\\").replace('\n', r"\n");
    let _infallible = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {}", family.kind.name());
}

fn write_sample(text: &mut String, family: &Family, labels: &[&str], value: f64) {
    text.push_str(family.name);
    for (at, (name, value)) in family.labels.iter().zip(labels).enumerate() {
        text.push(if at == 0 { '{' } else { ',' });
        text.push_str(name);
        text.push_str("=\"");
        for c in value.chars() {
            match c {
                '\\' => text.push_str(r"\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str(r"\n"),
                other => text.push(other),
            }
        }
        text.push('"');
    }
    if !family.labels.is_empty() {
        text.push('}');
    }
    let _infallible = writeln!(text, " {value}");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::Name;
    use crate::metrics::family::Kind;

    static THINGS: Family = Family::of_projects(Kind::Gauge, "cc_things", "Things.", &["project", "name"]);
    static SECONDS: Family = Family::of_host(Kind::Counter, "cc_work_seconds_total", r"Work \ done.", &[]);

    fn encoder(scope: Scope, series_max: usize) -> Encoder {
        let mut encoder = Encoder::new(scope, series_max);
        encoder.declare(&THINGS);
        encoder.declare(&SECONDS);
        encoder
    }

    #[test]
    fn families_stay_together_whoever_writes_when() {
        let mut out = encoder(Scope::Host, 10);
        out.add(&THINGS, &["blue", "a"], 1.0);
        out.add(&SECONDS, &[], 0.25);
        out.add(&THINGS, &["red", "b"], 9_007_199_254_740_991.0);
        let text = "\
# HELP cc_things Things.
# TYPE cc_things gauge
cc_things{project=\"blue\",name=\"a\"} 1
cc_things{project=\"red\",name=\"b\"} 9007199254740991
# HELP cc_work_seconds_total Work \\\\ done.
# TYPE cc_work_seconds_total counter
cc_work_seconds_total 0.25
";
        assert_eq!(out.finish(), text);
    }

    #[test]
    fn a_project_sees_its_own_and_nothing_of_the_host() {
        let mut out = encoder(Scope::Project(Name::parse("red").unwrap()), 10);
        out.add(&THINGS, &["blue", "a"], 1.0);
        out.add(&THINGS, &["red", "b"], 2.0);
        out.add(&SECONDS, &[], 3.0);
        assert_eq!(
            out.finish(),
            "# HELP cc_things Things.\n# TYPE cc_things gauge\ncc_things{project=\"red\",name=\"b\"} 2\n"
        );
    }

    #[test]
    fn what_does_not_fit_is_left_out_as_a_whole() {
        let mut out = encoder(Scope::Host, 3);
        let two = |out: &mut Encoder, name: &str| {
            out.whole(|out| {
                out.add(&THINGS, &["blue", name], 1.0);
                out.add(&THINGS, &["red", name], 1.0);
            })
        };
        assert!(two(&mut out, "a"));
        assert!(!out.truncated());
        assert!(!two(&mut out, "b"));
        assert!(out.truncated());
        out.add(&SECONDS, &[], 1.0);
        out.add(&SECONDS, &[], 2.0);
        let text = out.finish();
        assert!(text.contains("name=\"a\"") && !text.contains("name=\"b\""), "{text}");
        assert_eq!(text.lines().filter(|line| !line.starts_with('#')).count(), 3, "{text}");
    }

    /// By the format's own rules, read backwards: what a parser finds between the quotes.
    fn read_value(line: &str) -> Option<(String, &str)> {
        let mut rest = line.strip_prefix("cc_things{project=\"p\",name=\"")?.chars();
        let mut value = String::new();
        loop {
            match rest.next()? {
                '"' => return Some((value, rest.as_str())),
                '\\' => value.push(match rest.next()? {
                    'n' => '\n',
                    c @ ('\\' | '"') => c,
                    _ => return None,
                }),
                c => value.push(c),
            }
        }
    }

    proptest! {
        #[test]
        fn any_label_survives_and_cannot_make_a_line(value in any::<String>(), hostile in r#"[\\"\n{}=, a]{0,12}"#) {
            for value in [value, hostile] {
                let mut out = encoder(Scope::Host, 1);
                out.add(&THINGS, &["p", &value], 7.0);
                let text = out.finish();
                let line = text.split('\n').find(|line| !line.starts_with('#')).unwrap();
                prop_assert_eq!(read_value(line), Some((value, "} 7")));
                prop_assert_eq!(text.split('\n').filter(|line| !line.is_empty()).count(), 5);
            }
        }
    }
}
