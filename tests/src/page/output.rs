//! Whether what a command said is what is written. Refuses to look at how many spaces a column has: names and numbers have their lengths.

/// `…` in a line stands for whatever is there, alone on a line for any lines. Where it does not fit: how many lines of what was expected
/// were found, at best.
pub fn fits(expected: &[String], said: &str) -> Result<(), usize> {
    let expected: Vec<String> = trimmed(expected.iter().map(String::as_str));
    let said: Vec<String> = trimmed(said.lines());
    // The lines of `said` at which the rest may begin, after each line of `expected`.
    let mut starts = vec![0];
    for (at, line) in expected.iter().enumerate() {
        let next: Vec<usize> = if line == ANYTHING {
            let first = starts.first().copied().unwrap_or_default();
            (first..=said.len()).collect()
        } else {
            starts
                .iter()
                .filter(|&&from| said.get(from).is_some_and(|said| line_fits(line, said)))
                .map(|from| from + 1)
                .collect()
        };
        if next.is_empty() {
            return Err(at);
        }
        starts = next;
    }
    if starts.contains(&said.len()) { Ok(()) } else { Err(expected.len()) }
}

const ANYTHING: &str = "…";

/// Without the empty lines at its end, each with single spaces.
fn trimmed<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut lines: Vec<String> = lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines
}

fn line_fits(pattern: &str, line: &str) -> bool {
    let mut parts = pattern.split(ANYTHING);
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(expected: &str, said: &str) -> Result<(), usize> {
        fits(&expected.lines().map(str::to_owned).collect::<Vec<_>>(), said)
    }

    #[test]
    fn lines_fit_whole_or_by_their_ellipsis() {
        for (pattern, line, fit) in [
            ("web", "web", true),
            ("web", "web2", false),
            ("vpc-…", "vpc-0123", true),
            ("…  nginx   running …", "c-1 nginx running 10.0.0.2 3s", true),
            ("…nginx… stopped", "c-1 nginx running", false),
            ("a…b…b", "axb", false),
            ("a…b", "ab", true),
        ] {
            assert_eq!(check(pattern, line).is_ok(), fit, "{pattern:?} and {line:?}");
        }
    }

    #[test]
    fn an_ellipsis_alone_is_any_lines() {
        assert_eq!(check("a\n…\nz", "a\nz\n"), Ok(()));
        assert_eq!(check("a\n…\nz", "a\nb\nz\nc\nz\n"), Ok(()));
        assert_eq!(check("a\n…\nz", "a\nb\n"), Err(2));
        assert_eq!(check("…\nz\n…", "y\nz\nz\n"), Ok(()));
    }

    #[test]
    fn more_and_less_than_is_written_do_not_fit() {
        assert_eq!(check("a\nb", "a\nb\n\n"), Ok(()));
        assert_eq!(check("a\nb", "a\n"), Err(1));
        assert_eq!(check("a", "a\nb\n"), Err(1));
        assert_eq!(check("a\nb", "c\nb\n"), Err(0));
    }
}
