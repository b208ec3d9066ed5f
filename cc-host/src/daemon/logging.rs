//! Logs of the daemon: structured, to standard error, filtered by `RUST_LOG`. Refuses to write files.

use std::io::{IsTerminal as _, stderr};

use tracing_subscriber::EnvFilter;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// Once per process. A panic anywhere is logged like everything else, so that it is not lost among lines of text.
pub fn init_logging(format: LogFormat) {
    let wanted = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(without_strangers(wanted))
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal());
    match format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!("{panic}\n{}", std::backtrace::Backtrace::capture());
    }));
}

/// The DNS library warns of malformed queries, and quotes them: containers would write our log, as much as they like.
fn without_strangers(filter: EnvFilter) -> EnvFilter {
    filter.add_directive("hickory_proto=off".parse().expect("a target and a level"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_malformed_query_is_not_logged() {
        let query =
            [&[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 1][..], &[0, 0, 41, 4, 0, 0, 0, 0, 0, 0, 2, 0, 10]];
        let logged = |adjust: fn(EnvFilter) -> EnvFilter| {
            let log = tempfile::NamedTempFile::new().unwrap();
            let file = Arc::new(log.reopen().unwrap());
            let filter = adjust(EnvFilter::new("debug"));
            let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(file).finish();
            tracing::subscriber::with_default(subscriber, || {
                hickory_proto::op::Message::from_vec(&query.concat()).expect("options are not looked at closely");
                tracing::warn!("from us");
            });
            std::fs::read_to_string(log.path()).unwrap()
        };
        assert!(logged(|filter| filter).contains("EDNS"), "the library warns of it");
        let log = logged(without_strangers);
        assert!(log.contains("from us") && !log.contains("EDNS"), "{log}");
    }
}
