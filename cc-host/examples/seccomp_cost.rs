//! What filters of system calls cost: the default policy as our tree, as seccompiler's list of the same rules, and no filter at all; how long the
//! kernel takes to accept one, and what a call takes under it. Prints a line of JSON a round, for `cargo xtask bench seccomp`. Refuses
//! to judge.

use std::collections::BTreeMap;
use std::time::Instant;

use cc_host::seccomp::profile::{Action, Condition, Test};
use cc_host::seccomp::{Seccomp, default, names};
use cc_host::shim::filter::{Filter, Instruction};
use cc_host::shim::privileges::DEFAULT_CAPABILITIES;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Of each kind, per round.
const CALLS: u32 = 300_000;
/// The question which it is, whose argument a filter has to look at.
const ASK: u64 = 0xffff_ffff;

fn main() -> Result<(), Error> {
    let rounds: usize = std::env::args().nth(1).as_deref().unwrap_or("5").parse()?;
    let tree = Seccomp::Default.filter(DEFAULT_CAPABILITIES)?.ok_or("the default policy is no filter")?;
    let list = list()?;
    let contenders = [("cc", Some(&tree)), ("seccompiler", Some(&list)), ("no filter", None)];
    for _ in 0..rounds {
        let mut round = BTreeMap::new();
        for (name, filter) in contenders {
            // A filter is a thread's, and goes with it.
            let measured = std::thread::scope(|scope| scope.spawn(|| measure(filter)).join());
            round.insert(name, measured.map_err(|_| "a thread panicked")??);
        }
        println!("{}", serde_json::to_string(&round)?);
    }
    Ok(())
}

#[derive(serde::Serialize)]
struct Costs {
    instructions: usize,
    load_us: f64,
    plain_ns: f64,
    argument_ns: f64,
}

fn measure(filter: Option<&Filter>) -> Result<Costs, Error> {
    rustix::thread::set_no_new_privs(true)?;
    let began = Instant::now();
    if let Some(filter) = filter {
        filter.install().map_err(|failure| failure.message)?;
    }
    let load_us = began.elapsed().as_secs_f64() * 1e6;
    let plain_ns = each_ns(|| {
        // SAFETY: takes nothing, and gives a number.
        unsafe { libc::syscall(libc::SYS_getppid) }
    });
    let argument_ns = each_ns(|| {
        // SAFETY: takes a number, of which this one changes nothing.
        unsafe { libc::syscall(libc::SYS_personality, ASK) }
    });
    let instructions = filter.map_or(0, |filter| filter.program.len());
    Ok(Costs { instructions, load_us, plain_ns, argument_ns })
}

fn each_ns(call: impl Fn() -> i64) -> f64 {
    let began = Instant::now();
    for _ in 0..CALLS {
        assert!(call() >= 0, "the call is allowed");
    }
    began.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
}

/// What passes by the default policy, as seccompiler compiles it. It has one verdict for the rest, and no way to deny a part of what it allows.
fn list() -> Result<Filter, Error> {
    let profile = default::profile(DEFAULT_CAPABILITIES);
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for number in 0..=names::HIGHEST {
        for rule in profile.rules_of(number).iter().filter(|rule| rule.action == Action::Allow) {
            let of = rules.entry(number.into()).or_default();
            if !rule.conditions.is_empty() {
                of.push(SeccompRule::new(rule.conditions.iter().map(condition).collect::<Result<_, _>>()?)?);
            }
        }
    }
    let errno = SeccompAction::Errno(libc::EPERM as u32);
    let filter = SeccompFilter::new(rules, errno, SeccompAction::Allow, std::env::consts::ARCH.try_into()?)?;
    let program: BpfProgram = filter.try_into()?;
    let program = program.iter().map(|one| Instruction { code: one.code, jt: one.jt, jf: one.jf, k: one.k }).collect();
    Ok(Filter { flags: 0, program })
}

fn condition(condition: &Condition) -> Result<SeccompCondition, seccompiler::BackendError> {
    let op = match condition.test {
        Test::Equal(_) => SeccompCmpOp::Eq,
        Test::Masked { mask, .. } => SeccompCmpOp::MaskedEq(mask),
        Test::NotEqual(_) => SeccompCmpOp::Ne,
        Test::Less(_) => SeccompCmpOp::Lt,
        Test::LessOrEqual(_) => SeccompCmpOp::Le,
        Test::Greater(_) => SeccompCmpOp::Gt,
        Test::GreaterOrEqual(_) => SeccompCmpOp::Ge,
    };
    SeccompCondition::new(condition.argument, SeccompCmpArgLen::Qword, op, condition.test.value())
}
