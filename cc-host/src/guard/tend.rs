//! Keeps the guard's program on the host's uplinks, and off everything else. Refuses to decide whether it is wanted there.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::room::Guard;
use crate::error_chain;

/// How often it is looked whether uplinks came or went, and whether the program is still on them.
const INTERVAL: Duration = Duration::from_secs(2);

/// As long as the room is there.
pub(super) async fn tend(guard: Weak<Guard>) {
    let mut tick = tokio::time::interval(INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last_error = None;
    loop {
        tick.tick().await;
        let Some(guard): Option<Arc<Guard>> = guard.upgrade() else { return };
        let tended = guard.tend().await.map_err(|error| format!("{error}: {}", error_chain(&error)));
        // Told once, not every two seconds.
        match tended {
            Err(error) if last_error.as_ref() != Some(&error) => {
                guard.tell("guard.failed", &format!("the host's uplinks are not all guarded: {error}")).await;
                last_error = Some(error);
            }
            Err(_) => {}
            Ok(()) => last_error = None,
        }
    }
}
