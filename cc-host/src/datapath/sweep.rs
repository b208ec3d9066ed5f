//! Runs the programs that no packet runs: the sweep, which forgets flows, and what takes an endpoint's share back. Refuses to touch a
//! flow itself: only a program can do it without losing one that a packet uses at that moment.

use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use cc_common::names;

use super::error::DatapathError;

/// As short as the kernel takes.
const NO_PACKET: [u8; 14] = [0; 14];
/// `struct __sk_buff`, and the mark and the control block in it.
const CONTEXT_BYTES: usize = 192;
const MARK_AT: usize = 8;
const CONTROL_AT: usize = 48;

/// Forgets the flows that nobody has used since they were marked, and marks those that have had their time. Returns how many it forgot.
pub fn sweep(program: &SchedClassifier) -> Result<u32, DatapathError> {
    run(program, 0, 0)
}

/// The endpoint has gone: its books are closed, and what it held of the pool is everybody's again.
pub fn retire(program: &SchedClassifier, endpoint: u32, generation: u64) -> Result<(), DatapathError> {
    run(program, endpoint + 1, generation).map(drop)
}

fn run(program: &SchedClassifier, mark: u32, control: u64) -> Result<u32, DatapathError> {
    let mut context = [0; CONTEXT_BYTES];
    context[MARK_AT..][..4].copy_from_slice(&mark.to_ne_bytes());
    context[CONTROL_AT..][..8].copy_from_slice(&control.to_ne_bytes());
    let options = TestRunOptions { data_in: Some(&NO_PACKET), ctx_in: Some(&context), ..TestRunOptions::new() };
    let result =
        program.test_run(options).map_err(|source| DatapathError::Run { name: names::PROGRAM_SWEEP, source })?;
    Ok(result.return_value)
}
