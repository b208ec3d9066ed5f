//! Loads a filter of devices and hangs it on a cgroup; finds and takes away those that we hung there. The kernel keeps it as long as the cgroup.
//! Refuses others' programs.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::program::{Rule, program};
use crate::bpf::{Instruction, bpf, load_program, named_programs, number};

const PROG_ATTACH: libc::c_int = 8;
const PROG_DETACH: libc::c_int = 9;
const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
/// Beside others: whoever has one there too must allow a device as well.
const ALLOW_MULTI: u32 = 2;
/// By which we know it. The kernel keeps 15 bytes.
const NAME: &[u8; 16] = b"cc_devices\0\0\0\0\0\0";

/// From here on, processes of the cgroup may open and make what the rules say, and nothing else. Whatever they have open stays open.
pub fn attach(cgroup: &std::fs::File, rules: &[Rule]) -> io::Result<()> {
    let program = load(&program(rules))?;
    bpf(PROG_ATTACH, &Attach::of(cgroup, program.as_fd(), ALLOW_MULTI)?).map(drop)
}

/// The same in place of what we hung there before: at no moment is there none.
pub fn replace(cgroup: &std::fs::File, rules: &[Rule]) -> io::Result<()> {
    let before = ours(cgroup)?;
    attach(cgroup, rules)?;
    before.iter().try_for_each(|old| bpf(PROG_DETACH, &Attach::of(cgroup, old.as_fd(), 0)?).map(drop))
}

pub fn is_attached(cgroup: &std::fs::File) -> io::Result<bool> {
    Ok(!ours(cgroup)?.is_empty())
}

fn ours(cgroup: &std::fs::File) -> io::Result<Vec<OwnedFd>> {
    named_programs(number(cgroup.as_raw_fd())?, ATTACH_CGROUP_DEVICE, NAME)
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    load_program(TYPE_CGROUP_DEVICE, ATTACH_CGROUP_DEVICE, NAME, program)
}

/// Parts of the kernel's `bpf_attr`, by command.
#[repr(C)]
#[derive(Default)]
struct Attach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

impl Attach {
    fn of(cgroup: &std::fs::File, program: BorrowedFd<'_>, attach_flags: u32) -> io::Result<Attach> {
        Ok(Attach {
            target_fd: number(cgroup.as_raw_fd())?,
            attach_bpf_fd: number(program.as_raw_fd())?,
            attach_type: ATTACH_CGROUP_DEVICE,
            attach_flags,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::program::{Access, Kind};
    use super::*;

    #[test]
    fn the_kernel_takes_it_whole() {
        let one = |minor| Rule {
            allow: minor % 3 != 0,
            kind: (minor % 5 != 0).then_some(Kind::Block),
            major: (minor % 7 != 0).then_some(259),
            minor: Some(minor),
            access: Access::READ | Access::WRITE,
        };
        let many: Vec<Rule> = (0..64).map(one).collect();
        let loaded = load(&program(&[&Rule::EVERYBODYS[..], &many].concat())).unwrap();
        assert_eq!(crate::bpf::program_name(loaded.as_fd()).unwrap(), *NAME);
        for all in [Rule::all(true), Rule::all(false)] {
            load(&program(&[all])).unwrap();
            load(&program(&[Rule::EVERYBODYS[0], all])).unwrap();
        }
        load(&program(&[])).unwrap();
    }
}
