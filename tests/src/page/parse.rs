//! A page's blocks, in order. Refuses what is not marked: an unknown fence, one that is not closed, an indented block, and a block that is
//! not executed without its reason.

use super::Complaint;

#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    pub name: String,
    pub steps: Vec<Step>,
    /// For reading only.
    pub not_run: Vec<Block>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    Command {
        line: usize,
        text: String,
        /// Without any, what it says is not looked at.
        expected: Vec<String>,
        code: i32,
    },
    File {
        line: usize,
        path: String,
        text: String,
    },
}

#[derive(Debug, PartialEq, Eq)]
pub struct Block {
    pub line: usize,
    pub kind: String,
    pub reason: String,
    pub text: String,
}

const FENCE: &str = "```";
const PROMPT: &str = "$ ";
const REASON: (&str, &str) = ("<!-- not run:", "-->");
const EXITS: &str = "# exits ";

impl Page {
    pub fn read(name: &str, text: &str) -> Result<Page, Complaint> {
        let wrong = |at: usize, what: &str| Complaint { page: name.into(), line: at + 1, what: what.into() };
        let lines: Vec<&str> = text.lines().collect();
        let mut page = Page { name: name.to_owned(), steps: Vec::new(), not_run: Vec::new() };
        let mut at = 0;
        while at < lines.len() {
            let line = lines[at];
            let Some(kind) = line.trim_start().strip_prefix(FENCE) else {
                if line.starts_with("    ") {
                    return Err(wrong(at, "an indented block, which nobody would run: put it between fences"));
                }
                at += 1;
                continue;
            };
            let opened = at;
            let body = &lines[opened + 1..];
            // The next that begins is not taken for its content.
            let length = body.iter().position(|line| line.trim_start().starts_with(FENCE));
            let length = length.filter(|&at| body[at].trim() == FENCE);
            let length = length.ok_or_else(|| wrong(opened, "this fence is not closed"))?;
            let body = &body[..length];
            let fence = wrong(opened, "");
            match kind.trim() {
                "console" => page.steps.extend(commands(&fence, body)?),
                "toml" => page.steps.push(file(&fence, body)?),
                "text" | "yaml" => {
                    let reason = opened.checked_sub(1).and_then(|before| reason(lines[before]));
                    let reason = reason.ok_or_else(|| {
                        wrong(
                            opened,
                            "it is not executed, and the line before it does not say why: <!-- not run: REASON -->",
                        )
                    })?;
                    let (line, kind) = (opened + 1, kind.trim().to_owned());
                    page.not_run.push(Block { line, kind, reason: reason.to_owned(), text: body.join("\n") });
                }
                "" => return Err(wrong(opened, "a fence without a word: console, toml, text or yaml")),
                other => {
                    return Err(wrong(
                        opened,
                        &format!("{other:?} is no block that we know: console, toml, text or yaml"),
                    ));
                }
            }
            at = opened + length + 2;
        }
        if page.commands() == 0 {
            return Err(wrong(0, "nothing on this page is executed"));
        }
        Ok(page)
    }

    pub fn commands(&self) -> usize {
        self.steps.iter().filter(|step| matches!(step, Step::Command { .. })).count()
    }
}

fn reason(line: &str) -> Option<&str> {
    let reason = line.trim().strip_prefix(REASON.0)?.strip_suffix(REASON.1)?.trim();
    (!reason.is_empty()).then_some(reason)
}

/// `fence` is a complaint about the block as a whole, without its words.
fn commands(fence: &Complaint, body: &[&str]) -> Result<Vec<Step>, Complaint> {
    let wrong = |line: usize, what: &str| Complaint { page: fence.page.clone(), line, what: what.into() };
    let mut steps = Vec::new();
    let mut lines = body.iter().enumerate().map(|(at, line)| (fence.line + 1 + at, *line)).peekable();
    while let Some((line, first)) = lines.next() {
        let first =
            first.strip_prefix(PROMPT).ok_or_else(|| wrong(line, "a line of output, and no command before it"))?;
        let mut text = first.to_owned();
        while text.ends_with('\\') {
            let (_, more) = lines.next().ok_or_else(|| wrong(line, "a command that goes on after the block's end"))?;
            text = format!("{text}\n{more}");
        }
        let mut expected = Vec::new();
        while let Some((_, said)) = lines.next_if(|(_, next)| !next.starts_with(PROMPT)) {
            expected.push(said.to_owned());
        }
        let code = match text.split_once(EXITS) {
            None => 0,
            Some((_, code)) => code.trim().parse().map_err(|_| wrong(line, "after `# exits` comes a number"))?,
        };
        steps.push(Step::Command { line, text, expected, code });
    }
    if steps.is_empty() {
        return Err(wrong(fence.line, "a block without a command"));
    }
    Ok(steps)
}

fn file(fence: &Complaint, body: &[&str]) -> Result<Step, Complaint> {
    let path = body.first().and_then(|first| first.strip_prefix("# ")).map(str::trim);
    match path.filter(|path| path.starts_with('/') && !path.contains(' ')) {
        Some(path) => {
            Ok(Step::File { line: fence.line, path: path.to_owned(), text: format!("{}\n", body.join("\n")) })
        }
        None => Err(Complaint { what: "its first line is not `# /PATH`, where it belongs".into(), ..fence.copy() }),
    }
}

impl Complaint {
    fn copy(&self) -> Complaint {
        Complaint { page: self.page.clone(), line: self.line, what: self.what.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(text: &str) -> String {
        Page::read("page.md", text).expect_err("it is wrong").to_string()
    }

    #[test]
    fn blocks_become_steps() {
        let text = "# A page\n\n```console\n$ echo one \\\n  two\none two\n$ false    # exits 1\n```\n\n```toml\n# /etc/x.toml\na = 1\n```\n\n\
                    <!-- not run: it needs a bus -->\n```text\nsystemctl stop it\n```\n";
        let page = Page::read("page.md", text).expect("it is right");
        let command = |line, text: &str, expected: &[&str], code| {
            let expected = expected.iter().map(|&line| line.to_owned()).collect();
            Step::Command { line, text: text.into(), expected, code }
        };
        let file = Step::File { line: 10, path: "/etc/x.toml".into(), text: "# /etc/x.toml\na = 1\n".into() };
        let steps = [command(4, "echo one \\\n  two", &["one two"], 0), command(7, "false    # exits 1", &[], 1), file];
        assert_eq!(page.steps, steps);
        assert_eq!(page.not_run.len(), 1);
        assert_eq!((page.not_run[0].line, page.not_run[0].reason.as_str()), (16, "it needs a bus"));
    }

    #[test]
    fn what_is_not_marked_is_refused_by_its_line() {
        let good = "```console\n$ true\n```\n";
        for (text, word) in [
            ("Only words.\n", "page.md:1: nothing on this page is executed"),
            ("```sh\ntrue\n```\n", "page.md:1: \"sh\" is no block that we know"),
            ("```\ntrue\n```\n", "page.md:1: a fence without a word"),
            ("```console\n$ true\n", "page.md:1: this fence is not closed"),
            ("```console\n```\n", "page.md:1: a block without a command"),
            ("```console\ntrue\n```\n", "page.md:2: a line of output, and no command before it"),
            ("```console\n$ true \\\n```\n", "page.md:2: a command that goes on"),
            ("```console\n$ true # exits soon\n```\n", "page.md:2: after `# exits` comes a number"),
            ("```toml\na = 1\n```\n", "page.md:1: its first line is not"),
            ("```text\nrm -rf /\n```\n", "page.md:1: it is not executed, and"),
            ("<!-- not run: -->\n```text\nrm -rf /\n```\n", "page.md:2: it is not executed, and"),
            ("Words:\n\n    cc ps\n", "page.md:3: an indented block"),
        ] {
            let said = complaint(text);
            assert!(said.starts_with(word), "{said}");
            // Beside what is right, too.
            if !text.starts_with("Only") {
                let said = complaint(&format!("{text}\n{good}"));
                assert!(said.starts_with(word), "{said}");
            }
        }
    }
}
