//! A policy compiled for the kernel: a balanced search over ranges of numbers with the same verdict, arguments at its leaves. Every call
//! passes a handful of instructions, where a list would have it pass hundreds, and the kernel, which tries each number when it
//! takes the filter, takes it sooner. Refuses more instructions than the kernel.
//!
//! A leaf ends with a verdict, so that nothing is jumped to but the right half of a range.

use super::error::SeccompError;
use super::names;
use super::profile::{Action, Condition, Profile, Rule, Test};
use crate::shim::filter::{INSTRUCTIONS_MAX, Instruction};

/// Of `struct seccomp_data`: number, architecture, instruction pointer, arguments.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

#[cfg(target_arch = "x86_64")]
pub const OWN_ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
pub const OWN_ARCHITECTURE: u32 = 0xc000_00b7;

/// From here on they are x32's, on machines that have it: the same calls under other numbers.
pub const X32: u32 = 0x4000_0000;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const IF_GREATER: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
const IF_NOT_LESS: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// What decides about the numbers of a range.
#[derive(Debug, PartialEq)]
struct Leaf {
    /// All of them with conditions.
    rules: Vec<Rule>,
    last: Action,
}

pub fn compile(profile: &Profile) -> Result<Vec<Instruction>, SeccompError> {
    let mut code = vec![
        plain(LOAD, ARCHITECTURE),
        Instruction { code: IF_EQUAL, jt: 1, jf: 0, k: OWN_ARCHITECTURE },
        // A 32-bit program's calls have other numbers and other arguments: no rule was meant for them.
        verdict(Action::KillProcess),
        plain(LOAD, NUMBER),
    ];
    code.extend(search(&ranges(profile)));
    match code.len() {
        0..=INSTRUCTIONS_MAX => Ok(code),
        instructions => Err(SeccompError::TooManyInstructions { instructions }),
    }
}

/// First numbers of ranges, in order; the first is 0.
fn ranges(profile: &Profile) -> Vec<(u32, Leaf)> {
    let known = (0..=names::HIGHEST).map(|number| (number, leaf(profile.rules_of(number), profile.otherwise)));
    let beyond = (names::HIGHEST + 1, Leaf { rules: Vec::new(), last: profile.unknown() });
    // Whatever the policy: under these numbers a forbidden call would be another one.
    let x32 = cfg!(target_arch = "x86_64").then(|| (X32, Leaf { rules: Vec::new(), last: Action::NO_SUCH_CALL }));
    let mut ranges: Vec<(u32, Leaf)> = Vec::new();
    for (number, leaf) in known.chain([beyond]).chain(x32) {
        if ranges.last().is_none_or(|(_, before)| *before != leaf) {
            ranges.push((number, leaf));
        }
    }
    ranges
}

/// Without rules that decide nothing.
fn leaf(rules: &[Rule], otherwise: Action) -> Leaf {
    let decided = rules.iter().position(|rule| rule.conditions.is_empty());
    let last = decided.map_or(otherwise, |at| rules[at].action);
    let mut rules = rules[..decided.unwrap_or(rules.len())].to_vec();
    while rules.last().is_some_and(|rule| rule.action == last) {
        rules.pop();
    }
    Leaf { rules, last }
}

fn search(ranges: &[(u32, Leaf)]) -> Vec<Instruction> {
    if let [(_, leaf)] = ranges {
        return decide(leaf);
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let (low_code, high_code) = (search(low), search(high));
    let k = high[0].0;
    let mut code = match u8::try_from(low_code.len()) {
        Ok(jt) => vec![Instruction { code: IF_NOT_LESS, jt, jf: 0, k }],
        // A condition jumps 255 instructions at most, and a plain jump as far as it likes.
        Err(_) => vec![Instruction { code: IF_NOT_LESS, jt: 0, jf: 1, k }, plain(JUMP, low_code.len() as u32)],
    };
    code.extend(low_code);
    code.extend(high_code);
    code
}

fn decide(leaf: &Leaf) -> Vec<Instruction> {
    let mut code = Vec::new();
    for rule in &leaf.rules {
        code.extend(when(&rule.conditions, rule.action));
    }
    code.push(verdict(leaf.last));
    code
}

/// The verdict if all hold; the first that does not jumps behind it. Backwards, so that each knows how far that is: at most six tests of
/// six instructions, as each argument has one test at most.
fn when(conditions: &[Condition], action: Action) -> Vec<Instruction> {
    let mut code = vec![verdict(action)];
    for condition in conditions.iter().rev() {
        let mut test = test(condition, code.len() as u8);
        test.append(&mut code);
        code = test;
    }
    code
}

/// Falls through if it holds, and otherwise jumps over what follows it.
fn test(condition: &Condition, follows: u8) -> Vec<Instruction> {
    let [high, low] = halves(condition.argument);
    let (load_high, load_low) = (plain(LOAD, high), plain(LOAD, low));
    let value = condition.test.value();
    let (top, bottom) = ((value >> 32) as u32, value as u32);
    let jump = |code, k, jt, jf| Instruction { code, jt, jf, k };
    match condition.test {
        Test::Equal(_) => {
            vec![load_high, jump(IF_EQUAL, top, 0, follows + 2), load_low, jump(IF_EQUAL, bottom, 0, follows)]
        }
        Test::NotEqual(_) => vec![load_high, jump(IF_EQUAL, top, 0, 2), load_low, jump(IF_EQUAL, bottom, follows, 0)],
        Test::Greater(_) | Test::GreaterOrEqual(_) => {
            let last = if matches!(condition.test, Test::Greater(_)) { IF_GREATER } else { IF_NOT_LESS };
            vec![
                load_high,
                jump(IF_GREATER, top, 3, 0),
                jump(IF_EQUAL, top, 0, follows + 2),
                load_low,
                jump(last, bottom, 0, follows),
            ]
        }
        Test::Less(_) | Test::LessOrEqual(_) => {
            let last = if matches!(condition.test, Test::Less(_)) { IF_NOT_LESS } else { IF_GREATER };
            vec![
                load_high,
                jump(IF_GREATER, top, follows + 3, 0),
                jump(IF_EQUAL, top, 0, 2),
                load_low,
                jump(last, bottom, follows, 0),
            ]
        }
        Test::Masked { mask, .. } => {
            let (mask_top, mask_bottom) = ((mask >> 32) as u32, mask as u32);
            let lower = [load_low, plain(AND, mask_bottom), jump(IF_EQUAL, bottom, 0, follows)];
            // Most masks are of flags in the lower half.
            let upper = [load_high, plain(AND, mask_top), jump(IF_EQUAL, top, 0, follows + 3)];
            upper.into_iter().filter(|_| mask_top != 0).chain(lower).collect()
        }
    }
}

/// Where an argument's upper and lower half are.
fn halves(argument: u8) -> [u32; 2] {
    let at = ARGUMENTS + 8 * u32::from(argument);
    if cfg!(target_endian = "little") { [at + 4, at] } else { [at, at + 4] }
}

fn plain(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}

fn verdict(action: Action) -> Instruction {
    plain(RETURN, action.value())
}
