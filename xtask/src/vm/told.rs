//! What host and guest say to each other: the plan, which the guest reads from a file, and what it tells of it, a line of JSON each.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The name of the port that the guest tells by.
pub const PORT: &str = "cc.told";

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// Where the kernel's modules are.
    pub tree: PathBuf,
    pub bin_dir: PathBuf,
    pub root: PathBuf,
    pub seed: u64,
    /// By which the tests' bounds are multiplied.
    pub patience: u32,
    pub suite_limit_seconds: u64,
    /// Whether the daemon is to refuse this kernel, and nothing else is to be run.
    pub refused: bool,
    pub suites: Vec<Suite>,
    pub clean: Option<Clean>,
    /// The packages of udev, where this machine has none.
    pub udev: Vec<PathBuf>,
    /// Instead of all else: this program with these arguments.
    pub instead: Option<(PathBuf, Vec<String>)>,
}

/// What the package is tested with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clean {
    /// The root of a Debian.
    pub debian: PathBuf,
    pub package: PathBuf,
}

impl Suite {
    /// As the tables have it.
    pub fn title(&self) -> String {
        self.with.map_or_else(|| self.name.clone(), |with| format!("{}, {}", self.name, with.name()))
    }
}

/// A file of tests, built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suite {
    pub name: String,
    pub program: PathBuf,
    pub package_dir: PathBuf,
    /// All of them if empty.
    pub tests: Vec<String>,
    /// What is another than elsewhere in it.
    pub with: Option<With>,
}

/// What a file of tests is run with once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum With {
    /// Containers' interfaces are netkit pairs.
    Netkit,
    /// Volumes are in a thin pool of LVM's.
    Lvm,
    /// It is udev that makes nodes and links of devices.
    Udev,
}

impl With {
    pub const ALL: [With; 3] = [With::Netkit, With::Lvm, With::Udev];

    pub fn name(self) -> &'static str {
        match self {
            With::Netkit => "netkit",
            With::Lvm => "lvm",
            With::Udev => "udev",
        }
    }

    /// By which variable the tests know; its value is the name.
    pub fn variable(self) -> &'static str {
        match self {
            With::Netkit => "CC_TEST_INTERFACES",
            With::Lvm => "CC_TEST_VOLUMES",
            With::Udev => "CC_TEST_DEVICES",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// What a program says while it runs.
    Output(String),
    Check(Check),
    Program(Program),
    Ran(Ran),
    Done,
    /// The guest cannot go on.
    Failed(String),
}

/// Something of the kernel that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    pub name: String,
    pub ok: bool,
    pub found: String,
}

/// A program that the daemon has loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    pub name: String,
    pub kind: String,
    pub instructions: u64,
    /// What the verifier looked at, each path anew.
    pub verified: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ran {
    pub suite: String,
    pub passed: u64,
    pub failed: u64,
    pub skipped: u64,
    pub seconds: u64,
    pub ended: Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    Well,
    Badly,
    TooLate,
}

impl Ran {
    pub fn is_good(&self) -> bool {
        self.ended == Ended::Well && self.failed == 0 && self.skipped == 0
    }
}
