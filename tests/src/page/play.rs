//! A page, executed: each command in order, its code and its words held against what is written. Refuses to go on after the first that
//! differs: what follows was written for what should have happened.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use super::output::fits;
use super::shell::Said;
use super::{Complaint, Names, Page, Shell, Step};

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Played {
    pub commands: usize,
    /// What took longest, and how long.
    pub slowest: (String, Duration),
}

pub fn play(page: &Page, names: &Names, shell: &mut Shell) -> Result<Played, Complaint> {
    let mut played = Played::default();
    for step in &page.steps {
        let wrong = |line: usize, what: String| Complaint { page: page.name.clone(), line, what };
        match step {
            Step::File { line, path, text } => {
                let place = names.file(path).ok_or_else(|| wrong(*line, format!("{path} is nobody's here")))?;
                put(Path::new(&place), text).map_err(|error| wrong(*line, format!("{place}: {error}")))?;
            }
            Step::Command { line, text, expected, code } => {
                let began = Instant::now();
                let said = shell.run(&names.real(text)).map_err(|what| wrong(*line, format!("$ {text}\n{what}")))?;
                let said = Said { text: names.written(&said.text), ..said };
                if let Some(what) = difference(text, expected, *code, &said) {
                    return Err(wrong(*line, what));
                }
                played.commands += 1;
                if began.elapsed() > played.slowest.1 {
                    played.slowest = (text.clone(), began.elapsed());
                }
            }
        }
    }
    Ok(played)
}

fn put(place: &Path, text: &str) -> std::io::Result<()> {
    if let Some(dir) = place.parent() {
        std::fs::create_dir_all(dir)?;
    }
    std::fs::write(place, text)
}

/// In words, with all of both: whoever reads it has not seen it run.
fn difference(command: &str, expected: &[String], code: i32, said: &Said) -> Option<String> {
    let mut what = format!("$ {command}\n");
    let found = if expected.is_empty() { Ok(()) } else { fits(expected, &said.text) };
    if said.code != code {
        let _ = writeln!(what, "exits with {}, not {code}", said.code);
    }
    match found {
        Ok(()) if said.code == code => return None,
        Ok(()) => {}
        Err(at) => match expected.get(at) {
            Some(line) => drop(writeln!(what, "says nothing that fits line {} of what is expected: {line}", at + 1)),
            None => what.push_str("says more than is expected\n"),
        },
    }
    let _ = writeln!(what, "--- expected\n{}", expected.join("\n"));
    let _ = write!(what, "--- found\n{}", said.text);
    Some(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A page that is played by a bash of its own, below a directory of its own for /srv.
    fn told(text: &str) -> Result<Played, String> {
        let dir = tempfile::Builder::new().prefix("cct-").tempdir().unwrap();
        let names = Names::default().path("/srv/page", &dir.path().display().to_string());
        let bash = std::process::Command::new("bash");
        let mut shell = Shell::start(bash, dir.path().join("step"), Duration::from_secs(20));
        let page = Page::read("fake.md", text).map_err(|complaint| complaint.to_string())?;
        play(&page, &names, &mut shell).map_err(|complaint| complaint.to_string())
    }

    #[test]
    fn a_right_page_is_executed_in_order() {
        let page = "```toml\n# /srv/page/it.toml\na = 1\n```\n\nThen:\n\n```console\n$ cat /srv/page/it.toml\n…\na = 1\n$ b=2\n$ echo a$b x\na2 …\n\
                    $ ls /srv/page/none    # exits 2\nls: cannot access '/srv/page/none': …\n```\n";
        assert_eq!(told(page).unwrap().commands, 4);
    }

    #[test]
    fn a_wrong_command_output_or_code_is_told_with_its_line() {
        let of = |block: &str| told(&format!("# Fake\n\n```console\n$ true\n{block}\n```\n")).unwrap_err();
        let wrong_command = of("$ no-such-command");
        assert!(wrong_command.starts_with("fake.md:5: $ no-such-command\nexits with 127, not 0\n"), "{wrong_command}");
        assert!(wrong_command.contains("no-such-command: command not found"), "{wrong_command}");
        let wrong_output = of("$ printf 'a\\nc\\n'\na\nb");
        let wanted = "says nothing that fits line 2 of what is expected: b\n--- expected\na\nb\n--- found\na\nc\n";
        assert!(wrong_output.starts_with("fake.md:5: $ ") && wrong_output.ends_with(wanted), "{wrong_output}");
        assert!(of("$ echo a; echo b\na").contains("says more than is expected"));
        assert!(of("$ false").contains("exits with 1, not 0"));
        // A failure that is written and does not come is as wrong.
        assert!(of("$ true    # exits 1").contains("exits with 0, not 1"));
    }

    #[test]
    fn a_file_that_is_nobodys_is_not_written() {
        let said = told("```toml\n# /srv/other.toml\na = 1\n```\n\n```console\n$ true\n```\n").unwrap_err();
        assert_eq!(said, "fake.md:1: /srv/other.toml is nobody's here");
    }
}
