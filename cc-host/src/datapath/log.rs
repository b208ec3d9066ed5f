//! Hands the kernel programs' log records to the daemon's log. Refuses to choose their level: that is fixed when the programs
//! are loaded.

use std::io;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::object::Logger;

/// Runs until the task is dropped. The records go through the `log` crate, which `tracing-subscriber` listens to.
pub async fn forward_log(logger: Logger) -> io::Result<()> {
    // SAFETY: the logger owns its ring buffer's descriptor, always names the same one, and moves into the registration,
    // which outlives every use of it here.
    let mut logger = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) }?;
    loop {
        let mut guard = logger.readable_mut().await?;
        guard.get_inner_mut().flush();
        guard.clear_ready();
    }
}
