//! The kernel's classic BPF, as far as filters of system calls use it, for tests. Refuses what the kernel would refuse: instructions that
//! it does not have, loads and jumps to where there is nothing.

use crate::shim::filter::Instruction;

/// As the kernel shows a call to a filter.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    pub number: u32,
    pub architecture: u32,
    pub arguments: [u64; 6],
}

/// What the filter returned, after how many instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ran {
    pub value: u32,
    pub instructions: usize,
}

/// # Panics
/// At a program that the kernel would not have taken.
pub fn run(program: &[Instruction], call: &Call) -> Ran {
    let (mut at, mut instructions, mut accumulator) = (0_usize, 0, 0_u32);
    loop {
        let Instruction { code, jt, jf, k } = *program.get(at).expect("it stays within the program");
        instructions += 1;
        at += 1;
        let jump = |condition: bool| at + usize::from(if condition { jt } else { jf });
        match code {
            0x20 => accumulator = word(call, k),
            0x54 => accumulator &= k,
            0x05 => at += k as usize,
            0x15 => at = jump(accumulator == k),
            0x25 => at = jump(accumulator > k),
            0x35 => at = jump(accumulator >= k),
            0x45 => at = jump(accumulator & k != 0),
            0x06 => return Ran { value: k, instructions },
            other => panic!("no filter has instruction {other:#x}"),
        }
    }
}

fn word(call: &Call, offset: u32) -> u32 {
    let argument = |index: u32| call.arguments[index as usize];
    match offset {
        0 => call.number,
        4 => call.architecture,
        // The instruction pointer, which no filter of ours looks at.
        8 | 12 => 0,
        16..64 if offset.is_multiple_of(8) => argument((offset - 16) / 8) as u32,
        20..64 if (offset - 4).is_multiple_of(8) => (argument((offset - 16) / 8) >> 32) as u32,
        _ => panic!("there is nothing at offset {offset}"),
    }
}
