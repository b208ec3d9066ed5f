//! What is compiled says what the policy says: against a plain reading of it, and against seccompiler's own filters, instruction by instruction
//! as the kernel would run them.
//!
//! seccompiler has one verdict for what matches and one for what does not, kills foreign architectures as we do, and knows neither x32 nor
//! calls that came later: those are compared with the plain reading alone.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rustix::thread::CapabilitySet;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use super::interpret::{Call, Ran, run};
use super::profile::{ARGUMENTS, Action, Condition, Profile, Rule, Test};
use super::tree::{OWN_ARCHITECTURE, X32, compile};
use super::{default, names};
use crate::shim::filter::Instruction;
use crate::shim::privileges::DEFAULT_CAPABILITIES;

const I386: u32 = 0x4000_0003;
const LAST: u32 = 1023;

fn call(number: u32, arguments: [u64; ARGUMENTS]) -> Call {
    Call { number, architecture: OWN_ARCHITECTURE, arguments }
}

/// What the plain reading makes of it.
fn plainly(profile: &Profile, call: &Call) -> Action {
    match call {
        Call { architecture, .. } if *architecture != OWN_ARCHITECTURE => Action::KillProcess,
        Call { number, .. } if *number >= X32 && cfg!(target_arch = "x86_64") => Action::NO_SUCH_CALL,
        Call { number, arguments, .. } => profile.decide(*number, arguments),
    }
}

/// seccompiler's, of the rules whose verdict is `matched`; all others of the profile must have the verdict of the rest.
fn oracle(profile: &Profile, matched: Action) -> Vec<Instruction> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for number in 0..=names::HIGHEST {
        for Rule { conditions, action } in profile.rules_of(number) {
            assert_eq!(*action, matched);
            let all = rules.entry(number.into()).or_default();
            // No rule at all is its way to say: always.
            if !conditions.is_empty() {
                all.push(SeccompRule::new(conditions.iter().map(condition).collect()).unwrap());
            }
        }
        if profile.rules_of(number).iter().any(|rule| rule.conditions.is_empty()) {
            rules.insert(number.into(), Vec::new());
        }
    }
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, theirs(profile.otherwise), theirs(matched), arch).unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    program.iter().map(|one| Instruction { code: one.code, jt: one.jt, jf: one.jf, k: one.k }).collect()
}

fn theirs(action: Action) -> SeccompAction {
    match action {
        Action::Allow => SeccompAction::Allow,
        Action::Log => SeccompAction::Log,
        Action::Errno(errno) => SeccompAction::Errno(errno.into()),
        Action::Trap => SeccompAction::Trap,
        Action::KillThread => SeccompAction::KillThread,
        Action::KillProcess => SeccompAction::KillProcess,
    }
}

fn condition(condition: &Condition) -> SeccompCondition {
    let (op, value) = match condition.test {
        Test::Equal(value) => (SeccompCmpOp::Eq, value),
        Test::NotEqual(value) => (SeccompCmpOp::Ne, value),
        Test::Less(value) => (SeccompCmpOp::Lt, value),
        Test::LessOrEqual(value) => (SeccompCmpOp::Le, value),
        Test::Greater(value) => (SeccompCmpOp::Gt, value),
        Test::GreaterOrEqual(value) => (SeccompCmpOp::Ge, value),
        Test::Masked { mask, value } => (SeccompCmpOp::MaskedEq(mask), value),
    };
    SeccompCondition::new(condition.argument, SeccompCmpArgLen::Qword, op, value).unwrap()
}

/// Values on both sides of every border that a rule of this call has, of each argument.
fn borders(profile: &Profile, number: u32) -> Vec<[u64; ARGUMENTS]> {
    let mut all = vec![[0; ARGUMENTS], [u64::MAX; ARGUMENTS], [1 << 32; ARGUMENTS], [u64::from(u32::MAX); ARGUMENTS]];
    let mut fitting = [0; ARGUMENTS];
    for condition in profile.rules_of(number).iter().flat_map(|rule| &rule.conditions) {
        let value = condition.test.value();
        let mask = if let Test::Masked { mask, .. } = condition.test { mask } else { 0 };
        let at = usize::from(condition.argument);
        let near =
            [value, value.wrapping_sub(1), value.wrapping_add(1), value ^ 1 << 32, value ^ 1 << 63, value | !mask];
        for value in near.into_iter().chain([value ^ mask, value.swap_bytes(), value.rotate_left(32)]) {
            let mut arguments = fitting;
            arguments[at] = value;
            all.push(arguments);
        }
        fitting[at] = value;
    }
    all.push(fitting);
    all
}

/// Of all numbers and borders, and a few beyond.
fn every_call(profile: &Profile) -> impl Iterator<Item = Call> {
    let numbers = (0..=LAST).chain([X32 - 1, X32, X32 + 1, X32 + 59, u32::MAX, 1 << 31]);
    let own = numbers.flat_map(|number| borders(profile, number).into_iter().map(move |at| call(number, at)));
    let foreign = [0, 1, 59, 435].map(|number| Call { architecture: I386, ..call(number, [0; ARGUMENTS]) });
    own.chain(foreign)
}

fn agrees(profile: &Profile) {
    let program = compile(profile).unwrap();
    for call in every_call(profile) {
        assert_eq!(run(&program, &call).value, plainly(profile, &call).value(), "{call:x?}");
    }
}

#[test]
fn the_default_policy_is_compiled_as_it_reads() {
    for capabilities in [CapabilitySet::empty(), DEFAULT_CAPABILITIES, CapabilitySet::SYS_ADMIN, CapabilitySet::all()] {
        agrees(&default::profile(capabilities));
    }
}

/// What seccompiler can say of it: which calls pass.
#[test]
fn the_default_policy_lets_pass_what_seccompilers_does() {
    for capabilities in [CapabilitySet::empty(), DEFAULT_CAPABILITIES, CapabilitySet::all()] {
        let profile = default::profile(capabilities);
        let mut allowed = Profile::new(Action::NOT_PERMITTED);
        for number in 0..=names::HIGHEST {
            // The one rule that denies some of what the next one allows, in words of what it allows.
            let socket = Some(number) == names::number("socket");
            for rule in profile.rules_of(number) {
                let but_one = Condition { argument: 0, test: Test::Masked { mask: u64::from(u32::MAX), value: 40 } };
                match rule.action {
                    Action::Allow if socket => {
                        // Any bit of the lower half in which it differs.
                        for bit in 0..32 {
                            let (mask, value) = (1 << bit, !40_u64 & 1 << bit);
                            let test = Test::Masked { mask, value };
                            allowed.add(
                                number,
                                Rule { conditions: vec![Condition { argument: 0, test }], ..rule.clone() },
                            );
                        }
                    }
                    Action::Allow => allowed.add(number, rule.clone()),
                    _ => assert!(!socket || rule.conditions == [but_one]),
                }
            }
        }
        let (ours, theirs) = (compile(&profile).unwrap(), oracle(&allowed, Action::Allow));
        for call in every_call(&profile).filter(|call| call.number < X32) {
            let passes = |program| run(program, &call).value == Action::Allow.value();
            assert_eq!(passes(&ours), passes(&theirs), "{call:x?}");
        }
    }
}

/// Its aim: a list of the same policy has hundreds of instructions, and most of them are passed by every call.
#[test]
fn the_tree_is_shallow() {
    let profile = default::profile(DEFAULT_CAPABILITIES);
    let program = compile(&profile).unwrap();
    let deepest =
        |calls: &mut dyn Iterator<Item = Call>| calls.map(|call| run(&program, &call).instructions).max().unwrap();
    // Two loads and the architecture before the search, a verdict behind it.
    let plain = deepest(
        &mut (0..=LAST)
            .filter(|number| profile.rules_of(*number).iter().all(|rule| rule.conditions.is_empty()))
            .map(|number| call(number, [0; ARGUMENTS])),
    );
    let any = deepest(&mut every_call(&profile));
    println!("{} instructions, {plain} to a plain verdict, {any} to any", program.len());
    assert!(plain <= 4 + 9, "a call passes {plain} instructions");
    assert!(any <= 40, "a call passes {any} instructions");
    assert!(program.len() <= 256, "{} instructions", program.len());
}

#[test]
fn halves_that_are_far_apart_are_reached() {
    let mut profile = Profile::new(Action::Allow);
    for number in 0..60_u32 {
        for value in 0..8 {
            let test = Test::Greater(u64::from(number) << 31 | value);
            let conditions = (0..6).map(|argument| Condition { argument, test }).collect();
            profile.add(number, Rule { conditions, action: Action::Errno(number as u16 + value as u16) });
        }
    }
    assert!(compile(&profile).is_err(), "the kernel would not take it");
    let mut fewer = Profile::new(Action::Allow);
    for number in 0..60_u32 {
        for rule in profile.rules_of(number).iter().take(1) {
            fewer.add(number, rule.clone());
        }
    }
    assert!(compile(&fewer).unwrap().len() > 1500);
    agrees(&fewer);
}

#[test]
fn what_is_not_forbidden_is_allowed_but_under_x32s_numbers() {
    let mut profile = Profile::new(Action::Allow);
    profile.add(names::number("mkdir").unwrap_or(34), Rule { conditions: vec![], action: Action::Trap });
    let program = compile(&profile).unwrap();
    let value = |call| {
        let Ran { value, .. } = run(&program, &call);
        value
    };
    assert_eq!(value(call(names::HIGHEST + 1, [0; ARGUMENTS])), Action::Allow.value());
    if cfg!(target_arch = "x86_64") {
        assert_eq!(value(call(X32 + 83, [0; ARGUMENTS])), Action::NO_SUCH_CALL.value());
    }
    assert_eq!(value(Call { architecture: I386, ..call(0, [0; ARGUMENTS]) }), Action::KillProcess.value());
}

fn any_value() -> impl Strategy<Value = u64> {
    let edge = prop_oneof![Just(0), Just(1), Just(u64::from(u32::MAX)), Just(1 << 32), Just(1 << 31), Just(u64::MAX)];
    prop_oneof![
        any::<u64>(),
        edge,
        0..16_u64,
        any::<u32>().prop_map(u64::from),
        any::<u32>().prop_map(|high| u64::from(high) << 32)
    ]
}

fn any_test() -> impl Strategy<Value = Test> {
    prop_oneof![
        any_value().prop_map(Test::Equal),
        any_value().prop_map(Test::NotEqual),
        any_value().prop_map(Test::Less),
        any_value().prop_map(Test::LessOrEqual),
        any_value().prop_map(Test::Greater),
        any_value().prop_map(Test::GreaterOrEqual),
        (any_value(), any_value()).prop_map(|(mask, value)| Test::Masked { mask, value: value & mask }),
    ]
}

/// One test an argument at most.
fn any_conditions() -> impl Strategy<Value = Vec<Condition>> {
    proptest::collection::btree_map(0..ARGUMENTS as u8, any_test(), 0..=3)
        .prop_map(|all| all.into_iter().map(|(argument, test)| Condition { argument, test }).collect())
}

fn any_action() -> impl Strategy<Value = Action> {
    prop_oneof![
        Just(Action::Allow),
        Just(Action::Log),
        (0..4096_u16).prop_map(Action::Errno),
        Just(Action::Trap),
        Just(Action::KillThread),
        Just(Action::KillProcess),
    ]
}

/// Some numbers that have several rules, some that have neighbours, and gaps.
fn any_rules(action: impl Strategy<Value = Action>) -> impl Strategy<Value = Vec<(u32, Rule)>> {
    let number = prop_oneof![0..12_u32, 0..=names::HIGHEST];
    let rule = (any_conditions(), action).prop_map(|(conditions, action)| Rule { conditions, action });
    proptest::collection::vec((number, rule), 0..60)
}

fn profile_of(otherwise: Action, rules: Vec<(u32, Rule)>) -> Profile {
    let mut profile = Profile::new(otherwise);
    for (number, rule) in rules {
        profile.add(number, rule);
    }
    profile
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_policy_is_compiled_as_it_reads(otherwise in any_action(), rules in any_rules(any_action())) {
        agrees(&profile_of(otherwise, rules));
    }

    /// With the two verdicts that seccompiler has.
    #[test]
    fn any_policy_of_two_verdicts_is_seccompilers(
        rules in any_rules(Just(Action::Allow)),
        random in proptest::collection::vec((0..LAST, proptest::array::uniform6(any_value())), 64),
    ) {
        let profile = profile_of(Action::NOT_PERMITTED, rules);
        let (ours, theirs) = (compile(&profile).unwrap(), oracle(&profile, Action::Allow));
        let random = random.into_iter().map(|(number, arguments)| call(number, arguments));
        // Beyond what has a name it says EPERM, and we ENOSYS.
        for call in every_call(&profile).filter(|call| call.number <= names::HIGHEST).chain(random.filter(|call| call.number <= names::HIGHEST)) {
            prop_assert_eq!(run(&ours, &call).value, run(&theirs, &call).value, "{:x?}", call);
        }
    }

    /// Each comparison by itself, at random values.
    #[test]
    fn each_comparison_is_seccompilers(
        conditions in any_conditions(),
        random in proptest::collection::vec(proptest::array::uniform6(any_value()), 64),
    ) {
        let rule = Rule { conditions, action: Action::Trap };
        let profile = profile_of(Action::Allow, vec![(7, rule)]);
        let (ours, theirs) = (compile(&profile).unwrap(), oracle(&profile, Action::Trap));
        for call in random.into_iter().chain(borders(&profile, 7)).map(|arguments| call(7, arguments)) {
            prop_assert_eq!(run(&ours, &call).value, run(&theirs, &call).value, "{:x?}", call);
            prop_assert_eq!(run(&ours, &call).value, plainly(&profile, &call).value(), "{:x?}", call);
        }
    }
}
