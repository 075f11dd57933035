//! What a core tells about its work: counters and histograms with one writer each, read by anyone.
//!
//! A core counts in plain integers of its own and copies them out once per turn with relaxed stores: no
//! read-modify-write, no shared line per message. A reader may see a turn half copied; each number by
//! itself is right and never goes back.

use std::iter::Sum;
use std::ops::AddAssign;
// Not the loom shim's: nothing is ordered by these numbers.
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossbeam_utils::CachePadded;

macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// A core's numbers at one moment, or the sum of several cores'.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Snapshot { $($(#[$doc])* pub $name: u64,)+ }

        #[derive(Debug, Default)]
        struct Cells { $($name: AtomicU64,)+ }

        impl Cells {
            fn store(&self, numbers: &Snapshot) { $(self.$name.store(numbers.$name, Relaxed);)+ }
            fn load(&self) -> Snapshot { Snapshot { $($name: self.$name.load(Relaxed),)+ } }
        }

        impl AddAssign for Snapshot {
            fn add_assign(&mut self, other: Self) { $(self.$name += other.$name;)+ }
        }
    };
}

numbers! {
    /// Messages taken into the slab.
    accepted,
    /// Messages that this core's sink completed as processed.
    processed,
    /// Messages that this core's sink completed as failed.
    failed,
    /// Messages refused because every slot was in use.
    refused_full,
    /// Messages refused because the byte budget was used up.
    refused_budget,
    /// Bytes of the accepted messages: id, source, metadata and payload.
    bytes_accepted,
    /// Batches of which the sink took at least one message.
    batches,
    /// Messages in this core's slab now: accepted and not yet completed.
    queue_depth,
    /// Time spent in the sink's `submit`, from a sample of the batches.
    busy_nanoseconds,
}

impl Sum for Snapshot {
    fn sum<I: Iterator<Item = Self>>(snapshots: I) -> Self {
        snapshots.fold(Self::default(), |mut sum, snapshot| {
            sum += snapshot;
            sum
        })
    }
}

/// The writing side of one core's numbers.
#[derive(Debug)]
pub(crate) struct CounterWriter {
    cells: Arc<CachePadded<Cells>>,
}

/// The reading side of one core's numbers.
#[derive(Clone, Debug)]
pub struct CounterReader {
    cells: Arc<CachePadded<Cells>>,
}

pub(crate) fn counters() -> (CounterWriter, CounterReader) {
    let cells = Arc::new(CachePadded::new(Cells::default()));
    (CounterWriter { cells: Arc::clone(&cells) }, CounterReader { cells })
}

impl CounterWriter {
    #[inline]
    pub(crate) fn publish(&mut self, numbers: &Snapshot) {
        self.cells.store(numbers);
    }
}

impl CounterReader {
    /// The numbers as the core last published them; `readers.iter().map(CounterReader::snapshot).sum()`
    /// for all cores.
    pub fn snapshot(&self) -> Snapshot {
        self.cells.load()
    }
}

/// The buckets of one core's histogram; the last one is for what is above every bound.
#[derive(Debug)]
struct Buckets {
    bounds_seconds: &'static [f64],
    counts: Box<[AtomicU64]>,
    /// The bits of an `f64`.
    sum_seconds: AtomicU64,
}

/// The writing side of one core's histogram.
#[derive(Debug)]
pub struct HistogramWriter {
    buckets: Arc<CachePadded<Buckets>>,
}

/// The reading side of one core's histogram.
#[derive(Clone, Debug)]
pub struct HistogramReader {
    buckets: Arc<CachePadded<Buckets>>,
}

/// A histogram with these upper bounds (inclusive, in seconds), for one writing core.
///
/// # Panics
/// When the bounds do not grow.
pub fn histogram(bounds_seconds: &'static [f64]) -> (HistogramWriter, HistogramReader) {
    assert!(bounds_seconds.is_sorted_by(|a, b| a < b), "a histogram's bounds grow");
    // A line of slack, so that the counts of two cores do not meet on one.
    let mut counts = Vec::with_capacity(bounds_seconds.len() + 1 + 16);
    counts.resize_with(bounds_seconds.len() + 1, AtomicU64::default);
    let counts = counts.into();
    let buckets = Buckets { bounds_seconds, counts, sum_seconds: AtomicU64::new(0) };
    let buckets = Arc::new(CachePadded::new(buckets));
    (HistogramWriter { buckets: Arc::clone(&buckets) }, HistogramReader { buckets })
}

impl HistogramWriter {
    /// Records `count` observations of `value_seconds` each.
    #[inline]
    pub fn observe(&mut self, value_seconds: f64, count: u64) {
        let buckets = &self.buckets;
        let bucket = buckets.bounds_seconds.partition_point(|bound| *bound < value_seconds);
        // Load and store suffice: this is the only writer.
        let cell = &buckets.counts[bucket];
        cell.store(cell.load(Relaxed) + count, Relaxed);
        let sum = f64::from_bits(buckets.sum_seconds.load(Relaxed)) + value_seconds * count as f64;
        buckets.sum_seconds.store(sum.to_bits(), Relaxed);
    }
}

impl HistogramReader {
    /// The counts as they are now.
    pub fn snapshot(&self) -> HistogramSnapshot {
        let counts: Vec<u64> = self.buckets.counts.iter().map(|count| count.load(Relaxed)).collect();
        HistogramSnapshot {
            bounds_seconds: self.buckets.bounds_seconds,
            count: counts.iter().sum(),
            counts,
            sum_seconds: f64::from_bits(self.buckets.sum_seconds.load(Relaxed)),
        }
    }
}

/// A histogram at one moment, or the sum of several cores'.
#[derive(Clone, Debug, PartialEq)]
pub struct HistogramSnapshot {
    /// Upper bounds of all buckets but the last.
    pub bounds_seconds: &'static [f64],
    /// Observations per bucket, not cumulative; one more than there are bounds.
    pub counts: Vec<u64>,
    /// Sum of all observed values.
    pub sum_seconds: f64,
    /// Number of observations.
    pub count: u64,
}

impl HistogramSnapshot {
    /// Adds another core's.
    ///
    /// # Panics
    /// When the bounds differ.
    pub fn merge(&mut self, other: &Self) {
        assert_eq!(self.bounds_seconds, other.bounds_seconds, "only histograms with the same bounds merge");
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, more)| *count += more);
        self.sum_seconds += other.sum_seconds;
        self.count += other.count;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_seen_once_published_and_add_up_over_cores() {
        let (mut writer, reader) = counters();
        let numbers = Snapshot { accepted: 3, queue_depth: 2, ..Snapshot::default() };
        assert_eq!(reader.snapshot(), Snapshot::default());
        writer.publish(&numbers);
        assert_eq!(reader.snapshot(), numbers);
        let sum: Snapshot = [&reader, &reader].into_iter().map(CounterReader::snapshot).sum();
        assert_eq!((sum.accepted, sum.queue_depth, sum.failed), (6, 4, 0));
    }

    #[test]
    fn a_value_on_a_bound_belongs_to_that_bucket() {
        let (mut writer, reader) = histogram(&[0.001, 0.01]);
        writer.observe(0.001, 2);
        writer.observe(0.005, 1);
        writer.observe(5.0, 1);
        let snapshot = reader.snapshot();
        assert_eq!((snapshot.counts.as_slice(), snapshot.count), (&[2, 1, 1][..], 4));
        assert!((snapshot.sum_seconds - 5.007).abs() < 1e-9);
    }

    #[test]
    fn histograms_of_two_cores_merge() {
        let (mut writer, reader) = histogram(&[1.0]);
        writer.observe(0.5, 4);
        let mut sum = reader.snapshot();
        sum.merge(&reader.snapshot());
        assert_eq!((sum.counts, sum.count, sum.sum_seconds), (vec![8, 0], 8, 4.0));
    }

    #[test]
    #[should_panic(expected = "bounds grow")]
    fn bounds_that_do_not_grow_are_refused() {
        let _ = histogram(&[1.0, 1.0]);
    }
}
