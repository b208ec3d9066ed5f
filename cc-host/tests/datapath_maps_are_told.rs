//! docs/maps.md names every map of the compiled programs, with its rows and with tests that exist.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod datapath_support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use aya::EbpfLoader;
use aya::maps::MapInfo;
use cc_common::names;
use datapath_support::World;

/// Cells of the rows that begin with a map's name, by that name.
fn told() -> BTreeMap<String, Vec<String>> {
    let text = std::fs::read_to_string(root().join("docs/maps.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.map(|row| row.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect());
    cells.map(|cells: Vec<String>| (cells[0].trim_matches('`').to_owned(), cells)).collect()
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn with_commas(number: u32) -> String {
    let digits = number.to_string();
    let at = |(place, digit): (usize, char)| {
        let comma = place > 0 && (digits.len() - place).is_multiple_of(3);
        [comma.then_some(','), Some(digit)].into_iter().flatten().collect::<Vec<_>>()
    };
    digits.chars().enumerate().flat_map(at).collect()
}

/// Names of all functions in the Rust files below, tests among them.
fn functions(dir: &Path, into: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            functions(&entry, into);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(entry).unwrap();
            let names = text.split("fn ").skip(1).filter_map(|rest| rest.split('(').next());
            into.extend(names.map(str::to_owned));
        }
    }
}

#[test]
fn every_map_of_the_object_has_a_row() {
    let told = told();
    let object = std::fs::read(env!("CC_EBPF_OBJECT")).unwrap();
    let ebpf = EbpfLoader::new().load(&object).unwrap();
    // Sections of constants are maps to the kernel only.
    let maps: BTreeSet<&str> = ebpf.maps().map(|(name, _)| name).filter(|name| !name.starts_with('.')).collect();
    let rows: BTreeSet<&str> = told.keys().map(String::as_str).collect();
    assert_eq!(maps, rows, "the object's, and those of docs/maps.md");
    assert!(names::MAPS.iter().all(|name| maps.contains(name)));
}

#[test]
fn each_row_says_how_many_there_are_and_which_test_shows_it() {
    let (told, world) = (told(), World::new());
    for name in names::MAPS {
        let info = MapInfo::from_pin(world.datapath().pin_dir().join(name)).unwrap();
        assert_eq!(told[name][1], with_commas(info.max_entries()), "{name}");
    }
    let mut known = BTreeSet::new();
    for dir in ["cc-host/src", "cc-host/tests", "cc-common/src", "tests/tests"] {
        functions(&root().join(dir), &mut known);
    }
    for (name, cells) in told {
        assert_eq!(cells.len(), 6, "{name}: {cells:?}");
        let tests = cells[5].split_ascii_whitespace().map(|word| word.trim_matches('`')).filter(|word| *word != "—");
        for test in tests {
            assert!(known.contains(test), "{name}: there is no {test}");
        }
    }
}
