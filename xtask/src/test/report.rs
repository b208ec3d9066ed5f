//! What a run of the tests came to. Refuses to decide what is run.

use std::time::Instant;

use anyhow::Result;

use crate::tally::{Outcome, Tally};

/// What was run, what it came to, and what went wrong, in the order in which it happened.
#[derive(Default)]
pub struct Report {
    pub tally: Tally,
    pub failures: Vec<String>,
    /// What took how many minutes.
    pub laps: Vec<String>,
}

impl Report {
    pub fn lap<T>(&mut self, name: &str, step: impl FnOnce(&mut Report) -> T) -> T {
        let began = Instant::now();
        let done = step(self);
        self.laps.push(format!("{name} {:.1}", began.elapsed().as_secs_f64() / 60.0));
        done
    }

    pub fn add(&mut self, other: Report) {
        self.tally += other.tally;
        self.failures.extend(other.failures);
        self.laps.extend(other.laps);
    }

    pub fn step(&mut self, name: &str, done: Result<()>) {
        if let Err(error) = done {
            eprintln!("xtask: {name}: {error:#}");
            self.failures.push(name.to_owned());
        }
    }

    pub fn emulated(&mut self, (tally, failures): (Tally, Vec<String>)) {
        self.tally += tally;
        self.failures.extend(failures);
    }

    pub fn tests(&mut self, name: &str, done: Result<Outcome>) {
        match done {
            Ok(outcome) => {
                self.tally += outcome.tally;
                if !outcome.success {
                    self.failures.push(name.to_owned());
                }
            }
            Err(error) => self.step(name, Err(error)),
        }
    }
}
