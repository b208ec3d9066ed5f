//! A policy of system calls, valid by construction: per call an ordered list of rules, and what becomes of all others. The first rule
//! whose conditions all hold decides. Refuses what the kernel could not do.

use std::collections::BTreeMap;

use super::names;

/// Arguments of a system call.
pub const ARGUMENTS: usize = 6;
/// Of the kernel's: numbers above are no errors.
pub const ERRNO_MAX: u16 = 4095;

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    Allow,
    /// Allowed, and written into the kernel's audit log.
    Log,
    /// At most `ERRNO_MAX`.
    Errno(u16),
    /// SIGSYS, which can be handled.
    Trap,
    KillThread,
    KillProcess,
}

impl Action {
    pub const NOT_PERMITTED: Action = Action::Errno(libc::EPERM as u16);
    /// As if the kernel did not have it.
    pub const NO_SUCH_CALL: Action = Action::Errno(libc::ENOSYS as u16);

    pub fn lets_pass(self) -> bool {
        matches!(self, Action::Allow | Action::Log)
    }

    /// What the filter returns to the kernel.
    pub fn value(self) -> u32 {
        match self {
            Action::Allow => libc::SECCOMP_RET_ALLOW,
            Action::Log => libc::SECCOMP_RET_LOG,
            Action::Errno(errno) => libc::SECCOMP_RET_ERRNO | u32::from(errno),
            Action::Trap => libc::SECCOMP_RET_TRAP,
            Action::KillThread => libc::SECCOMP_RET_KILL_THREAD,
            Action::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        }
    }
}

/// Of an argument as the kernel sees it: 64 bits, without a sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Test {
    Equal(u64),
    NotEqual(u64),
    Less(u64),
    LessOrEqual(u64),
    Greater(u64),
    GreaterOrEqual(u64),
    /// The bits of `mask` are those of `value`, which has no others.
    Masked {
        mask: u64,
        value: u64,
    },
}

impl Test {
    /// What it compares with.
    pub fn value(self) -> u64 {
        match self {
            Test::Equal(value)
            | Test::NotEqual(value)
            | Test::Less(value)
            | Test::LessOrEqual(value)
            | Test::Greater(value)
            | Test::GreaterOrEqual(value)
            | Test::Masked { value, .. } => value,
        }
    }

    pub fn holds(self, argument: u64) -> bool {
        match self {
            Test::Equal(value) => argument == value,
            Test::NotEqual(value) => argument != value,
            Test::Less(value) => argument < value,
            Test::LessOrEqual(value) => argument <= value,
            Test::Greater(value) => argument > value,
            Test::GreaterOrEqual(value) => argument >= value,
            Test::Masked { mask, value } => argument & mask == value,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Condition {
    /// Below `ARGUMENTS`.
    pub argument: u8,
    pub test: Test,
}

/// All conditions must hold; without one, it always does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rule {
    pub conditions: Vec<Condition>,
    pub action: Action,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Of seccomp(2).
    pub flags: u32,
    /// Of calls that no rule decides.
    pub otherwise: Action,
    rules: BTreeMap<u32, Vec<Rule>>,
}

impl Profile {
    pub fn new(otherwise: Action) -> Self {
        Profile { flags: 0, otherwise, rules: BTreeMap::new() }
    }

    /// Behind what was said of this call before.
    pub fn add(&mut self, number: u32, rule: Rule) {
        self.rules.entry(number).or_default().push(rule);
    }

    pub fn rules_of(&self, number: u32) -> &[Rule] {
        self.rules.get(&number).map_or(&[], Vec::as_slice)
    }

    /// Of calls that came after this was built: a program that asks whether the kernel has one must be told that it has not, and not
    /// that it may not. Where all is allowed that is not forbidden, this is, too.
    pub fn unknown(&self) -> Action {
        if matches!(self.otherwise, Action::Errno(_)) { Action::NO_SUCH_CALL } else { self.otherwise }
    }

    /// Whether some call of that number could pass.
    pub fn may_pass(&self, number: u32) -> bool {
        let rules = self.rules_of(number);
        let decided = rules.iter().position(|rule| rule.conditions.is_empty());
        let reached = &rules[..decided.map_or(rules.len(), |at| at + 1)];
        reached.iter().any(|rule| rule.action.lets_pass()) || decided.is_none() && self.otherwise.lets_pass()
    }

    /// The plain reading of it, which the compiled one must agree with. Of a number below x32's.
    pub fn decide(&self, number: u32, arguments: &[u64; ARGUMENTS]) -> Action {
        if number > names::HIGHEST {
            return self.unknown();
        }
        let holds = |condition: &Condition| condition.test.holds(arguments[usize::from(condition.argument)]);
        let decides = |rule: &&Rule| rule.conditions.iter().all(holds);
        self.rules_of(number).iter().find(decides).map_or(self.otherwise, |rule| rule.action)
    }
}
