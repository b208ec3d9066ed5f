//! Who has figures, in the order in which they are asked. Refuses to know what any of them means.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Semaphore;
use tokio::task::JoinError;

use super::encoder::Encoder;
use super::family::{Family, Kind};
use super::limits::{REST_WITHIN, SCRAPES_MAX, SERIES_MAX};
use crate::auth::Scope;

/// What a room hands in to have its figures scraped.
pub trait Collect: Send + Sync {
    /// All that `collect` may write.
    fn families(&self) -> &'static [&'static Family];

    /// Reads the figures and adds them. Called on a thread that may block, within a tokio runtime; holds no lock while it
    /// reads files or waits.
    fn collect(&self, out: &mut Encoder);
}

static TRUNCATED: Family = Family::of_scrape(
    "cc_scrape_truncated",
    "1 when this scrape left out containers because it would have too many series, else 0.",
);
static TRUNCATIONS: Family =
    Family::of_host(Kind::Counter, "cc_scrapes_truncated_total", "Scrapes that left out containers.", &[]);
static FAILURES: Family = Family::of_host(
    Kind::Counter,
    "cc_scrape_failures_total",
    "Times that figures could not be read and were left out of a scrape.",
    &[],
);
static OWN: [&Family; 3] = [&TRUNCATED, &TRUNCATIONS, &FAILURES];

pub struct Registry {
    collectors: Vec<Arc<dyn Collect>>,
    series_max: usize,
    scrapes: Arc<Semaphore>,
    truncations: AtomicU64,
    failures: AtomicU64,
}

impl Default for Registry {
    fn default() -> Self {
        Registry {
            collectors: Vec::new(),
            series_max: SERIES_MAX,
            scrapes: Arc::new(Semaphore::new(SCRAPES_MAX)),
            truncations: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        }
    }
}

impl Registry {
    /// Whoever comes first has room first: few series before many.
    #[must_use]
    pub fn with(mut self, collector: Arc<dyn Collect>) -> Self {
        for family in collector.families() {
            debug_assert_eq!(family.fault(), None, "{}", family.name);
            debug_assert!(self.families().all(|other| other.name != family.name), "{} is there twice", family.name);
        }
        self.collectors.push(collector);
        self
    }

    /// The text of a scrape, once it is its turn. Fails when a collector panics.
    pub async fn scrape(self: &Arc<Self>, scope: Scope) -> Result<String, JoinError> {
        let permit = Arc::clone(&self.scrapes).acquire_owned().await.expect("the semaphore is never closed");
        let registry = Arc::clone(self);
        let scraped = tokio::task::spawn_blocking(move || {
            // Held by the one who works: a client that hangs up does not make room for another scrape.
            let _permit = permit;
            registry.collect(scope)
        });
        scraped.await
    }

    /// Waits for the scrapes that are being read, which need the runtime until their end. Nobody may ask for more.
    pub async fn rest(&self) {
        let all = u32::try_from(SCRAPES_MAX).expect("a small constant");
        if tokio::time::timeout(REST_WITHIN, self.scrapes.acquire_many(all)).await.is_err() {
            tracing::warn!("a scrape is still being read");
        }
    }

    fn collect(&self, scope: Scope) -> String {
        let mut out = Encoder::new(scope, self.series_max);
        self.families().for_each(|family| out.declare(family));
        self.collectors.iter().for_each(|collector| collector.collect(&mut out));
        let truncated = u64::from(out.truncated());
        let truncations = self.truncations.fetch_add(truncated, Ordering::Relaxed) + truncated;
        let failures = self.failures.fetch_add(out.failures(), Ordering::Relaxed) + out.failures();
        out.make_room(OWN.len());
        out.add(&TRUNCATED, &[], truncated as f64);
        out.add(&TRUNCATIONS, &[], truncations as f64);
        out.add(&FAILURES, &[], failures as f64);
        out.finish()
    }

    fn families(&self) -> impl Iterator<Item = &'static Family> {
        self.collectors.iter().flat_map(|collector| collector.families()).chain(&OWN).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Name;

    static THINGS: Family = Family::of_projects(Kind::Gauge, "cc_things", "Things.", &["project", "name"]);

    struct Things(usize);

    impl Collect for Things {
        fn families(&self) -> &'static [&'static Family] {
            static ALL: [&Family; 1] = [&THINGS];
            &ALL
        }
        fn collect(&self, out: &mut Encoder) {
            for n in 0..self.0 {
                out.add(&THINGS, &["red", &n.to_string()], n as f64);
            }
            out.failed("a thing", &std::io::Error::other("it is not there"));
        }
    }

    #[test]
    fn a_scrape_says_when_it_is_not_all() {
        let registry = Registry { series_max: 3, ..Registry::default() }.with(Arc::new(Things(3)));
        let text = registry.collect(Scope::Host);
        assert!(text.contains("name=\"2\"} 2\n"), "{text}");
        assert!(
            text.contains("\ncc_scrape_truncated 0\n") && text.contains("\ncc_scrapes_truncated_total 0\n"),
            "{text}"
        );

        let registry = Registry { series_max: 3, ..Registry::default() }.with(Arc::new(Things(4)));
        let red = registry.collect(Scope::Project(Name::parse("red").unwrap()));
        assert!(red.contains("\ncc_scrape_truncated 1\n"), "{red}");
        assert!(!red.contains("name=\"3\"") && !red.contains("cc_scrapes_truncated_total"), "{red}");
        let text = registry.collect(Scope::Host);
        assert!(text.contains("\ncc_scrapes_truncated_total 2\n"), "{text}");
        assert!(text.contains("\ncc_scrape_failures_total 2\n"), "{text}");
    }

    /// Says that it has begun, and waits to be let go.
    struct Slow(std::sync::mpsc::Sender<()>, std::sync::Mutex<std::sync::mpsc::Receiver<()>>);

    impl Collect for Slow {
        fn families(&self) -> &'static [&'static Family] {
            &[]
        }
        fn collect(&self, _: &mut Encoder) {
            self.0.send(()).unwrap();
            self.1.lock().unwrap().recv().unwrap();
        }
    }

    #[tokio::test]
    async fn a_stop_waits_for_scrapes_whoever_hung_up() {
        use futures::FutureExt as _;
        let (begun, has_begun) = std::sync::mpsc::channel();
        let (let_go, go) = std::sync::mpsc::channel();
        let registry = Arc::new(Registry::default().with(Arc::new(Slow(begun, std::sync::Mutex::new(go)))));
        assert!(registry.scrape(Scope::Host).now_or_never().is_none(), "its client is gone at once");
        has_begun.recv().unwrap();
        let rest = registry.rest();
        tokio::pin!(rest);
        assert!(rest.as_mut().now_or_never().is_none());
        let_go.send(()).unwrap();
        rest.await;
        assert_eq!(registry.scrapes.available_permits(), SCRAPES_MAX);
    }

    #[cfg(debug_assertions)]
    #[test]
    #[should_panic(expected = "there twice")]
    fn two_rooms_cannot_have_one_family() {
        let _registry = Registry::default().with(Arc::new(Things(1))).with(Arc::new(Things(1)));
    }

    #[test]
    fn its_own_families_keep_the_conventions() {
        for family in OWN {
            assert_eq!(family.fault(), None, "{}", family.name);
        }
    }
}
