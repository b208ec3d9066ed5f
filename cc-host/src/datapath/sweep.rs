//! Runs the programs that no packet runs: the sweep, which forgets flows, and what takes an endpoint's share back. Refuses to touch a
//! flow itself: only a program can do it without losing one that a packet uses at that moment.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use cc_common::limits::{ENDPOINTS_MAX, FLOWS_GUARANTEED, FLOWS_POOL, HALF_OPEN_PER_ENDPOINT};
use cc_common::names::{self, PIN_PROGRAMS_DIR};
use cc_common::settings::Timeouts;

use super::Datapath;
use super::error::DatapathError;

/// As short as the kernel takes.
const NO_PACKET: [u8; 14] = [0; 14];
/// `struct __sk_buff`, and the mark and the control block in it.
const CONTEXT_BYTES: usize = 192;
const MARK_AT: usize = 8;
const CONTROL_AT: usize = 48;

/// Between two sweeps, and so how precise the shortest timeout is.
const REST_MIN: Duration = Duration::from_secs(1);
const REST_MAX: Duration = Duration::from_secs(5);
/// A sweep looks at the whole table, however few flows are there: it may have one two-hundredth of a CPU.
const REST_PER_WORK: u32 = 199;
/// Flows beyond everybody's own share from which on there is more to do than to save time: less than one endpoint has that is at its limit
/// of half-open ones, and waits for them to go.
const BUSY: u64 = FLOWS_POOL as u64 / 256;
const _: () = assert!(BUSY < HALF_OPEN_PER_ENDPOINT as u64 - FLOWS_GUARANTEED as u64);

/// The program by a handle of its own: who attaches a container does not wait for a sweep.
pub struct Sweeper(Mutex<SchedClassifier>);

/// What one sweep was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Swept {
    pub forgotten: u32,
    pub took: Duration,
    /// Flows beyond their endpoints' own shares, when it was over.
    pub pooled: u64,
}

impl Sweeper {
    pub(super) fn open(pin_dir: &Path) -> Result<Self, DatapathError> {
        let path = pin_dir.join(PIN_PROGRAMS_DIR).join(names::PROGRAM_SWEEP);
        let failed = |source| DatapathError::Program { name: names::PROGRAM_SWEEP, source };
        Ok(Sweeper(Mutex::new(SchedClassifier::from_pin(path).map_err(failed)?)))
    }
}

impl Datapath {
    /// Forgets the flows that nobody has used since they were marked, and marks those that have had their time: a flow goes at the
    /// second sweep after its last packet's.
    pub fn sweep_flows(&self) -> Result<Swept, DatapathError> {
        let began = Instant::now();
        let forgotten = run(&self.sweeper.0.lock().unwrap_or_else(PoisonError::into_inner), 0, 0)?;
        Ok(Swept { forgotten, took: began.elapsed(), pooled: self.books.of(ENDPOINTS_MAX)?.flows })
    }
}

impl Swept {
    /// How long the next one can wait. Where a conversation is remembered for a few seconds only, not for as long as that. That of one
    /// that is over is left out: nobody counts on its end but for the room that it takes, which is what `pooled` tells.
    pub fn rest(&self, timeouts: &Timeouts) -> Duration {
        if self.pooled > BUSY {
            return REST_MIN;
        }
        let Timeouts { tcp_opening_ns, tcp_established_ns, tcp_closing_ns, tcp_over_ns: _, .. } = *timeouts;
        let Timeouts { udp_opening_ns, udp_established_ns, icmp_ns, other_opening_ns, other_established_ns, .. } =
            *timeouts;
        let tcp = [tcp_opening_ns, tcp_established_ns, tcp_closing_ns];
        let others = [udp_opening_ns, udp_established_ns, icmp_ns, other_opening_ns, other_established_ns];
        let shortest = tcp.into_iter().chain(others).min().unwrap_or_default();
        let most = REST_MAX.min(Duration::from_nanos(shortest / 2)).max(REST_MIN);
        (self.took * REST_PER_WORK).clamp(REST_MIN, most)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_little_to_do_rests() {
        let swept = |millis, pooled| Swept { forgotten: 0, took: Duration::from_millis(millis), pooled };
        let usual = Timeouts::DEFAULT;
        assert_eq!(swept(1, 0).rest(&usual), REST_MIN);
        assert_eq!(swept(20, 0).rest(&usual), Duration::from_millis(3_980));
        assert_eq!(swept(400, 0).rest(&usual), REST_MAX);
        assert_eq!(swept(400, BUSY + 1).rest(&usual), REST_MIN);
        let short = Timeouts { udp_opening_ns: 4_000_000_000, ..usual };
        assert_eq!(swept(400, 0).rest(&short), Duration::from_secs(2));
        let shortest = Timeouts { icmp_ns: 1_000_000_000, ..usual };
        assert_eq!(swept(400, 0).rest(&shortest), REST_MIN);
    }
}
