//! How a broker is, for whoever asks: written by its threads, read by the front ends' gate, `/stats` and the metrics.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use parking_lot::Mutex;

use crate::written::Written;

/// Bounds of the buckets of publish times, in milliseconds; one more is unbounded.
pub const PUBLISH_BOUNDS_MS: [u64; 12] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000, 30_000];

/// What a partition of a topic holds that the group has not passed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PartitionLag {
    /// The topic.
    pub topic: String,
    /// The partition's number.
    pub partition: i32,
    /// Records.
    pub records: u64,
}

/// What a broker said of itself when it was last asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// The numbers and addresses of the nodes it knows of.
    pub nodes: Vec<(i32, String)>,
    /// Those of our topics that are there.
    pub topics: Vec<String>,
    /// How long the answer took.
    pub took: Duration,
}

/// A broker at this moment.
#[derive(Debug, Default)]
pub struct SideStatus {
    /// Its name in settings and metrics.
    pub name: String,
    /// What is said of it as long as nothing is known.
    unknown: String,
    /// Whether its breaker is open: it counts as out of reach.
    open: AtomicBool,
    /// Its breaker lets tries through.
    pub half_open: AtomicBool,
    /// Messages handed to its client.
    pub published: AtomicU64,
    /// Messages it acknowledged.
    pub acknowledged: AtomicU64,
    /// Publishes tried again.
    pub retries: AtomicU64,
    /// Messages it refuses for ever.
    pub rejected: AtomicU64,
    /// Messages it missed while it was out of reach (composite, best-effort, no outbox).
    pub missed: AtomicU64,
    /// Messages handed to its client and not acknowledged.
    pub in_flight: AtomicU64,
    /// Messages that came from it.
    pub consumed: AtomicU64,
    /// Of these, how many came again.
    pub redelivered: AtomicU64,
    /// Messages it holds that this group has not taken.
    pub lag: AtomicU64,
    /// The same by partition, where it has partitions: of those that this process reads, in order.
    pub partition_lags: Mutex<Vec<PartitionLag>>,
    /// A sample of publishes by how long the acknowledgement took; bounds in [`PUBLISH_BOUNDS_MS`].
    pub publish_buckets: [AtomicU64; PUBLISH_BOUNDS_MS.len() + 1],
    /// Nanoseconds of all of them.
    pub publish_nanoseconds: AtomicU64,
    /// What its client has written, where that says so.
    pub written: Written,
    /// What it said of itself, where it says such things.
    pub told: Mutex<Told>,
    /// What is in the way, with the setting to look at.
    trouble: Mutex<Option<String>>,
    /// Why it refused a message for ever, when it last did.
    refusal: Mutex<Option<String>>,
}

impl SideStatus {
    /// A broker of which nothing is known: out of reach until it has answered.
    pub fn new(name: &str) -> Self {
        Self::at(name, "not reached yet")
    }

    /// The same, of one whose place is known: the setting that names it, and its address.
    pub fn at(name: &str, unknown: &str) -> Self {
        let status = Self { name: name.to_owned(), unknown: unknown.to_owned(), ..Self::default() };
        status.open.store(true, Relaxed);
        *status.trouble.lock() = Some(unknown.to_owned());
        status
    }

    /// Whether it counts as out of reach.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.open.load(Relaxed)
    }

    pub(crate) fn set_open(&self, open: bool) {
        self.open.store(open, Relaxed);
    }

    /// Whether it has answered, or not answering was noticed.
    pub fn is_known(&self) -> bool {
        !self.is_open() || self.trouble.lock().as_deref() != Some(self.unknown.as_str())
    }

    /// What is in the way.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    /// Why it refused a message for ever, when it last did.
    pub fn last_refusal(&self) -> Option<String> {
        self.refusal.lock().clone()
    }

    /// It goes without a message that another side has.
    pub(crate) fn note_missed(&self) {
        self.missed.fetch_add(1, Relaxed);
    }

    /// It refuses a message for ever.
    pub(crate) fn note_refusal(&self, why: &str) {
        self.rejected.fetch_add(1, Relaxed);
        *self.refusal.lock() = Some(why.to_owned());
    }

    /// Notes what is in the way; logs it when it is news.
    pub fn set_trouble(&self, trouble: Option<String>) {
        let mut known = self.trouble.lock();
        if *known != trouble {
            match &trouble {
                Some(why) if known.is_none() => {
                    tracing::warn!(broker = self.name, why, "trouble with a broker; trying on");
                }
                Some(why) => tracing::debug!(broker = self.name, why, "more trouble"),
                None => tracing::info!(broker = self.name, "the broker answers"),
            }
            *known = trouble;
        }
    }

    /// A message was acknowledged; `took` is known of a sample.
    pub(crate) fn note_acknowledged(&self, took: Option<Duration>) {
        self.acknowledged.fetch_add(1, Relaxed);
        let Some(took) = took else { return };
        let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let bucket =
            PUBLISH_BOUNDS_MS.iter().position(|bound| ms <= *bound).unwrap_or(PUBLISH_BOUNDS_MS.len());
        self.publish_buckets[bucket].fetch_add(1, Relaxed);
        self.publish_nanoseconds.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }
}
