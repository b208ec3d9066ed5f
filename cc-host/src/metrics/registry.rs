//! Who has figures, in the order in which they are asked. Refuses to know what any of them means.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::encoder::Encoder;
use super::family::{Family, Kind};
use super::limits::SERIES_MAX;
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
    truncations: AtomicU64,
    failures: AtomicU64,
}

impl Default for Registry {
    fn default() -> Self {
        Registry {
            collectors: Vec::new(),
            series_max: SERIES_MAX,
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

    /// The text of a scrape. Blocks.
    pub fn scrape(&self, scope: Scope) -> String {
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
        let text = registry.scrape(Scope::Host);
        assert!(text.contains("name=\"2\"} 2\n"), "{text}");
        assert!(
            text.contains("\ncc_scrape_truncated 0\n") && text.contains("\ncc_scrapes_truncated_total 0\n"),
            "{text}"
        );

        let registry = Registry { series_max: 3, ..Registry::default() }.with(Arc::new(Things(4)));
        let red = registry.scrape(Scope::Project(Name::parse("red").unwrap()));
        assert!(red.contains("\ncc_scrape_truncated 1\n"), "{red}");
        assert!(!red.contains("name=\"3\"") && !red.contains("cc_scrapes_truncated_total"), "{red}");
        let text = registry.scrape(Scope::Host);
        assert!(text.contains("\ncc_scrapes_truncated_total 2\n"), "{text}");
        assert!(text.contains("\ncc_scrape_failures_total 2\n"), "{text}");
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
