//! A filter of system calls as it is handed to the shim: instructions of the kernel's classic BPF, a number each. Refuses to know what
//! they mean: the daemon has compiled them.

use serde::{Deserialize, Serialize};

use super::protocol::{FailureKind, StartFailure};
use super::sys;
use crate::mutation::{self, Control};

/// The kernel takes no more.
pub const INSTRUCTIONS_MAX: usize = 4096;

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// Of seccomp(2).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub flags: u32,
    pub program: Vec<Instruction>,
}

/// As the kernel has it; as a number: code, jt, jf and k, the highest bits first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "u64", into = "u64")]
pub struct Instruction {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

impl From<u64> for Instruction {
    fn from(number: u64) -> Self {
        let [c0, c1, jt, jf, k0, k1, k2, k3] = number.to_be_bytes();
        Instruction { code: u16::from_be_bytes([c0, c1]), jt, jf, k: u32::from_be_bytes([k0, k1, k2, k3]) }
    }
}

impl From<Instruction> for u64 {
    fn from(Instruction { code, jt, jf, k }: Instruction) -> Self {
        let ([c0, c1], [k0, k1, k2, k3]) = (code.to_be_bytes(), k.to_be_bytes());
        u64::from_be_bytes([c0, c1, jt, jf, k0, k1, k2, k3])
    }
}

impl Filter {
    /// For the calling thread and what it will run, for good.
    pub fn install(&self) -> Result<(), StartFailure> {
        if mutation::off(Control::Seccomp) {
            return Ok(());
        }
        sys::install_filter(self.flags, &self.program).map_err(|source| {
            StartFailure::new(FailureKind::Other, format!("cannot filter the program's system calls: {source}"))
        })
    }
}

fn is_zero(flags: &u32) -> bool {
    *flags == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instruction_is_a_number() {
        let one = Instruction { code: 0x15, jt: 1, jf: 2, k: 0xc000_003e };
        assert_eq!(u64::from(one), 0x0015_0102_c000_003e);
        assert_eq!(Instruction::from(u64::from(one)), one);
        let filter = Filter { flags: 0, program: vec![one] };
        let text = serde_json::to_string(&filter).unwrap();
        assert_eq!(text, format!("{{\"program\":[{}]}}", 0x0015_0102_c000_003e_u64));
        assert_eq!(serde_json::from_str::<Filter>(&text).unwrap(), filter);
    }
}
