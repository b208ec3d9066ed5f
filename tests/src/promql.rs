//! Which metrics and labels an expression in Prometheus' query language names. Refuses to evaluate it, and to know which
//! functions there are: what stands before a parenthesis is one.

use std::collections::BTreeSet;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Used {
    pub metrics: BTreeSet<String>,
    pub labels: BTreeSet<String>,
}

/// Followed by a list of labels in parentheses.
const LISTS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
/// Words that stand alone.
const WORDS: [&str; 6] = ["and", "or", "unless", "bool", "offset", "inf"];

impl Used {
    pub fn in_expression(expression: &str) -> Used {
        let mut used = Used::default();
        let mut rest = expression;
        while let Some(c) = rest.chars().next() {
            if c == '"' || c == '\'' {
                rest = behind(&rest[1..], c);
            } else if c == '[' {
                rest = behind(&rest[1..], ']');
            } else if c == '{' {
                let (inside, after) = matchers(&rest[1..]);
                used.labels.extend(inside);
                rest = after;
            } else if c.is_ascii_digit() {
                rest = rest.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '.');
            } else if is_start(c) {
                let end = rest.find(|c: char| !is_start(c) && !c.is_ascii_digit()).unwrap_or(rest.len());
                let (word, after) = rest.split_at(end);
                rest = used.word(word, after);
            } else {
                rest = &rest[c.len_utf8()..];
            }
        }
        used
    }

    /// Takes the word, and the list of labels behind it if there is one; returns what is left.
    fn word<'a>(&mut self, word: &str, after: &'a str) -> &'a str {
        let next = after.trim_start();
        let list = next.strip_prefix('(').and_then(|inside| inside.split_once(')'));
        if let Some((labels, rest)) = list.filter(|_| LISTS.contains(&word)) {
            let labels = labels.split(',').map(|label| label.trim().to_owned());
            self.labels.extend(labels.filter(|label| !label.is_empty()));
            return rest;
        }
        let aggregates = LISTS[..2].iter().any(|list| next.starts_with(&format!("{list} (")));
        if !next.starts_with('(') && !aggregates && !WORDS.contains(&word) && !LISTS.contains(&word) {
            self.metrics.insert(word.to_owned());
        }
        after
    }
}

fn is_start(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_' || c == ':'
}

fn behind(text: &str, end: char) -> &str {
    text.split_once(end).map_or("", |(_, rest)| rest)
}

/// The labels' names up to the closing brace, and what follows it.
fn matchers(text: &str) -> (Vec<String>, &str) {
    let mut labels = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['}', '=', '!']) {
        if rest[at..].starts_with('}') {
            return (labels, &rest[at + 1..]);
        }
        labels.push(rest[..at].trim_matches([',', ' ']).to_owned());
        let Some(quote) = rest[at..].find('"') else { break };
        rest = behind(&rest[at + quote + 1..], '"');
    }
    (labels, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_and_labels_are_told_from_everything_else() {
        let set = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<BTreeSet<_>>();
        for (expression, metrics, labels) in [
            ("up", &["up"][..], &[][..]),
            (
                "sum by (a, b) (rate(x_total{c=~\"$c\",d!=\"}e\"}[$__rate_interval]))",
                &["x_total"],
                &["a", "b", "c", "d"],
            ),
            ("topk(10, x + on (a) group_left (b) y) > bool 1e3", &["x", "y"], &["a", "b"]),
            ("100 * (x / y{} >= 0.5) or label_replace(z, \"q\", \"$1\", \"w\", \"(.*)\")", &["x", "y", "z"], &[]),
            ("sum(x offset 5m) without (a)", &["x"], &["a"]),
        ] {
            let used = Used::in_expression(expression);
            assert_eq!((used.metrics, used.labels), (set(metrics), set(labels)), "{expression}");
        }
    }
}
