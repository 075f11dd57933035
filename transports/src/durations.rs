//! How long things took, counted twice: in the bounds that older dashboards know, and in exponential buckets, from which a
//! quantile can be read to within a tenth.
//!
//! The exponential buckets are those of Prometheus' native histograms
//! (<https://prometheus.io/docs/specs/native_histograms/>): with schema 2 each is 2^¼ times the one before.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Upper bounds of the duration buckets in seconds: Prometheus' default, as the older dashboards expect, and below its first
/// bound as many more, as most answers take less than that.
pub const DURATION_BOUNDS: [f64; 17] = [
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0,
];

const BUCKETS: usize = DURATION_BOUNDS.len() + 1;

/// The schema of the exponential buckets: `2^SCHEMA` of them double a duration.
pub const FINE_SCHEMA: i32 = 2;
/// The powers of two between which they are, in seconds: 7.6 µs and 128 s.
const FINE_POWERS: std::ops::Range<i32> = -17..7;
const PER_DOUBLING: usize = 1 << FINE_SCHEMA;
/// How many there are: one for all that is shorter, and the last one is for all that is longer, too.
pub const FINE_BUCKETS: usize = 1 + (FINE_POWERS.end - FINE_POWERS.start) as usize * PER_DOUBLING;
/// The number of the second one among all that the schema has: its upper bound is `2^(FINE_INDEX/4)` s.
pub const FINE_INDEX: i32 = FINE_POWERS.start * PER_DOUBLING as i32 + 1;
/// The upper bound of the first one, in seconds.
pub const FINE_ZERO_SECONDS: f64 = 1.0 / (1_u64 << -FINE_POWERS.start) as f64;

/// Cells of one distribution: the buckets of both kinds, and the sum of nanoseconds.
pub(crate) const CELLS: usize = BUCKETS + FINE_BUCKETS + 1;

/// A distribution of durations, merged over cores.
#[derive(Clone, Debug)]
pub struct Durations {
    /// How many per bucket of [`DURATION_BOUNDS`], not cumulative, the last for anything longer.
    pub buckets: [u64; BUCKETS],
    /// The same by exponential buckets.
    pub fine: [u64; FINE_BUCKETS],
    /// Sum in seconds.
    pub sum_seconds: f64,
}

impl Default for Durations {
    fn default() -> Self {
        Self { buckets: [0; BUCKETS], fine: [0; FINE_BUCKETS], sum_seconds: 0.0 }
    }
}

impl Durations {
    /// How many in all.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Adds one.
    pub fn add(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        self.buckets[bucket(seconds)] += 1;
        self.fine[fine_bucket(seconds)] += 1;
        self.sum_seconds += seconds;
    }

    /// Adds another distribution to this one.
    pub fn merge(&mut self, other: &Durations) {
        let mine = self.buckets.iter_mut().chain(&mut self.fine);
        for (mine, theirs) in mine.zip(other.buckets.iter().chain(&other.fine)) {
            *mine += theirs;
        }
        self.sum_seconds += other.sum_seconds;
    }

    /// Reads the distribution in these cells.
    pub(crate) fn read(cells: &[AtomicU64]) -> Self {
        let mut durations = Durations::default();
        let all = durations.buckets.iter_mut().chain(&mut durations.fine);
        for (bucket, cell) in all.zip(cells) {
            *bucket = cell.load(Relaxed);
        }
        durations.sum_seconds = cells[CELLS - 1].load(Relaxed) as f64 / 1e9;
        durations
    }
}

/// Adds `count` of `nanoseconds` each to the distribution in these cells; by their one writer.
pub(crate) fn observe(cells: &[AtomicU64], count: u64, nanoseconds: u64) {
    // One writer: no read-modify-write is needed.
    let add = |cell: &AtomicU64, count: u64| cell.store(cell.load(Relaxed).wrapping_add(count), Relaxed);
    let seconds = nanoseconds as f64 / 1e9;
    add(&cells[bucket(seconds)], count);
    add(&cells[BUCKETS + fine_bucket(seconds)], count);
    add(&cells[CELLS - 1], nanoseconds.saturating_mul(count));
}

fn bucket(seconds: f64) -> usize {
    DURATION_BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BUCKETS - 1)
}

/// The place of a duration among the exponential buckets. A bound belongs to the bucket below it.
fn fine_bucket(seconds: f64) -> usize {
    /// 2^0, 2^¼, 2^½ and 2^¾.
    const STEPS: [f64; PER_DOUBLING] =
        [1.0, 1.189_207_115_002_721, std::f64::consts::SQRT_2, 1.681_792_830_507_429];
    if seconds <= FINE_ZERO_SECONDS {
        return 0;
    }
    // A normal number is 1.f × 2^e.
    let bits = seconds.to_bits();
    let exponent = ((bits >> 52) & 0x7ff) as i32 - 1023;
    let fraction = f64::from_bits(bits & ((1 << 52) - 1) | 1023 << 52);
    let steps = STEPS.iter().filter(|step| fraction > **step).count() as i32;
    let place = (exponent - FINE_POWERS.start) * PER_DOUBLING as i32 + steps;
    usize::try_from(place).unwrap_or_default().min(FINE_BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_between_the_bounds_of_its_exponential_bucket() {
        let upper = |place: usize| 2_f64.powf((FINE_INDEX + place as i32 - 1) as f64 / 4.0);
        assert_eq!(upper(0), FINE_ZERO_SECONDS);
        assert_eq!(upper(FINE_BUCKETS - 1), 128.0);
        for nanoseconds in
            (0..43).map(|n| 3_u64 * 10_u64.pow(n / 4) + u64::from(n)).filter(|ns| *ns < 128_000_000_000)
        {
            let seconds = nanoseconds as f64 / 1e9;
            let place = fine_bucket(seconds);
            assert!(seconds <= upper(place), "{seconds} {place}");
            assert!(place == 0 || seconds > upper(place - 1), "{seconds} {place}");
        }
        for power in FINE_POWERS.start..=FINE_POWERS.end {
            let bound = 2_f64.powi(power);
            assert_eq!(upper(fine_bucket(bound)), bound);
        }
        assert_eq!((fine_bucket(0.0), fine_bucket(1e9)), (0, FINE_BUCKETS - 1));
    }
}
