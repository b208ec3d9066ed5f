//! The configuration file that packages bring never says what is not so. Refuses to look at anything but that file and its manual.

use std::collections::BTreeSet;

use super::Config;

const FILE: &str = include_str!("../../../packaging/config.toml");
const MANUAL: &str = include_str!("../../../docs/configuration.md");

/// Comments that begin at once are keys with their defaults, those that are indented are keys with examples.
fn uncommented(examples: bool) -> String {
    let line = |line: &str| {
        let text = line.strip_prefix('#').unwrap_or(line);
        let key = text.starts_with(|c: char| c.is_ascii_lowercase() || c == '[');
        match text.strip_prefix("   ") {
            Some(example) if examples => example.to_owned(),
            _ if key => text.to_owned(),
            _ => String::new(),
        }
    };
    FILE.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// As the refusal of a key that there is not lists them.
fn keys(table: &str) -> BTreeSet<String> {
    let header = if table.is_empty() { String::new() } else { format!("[{table}]\n") };
    let text = format!("{header}no-such-key = 1");
    let error = toml::from_str::<Config>(&text).unwrap_err().message().to_owned();
    let listed = match error.split_once("there are ") {
        Some((_, names)) => names.split(", ").map(str::to_owned).collect::<Vec<_>>(),
        None => error.split('`').skip(1).step_by(2).skip(1).map(str::to_owned).collect(),
    };
    assert!(!listed.is_empty() && !listed.contains(&"no-such-key".to_owned()), "{error}");
    listed.into_iter().collect()
}

#[test]
fn the_defaults_that_it_names_are_those_in_force() {
    assert_eq!(toml::from_str::<Config>(FILE).unwrap(), Config::default(), "all of it is a comment");
    let text = uncommented(false);
    assert!(text.lines().filter(|line| line.contains(" = ")).count() > 30, "{text}");
    assert_eq!(toml::from_str::<Config>(&text).unwrap(), Config::default());
}

#[test]
fn it_has_every_key_and_no_other_and_so_has_the_manual() {
    let whole = uncommented(true);
    toml::from_str::<Config>(&whole).unwrap();
    let whole: toml::Table = whole.parse().unwrap();
    let tables = ["flows", "volumes", "disks"];
    for table in ["", "flows", "volumes", "disks"] {
        let here = if table.is_empty() { &whole } else { whole[table].as_table().unwrap() };
        let here: BTreeSet<String> = here.keys().cloned().collect();
        let known = keys(table);
        assert_eq!(here, known, "[{table}]");
        for key in known.iter().filter(|key| !tables.contains(&key.as_str())) {
            assert!(MANUAL.contains(&format!("`{key}`")), "docs/configuration.md does not tell of {key}");
        }
    }
}
