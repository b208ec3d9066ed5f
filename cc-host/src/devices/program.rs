//! An ordered list of what is allowed and denied, as a program for the kernel. A later rule wins, for each of the three rights by itself; what no
//! rule names is denied. Refuses to load it.

use std::ops::BitOr;

use rustix::fs::{FileType, Stat, major, minor};

use crate::bpf::{Instruction, op};

/// What may be done with a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Access(u8);

impl Access {
    pub const NONE: Access = Access(0);
    pub const MAKE: Access = Access(1);
    pub const READ: Access = Access(2);
    pub const WRITE: Access = Access(4);
    pub const ALL: Access = Access(7);

    pub fn without(self, other: Access) -> Access {
        Access(self.0 & !other.0)
    }

    pub fn and(self, other: Access) -> Access {
        Access(self.0 & other.0)
    }

    pub fn is_none(self) -> bool {
        self.0 == 0
    }
}

impl BitOr for Access {
    type Output = Access;

    fn bitor(self, other: Access) -> Access {
        Access(self.0 | other.0)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Block = 1,
    Character = 2,
}

/// What may, or may not, be done with a device, or with all of a driver's, of a kind, or all; none means any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    pub allow: bool,
    pub kind: Option<Kind>,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    pub access: Access,
}

impl Rule {
    /// Null, zero, full, random, urandom, tty, ptmx and the terminals of its own devpts. The host's console is not among them, as it is
    /// with docker; nor may any other node be made, though none could be opened.
    pub const EVERYBODYS: [Rule; 8] = [
        Rule::character(1, Some(3)),
        Rule::character(1, Some(5)),
        Rule::character(1, Some(7)),
        Rule::character(1, Some(8)),
        Rule::character(1, Some(9)),
        Rule::character(5, Some(0)),
        Rule::character(5, Some(2)),
        Rule::character(136, None),
    ];

    const fn character(major: u32, minor: Option<u32>) -> Self {
        Rule { allow: true, kind: Some(Kind::Character), major: Some(major), minor, access: Access::ALL }
    }

    /// Everything, or nothing.
    pub const fn all(allow: bool) -> Self {
        Rule { allow, kind: None, major: None, minor: None, access: Access::ALL }
    }

    /// What the host's node is a node of, to be opened and not to be made; `None` if it is no device.
    pub fn of(stat: &Stat, read: bool, write: bool) -> Option<Self> {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::BlockDevice => Kind::Block,
            FileType::CharacterDevice => Kind::Character,
            _ => return None,
        };
        let either = |has: bool, access: Access| if has { access } else { Access::NONE };
        let access = either(read, Access::READ) | either(write, Access::WRITE);
        let (major, minor) = (Some(major(stat.st_rdev)), Some(minor(stat.st_rdev)));
        Some(Rule { allow: true, kind: Some(kind), major, minor, access })
    }
}

const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
/// What is asked for and not allowed yet.
const ACCESS: u8 = 2;
const KIND: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const DENIED: u8 = 6;

const LOAD_WORD: u8 = 0x61;
const MOVE_REGISTER: u8 = 0xbf;
const MOVE_NUMBER: u8 = 0xb7;
const AND_NUMBER: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_UNLESS_EQUAL: u8 = 0x55;
const JUMP_IF_EQUAL: u8 = 0x15;
const EXIT: u8 = 0x95;

/// What the kernel hands over is three words: kind in the lower half and access in the upper half of the first, major, minor. The last rule
/// comes first; what a rule allows is asked for no more, so that an older one, which lost, does not see it.
pub(super) fn program(rules: &[Rule]) -> Vec<Instruction> {
    let mut all = vec![
        op(LOAD_WORD, ACCESS, CONTEXT, 0, 0),
        op(MOVE_REGISTER, KIND, ACCESS, 0, 0),
        op(AND_NUMBER, KIND, 0, 0, 0xffff),
        op(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        op(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        op(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for Rule { allow, kind, major, minor, access } in rules.iter().rev() {
        let checks = [
            (KIND, kind.map(|kind| kind as i32)),
            (MAJOR, major.map(u32::cast_signed)),
            (MINOR, minor.map(u32::cast_signed)),
        ];
        let checks: Vec<(u8, i32)> =
            checks.into_iter().filter_map(|(register, wanted)| Some((register, wanted?))).collect();
        let access = i32::from(access.0);
        let then = if *allow {
            vec![
                op(AND_NUMBER, ACCESS, 0, 0, !access),
                op(JUMP_UNLESS_EQUAL, ACCESS, 0, 2, 0),
                op(MOVE_NUMBER, RESULT, 0, 0, 1),
                op(EXIT, 0, 0, 0, 0),
            ]
        } else {
            vec![
                op(MOVE_REGISTER, DENIED, ACCESS, 0, 0),
                op(AND_NUMBER, DENIED, 0, 0, access),
                op(JUMP_IF_EQUAL, DENIED, 0, 2, 0),
                op(MOVE_NUMBER, RESULT, 0, 0, 0),
                op(EXIT, 0, 0, 0, 0),
            ]
        };
        let block = checks.len() + then.len();
        for (at, (register, number)) in checks.into_iter().enumerate() {
            all.push(op(JUMP_UNLESS_EQUAL, register, 0, (block - at - 1) as i16, number));
        }
        all.extend(then);
    }
    all.extend([op(MOVE_NUMBER, RESULT, 0, 0, 0), op(EXIT, 0, 0, 0, 0)]);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAKE: Access = Access::MAKE;
    const READ: Access = Access::READ;
    const WRITE: Access = Access::WRITE;

    /// As the kernel runs it.
    fn run(program: &[Instruction], kind: Kind, major: u32, minor: u32, access: Access) -> bool {
        let words = [u32::from(access.0) << 16 | kind as u32, major, minor];
        let mut registers = [0u64; 11];
        let mut at = 0;
        loop {
            let Instruction { code, registers: pair, offset, immediate } = program[at];
            let (to, from) = (usize::from(pair & 0xf), usize::from(pair >> 4));
            at += 1;
            let number = i64::from(immediate) as u64;
            match code {
                LOAD_WORD => registers[to] = words[offset as usize / 4].into(),
                MOVE_REGISTER => registers[to] = registers[from],
                MOVE_NUMBER => registers[to] = number,
                AND_NUMBER => registers[to] &= number,
                SHIFT_RIGHT => registers[to] >>= immediate,
                JUMP_UNLESS_EQUAL | JUMP_IF_EQUAL => {
                    if (registers[to] == number) == (code == JUMP_IF_EQUAL) {
                        at += offset as usize;
                    }
                }
                EXIT => return registers[0] == 1,
                other => panic!("{other:#x}"),
            }
        }
    }

    fn given(kind: Kind, major: u32, minor: u32, access: Access) -> Rule {
        Rule { allow: true, kind: Some(kind), major: Some(major), minor: Some(minor), access }
    }

    #[test]
    fn what_is_on_the_list_is_allowed_and_nothing_else() {
        let all = [&Rule::EVERYBODYS[..], &[given(Kind::Block, 7, 3, READ), given(Kind::Block, 7, 4, WRITE)]];
        let program = program(&all.concat());
        let may = |kind, major, minor, access| run(&program, kind, major, minor, access);
        for minor in [3, 5, 7, 8, 9] {
            assert!(may(Kind::Character, 1, minor, Access::ALL), "1:{minor}");
            assert!(!may(Kind::Block, 1, minor, READ), "a block device of the same number");
        }
        assert!(may(Kind::Character, 136, 77, READ | WRITE) && may(Kind::Character, 5, 2, WRITE));
        for (kind, major, minor) in [(Kind::Character, 1, 1), (Kind::Character, 5, 1), (Kind::Character, 10, 237)] {
            for access in [MAKE, READ, WRITE, READ | WRITE] {
                assert!(!may(kind, major, minor, access), "{major}:{minor}");
            }
        }
        assert!(may(Kind::Block, 7, 3, READ) && may(Kind::Block, 7, 4, WRITE));
        assert!(!may(Kind::Block, 7, 3, READ | WRITE) && !may(Kind::Block, 7, 3, MAKE));
        assert!(!may(Kind::Block, 7, 4, READ) && !may(Kind::Block, 7, 5, READ));
    }

    #[test]
    fn a_later_rule_wins_for_each_right_by_itself() {
        let deny = |rule: Rule| Rule { allow: false, ..rule };
        let drivers = Rule { minor: None, ..given(Kind::Character, 10, 0, READ | WRITE) };
        let rules = [
            Rule::all(true),
            deny(Rule { kind: None, minor: None, ..given(Kind::Block, 10, 0, Access::ALL) }),
            drivers,
            deny(given(Kind::Character, 10, 237, WRITE)),
        ];
        let program = program(&rules);
        let may = |kind, major, minor, access| run(&program, kind, major, minor, access);
        // The first rule is of everything; the second of 10:*, of both kinds.
        assert!(may(Kind::Block, 8, 0, Access::ALL) && !may(Kind::Block, 10, 0, READ));
        // The third gives reading and writing back, to character devices; what the second denied besides stays so.
        assert!(may(Kind::Character, 10, 1, READ | WRITE) && !may(Kind::Character, 10, 1, MAKE | READ));
        // The fourth is of one right alone.
        assert!(may(Kind::Character, 10, 237, READ) && !may(Kind::Character, 10, 237, READ | WRITE));
    }

    /// The plain reading of a list.
    fn plain(rules: &[Rule], kind: Kind, major: u32, minor: u32, access: Access) -> bool {
        [MAKE, READ, WRITE].into_iter().filter(|right| !access.and(*right).is_none()).all(|right| {
            let is_of = |rule: &&Rule| {
                rule.kind.is_none_or(|of| of == kind)
                    && rule.major.is_none_or(|of| of == major)
                    && rule.minor.is_none_or(|of| of == minor)
                    && !rule.access.and(right).is_none()
            };
            rules.iter().rfind(is_of).is_some_and(|rule| rule.allow)
        })
    }

    proptest::proptest! {
        #[test]
        fn it_is_what_the_list_says(
            list in proptest::collection::vec((0u8..2, 0u8..3, 0u32..3, 0u32..3, 1u8..8), 0..8),
            asked in (0u8..2, 1u32..4, 1u32..4, 1u8..8),
        ) {
            let kind = |of| if of == 1 { Kind::Block } else { Kind::Character };
            let wild = |of: u32| (of > 0).then_some(of);
            let rules: Vec<Rule> = list.into_iter().map(|(allow, of, major, minor, access)| Rule {
                allow: allow == 1, kind: (of > 0).then(|| kind(of)), major: wild(major), minor: wild(minor), access: Access(access),
            }).collect();
            let (of, major, minor, access) = asked;
            let (is, wanted) = (
                run(&program(&rules), kind(of), major, minor, Access(access)),
                plain(&rules, kind(of), major, minor, Access(access)),
            );
            proptest::prop_assert_eq!(is, wanted);
        }
    }

    #[test]
    fn a_file_is_no_device() {
        let stat = |path: &str| rustix::fs::stat(path).unwrap();
        assert_eq!(Rule::of(&stat("/etc/passwd"), true, true), None);
        assert_eq!(Rule::of(&stat("/dev/null"), true, false), Some(Rule { access: READ, ..Rule::EVERYBODYS[0] }));
    }
}
