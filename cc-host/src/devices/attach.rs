//! Loads a filter of devices and hangs it on a cgroup; finds and takes away those that we hung there. The kernel keeps it as long as the cgroup.
//! Refuses others' programs.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::program::{Rule, program};
use crate::bpf::{Instruction, bpf, bpf_filled, load_program, number};

const PROG_ATTACH: libc::c_int = 8;
const PROG_DETACH: libc::c_int = 9;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const PROG_QUERY: libc::c_int = 16;
const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
/// Beside others: whoever has one there too must allow a device as well.
const ALLOW_MULTI: u32 = 2;
/// By which we know it. The kernel keeps 15 bytes.
const NAME: &[u8; 16] = b"cc_devices\0\0\0\0\0\0";
/// On one cgroup; others' than ours are few, or none.
const PROGRAMS_MAX: usize = 64;

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
    let mut ids = [0u32; PROGRAMS_MAX];
    let mut query = Query {
        target_fd: number(cgroup.as_raw_fd())?,
        attach_type: ATTACH_CGROUP_DEVICE,
        prog_ids: ids.as_mut_ptr().expose_provenance() as u64,
        prog_cnt: PROGRAMS_MAX as u32,
        ..Query::default()
    };
    bpf_filled(PROG_QUERY, &mut query)?;
    let count = (query.prog_cnt as usize).min(PROGRAMS_MAX);
    // One that goes at this very moment is none.
    Ok(ids[..count].iter().filter_map(|&id| if_ours(id).ok().flatten()).collect())
}

fn if_ours(id: u32) -> io::Result<Option<OwnedFd>> {
    let fd = bpf(PROG_GET_FD_BY_ID, &ById { id, ..ById::default() })?;
    // SAFETY: the kernel has just returned this descriptor, and nobody else knows of it.
    let program = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok((name_of(program.as_fd())? == *NAME).then_some(program))
}

fn name_of(program: BorrowedFd<'_>) -> io::Result<[u8; 16]> {
    let mut info = Info::default();
    let ask = AskInfo {
        bpf_fd: number(program.as_raw_fd())?,
        info_len: size_of::<Info>() as u32,
        info: (&raw mut info).expose_provenance() as u64,
    };
    bpf(OBJ_GET_INFO_BY_FD, &ask)?;
    Ok(info.name)
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

#[repr(C)]
#[derive(Default)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    pad: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

#[repr(C)]
#[derive(Default)]
struct ById {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

#[repr(C)]
struct AskInfo {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The beginning of the kernel's `bpf_prog_info`.
#[repr(C)]
#[derive(Default)]
struct Info {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    jited_len: u32,
    xlated_len: u32,
    jited: u64,
    xlated: u64,
    load_time: u64,
    created_by_uid: u32,
    nr_map_ids: u32,
    map_ids: u64,
    name: [u8; 16],
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
        assert_eq!(name_of(loaded.as_fd()).unwrap(), *NAME);
        for all in [Rule::all(true), Rule::all(false)] {
            load(&program(&[all])).unwrap();
            load(&program(&[Rule::EVERYBODYS[0], all])).unwrap();
        }
        load(&program(&[])).unwrap();
    }
}
