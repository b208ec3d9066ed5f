//! Policies of system calls: docker's JSON, parsed, and rules of any shape; what is taken is compiled, and its instructions, run as the kernel
//! runs them, say what the policy says read rule by rule. Refuses to give one to the kernel.

use cc_host::seccomp::interpret::{self, Call};
use cc_host::seccomp::names;
use cc_host::seccomp::parse::{Host, parse};
use cc_host::seccomp::profile::{ARGUMENTS, Action, Condition, ERRNO_MAX, Profile, Rule, Test};
use cc_host::seccomp::tree::{self, OWN_ARCHITECTURE, X32};
use cc_host::shim::filter::{INSTRUCTIONS_MAX, Instruction};
use rustix::thread::CapabilitySet;

use crate::input::Input;

/// Calls that a policy is asked about, beyond those that it names.
const CALLS: usize = 64;
const RULES: usize = 48;

pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let kernel = (u32::from(input.u8()), u32::from(input.u8()));
    let capabilities = CapabilitySet::from_bits_retain(u64::from(input.u32()));
    let profile = if input.flag() {
        rules(&mut input)
    } else {
        let text = &*String::from_utf8_lossy(input.rest());
        match parse(text, &Host { capabilities, kernel }) {
            Ok(profile) => profile,
            Err(error) => return drop(error.to_string()),
        }
    };
    let Ok(program) = tree::compile(&profile) else { return };
    assert!(program.len() <= INSTRUCTIONS_MAX);
    agrees(&profile, &program, bytes);
}

/// Some call often, so that it has several; each argument tested once in a rule.
fn rules(input: &mut Input) -> Profile {
    let mut profile = Profile::new(action(input));
    for _ in 0..RULES {
        if input.is_empty() {
            break;
        }
        let number =
            if input.flag() { u32::from(input.u8() & 7) } else { u32::from(input.u16()) % (names::HIGHEST + 1) };
        let mut conditions: Vec<Condition> = Vec::new();
        for _ in 0..input.below(4) {
            let condition = Condition { argument: input.below(ARGUMENTS) as u8, test: test(input) };
            if conditions.iter().all(|other| other.argument != condition.argument) {
                conditions.push(condition);
            }
        }
        profile.add(number, Rule { conditions, action: action(input) });
    }
    profile
}

fn action(input: &mut Input) -> Action {
    match input.below(6) {
        0 => Action::Allow,
        1 => Action::Log,
        2 => Action::Errno(input.u16() % (ERRNO_MAX + 1)),
        3 => Action::Trap,
        4 => Action::KillThread,
        _ => Action::KillProcess,
    }
}

fn value(input: &mut Input) -> u64 {
    let low = u64::from(input.u32());
    if input.flag() { u64::from(input.u32()) << 32 | low } else { low & 0xff }
}

fn test(input: &mut Input) -> Test {
    let value = value(input);
    match input.below(7) {
        0 => Test::Equal(value),
        1 => Test::NotEqual(value),
        2 => Test::Less(value),
        3 => Test::LessOrEqual(value),
        4 => Test::Greater(value),
        5 => Test::GreaterOrEqual(value),
        _ => Test::Masked { mask: value, value: value & self::value(input) },
    }
}

fn agrees(profile: &Profile, program: &[Instruction], bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let ask = |call: Call| {
        let plainly = match call {
            _ if call.architecture != OWN_ARCHITECTURE => Action::KillProcess,
            _ if call.number >= X32 && cfg!(target_arch = "x86_64") => Action::NO_SUCH_CALL,
            _ => profile.decide(call.number, &call.arguments),
        };
        assert_eq!(interpret::run(program, &call).value, plainly.value(), "{call:x?}");
    };
    for number in 0..=names::HIGHEST + 1 {
        let arguments = borders(profile, number, &mut input);
        ask(Call { number, architecture: OWN_ARCHITECTURE, arguments });
        ask(Call { number, architecture: OWN_ARCHITECTURE, arguments: [0; ARGUMENTS] });
    }
    for _ in 0..CALLS {
        let arguments = std::array::from_fn(|_| value(&mut input));
        let architecture = if input.flag() { OWN_ARCHITECTURE } else { input.u32() };
        ask(Call { number: input.u32(), architecture, arguments });
    }
}

/// Each argument at a border of some rule, or beside it.
fn borders(profile: &Profile, number: u32, input: &mut Input) -> [u64; ARGUMENTS] {
    let mut arguments = [0; ARGUMENTS];
    for condition in profile.rules_of(number).iter().flat_map(|rule| &rule.conditions) {
        let at = condition.test.value();
        arguments[usize::from(condition.argument)] = at.wrapping_add(input.below(3) as u64).wrapping_sub(1);
    }
    arguments
}
