//! A program that writes on each packet before an interface's queue when it may leave (earliest departure time), so that what leaves keeps to a
//! rate. The queue (fq) holds it until then, and drops what would have to wait for longer than it looks ahead. One program for each
//! interface, with its rate in its code and its time in a map of one row that nobody else knows: no pin, nothing that an upgrade would have to take
//! over, and gone with the filter that holds it. Refuses to know whose interface it is.
//!
//! The state is one number: when all that was let go would have left, at the rate. Pauses are forgotten but for the burst's worth of time.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use cc_common::names::PROGRAM_DEPARTURE;

use crate::bpf::{Instruction, bpf, load_program, number, op};

const MAP_CREATE: libc::c_int = 0;
const TYPE_ARRAY: u32 = 2;
const TYPE_SCHED_CLS: u32 = 3;
const NS_PER_S: u64 = 1_000_000_000;

/// What leaves an interface, as times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Departures {
    pub bytes_per_s: u64,
    /// How much of a pause is made up for at once.
    pub burst_ns: u64,
    /// What would leave later than this from now is to be lost.
    pub wait_ns: u64,
    /// Farther ahead than the queue looks, so that it drops.
    pub never_ns: u64,
    pub earlier: Earlier,
}

/// What becomes of a time that a packet has already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Earlier {
    /// It stays if it is later: of one's own conversations, their own pace.
    Kept,
    /// Others have written it, who could have their packets wait in a queue that is not theirs.
    Forgotten,
}

impl Departures {
    pub fn time_of(bytes: u64, bytes_per_s: u64) -> u64 {
        let ns = u128::from(bytes) * u128::from(NS_PER_S) / u128::from(bytes_per_s.max(1));
        u64::try_from(ns).unwrap_or(u64::MAX)
    }
}

const RESULT: u8 = 0;
const FIRST: u8 = 1;
const SECOND: u8 = 2;
const UNTIL: u8 = 3;
const AHEAD: u8 = 4;
const OLD: u8 = 5;
const PACKET: u8 = 6;
const NOW: u8 = 7;
const STATE: u8 = 8;
const TIME: u8 = 9;

const LOAD_WORD: u8 = 0x61;
const LOAD_LONG: u8 = 0x79;
const STORE_LONG: u8 = 0x7b;
const LOAD_NUMBER: u8 = 0x18;
const ATOMIC_LONG: u8 = 0xdb;
const COMPARE_EXCHANGE: i32 = 0xf1;
const ATOMIC_ADD: i32 = 0;
const MOVE_REGISTER: u8 = 0xbf;
const MOVE_NUMBER: u8 = 0xb7;
const ADD_REGISTER: u8 = 0x0f;
const SUBTRACT_REGISTER: u8 = 0x1f;
const MULTIPLY_NUMBER: u8 = 0x27;
const DIVIDE_REGISTER: u8 = 0x3f;
const JUMP_IF_EQUAL: u8 = 0x1d;
/// Signed: times may be before the machine's start.
const JUMP_IF_GREATER: u8 = 0x6d;
const JUMP_IF_NOT_LESS: u8 = 0x7d;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;

const KTIME_GET_NS: i32 = 5;
/// In the second half of the registers: the number is a map's descriptor, and what is loaded the address of its first value.
const VALUE_OF_MAP: u8 = 2;

/// Of `__sk_buff`. The length is with the headers of each segment, as a queue counts.
const TSTAMP: i16 = 152;
const WIRE_LEN: i16 = 160;
/// The next filter decides.
const NEXT: i32 = -1;

/// How often two processors may be at it at once; whoever loses as often as this is let go at its time all the same, and counted.
const ATTEMPTS: usize = 4;

/// A 64-bit number is two instructions.
fn load(register: u8, source: u8, low: u32, high: u32) -> [Instruction; 2] {
    [op(LOAD_NUMBER, register, source, 0, low.cast_signed()), op(0, 0, 0, 0, high.cast_signed())]
}

fn load_number(register: u8, number: u64) -> [Instruction; 2] {
    load(register, 0, number as u32, (number >> 32) as u32)
}

/// Where an instruction goes on: known when all are there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Label {
    Leave,
    Never,
}

fn program(times: &Departures, map: u32) -> Vec<Instruction> {
    let mut all = vec![
        op(MOVE_REGISTER, PACKET, FIRST, 0, 0),
        op(CALL, 0, 0, 0, KTIME_GET_NS),
        op(MOVE_REGISTER, NOW, RESULT, 0, 0),
        op(LOAD_WORD, TIME, PACKET, WIRE_LEN, 0),
        op(MULTIPLY_NUMBER, TIME, 0, 0, NS_PER_S as i32),
    ];
    all.extend(load_number(FIRST, times.bytes_per_s.max(1)));
    all.push(op(DIVIDE_REGISTER, TIME, FIRST, 0, 0));
    all.extend(load(STATE, VALUE_OF_MAP, map, 0));
    let mut jumps = Vec::new();
    for attempt in 1..=ATTEMPTS {
        // When it may leave: after all before it, or what is left of the burst ago.
        all.push(op(LOAD_LONG, RESULT, STATE, 0, 0));
        all.push(op(MOVE_REGISTER, OLD, RESULT, 0, 0));
        all.push(op(MOVE_REGISTER, SECOND, NOW, 0, 0));
        all.extend(load_number(UNTIL, times.burst_ns));
        all.push(op(SUBTRACT_REGISTER, SECOND, UNTIL, 0, 0));
        all.push(op(MOVE_REGISTER, FIRST, OLD, 0, 0));
        all.push(op(JUMP_IF_NOT_LESS, FIRST, SECOND, 1, 0));
        all.push(op(MOVE_REGISTER, FIRST, SECOND, 0, 0));
        // How far ahead all is then.
        all.push(op(MOVE_REGISTER, UNTIL, FIRST, 0, 0));
        all.push(op(ADD_REGISTER, UNTIL, TIME, 0, 0));
        all.push(op(MOVE_REGISTER, AHEAD, UNTIL, 0, 0));
        all.push(op(SUBTRACT_REGISTER, AHEAD, NOW, 0, 0));
        all.extend(load_number(SECOND, times.wait_ns));
        jumps.push((all.len(), Label::Never));
        all.push(op(JUMP_IF_GREATER, AHEAD, SECOND, 0, 0));
        if attempt < ATTEMPTS {
            all.push(op(ATOMIC_LONG, STATE, UNTIL, 0, COMPARE_EXCHANGE));
            jumps.push((all.len(), Label::Leave));
            all.push(op(JUMP_IF_EQUAL, RESULT, OLD, 0, 0));
        } else {
            all.push(op(ATOMIC_LONG, STATE, TIME, 0, ATOMIC_ADD));
        }
    }
    let leave = all.len();
    match times.earlier {
        Earlier::Kept => {
            all.push(op(JUMP_IF_NOT_LESS, NOW, FIRST, 3, 0));
            all.push(op(LOAD_LONG, SECOND, PACKET, TSTAMP, 0));
            all.push(op(JUMP_IF_NOT_LESS, SECOND, FIRST, 1, 0));
        }
        // No time at all is at once.
        Earlier::Forgotten => {
            all.push(op(JUMP_IF_GREATER, FIRST, NOW, 1, 0));
            all.push(op(MOVE_NUMBER, FIRST, 0, 0, 0));
        }
    }
    all.push(op(STORE_LONG, PACKET, FIRST, TSTAMP, 0));
    all.push(op(MOVE_NUMBER, RESULT, 0, 0, NEXT));
    all.push(op(EXIT, 0, 0, 0, 0));
    let never = all.len();
    all.extend(load_number(FIRST, times.never_ns));
    all.push(op(ADD_REGISTER, FIRST, NOW, 0, 0));
    all.push(op(STORE_LONG, PACKET, FIRST, TSTAMP, 0));
    all.push(op(MOVE_NUMBER, RESULT, 0, 0, NEXT));
    all.push(op(EXIT, 0, 0, 0, 0));
    for (at, label) in jumps {
        let to = if label == Label::Leave { leave } else { never };
        all[at].offset = (to - at - 1) as i16;
    }
    all
}

/// Loads it; whoever holds it holds its map, too.
pub fn open(times: &Departures) -> io::Result<OwnedFd> {
    let map = MapCreate { map_type: TYPE_ARRAY, key_size: 4, value_size: 8, max_entries: 1, ..MapCreate::default() };
    let fd = bpf(MAP_CREATE, &map)?;
    // SAFETY: the kernel has just returned this descriptor, and nobody else knows of it.
    let map = unsafe { OwnedFd::from_raw_fd(fd) };
    let program = program(times, number(map.as_raw_fd())?);
    let mut name = [0; 16];
    name[..PROGRAM_DEPARTURE.len()].copy_from_slice(PROGRAM_DEPARTURE.as_bytes());
    load_program(TYPE_SCHED_CLS, 0, &name, &program)
}

/// A part of the kernel's `bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}
