//! A strict reader of Prometheus' text format, written from the format's description and knowing nothing of the daemon's
//! writer. Refuses what Prometheus would take only reluctantly: series without HELP and TYPE, families in pieces, timestamps.

use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Family {
    pub kind: String,
    pub help: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

#[derive(Debug, Clone, Default)]
pub struct Scrape {
    pub families: BTreeMap<String, Family>,
    pub samples: Vec<Sample>,
}

impl Scrape {
    pub fn parse(text: &str) -> Result<Scrape, String> {
        let mut scrape = Scrape::default();
        let mut current = String::new();
        let mut seen = BTreeSet::new();
        if !text.is_empty() && !text.ends_with('\n') {
            return Err("the last line does not end".to_owned());
        }
        for (at, line) in text.lines().enumerate() {
            let failed = |what: &str| Err(format!("line {}: {what}: {line}", at + 1));
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let Some((name, help)) = rest.split_once(' ') else { return failed("HELP without text") };
                if !is_name(name, true) || scrape.families.contains_key(name) {
                    return failed("HELP of no new family");
                }
                scrape.families.insert(name.to_owned(), Family { kind: String::new(), help: help.to_owned() });
                current = name.to_owned();
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let Some((name, kind)) = rest.split_once(' ') else { return failed("TYPE without a type") };
                match scrape.families.get_mut(name) {
                    Some(family) if name == current && family.kind.is_empty() => family.kind = kind.to_owned(),
                    _ => return failed("TYPE that does not follow its HELP"),
                }
                if kind != "counter" && kind != "gauge" {
                    return failed("a type that the daemon has no use for");
                }
            } else {
                let Some(sample) = sample(line) else { return failed("no sample") };
                if sample.name != current || scrape.families[&current].kind.is_empty() {
                    return failed("a sample outside its family");
                }
                if scrape.families[&current].kind == "counter" && sample.value < 0.0 {
                    return failed("a counter below zero");
                }
                if !seen.insert((sample.name.clone(), sample.labels.clone())) {
                    return failed("a series twice");
                }
                scrape.samples.push(sample);
            }
        }
        match scrape.families.iter().find(|(_, family)| family.kind.is_empty()) {
            Some((name, _)) => Err(format!("{name} has no TYPE")),
            None => Ok(scrape),
        }
    }

    /// The series of `name` that have at least these labels.
    pub fn series<'a>(&'a self, name: &'a str, labels: &'a [(&str, &str)]) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| {
            let has = |(key, value): &(&str, &str)| sample.labels.get(*key).is_some_and(|found| found == value);
            sample.name == name && labels.iter().all(has)
        })
    }

    /// Of the one series that has these labels.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut found = self.series(name, labels);
        let first = found.next()?;
        assert!(found.next().is_none(), "{name}{labels:?} is more than one series");
        Some(first.value)
    }
}

/// `name{label="value",…} value`
fn sample(line: &str) -> Option<Sample> {
    let name_end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(name_end);
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, behind) = rest.split_once("=\"")?;
            let (value, behind) = quoted(behind)?;
            if !is_name(label, false) || labels.insert(label.to_owned(), value).is_some() {
                return None;
            }
            rest = behind;
            if let Some(behind) = rest.strip_prefix('}') {
                rest = behind;
                break;
            }
            rest = rest.strip_prefix(',')?;
        }
    }
    let value = rest.strip_prefix(' ')?.parse().ok()?;
    is_name(name, true).then(|| Sample { name: name.to_owned(), labels, value })
}

/// What stands before the closing quote, unescaped, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.chars();
    loop {
        match chars.next()? {
            '"' => return Some((value, chars.as_str())),
            '\\' => value.push(match chars.next()? {
                'n' => '\n',
                escaped @ ('"' | '\\') => escaped,
                _ => return None,
            }),
            plain => value.push(plain),
        }
    }
}

fn is_name(text: &str, colons: bool) -> bool {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_' || (colons && c == ':');
    text.starts_with(first) && text.chars().all(|c| first(c) || c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "# HELP a_total It counts.\n# TYPE a_total counter\n";

    #[test]
    fn what_is_right_is_read() {
        let text = format!(
            "{HEAD}a_total{{x=\"1\",y=\"a\\\"b\\\\c\\nd}}\"}} 2.5\na_total{{x=\"2\",y=\"\"}} 1e3\n# HELP b B.\n# TYPE b gauge\nb -1\n"
        );
        let scrape = Scrape::parse(&text).unwrap();
        assert_eq!(scrape.value("a_total", &[("y", "a\"b\\c\nd}")]), Some(2.5));
        assert_eq!(scrape.value("a_total", &[("x", "2")]), Some(1000.0));
        assert_eq!((scrape.value("b", &[]), scrape.value("c", &[])), (Some(-1.0), None));
        assert_eq!(scrape.families["a_total"], Family { kind: "counter".into(), help: "It counts.".into() });
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for wrong in [
            "a 1\n".to_owned(),
            "# HELP a A.\na 1\n".to_owned(),
            "# TYPE a gauge\na 1\n".to_owned(),
            "# HELP a A.\n".to_owned(),
            format!("{HEAD}a_total 1"),
            format!("{HEAD}a_total -1\n"),
            format!("{HEAD}a_total one\n"),
            format!("{HEAD}a_total 1 1700000000000\n"),
            format!("{HEAD}a_total 1\na_total 2\n"),
            format!("{HEAD}b 1\n"),
            format!("{HEAD}{HEAD}"),
            format!("{HEAD}a_total{{x=\"a\\b\"}} 1\n"),
            format!("{HEAD}a_total{{x=\"a}} 1\n"),
            format!("{HEAD}a_total{{x=\"a\"y=\"b\"}} 1\n"),
            format!("{HEAD}a_total{{x=\"a\",x=\"b\"}} 1\n"),
            format!("{HEAD}# HELP b B.\n# TYPE b gauge\nb 1\na_total 1\n"),
            format!("{HEAD}\n"),
        ] {
            assert!(Scrape::parse(&wrong).is_err(), "{wrong}");
        }
    }
}
