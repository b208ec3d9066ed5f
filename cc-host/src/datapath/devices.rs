//! Which devices the processes of a cgroup may open and make: a program of a few instructions for each container, which hangs on the cgroup
//! itself and goes with it, whoever runs. No map, no pin: nothing of it has a layout that an upgrade would have to take over. Refuses to
//! know why a device is allowed.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Stat, major, minor};

use super::error::DatapathError;
use super::replace::{bpf, bpf_filled, number};
use super::{Datapath, DatapathError as E};
use crate::mutation::{self, Control};

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const PROG_QUERY: libc::c_int = 16;
const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
/// Beside others: whoever has one there too must allow a device as well.
const ALLOW_MULTI: u32 = 2;
/// By which the next daemon knows it. The kernel keeps 15 bytes.
const NAME: &[u8; 16] = b"cc_devices\0\0\0\0\0\0";
/// On one cgroup; others' than ours are few, or none.
const PROGRAMS_MAX: usize = 64;

const MAKE: u8 = 1;
const READ: u8 = 2;
const WRITE: u8 = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Block = 1,
    Character = 2,
}

/// A device, or all of a driver's, and what may be done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AllowedDevice {
    kind: Kind,
    major: u32,
    minor: Option<u32>,
    access: u8,
}

impl AllowedDevice {
    /// Null, zero, full, random, urandom, tty, ptmx and the terminals of its own devpts. The host's console is not among them, as it is
    /// with docker; nor may any other node be made, though none could be opened.
    pub const EVERYBODYS: [AllowedDevice; 8] = [
        AllowedDevice::character(1, Some(3)),
        AllowedDevice::character(1, Some(5)),
        AllowedDevice::character(1, Some(7)),
        AllowedDevice::character(1, Some(8)),
        AllowedDevice::character(1, Some(9)),
        AllowedDevice::character(5, Some(0)),
        AllowedDevice::character(5, Some(2)),
        AllowedDevice::character(136, None),
    ];

    const fn character(major: u32, minor: Option<u32>) -> Self {
        AllowedDevice { kind: Kind::Character, major, minor, access: MAKE | READ | WRITE }
    }

    /// What the host's node is a node of, to be opened and not to be made; `None` if it is no device.
    pub fn of(stat: &Stat, read: bool, write: bool) -> Option<Self> {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::BlockDevice => Kind::Block,
            FileType::CharacterDevice => Kind::Character,
            _ => return None,
        };
        let access = if read { READ } else { 0 } | if write { WRITE } else { 0 };
        Some(AllowedDevice { kind, major: major(stat.st_rdev), minor: Some(minor(stat.st_rdev)), access })
    }
}

impl Datapath {
    /// From here on, processes of the cgroup have these devices and those that everybody has. Whatever they have open stays open.
    pub fn filter_devices(&self, cgroup_v2_dir: &Path, given: &[AllowedDevice]) -> Result<(), DatapathError> {
        attach(cgroup_v2_dir, given)
    }

    /// The same where no earlier daemon has, or somebody took it away; whether that was so.
    pub fn filter_devices_if_missing(
        &self,
        cgroup_v2_dir: &Path,
        given: &[AllowedDevice],
    ) -> Result<bool, DatapathError> {
        let is_missing = !is_attached(&open(cgroup_v2_dir)?).map_err(|source| E::Devices { source })?;
        if is_missing {
            attach(cgroup_v2_dir, given)?;
        }
        Ok(is_missing)
    }
}

fn open(cgroup_v2_dir: &Path) -> Result<std::fs::File, DatapathError> {
    std::fs::File::open(cgroup_v2_dir).map_err(|source| E::Cgroup { path: cgroup_v2_dir.to_owned(), source })
}

fn attach(cgroup_v2_dir: &Path, given: &[AllowedDevice]) -> Result<(), DatapathError> {
    if mutation::off(Control::DeviceFilter) {
        return Ok(());
    }
    let cgroup = open(cgroup_v2_dir)?;
    let attached = || {
        let program = load(&program([&AllowedDevice::EVERYBODYS, given].concat()))?;
        let attach = Attach {
            target_fd: number(cgroup.as_raw_fd())?,
            attach_bpf_fd: number(program.as_raw_fd())?,
            attach_type: ATTACH_CGROUP_DEVICE,
            attach_flags: ALLOW_MULTI,
        };
        bpf(PROG_ATTACH, &attach).map(drop)
    };
    attached().map_err(|source| E::Devices { source })
}

fn is_attached(cgroup: &std::fs::File) -> io::Result<bool> {
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
    Ok(ids[..count].iter().any(|&id| is_ours(id).unwrap_or(false)))
}

fn is_ours(id: u32) -> io::Result<bool> {
    let fd = bpf(PROG_GET_FD_BY_ID, &ById { id, ..ById::default() })?;
    // SAFETY: the kernel has just returned this descriptor, and nobody else knows of it.
    let program = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok(name_of(program.as_fd())? == *NAME)
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
    let load = Load {
        prog_type: TYPE_CGROUP_DEVICE,
        insn_cnt: program.len() as u32,
        insns: program.as_ptr().expose_provenance() as u64,
        license: c"Apache-2.0".as_ptr().expose_provenance() as u64,
        prog_name: *NAME,
        expected_attach_type: ATTACH_CGROUP_DEVICE,
        ..Load::default()
    };
    let fd = bpf(PROG_LOAD, &load)?;
    // SAFETY: the kernel has just returned this descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// An instruction as the kernel takes it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u8,
    /// Destination in the lower half, source in the upper.
    registers: u8,
    offset: i16,
    immediate: i32,
}

const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const ACCESS: u8 = 2;
const KIND: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const WANTED: u8 = 6;

const LOAD_WORD: u8 = 0x61;
const MOVE_REGISTER: u8 = 0xbf;
const MOVE_NUMBER: u8 = 0xb7;
const AND_NUMBER: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_UNLESS_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

const fn op(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: from << 4 | to, offset, immediate }
}

/// What the kernel hands over is three words: kind in the lower half and access in the upper half of the first, major, minor. The first
/// device that matches decides nothing by itself: another may have the rights that it lacks.
fn program(allowed: Vec<AllowedDevice>) -> Vec<Instruction> {
    let mut all = vec![
        op(LOAD_WORD, ACCESS, CONTEXT, 0, 0),
        op(MOVE_REGISTER, KIND, ACCESS, 0, 0),
        op(AND_NUMBER, KIND, 0, 0, 0xffff),
        op(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        op(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        op(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for AllowedDevice { kind, major, minor, access } in allowed {
        let mut checks = vec![(KIND, kind as i32), (MAJOR, major.cast_signed())];
        checks.extend(minor.map(|minor| (MINOR, minor.cast_signed())));
        // Behind the checks: copy, mask, compare, allow, exit.
        let block = checks.len() + 5;
        for (at, (register, number)) in checks.into_iter().enumerate() {
            all.push(op(JUMP_UNLESS_EQUAL, register, 0, (block - at - 1) as i16, number));
        }
        all.extend([
            op(MOVE_REGISTER, WANTED, ACCESS, 0, 0),
            op(AND_NUMBER, WANTED, 0, 0, !i32::from(access)),
            op(JUMP_UNLESS_EQUAL, WANTED, 0, 2, 0),
            op(MOVE_NUMBER, RESULT, 0, 0, 1),
            op(EXIT, 0, 0, 0, 0),
        ]);
    }
    all.extend([op(MOVE_NUMBER, RESULT, 0, 0, 0), op(EXIT, 0, 0, 0, 0)]);
    all
}

/// Parts of the kernel's `bpf_attr`, by command.
#[repr(C)]
#[derive(Default)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

#[repr(C)]
#[derive(Default)]
struct Attach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
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
    use super::*;

    /// As the kernel runs it.
    fn run(program: &[Instruction], kind: Kind, major: u32, minor: u32, access: u8) -> bool {
        let words = [u32::from(access) << 16 | kind as u32, major, minor];
        let mut registers = [0u64; 11];
        let mut at = 0;
        loop {
            let Instruction { code, registers: pair, offset, immediate } = program[at];
            let (to, from) = (usize::from(pair & 0xf), usize::from(pair >> 4));
            at += 1;
            match code {
                LOAD_WORD => registers[to] = words[offset as usize / 4].into(),
                MOVE_REGISTER => registers[to] = registers[from],
                MOVE_NUMBER => registers[to] = i64::from(immediate) as u64,
                AND_NUMBER => registers[to] &= i64::from(immediate) as u64,
                SHIFT_RIGHT => registers[to] >>= immediate,
                JUMP_UNLESS_EQUAL => {
                    if registers[to] != i64::from(immediate) as u64 {
                        at += offset as usize;
                    }
                }
                EXIT => return registers[0] == 1,
                other => panic!("{other:#x}"),
            }
        }
    }

    fn given(kind: Kind, major: u32, minor: u32, access: u8) -> AllowedDevice {
        AllowedDevice { kind, major, minor: Some(minor), access }
    }

    #[test]
    fn what_is_on_the_list_is_allowed_and_nothing_else() {
        let all = [&AllowedDevice::EVERYBODYS[..], &[given(Kind::Block, 7, 3, READ), given(Kind::Block, 7, 3, WRITE)]];
        let program = program(all.concat());
        let may = |kind, major, minor, access| run(&program, kind, major, minor, access);
        for minor in [3, 5, 7, 8, 9] {
            assert!(may(Kind::Character, 1, minor, MAKE | READ | WRITE), "1:{minor}");
            assert!(!may(Kind::Block, 1, minor, READ), "a block device of the same number");
        }
        assert!(may(Kind::Character, 136, 77, READ | WRITE) && may(Kind::Character, 5, 2, WRITE));
        for (kind, major, minor) in [(Kind::Character, 1, 1), (Kind::Character, 5, 1), (Kind::Character, 10, 237)] {
            for access in [MAKE, READ, WRITE, READ | WRITE] {
                assert!(!may(kind, major, minor, access), "{major}:{minor} {access}");
            }
        }
        // Each right by an entry of its own; both at once are no entry's.
        assert!(may(Kind::Block, 7, 3, READ) && may(Kind::Block, 7, 3, WRITE) && may(Kind::Block, 7, 3, 0));
        assert!(
            !may(Kind::Block, 7, 3, READ | WRITE) && !may(Kind::Block, 7, 3, MAKE) && !may(Kind::Block, 7, 4, READ)
        );
    }

    #[test]
    fn the_kernel_takes_it_whole() {
        let many: Vec<AllowedDevice> = (0..64).map(|minor| given(Kind::Block, 259, minor, READ | WRITE)).collect();
        let loaded = load(&program([&AllowedDevice::EVERYBODYS[..], &many].concat())).unwrap();
        assert_eq!(name_of(loaded.as_fd()).unwrap(), *NAME);
    }

    #[test]
    fn a_file_is_no_device() {
        let stat = |path: &str| rustix::fs::stat(path).unwrap();
        assert_eq!(AllowedDevice::of(&stat("/etc/passwd"), true, true), None);
        assert_eq!(
            AllowedDevice::of(&stat("/dev/null"), true, false),
            Some(AllowedDevice { access: READ, ..AllowedDevice::EVERYBODYS[0] })
        );
    }
}
