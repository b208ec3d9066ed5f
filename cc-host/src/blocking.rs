//! Work that blocks for microseconds, from async code: on the thread that asks, whose other tasks go to another one meanwhile. To hand it
//! to another thread and to be woken takes longer than most of it. Refuses to say what may take how long.

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::{block_in_place, spawn_blocking};

/// `work` does not panic.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::CurrentThread => spawn_blocking(work).await.expect("blocking work does not panic"),
        _ => block_in_place(work),
    }
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn on_one_thread() {
        assert_eq!(super::run(|| 7).await, 7);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn on_several() {
        assert_eq!(super::run(|| 7).await, 7);
    }
}
